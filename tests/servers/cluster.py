"""A Valkey cluster made by hand, so that failovers are fast and slots move when a test says so."""

from __future__ import annotations

import binascii
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import hiredis

from tests.servers.process import ServerProcess, launch_valkey
from tests.servers.server import free_port, wait_until

SLOTS = 16384
R = TypeVar("R")


def slot_of(key: str | bytes) -> int:
    """Return the key's slot; only what is between the first braces counts, if there is anything."""
    raw = key.encode() if isinstance(key, str) else key
    start = raw.find(b"{")
    if start >= 0 and (end := raw.find(b"}", start + 1)) > start + 1:
        raw = raw[start + 1 : end]
    return binascii.crc_hqx(raw, 0) % SLOTS


class View(NamedTuple):
    """What a node says of itself or of another in CLUSTER NODES."""

    id: str
    flags: tuple[str, ...]
    primary_id: str
    epoch: int
    slots: tuple[range, ...]


def _parse_nodes(text: str) -> list[View]:
    views: list[View] = []
    for line in text.splitlines():
        node, _, flags, primary, _, _, epoch, _, *slots = line.split()
        ranges = tuple(
            range(int(first), int(last or first) + 1)
            for first, _, last in (slot.partition("-") for slot in slots if not slot.startswith("["))
        )
        views.append(View(node, tuple(flags.split(",")), primary, int(epoch), ranges))
    return views


class Cluster:
    """The nodes and what can be done to them. Node ids survive `kill` and `restart`."""

    def __init__(self, nodes: list[ServerProcess]) -> None:
        self.nodes = nodes
        self.ids = dict(
            zip(nodes, self._each(lambda n: str(n.command("CLUSTER", "MYID"), "ascii")), strict=True)
        )

    @property
    def url(self) -> str:
        """`redis+cluster://` with every node as a seed."""
        return "redis+cluster://" + ",".join(f"{n.host}:{n.port}" for n in self.nodes)

    @property
    def live(self) -> list[ServerProcess]:
        return [node for node in self.nodes if node.alive]

    def view(self, node: ServerProcess) -> list[View]:
        return _parse_nodes(node.command("CLUSTER", "NODES").decode())

    def myself(self, node: ServerProcess) -> View:
        return next(view for view in self.view(node) if "myself" in view.flags)

    def server(self, node_id: str) -> ServerProcess:
        return next(node for node, id_ in self.ids.items() if id_ == node_id)

    @property
    def primaries(self) -> list[ServerProcess]:
        """Live nodes that call themselves primaries and own slots."""
        return [n for n in self.live if (me := self.myself(n)) and "master" in me.flags and me.slots]

    def owner_of(self, slot: int) -> ServerProcess:
        """Return the live primary that claims the slot, of several the one with the highest epoch."""
        claims = {
            node: me.epoch
            for node in self.live
            if "master" in (me := self.myself(node)).flags and any(slot in r for r in me.slots)
        }
        if not claims:
            raise LookupError(f"no live primary owns slot {slot}")
        return max(claims, key=lambda node: claims[node])

    def primary_of(self, key: str | bytes) -> ServerProcess:
        return self.owner_of(slot_of(key))

    def replica_of(self, primary: ServerProcess) -> ServerProcess:
        """Return a live replica of `primary`, which itself may be dead."""
        for node in self.live:
            if self.myself(node).primary_id == self.ids[primary]:
                return node
        raise LookupError(f"{primary} has no live replica")

    def open_slot(self, slot: int, to: ServerProcess) -> None:
        """Begin to move a slot: from here on a key that is absent at its owner is answered with ASK."""
        source = self.owner_of(slot)
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[to])

    def move_keys(self, slot: int, to: ServerProcess) -> None:
        """Move the keys of an open slot."""
        source = self.owner_of(slot)
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.command("MIGRATE", to.host, to.port, "", 0, 5000, "KEYS", *keys)

    def assign_slot(self, slot: int, to: ServerProcess) -> None:
        """Make `to` the owner of an open slot, and tell every primary."""
        others = [node for node in self.primaries if node is not to]
        for node in [to, *others]:
            node.command("CLUSTER", "SETSLOT", slot, "NODE", self.ids[to])

    def move_slot(self, slot: int, to: ServerProcess, *, finish: bool = True) -> None:
        """Move a slot with its keys; without `finish` its keys are at `to`, but the old owner still owns
        it, so that each of them is answered with ASK until `assign_slot`."""
        self.open_slot(slot, to)
        self.move_keys(slot, to)
        if finish:
            self.assign_slot(slot, to)

    def migrate_slots_atomically(
        self, first: int, last: int, to: ServerProcess, *, timeout: float = 20
    ) -> None:
        """Move a range of slots of one owner as Valkey 9 does it by itself; returns when `to` owns it."""
        source = self.owner_of(first)
        source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", self.ids[to])
        wait_until(
            f"slots {first}-{last} are at {to}",
            lambda: all(any(s in r for r in self.myself(to).slots) for s in (first, last)),
            timeout=timeout,
        )

    def failover(self, replica: ServerProcess, how: str | None = None) -> None:
        """Make a replica the primary: by agreement, or `how` = "FORCE" or "TAKEOVER"."""
        replica.command("CLUSTER", "FAILOVER", *([how] if how else []))
        self.wait_primary(replica)

    def wait_primary(self, node: ServerProcess, *, timeout: float = 20) -> None:
        """Wait until `node` calls itself a primary that owns slots."""
        wait_until(f"{node} is primary", lambda: node in self.primaries, timeout=timeout)

    def wait_ok(self, *, timeout: float = 30) -> None:
        """Wait until the live nodes agree that every slot is served, and replicas are in step."""

        def ok() -> bool:
            owners = {frozenset((v.id, v.slots) for v in self.view(n) if v.slots) for n in self.live}
            return len(owners) == 1 and all(map(self._node_ok, self.live))

        wait_until("the cluster is ok", ok, timeout=timeout, every=0.03)

    def _node_ok(self, node: ServerProcess) -> bool:
        state = node.command("CLUSTER", "INFO").decode()
        alive = {self.ids[n] for n in self.live}
        views = [view for view in self.view(node) if view.id in alive]
        replication = node.info("replication")
        replicas = sum(view.primary_id == self.ids[node] for view in views)
        return (
            "cluster_state:ok" in state
            and len(views) == len(alive)
            and not any({"fail", "fail?", "handshake"} & {*view.flags} for view in views)
            and replication.get("master_link_status", "up") == "up"
            and sum("state=online" in value for value in replication.values()) >= replicas
        )

    def flush(self) -> None:
        for node in self.primaries:
            node.flush()

    def reset_stats(self) -> None:
        for node in self.live:
            node.reset_stats()

    def commandstats(self) -> dict[str, int]:
        """Calls by command, of all nodes together; replicas count what they replay, too."""
        total: dict[str, int] = {}
        for node in self.live:
            for name, calls in node.commandstats().items():
                total[name] = total.get(name, 0) + calls
        return total

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def _each(self, ask: Callable[[ServerProcess], R]) -> list[R]:
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            return list(pool.map(ask, self.nodes))


def start_cluster(
    primaries: int = 3, replicas: int = 1, *extra_args: str, node_timeout_ms: int = 1500
) -> Cluster:
    """Start a cluster in which each primary has `replicas` replicas, and wait until it is whole."""
    nodes = [
        launch_valkey(
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
            *("--cluster-port", str(free_port()), "--cluster-node-timeout", str(node_timeout_ms)),
            *("--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0"),
            *extra_args,
        )
        for _ in range(primaries * (1 + replicas))
    ]
    try:
        for node in nodes:
            node.wait_ready()
        cluster = Cluster(nodes)
        _join(cluster, primaries)
        cluster.wait_ok()
    except BaseException:
        for node in nodes:
            node.stop()
        raise
    return cluster


def _join(cluster: Cluster, primaries: int) -> None:
    nodes = cluster.nodes
    ports = {node: int(node.command("CONFIG", "GET", "cluster-port")[1]) for node in nodes}
    for index, node in enumerate(nodes):
        node.command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        if index < primaries:
            first, end = (SLOTS * i // primaries for i in (index, index + 1))
            node.command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for other in nodes[:index]:
            node.command("CLUSTER", "MEET", other.host, other.port, ports[other])
    for index, node in enumerate(nodes[primaries:]):
        joined = functools.partial(_replicate, cluster, node, index % primaries)
        wait_until(f"{node} becomes a replica", joined)


def _replicate(cluster: Cluster, node: ServerProcess, primary: int) -> bool:
    try:
        node.command("CLUSTER", "REPLICATE", cluster.ids[cluster.nodes[primary]])
    except hiredis.ReplyError as error:
        if "Unknown node" in str(error):  # not yet introduced
            return False
        raise
    return True

"""The cluster router: a command goes to its slot's node, and follows redirections until the deadline.

The topology is refreshed in the background, one refresh at a time, after a redirection or a failure;
a command waits for it only when nobody is known to serve its slot. So a slow or dead node holds up
the commands of its own slots and no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from binascii import crc_hqx
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final

import hiredis

from asgi_session._backoff import delay, pause
from asgi_session.errors import StoreUnavailable
from asgi_session.stores.redis.backend import UnderWay, refused, unavailable
from asgi_session.stores.redis.commands import AGAIN, ASKING, STEPS, Command, ReplyKind, is_down, kind
from asgi_session.stores.redis.connection import Connection, Failure
from asgi_session.stores.redis.health import Health
from asgi_session.stores.redis.node import Node
from asgi_session.stores.redis.reporting import Reporter
from asgi_session.stores.redis.target import Address, Target, show
from asgi_session.stores.redis.topology import SLOTS, Topology, read_redirect, read_slots

_CLUSTER_SLOTS: Final = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"

_HEDGE: Final = 0.1
"""Seconds a node may take to tell the topology before the next is asked as well."""

_SUSPECT: Final = 5.0
"""Seconds for which a node that failed is asked last."""

_REDIRECTS: Final = 5
"""Redirections of one command that are followed at once; after that with a pause."""


class Cluster:
    """A backend that routes by slot.

    Args:
        target: its addresses are the seeds.
        timeout: seconds for one try of a command.
        to: makes the node of an address.
        reporter: is told when no node at all is found, and when one is again.

    """

    __slots__ = (
        "_closed",
        "_health",
        "_leaving",
        "_members",
        "_nodes",
        "_others",
        "_probed",
        "_refresh_after",
        "_refreshes",
        "_refreshing",
        "_remap",
        "_replicas",
        "_seeds",
        "_slots",
        "_suspects",
        "_timeout",
        "_to",
        "_trouble",
        "_under_way",
    )

    def __init__(
        self, target: Target, timeout: float, to: Callable[[Address], Node], reporter: Reporter
    ) -> None:
        self._health = Health("of the cluster, any", reporter)  # while nobody is known to serve a slot
        self._probed: dict[Command, list[Health]] = {}  # what a command is the probe of
        self._seeds = target.addresses
        self._remap = target.address_remap
        self._timeout = timeout
        self._under_way = UnderWay()
        self._to = to
        self._slots: list[Node | None] = [None] * SLOTS
        self._nodes: dict[Address, Node] = {}
        self._leaving: list[Node] = []  # out of use, with replies still due
        self._replicas: tuple[Address, ...] = ()
        self._members: set[Address] = set()  # primaries and replicas
        self._others: dict[Connection, Address] = {}  # made by `dial`
        self._suspects: dict[Address, float] = {}
        self._refreshing: asyncio.Task[Failure | None] | None = None
        self._refresh_after = 0.0
        self._refreshes = 0
        self._closed = False
        self._trouble: Failure | None = None  # why the last refresh failed

    # commands

    def submit(self, key: str, data: bytes, deadline: float) -> asyncio.Future[Any] | None:
        """Send to the slot's node if it is connected."""
        node = self._slots[crc_hqx(key.encode(), 0) & 16383]
        if node is None or node.ready is None:
            return None
        limit = monotonic() + self._timeout
        return node.ready.request(data, limit if limit < deadline else deadline)

    def ready(self, key: str) -> Connection | None:
        """Return the connection to the slot's node if there is one."""
        node = self._slots[crc_hqx(key.encode(), 0) & 16383]
        return None if node is None else node.ready

    async def execute(self, command: Command, deadline: float) -> Any:
        """Send, follow and retry until there is an answer."""
        began = monotonic()
        slot = crc_hqx(command.key.encode(), 0) & 16383
        try:
            with self._under_way:
                return await self._execute(command, slot, deadline, began)
        except StoreUnavailable:
            node = self._slots[slot]
            (self._health if node is None else node.health).count()
            raise
        finally:
            for health in self._probed.pop(command, ()):
                health.probe = None

    async def _execute(self, command: Command, slot: int, deadline: float, began: float) -> Any:
        tries = redirects = steps = 0
        told = ""
        asked: Node | None = None  # the node that an ASK named
        while True:
            if self._closed:
                unavailable(command, Failure("the store was closed", False))
            node = asked or self._slots[slot]
            health = self._health if node is None else node.health
            health.expect(deadline - began + self._timeout)  # that long it may have tried before
            failure = health.refuses(command, began)
            if failure is not None:
                unavailable(command, failure)
            if health.probe is command and health not in self._probed.setdefault(command, []):
                self._probed[command].append(health)
            if node is None:
                failure = await self._find(slot, deadline)
                if failure is None:
                    self._health.answered()
                    continue
                if not self._closed:
                    self._health.failing(failure.why)
                if failure.final:
                    unavailable(command, failure)
            else:
                reply = await self._try(command, node, deadline, asking=asked is not None)
                if isinstance(reply, Failure):
                    failure = reply
                    if failure.final or (failure.executed is None and not command.repeatable):
                        unavailable(command, failure)
                    asked = None
                elif isinstance(reply, hiredis.ReplyError):
                    told = f"{node.where} answered: {reply}"
                    failure = Failure(told, False)
                    found = kind(reply)
                    if found is ReplyKind.REFUSED:
                        refused(command, node.where, reply)
                    asked = self._redirected(found, str(reply), node)
                    redirects += 1
                    at_once = found in (ReplyKind.MOVED, ReplyKind.ASK)
                    if at_once and redirects <= _REDIRECTS and monotonic() < deadline:
                        continue
                    asked = None
                elif reply is AGAIN:  # of the same node, asking again if that was needed
                    steps += 1
                    failure = Failure(f"{node.where}: the record changes all the time", False)
                    if steps <= STEPS and monotonic() < deadline:
                        continue
                else:
                    return reply
            tries += 1
            if not await pause(tries, deadline):
                unavailable(command, failure, told)

    async def _try(self, command: Command, node: Node, deadline: float, *, asking: bool) -> Any:
        connection: Connection | Failure | None = node.connection
        if connection is None:
            connection = await node.connect(min(deadline, monotonic() + self._timeout))
        if isinstance(connection, Failure):
            self._doubt(node, connection)
            return connection
        attempt = min(deadline, monotonic() + self._timeout)
        data = command.packed(connection.abilities)
        if asking:  # one write, for the flag holds for the very next command
            reply = await connection.request(ASKING + data, attempt, 1)
        else:
            reply = await connection.request(data, attempt)
        if isinstance(reply, Failure):
            self._doubt(node, reply)
            return reply._replace(executed=False) if command.looks else reply
        reply = command.read(connection.abilities, reply)
        if isinstance(reply, hiredis.ReplyError) and is_down(reply):
            node.failing(f"{node.where} answered: {reply}")
        else:
            node.answered()
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOAUTH"):
                node.reconnect(connection)
        return reply

    def _redirected(self, found: ReplyKind, error: str, node: Node) -> Node | None:
        """Learn from an error; the node to ask instead, where it holds for this one command."""
        redirect: tuple[int, Address] | None = None
        if found in (ReplyKind.MOVED, ReplyKind.ASK):
            with contextlib.suppress(Exception):  # address_remap's; the refresh tells
                redirect = read_redirect(error, node.address, self._remap)
        if found is ReplyKind.ASK and redirect is not None:
            return self._node(redirect[1])
        if found is ReplyKind.MOVED and redirect is not None:
            self._slots[redirect[0]] = self._node(redirect[1])
        if not self._closed and not error.startswith(("TRYAGAIN", "BUSY", "NOAUTH")):
            self._start_refresh()
        return None

    def failed(self, key: str, why: str, *, last: bool) -> None:
        """Doubt the key's node."""
        node = self._slots[crc_hqx(key.encode(), 0) & 16383]
        if node is not None:
            self._doubt(node, Failure(why, None))
            if last:
                node.health.count()

    def distrust(self, key: str) -> None:
        """Drop the connection that answers for a key."""
        node = self._slots[crc_hqx(key.encode(), 0) & 16383]
        if node is not None:
            node.distrust()

    async def dial(self, on_close: Callable[[Connection], None]) -> Connection | Failure:
        """Connect to any node: what one publishes all of them deliver. Dropped if it leaves the cluster."""
        if not self._members:
            failure = await self._learn()
            if failure is not None:
                return failure
        last = Failure("the cluster has no known node", False)
        for address in [each for each in self._candidates() if each in self._members]:
            if self._closed:
                return Failure("the store was closed", False)
            result = await self._to(address).dial(partial(self._other_lost, on_close))
            if isinstance(result, Connection):
                if not result.closed:
                    self._others[result] = address
                return result
            last = result
            self._suspects[address] = monotonic()
        if not self._closed:
            self._start_refresh()
        return last

    def _other_lost(self, on_close: Callable[[Connection], None], connection: Connection) -> None:
        address = self._others.pop(connection, None)
        if address is not None:
            self._suspects[address] = monotonic()
        on_close(connection)

    async def connect(self, deadline: float) -> list[tuple[Node, frozenset[int]]] | Failure:
        """Connect to every primary."""
        failure = await self._learn(deadline)
        if failure is not None:
            return failure
        slots: dict[Node, set[int]] = {}
        for slot, node in enumerate(self._slots):
            if node is not None:
                slots.setdefault(node, set()).add(slot)
        for each in await asyncio.gather(*(node.connect(deadline) for node in slots)):
            if isinstance(each, Failure):
                return each
        return [(node, frozenset(own)) for node, own in slots.items()]

    # the topology

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self._to(address)
        return node

    def _doubt(self, node: Node, failure: Failure) -> None:
        if not (failure.final or node.closed):
            node.failing(failure.why)
        self._suspects[node.address] = monotonic()
        if not self._closed:
            self._start_refresh()

    async def _find(self, slot: int, deadline: float) -> Failure | None:
        task = self._start_refresh()
        await asyncio.wait([task], timeout=max(0.0, deadline - monotonic()))
        if self._slots[slot] is not None:
            return None
        if not task.done() or task.cancelled():
            return self._in_time()
        return task.result() or Failure(f"no node serves slot {slot}", False)

    async def _learn(self, deadline: float = math.inf) -> Failure | None:
        if self._closed:
            return Failure("the store was closed", False)
        task = self._start_refresh()
        await asyncio.wait([task], timeout=None if deadline == math.inf else max(0.0, deadline - monotonic()))
        if not task.done():
            return self._in_time()
        return Failure("the store was closed", False) if task.cancelled() else task.result()

    def _in_time(self) -> Failure:
        reason = f": {self._trouble.why}" if self._trouble is not None else ""
        return Failure(f"no node told the topology of the cluster in time{reason}", False)

    def _start_refresh(self) -> asyncio.Task[Failure | None]:
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(
                self._refresh(), name="asgi-session refreshes the topology"
            )
        return self._refreshing

    async def _refresh(self) -> Failure | None:
        try:
            wait = self._refresh_after - monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            elif wait < -2.0:
                self._refreshes = 0
            self._refreshes += 1
            found = await self._ask_somebody()
            self._refresh_after = monotonic() + delay(self._refreshes, first=0.05, longest=0.5)
            if isinstance(found, Failure):
                self._trouble = found
                return found
            self._trouble = None
            self._apply(found)
            return None
        finally:
            self._refreshing = None

    async def _ask_somebody(self) -> Topology | Failure:
        """Ask one node after the other, without waiting long for any; the first answer counts."""
        waiting: set[asyncio.Task[Topology | Failure]] = set()
        last = Failure("the cluster has no known node", False)
        candidates = self._candidates()
        try:
            while candidates or waiting:
                if candidates:
                    waiting.add(asyncio.create_task(self._ask(candidates.pop(0))))
                done, waiting = await asyncio.wait(
                    waiting, timeout=_HEDGE if candidates else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    result = task.result()
                    if isinstance(result, Topology):
                        return result
                    last = result
        finally:
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.wait(waiting)
        return last

    def _candidates(self) -> list[Address]:
        now = monotonic()
        self._suspects = {each: since for each, since in self._suspects.items() if now - since < _SUSPECT}
        known = list(dict.fromkeys([*self._nodes, *self._replicas, *self._seeds]))
        random.shuffle(known)

        def reluctance(address: Address) -> tuple[bool, bool]:
            node = self._nodes.get(address)
            return address in self._suspects, node is None or node.connection is None

        return sorted(known, key=reluctance)

    async def _ask(self, address: Address) -> Topology | Failure:
        node = self._node(address)
        connection = await node.connect(monotonic() + 2 * self._timeout)
        if isinstance(connection, Failure):
            return connection
        reply = await connection.request(_CLUSTER_SLOTS, monotonic() + self._timeout)
        if isinstance(reply, Failure):
            return reply
        try:
            topology = read_slots(reply, address, self._remap)
        except Exception as error:  # a shape that is documented nowhere, or address_remap's
            return Failure(f"{show(address)}: topology unusable: {type(error).__name__}: {error}", False)
        if topology is None:
            detail = f"answered: {reply}" if isinstance(reply, hiredis.ReplyError) else "knows of no slots"
            return Failure(f"{show(address)} {detail}", False)
        return topology

    def _apply(self, topology: Topology) -> None:
        slots: list[Node | None] = [None] * SLOTS
        primaries: set[Address] = set()
        for first, last, address in topology.ranges:
            slots[first : last + 1] = [self._node(address)] * (last + 1 - first)
            primaries.add(address)
        self._slots = slots
        self._replicas = topology.replicas
        self._members = primaries.union(topology.replicas)
        for other, address in list(self._others.items()):
            if address not in self._members:
                other.close()
        for address in self._nodes.keys() - primaries:
            node = self._nodes.pop(address)
            node.close(gently=True)
            self._leaving.append(node)
        self._leaving = [node for node in self._leaving if not node.empty]

    # the end

    async def close(self) -> None:
        """Wait for what is under way, then close all connections."""
        nodes = [*self._nodes.values(), *self._leaving]
        await asyncio.gather(self._under_way.over(self._timeout), *(node.settled() for node in nodes))
        self._closed = True
        self._health.close()
        refreshing = self._refreshing
        if refreshing is not None:
            refreshing.cancel()
            await asyncio.wait([refreshing])
        nodes = [*self._nodes.values(), *self._leaving]
        self._nodes.clear()
        self._leaving.clear()
        self._slots = [None] * SLOTS
        await asyncio.gather(*(node.aclose() for node in nodes))

    def abandon(self) -> None:
        """Free the sockets."""
        for node in (*self._nodes.values(), *self._leaving):
            node.abandon()

"""What is done to processes, connections and servers while clients work; seeded, and on record."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence

from tests.locks.recording import Record
from tests.servers import Cluster, LossyProxy, Server, saves, wait_until


async def strike(
    faults: Sequence[Callable[[], Awaitable[None]]], rng: random.Random, over: asyncio.Event, every: float
) -> None:
    """Do one fault after another, each kind once before any comes again, about `every` seconds apart."""
    while True:
        for fault in rng.sample(faults, len(faults)):
            try:
                await asyncio.wait_for(over.wait(), rng.uniform(0.5, 1.5) * every)
            except TimeoutError:
                await fault()
            else:
                return


class Network:
    """Tampers with the connections to some servers, and with those that go through a proxy."""

    def __init__(self, servers: Sequence[Server], record: Record, proxy: LossyProxy | None = None) -> None:
        self.servers = servers
        self.record = record
        self.proxy = proxy
        self.faults = [self.drop_commands, self.drop_subscriptions]
        if proxy is not None:
            self.faults += [self.lose_reply, self.lose_command, self.refuse]

    async def _kill(self, kind: str) -> None:
        self.record.note("shaken")
        for server in self.servers:
            await asyncio.to_thread(server.command, "CLIENT", "KILL", "TYPE", kind)
        self.record.note("shaken")

    async def drop_commands(self) -> None:
        await self._kill("normal")

    async def drop_subscriptions(self) -> None:
        await self._kill("pubsub")

    async def lose_reply(self) -> None:
        """Have the server carry out a script whose reply nobody gets."""
        assert self.proxy is not None
        await self._cut(self.proxy.cut_after(saves))

    async def lose_command(self) -> None:
        assert self.proxy is not None
        await self._cut(self.proxy.cut_before(saves))

    async def _cut(self, done: asyncio.Event) -> None:
        self.record.note("shaken")
        with contextlib.suppress(TimeoutError):  # if the process is stopped, its next script is hit
            await asyncio.wait_for(done.wait(), 5)
        self.record.note("shaken")

    async def refuse(self) -> None:
        """Let no connection through for a while."""
        assert self.proxy is not None
        self.record.note("shaken")
        await self.proxy.refuse()
        await asyncio.sleep(0.5)
        await self.proxy.accept()
        self.proxy.commands.clear()
        self.record.note("shaken")


class Failover:
    """Has a cluster's replicas take over from the primary of a session chosen at random."""

    def __init__(self, cluster: Cluster, keys: Sequence[str], record: Record, rng: random.Random) -> None:
        self.cluster = cluster
        self.keys = keys
        self.record = record
        self.rng = rng

    async def by_agreement(self) -> None:
        """Nothing is lost: the primary holds clients up until the replica has all."""
        self.record.note("shaken")
        await asyncio.to_thread(self._by_agreement)
        self.record.note("shaken")

    def _by_agreement(self) -> None:
        self.cluster.wait_ok()
        primary = self.cluster.primary_of(self.rng.choice(self.keys))
        self.cluster.failover(self.cluster.replica_of(primary))

    async def by_death(self) -> None:
        """What the primary has acknowledged and told nobody of is lost.

        On one machine a replica hears of everything at once. So it is stopped, and its connection is
        dropped with what has not been sent, for a moment before the primary dies.
        """
        await asyncio.to_thread(self.cluster.wait_ok)
        primary = await asyncio.to_thread(self.cluster.primary_of, self.rng.choice(self.keys))
        replica = await asyncio.to_thread(self.cluster.replica_of, primary)
        replica.freeze()
        await asyncio.to_thread(primary.command, "CLIENT", "KILL", "TYPE", "replica")
        await asyncio.sleep(self.rng.uniform(0, 0.3))
        await asyncio.to_thread(primary.kill)
        self.record.note("crashed")
        replica.thaw()
        await asyncio.to_thread(self.cluster.wait_primary, replica)
        await asyncio.to_thread(primary.restart)
        await asyncio.to_thread(self._in_step, primary)
        self.record.note("shaken")

    def _in_step(self, node: Server) -> None:
        wait_until(
            f"{node} is a replica",
            lambda: node.info("replication").get("master_link_status") == "up",
            timeout=30,
        )

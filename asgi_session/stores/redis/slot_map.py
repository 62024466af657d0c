"""A cluster's nodes, and which of them serves which slots.

The topology is refreshed in the background, one refresh at a time, after a redirection or a failure;
a command waits for it only when nobody is known to serve its slot.
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
from typing import Final

import hiredis

from asgi_session._backoff import delay
from asgi_session.stores._shared.addresses import Address, show
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores._shared.health import Health
from asgi_session.stores._shared.reporting import Reporter
from asgi_session.stores.redis.connection import Connection
from asgi_session.stores.redis.node import Node
from asgi_session.stores.redis.replies import ReplyKind
from asgi_session.stores.redis.target import Target
from asgi_session.stores.redis.topology import SLOTS, Topology, read_redirect, read_slots

_CLUSTER_SLOTS: Final = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"

_HEDGE: Final = 0.1
"""Seconds a node may take to tell the topology before the next is asked as well."""

_SUSPECT: Final = 5.0
"""Seconds for which a node that failed is asked last."""


def slot_of(key: str) -> int:
    """Return the slot of a key."""
    return crc_hqx(key.encode(), 0) & 16383


class SlotMap:
    """Knows whom to ask.

    Args:
        target: its addresses are the seeds.
        timeout: seconds for one try of a command.
        to: makes the node of an address.
        reporter: is told when no node at all is found, and when one is again.

    Attributes:
        health: of the cluster as a whole, while nobody is known to serve a slot.
        slots: the node that serves each, None while that is unknown.
        nodes: the primaries by address, and whoever was asked for them.
        closed: whether the store was closed.
    """

    __slots__ = (
        "_leaving", "_members", "_others", "_refresh_after", "_refreshes", "_refreshing", "_remap",
        "_replicas", "_seeds", "_suspects", "_timeout", "_to", "_trouble",
        "closed", "health", "nodes", "slots",
    )  # fmt: skip

    def __init__(
        self, target: Target, timeout: float, to: Callable[[Address], Node], reporter: Reporter
    ) -> None:
        self.health = Health("of the cluster, any", reporter)
        self.slots: list[Node | None] = [None] * SLOTS
        self.nodes: dict[Address, Node] = {}
        self.closed = False
        self._seeds = target.addresses
        self._remap = target.address_remap
        self._timeout = timeout
        self._to = to
        self._leaving: list[Node] = []  # out of use, with replies still due
        self._replicas: tuple[Address, ...] = ()
        self._members: set[Address] = set()  # primaries and replicas
        self._others: dict[Connection, Address] = {}  # made by `dial`
        self._suspects: dict[Address, float] = {}
        self._refreshing: asyncio.Task[Failure | None] | None = None
        self._refresh_after = 0.0
        self._refreshes = 0
        self._trouble: Failure | None = None  # why the last refresh failed

    async def find(self, slot: int, deadline: float) -> Failure | None:
        """Wait until somebody serves the slot; a failure when nobody does."""
        task = self._start_refresh()
        await asyncio.wait([task], timeout=max(0.0, deadline - monotonic()))
        if self.slots[slot] is not None:
            return None
        if not task.done() or task.cancelled():
            return self._in_time()
        return task.result() or Failure(f"no node serves slot {slot}", False)

    async def learn(self, deadline: float = math.inf) -> Failure | None:
        """Wait for a refresh; a failure when it does not succeed."""
        if self.closed:
            return Failure("the store was closed", False)
        task = self._start_refresh()
        await asyncio.wait([task], timeout=None if deadline == math.inf else max(0.0, deadline - monotonic()))
        if not task.done():
            return self._in_time()
        return Failure("the store was closed", False) if task.cancelled() else task.result()

    def primaries(self) -> dict[Node, set[int]]:
        """Return the nodes that serve slots, with their slots."""
        served: dict[Node, set[int]] = {}
        for slot, node in enumerate(self.slots):
            if node is not None:
                served.setdefault(node, set()).add(slot)
        return served

    def doubt(self, node: Node, failure: Failure) -> None:
        """Take notice of a node that failed."""
        if not (failure.final or node.closed):
            node.failing(failure.why)
        self._suspects[node.address] = monotonic()
        if not self.closed:
            self._start_refresh()

    def redirected(self, found: ReplyKind, error: str, node: Node) -> Node | None:
        """Learn from an error; the node to ask instead, where it holds for this one command."""
        redirect: tuple[int, Address] | None = None
        if found in (ReplyKind.MOVED, ReplyKind.ASK):
            with contextlib.suppress(Exception):  # address_remap's; the refresh tells
                redirect = read_redirect(error, node.address, self._remap)
        if found is ReplyKind.ASK and redirect is not None:
            return self._node(redirect[1])
        if found is ReplyKind.MOVED and redirect is not None:
            self.slots[redirect[0]] = self._node(redirect[1])
        if not self.closed and not error.startswith(("TRYAGAIN", "BUSY", "NOAUTH")):
            self._start_refresh()
        return None

    async def dial(self, on_close: Callable[[Connection], None]) -> Connection | Failure:
        """Connect to any node: what one publishes all of them deliver. Dropped if it leaves the cluster."""
        if not self._members:
            failure = await self.learn()
            if failure is not None:
                return failure
        last = Failure("the cluster has no known node", False)
        for address in [each for each in self._candidates() if each in self._members]:
            if self.closed:
                return Failure("the store was closed", False)
            result = await self._to(address).dial(partial(self._other_lost, on_close))
            if isinstance(result, Connection):
                if not result.closed:
                    self._others[result] = address
                return result
            last = result
            self._suspects[address] = monotonic()
        if not self.closed:
            self._start_refresh()
        return last

    def _other_lost(self, on_close: Callable[[Connection], None], connection: Connection) -> None:
        address = self._others.pop(connection, None)
        if address is not None:
            self._suspects[address] = monotonic()
        on_close(connection)

    # refreshing

    def _node(self, address: Address) -> Node:
        node = self.nodes.get(address)
        if node is None:
            node = self.nodes[address] = self._to(address)
        return node

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
        known = list(dict.fromkeys([*self.nodes, *self._replicas, *self._seeds]))
        random.shuffle(known)

        def reluctance(address: Address) -> tuple[bool, bool]:
            node = self.nodes.get(address)
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
        self.slots = slots
        self._replicas = topology.replicas
        self._members = primaries.union(topology.replicas)
        for other, address in list(self._others.items()):
            if address not in self._members:
                other.close()
        for address in self.nodes.keys() - primaries:
            node = self.nodes.pop(address)
            node.close(gently=True)
            self._leaving.append(node)
        self._leaving = [node for node in self._leaving if not node.empty]

    # the end

    async def settled(self) -> None:
        """Wait for the replies that are due."""
        await asyncio.gather(*(node.settled() for node in (*self.nodes.values(), *self._leaving)))

    async def close(self) -> None:
        """Close all connections."""
        self.closed = True
        self.health.close()
        refreshing = self._refreshing
        if refreshing is not None:
            refreshing.cancel()
            await asyncio.wait([refreshing])
        nodes = [*self.nodes.values(), *self._leaving]
        self.nodes.clear()
        self._leaving.clear()
        self.slots = [None] * SLOTS
        await asyncio.gather(*(node.aclose() for node in nodes))

    def abandon(self) -> None:
        """Free the sockets."""
        for node in (*self.nodes.values(), *self._leaving):
            node.abandon()

"""The cluster router: a command goes to its slot's node, and follows redirections until the deadline.

A slow or dead node holds up the commands of its own slots and no others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import hiredis

from asgi_session.stores._shared.connection import Failure
from asgi_session.stores._shared.health import Health
from asgi_session.stores._shared.under_way import UnderWay
from asgi_session.stores.redis.commands import ASKING, Command
from asgi_session.stores.redis.connection import Connection
from asgi_session.stores.redis.executing import carry_out
from asgi_session.stores.redis.node import Node
from asgi_session.stores.redis.replies import ReplyKind, kind
from asgi_session.stores.redis.slot_map import SlotMap, slot_of

_REDIRECTS: Final = 5
"""Redirections of one command that are followed at once; after that with a pause."""


class Cluster:
    """A backend that routes by slot.

    Args:
        slots: knows whom to ask.
        timeout: seconds for one try of a command.

    """

    __slots__ = ("_map", "_timeout", "_under_way")

    def __init__(self, slots: SlotMap, timeout: float) -> None:
        self._map = slots
        self._timeout = timeout
        self._under_way = UnderWay()

    def submit(self, key: str, data: bytes, deadline: float) -> asyncio.Future[Any] | None:
        """Send to the slot's node if it is connected."""
        node = self._map.slots[slot_of(key)]
        if node is None or node.ready is None:
            return None
        limit = monotonic() + self._timeout
        return node.ready.request(data, limit if limit < deadline else deadline)

    def ready(self, key: str) -> Connection | None:
        """Return the connection to the slot's node if there is one."""
        node = self._map.slots[slot_of(key)]
        return None if node is None else node.ready

    async def execute(self, command: Command, deadline: float) -> Any:
        """Send, follow and retry until there is an answer."""
        route = _Route(self._map, slot_of(command.key), self._timeout)
        with self._under_way:
            return await carry_out(command, route, deadline, self._timeout)

    def failed(self, key: str, why: str, *, last: bool) -> None:
        """Doubt the key's node."""
        node = self._map.slots[slot_of(key)]
        if node is not None:
            self._map.doubt(node, Failure(why, None))
            if last:
                node.health.count()

    def distrust(self, key: str) -> None:
        """Drop the connection that answers for a key."""
        node = self._map.slots[slot_of(key)]
        if node is not None:
            node.distrust()

    async def dial(self, on_close: Callable[[Connection], None]) -> Connection | Failure:
        """Connect to any node: what one publishes all of them deliver. Dropped if it leaves the cluster."""
        return await self._map.dial(on_close)

    async def connect(self, deadline: float) -> list[tuple[Node, frozenset[int]]] | Failure:
        """Connect to every primary."""
        failure = await self._map.learn(deadline)
        if failure is not None:
            return failure
        slots = self._map.primaries()
        for each in await asyncio.gather(*(node.connect(deadline) for node in slots)):
            if isinstance(each, Failure):
                return each
        return [(node, frozenset(own)) for node, own in slots.items()]

    async def close(self) -> None:
        """Wait for what is under way, then close all connections."""
        await self._under_way.over(self._map.settled, self._timeout)
        await self._map.close()

    def abandon(self) -> None:
        """Free the sockets."""
        self._map.abandon()


class _Route:
    """A command's way: to its slot's node, and wherever redirections lead."""

    __slots__ = ("_asked", "_map", "_redirects", "_slot", "_timeout")

    def __init__(self, slots: SlotMap, slot: int, timeout: float) -> None:
        self._map = slots
        self._slot = slot
        self._timeout = timeout
        self._asked: Node | None = None  # the node that an ASK named
        self._redirects = 0

    @property
    def _node(self) -> Node | None:
        return self._asked or self._map.slots[self._slot]

    @property
    def health(self) -> Health:
        node = self._node
        return self._map.health if node is None else node.health

    async def reach(self, deadline: float) -> tuple[Node, Connection] | Failure | None:
        if self._map.closed:
            return Failure("the store was closed", False, final=True)
        node = self._node
        if node is None:
            return await self._find(deadline)
        connection: Connection | Failure | None = node.connection
        if connection is None:
            connection = await node.connect(min(deadline, monotonic() + self._timeout))
        if isinstance(connection, Failure):
            self.failed(node, connection)
            return connection
        return node, connection

    async def _find(self, deadline: float) -> Failure | None:
        failure = await self._map.find(self._slot, deadline)
        if failure is None:
            self._map.health.answered()
        elif not self._map.closed:
            self._map.health.failing(failure.why)
        return failure

    async def send(self, connection: Connection, data: bytes, limit: float) -> Any:
        if self._asked is not None:  # one write, for the flag holds for the very next command
            return await connection.request(ASKING + data, limit, 1)
        return await connection.request(data, limit)

    def failed(self, node: Node, failure: Failure) -> None:
        self._asked = None
        self._map.doubt(node, failure)

    def heed(self, command: Command, node: Node, connection: Connection, error: hiredis.ReplyError) -> bool:
        found, text = kind(error), str(error)
        if text.startswith("NOAUTH"):
            node.reconnect(connection)
        asked = self._map.redirected(found, text, node)
        self._redirects += 1
        at_once = found in (ReplyKind.MOVED, ReplyKind.ASK) and self._redirects <= _REDIRECTS
        self._asked = asked if at_once else None
        return at_once

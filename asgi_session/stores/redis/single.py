"""One server; or the primary of a Sentinel group, which `locate` finds at every connect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import hiredis

from asgi_session.stores._shared.connection import Failure
from asgi_session.stores._shared.health import Health
from asgi_session.stores._shared.under_way import UnderWay
from asgi_session.stores.redis.commands import Command
from asgi_session.stores.redis.connection import Connection
from asgi_session.stores.redis.executing import carry_out, refused
from asgi_session.stores.redis.node import Node
from asgi_session.stores.redis.replies import ReplyKind, kind
from asgi_session.stores.redis.target import Target, advice


class Single:
    """A backend with one node."""

    __slots__ = ("_node", "_target", "_timeout", "_under_way")

    def __init__(self, node: Node, target: Target, timeout: float) -> None:
        self._node = node
        self._target = target
        self._timeout = timeout
        self._under_way = UnderWay()

    def submit(self, key: str, data: bytes, deadline: float) -> asyncio.Future[Any] | None:
        """Send if connected."""
        connection = self._node.ready
        if connection is None:
            return None
        limit = monotonic() + self._timeout
        return connection.request(data, limit if limit < deadline else deadline)

    def ready(self, key: str) -> Connection | None:
        """Return the connection if there is one."""
        return self._node.ready

    async def execute(self, command: Command, deadline: float) -> Any:
        """Send until there is an answer."""
        with self._under_way:
            return await carry_out(command, _Route(self._node, self._target), deadline, self._timeout)

    def failed(self, key: str, why: str, *, last: bool) -> None:
        """Doubt the server."""
        self._node.failing(why)
        if last:
            self._node.health.count()

    def distrust(self, key: str) -> None:
        """Drop the connection."""
        self._node.distrust()

    async def dial(self, on_close: Callable[[Connection], None]) -> Connection | Failure:
        """Make one more connection to the server."""
        return await self._node.dial(on_close)

    async def connect(self, deadline: float) -> list[tuple[Node, frozenset[int]]] | Failure:
        """Connect to the server."""
        connection = await self._node.connect(deadline)
        return connection if isinstance(connection, Failure) else [(self._node, frozenset())]

    async def close(self) -> None:
        """Wait for what is under way, then close the connection."""
        await self._under_way.over(self._node.settled, self._timeout)
        await self._node.aclose()

    def abandon(self) -> None:
        """Free the socket."""
        self._node.abandon()


class _Route:
    """A command's way: it is the same for all."""

    __slots__ = ("_node", "_target")

    def __init__(self, node: Node, target: Target) -> None:
        self._node = node
        self._target = target

    @property
    def health(self) -> Health:
        return self._node.health

    async def reach(self, deadline: float) -> tuple[Node, Connection] | Failure:
        node = self._node
        connection: Connection | Failure | None = node.connection
        if connection is None:
            connection = await node.connect(deadline)
        if isinstance(connection, Failure):
            self.failed(node, connection)
            return connection._replace(final=connection.final or node.closed)
        return node, connection

    async def send(self, connection: Connection, data: bytes, limit: float) -> Any:
        return await connection.request(data, limit)

    def failed(self, node: Node, failure: Failure) -> None:
        if not (failure.final or node.closed):
            node.failing(failure.why)

    def heed(self, command: Command, node: Node, connection: Connection, error: hiredis.ReplyError) -> bool:
        found = kind(error)
        if found in (ReplyKind.MOVED, ReplyKind.ASK):
            hint = f" (a node of a cluster: {advice(self._target, 'cluster')})"
            refused(command, connection.where, error, hint)
        if found is ReplyKind.RECONNECT:
            node.reconnect(connection)
        return False

"""One server; or the primary of a Sentinel group, which `locate` finds at every connect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import hiredis

from asgi_session._backoff import pause
from asgi_session.errors import StoreUnavailable
from asgi_session.stores.redis.backend import UnderWay, refused, unavailable
from asgi_session.stores.redis.commands import AGAIN, STEPS, Command, ReplyKind, is_down, kind
from asgi_session.stores.redis.connection import Connection, Failure
from asgi_session.stores.redis.node import Node
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
        began = monotonic()
        health = self._node.health
        health.expect(deadline - began + self._timeout)  # that long it may have tried before it came here
        try:
            with self._under_way:
                return await self._execute(command, deadline, began)
        except StoreUnavailable:
            health.count()
            raise
        finally:
            if health.probe is command:
                health.probe = None

    async def _execute(self, command: Command, deadline: float, began: float) -> Any:
        tries = steps = 0
        told = ""
        node = self._node
        while True:
            failure = node.health.refuses(command, began)
            if failure is not None:
                unavailable(command, failure)
            connection: Connection | Failure | None = node.connection
            if connection is None:
                connection = await node.connect(deadline)
            if isinstance(connection, Failure):
                failure = connection
                if failure.final or node.closed:
                    unavailable(command, failure)
                node.failing(failure.why)
            else:
                attempt = min(deadline, monotonic() + self._timeout)
                able = connection.abilities
                reply: Any = await connection.request(command.packed(able), attempt)
                if not isinstance(reply, Failure):
                    reply = command.read(able, reply)
                if isinstance(reply, Failure):
                    failure = reply._replace(executed=False) if command.looks else reply
                    if not node.closed:
                        node.failing(failure.why)
                    if failure.executed is None and not command.repeatable:
                        unavailable(command, failure)
                elif isinstance(reply, hiredis.ReplyError):
                    found = kind(reply)
                    if is_down(reply):
                        node.failing(f"{connection.where} answered: {reply}")
                    else:
                        node.answered()
                    if found in (ReplyKind.MOVED, ReplyKind.ASK):
                        hint = f" (a node of a cluster: {advice(self._target, 'cluster')})"
                        refused(command, connection.where, reply, hint)
                    if found is ReplyKind.REFUSED:
                        refused(command, connection.where, reply)
                    if found is ReplyKind.RECONNECT:
                        node.reconnect(connection)
                    told = f"{connection.where} answered: {reply}"
                    failure = Failure(told, False)
                else:
                    node.answered()
                    if reply is not AGAIN:
                        return reply
                    steps += 1
                    failure = Failure(f"{connection.where}: the record changes all the time", False)
                    if steps <= STEPS and monotonic() < deadline:
                        continue
            tries += 1
            if not await pause(tries, deadline):
                unavailable(command, failure, told)

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
        await asyncio.gather(self._under_way.over(self._timeout), self._node.settled())
        await self._node.aclose()

    def abandon(self) -> None:
        """Free the socket."""
        self._node.abandon()

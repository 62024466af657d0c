"""What the store asks of a single server, a Sentinel group or a cluster; and what they share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from asgi_session.stores.redis.commands import Command
from asgi_session.stores.redis.connection import Connection, Failure
from asgi_session.stores.redis.node import Node


class Backend(Protocol):
    """The servers, as one event loop sees them."""

    def submit(self, key: str, data: bytes, deadline: float) -> asyncio.Future[Any] | None:
        """Send a repeatable command on the connection that is ready; None when none is."""
        ...

    def ready(self, key: str) -> Connection | None:
        """Return the connection that answers for a key, None while there is none to rely on."""
        ...

    def failed(self, key: str, why: str, *, last: bool) -> None:
        """Take notice that what was submitted for a key had no reply; and whether it was the last try."""
        ...

    async def execute(self, command: Command, deadline: float) -> Any:
        """Carry a command out, whatever it takes until the deadline; its reply, or StoreUnavailable."""
        ...

    def distrust(self, key: str) -> None:
        """Drop the connection that answers for a key."""
        ...

    async def dial(self, on_close: Callable[[Connection], None]) -> Connection | Failure:
        """Make a connection on which everything is heard that is published; it is the caller's."""
        ...

    async def connect(self, deadline: float) -> list[tuple[Node, frozenset[int]]] | Failure:
        """Connect to each server that holds sessions; with the slots of a cluster's node."""
        ...

    async def close(self) -> None:
        """Wait for what is under way, then close all connections of this event loop."""
        ...

    def abandon(self) -> None:
        """Free the sockets of an event loop that was closed without `close`."""
        ...


class UnderWay:
    """The verbs that are being carried out with patience: whoever closes waits for them."""

    __slots__ = ("_count", "_over")

    def __init__(self) -> None:
        self._count = 0
        self._over: asyncio.Future[None] | None = None

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count and self._over is not None:
            if not self._over.done():
                self._over.set_result(None)
            self._over = None

    async def over(self, settled: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Wait until none is left, and for what is on the wire, which `settled` waits for.

        Twice, since what is on the wire may be answered in a way that calls for another command: a save
        that has met other bytes is settled by the script. So long in all: what takes longer waits for a
        server that is away.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for _ in range(2):
                    await asyncio.gather(self._none_left(), settled())
                    await asyncio.sleep(0)

    async def _none_left(self) -> None:
        if self._count:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._over])

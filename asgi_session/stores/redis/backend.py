"""What the store asks of a single server, a Sentinel group or a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from asgi_session.stores._shared.connection import Failure
from asgi_session.stores.redis.commands import Command
from asgi_session.stores.redis.connection import Connection
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

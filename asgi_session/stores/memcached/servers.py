"""The servers of a store as one event loop sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from asgi_session._backoff import pause
from asgi_session.stores._shared.addresses import Address, show
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores._shared.node import Node
from asgi_session.stores._shared.reporting import Reporter
from asgi_session.stores._shared.under_way import UnderWay
from asgi_session.stores.memcached.connection import Connection
from asgi_session.stores.memcached.dial import dial
from asgi_session.stores.memcached.ring import Ring
from asgi_session.stores.memcached.target import Target


class Servers:
    """One connection to each server.

    Args:
        target: where they are.
        reporter: is told what happens to them.
        greet: called with each new connection.
    """

    __slots__ = ("_nodes", "_ring", "owner", "timeout", "under_way")

    def __init__(self, target: Target, reporter: Reporter, greet: Callable[[Connection], None]) -> None:
        self._nodes = [_node(target, address, reporter, greet) for address in target.addresses]
        self._ring = Ring([(show(node.address), node) for node in self._nodes])
        self.owner: Callable[[str], Node[Connection]] = self._ring.owner
        """Returns the server that a key belongs to."""
        if len(self._nodes) == 1:
            (only,) = self._nodes
            self.owner = lambda key: only
        self.timeout = target.timeout
        self.under_way = UnderWay()

    async def connect(self, deadline: float) -> Failure | None:
        """Connect to all; what may heal is tried again until the deadline."""
        tries = 0
        while True:
            found = await asyncio.gather(*(node.connect(deadline) for node in self._nodes))
            failures = [each for each in found if isinstance(each, Failure)]
            worst = max(failures, key=lambda each: each.final, default=None)
            if worst is None or worst.final or monotonic() >= deadline:
                return worst
            tries += 1
            if not await pause(tries, deadline):
                return worst

    async def close(self) -> None:
        """Wait for what is under way, then close the connections."""
        await self.under_way.over(self._settled, self.timeout)
        await asyncio.gather(*(node.aclose() for node in self._nodes))

    def abandon(self) -> None:
        """Free the sockets of an event loop that was closed without `close`."""
        for node in self._nodes:
            node.abandon()

    async def _settled(self) -> None:
        await asyncio.gather(*(node.settled() for node in self._nodes))


def _node(
    target: Target, address: Address, reporter: Reporter, greet: Callable[[Connection], None]
) -> Node[Connection]:
    async def connect(on_close: Callable[[Connection], None]) -> Connection | Failure:
        return await dial(target, address, on_close)

    return Node(address, connect, target.max_age, reporter, greet)

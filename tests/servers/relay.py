"""What every proxy of ours does: listens, accepts, asks the server, refuses, drops connections."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import Self

from tests.servers.server import HOST

_MOST = 2**20
"""Bytes that a reader takes in before it is looked at: a whole record, at one go."""


class Relay(ABC):
    """Stands before the server on a port, in whichever event loop. A subclass says what is passed on.

    Attributes:
        port: where clients connect.
        connections: how many have.
    """

    def __init__(self, server_port: int, *, host: str = HOST) -> None:
        self.port = 0
        self.connections = 0
        self._server = (host, server_port)
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        """Serve a connection: `reader` and `writer` are the client's, the others the server's."""

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._serve, self._server[0], self.port, limit=_MOST, backlog=1024
            )
            self.port = self._listener.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Accept none any more, and drop those there are."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self.drop()

    async def drop(self) -> None:
        """Drop the connections there are."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        up_writer: asyncio.StreamWriter | None = None
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._server, limit=_MOST)
            await self.pass_on(reader, writer, up_reader, up_writer)
        except (OSError, EOFError, asyncio.CancelledError):  # the last by `drop`: the task just ends
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, up_writer):
                if end is not None:
                    # Aborted, not closed: a client must not wait for bytes that are still buffered.
                    end.transport.abort()
                    with contextlib.suppress(OSError):
                        await end.wait_closed()


class Proxy(Relay):
    """One in the test's own event loop, inside an ``async with`` block."""

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()

    async def accept(self) -> None:
        """Listen, on the same port as before."""
        await self.listen()

    async def refuse(self) -> None:
        """Stop listening, so that connecting is refused, and drop the connections there are."""
        await self.shut()

    async def drop_connections(self) -> None:
        """Drop the connections there are; new ones are welcome."""
        await self.drop()


async def until_one_ends(*ways: asyncio.Future[None]) -> None:
    """Wait for the first of the two ways of a connection to end; the other one ends then, too."""
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)

"""A server that answers as a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

Answer = Callable[[int, tuple[bytes, ...]], bytes | None]
"""From the number of the connection, beginning with 1, and the command, to the reply; None hangs up."""

HELLO = b"%1\r\n$5\r\nproto\r\n:3\r\n"


@dataclass
class Scripted:
    """Where it listens, and what it has seen."""

    port: int = 0
    connections: int = 0
    commands: list[tuple[bytes, ...]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


async def _command(reader: asyncio.StreamReader) -> tuple[bytes, ...]:
    parts: list[bytes] = []
    for _ in range(int((await reader.readline())[1:])):
        size = int((await reader.readline())[1:])
        parts.append((await reader.readexactly(size + 2))[:-2])
    return tuple(parts)


@contextlib.asynccontextmanager
async def scripted(answer: Answer) -> AsyncIterator[Scripted]:
    """Serve; logins and PING are answered as usual, all else by `answer`."""
    server = Scripted()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        number = server.connections
        with contextlib.suppress(ConnectionError, ValueError, asyncio.IncompleteReadError):
            while True:
                command = await _command(reader)
                server.commands.append(command)
                if command[0] == b"HELLO":
                    writer.write(HELLO)
                elif command[0] in (b"CLIENT", b"SELECT"):
                    writer.write(b"+OK\r\n")
                elif command[0] == b"PING":
                    writer.write(b"+PONG\r\n")
                elif (reply := answer(number, command)) is not None:
                    writer.write(reply)
                else:
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(start, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for _ in range(10):  # a connection that was being accepted becomes a task
            await asyncio.sleep(0)
        if tasks:
            await asyncio.wait(tasks, timeout=5)  # the clients are gone, so these end
        assert not tasks, "a client has not closed its connection"

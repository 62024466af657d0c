"""What the tests of `MemcachedStore` share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable

from asgi_session.store import Stored
from asgi_session.stores.memcached import MemcachedStore

KEY = "k" * 22


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def in_an_hour() -> int:
    return int(time.time() * 1000) + 3_600_000


def record(body: bytes = b"body") -> bytes:
    return os.urandom(16) + body


async def written(store: MemcachedStore, key: str = KEY, data: bytes | None = None) -> Stored:
    """Create a record and return it."""
    await store.create(key, data or record(), in_an_hour(), deadline=soon())
    found = await store.load(key, deadline=soon())
    assert found is not None
    return found


@contextlib.asynccontextmanager
async def scripted(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve what a test says, line by line; None hangs up. Gives the URL, and what was received."""
    seen: list[bytes] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                seen.append(line)
                reply = answer(line)
                if reply is None:
                    break
                writer.write(reply)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"memcached://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

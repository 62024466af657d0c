"""Saves alone: as this library's store sends them, and as a plain ``SET`` that compares nothing.

Both go 64 at a time over one connection that all share. What is ready in one turn of the event loop leaves
in one write, so that the server reads as many commands at once in both cases.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from hiredis import pack_command

from asgi_session.store import TAG_SIZE, Saved, Stored
from asgi_session.stores import RedisStore
from benchmarks.calls import stored_session
from benchmarks.sessions import USUAL
from benchmarks.worker import Bed

AT_A_TIME: Final = 64
VIAS: Final = {"store": "asgi-session, RedisStore.save", "plain": "plain SET with PXAT"}

_OK: Final = b"+OK\r\n"
_EXPIRY: Final = 8  # bytes in front of a record, which the store itself adds


class PlainConnection(asyncio.Protocol):
    """Sends commands that are answered with OK; those of one turn of the event loop in one write."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: list[bytes] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, command: bytes) -> asyncio.Future[None]:
        """Send a command; the future is done when the server has answered."""
        if not self._ready:
            self._loop.call_soon(self._flush)
        self._ready.append(command)
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def _flush(self) -> None:
        assert self._transport is not None
        self._transport.write(b"".join(self._ready))
        self._ready.clear()

    def data_received(self, data: bytes) -> None:
        *answers, self._received = (self._received + data).split(b"\n")
        for answer in answers:
            future = self._waiting.popleft()
            if answer + b"\n" == _OK:
                future.set_result(None)
            else:
                future.set_exception(RuntimeError(f"the server answered {answer!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        while self._waiting:
            self._waiting.popleft().set_exception(RuntimeError(f"the connection was lost: {error}"))

    async def close(self) -> None:
        """Close the connection."""
        assert self._transport is not None
        self._transport.close()


Save = Callable[[int], Awaitable[None]]
"""Saves one record that often, each time after the one before was answered."""


async def prepare_saves(bed: Bed, via: str) -> None:
    """Put 64 records into the store; keep on the bed what saves each of them."""
    stored, _ = await stored_session(USUAL)
    savers = await (_by_store if via == "store" else _plainly)(bed, stored)
    bed.kept["saves", via] = savers


async def save_all(bed: Bed, via: str, each: int) -> int:
    """Save each of the records `each` times, all of them at once; return how many saves that were."""
    savers: list[Save] = bed.kept["saves", via]
    await asyncio.gather(*[save(each) for save in savers])
    return each * len(savers)


async def _by_store(bed: Bed, stored: Stored) -> list[Save]:
    store = RedisStore.from_url(bed.store_url)
    bed.at_end(store.close)

    async def saver() -> Save:
        key = _key()
        await store.create(key, stored.data, stored.expires_at, deadline=_soon())
        found = await store.load(key, deadline=_soon())
        assert found is not None
        expect = found

        async def save(times: int) -> None:
            nonlocal expect
            for _ in range(times):
                # A version of its own each time, as a save has one: it begins with the tag.
                data = os.urandom(TAG_SIZE) + stored.data[TAG_SIZE:]
                done = await store.save(key, data, stored.expires_at, expect=expect, deadline=_soon())
                assert isinstance(done, Saved), done
                expect = Stored(data, done.tag, stored.expires_at)

        return save

    return [await saver() for _ in range(AT_A_TIME)]


async def _plainly(bed: Bed, stored: Stored) -> list[Save]:
    address = urlsplit(bed.store_url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(PlainConnection, address.hostname, address.port)
    bed.at_end(connection.close)

    def saver() -> Save:
        key = f"asgi_session:{{{_key()}}}"  # as long as the store's own

        async def save(times: int) -> None:
            for _ in range(times):
                data = os.urandom(16 + _EXPIRY) + stored.data[16:]
                await connection.send(pack_command(("SET", key, data, "PXAT", stored.expires_at)))

        return save

    return [saver() for _ in range(AT_A_TIME)]


def _key() -> str:
    return os.urandom(11).hex()  # 22 characters, as long as a selector


def _soon() -> float:
    return time.monotonic() + 5

"""The locks that are compared: each does a whole locked read-modify-write of one record.

One operation adds 1 to a count in a record of about 700 B, with `hold` seconds of waiting for something
else between reading and writing. Ours has the count in a web shop's session and decodes and encodes
it. The others' record is a count and filling, which costs them next to nothing to read and to write.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from redis.asyncio import Redis

from asgi_session import SessionManager
from asgi_session._session.session import Session
from asgi_session._web.cookie import Cookie
from asgi_session.stores import RedisStore
from benchmarks.grants import NEVER
from benchmarks.layers import CONNECTIONS
from benchmarks.sessions import USUAL, session_of_size

WAIT: Final = 60.0
LEASE: Final = 30.0
_DIGITS: Final = 20
_FILLING: Final = b"x" * (USUAL - _DIGITS)


class Times:
    """When an operation asked for the lock, was inside, and began to give it back."""

    __slots__ = ("asked", "inside", "left")

    def __init__(self) -> None:
        self.asked = self.inside = self.left = NEVER


Operation = Callable[[Times, float], Awaitable[None]]
"""One locked read-modify-write that holds the lock for so many seconds, and tells its times."""


class Locker(Protocol):
    """A lock, and the record under it, in one process.

    Attributes:
        create: make a new record; returns what the locker finds it by, in every process.
        waiter: return what does operations on a record, for one waiter.
        count: return the record's count.
        close: disconnect.
    """

    async def create(self) -> str: ...
    async def waiter(self, record: str) -> Operation: ...
    async def count(self, record: str) -> int: ...
    async def close(self) -> None: ...


class Ours:
    """`Session.lock`, on a session that is loaded anew for each operation, as in a request."""

    def __init__(self, url: str) -> None:
        self._cookie = Cookie()
        self._store = RedisStore.from_url(url)
        self._manager = SessionManager(self._store)

    async def create(self) -> str:
        session = await Session(self._manager._engine, self._cookie).load()
        session.update(session_of_size(USUAL))
        await session.commit()
        assert session._token is not None
        token = self._manager._policy.tokens.write(session._token)
        await self._load(token)  # confirms it: else every load would send a touch
        await self._manager.drain()
        return token

    async def _load(self, token: str) -> Session:
        headers = [(b"cookie", f"{self._cookie.name}={token}".encode())]
        return await Session(self._manager._engine, self._cookie, headers).load()

    async def waiter(self, record: str) -> Operation:
        async def operate(times: Times, hold: float) -> None:
            await self._operate(await self._load(record), times, hold)

        return operate

    @staticmethod
    async def _operate(session: Any, times: Times, hold: float) -> None:
        times.asked = time.monotonic()
        async with session.lock(wait=WAIT, lease=LEASE) as locked:
            times.inside = time.monotonic()
            count = locked["count"]
            if hold:
                await asyncio.sleep(hold)
            locked["count"] = count + 1
            times.left = time.monotonic()

    async def count(self, record: str) -> int:
        count: int = (await self._load(record))["count"]
        return count

    async def close(self) -> None:
        await self._manager.close()
        await self._store.close()


class OursKept(Ours):
    """`Session.lock`, on a session that each waiter loads once and keeps, as in a WebSocket."""

    async def waiter(self, record: str) -> Operation:
        session = await self._load(record)

        async def operate(times: Times, hold: float) -> None:
            await self._operate(session, times, hold)

        return operate


class RedisPy:
    """redis-py's asyncio `Lock` at its default, a try every 100 ms, around a GET and a SET."""

    SLEEP: float | None = None

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url, max_connections=CONNECTIONS)

    async def create(self) -> str:
        record = f"record:{uuid.uuid4().hex}"
        await self._client.set(record, _record(0))
        return record

    async def waiter(self, record: str) -> Operation:
        options = {} if self.SLEEP is None else {"sleep": self.SLEEP}
        name = f"lock:{record}"

        async def operate(times: Times, hold: float) -> None:
            lock = self._client.lock(name, timeout=LEASE, blocking_timeout=WAIT, **options)
            times.asked = time.monotonic()
            async with lock:
                times.inside = time.monotonic()
                await self._add_one(record, hold)
                times.left = time.monotonic()

        return operate

    async def _add_one(self, record: str, hold: float) -> None:
        count = _count(await self._client.get(record))
        if hold:
            await asyncio.sleep(hold)
        await self._client.set(record, _record(count + 1))

    async def count(self, record: str) -> int:
        return _count(await self._client.get(record))

    async def close(self) -> None:
        await self._client.aclose()


class RedisPy10ms(RedisPy):
    """redis-py's asyncio `Lock` with a try every 10 ms, around a GET and a SET."""

    SLEEP = 0.01


_RELEASE: Final = """\
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""


class Loop(RedisPy):
    """What one writes by hand: ``SET NX PX`` every 10 ms, and a script that deletes one's own."""

    async def waiter(self, record: str) -> Operation:
        name, client = f"lock:{record}", self._client
        release = client.register_script(_RELEASE)

        async def operate(times: Times, hold: float) -> None:
            token = uuid.uuid4().hex
            times.asked = time.monotonic()
            while not await client.set(name, token, nx=True, px=int(LEASE * 1000)):
                if time.monotonic() - times.asked > WAIT:
                    raise TimeoutError("the lock was not to be had")
                await asyncio.sleep(0.01)
            times.inside = time.monotonic()
            try:
                await self._add_one(record, hold)
            finally:
                times.left = time.monotonic()
                await release(keys=[name], args=[token])

        return operate


def _record(count: int) -> bytes:
    return b"%0*d%b" % (_DIGITS, count, _FILLING)


def _count(record: bytes) -> int:
    return int(record[:_DIGITS])


LOCKERS: Final[dict[str, tuple[str, Callable[[str], Locker]]]] = {
    "ours": ("asgi-session", Ours),
    "ours_kept": ("asgi-session, session kept", OursKept),
    "redis_py": ("redis-py Lock", RedisPy),
    "redis_py_10ms": ("redis-py Lock, 10 ms", RedisPy10ms),
    "loop": ("SET NX loop, 10 ms", Loop),
}
"""The title of each, and what makes one for the server at a URL."""

"""Fills a store with many sessions without a request for each, and knows the cookie of every one.

The n-th session's credential is computed from n, so that a million of them need not be kept; its
``user_id`` is n. The records are those that the layer itself would have written, by its own code as
far as it goes.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from asgi_session.store import TAKEN
from benchmarks.sessions import USUAL, session_of_size
from benchmarks.worker import Bed

_BATCH: Final = 1000


def _digest(n: int) -> bytes:
    return hashlib.blake2b(b"session %d" % n, digest_size=32).digest()


async def _fill_ours(bed: Bed, first: int, end: int) -> None:
    """Write sessions first to end - 1 with the store's own `create`, as confirmed ones."""
    from asgi_session import SessionManager
    from asgi_session._data import codec, record
    from asgi_session._data.expiry import expires_at
    from asgi_session._data.token import Token
    from asgi_session.stores import RedisStore

    manager = SessionManager(RedisStore.from_url(bed.store_url))  # with the options that the layer has
    policy = manager._policy
    entries = {key: codec.encode(value, key) for key, value in session_of_size(USUAL).items()}

    async def create(n: int) -> None:
        token = Token(*_parts(n))
        now = policy.clock()
        new = record.new_record(
            now=now,
            idle=policy.idle,
            absolute=policy.absolute,
            digest=policy.tokens.digest(token),
            check=policy.tokens.check(token.selector),
            entries={**entries, "user_id": codec.encode(n, "user_id")},
        )
        expires = expires_at(now, policy.idle, new.deadline)
        data = record.encode(new)
        created = await manager.store.create(token.selector, data, expires, deadline=time.monotonic() + 60)
        if created is TAKEN:
            raise RuntimeError(f"session {n} was there already")

    for start in range(first, end, _BATCH):
        await asyncio.gather(*[create(n) for n in range(start, min(start + _BATCH, end))])
    await manager.store.close()


def _parts(n: int) -> tuple[str, str]:
    """Return the n-th selector and verifier."""
    digest = _digest(n)
    selector, verifier = (
        urlsafe_b64encode(part).rstrip(b"=").decode() for part in (digest[:16], digest[16:])
    )
    return selector, verifier


async def _fill_starsessions(bed: Bed, first: int, end: int) -> None:
    """Write what starsessions' handler and its RedisStore write, many in one pipeline."""
    from redis.asyncio import Redis
    from starsessions import JsonSerializer
    from starsessions.stores.redis import RedisStore

    client = Redis.from_url(bed.store_url)
    name = RedisStore(connection=client).prefix
    lifetime = 14 * 24 * 3600
    now = time.time()
    metadata = {"lifetime": lifetime, "created": now, "last_access": now}
    session = {**session_of_size(USUAL), "user_id": "<n>", "__metadata__": metadata}
    before, after = JsonSerializer().serialize(session).split(b'"<n>"')
    for start in range(first, end, _BATCH):
        pipeline = client.pipeline(transaction=False)
        for n in range(start, min(start + _BATCH, end)):
            pipeline.set(name(_id(n)), b"%b%d%b" % (before, n, after), ex=lifetime)
        await pipeline.execute()
    await client.aclose()


def _id(n: int) -> str:
    """Return the n-th session id of starsessions: 16 bytes in hexadecimal."""
    return _digest(n)[:16].hex()


FILLERS: Final[dict[str, tuple[Callable[[Bed, int, int], Awaitable[None]], Callable[[int], str]]]] = {
    "asgi_session_redis": (_fill_ours, lambda n: "".join(_parts(n))),
    "starsessions": (_fill_starsessions, _id),
}
"""What fills the store for a layer, and what the n-th session's cookie holds."""


async def fill(bed: Bed, name: str, first: int, end: int) -> None:
    """Put sessions number `first` to `end` - 1 of the layer `name` into its store."""
    await FILLERS[name][0](bed, first, end)


async def headers_of(bed: Bed, name: str, numbers: Iterable[int]) -> list[list[tuple[bytes, bytes]]]:
    """Return the headers with the cookie of each of these sessions of the layer `name`."""
    [browser] = await bed.browsers(1, USUAL)  # only to learn what the cookie is called
    cookie = browser.headers[0][1].partition(b"=")[0]
    value = FILLERS[name][1]
    return [[(b"cookie", cookie + b"=" + value(n).encode())] for n in numbers]

"""The library's parts on their own: the time of single calls, and GETs through its connection."""

from __future__ import annotations

import asyncio
import json
import time
import timeit
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from typing import Any, Final

import msgpack
from redis.asyncio import Redis

from asgi_session import SessionManager, SessionMiddleware
from asgi_session._data import codec, record
from asgi_session._data.change import Change
from asgi_session._data.fold import fold
from asgi_session._data.record import Record
from asgi_session._data.rules import Rules
from asgi_session._data.sealing import Sealer
from asgi_session._data.token import DEFAULT_NAMESPACE, PART_LENGTH, Tokens, new_token
from asgi_session._session.session import Session
from asgi_session._web.cookie import Cookie
from asgi_session._web.same_origin import Origins
from asgi_session.store import CreateResult, Saved, Stored
from asgi_session.stores import MemoryStore, RedisStore
from benchmarks.client import nothing
from benchmarks.layers import CONNECTIONS
from benchmarks.sessions import session_of_size
from benchmarks.worker import Bed, Meter

KEY: Final = "user_id"
HOSTILE: Final = "encode and check what a client made to cost most"
ENCRYPTION_KEY: Final = "0123456789abcdef0123456789abcdef"
AT_A_TIME: Final = 64

Header = tuple[bytes, bytes]
Case = tuple[str, str, str, dict[str, Any]]
"""A part, what it does, the Python statement that does it once, and the names in that."""


class Ready:
    """A store with one record, that answers at once: what is measured is all that is not the store's."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        return self.stored

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        return Saved(data[:16])

    async def save(self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float) -> Saved:
        return Saved(data[:16])

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        return True

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        return True


async def stored_session(size: int) -> tuple[Stored, list[tuple[bytes, bytes]]]:
    """Return a session of `size` bytes as a store has it, and the headers that open it."""
    store, cookie = MemoryStore(), Cookie()
    manager = SessionManager(store)
    session = await Session(manager._engine, cookie).load()
    session.update(session_of_size(size))
    await session.commit()
    assert session.id is not None and session._token is not None
    value = f"{cookie.name}={manager._policy.tokens.write(session._token)}"
    headers = [(b"host", b"example.org"), (b"accept", b"*/*"), (b"cookie", value.encode())]
    await Session(manager._engine, cookie, headers).load()  # confirms it: else every load would send a touch
    await manager.drain()
    stored = await store.load(session.id, deadline=time.monotonic() + 5)
    assert stored is not None
    return stored, headers


def small_cases() -> Iterator[Case]:
    """Yield what does not depend on a session's size."""
    token = new_token()
    for what, tokens in (("", Tokens("default")), (", signed", Tokens("default", ["0123456789abcdef"]))):
        names: dict[str, Any] = {"tokens": tokens, "text": tokens.write(token), "token": token}
        yield "token", f"read from the cookie's value{what}", "tokens.read(text)", names
        yield "token", f"write{what}", "tokens.write(token)", names
    yield "token", "digest", "tokens.digest(token)", names
    yield "token", "draw a new one", "new()", {"new": new_token}
    cookie = Cookie()
    value = f"{cookie.name}={'x' * 44}".encode()
    headers = [(b"host", b"example.org"), (b"accept", b"*/*"), (b"cookie", value)]
    yield "cookie", "read from the headers", "cookie.read(headers)", {"cookie": cookie, "headers": headers}
    names = {"cookie": cookie, "value": "x" * 44}
    yield "cookie", "write Set-Cookie", "cookie.write(value, 1209600)", names
    several = [*headers[:2], (b"cookie", b"theme=dark; " + value + b"; lang=en")]
    names = {"cookie": cookie, "alone": headers, "several": several, "none": headers[:2]}
    yield "cookie", "take it out of the headers", "cookie.without(alone)", names
    yield "cookie", "take it out of the headers, two others stay", "cookie.without(several)", names
    yield "cookie", "look for it where there is none", "cookie.without(none)", names
    yield from _decisions(headers)
    yield from _untouched(headers)


def _decisions(headers: list[Header]) -> Iterator[Case]:
    """Yield what `same_origin` decides on: a POST from a browser, over https and over plain http."""
    origin = (b"origin", b"https://example.org")
    names = {
        "origins": Origins([], websocket_needs_origin=False),
        "fetched": [*headers, origin, (b"sec-fetch-site", b"same-origin")],
        "plain": [*headers, origin],
    }
    yield "same_origin", "decide by Sec-Fetch-Site", "origins.refuses('POST', fetched)", names
    yield "same_origin", "decide by Origin and Host", "origins.refuses('POST', plain)", names


def _untouched(headers: list[Header]) -> Iterator[Case]:
    """Yield whole requests that carry a cookie, through the middleware to an app that does not use it."""
    sent = [*headers, (b"origin", b"https://example.org"), (b"sec-fetch-site", b"same-origin")]
    scope = {"type": "http", "method": "POST", "scheme": "https", "path": "/", "headers": sent}
    for what, options in (
        ("the cookie left in the headers", {"hide_cookie": False}),
        ("the cookie hidden", {}),
        ("the cookie hidden, same_origin", {"same_origin": True}),
    ):
        app = SessionMiddleware(nothing, store=MemoryStore(), **options)  # type: ignore[arg-type]
        names = {"finish": _finish, "app": app, "scope": scope, "send": _send_to_nobody}
        yield "untouched POST", what, "finish(app(scope.copy(), None, send))", names


async def _send_to_nobody(message: Any) -> None: ...


def sized_cases(stored: Stored, headers: list[tuple[bytes, bytes]], size: int) -> Iterator[Case]:
    """Yield what depends on a session's size."""
    session = session_of_size(size)
    read: Record = record.decode(stored.data)
    entries, values = list(read.entries.values()), list(session.items())
    names: dict[str, Any] = {
        "decode": codec.decode,
        "encode": codec.encode,
        "entries": entries,
        "one": read.entries[KEY],
        "values": values,
    }
    yield "codec", "decode one value", "decode(one)", names
    yield "codec", "encode one value", "encode(4711, 'user_id')", names
    yield "codec", "decode every value", "for entry in entries: decode(entry)", names
    yield "codec", "encode every value", "for key, value in values: encode(value, key)", names
    half = size // 2
    names = {"encode": codec.encode, "check": codec.check, "hostile": {"\x7f" * half: [""] * half}}
    yield "codec", HOSTILE, "check(hostile, 'draft', encode(hostile, 'draft'))", names
    names = {"record": record, "data": stored.data, "read": read}
    yield "record", "decode", "record.decode(data)", names
    yield "record", "encode", "record.encode(read)", names
    key = headers[-1][1].partition(b"=")[2][:PART_LENGTH].decode()
    sealer = Sealer(DEFAULT_NAMESPACE, [ENCRYPTION_KEY])
    sealed = sealer.seal(stored.data, key)
    keys = [new_token().selector for _ in range(300)]  # more than it keeps the ciphers of
    strangers = cycle([(sealer.seal(stored.data, one), one) for one in keys]).__next__
    names = {"sealer": sealer, "data": stored.data, "sealed": sealed, "key": key, "strangers": strangers}
    yield "sealing", "seal an encoded record", "sealer.seal(data, key)", names
    yield "sealing", "open and decode", "sealer.decode(sealed, key)", names
    yield "sealing", "open and decode one not met lately", "sealer.decode(*strangers())", names
    change = Change({"count": codec.encode(1, "count")}, read.epoch)
    names = {"fold": fold, "read": read, "change": change, "rules": Rules()}
    merge = "fold(read, (change,), rules, 1 << 20, 1)"
    yield "changes", "apply one changed key, encode the record", merge, names
    names = {
        "finish": _finish,
        "Session": Session,
        "engine": SessionManager(Ready(stored))._engine,
        "cookie": Cookie(),
        "headers": headers,
    }
    load = "session = Session(engine, cookie, headers); finish(session.load())"
    yield "session", "load", load, names
    yield "session", "load, read one key", f"{load}; session['{KEY}']", names
    yield "session", "load, read every key", f"{load}; dict(session)", names
    ready = Ready(Stored(sealed, stored.tag, stored.expires_at))
    engine = SessionManager(ready, encryption_key=ENCRYPTION_KEY)._engine
    yield "session", "load, sealed", load, names | {"engine": engine}
    change = f"{load}; session['count'] = session['count'] + 1"
    yield "session", "load, change one key, find the change", f"{change}; session._changes()", names
    packed, text = msgpack.packb(session), json.dumps(session)
    names = {"msgpack": msgpack, "json": json, "packed": packed, "text": text, "plain": session}
    yield "for scale", "msgpack.unpackb of the whole dict", "msgpack.unpackb(packed)", names
    yield "for scale", "msgpack.packb of the whole dict", "msgpack.packb(plain)", names
    yield "for scale", "json.loads of the whole dict", "json.loads(text)", names
    yield "for scale", "json.dumps of the whole dict", "json.dumps(plain)", names


def _finish(coroutine: Any) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("it waited")


def time_of(statement: str, names: dict[str, Any], repeats: int) -> float:
    """Return the ns that a statement takes: the best of several repeats of at least 2 ms each."""
    timer = timeit.Timer(statement, globals=names)
    count = 1
    while timer.timeit(count) < 0.002:
        count *= 2
    return min(timer.repeat(repeats, count)) / count * 1e9


async def calls(bed: Bed, sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    """Return the ns of each call; `size` 0 where a session's size does not matter."""
    cases = [(0, *case) for case in small_cases()]
    for size in sizes:
        cases += [(size, *case) for case in sized_cases(*await stored_session(size), size)]
    return [
        {"part": part, "what": what, "size": size, "ns": time_of(statement, names, repeats)}
        for size, part, what, statement, names in cases
    ]


async def gets(bed: Bed, via: str, size: int, requests: int) -> dict[str, float]:
    """Get records of `size` bytes, 64 at a time; return the cost of one GET."""
    key = ("gets", via, size)
    if key not in bed.kept:
        bed.kept[key] = await _getter(bed.store_url, via, size)
    each = max(requests // AT_A_TIME, 1)
    run: Callable[[int], Awaitable[None]] = bed.kept[key]
    with Meter() as meter:
        await run(each)
    return meter.per(each * AT_A_TIME)


async def _getter(url: str, via: str, size: int) -> Callable[[int], Awaitable[None]]:
    """Store 64 records; return what gets each of them so many times."""
    stored, _ = await stored_session(size)
    keys = [new_token().selector for _ in range(AT_A_TIME)]
    if via == "store":
        store = RedisStore.from_url(url)
        for key in keys:
            await store.create(key, stored.data, stored.expires_at, deadline=time.monotonic() + 5)

        async def load(key: str, times: int) -> None:
            for _ in range(times):
                found = await store.load(key, deadline=time.monotonic() + 5)
                assert found is not None

        return lambda times: _all(load(key, times) for key in keys)

    client = Redis.from_url(url, max_connections=CONNECTIONS)
    for key in keys:
        await client.set(key, stored.data)

    async def get(key: str, times: int) -> None:
        for _ in range(times):
            found = await client.get(key)
            assert found is not None

    async def pipeline(times: int) -> None:
        for _ in range(times):
            async with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.get(key)
                found = await pipe.execute()
            assert None not in found

    return pipeline if via == "pipeline" else lambda times: _all(get(key, times) for key in keys)


async def _all(work: Any) -> None:
    await asyncio.gather(*work)

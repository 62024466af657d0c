"""What a real server was asked, through the middleware, by its own count."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from asgi_session import Session, SessionMiddleware
from asgi_session.stores.redis import RedisStore
from asgi_session.testing import ManualClock
from tests.inside import COOKIE_NAME
from tests.servers import ServerProcess

KEY = "a secret of at least sixteen bytes"
Handler = Callable[[Session], Awaitable[None]]


class Site:
    """An app on a real server, and a count of what it sends there."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.clock = ManualClock()
        self.store = RedisStore.from_url(server.url)
        self.middleware = SessionMiddleware(
            self._app, store=self.store, secret_key=KEY, clock=self.clock, idle_timeout=14 * 86400
        )
        self._handlers: dict[str, Handler] = {}

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await scope["handler"](scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def get(
        self,
        handler: Handler,
        cookie: str | None = None,
        *,
        through: SessionMiddleware | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> str | None:
        """Serve one request; return the cookie's value, if one was set."""
        answered: list[Any] = []

        async def send(message: Any) -> None:
            answered.append(message)

        own = [] if cookie is None else [(b"cookie", f"{COOKIE_NAME}={cookie}".encode())]
        headers = [*own, *headers]
        scope = {"type": "http", "method": "GET", "scheme": "https", "path": "/", "headers": headers}
        await (through or self.middleware)(scope | {"handler": handler}, None, send)  # type: ignore[arg-type]
        assert answered[0]["status"] == 200
        for name, value in answered[0]["headers"]:
            if name == b"set-cookie":
                return str(value.decode().partition("=")[2].partition(";")[0])
        return None

    async def counted(self, work: Awaitable[Any]) -> dict[str, int]:
        """Do `work`; return what clients sent meanwhile (of a script's own commands only GET and SET)."""
        await self.middleware.manager.drain()
        self.server.reset_stats()
        await work
        await self.middleware.manager.drain()
        stats = self.server.commandstats()
        own = (
            "get",
            "set",
            "evalsha",
            "eval",
            "del",
            "ping",
            "client|setinfo",
            "hello",
            "auth",
            "select",
            "script|load",
        )
        known = {name: calls for name, calls in stats.items() if name in own}
        inside = {"getrange", "setrange", "pexpireat", "pexpiretime", "exists", "time", "strlen"}
        assert stats.keys() <= known.keys() | inside, stats
        return known


@pytest.fixture
async def site(valkey: ServerProcess) -> AsyncIterator[Site]:
    made = Site(valkey)
    # So that each script is known to the server, and everything is connected.
    cookie = await made.get(write(warm=1))
    await made.get(write(warm=2), cookie)
    await made.middleware.manager.drain()
    yield made
    await made.middleware.manager.close()
    await made.store.close()


def write(**values: Any) -> Handler:
    async def handler(session: Session) -> None:
        await session.load()
        session.update(values)

    return handler


async def read(session: Session) -> None:
    dict(await session.load())


async def unused(session: Session) -> None:
    pass


async def confirmed(site: Site) -> str:
    """Return the cookie of a session that has come back once."""
    cookie = await site.get(write(n=0, nested={"a": [1]}))
    assert cookie is not None
    await site.get(read, cookie)
    await site.middleware.manager.drain()
    return cookie


async def test_nothing(site: Site) -> None:
    """Promise 1: no use, no cookie, a forged cookie: no command."""
    cookie = await confirmed(site)
    forged = cookie[:-4] + ("AAAA" if cookie[-4:] != "AAAA" else "BBBB")
    assert await site.counted(site.get(unused, cookie)) == {}
    assert await site.counted(site.get(read)) == {}
    assert await site.counted(site.get(read, forged)) == {}
    assert await site.counted(site.get(read, "x" * 5000)) == {}
    assert await site.counted(site.get(read, cookie.partition(".")[0])) == {}


async def test_a_read_and_a_write(site: Site) -> None:
    """Promise 2: a read is one command, a read and a write two, unchanged data is not written."""
    cookie = await confirmed(site)
    assert await site.counted(site.get(read, cookie)) == {"get": 1}
    assert await site.counted(site.get(write(n=1), cookie)) == {"get": 1, "set": 1}
    assert await site.counted(site.get(write(n=1, nested={"a": [1]}), cookie)) == {"get": 1}


async def test_a_new_session_and_its_first_return(site: Site) -> None:
    """Promise 2: a new session is one command; its first return one more than a read."""
    made: list[str | None] = []

    async def create() -> None:
        made.append(await site.get(write(n=0)))

    assert await site.counted(create()) == {"set": 1}
    assert await site.counted(site.get(read, made[0])) == {"get": 1, "evalsha": 1}
    assert await site.counted(site.get(read, made[0])) == {"get": 1}


async def test_a_touch_where_it_is_due(site: Site) -> None:
    """Promise 2: nothing within 5 % of the idle timeout, then one touch, for sixty requests at once too."""
    cookie = await confirmed(site)
    site.clock.advance(14 * 86400 * 0.049)
    assert await site.counted(site.get(read, cookie)) == {"get": 1}
    site.clock.advance(14 * 86400 * 0.002)
    assert await site.counted(site.get(read, cookie)) == {"get": 1, "evalsha": 1}
    assert await site.counted(site.get(read, cookie)) == {"get": 1}
    site.clock.advance(86400)
    sixty = asyncio.gather(*(site.get(read, cookie) for _ in range(60)))
    assert await site.counted(sixty) == {"get": 60, "evalsha": 1}


async def test_passive_requests(site: Site) -> None:
    """Promise 2: a passive request is one command, whenever it comes; one that writes is one more."""
    site.middleware.passive = lambda connection: "x-poll" in connection.headers

    async def poll(handler: Handler, cookie: str | None) -> None:
        await site.get(handler, cookie, headers=[(b"x-poll", b"1")])

    made = await site.get(write(n=0))
    assert await site.counted(poll(read, made)) == {"get": 1}, "it confirms nothing"
    assert await site.counted(site.get(read, made)) == {"get": 1, "evalsha": 1}
    for _ in range(3):
        site.clock.advance(3 * 86400)
        assert await site.counted(poll(read, made)) == {"get": 1}
        assert await site.counted(poll(write(n=0), made)) == {"get": 1}
    assert await site.counted(poll(write(n=1), made)) == {"get": 1, "set": 1}
    assert await site.counted(poll(read, None)) == {}
    assert await site.counted(site.get(read, made)) == {"get": 1, "evalsha": 1}


async def test_a_lifetime(site: Site) -> None:
    """Promise 2: giving a session a lifetime is a write; the server's own expiry follows at once."""

    async def hour(session: Session) -> None:
        await session.load()
        session.set_lifetime(idle=3600)

    cookie = await confirmed(site)
    assert await site.counted(site.get(hour, cookie)) == {"get": 1, "set": 1}
    stored = await site.store.load(cookie[:22], deadline=time.monotonic() + 5)
    assert stored is not None
    assert stored.expires_at == site.clock() + 3_600_000
    assert await site.counted(site.get(hour, cookie)) == {"get": 1}


async def test_a_rotation_with_grace(site: Site) -> None:
    """Promise 2: one save, one more when the new cookie comes back, for sixty requests at once too."""

    async def rotate(session: Session) -> None:
        (await session.load()).rotate(grace=15)

    made: list[str | None] = []

    async def rotating() -> None:
        made.append(await site.get(rotate, await confirmed(site)))

    await rotating()
    sixty = asyncio.gather(*(site.get(read, made[0]) for _ in range(60)))
    assert await site.counted(sixty) == {"get": 60, "set": 1}
    assert await site.counted(site.get(read, made[0])) == {"get": 1}
    assert await site.counted(site.get(write(n=1), made[0])) == {"get": 1, "set": 1}


async def test_endings(site: Site) -> None:
    """A logout is a read and a write, whether the session was loaded before or not."""

    async def logout(session: Session) -> None:
        session.destroy()

    cookie = await confirmed(site)
    assert await site.counted(site.get(logout, cookie)) == {"get": 1, "set": 1}
    assert await site.counted(site.get(read, cookie)) == {"get": 1}
    cookie = await confirmed(site)
    revoking = site.middleware.manager.revoke(cookie[:22])
    assert sum((await site.counted(revoking)).values()) == 1
    assert await site.store.load(cookie[:22], deadline=time.monotonic() + 5) is None


async def test_sixty_four_parallel_writes(site: Site) -> None:
    """Promise 4: 64 requests that write one session at once cost 64 reads and a few saves."""
    cookie = await confirmed(site)
    handlers = [write(**{f"k{number}": number}) for number in range(64)]
    counts = await site.counted(asyncio.gather(*(site.get(handler, cookie) for handler in handlers)))
    assert counts["get"] == 64
    assert counts["set"] <= 4
    assert "evalsha" not in counts, "nobody else saves, so nothing is to be settled"
    found: list[dict[str, Any]] = []

    async def look(session: Session) -> None:
        found.append(dict(await session.load()))

    await site.get(look, cookie)
    assert len(found[0]) == 66


async def test_a_write_after_a_touch(site: Site) -> None:
    """Promise 2: the next save expects what the touch has written, and has nothing to settle."""
    cookie = await confirmed(site)
    site.clock.advance(86400)

    async def wait_then_write(session: Session) -> None:
        await session.load()
        await site.middleware.manager.drain()  # the touch is answered
        session["n"] = 1

    assert await site.counted(site.get(wait_then_write, cookie)) == {"get": 1, "evalsha": 1, "set": 1}


async def test_a_write_that_meets_another_process(site: Site) -> None:
    """Promise 2: one command more tells what the other has written, and one saves both."""
    cookie = await confirmed(site)
    store = RedisStore.from_url(site.server.url)
    other = SessionMiddleware(site._app, store=store, secret_key=KEY, clock=site.clock)
    number = 0

    async def meet(session: Session) -> None:
        nonlocal number
        number += 1
        await session.load()
        await site.get(write(theirs=number), cookie, through=other)
        session["mine"] = number

    await site.get(meet, cookie)  # so that the other is connected, and knows how its server compares
    # Its load and save; this one's load, a save in vain, the script that settles that, with a GET, and
    # the save of both.
    assert await site.counted(site.get(meet, cookie)) == {"get": 3, "set": 3, "evalsha": 1}
    await other.manager.close()
    await store.close()

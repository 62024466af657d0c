"""What is not used costs nothing; what is used costs one command each way."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from asgi_session import load_session
from tests.app.kit import Browser, World
from tests.inside import fresh_id, refuse_to_parse_cookies


async def untouched(request: Request) -> Response:
    return PlainTextResponse("hello")


async def read(request: Request) -> Response:
    session = await load_session(request)
    return JSONResponse(dict(session))


async def write(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse(session)


async def same(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session["n"]
    return JSONResponse(session)


async def destroy(request: Request) -> Response:
    request.session.destroy()  # type: ignore[attr-defined]
    return PlainTextResponse("bye")


ROUTES = [
    Route(f"/{handler.__name__}", handler, methods=["GET", "POST"])
    for handler in (untouched, read, write, same, destroy)
]


async def test_untouched_request_does_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 1: a request that does not use its session parses no cookie and calls no store."""
    app = world.starlette(ROUTES)
    browser = await world.seed(app, n=1)

    refuse_to_parse_cookies(monkeypatch)
    answer = await browser.get("/untouched")
    assert (answer.body, world.calls(), world.events) == (b"hello", {}, [])
    assert answer.cookie is None
    assert answer.header("vary") is None
    assert answer.header("cache-control") is None


async def test_no_cookie_no_command(world: World) -> None:
    """Promise 1: reading a session without a cookie calls no store, and sets no cookie."""
    browser = Browser(world.starlette(ROUTES))
    answer = await browser.get("/read")
    assert (answer.body, answer.cookie, world.calls()) == (b"{}", None, {})


@pytest.mark.parametrize(
    "cookie",
    [
        "",
        "x",
        "a" * 43,
        "é" * 43,
        "a" * 100_000,
        "..",
        pytest.param(fresh_id(), id="an id and no secret"),
        "a" * 43 + "." + "b" * 22,
        '"' * 9,
    ],
)
async def test_malformed_cookie_no_command(world: World, cookie: str) -> None:
    """A value that cannot be a token reads as a new session, without asking the store."""
    browser = Browser(world.starlette(ROUTES, secret_key="k" * 32))
    browser.cookie = cookie
    answer = await browser.get("/read")
    assert (answer.status, answer.body, answer.cookie, world.calls()) == (200, b"{}", None, {})


async def test_forged_cookie_no_command(world: World) -> None:
    """Promise 1: with keys set, a forged cookie never reaches the store."""
    app = world.starlette(ROUTES, secret_key=["new " * 8, "old " * 8])
    forger = await world.seed(world.starlette(ROUTES, secret_key="forged! " * 4), n=1)
    browser = Browser(app)
    browser.cookie = forger.cookie
    answer = await browser.get("/read")
    assert (answer.body, answer.cookie, world.calls()) == (b"{}", None, {})


async def test_cookie_of_an_older_key_is_good(world: World) -> None:
    """A key that has moved down the list still verifies; one that was removed does not."""
    old, new = "old " * 8, "new " * 8
    signed = await world.seed(world.starlette(ROUTES, secret_key=old), n=1)
    browser = Browser(world.starlette(ROUTES, secret_key=[new, old]))
    browser.cookie = signed.cookie
    assert (await browser.get("/read")).body == b'{"n":1}'
    browser = Browser(world.starlette(ROUTES, secret_key=[new]))
    browser.cookie = signed.cookie
    assert (await browser.get("/read")).body == b"{}"


async def test_unknown_id_is_not_adopted(world: World) -> None:
    """Promise 8: a well-formed cookie that the store does not know begins a session of another id."""
    app = world.starlette(ROUTES)
    donor = await world.seed(app, n=1)
    await world.store.store.delete(str(donor.cookie)[:22], deadline=1e12)
    browser = donor.twin()
    answer = await browser.post("/write")
    assert answer.body == b'{"n":1}'
    assert world.calls() == {"load": 1, "create": 1}
    assert browser.cookie is not None
    assert donor.cookie is not None
    assert browser.cookie[:22] != donor.cookie[:22]


async def test_unknown_cookie_is_left_alone(world: World) -> None:
    """A read with an unknown cookie gets no Set-Cookie, neither a new one nor a deletion."""
    app = world.starlette(ROUTES)
    donor = await world.seed(app, n=1)
    await world.store.store.delete(str(donor.cookie)[:22], deadline=1e12)
    answer = await donor.get("/read")
    assert (answer.body, answer.cookie, world.calls()) == (b"{}", None, {"load": 1})


async def test_duplicate_cookies(world: World) -> None:
    """Of duplicate cookies, as a hostile subdomain plants them, the first that verifies counts."""
    app = world.starlette(ROUTES, https_only=False)
    mine = await world.seed(app, n=1)
    tossed = [("cookie", f"session={'A' * 43}; session=; other=1")]
    mine_last = await mine.get("/read", headers=tossed)
    assert mine_last.body == b'{"n":1}'


async def test_a_read_is_one_command(world: World) -> None:
    """Promise 2: a read is one command and nothing is written."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    answer = await browser.get("/read")
    assert (answer.body, answer.cookie, world.calls()) == (b'{"n":1}', None, {"load": 1})


async def test_a_write_is_one_more(world: World) -> None:
    """Promise 2: a read and a write are two commands."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    answer = await browser.post("/write")
    assert (answer.body, answer.cookie, world.calls()) == (b'{"n":2}', None, {"load": 1, "save": 1})


async def test_unchanged_is_not_written(world: World) -> None:
    """Promise 2: setting a key to the value it has writes nothing."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    await browser.post("/same")
    assert world.calls() == {"load": 1}


async def test_a_new_session_is_one_command(world: World) -> None:
    """Promise 2: a new session costs one create, and nothing before it."""
    browser = Browser(world.starlette(ROUTES))
    await browser.post("/write")
    assert world.calls() == {"create": 1}
    assert (await world.read(browser)) == {"n": 1}


async def test_first_return_is_a_touch(world: World) -> None:
    """Promise 2: the cookie's first return confirms the session with one touch, the next costs none."""
    app = world.starlette(ROUTES)
    browser = Browser(app)
    await browser.post("/write")
    world.calls()
    await browser.get("/read")
    await world.drain(app)
    assert world.calls() == {"load": 1, "touch": 1}
    await browser.get("/read")
    await world.drain(app)
    assert world.calls() == {"load": 1}


async def test_touch_is_due_every_twentieth(world: World) -> None:
    """Promise 2: a touch comes once 5 % of the idle timeout have passed, not before, with no cookie."""
    app = world.starlette(ROUTES, idle_timeout=timedelta(hours=10))
    browser = await world.seed(app, n=1)
    world.clock.advance(timedelta(minutes=29))
    await browser.get("/read")
    await world.drain(app)
    assert world.calls() == {"load": 1}
    world.clock.advance(timedelta(minutes=2))
    answer = await browser.get("/read")
    await world.drain(app)
    assert (world.calls(), answer.cookie) == ({"load": 1, "touch": 1}, None)


async def test_the_response_does_not_wait_for_a_touch(world: World) -> None:
    """A touch that hangs holds up no response, only the end of the call; its failure is only an event."""
    app = world.starlette(ROUTES, idle_timeout=timedelta(hours=10))
    browser = await world.seed(app, n=1)
    world.clock.advance(timedelta(hours=1))
    gate = world.store.pause("touch")
    world.store.fail("touch")
    exchange = browser.begin("GET", "/read")
    await exchange.until(2)
    await gate.reached()
    for _ in range(20):
        await asyncio.sleep(0)
    assert exchange.task is not None
    assert not exchange.task.done(), "a process that is frozen now would never send the touch"
    gate.release()
    assert (await exchange.done()).status == 200
    assert "touch_failed" in world.names()


async def test_the_call_waits_for_its_touch_no_longer_than_the_deadline(world: World) -> None:
    """What is left of the request's deadline, whatever the store does; and the touch goes on."""
    app = world.starlette(ROUTES, idle_timeout=timedelta(hours=10), deadline=0.05)
    browser = await world.seed(app, n=1)
    world.clock.advance(timedelta(hours=1))
    gate = world.store.pause("touch")
    async with asyncio.timeout(5):
        assert (await browser.get("/read")).status == 200
    assert "touched" not in world.names()
    gate.release()
    await world.drain(app)
    assert "touched" in world.names()


async def test_a_cancelled_call_leaves_its_touch_behind(world: World) -> None:
    """A server that stops waits for nobody; the touch is the manager's to drain."""
    app = world.starlette(ROUTES, idle_timeout=timedelta(hours=10))
    browser = await world.seed(app, n=1)
    world.clock.advance(timedelta(hours=1))
    gate = world.store.pause("touch")
    exchange = browser.begin("GET", "/read")
    await gate.reached()
    await exchange.until(2)
    await exchange.cancel()
    gate.release()
    await world.drain(app)
    assert "touched" in world.names()


async def test_destroy_needs_no_load_by_the_app(world: World) -> None:
    """destroy() on a session that was not loaded ends the stored one."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    cookie = browser.cookie
    answer = await browser.post("/destroy")
    assert answer.status == 200
    assert browser.cookie is None
    browser.cookie = cookie
    assert await world.read(browser) == {}


async def test_idle_and_absolute_expiry_reach_the_app(world: World) -> None:
    """An expired session reads as a new one, and its cookie is not set again by reading."""
    app = world.starlette(ROUTES, idle_timeout=3600, absolute_timeout=7200)
    browser = await world.seed(app, n=1)
    for minutes in (50, 50):
        world.clock.advance(timedelta(minutes=minutes))
        assert (await browser.get("/read")).body == b'{"n":1}'
        await world.drain(app)
    world.clock.advance(timedelta(minutes=21))
    answer = await browser.get("/read")
    assert (answer.body, answer.cookie) == (b"{}", None)

"""Changes after the headers have left, clients that leave, and requests that are cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from asgi_session import SessionError, SessionGone, load_session
from tests.app.kit import Browser, World, answer
from tests.app.test_commit_errors import Pass

SHAPES: dict[str, dict[str, Any]] = {
    "bare": {},
    "BaseHTTPMiddleware outside": {"outside": [Middleware(Pass)]},
    "BaseHTTPMiddleware inside": {"inside": [Middleware(Pass)]},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


async def streamed(request: Request) -> Response:
    session = await load_session(request)

    async def chunks() -> AsyncIterator[bytes]:
        for part in range(3):
            session[f"part {part}"] = True
            yield b"x"

    return StreamingResponse(chunks(), status_code=int(request.query_params.get("status", "200")))


async def background(request: Request) -> Response:
    session = await load_session(request)

    async def later() -> None:
        session["later"] = True

    return PlainTextResponse("x", background=BackgroundTask(later))


async def rotated_late(request: Request) -> Response:
    session = await load_session(request)

    async def later() -> None:
        with pytest.raises(SessionError, match="after the response had started"):
            session.rotate()
        session["refused"] = True

    return PlainTextResponse("x", background=BackgroundTask(later))


async def destroyed_late(request: Request) -> Response:
    session = await load_session(request)
    return PlainTextResponse("x", background=BackgroundTask(session.destroy))


ROUTES = [
    Route(f"/{handler.__name__}", handler) for handler in (streamed, background, rotated_late, destroyed_late)
]


@shapes
async def test_what_a_stream_sets_is_committed_at_its_end(world: World, shape: dict[str, Any]) -> None:
    """A streaming response's generator may write to the session; one save follows the last byte."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    await browser.get("/streamed")
    assert await world.read(browser) == {"n": 1, "part 0": True, "part 1": True, "part 2": True}
    # BaseHTTPMiddleware's stream may have run ahead of the headers; then part of it was saved with them.
    assert world.store.counts()["save"] <= 2


@shapes
async def test_what_a_background_task_sets_is_committed(world: World, shape: dict[str, Any]) -> None:
    """A background task may write to the session; that is saved after it has ended."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    got = await browser.get("/background")
    assert (got.status, got.cookie) == (200, None)
    assert await world.read(browser) == {"n": 1, "later": True}
    assert world.calls() == {"load": 1, "save": 1}


async def test_the_headers_of_a_stream_do_not_wait_for_its_end(world: World) -> None:
    """The first commit comes with the headers; what follows is committed once more at the end."""
    proceed = asyncio.Event()

    async def handler(request: Request) -> Response:
        session = await load_session(request)
        session["early"] = True

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            await proceed.wait()
            session["late"] = True
            yield b"y"

        return StreamingResponse(chunks())

    browser = await world.seed(world.starlette([Route("/", handler)]), n=1)
    exchange = browser.begin("GET", "/")
    await exchange.until(2)
    assert await world.read(browser) == {"n": 1, "early": True}
    proceed.set()
    await exchange.done()
    assert await world.read(browser) == {"n": 1, "early": True, "late": True}


async def test_rotate_after_the_headers_raises(world: World) -> None:
    """rotate() whose cookie could not leave any more raises; other changes are kept."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    await browser.get("/rotated_late")
    assert await world.read(browser) == {"n": 1, "refused": True}


async def test_destroy_after_the_headers_ends_the_session(world: World) -> None:
    """destroy() in a background task ends the session; the cookie stays and is worth nothing."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    got = await browser.get("/destroyed_late")
    assert got.cookie is None
    assert await world.read(browser) == {}


@shapes
async def test_a_new_session_after_the_headers_is_an_error(
    world: World, shape: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A session whose cookie can no longer leave is not created, and the log says which keys were lost."""
    browser = Browser(world.starlette(ROUTES, **shape))
    got = await browser.get("/background")
    assert (got.status, got.cookie, world.calls()) == (200, None, {})
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "later" in errors[0]
    assert ("dropped", "late") in [(e.name, e.info.get("reason")) for e in world.events]


async def test_a_late_commit_that_fails_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A late commit that fails cannot change the response: the log has the error, the app call returns."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    world.store.fail("save")
    got = await browser.get("/background")
    assert got.status == 200
    assert "was not saved" in caplog.text


async def test_an_error_in_the_background_commits_no_data(world: World) -> None:
    """A background task that raises drops what it had set, and its error reaches the server."""

    async def handler(request: Request) -> Response:
        session = await load_session(request)

        async def later() -> None:
            session["later"] = True
            raise KeyError("in the background")

        return PlainTextResponse("x", background=BackgroundTask(later))

    browser = await world.seed(world.starlette([Route("/", handler)]), n=1)
    exchange = browser.begin("GET", "/")
    with pytest.raises(KeyError):
        await exchange.done()
    assert await world.read(browser) == {"n": 1}


async def test_a_5xx_stream_commits_no_late_data(world: World) -> None:
    """What a stream sets under a 5xx status is dropped as well."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    await browser.get("/streamed?status=500")
    assert await world.read(browser) == {"n": 1}


# ---------------------------------------------------------------- the client leaves


@shapes
async def test_a_client_that_leaves_a_stream(world: World, shape: dict[str, Any]) -> None:
    """ASGI 2.3: Starlette cancels the stream inside send and returns; what was set is committed."""
    stuck = asyncio.Event()

    async def handler(request: Request) -> Response:
        session = await load_session(request)

        async def chunks() -> AsyncIterator[bytes]:
            session["begun"] = True
            yield b"x"
            session["more"] = True
            yield b"y"

        return StreamingResponse(chunks())

    async def block_second_chunk(message: Message) -> None:
        if message.get("body") == b"y":
            stuck.set()
            await asyncio.Event().wait()

    browser = await world.seed(world.starlette([Route("/", handler)], **shape), n=1)
    exchange = browser.begin("GET", "/", hook=block_second_chunk)
    await stuck.wait()
    exchange.disconnect()
    if shape:  # BaseHTTPMiddleware does not listen while it sends: the server cancels
        await exchange.cancel()
        await world.drain(browser.app)
    else:
        await exchange.done()
    assert await world.read(browser) == {"n": 1, "begun": True, "more": True}


@shapes
async def test_a_client_that_leaves_a_stream_under_asgi_2_4(world: World, shape: dict[str, Any]) -> None:
    """ASGI 2.4: send raises OSError, Starlette ClientDisconnect; what was set is committed."""

    async def handler(request: Request) -> Response:
        session = await load_session(request)

        async def chunks() -> AsyncIterator[bytes]:
            session["begun"] = True
            yield b"x"
            session["more"] = True
            yield b"y"

        return StreamingResponse(chunks())

    async def gone(message: Message) -> None:
        if message.get("body") == b"y":
            raise OSError("the client has left")

    browser = await world.seed(world.starlette([Route("/", handler)], **shape), n=1)
    browser.spec = "2.4"
    exchange = browser.begin("GET", "/", hook=gone)
    with pytest.raises((ClientDisconnect, OSError)):
        await exchange.done()
    await world.drain(browser.app)
    assert await world.read(browser) == {"n": 1, "begun": True, "more": True}


async def test_the_client_left_before_the_headers_could(world: World) -> None:
    """send of the start itself fails: the save was made, nothing is saved twice, the error goes on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await scope["session"].load())["n"] = 2
        await answer(send)

    async def gone(message: Message) -> None:
        raise OSError("the client has left")

    browser = await world.seed(world.wrap(app), n=1)
    exchange = browser.begin("GET", "/", hook=gone)
    with pytest.raises(OSError, match="left"):
        await exchange.done()
    assert world.calls() == {"load": 1, "save": 1}


# ---------------------------------------------------------------- cancellation


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("new", [False, True], ids=["old session", "new session"])
async def test_cancelled_while_saving(world: World, when: Any, new: bool) -> None:
    """A save on its way is carried out though its request was cancelled, and changes the session once."""

    async def handler(request: Request) -> Response:
        (await load_session(request))["n"] = 2
        return PlainTextResponse("x")

    app = world.starlette([Route("/", handler)])
    browser = Browser(app) if new else await world.seed(app, n=1)
    verb: Any = "create" if new else "save"
    gate = world.store.pause(verb, when=when)
    exchange = browser.begin("GET", "/")
    await gate.reached()
    await exchange.cancel()
    assert exchange.task is not None
    assert exchange.task.cancelled()
    gate.release()
    await world.drain(app)
    attempts = [call for call in world.store.calls if call.verb == verb]
    assert len({call.data for call in attempts}) == 1  # a second try may follow, of the same version
    if not new:
        assert await world.read(browser) == {"n": 2}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_cancelled_while_loading(world: World, when: Any) -> None:
    """A request cancelled in its load has changed nothing, and the next one works."""

    async def handler(request: Request) -> Response:
        session = await load_session(request)
        session["n"] += 1
        return PlainTextResponse("x")

    app = world.starlette([Route("/", handler)])
    browser = await world.seed(app, n=1)
    gate = world.store.pause("load", when=when)
    exchange = browser.begin("GET", "/")
    await gate.reached()
    await exchange.cancel()
    gate.release()
    await world.drain(app)
    assert world.calls() == {"load": 1}
    assert (await browser.get("/")).status == 200
    assert await world.read(browser) == {"n": 2}


async def test_cancelled_in_the_handler_commits_no_data(world: World) -> None:
    """A handler that is cancelled has failed: what it set is dropped."""
    begun = asyncio.Event()

    async def handler(request: Request) -> Response:
        (await load_session(request))["n"] = 2
        begun.set()
        await asyncio.Event().wait()
        return PlainTextResponse("not reached")

    app = world.starlette([Route("/", handler)])
    browser = await world.seed(app, n=1)
    exchange = browser.begin("GET", "/")
    await begun.wait()
    await exchange.cancel()
    await world.drain(app)
    assert world.calls() == {"load": 1}


async def test_cancelled_before_the_headers_creates_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Even with save_on_error a cancelled request makes no session that no client will ever know."""
    begun = asyncio.Event()

    async def handler(request: Request) -> Response:
        (await load_session(request))["n"] = 2
        begun.set()
        await asyncio.Event().wait()
        return PlainTextResponse("not reached")

    app = world.starlette([Route("/", handler)], save_on_error=True)
    exchange = Browser(app).begin("GET", "/")
    await begun.wait()
    await exchange.cancel()
    await world.drain(app)
    assert world.calls() == {}
    assert "are lost" in caplog.text


async def test_cancelled_in_a_stream_commits_what_it_set(world: World) -> None:
    """A stream that is cancelled from outside commits what it had set so far."""
    begun = asyncio.Event()

    async def handler(request: Request) -> Response:
        session = await load_session(request)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            session["n"] = 2
            begun.set()
            await asyncio.Event().wait()
            yield b"not reached"

        return StreamingResponse(chunks())

    app = world.starlette([Route("/", handler)])
    browser = await world.seed(app, n=1)
    exchange = browser.begin("GET", "/")
    await begun.wait()
    await exchange.cancel()
    await world.drain(app)
    assert await world.read(browser) == {"n": 2}


@pytest.mark.parametrize("autoload", [False, True], ids=["", "autoload"])
@pytest.mark.parametrize("loads", [False, True], ids=["not loaded", "loaded"])
@pytest.mark.parametrize("how", ["return", "raise", "5xx", "stream", "commit"])
async def test_destroy_survives_a_cancellation_at_every_await(
    world: World, how: str, loads: bool, autoload: bool
) -> None:
    """However far a request that has called destroy() came when it is cancelled, the session is ended."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        if loads:
            await session.load()
        session.destroy()
        reached.set()
        await asyncio.sleep(0)
        if how == "commit":
            await session.commit()
        if how == "raise":
            raise KeyError("on purpose")
        await send({"type": "http.response.start", "status": 500 if how == "5xx" else 200, "headers": []})
        for _ in range(3 if how == "stream" else 0):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def slow(message: Message) -> None:
        await asyncio.sleep(0)

    wrapped = world.wrap(app, autoload=autoload)
    steps, ended = 0, False
    while not ended:
        browser = await world.seed(wrapped, n=1)
        cookie = browser.twin()
        reached = asyncio.Event()
        exchange = browser.begin("GET", "/", hook=slow)
        assert exchange.task is not None
        await reached.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        ended = exchange.task.done()
        await exchange.cancel()
        await world.drain(wrapped)
        assert await world.read(cookie) == {}, f"alive after {steps} steps"
        assert world.store.counts().get("save") == 1, f"after {steps} steps"
        steps += 1
    assert steps >= 3


@pytest.mark.parametrize("explicit", [True, False])
async def test_a_late_write_with_an_old_cookie_is_detached(
    world: World, explicit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream that came with a cookie from before a rotation: that is the reason, and no bug of the app."""
    raised: list[type[Exception]] = []

    async def handler(request: Request) -> Response:
        session = await load_session(request)

        async def later() -> None:
            session["later"] = True
            if explicit:
                try:
                    await session.commit()
                except SessionError as error:
                    raised.append(type(error))

        return PlainTextResponse("x", background=BackgroundTask(later))

    async def rotate(request: Request) -> Response:
        (await load_session(request)).rotate()
        return PlainTextResponse("x")

    browser = await world.seed(world.starlette([Route("/", handler), Route("/rotate", rotate)]), n=1)
    old = browser.twin()
    await browser.get("/rotate")
    await old.get("/")
    dropped = [event.info for event in world.events if event.name == "dropped"]
    assert dropped == [{"reason": "detached", "keys": ["later"]}]
    assert raised == ([SessionGone] if explicit else [])
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []

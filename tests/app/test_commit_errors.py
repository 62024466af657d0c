"""What a client gets when a commit or a load fails, and what becomes of the app's own response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message

from asgi_session import SessionMiddleware, StoreUnavailable, load_session
from asgi_session.store import Conflict, Stored
from tests.app.kit import Browser, World, answer, find_middleware


class Pass(BaseHTTPMiddleware):
    """Passes everything on, through BaseHTTPMiddleware's task and stream."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        return await call_next(request)


async def write(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return PlainTextResponse("written")


async def stream(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = 2

    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        session["late"] = 1
        yield b"two"

    return StreamingResponse(chunks())


async def large(request: Request) -> Response:
    (await load_session(request))["text"] = "x" * 100_000
    return PlainTextResponse("written")


async def strange(request: Request) -> Response:
    (await load_session(request))["object"] = object()
    return PlainTextResponse("written")


async def read(request: Request) -> Response:
    return JSONResponse(dict(await load_session(request)))


async def unloaded(request: Request) -> Response:
    return PlainTextResponse(str(request.session["n"]))


async def background(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = 2

    async def later() -> None:
        session["late"] = 1

    return PlainTextResponse("written", background=BackgroundTask(later))


ROUTES = [
    Route(f"/{handler.__name__}", handler, methods=["GET", "POST", "PUT"])
    for handler in (write, stream, large, strange, read, unloaded, background)
]


async def swallow(request: Request, error: Exception) -> Response:
    return PlainTextResponse("handled by the app", 418)


SHAPES: dict[str, dict[str, Any]] = {
    "bare": {},
    "exception handlers": {"handlers": {Exception: swallow, HTTPException: swallow, 500: swallow}},
    "BaseHTTPMiddleware outside": {"outside": [Middleware(Pass)]},
    "BaseHTTPMiddleware inside": {"inside": [Middleware(Pass)]},
    "both, twice": {"outside": [Middleware(Pass)] * 2, "inside": [Middleware(Pass)] * 2},
    "debug": {"debug": True},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@shapes
@pytest.mark.parametrize("path", ["/write", "/stream", "/background"])
@pytest.mark.parametrize(("method", "retry_after"), [("GET", "1"), ("POST", None), ("PUT", None)])
async def test_unavailable_at_commit_is_503(
    world: World, shape: dict[str, Any], path: str, method: str, retry_after: str | None
) -> None:
    """Promise 11: one whole 503 leaves in the app's place; Retry-After only where repeating is safe."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    world.store.fail("save", "refused")
    got = await browser.request(method, path)
    assert (got.status, got.body, got.cookie) == (503, b"Service Unavailable", None)
    assert got.header("retry-after") == retry_after
    assert got.header("content-length") == str(len(got.body))
    assert not got.messages[-1].get("more_body", False)
    assert await world.read(browser) == {"n": 1}
    assert world.store.counts()["save"] == 1  # no late commit after one that failed


@shapes
@pytest.mark.parametrize(("path", "error"), [("/large", "SessionTooLarge"), ("/strange", "object")])
async def test_a_value_that_cannot_be_stored_is_500(
    world: World, shape: dict[str, Any], path: str, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Too large or of a foreign type: 500, nothing written, the reason in the log, not in the body."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    got = await browser.post(path)
    assert (got.status, got.body) == (500, b"Internal Server Error")
    assert world.calls() == {"load": 1}
    assert error in caplog.text


@shapes
async def test_an_outcome_that_cannot_be_known_is_409(world: World, shape: dict[str, Any]) -> None:
    """Promise 7: the reply lost and nine other saves since: 409, since repeating could write twice."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    world.store.fail("save", "lost reply")
    retry = world.store.pause("save", nth=2)
    exchange = browser.begin("GET", "/write")
    await retry.reached()
    elsewhere = browser.twin()
    elsewhere.app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(SessionMiddleware, store=world.store.store, clock=world.clock)],
    )
    for _ in range(9):
        assert (await elsewhere.get("/write")).status == 200
    retry.release()
    got = await exchange.done()
    assert (got.status, got.body, got.cookie) == (409, b"Conflict", None)
    assert got.header("retry-after") is None
    assert await world.read(browser) == {"n": 11}


async def test_too_many_conflicts_are_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that meets a newer version until the deadline was certainly not executed: 503."""
    app = world.starlette(ROUTES, deadline=0.05)
    browser = await world.seed(app, n=1)
    store = world.store.store

    async def always_conflicts(
        key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> Conflict:
        current = await store.load(key, deadline=deadline)
        assert current is not None
        return Conflict(Stored(current.data, b"another", current.expires_at))

    monkeypatch.setattr(store, "save", always_conflicts)
    got = await browser.post("/write")
    assert (got.status, got.cookie) == (503, None)


@pytest.mark.parametrize("autoload", [False, True])
async def test_corrupt_is_500_and_stays(world: World, autoload: bool) -> None:
    """Promise 10: unreadable bytes give a 500, never an empty session, and stay as they are."""
    browser = await world.seed(world.starlette(ROUTES, autoload=autoload), n=1)
    key = str(browser.cookie)[:22]
    stored = await world.store.store.load(key, deadline=1e12)
    assert stored is not None
    spoilt = stored.data[:16] + b"\xff" * 40
    await world.store.store.save(key, spoilt, stored.expires_at, expect=stored, deadline=1e12)
    if autoload:
        got = await browser.get("/read")
        assert (got.status, got.cookie) == (500, None)
    else:
        with pytest.raises(Exception, match=key):
            await browser.get("/read")
    after = await world.store.store.load(key, deadline=1e12)
    assert after is not None
    assert after.data == spoilt


async def test_corrupt_may_begin_anew(world: World) -> None:
    """Promise 10: with on_corrupt="new" a new session begins under a new id; the bytes stay."""
    browser = await world.seed(world.starlette(ROUTES, on_corrupt="new"), n=1)
    key = str(browser.cookie)[:22]
    stored = await world.store.store.load(key, deadline=1e12)
    assert stored is not None
    spoilt = stored.data[:16] + b"\xff" * 40
    await world.store.store.save(key, spoilt, stored.expires_at, expect=stored, deadline=1e12)
    got = await browser.post("/write")
    assert got.status == 200
    assert str(browser.cookie)[:22] != key
    after = await world.store.store.load(key, deadline=1e12)
    assert after is not None
    assert after.data == spoilt


@shapes
async def test_not_loaded_is_500_with_and_without_a_cookie(world: World, shape: dict[str, Any]) -> None:
    """Using an unloaded session is an error on the first visit already, with the ways to mend it."""
    app = world.starlette(ROUTES, **shape)
    for browser in (Browser(app), await world.seed(app, n=1)):
        exchange = browser.begin("GET", "/unloaded")
        with pytest.raises(Exception, match="SessionDep"):
            await exchange.done()
        assert exchange.answer.status == (418 if "handlers" in shape else 500)


# ---------------------------------------------------------------- the store is away


@shapes
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_store_down_at_load(world: World, shape: dict[str, Any], method: str) -> None:
    """Promise 11: with the store down a handler that loads gives 503."""
    browser = await world.seed(world.starlette(ROUTES, **shape), n=1)
    world.store.fail(None, times=None)
    got = await browser.request(method, "/read")
    assert (got.status, got.body, got.cookie) == (503, b"Service Unavailable", None)
    assert got.header("retry-after") == ("1" if method == "GET" else None)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_store_down_at_autoload(world: World, method: str) -> None:
    """Promise 11: autoload answers 503 before the app runs, so that repeating is safe for any method."""
    browser = await world.seed(world.starlette(ROUTES, autoload=True), n=1)
    world.store.fail("load", times=None)
    got = await browser.request(method, "/write")
    assert (got.status, got.header("retry-after")) == (503, "1")
    assert world.calls() == {"load": 1}


async def test_the_app_may_answer_an_outage_itself(world: World) -> None:
    """An exception handler for StoreUnavailable sees the load's failure and its response stands."""
    browser = await world.seed(world.starlette(ROUTES, handlers={StoreUnavailable: swallow}), n=1)
    world.store.fail("load")
    got = await browser.get("/read")
    assert (got.status, got.body) == (418, b"handled by the app")


@pytest.mark.parametrize("verb", ["load", "save"])
async def test_a_hanging_store_is_given_up_at_the_deadline(world: World, verb: Any) -> None:
    """Promise 11: when the store hangs the answer comes within the deadline."""
    browser = await world.seed(world.starlette(ROUTES, deadline=0.2), n=1)
    world.store.hang(verb, times=None)
    began = time.monotonic()
    got = await browser.get("/write")
    assert got.status == 503
    assert 0.1 < time.monotonic() - began < 1.0


async def test_the_deadline_is_for_the_whole_request(world: World) -> None:
    """Promise 11: load and save share one deadline; a slow load leaves the save the rest only."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    gate = world.store.pause("load", when="after")
    exchange = browser.begin("GET", "/write")
    await gate.reached()
    slow_until = time.monotonic() + 0.1
    while time.monotonic() < slow_until:
        await asyncio.sleep(0)
    gate.release()
    assert (await exchange.done()).status == 200
    load, save = world.store.calls
    assert save.deadline - load.deadline < 0.08


async def test_anonymous_goes_on_reading(world: World) -> None:
    """Promise 11: with on_unavailable="anonymous" the session reads empty, and the cookie stays."""
    browser = await world.seed(world.starlette(ROUTES, on_unavailable="anonymous"), n=1)
    world.store.fail("load")
    got = await browser.get("/read")
    assert (got.status, got.body, got.cookie) == (200, b"{}", None)
    assert "unavailable" in world.names()
    assert (await browser.get("/read")).body == b'{"n":1}'


@pytest.mark.parametrize("autoload", [False, True])
async def test_anonymous_with_a_store_that_hangs(world: World, autoload: bool) -> None:
    """Promise 11: a load that hangs is given up at the deadline, then the app goes on anonymously."""
    options: dict[str, Any] = {"on_unavailable": "anonymous", "autoload": autoload, "deadline": 0.1}
    browser = await world.seed(world.starlette(ROUTES, **options), n=1)
    world.store.hang("load", times=None)
    began = time.monotonic()
    got = await browser.get("/read")
    assert (got.status, got.body, got.cookie) == (200, b"{}", None)
    assert 0.05 < time.monotonic() - began < 1.0


async def test_anonymous_drops_no_write(world: World) -> None:
    """Promise 11: changing a session that could not be loaded is a 503, nothing is silently dropped."""
    browser = await world.seed(world.starlette(ROUTES, on_unavailable="anonymous"), n=1)
    world.store.fail("load")
    got = await browser.post("/write")
    assert (got.status, got.cookie) == (503, None)
    assert await world.read(browser) == {"n": 1}


async def test_a_lost_reply_at_create_is_retried_elsewhere(world: World) -> None:
    """A create of unknown outcome is repeated under another selector; the client sees one session."""
    browser = Browser(world.starlette(ROUTES))
    world.store.fail("create", "lost reply")
    got = await browser.post("/write")
    assert got.status == 200
    creates = [call.key for call in world.store.calls]
    assert len(set(creates)) == 2
    assert str(browser.cookie)[:22] == creates[1]


# ---------------------------------------------------------------- order, and what the app still sends


@pytest.mark.parametrize("verb", ["create", "save"])
@pytest.mark.parametrize("path", ["/write", "/stream"])
async def test_headers_leave_after_the_acknowledgement(world: World, verb: Any, path: str) -> None:
    """Promise 6: while the store has not acknowledged the save, not one message leaves."""
    app = world.starlette(ROUTES)
    browser = Browser(app) if verb == "create" else await world.seed(app, n=1)
    gate = world.store.pause(verb, when="after")
    sent_at_ack: list[int] = []
    exchange = browser.begin("GET", path)
    await gate.reached()
    for _ in range(10):
        await asyncio.sleep(0)
    sent_at_ack.append(len(exchange.sent))
    gate.release()
    got = await exchange.done()
    assert (sent_at_ack, got.status) == ([0], 200)
    assert (got.cookie is not None) == (verb == "create")


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
@pytest.mark.parametrize(
    "shape", [SHAPES["bare"], SHAPES["BaseHTTPMiddleware inside"]], ids=["bare", "inside"]
)
async def test_an_endless_stream_ends_when_it_is_given_up(
    world: World, spec: str, shape: dict[str, Any]
) -> None:
    """After a failed commit a stream without an end or a pause neither hangs nor blocks the loop."""

    async def endless(request: Request) -> Response:
        (await load_session(request))["n"] = 2

        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"x"

        return StreamingResponse(chunks())

    browser = await world.seed(world.starlette([Route("/", endless)], **shape), n=1)
    browser.spec = spec
    world.store.fail("save")
    got = await browser.get("/")
    assert (got.status, got.body) == (503, b"Service Unavailable")


async def test_no_message_of_the_app_follows(world: World) -> None:
    """A raw ASGI app that goes on sending, trailers and all, adds nothing to the middleware's answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = await scope["session"].load()
        session["n"] = 2
        await answer(send, 200, b"the app's")
        await send({"type": "http.response.trailers", "headers": []})
        await answer(send, 200, b"again")

    wrapped = world.wrap(app)
    browser = await world.seed(wrapped, n=1)
    world.store.fail("save")
    got = await browser.get("/")
    assert [m["type"] for m in got.messages] == ["http.response.start", "http.response.body"]
    assert got.status == 503


async def test_an_error_of_the_app_after_a_failed_commit_is_raised(world: World) -> None:
    """What the app raises after the middleware has answered reaches the server's log, nothing is sent."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await scope["session"].load())["n"] = 2
        await answer(send)
        raise KeyError("afterwards")

    browser = await world.seed(world.wrap(app), n=1)
    world.store.fail("save")
    exchange = browser.begin("GET", "/")
    with pytest.raises(KeyError, match="afterwards"):
        await exchange.done()
    assert exchange.answer.status == 503


async def test_other_messages_pass_before_the_start(world: World) -> None:
    """Early hints leave at once and are no occasion to commit."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await scope["session"].load())["n"] = 2
        await send({"type": "http.response.early_hint", "links": []})
        assert world.calls() == {"load": 1}
        await answer(send)

    browser = await world.seed(world.wrap(app), n=1)
    got = await browser.get("/")
    assert got.messages[0]["type"] == "http.response.early_hint"
    assert world.calls() == {"save": 1}


async def test_a_cookie_owed_leaves_with_the_error(world: World) -> None:
    """rotate() and commit(), then a commit that fails: the 503 carries the cookie of the rotation."""

    async def handler(request: Request) -> Response:
        session = await load_session(request)
        session.rotate()
        await session.commit()
        session["n"] = 2
        return PlainTextResponse("written")

    browser = await world.seed(world.starlette([Route("/", handler)]), n=1)
    before = browser.cookie
    world.store.fail("save", nth=2)
    got = await browser.get("/")
    assert got.status == 503
    assert browser.cookie != before
    assert await world.read(browser) == {"n": 1}


async def test_head_gets_no_surprise(world: World) -> None:
    """HEAD commits and sets the cookie as GET does."""
    browser = Browser(world.starlette(ROUTES))
    got = await browser.request("HEAD", "/write")
    assert (got.status, got.cookie is not None) == (200, True)


@pytest.mark.parametrize("path", ["/read", "/write"])
async def test_304(world: World, path: str) -> None:
    """A 304 commits like any response; one that creates the session says no-store beside the cookie."""

    async def handler(request: Request) -> Response:
        session = await load_session(request)
        if request.url.path == "/write":
            session["n"] = 1
        return Response(status_code=304, headers={"etag": '"x"'})

    app = world.starlette([Route("/read", handler), Route("/write", handler)])
    got = await Browser(app).get(path)
    assert (got.status, got.body) == (304, b"")
    assert got.header("vary") == "Cookie"
    assert (got.cookie is None, got.header("cache-control")) == (
        (True, None) if path == "/read" else (False, "private, no-store")
    )


async def test_messages_without_headers(world: World) -> None:
    """headers is optional in http.response.start; the cookie is added all the same."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        (await scope["session"].load())["n"] = 2
        message: Message = {"type": "http.response.start", "status": 200}
        await send(message)
        assert "headers" not in message  # the app's own message is not changed
        await send({"type": "http.response.body"})

    got = await Browser(world.wrap(app)).get("/")
    assert got.cookie is not None


async def test_drain_waits_for_saves(world: World) -> None:
    """Shutting down waits for a save whose request was cancelled."""
    app = world.starlette(ROUTES)
    browser = await world.seed(app, n=1)
    gate = world.store.pause("save", times=None)
    exchange = browser.begin("GET", "/write")
    await gate.reached()
    await exchange.cancel()
    draining = asyncio.create_task(find_middleware(app).manager.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    gate.release()
    await draining
    assert await world.read(browser) == {"n": 2}
    assert len({call.data for call in world.store.calls if call.verb == "save"}) == 1

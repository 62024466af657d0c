"""WebSockets: the handshake carries the cookie; what follows is committed on request and at the end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from asgi_session import SessionError, SessionGone, load_session
from tests.app.kit import Browser, Exchange, World, find_middleware


def routes(handler: Any) -> list[WebSocketRoute]:
    return [WebSocketRoute("/", handler)]


def kinds(exchange: Exchange) -> list[str]:
    return [message["type"] for message in exchange.sent]


def text(exchange: Exchange, value: str) -> None:
    exchange.push({"type": "websocket.receive", "text": value})


async def echo(ws: WebSocket) -> None:
    """Note every message in the session; end, as most apps do, with WebSocketDisconnect escaping."""
    session = await load_session(ws)
    await ws.accept()
    while True:
        message = await ws.receive_text()
        session[message] = True
        if message == "commit":
            await session.commit()
        await ws.send_text(message)


async def create_then_echo(ws: WebSocket) -> None:
    (await load_session(ws))["n"] = 1
    await echo(ws)


async def test_untouched_websocket_does_nothing(world: World) -> None:
    """Promise 1: a WebSocket that does not use its session costs the store nothing."""

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await ws.close()

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    exchange = browser.connect("/")
    await exchange.done()
    assert kinds(exchange) == ["websocket.accept", "websocket.close"]
    assert not exchange.sent[0].get("headers")
    assert world.calls() == {}


async def test_accept_carries_the_cookie(world: World) -> None:
    """Promise 6: a new session's cookie leaves with the accept, after the create was acknowledged."""
    app = world.starlette(routes(create_then_echo))
    browser = Browser(app)
    gate = world.store.pause("create", when="after")
    exchange = browser.connect("/")
    await gate.reached()
    for _ in range(10):
        await asyncio.sleep(0)
    assert exchange.sent == []
    gate.release()
    await exchange.until(1)
    accept = exchange.sent[0]
    assert accept["type"] == "websocket.accept"
    headers = dict(accept["headers"])
    browser.cookie = headers[b"set-cookie"].decode().partition(";")[0].partition("=")[2]
    exchange.disconnect()
    with pytest.raises(WebSocketDisconnect):
        await exchange.done()
    assert await world.read(browser) == {"n": 1}


async def test_commit_during_the_connection(world: World) -> None:
    """commit() saves at once, for the next request to see, while the WebSocket goes on."""
    browser = await world.seed(world.starlette(routes(echo)), n=1)
    exchange = browser.connect("/")
    text(exchange, "commit")
    await exchange.until(2)
    assert await world.read(browser) == {"n": 1, "commit": True}
    exchange.disconnect()
    with pytest.raises(WebSocketDisconnect):
        await exchange.done()
    assert world.store.counts()["save"] == 1


async def test_late_commit_at_the_end(world: World) -> None:
    """What was set since the last commit is saved when the client leaves, though that raises in the app."""
    browser = await world.seed(world.starlette(routes(echo)), n=1)
    exchange = browser.connect("/")
    for message in ("a", "commit", "b"):
        text(exchange, message)
    await exchange.until(4)
    assert await world.read(browser) == {"n": 1, "a": True, "commit": True}
    exchange.disconnect()
    with pytest.raises(WebSocketDisconnect):
        await exchange.done()
    assert await world.read(browser) == {"n": 1, "a": True, "commit": True, "b": True}


async def test_an_error_after_accept_commits_no_data(world: World) -> None:
    """A handler that raises drops what it had not committed; destroy() would still be carried out."""

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        await ws.accept()
        session["lost"] = True
        if ws.query_params.get("destroy"):
            session.destroy()
        raise KeyError("on purpose")

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    for path, left in (("/", {"n": 1}), ("/?destroy=1", {})):
        with pytest.raises(KeyError):
            await browser.connect(path).done()
        assert await world.read(browser) == left


async def test_cancelled_websocket_commits(world: World) -> None:
    """A server that stops and cancels its WebSockets loses nothing of what they had set."""
    app = world.starlette(routes(echo))
    browser = await world.seed(app, n=1)
    exchange = browser.connect("/")
    text(exchange, "a")
    await exchange.until(2)
    await exchange.cancel()
    await world.drain(app)
    assert await world.read(browser) == {"n": 1, "a": True}


async def test_refresh_shows_what_others_saved(world: World) -> None:
    """refresh() brings another request's change into a WebSocket that is open, under one's own."""
    seen: list[dict[str, Any]] = []

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        await ws.accept()
        while True:
            await ws.receive_text()
            session["mine"] = True
            await session.refresh()
            seen.append(dict(session))
            await ws.send_text("ok")

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    exchange = browser.connect("/")
    await exchange.until(1)
    other = browser.twin()
    other.app = world.wrap(_set_other)
    await other.get("/")
    text(exchange, "x")
    await exchange.until(2)
    assert seen == [{"n": 1, "mine": True, "other": True}]
    exchange.disconnect()
    with pytest.raises(WebSocketDisconnect):
        await exchange.done()
    assert await world.read(browser) == {"n": 1, "mine": True, "other": True}


async def _set_other(scope: Any, receive: Any, send: Any) -> None:
    (await scope["session"].load())["other"] = True
    await PlainTextResponse("")(scope, receive, send)


@pytest.mark.parametrize("verb", ["commit", "refresh"])
async def test_a_session_revoked_meanwhile_raises(world: World, verb: str) -> None:
    """Promise 5: commit() and refresh() of a session that was revoked raise SessionGone."""
    errors: list[Exception] = []

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        await ws.accept()
        await ws.receive_text()
        session["late"] = True
        try:
            await getattr(session, verb)()
        except SessionGone as error:
            errors.append(error)
        await ws.close(4401)

    app = world.starlette(routes(handler))
    browser = await world.seed(app, n=1)
    exchange = browser.connect("/")
    await exchange.until(1)
    await find_middleware(app).manager.revoke(str(browser.cookie)[:22])
    text(exchange, "x")
    await exchange.done()
    assert len(errors) == 1
    assert exchange.sent[-1]["code"] == 4401
    assert await world.read(browser) == {}


@pytest.mark.parametrize("verb", ["commit", "refresh"])
async def test_commit_and_refresh_count_as_use(world: World, verb: str) -> None:
    """A WebSocket keeps its session alive by commit() and refresh(), unchanged or not."""

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        await ws.accept()
        while True:
            await ws.receive_text()
            await getattr(session, verb)()
            await ws.send_text("ok")

    app = world.starlette(routes(handler), idle_timeout=timedelta(hours=1))
    browser = await world.seed(app, n=1)
    exchange = browser.connect("/")
    for round_ in range(3):
        await exchange.until(1 + round_)
        world.clock.advance(timedelta(minutes=40))
        text(exchange, "x")
    await exchange.until(4)
    await world.drain(app)
    assert world.calls()["touch"] == 3
    assert await world.read(browser) == {"n": 1}
    exchange.disconnect()
    with pytest.raises(WebSocketDisconnect):
        await exchange.done()


async def test_a_websocket_confirms_a_new_session(world: World) -> None:
    """The first connection with a new cookie confirms the session: it outlives unconfirmed_timeout."""
    app = world.starlette(routes(echo), unconfirmed_timeout=60)
    creator = Browser(world.wrap(_set_other, unconfirmed_timeout=60))
    await creator.get("/")
    browser = Browser(app)
    browser.cookie = creator.cookie
    exchange = browser.connect("/")
    await exchange.until(1)
    await world.drain(app)
    world.clock.advance(timedelta(hours=1))
    assert await world.read(browser) == {"other": True}
    exchange.disconnect()
    with pytest.raises(WebSocketDisconnect):
        await exchange.done()


async def test_rotate_after_accept_raises(world: World) -> None:
    """After the accept no cookie can leave, so rotate() raises."""
    errors: list[SessionError] = []

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        await ws.accept()
        try:
            session.rotate()
        except SessionError as error:
            errors.append(error)
        await ws.close()

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    await browser.connect("/").done()
    assert "WebSocket was accepted" in str(errors[0])
    assert world.calls() == {"load": 1}


async def test_rotate_before_accept(world: World) -> None:
    """rotate() before the accept hands out the new cookie with it."""

    async def handler(ws: WebSocket) -> None:
        (await load_session(ws)).rotate()
        await ws.accept()
        await ws.close()

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    exchange = browser.connect("/")
    await exchange.done()
    assert b"set-cookie" in dict(exchange.sent[0]["headers"])
    assert await world.read(browser) == {}  # by the old cookie


async def test_a_new_session_after_accept_is_an_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A session first set after the accept cannot get its cookie out: an error in the log, no record."""

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        await ws.accept()
        session["late"] = True
        await ws.close()

    exchange = Browser(world.starlette(routes(handler))).connect("/")
    await exchange.done()
    assert world.calls() == {}
    assert "late" in caplog.text


# ---------------------------------------------------------------- refusals


async def test_denial_response_commits_and_carries_the_cookie(world: World) -> None:
    """A denial response is a response: saved before it leaves, with Set-Cookie, Vary and no-store."""

    async def handler(ws: WebSocket) -> None:
        (await load_session(ws))["refused"] = 1
        await ws.send_denial_response(PlainTextResponse("log in first", 403))

    browser = Browser(world.starlette(routes(handler)))
    exchange = browser.connect("/")
    got = await exchange.done()
    browser.keep(got)
    assert (got.status, got.body) == (403, b"log in first")
    assert (got.header("vary"), got.header("cache-control")) == ("Cookie", "private, no-store")
    assert await world.read(browser) == {"refused": 1}


async def test_a_5xx_denial_commits_no_data(world: World) -> None:
    """A denial with a status >= 500 drops the changes, as a response does."""

    async def handler(ws: WebSocket) -> None:
        (await load_session(ws))["refused"] = 1
        await ws.send_denial_response(PlainTextResponse("broken", 500))

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    assert (await browser.connect("/").done()).status == 500
    assert world.calls() == {"load": 1}


@pytest.mark.parametrize("raises", [False, True])
async def test_close_before_accept(world: World, raises: bool) -> None:
    """A handshake refused by close() is one message; what was set in an old session is saved."""

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        session["refused"] = 1
        await ws.close(4403)
        if raises:
            raise SessionGone("the app's own, after it has closed")

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    exchange = browser.connect("/")
    if raises:
        with pytest.raises(SessionGone):
            await exchange.done()
    else:
        await exchange.done()
    assert kinds(exchange) == ["websocket.close"]
    assert await world.read(browser) == ({"n": 1} if raises else {"n": 1, "refused": 1})


@pytest.mark.parametrize("autoload", [False, True])
@pytest.mark.parametrize("denial", [False, True])
async def test_store_down_at_the_handshake(world: World, autoload: bool, denial: bool) -> None:
    """Promise 11: a load that fails before the accept refuses the handshake: 503, or close 1013."""
    app = world.starlette(routes(echo), autoload=autoload)
    browser = await world.seed(app, n=1)
    world.store.fail("load")
    exchange = browser.connect("/", denial=denial)
    await exchange.done()
    if denial:
        assert (exchange.answer.status, exchange.answer.body) == (503, b"Service Unavailable")
    else:
        assert exchange.sent == [{"type": "websocket.close", "code": 1013}]


@pytest.mark.parametrize("catches", [False, True])
@pytest.mark.parametrize("denial", [False, True])
async def test_a_commit_that_fails_at_accept(world: World, denial: bool, catches: bool) -> None:
    """A commit that fails at the accept refuses the handshake; the app meets a disconnect; no late commit."""
    met: list[BaseException] = []

    async def handler(ws: WebSocket) -> None:
        (await load_session(ws))["n"] = 2
        await ws.accept()
        try:
            await ws.receive_text()
        except WebSocketDisconnect as error:
            met.append(error)
            if not catches:
                raise

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    world.store.fail("save")
    exchange = browser.connect("/", denial=denial)
    await exchange.done()
    assert len(met) == 1
    if denial:
        assert exchange.answer.status == 503
    else:
        assert exchange.sent == [{"type": "websocket.close", "code": 1013}]
    assert await world.read(browser) == {"n": 1}
    assert world.store.counts()["save"] == 1


async def test_an_app_that_only_sends_ends_after_a_failed_accept(world: World) -> None:
    """An app that sends for ever and never receives meets the disconnect in send."""

    async def handler(ws: WebSocket) -> None:
        (await load_session(ws))["n"] = 2
        await ws.accept()
        while True:
            await ws.send_text("tick")

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    world.store.fail("save")
    exchange = browser.connect("/")
    assert (await exchange.done()).status == 503


@pytest.mark.parametrize(
    ("value", "code"), [("x" * 100_000, 1011), (object(), 1011)], ids=["too large", "foreign type"]
)
async def test_an_unsavable_value_at_accept(world: World, value: Any, code: int) -> None:
    """What cannot be stored refuses the handshake as an internal error."""

    async def handler(ws: WebSocket) -> None:
        (await load_session(ws))["value"] = value
        await ws.accept()

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    assert (await browser.connect("/").done()).status == 500
    exchange = browser.connect("/", denial=False)
    await exchange.done()
    assert exchange.sent == [{"type": "websocket.close", "code": code}]


async def test_a_commit_that_fails_during_the_connection(world: World) -> None:
    """StoreUnavailable from commit() is the app's to handle; the value stays and the next one saves it."""

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        await ws.accept()
        session["n"] = 2
        with pytest.raises(SessionError):
            await session.commit()
        await session.commit()
        await ws.close()

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    world.store.fail("save")
    exchange = browser.connect("/")
    await exchange.done()
    assert kinds(exchange) == ["websocket.accept", "websocket.close"]
    assert await world.read(browser) == {"n": 2}


async def test_closing_undoes_no_login_made_meanwhile(world: World) -> None:
    """Promise 8: a WebSocket open since before a login writes nothing into the new identity."""

    async def login(scope: Any, receive: Any, send: Any) -> None:
        session = await scope["session"].load()
        session.clear()
        session["user"] = 7
        await PlainTextResponse("")(scope, receive, send)

    app = world.starlette(routes(echo))
    browser = await world.seed(app, user=None)
    exchange = browser.connect("/")
    text(exchange, "user")
    await exchange.until(2)
    browser.app = world.wrap(login)
    await browser.get("/")
    exchange.disconnect()
    with pytest.raises(WebSocketDisconnect):
        await exchange.done()
    assert await world.read(browser) == {"user": 7}


async def test_an_error_before_accept(world: World) -> None:
    """An app that raises before the accept commits no data; its error reaches the server."""

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        session["n"] = 2
        raise KeyError("on purpose")

    browser = await world.seed(world.starlette(routes(handler)), n=1)
    exchange = browser.connect("/")
    with pytest.raises(KeyError):
        await exchange.done()
    assert exchange.sent == []
    assert world.calls() == {"load": 1}

"""Sign-ins through the middleware when the request fails, is late, or its session is taken away meanwhile."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_session import load_session
from tests.app.kit import Browser, World, answer, find_middleware


async def login(request: Request) -> Response:
    """Sign somebody in; then fail as the query says."""
    session = await load_session(request)
    query = request.query_params
    session["user"] = query["user"]
    if "commit" in query:
        await session.commit()
    if "raise" in query:
        raise ValueError("on purpose")
    return PlainTextResponse("in", int(query.get("status", "200")))


async def late(request: Request) -> Response:
    """Sign somebody in when the response has started."""
    session = await load_session(request)

    async def body() -> Any:
        yield b"a"
        session["user"] = "ada"
        yield b"b"

    return StreamingResponse(body())


async def before_acceptance(socket: WebSocket) -> None:
    session = await load_session(socket)
    session["user"] = "ada"
    await socket.accept()
    await socket.close()


async def after_acceptance(socket: WebSocket) -> None:
    session = await load_session(socket)
    await socket.accept()
    session["user"] = "ada"
    await session.commit()


async def and_deny(socket: WebSocket) -> None:
    session = await load_session(socket)
    session["user"] = "ada"
    await socket.send_denial_response(PlainTextResponse("no", int(socket.query_params["status"])))


ROUTES = [
    Route("/login", login),
    Route("/late", late),
    WebSocketRoute("/before", before_acceptance),
    WebSocketRoute("/after", after_acceptance),
    WebSocketRoute("/deny", and_deny),
]


def made(world: World, **options: Any) -> Browser:
    return Browser(world.starlette(ROUTES, identity="user", **options))


async def listed(browser: Browser, user: str = "ada") -> list[str]:
    manager = find_middleware(browser.app).manager
    await manager.drain()
    return [info.id async for info in manager.sessions_of(user)]


async def test_a_planted_cookie_is_worth_nothing(world: World) -> None:
    """What somebody has planted opens nothing after the sign-in: nobody's, another's, no session's."""
    victim = made(world)
    attacker = victim.twin()
    await attacker.get("/login?user=mallory")
    mallorys = attacker.cookie
    nobodys = await world.seed(victim.app, cart=1)
    await world.seed(victim.app, x=1)
    for planted in (mallorys, nobodys.cookie, "A" * 44):
        victim.cookie = planted
        await victim.get("/login?user=ada")
        assert victim.cookie != planted
        assert (await world.read(victim))["user"] == "ada"
        attacker.cookie = planted
        assert (await world.read(attacker)).get("user") != "ada"


@pytest.mark.parametrize("failing", ["status=500", "status=503", "raise=1"])
async def test_a_failed_request_signs_nobody_in(world: World, failing: str) -> None:
    """A response of 500 or more, or an exception, saves nothing: nobody is signed in or listed."""
    browser = made(world)
    await browser.get("/login?user=bob")
    before = browser.cookie
    for start in (None, before):
        browser.cookie = start
        try:
            found = await browser.get(f"/login?user=ada&{failing}")
        except ValueError:
            pass
        else:
            assert found.cookie is None
        assert browser.cookie == start
    assert await listed(browser) == []
    assert (await world.read(browser))["user"] == "bob"


@pytest.mark.parametrize("failing", ["status=500", "raise=1"])
@pytest.mark.parametrize("how", ["save_on_error", "commit"])
async def test_a_failed_request_that_saves(world: World, failing: str, how: str) -> None:
    """With ``save_on_error``, or committed before: the cookie leaves with the error, and is listed."""
    browser = made(world, **({"save_on_error": True} if how == "save_on_error" else {}))
    with suppress(ValueError):
        await browser.get(f"/login?user=ada&{failing}{'&commit=1' if how == 'commit' else ''}")
    assert browser.cookie is not None
    assert await listed(browser) == [browser.cookie[:22]]


async def test_after_the_response_has_started(world: World) -> None:
    """Nobody is signed in, and nobody's session is as it was."""
    browser = await world.seed(made(world).app, cart=1)
    await browser.get("/late")
    assert await listed(browser) == []
    assert await world.read(browser) == {"cart": 1}


async def test_a_web_socket(world: World) -> None:
    """Before its acceptance a sign-in leaves with that; afterwards it is an error."""
    browser = made(world)
    exchange = browser.connect("/before")
    await exchange.done()
    (start,) = [message for message in exchange.sent if message["type"] == "websocket.accept"]
    (cookie,) = [value.decode() for name, value in start["headers"] if name == b"set-cookie"]
    assert await listed(browser) == [cookie.partition("=")[2][:22]]
    await find_middleware(browser.app).manager.revoke_user("ada")
    exchange = browser.connect("/after")
    with pytest.raises(Exception, match="after the response had started"):
        await exchange.done()
    assert await listed(browser) == []


@pytest.mark.parametrize(("status", "lives"), [(403, True), (500, False)])
async def test_a_web_socket_that_is_denied(world: World, status: int, lives: bool) -> None:
    """A denial is a response as any other: what is set with 403 is saved, with 500 it is not."""
    browser = made(world)
    exchange = browser.connect(f"/deny?status={status}")
    await exchange.done()
    assert len(await listed(browser)) == lives


async def test_while_the_store_is_away(world: World) -> None:
    """``on_unavailable="anonymous"``: an anonymous page is served, and a sign-in is refused with 503."""
    browser = await world.seed(made(world, on_unavailable="anonymous").app, cart=1)
    cookie = browser.cookie
    world.store.fail("load", times=None)
    assert (await browser.get("/login?user=ada")).status == 503
    world.store.heal()
    assert browser.cookie == cookie
    assert await world.read(browser) == {"cart": 1}
    assert await listed(browser) == []


async def test_a_sign_in_that_a_revocation_meets(world: World) -> None:
    """It is answered with 409, without a cookie that opens something, and not listed."""
    browser = made(world)
    gate = world.store.pause("create", match=lambda call: call.key[-1] in "AQgw")
    exchange = browser.begin("GET", "/login?user=ada")
    await gate.reached()
    assert await find_middleware(browser.app).manager.revoke_user("ada") == 0
    gate.release()
    found = await exchange.done()
    assert found.status == 409
    assert found.cookie is None
    assert await listed(browser) == []


async def test_a_request_in_flight_of_one_that_is_revoked(world: World) -> None:
    """Promise 5: it is answered, saves nothing, and the browser's next request is nobody's."""
    app = made(world).app
    browser = await world.seed(app, user="ada", n=1)
    manager = find_middleware(app).manager

    async def change(scope: Any, receive: Any, send: Any) -> None:
        session = await scope["session"].load()
        await manager.revoke_user("ada")
        session["n"] = 2
        await answer(send)

    find_middleware(app).app = change
    assert (await browser.get("/")).status == 200
    assert await world.read(browser) == {}
    assert len(await listed(browser)) == 0

"""How a WebSocket is closed whose session has failed."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from asgi_session import load_session
from tests.app.kit import Browser, Exchange, World


async def commits(ws: WebSocket) -> None:
    session = await load_session(ws)
    await ws.accept()
    while True:
        session[await ws.receive_text()] = 1
        await session.commit()


async def writes_at_the_end(ws: WebSocket) -> None:
    session = await load_session(ws)
    await ws.accept()
    session[await ws.receive_text()] = 1


async def closes_itself(ws: WebSocket) -> None:
    await writes_at_the_end(ws)
    await ws.close(4000)


async def raises(ws: WebSocket) -> None:
    await writes_at_the_end(ws)
    raise ZeroDivisionError


async def opened(world: World, handler: Any) -> tuple[Browser, Exchange]:
    browser = await world.seed(world.starlette([WebSocketRoute("/", handler)]), n=1)
    exchange = browser.connect("/")
    await exchange.until(1)
    return browser, exchange


def codes(exchange: Exchange) -> list[int]:
    return [message["code"] for message in exchange.sent if message["type"] == "websocket.close"]


@pytest.mark.parametrize(
    ("handler", "code"), [(commits, 1013), (writes_at_the_end, 1013), (closes_itself, 4000)]
)
async def test_the_store_is_away(world: World, handler: Any, code: int) -> None:
    """Try again later; one that the app has closed is closed once."""
    _, exchange = await opened(world, handler)
    world.store.fail("save", times=None)
    exchange.push({"type": "websocket.receive", "text": "a"})
    await exchange.done()
    assert codes(exchange) == [code]


async def test_the_session_is_gone(world: World) -> None:
    """Who it was opened for is signed out: policy violation."""
    browser, exchange = await opened(world, commits)
    assert browser.cookie is not None
    await world.manager().revoke(browser.cookie[:22])
    exchange.push({"type": "websocket.receive", "text": "a"})
    await exchange.done()
    assert codes(exchange) == [1008]


async def test_a_client_that_has_left_is_not_told(world: World) -> None:
    """Its side is closed already."""
    _, exchange = await opened(world, writes_at_the_end)
    world.store.fail("save", times=None)
    exchange.push({"type": "websocket.receive", "text": "a"})
    exchange.disconnect()
    await exchange.done()
    assert codes(exchange) in ([], [1013])


async def test_an_error_of_the_app_is_the_servers_to_tell(world: World) -> None:
    """It goes on to whoever is further out, as ever."""
    _, exchange = await opened(world, raises)
    exchange.push({"type": "websocket.receive", "text": "a"})
    with pytest.raises(ZeroDivisionError):
        await exchange.done()
    assert codes(exchange) == []


@pytest.mark.parametrize(("error", "code"), [("load", 1013), ("gone", 1008)])
async def test_a_handshake_without_denial_responses(world: World, error: str, code: int) -> None:
    """The same codes, where the server cannot send a status."""

    async def handler(ws: WebSocket) -> None:
        session = await load_session(ws)
        session["n"] = 2
        await session.commit()
        await ws.accept()

    browser = await world.seed(world.starlette([WebSocketRoute("/", handler)]), n=1)
    assert browser.cookie is not None
    if error == "load":
        world.store.fail("load", times=None)
    else:
        gate = world.store.pause("load", when="after")
    exchange = browser.connect("/", denial=False)
    if error == "gone":
        await gate.reached()
        await world.manager().revoke(browser.cookie[:22])
        gate.release()
    await exchange.done()
    assert codes(exchange) == [code]

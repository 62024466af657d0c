"""`rotate_every` through the middleware: two tabs, cut responses, a thief, streams and WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from asgi_session import ConfigurationError, SessionManager, load_session
from asgi_session.stores.memory import MemoryStore
from tests.app.kit import Answer, Browser, World

EVERY = 600


async def look(request: Request) -> Response:
    return JSONResponse(dict(await load_session(request)), int(request.query_params.get("status", 200)))


async def write(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse(None)


async def leave(request: Request) -> Response:
    (await load_session(request)).destroy()
    return JSONResponse(None)


async def unused(request: Request) -> Response:
    return JSONResponse(None)


async def late(request: Request) -> Response:
    async def stream() -> AsyncIterator[bytes]:
        yield b"first"
        session = await load_session(request)
        session["late"] = True
        yield b"last"

    return StreamingResponse(stream())


async def socket(websocket: WebSocket) -> None:
    if "first" in websocket.query_params:
        await load_session(websocket)
    await websocket.accept()
    session = await load_session(websocket)
    session["socket"] = True
    await session.commit()
    await websocket.close()


ROUTES = [
    *(Route(f"/{each.__name__}", each) for each in (look, write, leave, unused, late)),
    WebSocketRoute("/socket", socket),
]


class Site:
    """An app whose sessions rotate every ten minutes, and a browser whose cookie is older than that."""

    def __init__(self, world: World, app: Starlette, browser: Browser) -> None:
        self.world = world
        self.app = app
        self.browser = browser

    @classmethod
    async def made(cls, **options: Any) -> Site:
        world = World()
        app = world.starlette(ROUTES, **{"rotate_every": EVERY, **options})
        site = cls(world, app, await world.seed(app, user="ada"))
        world.clock.advance(EVERY)
        return site

    async def get(self, path: str, browser: Browser | None = None) -> Answer:
        answer = await (browser or self.browser).get(path)
        await self.world.drain(self.app)
        return answer

    async def cut(self, path: str) -> Answer:
        """Make a request whose response never arrives."""
        answer = await self.browser.begin("GET", path).done()
        await self.world.drain(self.app)
        return answer


@pytest.fixture
async def site() -> Site:
    return await Site.made()


async def test_what_it_costs(site: Site) -> None:
    """Promise 2: one save with the response, one when the new cookie comes back, and then nothing more."""
    before = site.browser.cookie
    assert (await site.get("/look")).cookie is not None
    assert site.browser.cookie != before
    assert site.world.calls() == {"load": 1, "save": 1}
    assert (await site.get("/look")).cookie is None
    assert site.world.calls() == {"load": 1, "save": 1}
    assert (await site.get("/look")).cookie is None
    assert site.world.calls() == {"load": 1}
    site.world.clock.advance(EVERY - 1)
    assert (await site.get("/look")).cookie is None
    site.world.clock.advance(1)
    assert (await site.get("/look")).cookie is not None
    assert site.world.names().count("rotated") == 2
    assert "dropped" not in site.world.names()


async def test_a_write_and_a_rotation_are_one_save(site: Site) -> None:
    """Promise 2: what the request has changed goes along."""
    assert (await site.get("/write")).cookie is not None
    assert site.world.calls() == {"load": 1, "save": 1}
    assert await site.world.read(site.browser) == {"user": "ada", "n": 1}


async def test_a_client_that_comes_rarely(site: Site) -> None:
    """A new cookie that comes back when it is old already is noted and replaced in one save."""
    await site.get("/look")
    for _ in range(3):
        site.world.clock.advance(EVERY)
        site.world.calls()
        assert (await site.get("/look")).cookie is not None
        assert site.world.calls() == {"load": 1, "save": 1}
    assert "replayed" not in site.world.names()


async def test_by_default_nothing_rotates() -> None:
    """Promise 2: without the option an old cookie stays, and an ordinary request is a load."""
    site = await Site.made(rotate_every=None)
    site.world.clock.advance(7200)
    assert (await site.get("/look")).cookie is None
    assert site.world.calls() == {"load": 1}


async def test_two_tabs(site: Site) -> None:
    """Promise 14: of requests side by side one gets a new cookie, all are served, all their data is kept."""
    tabs = [site.browser.twin() for _ in range(5)]
    answers = await asyncio.gather(*(site.get("/write" if tab is tabs[0] else "/look", tab) for tab in tabs))
    assert {answer.status for answer in answers} == {200}
    assert [answer.cookie is not None for answer in answers].count(True) == 1
    slow = site.browser.twin()
    for answer in answers:
        site.browser.keep(answer)
    await site.get("/look")
    site.world.clock.advance(14)
    assert (await site.get("/look", slow)).body == b'{"user":"ada","n":1}', "it was on its way"
    assert "dropped" not in site.world.names()


async def test_a_cut_response(site: Site) -> None:
    """Promise 8: whoever never gets the new cookie is served with the old one, and offered another."""
    assert (await site.cut("/look")).cookie is not None
    site.world.clock.advance(59.999)
    answer = await site.get("/look")
    assert (answer.body, answer.cookie) == (b'{"user":"ada"}', None), "its response may yet arrive"
    for _ in range(3):
        site.world.clock.advance(60)
        answer = await site.cut("/look")
        assert answer.body == b'{"user":"ada"}'
        assert answer.cookie is not None
    site.world.clock.advance(7 * 86400)
    assert (await site.get("/look")).cookie is not None
    assert (await site.get("/look")).body == b'{"user":"ada"}'
    assert "replayed" not in site.world.names()


async def test_a_response_that_is_late(site: Site) -> None:
    """Of two new cookies, because the first seemed lost, either is good when it comes."""
    first = await site.cut("/look")
    site.world.clock.advance(60)
    assert (await site.cut("/look")).cookie is not None
    site.browser.keep(first)
    assert (await site.get("/look")).body == b'{"user":"ada"}'
    site.world.clock.advance(30)
    assert (await site.get("/look")).body == b'{"user":"ada"}'
    assert "replayed" not in site.world.names()


async def test_a_thief_with_an_old_copy(site: Site) -> None:
    """Promise 8: a stolen cookie is good until 15 s after its successor came back; then it is reported."""
    thief = site.browser.twin()
    await site.get("/look")
    await site.get("/look")
    site.world.clock.advance(15)
    answer = await site.get("/look", thief)
    assert (answer.body, answer.cookie) == (b"{}", None)
    assert site.world.names()[-1] == "replayed"
    assert (await site.get("/look")).body == b'{"user":"ada"}'


@pytest.mark.parametrize("on_replay", ["report", "end"])
async def test_a_thief_who_is_first(on_replay: str) -> None:
    """Promise 8: they never share a new cookie, and the loser's next request reports it, or ends both."""
    site = await Site.made(on_replay=on_replay)
    thief = site.browser.twin()
    await site.get("/look", thief)
    await site.get("/look", thief)
    assert thief.cookie != site.browser.cookie
    site.world.clock.advance(15)
    assert (await site.get("/look")).body == b"{}"
    assert "replayed" in site.world.names()
    left = b'{"user":"ada"}' if on_replay == "report" else b"{}"
    assert (await site.get("/look", thief)).body == left


async def test_a_thief_beside_a_cut_response(site: Site) -> None:
    """With the old cookie he gets another one than its owner; once one was used, the other is not good."""
    thief = site.browser.twin()
    await site.get("/look")
    site.world.clock.advance(60)
    await site.get("/look", thief)
    assert thief.cookie != site.browser.cookie
    assert (await site.get("/look")).body == b'{"user":"ada"}'
    site.world.clock.advance(15)
    assert (await site.get("/look", thief)).body == b"{}"
    assert "replayed" in site.world.names()


async def test_not_once_the_headers_have_left(site: Site) -> None:
    """What is loaded after the response has started is saved; the rotation is left to the next request."""
    before = site.browser.cookie
    assert (await site.get("/late")).cookie is None
    assert site.browser.cookie == before
    assert "dropped" not in site.world.names()
    answer = await site.get("/look")
    assert answer.body == b'{"user":"ada","late":true}'
    assert answer.cookie is not None


@pytest.mark.parametrize(("path", "rotates"), [("/socket?first", True), ("/socket", False)])
async def test_websockets(path: str, rotates: bool, site: Site) -> None:
    """A WebSocket that loads before it accepts gets the new cookie with that; no other gets one."""
    exchange = site.browser.connect(path)
    await exchange.done()
    await site.world.drain(site.app)
    headers = dict(exchange.sent[0].get("headers", []))
    assert exchange.sent[0]["type"] == "websocket.accept"
    assert (b"set-cookie" in headers) is rotates
    assert await site.world.read(site.browser) == {"user": "ada", "socket": True}
    assert "dropped" not in site.world.names()


async def test_neither_in_failed_nor_in_idle_requests(site: Site) -> None:
    """A response of 500 or above sets no cookie; one that doesn't use its session costs nothing."""
    assert (await site.get("/look?status=500")).cookie is None
    assert site.world.calls() == {"load": 1}
    assert (await site.get("/unused")).cookie is None
    assert site.world.calls() == {}
    assert (await site.get("/look?status=404")).cookie is not None


async def test_an_ending_goes_first(site: Site) -> None:
    """A logout with an old cookie ends the session, and nothing else."""
    answer = await site.get("/leave")
    assert "Max-Age=0" in (answer.cookie or "")
    assert "rotated" not in site.world.names()


async def test_a_store_that_takes_no_saves(site: Site) -> None:
    """No request fails because it should have rotated; one with something to save does."""
    site = await Site.made(deadline=0.05)
    site.world.store.fail("save", times=None)
    answer = await site.get("/look")
    assert (answer.status, answer.cookie) == (200, None)
    assert (await site.get("/write")).status == 503
    site.world.store.heal()
    assert (await site.get("/look")).cookie is not None


@pytest.mark.parametrize("every", [0, 59, -1, float("nan"), 91 * 86400, True, "1h"])
def test_periods_that_make_no_sense(every: Any) -> None:
    """A period below a minute, or beyond what any session lasts, is refused."""
    with pytest.raises(ConfigurationError, match="rotate_every="):
        SessionManager(MemoryStore(), rotate_every=every)


def test_only_two_answers_to_a_replay() -> None:
    """`on_replay` takes its two words."""
    with pytest.raises(ConfigurationError, match="on_replay='warn'"):
        SessionManager(MemoryStore(), on_replay="warn")  # type: ignore[arg-type]

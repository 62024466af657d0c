"""Logins by `clear()` through the middleware: which answer, which cookie, and who is signed in afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_session import load_session
from tests.app.kit import Answer, Browser, World, find_middleware
from tests.inside import tasks_of


async def who(request: Request) -> Response:
    session = await load_session(request)
    return JSONResponse({"id": session.id, **session})


async def login(request: Request) -> Response:
    session = await load_session(request)
    session.clear()
    session["user"] = "ada" * int(request.query_params.get("size", 1))
    return JSONResponse(None)


async def login_unloaded(request: Request) -> Response:
    session = request.session
    session.clear()
    session["user"] = "ada"
    return JSONResponse(None)


async def login_late(request: Request) -> Response:
    session = await load_session(request)

    def later() -> None:
        session.clear()
        session["user"] = "ada"

    return JSONResponse(None, background=BackgroundTask(later))


async def login_and_out(request: Request) -> Response:
    session = await load_session(request)
    session.clear()
    session["user"] = "ada"
    await session.commit()
    session.destroy()
    return JSONResponse(None)


ROUTES = [
    Route(f"/{each.__name__}", each) for each in (who, login, login_unloaded, login_late, login_and_out)
]
LOGINS = pytest.mark.parametrize("path", ["/login", "/login_unloaded"])


def deletes(answer: Answer) -> bool:
    return answer.cookie is not None and "Max-Age=0" in answer.cookie


async def id_of(browser: Browser) -> Any:
    return json.loads((await browser.get("/who")).body)["id"]


@LOGINS
async def test_a_login_changes_the_id(world: World, path: str) -> None:
    """Promise 8: who revokes the id of before signs out nobody who came after."""
    app = world.starlette(ROUTES)
    browser = await world.seed(app, cart=[1])
    before = await id_of(browser)
    answer = await browser.get(path)
    assert answer.status == 200
    assert answer.cookie is not None
    assert await id_of(browser) not in (None, before)
    assert await find_middleware(app).manager.revoke(before)
    assert await world.read(browser) == {"user": "ada"}


@LOGINS
async def test_a_creation_that_fails(world: World, path: str) -> None:
    """Promise 5: 503, with the cookie's deletion: the user is signed out, here and for the old cookie."""
    browser = await world.seed(world.starlette(ROUTES), user="bob")
    before = browser.twin()
    world.store.fail("create", "refused")
    answer = await browser.get(path)
    assert answer.status == 503
    assert deletes(answer)
    assert browser.cookie is None
    assert (await before.get("/who")).body == b'{"id":null}'
    assert world.names() == ["ended", "failed", "retired"]
    assert (await browser.get(path)).status == 200
    assert await world.read(browser) == {"user": "ada"}


@LOGINS
async def test_an_ending_that_fails(world: World, path: str) -> None:
    """Promise 11: 503 and no cookie: the client is signed in as before, and may try again."""
    browser = await world.seed(world.starlette(ROUTES), user="bob")
    world.store.fail("save", "refused")
    answer = await browser.get(path)
    assert (answer.status, answer.cookie) == (503, None)
    assert "create" not in world.calls()
    assert await world.read(browser) == {"user": "bob"}
    assert (await browser.get(path)).status == 200
    assert await world.read(browser) == {"user": "ada"}


async def test_a_login_that_is_too_large(world: World) -> None:
    """500 and no cookie: nothing was ended for what could not be kept."""
    browser = await world.seed(world.starlette(ROUTES, max_size=1000), user="bob")
    answer = await browser.get("/login?size=1000")
    assert (answer.status, answer.cookie) == (500, None)
    assert world.calls() == {"load": 1}
    assert await world.read(browser) == {"user": "bob"}


async def test_a_process_that_stops_in_between(world: World) -> None:
    """Promise 5: the answer, if it still leaves, deletes the cookie; the old one opens nothing any more."""
    app = world.starlette(ROUTES)
    browser = await world.seed(app, user="bob")
    before = browser.twin()
    gate = world.store.pause("create")
    exchange = browser.begin("GET", "/login")
    await gate.reached()
    for task in tasks_of(find_middleware(app).manager):
        task.cancel()
    answer = await exchange.done()
    assert answer.status == 503
    assert deletes(answer)
    assert (await before.get("/who")).body == b'{"id":null}'


@pytest.mark.parametrize("moment", ["save", "create"])
async def test_a_client_that_leaves_in_between(world: World, moment: Any) -> None:
    """Promise 5: a login whose request is cancelled is carried out; its old cookie opens nothing any more."""
    app = world.starlette(ROUTES)
    browser = await world.seed(app, user="bob")
    gate = world.store.pause(moment)
    exchange = browser.begin("GET", "/login")
    await gate.reached()
    await exchange.cancel()
    assert exchange.sent == []
    gate.release()
    await world.drain(app)
    assert [name for name in world.names() if name != "confirmed"] == ["ended", "created"]
    assert (await browser.get("/who")).body == b'{"id":null}'


async def test_after_the_headers(world: World) -> None:
    """Promise 14: it ends the session; what was set is reported as late, and no cookie is sent any more."""
    browser = await world.seed(world.starlette(ROUTES), user="bob")
    answer = await browser.get("/login_late")
    assert (answer.status, answer.cookie) == (200, None)
    assert sorted(world.names()) == ["dropped", "ended"]
    assert [event.info for event in world.events if event.name == "dropped"] == [
        {"reason": "late", "keys": ["user"]}
    ]
    assert "create" not in world.calls()
    assert (await browser.get("/who")).body == b'{"id":null}'


async def test_another_tab_with_the_old_cookie(world: World) -> None:
    """Promises 8 and 14: for a minute it reads nothing and touches no cookie; then the cookie is unknown."""
    browser = await world.seed(world.starlette(ROUTES), user="bob")
    tab = browser.twin()
    await browser.get("/login")
    for seconds in (0, 59, 2):
        world.clock.advance(seconds)
        answer = await tab.get("/who")
        assert (answer.body, answer.cookie) == (b'{"id":null}', None)
    assert [event.name for event in world.events if event.name in ("retired", "unknown")] == [
        "retired", "retired", "unknown",
    ]  # fmt: skip
    assert await world.read(browser) == {"user": "ada"}


async def test_a_login_that_is_taken_back_in_the_same_request(world: World) -> None:
    """Promise 5: the cookie that the client came with is dead, so the answer deletes it."""
    app = world.starlette(ROUTES)
    browser = await world.seed(app, n=1)
    assert deletes(await browser.get("/login_and_out"))
    assert await id_of(browser) is None
    stranger = Browser(app)
    assert (await stranger.get("/login_and_out")).cookie is None  # it never had one

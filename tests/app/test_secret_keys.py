"""Changing secret_key while a fleet serves: at every step some processes have the old setting."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_session import load_session
from tests.app.kit import Answer, Browser, World

OLD, NEW = "the old key, of 16 bytes and more", "the new key, of 16 bytes and more"
STEPS = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
"""What docs/security.md says; each is rolled out to every process before the next one begins."""
ABSOLUTE = timedelta(days=30)


async def add(request: Request) -> Response:
    """Write to the session; begin one where there is none."""
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse(session["n"])


async def read(request: Request) -> Response:
    return JSONResponse((await load_session(request)).get("n", 0))


async def rotate(request: Request) -> Response:
    """Hand out a new cookie for the same session, as a login does."""
    (await load_session(request)).rotate()
    return Response()


ROUTES = [
    Route("/add", add, methods=["POST"]),
    Route("/read", read),
    Route("/rotate", rotate, methods=["POST"]),
]


def process(world: World, keys: list[str]) -> Starlette:
    """Start a process of the fleet: one more app on the same store."""
    return world.starlette(ROUTES, secret_key=keys, absolute_timeout=ABSOLUTE)


async def ask(app: Starlette, browser: Browser, method: str, path: str) -> Answer:
    """Make a request of the process to which the load balancer sends this one."""
    browser.app = app
    return await browser.request(method, path)


async def begin(app: Starlette) -> Browser:
    browser = Browser(app)
    await browser.post("/add")
    assert browser.cookie is not None
    return browser


@pytest.mark.parametrize(("before", "after"), list(pairwise(STEPS)), ids=["first", "second", "third"])
@pytest.mark.parametrize("began_on", [0, 1], ids=["began before", "began after"])
async def test_each_step(world: World, before: list[str], after: list[str], began_on: int) -> None:
    """While a step is rolled out, every process opens the cookies that any process hands out."""
    fleet = [process(world, before), process(world, after)]
    browser = await begin(fleet[began_on])
    for n, app in enumerate([fleet[1], fleet[0], fleet[1], fleet[0]], start=2):
        answer = await ask(app, browser, "POST", "/add")
        assert (answer.body, answer.cookie) == (str(n).encode(), None)
    for rotating in fleet:
        cookie = browser.cookie
        await ask(rotating, browser, "POST", "/rotate")
        assert browser.cookie != cookie
        for app in fleet:
            assert (await ask(app, browser, "GET", "/read")).body == b"5"
    assert "malformed" not in world.names()


async def test_all_steps(world: World) -> None:
    """A session from before the first step lives through all of them until its absolute timeout."""
    fleet = [process(world, STEPS[0]), process(world, STEPS[0])]
    browser = await begin(fleet[0])
    for step in STEPS[1:3]:
        for position in range(2):
            fleet[position] = process(world, step)
            for app in fleet:
                assert (await ask(app, browser, "GET", "/read")).body == b"1"
    world.clock.advance(ABSOLUTE)  # and when the old key is dropped there is no such session any more
    assert (await ask(fleet[0], browser, "GET", "/read")).body == b"0"


async def test_dropping_the_old_key_too_early(world: World) -> None:
    """A cookie signed with the old key opens nothing once that is dropped; one handed out since does."""
    first, second, third = (process(world, step) for step in STEPS[1:])
    stays, logs_in_again = await begin(first), await begin(first)
    await ask(second, logs_in_again, "POST", "/rotate")
    assert (await ask(third, logs_in_again, "GET", "/read")).body == b"1"
    assert (await ask(third, stays, "GET", "/read")).body == b"0"


async def test_the_new_key_first_logs_users_out(world: World) -> None:
    """Why the order matters: who has only the old key rejects the new cookies, and sets one over a login."""
    upgraded, waiting = process(world, [NEW, OLD]), process(world, [OLD])
    browser = await begin(upgraded)
    login = browser.cookie
    assert (await ask(waiting, browser, "GET", "/read")).body == b"0"  # anonymous on half of the fleet
    assert "malformed" in world.names()
    await ask(waiting, browser, "POST", "/add")
    assert browser.cookie != login  # the login's cookie is gone from the browser
    await ask(upgraded, browser, "POST", "/add")
    assert await world.read(browser) == {"n": 2}  # of a session that knows nothing of the first


async def test_the_first_key_logs_users_out(world: World) -> None:
    """Setting the first key rejects the cookies that were not signed, and processes without one take both."""
    unsigned, signed = world.starlette(ROUTES), process(world, [NEW])
    browser = await begin(unsigned)
    assert (await ask(signed, browser, "GET", "/read")).body == b"0"
    browser = await begin(signed)
    assert (await ask(unsigned, browser, "GET", "/read")).body == b"1"

"""Sealed records, as a fleet of processes uses them: moving in, changing keys, and what is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_session import SessionCorrupt, load_session
from asgi_session.store import Saved, Stored
from tests.app.kit import Answer, Browser, World
from tests.inside import COOKIE_NAME

OLD, NEW = "the old key, which has at least 32 bytes", "the new key, which has at least 32 bytes"
ABSOLUTE = timedelta(days=30)


async def add(request: Request) -> Response:
    """Write to the session; begin one where there is none."""
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse(session["n"])


async def read(request: Request) -> Response:
    return JSONResponse((await load_session(request)).get("n", 0))


ROUTES = [Route("/add", add, methods=["POST"]), Route("/read", read)]


def process(world: World, **options: Any) -> Starlette:
    """Start a process of the fleet: one more app on the same store."""
    return world.starlette(ROUTES, absolute_timeout=ABSOLUTE, **options)


async def ask(app: Starlette, browser: Browser, method: str, path: str) -> Answer:
    """Make a request of the process to which the load balancer sends this one."""
    browser.app = app
    return await browser.request(method, path)


async def begin(app: Starlette) -> Browser:
    browser = Browser(app)
    await browser.post("/add")
    return browser


async def stored(world: World, browser: Browser) -> Stored:
    found = await world.store.store.load(str(browser.cookie)[:22], deadline=1e12)
    assert found is not None
    return found


async def put(world: World, browser: Browser, data: bytes) -> None:
    """Write to the store behind the library's back."""
    before = await stored(world, browser)
    key = str(browser.cookie)[:22]
    answer = await world.store.store.save(key, data, before.expires_at, expect=before, deadline=1e12)
    assert isinstance(answer, Saved)


# ---------------------------------------------------------------- fleets

KEYS: list[dict[str, Any]] = [
    {"encryption_key": [OLD]},
    {"encryption_key": [OLD, NEW]},
    {"encryption_key": [NEW, OLD]},
    {"encryption_key": [NEW]},
]
MOVING: list[dict[str, Any]] = [
    {},
    {"encryption_key": NEW, "unsealed": "write"},
    {"encryption_key": NEW, "unsealed": "accept"},
    {"encryption_key": NEW},
]
STEPS = {"keys": KEYS, "moving in": MOVING, "moving out": MOVING[::-1]}
"""What docs/encryption.md says; each is rolled out to every process before the next one begins."""


@pytest.mark.parametrize("steps", STEPS)
async def test_no_step_is_noticed(world: World, steps: str) -> None:
    """Two processes run a step and the one after it at the same time; each reads what the other has saved."""
    browsers: list[tuple[Browser, int]] = []
    for before, after in pairwise(STEPS[steps]):
        fleet = [process(world, **before), process(world, **after)]
        browsers += [(await begin(app), 1) for app in fleet]
        for _ in range(2):
            for number, (browser, n) in enumerate(browsers):
                for app in fleet:
                    n += 1
                    assert (await ask(app, browser, "GET", "/read")).body == str(n - 1).encode()
                    assert (await ask(app, browser, "POST", "/add")).body == str(n).encode()
                browsers[number] = browser, n
    assert "corrupt" not in world.names()


@pytest.mark.parametrize("steps", STEPS)
async def test_the_last_step_must_wait(world: World, steps: str) -> None:
    """Who was only read since keeps the record as it was: an error, not an empty session, at a hasty step."""
    reader = await begin(process(world, **STEPS[steps][0]))
    await ask(process(world, **STEPS[steps][1]), reader, "GET", "/read")
    before = await stored(world, reader)
    last = process(world, on_corrupt="new", **STEPS[steps][3])
    with pytest.raises(SessionCorrupt):
        await ask(last, reader, "GET", "/read")
    assert (await stored(world, reader)).data == before.data
    world.clock.advance(ABSOLUTE.total_seconds())
    assert (await ask(last, reader, "GET", "/read")).body == b"0"


async def test_unsealed_records_are_reported(world: World) -> None:
    """An event for each read of one; none once it was saved, which seals it."""
    browser = await begin(process(world))
    app = process(world, encryption_key=NEW, unsealed="accept")
    for path in ("/read", "/read"):
        assert (await ask(app, browser, "GET", path)).body == b"1"
    assert world.names().count("unsealed") == 2
    (event, *_) = [event for event in world.events if event.name == "unsealed"]
    assert event.session_id == str(browser.cookie)[:22]
    assert event.connection is not None
    assert (await ask(app, browser, "POST", "/add")).body == b"2"
    world.events.clear()
    assert (await ask(process(world, encryption_key=NEW), browser, "GET", "/read")).body == b"2"
    assert "unsealed" not in world.names()


# ---------------------------------------------------------------- what is refused

Wrong = Callable[[World, Browser], Awaitable[None]]


async def broken(world: World, browser: Browser) -> None:
    data = (await stored(world, browser)).data
    await put(world, browser, data[:-1] + bytes([data[-1] ^ 1]))


async def later_idle_timeout(world: World, browser: Browser) -> None:
    data = (await stored(world, browser)).data
    await put(world, browser, data[:31] + b"\xff" + data[32:])


async def made_up(world: World, browser: Browser) -> None:
    """A record that its writer has taken from an app of its own, without a key."""
    attacker = World()
    app = process(attacker)
    theirs = await attacker.seed(app, role="admin")
    data = (await stored(attacker, theirs)).data
    mine = (await stored(world, browser)).data
    start = 65 + 4 * data[63]
    await put(world, browser, mine[:16] + b"\x01" + mine[17:63] + b"\0\0" + data[start:])


async def anothers(world: World, browser: Browser) -> None:
    other = await begin(process(world, encryption_key=NEW))
    await put(world, browser, (await stored(world, other)).data)


async def cut_off(world: World, browser: Browser) -> None:
    await put(world, browser, (await stored(world, browser)).data[:80])


async def nothing(world: World, browser: Browser) -> None:
    """The record is as it was."""


REFUSED: dict[str, tuple[Wrong, dict[str, Any], str]] = {
    "broken": (broken, {"encryption_key": NEW}, "seal of the record is broken"),
    "a longer idle timeout": (later_idle_timeout, {"encryption_key": NEW}, "seal of the record is broken"),
    "made up": (made_up, {"encryption_key": NEW}, "not sealed"),
    "another session's": (anothers, {"encryption_key": NEW}, "the record of another session"),
    "cut off": (cut_off, {"encryption_key": NEW}, "incomplete"),
    "another key": (nothing, {"encryption_key": OLD}, "sealed with the encryption key whose id is"),
    "no key": (nothing, {}, "has no encryption_key"),
}


@pytest.mark.parametrize("wrong", REFUSED)
@pytest.mark.parametrize("autoload", [False, True], ids=["", "autoload"])
async def test_a_wrong_seal_is_never_an_empty_session(world: World, wrong: str, autoload: bool) -> None:
    """Promise 10: whatever on_corrupt says, the client gets a 500, and keeps cookie and record."""
    browser = await begin(process(world, encryption_key=NEW))
    change, options, says = REFUSED[wrong]
    await change(world, browser)
    before, cookie = await stored(world, browser), browser.cookie
    app = process(world, on_corrupt="new", autoload=autoload, **options)
    world.events.clear()
    for method, path in (("GET", "/read"), ("POST", "/add")):
        if autoload:
            answer = await ask(app, browser, method, path)
            assert (answer.status, answer.cookie) == (500, None)
        else:
            with pytest.raises(SessionCorrupt, match=says) as caught:
                await ask(app, browser, method, path)
            assert caught.value.by_seal
            assert str(browser.cookie)[:22] in str(caught.value)
    assert world.names() == ["corrupt"] * 2
    assert browser.cookie == cookie
    assert (await stored(world, browser)).data == before.data
    if wrong == "another session's":
        assert set(world.store.distrusted) == {str(cookie)[:22]}


async def test_unreadable_bytes_may_still_begin_anew(world: World) -> None:
    """Promise 10: bytes that nobody has sealed, of no format, are what on_corrupt="new" is for."""
    browser = await begin(process(world, encryption_key=NEW))
    data = (await stored(world, browser)).data
    await put(world, browser, data[:16] + b"\xff" * 40)
    app = process(world, encryption_key=NEW, on_corrupt="new")
    assert (await ask(app, browser, "POST", "/add")).body == b"1"


@pytest.mark.parametrize("order", [1, -1])
async def test_beside_another_cookie(world: World, order: int) -> None:
    """What opens a session wins over a wrong seal, and that over what is merely unreadable."""
    app = process(world, encryption_key=NEW, on_corrupt="new")
    good, wrong, garbage = [await begin(app) for _ in range(3)]
    await broken(world, wrong)
    data = (await stored(world, garbage)).data
    await put(world, garbage, data[:16] + b"\xff" * 40)

    async def ask_with(*browsers: Browser) -> Answer:
        browser = Browser(app)
        line = "; ".join(f"{COOKIE_NAME}={each.cookie}" for each in browsers[::order])
        return await browser.request("GET", "/read", headers=[("cookie", line)])

    assert (await ask_with(wrong, good)).body == b"1"
    with pytest.raises(SessionCorrupt, match="seal of the record is broken"):
        await ask_with(wrong, garbage)


async def test_an_older_record_put_back_is_valid(world: World) -> None:
    """The limit that the page on sealing names: a rollback of a whole record is not noticed."""
    app = process(world, encryption_key=NEW)
    browser = await begin(app)
    old = await stored(world, browser)
    await ask(app, browser, "POST", "/add")
    await put(world, browser, old.data)
    assert (await ask(app, browser, "GET", "/read")).body == b"1"

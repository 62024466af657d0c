"""When a response sets the cookie, with which attributes, and what it says to caches."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from asgi_session import load_session
from tests.app.kit import Browser, World, find_middleware
from tests.inside import manager_of


async def read(request: Request) -> Response:
    return JSONResponse(dict(await load_session(request)))


async def write(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return Response(headers=dict(request.query_params))


async def rotate(request: Request) -> Response:
    session = await load_session(request)
    session.rotate()
    return PlainTextResponse("rotated")


async def destroy(request: Request) -> Response:
    (await load_session(request)).destroy()
    return PlainTextResponse("bye")


async def clear(request: Request) -> Response:
    (await load_session(request)).clear()
    return PlainTextResponse("bye")


async def login(request: Request) -> Response:
    session = await load_session(request)
    session.clear()
    session["user"] = 7
    return PlainTextResponse("hello")


async def mark(request: Request) -> Response:
    request.session  # noqa: B018
    return PlainTextResponse("looked at")


async def untouched(request: Request) -> Response:
    return PlainTextResponse("hello")


async def create_commit_and_lose(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = 1
    await session.commit()
    assert session.id is not None
    await manager_of(session).revoke(session.id)
    session["n"] = 2
    return PlainTextResponse("lost")


async def create_and_destroy(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = 1
    await session.commit()
    session.destroy()
    return PlainTextResponse("nothing")


HANDLERS = (
    read, write, rotate, destroy, clear, login, mark, untouched, create_commit_and_lose, create_and_destroy
)  # fmt: skip
ROUTES = [Route(f"/{handler.__name__}", handler) for handler in HANDLERS]


def attributes(line: str | None) -> set[str]:
    assert line is not None
    return set(line.split("; ")[1:])


async def test_a_new_session_sets_the_default_cookie(world: World) -> None:
    """The default cookie has the __Host- prefix and every attribute that goes with it."""
    browser = Browser(world.starlette(ROUTES, absolute_timeout=timedelta(days=90)))
    answer = await browser.get("/write")
    assert answer.cookie is not None
    assert re.match(r"__Host-session=[\w-]{40,60}; ", answer.cookie)
    assert attributes(answer.cookie) == {"Max-Age=7776000", "Path=/", "HttpOnly", "Secure", "SameSite=Lax"}
    assert answer.header("cache-control") == "private, no-store"
    assert answer.header("vary") == "Cookie"


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        ({"https_only": False}, "session", {"Path=/", "HttpOnly", "SameSite=Lax"}),
        ({"path": "/shop"}, "__Secure-session", {"Path=/shop", "HttpOnly", "Secure", "SameSite=Lax"}),
        (
            {"domain": "example.org"},
            "__Secure-session",
            {"Path=/", "Domain=example.org", "HttpOnly", "Secure", "SameSite=Lax"},
        ),
        ({"session_cookie": "sid"}, "sid", {"Path=/", "HttpOnly", "Secure", "SameSite=Lax"}),
        ({"same_site": "strict"}, "__Host-session", {"Path=/", "HttpOnly", "Secure", "SameSite=Strict"}),
        (
            {"same_site": "none", "partitioned": True},
            "__Host-session",
            {"Path=/", "HttpOnly", "Secure", "SameSite=None", "Partitioned"},
        ),
    ],
)
async def test_attributes_and_deletion(
    world: World, options: dict[str, Any], name: str, expected: set[str]
) -> None:
    """Options reach the cookie, and the deletion repeats every attribute, or browsers would keep it."""
    browser = Browser(world.starlette(ROUTES, persistent=False, **options))
    created = await browser.get("/write")
    assert created.cookie is not None
    assert created.cookie.startswith(f"{name}=")
    assert attributes(created.cookie) == expected
    deleted = await browser.get("/destroy")
    assert deleted.cookie is not None
    assert deleted.cookie.startswith(f"{name}=;")
    assert attributes(deleted.cookie) == expected | {"Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:00 GMT"}
    assert deleted.header("cache-control") == "private, no-store"


async def test_max_age_is_the_rest_of_the_absolute_timeout(world: World) -> None:
    """A session rotated a day after it began gets a day less, whatever the idle timeout."""
    browser = Browser(world.starlette(ROUTES, idle_timeout=timedelta(days=7), absolute_timeout=10 * 86400))
    await browser.get("/write")
    await browser.get("/read")
    world.clock.advance(timedelta(days=1, seconds=5))
    answer = await browser.get("/rotate")
    assert "Max-Age=777595" in attributes(answer.cookie)


async def test_max_age_has_a_limit(world: World) -> None:
    """Browsers cut Max-Age at 400 days, so no more is sent."""
    browser = Browser(world.starlette(ROUTES, absolute_timeout=timedelta(days=1000)))
    assert "Max-Age=34560000" in attributes((await browser.get("/write")).cookie)


async def test_a_write_to_an_existing_session_sets_none(world: World) -> None:
    """A slow response must not undo a newer cookie, so only what creates, rotates or ends sets one."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    for path in ("/read", "/write", "/mark", "/untouched"):
        answer = await browser.get(path)
        assert (answer.status, answer.cookie) == (200, None)
        assert answer.header("cache-control") == (None if path in ("/mark", "/untouched") else "private")


async def test_rotation_sets_a_new_value_and_kills_the_old(world: World) -> None:
    """Promise 8: after rotate() the old cookie is dead at once and the new one has the data."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    old = browser.twin()
    await browser.get("/rotate")
    assert browser.cookie != old.cookie
    assert (await browser.get("/read")).body == b'{"n":1}'
    answer = await old.get("/read")
    assert (answer.body, answer.cookie) == (b"{}", None)
    answer = await old.get("/write")  # detached: dropped, and no cookie that would undo the new one
    assert (answer.status, answer.cookie) == (200, None)
    assert await world.read(browser) == {"n": 1}
    assert "dropped" in world.names()


async def test_clear_and_set_is_a_new_identity(world: World) -> None:
    """A login written for Starlette, clear() then values, rotates; clear() alone ends and deletes."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    before = browser.twin()
    answer = await browser.get("/login")
    assert answer.cookie is not None
    assert "Max-Age=0" not in attributes(answer.cookie)
    assert await world.read(browser) == {"user": 7}
    assert await world.read(before) == {}
    answer = await browser.get("/clear")
    assert "Max-Age=0" in attributes(answer.cookie)


@pytest.mark.parametrize("path", ["/destroy", "/clear"])
async def test_ending_what_never_was_sets_none(world: World, path: str) -> None:
    """Logging out without a session deletes no cookie and calls no store."""
    browser = Browser(world.starlette(ROUTES))
    answer = await browser.get(path)
    assert (answer.status, answer.cookie, world.calls()) == (200, None, {})


@pytest.mark.parametrize("path", ["/destroy", "/clear", "/read", "/write"])
async def test_a_session_found_ended_sets_none(world: World, path: str) -> None:
    """Promise 14: who finds the session ended by another tab touches no cookie: it may be a newer one."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    late = browser.twin()
    await browser.get("/destroy")
    answer = await late.get(path)
    assert (answer.status, answer.cookie) == (200, None)


async def test_a_session_revoked_meanwhile_sets_none(world: World) -> None:
    """Promise 5: a write that finds its session revoked is dropped, without a cookie, with an event."""
    app = world.starlette(ROUTES)
    browser = await world.seed(app, n=1)
    gate = world.store.pause("save")
    exchange = browser.begin("GET", "/write")
    await gate.reached()
    assert await find_middleware(app).manager.revoke(str(browser.cookie)[:22])
    gate.release()
    answer = await exchange.done()
    assert (answer.status, answer.cookie) == (200, None)
    assert await world.read(browser) == {}
    assert "dropped" in world.names()


async def test_created_and_lost_in_one_request_sets_none(world: World) -> None:
    """Promise 14: a session this request created and another ended gets neither cookie nor deletion."""
    browser = Browser(world.starlette(ROUTES))
    answer = await browser.get("/create_commit_and_lose")
    assert (answer.status, answer.cookie) == (200, None)


async def test_created_and_ended_in_one_request_leaves_no_cookie(world: World) -> None:
    """What was created and ended before the headers left is not handed out."""
    browser = Browser(world.starlette(ROUTES))
    await browser.get("/create_and_destroy")
    assert browser.cookie is None


async def test_a_write_overtaken_by_a_login(world: World) -> None:
    """Promise 14: a slow response, overtaken by another tab's login, sets no cookie; its data is dropped."""
    browser = await world.seed(world.starlette(ROUTES), n=1)
    gate = world.store.pause("load", when="after")
    exchange = browser.twin().begin("GET", "/write")
    await gate.reached()
    await browser.get("/login")
    gate.release()
    answer = await exchange.done()
    assert (answer.status, answer.cookie) == (200, None)
    assert await world.read(browser) == {"user": 7}
    assert ("dropped", "overtaken") in [(e.name, e.info.get("reason")) for e in world.events]


# ---------------------------------------------------------------- caches


async def test_vary_when_accessed(world: World) -> None:
    """Vary: Cookie whenever the session was used, also by Starlette's request.session alone."""
    app = world.starlette(ROUTES)
    for browser in (Browser(app), await world.seed(app, n=1)):
        assert (await browser.get("/read")).header("vary") == "Cookie"
        assert (await browser.get("/mark")).header("vary") == "Cookie"
        assert (await browser.get("/untouched")).header("vary") is None


async def test_vary_with_autoload_only_when_used(world: World) -> None:
    """autoload alone makes no response vary."""
    browser = await world.seed(world.starlette(ROUTES, autoload=True), n=1)
    answer = await browser.get("/untouched")
    assert (answer.header("vary"), world.calls()) == (None, {"load": 1})
    assert (await browser.get("/mark")).header("vary") == "Cookie"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("Accept", "Accept, Cookie"), ("cookie", "cookie"), ("*", "*"), ("Accept, Cookie", "Accept, Cookie")],
)
async def test_vary_joins_what_the_app_set(world: World, given: str, expected: str) -> None:
    """Cookie is added to the app's own Vary once."""
    browser = Browser(world.starlette(ROUTES))
    assert (await browser.get(f"/write?vary={given}")).header("vary") == expected


async def test_the_apps_own_cache_control_stays(world: World) -> None:
    """no-store stands beside a Set-Cookie unless the app has said otherwise."""
    browser = Browser(world.starlette(ROUTES))
    answer = await browser.get("/write?cache-control=private")
    assert answer.cookie is not None
    assert answer.header("cache-control") == "private"


# ---------------------------------------------------------------- plain http


async def test_one_warning_over_plain_http(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A Secure cookie set over plain http is warned of once, not per request."""
    app = world.starlette(ROUTES)
    for _ in range(3):
        await Browser(app, scheme="http").get("/write")
    warnings = [r for r in caplog.records if "plain http" in r.getMessage()]
    assert [r.levelno for r in warnings] == [logging.WARNING]
    assert "https_only=False" in warnings[0].getMessage()


async def test_no_warning_without_cause(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is warned of over https, with https_only=False, or while no cookie is set."""
    await Browser(world.starlette(ROUTES)).get("/write")
    await Browser(world.starlette(ROUTES, https_only=False), scheme="http").get("/write")
    await Browser(world.starlette(ROUTES), scheme="http").get("/read")
    assert not caplog.records

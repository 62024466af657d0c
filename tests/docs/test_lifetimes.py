"""The examples on the page of lifetimes do what the page says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import HTTPException
from starlette.applications import Starlette
from starlette.routing import Route

from asgi_session import SessionManager, SessionMiddleware, load_session
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import ManualClock, SessionClient
from tests.docs.pages import ROOT, python
from tests.docs.test_examples import run

DAY = 86_400


@pytest.fixture
async def page() -> dict[str, Any]:
    """The names that the page defines."""
    path = ROOT / "docs/lifetimes.md"
    names: dict[str, Any] = {"__name__": path.stem}
    for block in python(path):
        await run(path, block, names, "")
    return names


def ends(client: SessionClient) -> tuple[float, float]:
    """Return in how many seconds the session ends: unused, and at the latest; by the page's own endpoint."""
    found = client.get("/session").raise_for_status().json()
    now = datetime.now(UTC)
    unused, latest = (
        datetime.fromisoformat(found[name]) - now for name in ("signed_out_at", "at_the_latest")
    )
    return unused.total_seconds(), latest.total_seconds()


def max_age(line: str) -> int | None:
    found = [part for part in line.split("; ") if part.startswith("Max-Age=")]
    return int(found[0].removeprefix("Max-Age=")) if found else None


def about(seconds: float) -> Any:
    return pytest.approx(seconds, abs=60)


def test_remember_me(page: dict[str, Any]) -> None:
    """Who is remembered has a cookie for a year; who then signs in without it has none that stays."""
    client = SessionClient(page["app"])
    answer = client.post("/login/ada?remember=true")
    assert max_age(answer.headers["set-cookie"]) == 365 * DAY
    client.post("/session/extend")  # the first visit confirms it
    assert ends(client) == (about(60 * DAY), about(365 * DAY))
    answer = client.post("/login/eve")
    assert max_age(answer.headers["set-cookie"]) is None
    assert ends(client) == (about(7200), about(12 * 3600))


def test_an_administrator(page: dict[str, Any]) -> None:
    """A quarter of an hour, four hours at most, and no cookie that stays."""
    client = SessionClient(page["app"])
    client.post("/login/ada?remember=true")
    answer = client.post("/admin/login/root")
    assert max_age(answer.headers["set-cookie"]) is None
    assert ends(client) == (about(900), about(4 * 3600))


def test_the_polls(page: dict[str, Any]) -> None:
    """News, and the page that warns, do not confirm a new session; the button does."""
    client = SessionClient(page["app"])
    client.post("/login/ada?remember=true")
    assert client.get("/news").json() == {"user": "ada", "unread": 3}
    assert ends(client) == (about(3600), about(365 * DAY))
    assert client.post("/session/extend").status_code == 204
    assert ends(client) == (about(60 * DAY), about(365 * DAY))


async def test_the_identity_providers_end(page: dict[str, Any]) -> None:
    """The earlier of its end and ours counts; one that has passed is refused."""
    manager = SessionManager("memory://")
    now = datetime.now(UTC)

    async def sign_in(ends: int | None) -> float:
        found: list[float] = []

        async def handler(request: Any) -> Any:
            session = await load_session(request)
            page["sign_in"](session, "ada", ends)
            await session.commit()
            assert session.absolute_expires_at is not None
            found.append((session.absolute_expires_at - now).total_seconds())
            return page["JSONResponse"]({})

        client = SessionClient(SessionMiddleware(Starlette(routes=[Route("/", handler)]), manager))
        client.get("/")
        return found[0]

    assert await sign_in(round(now.timestamp()) + 3600) == about(3600)
    assert await sign_in(round(now.timestamp()) + 30 * DAY) == about(12 * 3600)
    assert await sign_in(None) == about(12 * 3600)
    with pytest.raises(HTTPException):
        page["sign_in"](None, "ada", round(now.timestamp()) - 1)


def test_in_starlette(page: dict[str, Any]) -> None:
    """`load_session(request, passive=True)` and the predicate let an abandoned tab run out."""
    clock = ManualClock()
    store = MemoryStore(clock=clock)

    async def use(request: Any) -> Any:
        return page["JSONResponse"](dict(await load_session(request)))

    app = Starlette(routes=[Route("/unread", page["unread"]), Route("/poll/use", use), Route("/use", use)])
    client = SessionClient(
        SessionMiddleware(app, store=store, clock=clock, passive=page["is_poll"], idle_timeout=3600)
    )
    with client.session() as session:
        session["user"] = "ada"
    client.get("/use")
    for path, headers in (("/unread", {}), ("/poll/use", {}), ("/use", {"x-poll": "1"})):
        assert client.get(path, headers=headers).json()["user"] == "ada"
        clock.advance(timedelta(minutes=20))
    assert client.get("/use").json() == {}


async def test_on_suspicion(page: dict[str, Any]) -> None:
    """From outside a request a session is given five minutes."""
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    manager = SessionManager(store, clock=clock)
    found: list[str] = []

    async def handler(request: Any) -> Any:
        session = await load_session(request)
        session["user"] = "ada"
        await session.commit()
        assert session.id is not None
        found.append(session.id)
        return page["JSONResponse"]({})

    SessionClient(SessionMiddleware(Starlette(routes=[Route("/", handler)]), manager)).get("/")
    clock.advance(60)
    await page["on_suspicion"](manager, found[0])
    clock.advance(timedelta(minutes=5))
    assert len(store) == 0

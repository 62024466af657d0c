"""What the page on requests says of clear() and new values: the steps, and what fails in between."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_session import SessionManager, SessionMiddleware, load_session
from asgi_session.stores import MemoryStore
from asgi_session.testing import FaultStore, SessionClient


class Site:
    """An app where Ada is logged in, with a store that fails when told to."""

    def __init__(self) -> None:
        self.store = FaultStore(MemoryStore())
        self.events: list[tuple[str, str | None]] = []
        manager = SessionManager(self.store, on_event=self._note, max_size=1000)
        routes = [Route("/", self._show), Route("/{user}", self._switch)]
        self.app = SessionMiddleware(Starlette(routes=routes), manager=manager)
        self.value: Any = None
        self.client = SessionClient(self.app, raise_server_exceptions=False)
        with self.client.session() as session:
            session["user"] = "ada"
        self.client.get("/")
        self.events.clear()
        self.store.calls.clear()

    async def _show(self, request: Request) -> Response:
        return JSONResponse(await load_session(request))

    async def _switch(self, request: Request) -> Response:
        session = await load_session(request)
        session.clear()
        session["user"] = request.path_params["user"] if self.value is None else self.value
        return JSONResponse(None)

    def _note(self, name: str, session_id: str | None, **info: Any) -> None:
        if name in ("ended", "created", "failed", "rotated"):
            self.events.append((name, session_id))

    @property
    def cookie(self) -> str:
        """The client's; empty when it has none."""
        return next(iter(self.client.cookies.values()), "")

    def content(self) -> dict[str, Any]:
        """Return what the client's session holds."""
        found: dict[str, Any] = self.client.get("/").json()
        return found


@pytest.fixture
def site() -> Site:
    return Site()


def test_it_ends_one_session_and_creates_another(site: Site) -> None:
    """Promise 8: first the old one ends, then the new one is created, under another id."""
    old = site.cookie[:22]
    assert site.client.get("/bob").status_code == 200
    new = site.cookie[:22]
    assert new != old
    assert site.events == [("ended", old), ("created", new)]
    assert [call.verb for call in site.store.calls if call.verb != "touch"] == ["load", "save", "create"]
    assert site.content() == {"user": "bob"}


@pytest.mark.parametrize("value", ["x" * 2000, object()])
def test_new_values_that_cannot_be_stored(site: Site, value: Any) -> None:
    """They are found before anything has ended."""
    site.value, old = value, site.cookie
    answer = site.client.get("/bob")
    assert (answer.status_code, answer.headers.get("set-cookie")) == (500, None)
    assert site.cookie == old
    assert site.content() == {"user": "ada"}


def test_an_ending_that_fails(site: Site) -> None:
    """Where the old session could not be ended, no new one is created."""
    site.store.fail("save", "refused", times=1)
    answer = site.client.get("/bob")
    assert (answer.status_code, answer.headers.get("set-cookie")) == (503, None)
    assert "create" not in [call.verb for call in site.store.calls]
    assert site.content() == {"user": "ada"}


def test_a_creation_that_fails(site: Site) -> None:
    """Promise 5: the answer deletes the cookie, and the user is signed out, whatever cookie is sent."""
    old = dict(site.client.cookies)
    site.store.fail("create", "refused", times=1)
    answer = site.client.get("/bob")
    assert answer.status_code == 503
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert [name for name, _ in site.events] == ["ended", "failed"]
    site.client.cookies.update(old)
    assert site.content() == {}


async def test_a_crash_in_between() -> None:
    """Promise 5: before the new session is created the old one has ended, so a crash signs out."""
    site = await asyncio.to_thread(Site)
    cookies = dict(site.client.cookies)
    creating = site.store.pause("create")
    transport = httpx.ASGITransport(site.app)
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver", cookies=cookies) as tab:
        switching = asyncio.ensure_future(tab.get("/bob"))
        await creating.reached()
        assert (await tab.get("/")).json() == {}
        creating.release()
        assert (await switching).status_code == 200

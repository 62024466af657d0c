"""The demo's app: what one worker serves."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import signed_cookie
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_session import SessionInfo, SessionManager, SessionMiddleware
from asgi_session.fastapi import SessionDep
from asgi_session.store import CreateResult, SaveResult, Store, Stored
from asgi_session.stores import store_from_url

COOKIE = "asgi_session_demo"
PAGE = Path(__file__).with_name("page.html")

routes = APIRouter()


@routes.get("/")
async def page() -> FileResponse:
    """Serve the page. It does not declare the session, so it costs the store nothing."""
    return FileResponse(PAGE)


@routes.get("/api/session")
async def show(session: SessionDep) -> dict[str, Any]:
    """Show the session: one command, or none for a visitor without a cookie."""
    return {
        "id": session.id,
        "created_at": session.created_at,
        "expires_at": session.idle_expires_at,
        "data": dict(session),
    }


@routes.post("/api/count", status_code=204)
async def count(session: SessionDep) -> None:
    """Change one key."""
    session["count"] = session.get("count", 0) + 1


@routes.post("/api/keys/{number}", status_code=204)
async def write(number: int, request: Request, session: SessionDep) -> None:
    """Change a key of its own, after some work, so that the parallel requests surely overlap."""
    await asyncio.sleep(0.05)
    session[f"key {number}"] = request.app.state.worker


@routes.delete("/api/keys", status_code=204)
async def forget(session: SessionDep) -> None:
    """Remove the keys that `write` has set."""
    for key in [key for key in session if key.startswith("key ")]:
        del session[key]


@routes.post("/api/login", status_code=204)
async def login(name: Annotated[str, Query(pattern=r"\S", max_length=40)], session: SessionDep) -> None:
    """Sign in. An app checks a password here; the demo takes anybody's word.

    The key is the one that `identity` names, so the session goes on under a new id and with a new cookie:
    one planted before is worth nothing.
    """
    session["user"] = name.strip()


@routes.post("/api/rotate", status_code=204)
async def rotate(session: SessionDep) -> None:
    """Give the same session a new credential."""
    session.rotate()


@routes.post("/api/logout", status_code=204)
async def logout(session: SessionDep) -> None:
    """End the session."""
    session.destroy()


def who(session: SessionDep) -> str:
    """Return who is signed in; 401 for nobody."""
    if "user" not in session:
        raise HTTPException(401, "nobody is signed in")
    return str(session["user"])


def manager_of(request: Request) -> SessionManager:
    """Return the worker's session manager."""
    manager = request.app.state.manager
    assert isinstance(manager, SessionManager)
    return manager


User: TypeAlias = Annotated[str, Depends(who)]
Manager: TypeAlias = Annotated[SessionManager, Depends(manager_of)]


@routes.get("/api/devices")
async def devices(user: User, session: SessionDep, manager: Manager) -> list[SessionInfo]:
    """List the user's sessions, on whichever worker they signed in."""
    return [info async for info in manager.sessions_of(user, current=session)]


@routes.post("/api/devices/{session_id}/sign-out", status_code=204)
async def sign_out(session_id: str, user: User, manager: Manager) -> None:
    """End one of the user's sessions. `principal` keeps them from ending anybody else's."""
    try:
        ended = await manager.revoke(session_id, principal=user)
    except ValueError:  # not even the form of an id
        ended = False
    if not ended:
        raise HTTPException(404, "you have no such session")


@routes.post("/api/sign-out-others")
async def sign_out_others(user: User, session: SessionDep, manager: Manager) -> int:
    """End all of the user's sessions but this one; how many there were."""
    return await manager.revoke_user(user, except_=session.id)


@routes.post("/api/end-worker", status_code=204)
async def end_worker(after: BackgroundTasks) -> None:
    """End this very process once the answer is out, the hard way."""

    async def end() -> None:  # async: a plain function would run in a thread, with time for a new request
        os.kill(os.getpid(), signal.SIGKILL)

    after.add_task(end)


BROWSERS = {"Edg/": "Edge", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari", "curl/": "curl"}
SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "Windows": "Windows",
    "Mac OS": "macOS",
    "Linux": "Linux",
}


def describe(connection: HTTPConnection) -> str:
    """Say where a session comes from, in words that a user recognizes."""
    agent = connection.headers.get("user-agent", "")
    browser = next((name for mark, name in BROWSERS.items() if mark in agent), "Another client")
    system = next((f" on {name}" for mark, name in SYSTEMS.items() if mark in agent), "")
    address = f", {connection.client.host}" if connection.client else ""
    return browser + system + address


class CountingStore:
    """Passes everything on to a store, and counts the commands."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.commands = Counter(load=0, create=0, save=0, touch=0, delete=0)

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        self.commands["load"] += 1
        return await self._store.load(key, deadline=deadline)

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        self.commands["create"] += 1
        return await self._store.create(key, data, expires_at, deadline=deadline)

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        self.commands["save"] += 1
        return await self._store.save(key, data, expires_at, expect=expect, deadline=deadline)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        self.commands["touch"] += 1
        return await self._store.touch(key, expires_at, expect=expect, deadline=deadline)

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        self.commands["delete"] += 1
        return await self._store.delete(key, expect=expect, deadline=deadline)


class Merges:
    """Counts, from the events, the writes that were merged with changes of other requests."""

    def __init__(self) -> None:
        self.counts = Counter(merged=0, again=0)

    def on_event(self, name: str, session_id: str | None, **info: Any) -> None:
        if name == "merged":
            self.counts["merged"] += 1
            self.counts["again"] += info["tries"] > 1  # the other worker had saved first


class Report:
    """Tells in each response who answered, and what this worker had sent and merged before and after.

    The difference is what happened in the worker while the request was under way: the request's own
    commands when it was alone, and everybody's when several ran at once.
    """

    def __init__(self, app: ASGIApp, worker: str, store: CountingStore, merges: Merges) -> None:
        self._app = app
        self._worker = f"{worker} {os.getpid()}"
        self._store = store
        self._merges = merges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        before, merged_before = _text(self._store.commands), _text(self._merges.counts)
        cookie = HTTPConnection(scope).cookies.get(COOKIE, "") if scope["type"] == "http" else ""

        async def send_with_report(message: Message) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(0)  # a touch is not waited for: let it leave, so that it counts
                report = {
                    "x-worker": self._worker,
                    # Enough to see that the credential has changed; the cookie itself is nobody's business.
                    "x-credential": hashlib.sha256(cookie.encode()).hexdigest()[:10] if cookie else "",
                    "x-store-before": before,
                    "x-store-after": _text(self._store.commands),
                    "x-merges-before": merged_before,
                    "x-merges-after": _text(self._merges.counts),
                    "connection": "close",  # so that the next request may meet either worker
                }
                headers = [(name.encode(), value.encode()) for name, value in report.items()]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        await self._app(scope, receive, send_with_report if scope["type"] == "http" else send)


def _text(counts: Counter[str]) -> str:
    return ",".join(f"{name}={times}" for name, times in counts.items())


def make_app(worker: str, store_url: str, cookie_secret: str) -> ASGIApp:
    """Return the app of one worker; below /cookie is the one with Starlette's own sessions."""
    store, merges = CountingStore(store_from_url(store_url)), Merges()
    manager = SessionManager(store, identity="user", describe=describe, on_event=merges.on_event)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with manager:
            yield
        await store.close()  # a manager closes only a store that it made from a URL itself

    app = FastAPI(title="asgi-session demo")
    app.state.worker = worker
    app.state.manager = manager
    app.include_router(routes)
    app.add_middleware(
        SessionMiddleware,
        manager=manager,
        # Cookies do not tell ports apart: a name of our own keeps clear of other apps on this machine.
        session_cookie=COOKIE,
        # The demo speaks plain http, and not every browser keeps a Secure cookie for http://127.0.0.1.
        # An app that others can reach is served over https and leaves this at True.
        https_only=False,
    )
    other = signed_cookie.make_app(worker, cookie_secret)
    both = Starlette(routes=[Mount("/cookie", other), Mount("/", app)], lifespan=lifespan)
    return Report(both, worker, store, merges)

"""The middleware opens what it owns when the app starts, and closes it when the app stops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message

from asgi_session import ConfigurationError, SessionManager, SessionMiddleware, StoreUnavailable
from asgi_session.stores.memory import MemoryStore
from asgi_session.stores.redis import RedisStore
from asgi_session.testing import FaultStore
from tests.app.kit import World, find_middleware
from tests.servers import ServerProcess


class Noted(MemoryStore):
    """Notes when it was opened and closed; opening may fail."""

    def __init__(self, notes: list[str], error: Exception | None = None) -> None:
        super().__init__()
        self.notes = notes
        self.error = error

    async def open(self) -> None:
        self.notes.append("store opened")
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        self.notes.append("store closed")


async def live(app: ASGIApp, notes: list[str]) -> list[Message]:
    """Start and stop the app; return what it told the server."""
    sent: list[Message] = []
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        notes.append(message["type"].removeprefix("lifespan."))
        sent.append(message)

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    return sent


def make(notes: list[str], fails: str = "") -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        notes.append("app started")
        if fails == "startup":
            raise KeyError("startup")
        yield
        notes.append("app stopped")
        if fails == "shutdown":
            raise KeyError("shutdown")

    return Starlette(lifespan=lifespan)


def own(store: Noted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every URL name this store, which then belongs to the manager."""
    monkeypatch.setattr("asgi_session.stores.store_from_url", lambda url: store)


async def test_what_it_owns_is_opened_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store from a URL is open before the app says so, and closed after the app has stopped."""
    notes: list[str] = []
    own(Noted(notes), monkeypatch)
    await live(SessionMiddleware(make(notes), store="memory://"), notes)
    assert notes == [
        "app started", "store opened", "startup.complete", "app stopped", "store closed", "shutdown.complete"
    ]  # fmt: skip


async def test_a_given_store_is_not_closed() -> None:
    """A store of the app's own is opened, but its closing is the app's business."""
    notes: list[str] = []
    await live(SessionMiddleware(make(notes), store=Noted(notes)), notes)
    assert notes == ["app started", "store opened", "startup.complete", "app stopped", "shutdown.complete"]


async def test_a_given_manager_is_left_alone(world: World) -> None:
    """A manager of the app's own is neither opened nor closed."""
    notes: list[str] = []
    world.store.store = Noted(notes)
    await live(SessionMiddleware(make(notes), world.manager()), notes)
    assert notes == ["app started", "startup.complete", "app stopped", "shutdown.complete"]


async def test_a_store_that_is_away_at_startup_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Servers may start before their store: a warning, and the app starts."""
    notes: list[str] = []
    store = Noted(notes, StoreUnavailable("not there"))
    sent = await live(SessionMiddleware(make(notes), store=store), notes)
    assert sent[0] == {"type": "lifespan.startup.complete"}
    assert [(r.levelname, "not there" in r.getMessage()) for r in caplog.records] == [("WARNING", True)]


async def test_a_store_set_up_wrongly_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Promise 18: by default the app starts, and the log says what to do."""
    notes: list[str] = []
    store = Noted(notes, ConfigurationError("wrong database"))
    sent = await live(SessionMiddleware(make(notes), store=store), notes)
    assert sent[0] == {"type": "lifespan.startup.complete"}
    assert [(r.levelname, "wrong database" in r.getMessage()) for r in caplog.records] == [("ERROR", True)]


async def test_a_store_set_up_wrongly_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 18: with check="refuse" it fails the start, rather than every request; nothing stays open."""
    notes: list[str] = []
    own(Noted(notes, ConfigurationError("wrong database")), monkeypatch)
    with pytest.raises(ConfigurationError, match="wrong database"):
        await live(SessionMiddleware(make(notes), store="memory://", check="refuse"), notes)
    assert notes[-1] == "startup.failed"
    assert notes.index("store closed") < notes.index("startup.failed")


async def test_a_store_that_is_away_never_stops_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """An outage of the store must not become one of the app, whatever `check` says."""
    notes: list[str] = []
    store = Noted(notes, StoreUnavailable("not there"))
    sent = await live(SessionMiddleware(make(notes), store=store, check="refuse"), notes)
    assert sent[0] == {"type": "lifespan.startup.complete"}
    assert [r.levelname for r in caplog.records] == ["WARNING"]


async def test_an_app_that_knows_nothing_of_failing() -> None:
    """Where the app lets the error through without a word, the server is told by the middleware."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    notes: list[str] = []
    app = SessionMiddleware(bare, store=Noted([], ConfigurationError("wrong database")), check="refuse")
    with pytest.raises(ConfigurationError):
        await live(app, notes)
    assert notes == ["startup.failed"]


@pytest.mark.parametrize("inner", ["starlette", "bare"])
async def test_a_server_does_not_start(valkey: ServerProcess, inner: str) -> None:
    """uvicorn ends, without a word of password, when the store is set up wrongly; it does not when away."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def starts(url: str) -> bool:
        store = RedisStore.from_url(url, connect_timeout=0.3)
        app = SessionMiddleware(Starlette() if inner == "starlette" else bare, store=store, check="refuse")
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))

        def serve() -> None:
            with contextlib.suppress(SystemExit):
                server.run()

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            while serving.is_alive() and not server.started:
                await asyncio.sleep(0.01)
            return server.started
        finally:
            server.should_exit = True
            await asyncio.to_thread(serving.join)

    at = f"{valkey.host}:{valkey.port}"
    assert await starts(f"redis://{at}")
    assert not await starts(f"redis://someone:hunter2@{at}")
    assert not await starts(f"redis+cluster://{at}")
    assert await starts("redis://127.0.0.1:1")


async def test_ping(valkey: ServerProcess) -> None:
    """A readiness probe is one command to the store, leaves nothing, and tells when there is no answer."""
    async with SessionManager(valkey.url, deadline=0.3) as manager:
        valkey.reset_stats()
        await manager.ping()
        assert {name for name in valkey.commandstats() if name not in ("ping", "info", "config")} == {"get"}
    async with SessionManager(FaultStore(MemoryStore())) as manager:
        await manager.ping()
        assert isinstance(manager.store, FaultStore)
        manager.store.fail(None)
        with pytest.raises(StoreUnavailable):
            await manager.ping()


@pytest.mark.parametrize("fails", ["startup", "shutdown"])
async def test_closed_also_when_the_app_fails(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """An app that fails to start or to stop leaves no open store behind."""
    notes: list[str] = []
    own(Noted(notes), monkeypatch)
    with pytest.raises(KeyError):
        await live(SessionMiddleware(make(notes, fails), store="memory://"), notes)
    assert notes[-2:] == ["store closed", f"{fails}.failed"]


async def test_shutdown_waits_for_saves(world: World) -> None:
    """The app is not reported as stopped while a save of a cancelled request is on its way."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await make([])(scope, receive, send)
            return
        (await scope["session"].load())["n"] = 2
        await send({"type": "http.response.start", "status": 200, "headers": []})

    wrapped = world.wrap(app)
    browser = await world.seed(wrapped, n=1)
    gate = world.store.pause("save", times=None)
    exchange = browser.begin("GET", "/")
    await gate.reached()
    await exchange.cancel()
    notes: list[str] = []
    stopping = asyncio.create_task(live(find_middleware(wrapped), notes))
    while "startup.complete" not in notes:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert "shutdown.complete" not in notes
    gate.release()
    await stopping
    assert notes[-1] == "shutdown.complete"
    assert await world.read(browser) == {"n": 2}


async def test_an_app_without_lifespan(world: World) -> None:
    """An app that raises at a lifespan scope still does so; its store opens itself at the first use."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError

    with pytest.raises(NotImplementedError):
        await live(world.wrap(app), [])


async def test_an_unknown_scope_passes_through(world: World) -> None:
    """Scopes other than http, websocket and lifespan are none of its business."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "session" not in scope
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError("called")

    await world.wrap(app)({"type": "x-other"}, nothing, nothing)
    assert seen == ["x-other"]

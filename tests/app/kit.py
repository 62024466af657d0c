"""A client in the test's own event loop, which sees every ASGI message, and the app's surroundings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message

from asgi_session import SessionManager, SessionMiddleware
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import FaultStore, ManualClock

SendHook = Callable[[Message], Awaitable[None]]


class Event(NamedTuple):
    """What `on_event` was told."""

    name: str
    session_id: str | None
    info: dict[str, Any]
    connection: HTTPConnection | None


class World:
    """A store that counts and fails, a clock that stands still, and what was reported."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = FaultStore(MemoryStore(clock=self.clock))
        self.events: list[Event] = []

    def on_event(
        self, name: str, session_id: str | None, *, connection: HTTPConnection | None, **info: Any
    ) -> None:
        if name != "loaded":  # nearly everything begins with one
            self.events.append(Event(name, session_id, info, connection))

    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def manager(self, **options: Any) -> SessionManager:
        return SessionManager(self.store, clock=self.clock, on_event=self.on_event, **options)

    def wrap(self, app: ASGIApp, **options: Any) -> SessionMiddleware:
        """Put the middleware around `app`."""
        return SessionMiddleware(app, store=self.store, clock=self.clock, on_event=self.on_event, **options)

    def starlette(
        self,
        routes: Sequence[Any],
        *,
        outside: Sequence[Middleware] = (),
        inside: Sequence[Middleware] = (),
        handlers: Any = None,
        debug: bool = False,
        **options: Any,
    ) -> Starlette:
        """Make an app with the middleware between those `outside` and those `inside`."""
        options = {"store": self.store, "clock": self.clock, "on_event": self.on_event, **options}
        stack = [*outside, Middleware(SessionMiddleware, **options), *inside]
        return Starlette(routes=routes, middleware=stack, exception_handlers=handlers, debug=debug)

    def calls(self) -> dict[str, int]:
        """Return the store's calls since the last time this was asked."""
        counts = self.store.counts()
        self.store.calls.clear()
        return counts

    async def seed(self, app: ASGIApp, **values: Any) -> Browser:
        """Return a browser whose session has `values` and was confirmed; forget the calls it took."""
        browser = Browser(app)
        setter = Browser(_instead(app, _setter(values)))
        await setter.get("/")
        await setter.get("/")
        await self.drain(app)
        browser.cookie = setter.cookie
        self.store.calls.clear()
        self.events.clear()
        return browser

    async def read(self, browser: Browser) -> dict[str, Any]:
        """Return what the store has for the browser's cookie."""
        found: dict[str, Any] = {}

        async def reader(scope: Any, receive: Any, send: Any) -> None:
            found.update(await scope["session"].load())
            await answer(send)

        other = Browser(_instead(browser.app, reader))
        other.cookie = browser.cookie
        calls, events = list(self.store.calls), list(self.events)
        await other.get("/")
        await self.drain(browser.app)
        self.store.calls[:], self.events[:] = calls, events
        return found

    async def drain(self, app: ASGIApp) -> None:
        await find_middleware(app).manager.drain()


def _instead(app: ASGIApp, other: ASGIApp) -> SessionMiddleware:
    """Return the app's session middleware around another app."""
    middleware = copy(find_middleware(app))
    middleware.app = other
    return middleware


def _setter(values: dict[str, Any]) -> ASGIApp:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = await scope["session"].load()
        if not session:
            session.update(values)
        await answer(send)

    return app


async def answer(send: Any, status: int = 200, body: bytes = b"", headers: Sequence[Any] = ()) -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


def find_middleware(app: Any) -> SessionMiddleware:
    """Return the outermost session middleware of an app."""
    while not isinstance(app, SessionMiddleware):
        if isinstance(app, Starlette):
            if app.middleware_stack is None:
                app.middleware_stack = app.build_middleware_stack()
            app = app.middleware_stack
        else:
            app = app.app
    return app


@dataclass
class Answer:
    """A response, put together from its messages."""

    messages: list[Message] = field(default_factory=list)

    @property
    def start(self) -> Message:
        starts = [m for m in self.messages if m["type"].endswith("http.response.start")]
        assert len(starts) == 1, f"{len(starts)} responses: {self.messages}"
        return starts[0]

    @property
    def status(self) -> int:
        status = self.start["status"]
        assert isinstance(status, int)
        return status

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages if m["type"].endswith("response.body"))

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        wanted = name.lower().encode()
        return [v.decode("latin-1") for n, v in self.start["headers"] if n.lower() == wanted]

    def header(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, f"{name} occurs {len(values)} times"
        return values[0] if values else None

    @property
    def cookie(self) -> str | None:
        """The Set-Cookie header's value; there may be one at most."""
        return self.header("set-cookie")


class Exchange:
    """A request on its way: what was sent so far, and the means to go on, leave or cancel."""

    def __init__(self, scope: MutableMapping[str, Any], incoming: Sequence[Message]) -> None:
        self.scope = scope
        self.sent: list[Message] = []
        self.hook: SendHook | None = None
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        for message in incoming:
            self._incoming.put_nowait(message)
        self._changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def answer(self) -> Answer:
        return Answer(self.sent)

    def push(self, message: Message) -> None:
        """Let the app receive a message."""
        self._incoming.put_nowait(message)

    def hold_back(self) -> None:
        """Have nothing of the request's body come yet."""
        self._incoming = asyncio.Queue()

    def disconnect(self) -> None:
        """Let the client leave."""
        kind = self.scope["type"]
        self.push(
            {"type": f"{kind}.disconnect", "code": 1001}
            if kind == "websocket"
            else {"type": "http.disconnect"}
        )

    async def receive(self) -> Message:
        return await self._incoming.get()

    async def send(self, message: Message) -> None:
        if self.hook is not None:
            await self.hook(message)
        self.sent.append(message)
        self._changed.set()
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last:  # servers then tell whoever still listens
            self.push({"type": "http.disconnect"})

    async def until(self, count: int) -> None:
        """Wait until so many messages have left; `TimeoutError` after 5 seconds."""
        async with asyncio.timeout(5):
            while len(self.sent) < count:
                self._changed.clear()
                await self._changed.wait()

    async def done(self) -> Answer:
        """Wait for the app to return; raise what it raised."""
        assert self.task is not None
        async with asyncio.timeout(5):
            await self.task
        return self.answer

    async def cancel(self) -> None:
        """Cancel the app's call, as a server does that stops, and wait for its end."""
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait([self.task])


class Browser:
    """Keeps one cookie, as browsers do, and makes requests of `app`."""

    def __init__(
        self, app: ASGIApp, *, scheme: str = "https", name: str | None = None, spec: str = "2.3"
    ) -> None:
        self.app = app
        self.scheme = scheme
        self.name = name or find_middleware(app).cookie.name
        self.spec = spec
        self.cookie: str | None = None

    def twin(self) -> Browser:
        """Return another tab: the same cookie, until one of them gets another."""
        other = Browser(self.app, scheme=self.scheme, name=self.name, spec=self.spec)
        other.cookie = self.cookie
        return other

    def _scope(self, kind: str, path: str, headers: Sequence[tuple[str, str]]) -> dict[str, Any]:
        path, _, query = path.partition("?")
        lines = [("host", "testserver"), *headers]
        if self.cookie is not None:
            lines.append(("cookie", f"{self.name}={self.cookie}"))
        return {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": self.spec},
            "http_version": "1.1",
            "scheme": self.scheme,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in lines],
            "client": ("127.0.0.1", 50000),
            "server": ("testserver", 443),
        }

    def begin(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        hook: SendHook | None = None,
    ) -> Exchange:
        """Start a request and return while it runs."""
        scope = {**self._scope("http", path, headers), "method": method}
        return self._run(Exchange(scope, [{"type": "http.request", "body": body}]), hook)

    def connect(self, path: str, *, headers: Sequence[tuple[str, str]] = (), denial: bool = True) -> Exchange:
        """Start a WebSocket's handshake and return while it runs."""
        extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
        scope = {**self._scope("websocket", path, headers), "subprotocols": [], "extensions": extensions}
        scope["scheme"] = self.scheme.replace("http", "ws")
        return self._run(Exchange(scope, [{"type": "websocket.connect"}]), None)

    def _run(self, exchange: Exchange, hook: SendHook | None) -> Exchange:
        exchange.hook = hook

        async def run() -> None:
            await self.app(exchange.scope, exchange.receive, exchange.send)

        exchange.task = asyncio.create_task(run())
        return exchange

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """Make a request, wait for the app to return, and keep the cookie it set."""
        exchange = self.begin(method, path, **options)
        try:
            await exchange.done()
        finally:
            if any(m["type"] == "http.response.start" for m in exchange.sent):
                self.keep(exchange.answer)
        return exchange.answer

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        return await self.request("POST", path, **options)

    def keep(self, answer: Answer) -> None:
        """Do what the response's Set-Cookie says."""
        for line in answer.all("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if name == self.name:
                self.cookie = None if "; Max-Age=0;" in line else value

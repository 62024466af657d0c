"""A client for tests of apps, which keeps Secure cookies and shows the session."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.types import ASGIApp, Receive, Scope, Send

from asgi_session import ConfigurationError, SessionMiddleware, load_session
from asgi_session.errors import REFUSED


class SessionClient(TestClient):
    """Starlette's `TestClient`, over https, so that the Secure session cookie comes back.

    ::

        client = SessionClient(app)
        with client.session() as session:
            session["user"] = 7                     # what the test starts from
        assert client.get("/me").json() == {"user": 7}
        with client.session() as session:
            assert session == {"user": 7}           # what the app has left

    Args:
        app: the app, with a `SessionMiddleware`.
        base_url: what the client asks for; ``https://testserver``. With the middleware's `domain`, a
            host within that.
        **options: of `TestClient`. With its ``raise_server_exceptions=True``, which is the default, an error
            of the session that the middleware answered with 5xx is raised in the test.
    """

    def __init__(self, app: ASGIApp, base_url: str = "https://testserver", **options: Any) -> None:
        self._door = _Door(app, raises=options.get("raise_server_exceptions", True))
        super().__init__(self._door, base_url=base_url, **options)
        self.app = app

    def websocket_connect(
        self, url: str, subprotocols: Sequence[str] | None = None, **options: Any
    ) -> WebSocketTestSession:
        """Connect a WebSocket that carries the client's session.

        Args:
            url: relative to `base_url`, as those of requests are, or whole, with ``wss://``.
            subprotocols: offered to the app.
            **options: of `TestClient.websocket_connect`.
        """
        # TestClient's own joins to ws://testserver, where a Secure cookie is not sent.
        whole = self.build_request("GET", url).url
        scheme = {"https": "wss", "http": "ws"}.get(whole.scheme, whole.scheme)
        return super().websocket_connect(str(whole.copy_with(scheme=scheme)), subprotocols, **options)

    @contextmanager
    def session(self) -> Generator[dict[str, Any], None, None]:
        """Give the contents of the client's session as a plain dict; save what was changed in it.

        Takes two requests at most, past the app: they count as use of the session, and a new one gets
        its cookie. Keys that were neither set, changed nor deleted are left alone.

        Raises:
            ConfigurationError: the app has no `SessionMiddleware`.
            SessionError: whatever loading or saving raises.
        """
        found = self._visit({}, [])
        values = deepcopy(found)
        yield values
        changed = {
            key: value for key, value in values.items() if key not in found or not _same(found[key], value)
        }
        deleted = [key for key in found if key not in values]
        if changed or deleted:
            self._visit(changed, deleted)

    def _visit(self, changed: dict[str, Any], deleted: list[str]) -> dict[str, Any]:
        """Make a request that changes the session in the app's place; return what it found."""
        middleware = copy(find_middleware(self.app))
        middleware.app = visitor = _Visitor(changed, deleted)
        middleware.autoload = False
        self._door.app = middleware
        try:
            self.get(middleware.cookie.path, follow_redirects=False)
        finally:
            self._door.app = self.app
        if visitor.error is not None:
            raise visitor.error
        return visitor.found


def _same(one: Any, other: Any) -> bool:
    """Whether two values are stored alike: 1 and True, 0.0 and -0.0, or one instant in two zones are not."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return _same(list(one.items()), list(other.items()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, (set, frozenset)):  # whose order says nothing
        return sorted(map(repr, one)) == sorted(map(repr, other))
    return repr(one) == repr(other)


class _Door:
    """Lets the client's requests to an app that can be exchanged, and errors back into the test."""

    def __init__(self, app: ASGIApp, *, raises: bool) -> None:
        self.app = app
        self._raises = raises

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused: list[Exception] = []
        if self._raises:
            scope[REFUSED] = refused
        await self.app(scope, receive, send)
        if refused:
            raise refused[0]


class _Visitor:
    """An app that reads and changes the session."""

    def __init__(self, changed: dict[str, Any], deleted: list[str]) -> None:
        self.found: dict[str, Any] = {}
        self.error: Exception | None = None
        self._changed = changed
        self._deleted = deleted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            session = await load_session(HTTPConnection(scope))
            self.found = dict(session)
            session.update(self._changed)
            for key in self._deleted:
                session.pop(key, None)
            if session.modified:
                await session.commit()
        except Exception as error:
            self.error = error
            raise
        await Response(status_code=204)(scope, receive, send)


def find_middleware(app: Any) -> SessionMiddleware:
    """Return the outermost `SessionMiddleware` around an app.

    Raises:
        ConfigurationError: there is none.
    """
    while app is not None and not isinstance(app, SessionMiddleware):
        if isinstance(app, Starlette):
            if app.middleware_stack is None:
                app.middleware_stack = app.build_middleware_stack()
            app = app.middleware_stack
        else:
            app = getattr(app, "app", None)
    if app is None:
        raise ConfigurationError("the app has no SessionMiddleware around it")
    return app

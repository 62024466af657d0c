"""Starlette's own middleware running first, and a browser that keeps several cookies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware
from starlette.types import ASGIApp

from asgi_session import Session, SessionManager, SessionMiddleware
from asgi_session.migrating import StarletteCookie
from tests.inside import COOKIE_NAME

SECRET = "the key of the old middleware"
OLD = "session"
Handler: TypeAlias = Callable[[Session], Awaitable[None] | None]


class Jar:
    """A browser's cookies, by name."""

    def __init__(self, **cookies: str) -> None:
        self.cookies: dict[str, str] = dict(cookies)
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    def copy(self) -> Jar:
        """Return another with the same cookies."""
        return Jar(**self.cookies)

    @property
    def line(self) -> bytes:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()

    @property
    def new(self) -> str | None:
        """The cookie of this library's."""
        return self.cookies.get(COOKIE_NAME)

    def set_cookies(self) -> dict[str, str]:
        """Return the last response's Set-Cookies, by name."""
        found = [value.decode() for name, value in self.headers if name == b"set-cookie"]
        return {value.partition("=")[0]: value.partition("=")[2] for value in found}

    async def get(self, app: ASGIApp, kind: str = "http") -> Jar:
        """Send a request, take the response's cookies, and return itself."""
        headers = [(b"cookie", self.line)] if self.cookies else []
        scope = {"type": kind, "method": "GET", "scheme": "https", "path": "/", "headers": headers}
        self.headers = []

        async def send(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                self.status = message.get("status", 101)
                self.headers = list(message["headers"])

        async def receive() -> Any:
            return {"type": "websocket.disconnect", "code": 1000}

        await app(scope, receive, send)
        for name, rest in self.set_cookies().items():
            value, _, attributes = rest.partition(";")
            if "Max-Age=0" in attributes or value == "null":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return self


async def nothing(session: Session) -> None:
    """Use the session, and leave it as it is."""
    await session.load()


def serving(handler: Handler = nothing, status: int = 200) -> ASGIApp:
    """Return an app that has a handler look at the session, loaded or not, then answers."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        done = handler(scope["session"])
        if done is not None:
            await done
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept", "headers": []})
            return
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


async def signed(values: dict[str, Any], secret: str = SECRET) -> Jar:
    """Return a browser that was served by Starlette's own middleware."""
    jar = Jar()
    await jar.get(SignedCookieMiddleware(serving(lambda session: session.update(values)), secret_key=secret))
    assert OLD in jar.cookies
    return jar


def moved(
    manager: SessionManager, handler: Handler = nothing, *, status: int = 200, **options: Any
) -> SessionMiddleware:
    """Return the app behind this library's middleware, which goes on from the old cookies."""
    old = options.pop("old", None) or StarletteCookie(SECRET)
    return SessionMiddleware(serving(handler, status), manager, migrate_from=old, **options)


class Seen(list[dict[str, Any]]):
    """A handler that notes what each request has found."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str | None] = []

    async def __call__(self, session: Session) -> None:
        """Note it."""
        await session.load()
        self.append(dict(session))
        self.ids.append(session.id)

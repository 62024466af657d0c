"""The way from a connection to its session: `load_session`."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from asgi_session._session.session import Session
from asgi_session.errors import ConfigurationError


def session_of(connection: HTTPConnection) -> Session:
    """Return the session of a Starlette `Request` or `WebSocket`, loaded or not.

    Raises:
        ConfigurationError: there is no `SessionMiddleware` of this library around the app.
    """
    session = connection.scope.get("session")
    if not isinstance(session, Session):
        found = (
            "no session" if session is None else f"a {type(session).__module__}.{type(session).__qualname__}"
        )
        raise ConfigurationError(
            f"the connection has {found} instead of one of asgi-session: add SessionMiddleware to the app "
            "(app.add_middleware(SessionMiddleware, store=...)), and no other session middleware inside it"
        )
    return session


async def load_session(connection: HTTPConnection, *, passive: bool = False) -> Session:
    """Load and return the session of a Starlette `Request` or `WebSocket`.

    Args:
        connection: whose.
        passive: only look: the request is then no use of the session, and does not extend it, whatever
            else it does with it. If the same request also loads it without `passive`, before or after,
            that is use. (Where the middleware's `passive` says that the request is no use, it stays so.)

    Raises:
        ConfigurationError: there is no `SessionMiddleware` around the app.
        StoreUnavailable, SessionCorrupt: see `Session.load`.
    """
    session = connection.scope.get("session")
    if not isinstance(session, Session):
        session = session_of(connection)
    if passive or session._passive:
        session._load_as(passive=passive)
    return session if session._opened else await session.load()

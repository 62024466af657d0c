"""The session as a FastAPI dependency."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, TypeAlias

from asgi_session._session.session import Session
from asgi_session._web.access import load_session
from asgi_session.errors import SessionError

try:
    from fastapi import Depends
    from fastapi.requests import HTTPConnection
except ImportError as _error:
    raise ImportError(
        "asgi_session.fastapi needs FastAPI: pip install 'asgi-session[fastapi]'", name=_error.name
    ) from _error


async def _loaded_session(connection: HTTPConnection) -> Session:
    return await load_session(connection)


SessionDep: TypeAlias = Annotated[Session, Depends(_loaded_session)]
"""A parameter of this type is the request's (or WebSocket's) session, loaded.

Routes that do not declare it pay nothing. It leaves no trace in the OpenAPI schema.
"""


async def _passively_loaded_session(connection: HTTPConnection) -> Session:
    return await load_session(connection, passive=True)


PassiveSessionDep: TypeAlias = Annotated[Session, Depends(_passively_loaded_session)]
"""A parameter of this type is the session, loaded to be looked at: the request does not extend it.

For polls and the like. A request that declares `SessionDep` as well, in any of its dependencies, uses the
session; see `load_session`.
"""


async def _locked_session(connection: HTTPConnection) -> AsyncIterator[Session]:
    if connection.scope["type"] == "websocket":
        raise SessionError(
            "LockedSessionDep would hold the lock for as long as the WebSocket is open. Declare SessionDep, "
            "and use `async with session.lock():` for each message"
        )
    session = await load_session(connection)
    async with session.lock():
        yield session


LockedSessionDep: TypeAlias = Annotated[Session, Depends(_locked_session, scope="function")]
"""A parameter of this type is the session, loaded and locked while the handler runs; see `Session.lock`.

The lock is released, and what was changed saved, when the handler has returned and before the
response starts: ``scope="function"``, which needs FastAPI 0.121 or later. For other durations take
`SessionDep` and ``async with session.lock(wait=..., lease=...):``. Not for WebSockets.
"""

__all__ = ["LockedSessionDep", "PassiveSessionDep", "SessionDep"]

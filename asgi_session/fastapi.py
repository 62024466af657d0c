"""The session as a FastAPI dependency."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from asgi_session.middleware import load_session
from asgi_session.session import Session

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

__all__ = ["SessionDep"]

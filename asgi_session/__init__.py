"""Server-side sessions for Starlette, FastAPI and any ASGI app."""

from asgi_session.errors import (
    ConfigurationError,
    LockLost,
    LockTimeout,
    SessionConflict,
    SessionCorrupt,
    SessionError,
    SessionGone,
    SessionNotLoaded,
    SessionSerializationError,
    SessionTooLarge,
    StoreUnavailable,
)
from asgi_session.manager import SessionManager
from asgi_session.middleware import SessionMiddleware, load_session
from asgi_session.session import Session

__all__ = [
    "ConfigurationError",
    "LockLost",
    "LockTimeout",
    "Session",
    "SessionConflict",
    "SessionCorrupt",
    "SessionError",
    "SessionGone",
    "SessionManager",
    "SessionMiddleware",
    "SessionNotLoaded",
    "SessionSerializationError",
    "SessionTooLarge",
    "StoreUnavailable",
    "load_session",
]

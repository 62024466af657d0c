"""Server-side sessions for Starlette, FastAPI and any ASGI app."""

from asgi_session._engine.manager import SessionManager
from asgi_session._engine.session_info import SessionInfo
from asgi_session._session.session import Session
from asgi_session._web.access import load_session
from asgi_session._web.middleware import SessionMiddleware
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
    SignInRefused,
    StoreUnavailable,
)

__all__ = [
    "ConfigurationError",
    "LockLost",
    "LockTimeout",
    "Session",
    "SessionConflict",
    "SessionCorrupt",
    "SessionError",
    "SessionGone",
    "SessionInfo",
    "SessionManager",
    "SessionMiddleware",
    "SessionNotLoaded",
    "SessionSerializationError",
    "SessionTooLarge",
    "SignInRefused",
    "StoreUnavailable",
    "load_session",
]

"""The session, who is signed in, and how lately, as FastAPI dependencies."""

# No annotations as text here: FastAPI reads those of every dependency, and finds no names for a method's.

from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Annotated, Any, TypeAlias

from asgi_session._options import milliseconds
from asgi_session._session.session import Session
from asgi_session._web.access import load_session
from asgi_session.auth import LoadUser, SignInRequired, require_recent_sign_in, user_of
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


def session_user(
    load_user: LoadUser, *, optional: bool = False
) -> Callable[[HTTPConnection], Coroutine[Any, Any, Any]]:
    """Return a dependency that gives the user who is signed in.

    ``CurrentUser = Annotated[User, Depends(session_user(load_user))]``; needs the manager's ``identity=``.
    It loads the session, as `SessionDep` does. Keep what is returned: FastAPI calls it, and so `load_user`,
    once for each request that has it in several places.

    Args:
        load_user: a function, async or not (then it runs in a worker thread), of the principal as text:
            ``"7"`` for 7. None: there is no such user (any more), and nobody is signed in.
        optional: give None when nobody is signed in, rather than answer 401
            (`asgi_session.auth.SignInRequired`, ``"sign_in_required"``).
    """

    async def current_user(connection: HTTPConnection) -> Any:
        user = await user_of(await load_session(connection), load_user)
        if user is None and not optional:
            raise SignInRequired("sign_in_required")
        return user

    return current_user


class RecentSignIn:
    """A dependency that lets nobody pass who has not proved lately who they are.

    ``dependencies=[Depends(RecentSignIn(timedelta(minutes=10)))]``, or as a parameter,
    ``session: Annotated[Session, Depends(RecentSignIn(...))]``: it gives the loaded session. Others are
    answered 401 (`asgi_session.auth.SignInRequired`), with the reason ``"sign_in_required"`` or
    ``"recent_sign_in_required"``. Needs the manager's ``identity=``.

    Args:
        within: how long ago the sign-in, or `Session.reauthenticated`, may be. timedelta or seconds.

    Raises:
        ConfigurationError: `within` is not a duration.
    """

    def __init__(self, within: float | timedelta) -> None:
        milliseconds("RecentSignIn", within)
        self.within = within

    async def __call__(self, connection: HTTPConnection) -> Session:
        """Return the loaded session, or refuse. FastAPI calls this."""
        return await require_recent_sign_in(connection, self.within)


__all__ = ["LockedSessionDep", "PassiveSessionDep", "RecentSignIn", "SessionDep", "session_user"]

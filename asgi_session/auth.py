"""Who is signed in, for Starlette: a backend for `AuthenticationMiddleware`, and recent sign-ins.

All of it needs the manager's ``identity=``, the key that says who is signed in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Literal, TypeAlias

from starlette.authentication import AuthCredentials, AuthenticationBackend
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from asgi_session._options import milliseconds
from asgi_session._session.session import Session
from asgi_session._web.access import load_session
from asgi_session.errors import ConfigurationError

LoadUser: TypeAlias = Callable[[str], Any]
"""A function, async or not, of the principal as text (``"7"`` for 7), that gives the user, or None.

One that is not async runs in a worker thread, as Starlette's handlers do.
"""

Reason: TypeAlias = Literal["sign_in_required", "recent_sign_in_required"]


class SignInRequired(HTTPException):
    """Nobody is signed in, or the sign-in was too long ago: answered with 401.

    The reason is the `detail`, and so the body of the answer, unless a handler of the app answers something
    else: ``@app.exception_handler(SignInRequired)``, with a redirect to the login page, for example.

    Attributes:
        reason: ``"sign_in_required"`` or ``"recent_sign_in_required"``.
    """

    def __init__(self, reason: Reason) -> None:
        # RFC 9110 wants a challenge with a 401. Browsers show no dialog for a scheme that they do not know.
        super().__init__(401, reason, {"WWW-Authenticate": f'Session error="{reason}"'})
        self.reason: Reason = reason


class SessionAuth(AuthenticationBackend):
    """Has ``request.user`` and ``request.auth`` be whom the session says is signed in.

    ::

        middleware=[
            Middleware(SessionMiddleware, store=..., identity="user_id"),
            Middleware(AuthenticationMiddleware, backend=SessionAuth(load_user)),
        ]

    `AuthenticationMiddleware` asks for each request and WebSocket: where the client has a cookie, that loads
    the session, one store command, and counts as use of it (unless the middleware's `passive` says not).
    Whoever loads it later in the request pays nothing.

    Args:
        load_user: a function, async or not, of the principal as text. None: there is no such user (any more),
            and nobody is signed in. What it gives is ``request.user``, with the scope ``"authenticated"``.
    """

    def __init__(self, load_user: LoadUser) -> None:
        self._load_user = load_user

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Any] | None:
        """Return the user and their scopes; None when nobody is signed in. Starlette calls this.

        Raises:
            ConfigurationError: `SessionMiddleware` is not outside of this, or has no `identity`.
            StoreUnavailable, SessionCorrupt: see `Session.load`.
        """
        if "session" not in conn.scope:
            raise ConfigurationError(
                "SessionAuth: there is no session yet. Put SessionMiddleware outside of "
                "AuthenticationMiddleware: before it in the list of middleware, or added after it with "
                "app.add_middleware()"
            )
        user = await user_of(await load_session(conn), self._load_user)
        return None if user is None else (AuthCredentials(["authenticated"]), user)


async def user_of(session: Session, load_user: LoadUser) -> Any:
    """Return the user who is signed in to a loaded session; None when nobody is, or there is no such user.

    Raises:
        ConfigurationError: no `identity` is configured.
    """
    principal = session.principal
    if principal is None:
        return None
    user = load_user(principal) if _is_async(load_user) else await run_in_threadpool(load_user, principal)
    return await user if inspect.isawaitable(user) else user


async def require_recent_sign_in(connection: HTTPConnection, within: float | timedelta) -> Session:
    """Return the loaded session, if whoever is signed in has proved within `within` that it is them.

    That is: has signed in, or was `Session.reauthenticated`. Call it before what is delicate: a new password
    or mail address, a payment, the deletion of an account.

    Args:
        connection: a Starlette `Request` or `WebSocket`.
        within: timedelta or seconds.

    Raises:
        SignInRequired: nobody is signed in, or it was too long ago; 401.
        ConfigurationError: there is no `SessionMiddleware`, or it has no `identity`; `within` makes no sense.
        StoreUnavailable, SessionCorrupt: see `Session.load`.
    """
    milliseconds("within", within)
    session = await load_session(connection)
    if session.principal is None:
        raise SignInRequired("sign_in_required")
    if not session.authenticated_within(within):
        raise SignInRequired("recent_sign_in_required")
    return session


def _is_async(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


__all__ = ["LoadUser", "SessionAuth", "SignInRequired", "require_recent_sign_in"]

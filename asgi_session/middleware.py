"""`SessionMiddleware`: sessions for any ASGI app. With `fastapi` the only module that knows ASGI."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from http import HTTPStatus
from inspect import iscoroutinefunction, signature
from typing import Any, Final, Literal, TypedDict, Unpack

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from asgi_session.clock import Clock
from asgi_session.cookie import Cookie, SameSite, keep_out_of_caches, vary_on_cookie
from asgi_session.errors import (
    ConfigurationError,
    LockLost,
    LockTimeout,
    SessionConflict,
    SessionError,
    SessionGone,
    StoreUnavailable,
)
from asgi_session.manager import OnEvent, SessionManager
from asgi_session.options import unknown
from asgi_session.session import Owed, Session
from asgi_session.store import Store

logger: Final = logging.getLogger("asgi_session")

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 section 9.2.1
_DISCONNECTED: Final = (ClientDisconnect, WebSocketDisconnect, OSError)
"""What an app raises when its client has left."""
# Names of their own, since looking a member up on its enum takes 0.1 µs on Python 3.11.
_NOTHING: Final = Owed.NOTHING
_COOKIE: Final = Owed.COOKIE
_DELETION: Final = Owed.DELETION


class ManagerOptions(TypedDict, total=False):
    """The options of `SessionManager` that `SessionMiddleware` passes on."""

    secret_key: str | bytes | Sequence[str | bytes] | None
    idle_timeout: float | timedelta
    absolute_timeout: float | timedelta
    unconfirmed_timeout: float | timedelta
    max_size: int
    deadline: float | timedelta
    namespace: str
    on_unavailable: Literal["fail", "anonymous"]
    on_corrupt: Literal["raise", "new"]
    save_on_error: bool
    on_event: OnEvent | None
    clock: Clock


class SessionMiddleware:
    """Give every request and WebSocket of an ASGI app a `Session` at ``scope["session"]``.

    Args:
        app: the ASGI app.
        manager: a `SessionManager` of yours; it is then yours to close.
        store: instead of `manager`, a URL (``redis://localhost:6379``) or a `Store`.
        session_cookie: the cookie's name; default ``__Host-session`` where the attributes allow it,
            else ``session``.
        path: the cookie's path; default ``/``.
        same_site: ``"lax"`` (default), ``"strict"`` or ``"none"``.
        https_only: the cookie's Secure; default True. Over plain http browsers then keep no session;
            ``http://localhost`` is exempt in most.
        domain: the cookie's domain; default None: this host only.
        partitioned: the cookie's Partitioned; default False.
        persistent: send Max-Age, so that the session outlives the browser; default True.
        autoload: load every session before the app runs, for libraries that use ``request.session``
            without an await; or a function of the connection that says for which. Costs one store
            command per request that carries a cookie. Default False.
        **options: see `SessionManager`; only without `manager`.

    Raises:
        ConfigurationError: an unknown option, one that contradicts another, or a second session
            middleware with the same cookie.
    """

    def __init__(
        self,
        app: ASGIApp,
        manager: SessionManager | None = None,
        *,
        store: Store | str | None = None,
        session_cookie: str | None = None,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool = True,
        domain: str | None = None,
        partitioned: bool = False,
        persistent: bool = True,
        autoload: bool | Callable[[HTTPConnection], bool] = False,
        **options: Unpack[ManagerOptions],
    ) -> None:
        self.app: ASGIApp = app
        self.cookie: Cookie = Cookie(
            name=session_cookie,
            path=path,
            same_site=same_site,
            https_only=https_only,
            domain=domain,
            partitioned=partitioned,
            persistent=persistent,
        )
        strange = [name for name in options if name not in ManagerOptions.__annotations__]
        if strange:
            known = {*signature(SessionMiddleware).parameters, *ManagerOptions.__annotations__}
            raise unknown("SessionMiddleware", strange, sorted(known - {"app", "options"}))
        if manager is not None:
            if not isinstance(manager, SessionManager):
                raise ConfigurationError(  # without its repr: a URL may hold a password
                    f"manager=... got a {type(manager).__name__}, which is no SessionManager; "
                    "a URL or a store goes into store=..."
                )
            if store is not None or options:
                given = ["store"] * (store is not None) + list(options)
                raise ConfigurationError(
                    f"SessionMiddleware got a manager and also {', '.join(given)}: give SessionManager these"
                )
        elif store is None:
            raise ConfigurationError(
                "SessionMiddleware needs a store: SessionMiddleware(app, store='redis://localhost:6379'), "
                "'redis+cluster://...', or 'memory://' for a single process; or a manager"
            )
        if not (isinstance(autoload, bool) or callable(autoload)) or iscoroutinefunction(autoload):
            raise ConfigurationError(
                f"autoload={autoload!r}: give True, False or a function of the connection (a plain `def`)"
            )
        _refuse_second(app, self.cookie.name)
        self._owns_manager = manager is None
        if manager is None:
            assert store is not None
            manager = SessionManager(store, **options)
        self.manager: SessionManager = manager
        self._autoload = autoload
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        kind = scope["type"]
        if kind == "http":
            session = self._new_session(scope)
            try:
                await self._http(scope, receive, send, session)
            finally:
                session._served = True
        elif kind == "websocket":
            session = self._new_session(scope)
            try:
                await self._websocket(scope, receive, send, session)
            finally:
                session._served = True
        elif kind == "lifespan" and self._owns_manager:
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _new_session(self, scope: Scope) -> Session:
        outer = scope.get("session")
        # One whose request is over was left by an earlier try of something further out.
        if isinstance(outer, Session) and outer._cookie is not None and not outer._served:
            _refuse_same(outer._cookie.name, self.cookie.name)
        session = scope["session"] = Session(self.manager, self.cookie, scope["headers"])
        return session

    # ---------------------------------------------------------------- http

    async def _http(self, scope: Scope, receive: Receive, send: Send, session: Session) -> None:
        status = 0  # of the response that has started
        failed = False  # the middleware has answered in the app's place

        async def send_with_session(message: Message) -> None:
            nonlocal status, failed
            if failed:
                await _discard(scope, message)
                return
            if message["type"] == "http.response.start":
                status = message["status"]
                if session._accessed:
                    try:
                        if not session._unchanged():
                            await self._commit_before(session, status)
                        headers = self._headers(scope, session, [*message.get("headers", ())])
                        message = {**message, "headers": headers}
                    except Exception as error:
                        failed = session._sealed = True
                        _log(error)
                        await send_plain(_status(error), error, after_handler=True)
                        return
                session._sealed = True
            await send(message)

        async def send_plain(code: int, error: Exception, *, after_handler: bool) -> None:
            session._sealed = True
            body = HTTPStatus(code).phrase.encode()
            headers = self._headers(scope, session, _plain(body))
            if code == 503 and (not after_handler or scope["method"] in _SAFE_METHODS):
                # After a handler has run, a client that repeats by itself could run it twice.
                headers.append((b"retry-after", b"1"))
            await send({"type": "http.response.start", "status": code, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        if self._autoload and self._wants_autoload(scope):
            try:
                await self.manager._load(session)
            except SessionError as error:
                _log(error)
                await send_plain(_status(error), error, after_handler=False)
                return
        try:
            try:
                await self.app(scope, receive, send_with_session)
            except Exception as error:
                disconnected = isinstance(error, _DISCONNECTED)
                if failed:
                    if disconnected:  # it was told so, see _discard
                        return
                    raise
                if status:  # the headers have left
                    await self._commit_late(session, broken=status >= 500 or not disconnected)
                    raise
                await self._commit_after_error(session)
                code = _status(error)
                if code != 500:
                    _log(error)
                    await send_plain(code, error, after_handler=True)
                    return
                if session._owed is not _NOTHING:
                    # Somebody further out would answer without the cookie, and the client would be
                    # left with a credential that is no longer good.
                    await send_plain(500, error, after_handler=True)
                raise
            if session._accessed and not failed and not session._unchanged():
                await self._commit_late(session, broken=status == 0 or status >= 500)
        except asyncio.CancelledError:
            # As when a streaming response's client has left, or the server stops.
            self._commit_cancelled(session, failed, broken=status == 0 or status >= 500)
            raise

    async def _commit_before(self, session: Session, status: int) -> None:
        """Commit before the headers of a response with this `status` leave."""
        only_destroy = status >= 500 and not self.manager.save_on_error
        await self.manager._commit(session, explicit=False, only_destroy=only_destroy)

    async def _commit_late(self, session: Session, *, broken: bool) -> None:
        """Commit what is left when no headers can follow any more; a failure can only be logged.

        Args:
            session: whose.
            broken: the request has failed: only a destroy() is carried out, unless save_on_error.
        """
        session._sealed = True
        try:
            await self.manager._commit(
                session, explicit=False, only_destroy=broken and not self.manager.save_on_error
            )
        except Exception:
            logger.exception("a session that was changed after the response had started was not saved")

    async def _commit_after_error(self, session: Session) -> None:
        """Carry out a destroy() (and, with save_on_error, the rest) of a handler that has failed."""
        try:
            await self.manager._commit(session, explicit=False, only_destroy=not self.manager.save_on_error)
        except Exception:
            logger.exception("the session of a failed request was not committed")

    def _commit_cancelled(self, session: Session, failed: bool, *, broken: bool) -> None:
        """Have a task of the manager's commit what a cancelled request leaves."""
        if session._accessed and not failed:
            self.manager._loops.current().spawn(self._commit_late(session, broken=broken))

    def _headers(
        self, scope: Scope, session: Session, headers: list[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """Add to a response's headers what the session calls for."""
        if session._accessed:
            vary_on_cookie(headers)
        owed, session._owed = session._owed, _NOTHING
        if owed is _DELETION:
            value = self.cookie.delete()
        elif owed is _COOKIE and session._token is not None and session._base is not None:
            left = (session._base.record.deadline - self.manager.clock()) // 1000
            value = self.cookie.write(self.manager.tokens.write(session._token), max(left, 0))
        else:  # nothing owed, or somebody else has ended what this request had created or rotated
            return headers
        headers.append((b"set-cookie", value))
        keep_out_of_caches(headers)
        if self.cookie.secure and not self._warned and scope.get("scheme") in ("http", "ws"):
            self._warned = True
            logger.warning(
                "a Secure session cookie was set over plain http: browsers drop it, other than on localhost. "
                "Serve https, trust the proxy's X-Forwarded-Proto, or, for development, set https_only=False"
            )
        return headers

    # ---------------------------------------------------------------- websocket

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, session: Session) -> None:
        status = 0  # of the answer to the handshake that has started: 101, or a denial's
        failed = False

        async def send_with_session(message: Message) -> None:
            nonlocal status, failed
            if failed:
                await _discard(scope, message)
                return
            kind = message["type"]
            if status == 0 and kind == "websocket.close":
                status = 403  # what the server makes of it; it takes no headers
                session._sealed = True
            if status == 0 and kind in ("websocket.accept", "websocket.http.response.start"):
                status = message.get("status", 101)
                if session._accessed:
                    try:
                        if not session._unchanged():
                            await self._commit_before(session, status)
                        headers = self._headers(scope, session, [*message.get("headers", ())])
                        message = {**message, "headers": headers}
                    except Exception as error:
                        failed = session._sealed = True
                        _log(error)
                        await self._deny(scope, send, session, _status(error))
                        return
                session._sealed = True
            await send(message)

        async def receive_unless_failed() -> Message:
            return {"type": "websocket.disconnect", "code": 1006} if failed else await receive()

        if self._autoload and self._wants_autoload(scope):
            try:
                await self.manager._load(session)
            except SessionError as error:
                _log(error)
                await receive()  # websocket.connect
                await self._deny(scope, send, session, _status(error))
                return
        try:
            try:
                await self.app(scope, receive_unless_failed, send_with_session)
            except Exception as error:
                disconnected = isinstance(error, _DISCONNECTED)
                if failed:
                    if disconnected:
                        return
                    raise
                if status:
                    await self._commit_late(session, broken=status >= 500 or not disconnected)
                    raise
                await self._commit_after_error(session)
                code = _status(error)
                if code == 500:
                    raise
                _log(error)
                await self._deny(scope, send, session, code)
                return
            if session._accessed and not failed:
                await self._commit_late(session, broken=status >= 500)
        except asyncio.CancelledError:
            self._commit_cancelled(session, failed, broken=status == 0 or status >= 500)
            raise

    async def _deny(self, scope: Scope, send: Send, session: Session, code: int) -> None:
        """Refuse a handshake, with a status where the server can send one."""
        if "websocket.http.response" in scope.get("extensions", {}):
            body = HTTPStatus(code).phrase.encode()
            headers = self._headers(scope, session, _plain(body))
            await send({"type": "websocket.http.response.start", "status": code, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1013 if code == 503 else 1011})

    # ---------------------------------------------------------------- the rest

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open the manager before the app says that it has started, close it after it has stopped."""

        async def send_with_manager(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self.manager.__aenter__()
            elif message["type"] in (
                "lifespan.startup.failed",
                "lifespan.shutdown.complete",
                "lifespan.shutdown.failed",
            ):
                await self.manager.close()
            await send(message)

        await self.app(scope, receive, send_with_manager)

    def _wants_autoload(self, scope: Scope) -> bool:
        return self._autoload is True or bool(self._autoload and self._autoload(HTTPConnection(scope)))


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


async def load_session(connection: HTTPConnection) -> Session:
    """Load and return the session of a Starlette `Request` or `WebSocket`.

    Raises:
        ConfigurationError: there is no `SessionMiddleware` around the app.
        StoreUnavailable, SessionCorrupt: see `Session.load`.
    """
    session = session_of(connection)
    return session if session._opened else await session.load()


async def _discard(scope: Scope, message: Message) -> None:
    """Take a message of an app in whose place the middleware has answered already.

    What servers do whose client has left, so that a stream ends: with an OSError where the ASGI
    version has that (for a WebSocket always), else `receive` tells.
    """
    await asyncio.sleep(0)  # a stream that itself never waits must not hold up the event loop
    endless = message.get("more_body", False)
    if message["type"] == "websocket.send" or (endless and _asgi_version(scope) >= (2, 4)):
        raise OSError("the response was given up, since its session could not be saved")


def _asgi_version(scope: Scope) -> tuple[int, ...]:
    return tuple(map(int, scope.get("asgi", {}).get("spec_version", "2.0").split(".")))


def _plain(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]


def _status(error: Exception) -> int:
    """Return the status of the response that tells a client about `error`."""
    if isinstance(error, (StoreUnavailable, LockTimeout)):
        return 503
    if isinstance(error, (SessionConflict, SessionGone, LockLost)):
        return 409
    return 500


def _log(error: Exception) -> None:
    if _status(error) == 500:
        logger.error("a session failed: %s", error, exc_info=error)
    else:
        logger.warning("a session failed: %s: %s", type(error).__name__, error)


def _refuse_second(app: Any, name: str) -> None:
    """Refuse to wrap a stack that has a session middleware with this cookie already."""
    for _ in range(100):
        if isinstance(app, SessionMiddleware):
            _refuse_same(app.cookie.name, name)
        app = getattr(app, "app", None)
        if app is None:
            return


def _refuse_same(one: str, other: str) -> None:
    if one == other:
        raise ConfigurationError(
            f"two SessionMiddleware share the cookie {one!r}: each would undo the other's. Remove one, or "
            "give it another session_cookie"
        )

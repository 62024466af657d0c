"""`SessionMiddleware`: sessions for any ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from inspect import iscoroutinefunction, signature
from typing import Any, Literal, TypedDict, Unpack

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asgi_session._data.identity import IdentityKey
from asgi_session._data.rules import Rule
from asgi_session._data.sealing import Unsealed
from asgi_session._engine.engine import Engine
from asgi_session._engine.loops import needs_asyncio
from asgi_session._engine.manager import SessionManager
from asgi_session._options import unknown
from asgi_session._policy import Describe, Key, OnEvent
from asgi_session._secret import Hidden, Wrapped, hidden, revealed
from asgi_session._session.session import Session
from asgi_session._web.cookie import Cookie, SameSite
from asgi_session._web.exchange import Exchange, HeadersLeftHidden
from asgi_session._web.headers import SessionHeaders
from asgi_session._web.http_exchange import HttpExchange
from asgi_session._web.same_origin import Origins
from asgi_session._web.websocket_exchange import WebSocketExchange
from asgi_session.clock import Clock
from asgi_session.errors import ConfigurationError
from asgi_session.migrating import StarletteCookie
from asgi_session.store import Store


class ManagerOptions(TypedDict, total=False):
    """The options of `SessionManager` that `SessionMiddleware` passes on."""

    secret_key: Key | Sequence[Key] | None
    encryption_key: Key | Sequence[Key] | None
    unsealed: Unsealed
    idle_timeout: float | timedelta
    absolute_timeout: float | timedelta
    unconfirmed_timeout: float | timedelta
    max_size: int
    deadline: float | timedelta
    namespace: str
    on_unavailable: Literal["fail", "anonymous"]
    on_corrupt: Literal["raise", "new"]
    rotate_every: float | timedelta | None
    on_replay: Literal["report", "end"]
    save_on_error: bool
    merge: Mapping[str, Rule] | None
    on_conflict: Literal["mine", "raise"]
    check: Literal["warn", "refuse"]
    identity: IdentityKey | Sequence[IdentityKey] | None
    forget_at_login: Sequence[str]
    max_sessions_per_user: int
    on_max_sessions: Literal["evict", "refuse"]
    index: Sequence[str]
    describe: Describe | None
    anonymous_idle_timeout: float | timedelta
    on_event: OnEvent | None
    clock: Clock


class SessionMiddleware:
    """Give every request and WebSocket of an ASGI app a `Session` at ``scope["session"]``.

    Args:
        app: the ASGI app.
        manager: a `SessionManager` of yours; it is then yours to close.
        store: instead of `manager`, a URL (``redis://localhost:6379``) or a `Store`.
        session_cookie: the cookie's name; default ``__Host-session`` where the attributes allow it, else
            ``__Secure-session``, or ``session`` without https_only.
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
        passive: a function of the connection that says which requests and WebSockets are no use of their
            session, whatever they do with it: polls, say, which would keep an abandoned tab signed in. They
            read it, and may change it, without extending it, and cost no touch. Default None: all are use.
            Called at the start of each; see also `load_session`.
        same_origin: refuse requests that another site has the browser send: 403, and a WebSocket is
            denied. Only those that carry our cookie, and not GET, HEAD and OPTIONS. True, or a function
            of the connection that returns whether this one is checked. Costs a fifth of a microsecond,
            or two where the browser sends no Sec-Fetch-Site. Default False. See docs/cross-site.md.
        trusted_origins: other origins whose requests pass, such as ``["https://app.example.com"]``;
            needs `same_origin`.
        websocket_needs_origin: with `same_origin`, deny a WebSocket that says nothing of where it comes
            from; browsers always do. Default False: other programs may connect.
        hide_cookie: take our cookie out of the headers that the app sees, so that nothing in the app
            can log, echo or forward it. Costs half a microsecond, among other cookies one. Default True.
        migrate_from: a `StarletteCookie` of `asgi_session.migrating`, so that nobody has to log in again:
            where a request brings no session of ours, a good cookie of Starlette's `SessionMiddleware` is
            gone on from, when the session is loaded. That costs 5 store commands, once, and a sign-in's more
            with `identity`. What cannot be stored here is not gone on from (event ``not_moved_in``). Never
            while other servers still run the old middleware. Default None.
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
        store: Store | str | Wrapped | None = None,
        session_cookie: str | None = None,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool = True,
        domain: str | None = None,
        partitioned: bool = False,
        persistent: bool = True,
        autoload: bool | Callable[[HTTPConnection], bool] = False,
        passive: Callable[[HTTPConnection], bool] | None = None,
        same_origin: bool | Callable[[HTTPConnection], bool] = False,
        trusted_origins: Iterable[str] = (),
        websocket_needs_origin: bool = False,
        hide_cookie: bool = True,
        migrate_from: StarletteCookie | None = None,
        **options: Unpack[ManagerOptions],
    ) -> None:
        manager, store = hidden(manager), hidden(store)  # a URL may stand in either's place
        migrate_from = hidden(migrate_from)  # and a key in this one's
        strange = [name for name in options if name not in ManagerOptions.__annotations__]
        for name in ("secret_key", "encryption_key", *strange):
            if name in options:
                options[name] = Hidden(options[name])  # type: ignore[literal-required]
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
        if strange:
            known = {*signature(SessionMiddleware).parameters, *ManagerOptions.__annotations__}
            raise unknown("SessionMiddleware", strange, sorted(known - {"app", "options"}))
        if manager is not None:
            if not isinstance(manager, SessionManager):
                raise ConfigurationError(  # without its repr: a URL may hold a password
                    f"manager=... got a {type(revealed(manager)).__name__}, which is not a SessionManager. "
                    "Pass a URL or a store as store=..."
                )
            if store is not None or options:
                given = ["store"] * (store is not None) + list(options)
                raise ConfigurationError(
                    f"SessionMiddleware got a manager and also {', '.join(given)}: pass these to "
                    "SessionManager instead"
                )
        elif store is None:
            raise ConfigurationError(
                "SessionMiddleware needs a store: SessionMiddleware(app, store='redis://localhost:6379'), "
                "'redis+cluster://...', or 'memory://' for a single process; or a manager"
            )
        for option, choice in (("autoload", autoload), ("same_origin", same_origin)):
            if not (isinstance(choice, bool) or callable(choice)) or iscoroutinefunction(choice):
                raise ConfigurationError(
                    f"{option}={choice!r}: give True, False or a function of the connection (a plain `def`)"
                )
        if passive is not None and (not callable(passive) or iscoroutinefunction(passive)):
            raise ConfigurationError(
                f"passive={passive!r}: give a function of the connection (a plain `def`), or None"
            )
        if not isinstance(hide_cookie, bool):
            raise ConfigurationError(f"hide_cookie={hide_cookie!r}: must be True or False")
        self.origins: Origins | None = Origins.of(
            trusted_origins, websocket_needs_origin, checked=same_origin is not False
        )
        if migrate_from is not None and not isinstance(migrate_from, StarletteCookie):
            raise ConfigurationError(  # without its repr: it may be the old key
                f"migrate_from=... got a {type(revealed(migrate_from)).__name__}: give None, or "
                "StarletteCookie(secret_key=...), from asgi_session.migrating"
            )
        self.cookie.old = migrate_from
        _refuse_second(app, self.cookie.name)
        self._owns_manager = manager is None
        if manager is None:
            assert store is not None
            manager = SessionManager(store, **options)
        self.manager: SessionManager = manager
        self.engine: Engine = manager._engine
        self.headers: SessionHeaders = SessionHeaders(self.cookie, self.engine.policy, migrate_from)
        self.autoload: bool | Callable[[HTTPConnection], bool] = autoload
        policy = self.engine.policy
        asking = (policy.on_event, policy.describe, policy.identity)
        self._looks_at_requests = any(one is not None for one in asking)
        self.passive: Callable[[HTTPConnection], bool] | None = passive
        self.same_origin: bool | Callable[[HTTPConnection], bool] = same_origin
        self.hide_cookie: bool = hide_cookie
        self._looks_at_cookies = hide_cookie or self.origins is not None
        self._on_asyncio = False  # not looked at yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan."""
        kind = scope["type"]
        if not self._on_asyncio:
            self._look_for_asyncio()
        if kind != "http" and kind != "websocket":
            await (self._lifespan if kind == "lifespan" and self._owns_manager else self.app)(
                scope, receive, send
            )
            return
        outer = scope.get("session")
        if outer is not None and type(scope["headers"]) is HeadersLeftHidden:
            scope["headers"] = scope["headers"].whole  # somebody further out tries once more
        session = scope["session"] = Session(self.engine, self.cookie, scope["headers"])
        exchange: Exchange
        if kind == "http":
            exchange = HttpExchange(self.engine, self.headers, scope, send, session)
        else:
            exchange = WebSocketExchange(self.engine, self.headers, scope, send, session)
            receive = exchange.guard(receive)
        rest = self.cookie.without(scope["headers"]) if self._looks_at_cookies else None
        if rest is not None and self.hide_cookie:
            exchange.whole, scope["headers"] = scope["headers"], rest  # see HeadersLeftHidden
        if self._looks_at_requests:
            self._introduce(session, scope)
        if self.passive is not None and self.passive(HTTPConnection(scope)):
            session._be_passive()
        del scope  # error trackers record the local variables, and it holds the request's cookies
        try:
            if outer is not None:
                self._refuse_nested(outer)
            if self.origins is not None and rest is not None:
                reason = self.origins.refuses(exchange.scope.get("method"), rest)
                if reason is not None and self._is_checked(exchange.scope):
                    await exchange.forbid(receive, reason)
                    return
            if self.autoload and self._wants_autoload(exchange) and not await exchange.autoload(receive):
                return
            try:
                await self.app(exchange.scope, receive, exchange.send_on)
            except Exception as error:
                ends_here = await exchange.after_error(error)
                if session._touch is not None:
                    await exchange.wait_for_touch()
                if not ends_here:
                    raise
            else:
                changed = session._accessed and not session._unchanged()
                if changed or exchange.scope.get("session") is not session:
                    await exchange.finish()
                if session._touch is not None:
                    await exchange.wait_for_touch()
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                exchange.finish_cancelled()
            if exchange.whole is not None:
                exchange.leave_hidden()
            raise
        finally:
            session._close()
            if exchange.whole is not None:
                exchange.scope["headers"] = exchange.whole

    def _introduce(self, session: Session, scope: Scope) -> None:
        """Tell the session what events, descriptions and sign-ins need to know of its request."""
        policy = self.engine.policy
        told = policy.on_event is not None or policy.describe is not None
        session._tell(HTTPConnection(scope) if told else None, policy.clock())

    def _look_for_asyncio(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise needs_asyncio() from None
        self._on_asyncio = True

    def _refuse_nested(self, outer: Any) -> None:
        """Refuse a session of the same cookie further out, which would be undone by this one's."""
        # One whose request is over was left by an earlier try of something further out.
        if isinstance(outer, Session) and outer._cookie is not None and not outer._served:
            _refuse_same(outer._cookie.name, self.cookie.name)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open the manager before the app says that it has started, close it after it has stopped."""
        answered = False

        async def send_with_manager(message: Message) -> None:
            nonlocal answered
            if message["type"] == "lifespan.startup.complete":
                await self.manager.__aenter__()
            elif message["type"] in (
                "lifespan.startup.failed",
                "lifespan.shutdown.complete",
                "lifespan.shutdown.failed",
            ):
                await self.manager.close()
            answered = True
            await send(message)

        try:
            await self.app(scope, receive, send_with_manager)
        except ConfigurationError as error:
            if not answered:  # or servers take it for an app that knows no lifespan, and go on
                await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise

    def _is_checked(self, scope: Scope) -> bool:
        return self.same_origin is True or bool(self.same_origin and self.same_origin(HTTPConnection(scope)))

    def _wants_autoload(self, exchange: Exchange) -> bool:
        return self.autoload is True or bool(self.autoload and self.autoload(HTTPConnection(exchange.scope)))


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
            f"two SessionMiddleware share the cookie {one!r}: each would overwrite the other's. Remove "
            "one, or give it another session_cookie"
        )

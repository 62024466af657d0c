"""`SessionManager`: the one object that holds policy, and the way in to what it governs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from inspect import iscoroutinefunction, signature
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict, Unpack
from weakref import WeakMethod, finalize

from asgi_session import stores
from asgi_session._data.fold import Policy, Rule, is_rule
from asgi_session._data.record import Record
from asgi_session._data.token import Tokens, is_selector, new_token
from asgi_session._engine.committing import Committer
from asgi_session._engine.loading import Loader
from asgi_session._engine.lock_queue import OutsideLock, Rooms, SessionLock, Terms
from asgi_session._engine.loops import Loops, LoopState
from asgi_session._engine.save_queue import Lanes
from asgi_session._engine.save_request import Backoff
from asgi_session._engine.transactions import Transactor
from asgi_session._failures import Failures
from asgi_session._options import choice, milliseconds, seconds, unknown
from asgi_session._secret import Wrapped, hidden, revealed, with_revealed
from asgi_session._session.session import Session
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import Back, Lost, Reconnected, Report, Reports, Store

logger: Final = logging.getLogger("asgi_session")

OnEvent = Callable[..., None]
"""Called as ``on_event(name, session_id, *, connection, **info)``; it must return quickly and not raise."""


Key: TypeAlias = str | bytes | Wrapped


class _NoOthers(TypedDict):
    """No further options: what is not known to type checkers is refused with a helpful text."""


class SessionManager:
    """Holds the policy and does the I/O; one per app, usable outside requests too.

    Args:
        store: a `Store`, or a URL: ``memory://``, ``redis://``, ``redis+cluster://``,
            ``redis+sentinel://``, ..., which may be wrapped in Starlette's `Secret` or pydantic's
            `SecretStr`. A store made from a URL is closed by `close`.
        secret_key: one key or several, each at least 16 bytes. With keys, cookies are signed with
            the first and accepted with any; a forged cookie then costs the store nothing. Text, bytes, or
            either wrapped as above, which keeps it out of tracebacks and logs. Default
            None: not signed, which is as safe (the verifier has 128 random bits), but a forged
            cookie costs one read. Setting keys ends all sessions whose cookies were not signed.
        idle_timeout: how long a session lasts unused. timedelta or seconds; default 14 days.
        absolute_timeout: how long it lasts at most. timedelta or seconds; default 90 days. (OWASP
            Session Management Cheat Sheet, "Session Expiration", asks for both.)
        unconfirmed_timeout: how long a new session lasts until its cookie has come back once.
            timedelta or seconds; default 1 hour. Keeps clients without cookies from filling the store.
        max_size: of one session in the store, bytes; default 65,536.
        deadline: for everything that one request may wait on the store. timedelta or seconds;
            default 5 seconds.
        namespace: the sessions of one namespace are not there for another, neither by a cookie nor by an
            id, on the same store; default ``"default"``.
        on_unavailable: ``"fail"`` (default): an error, which the middleware answers with 503.
            ``"anonymous"``: a session that cannot be loaded reads as empty; changing it is an error.
        on_corrupt: ``"raise"`` (default) `SessionCorrupt`, or ``"new"``: go on with a new session
            under a new id. The unreadable bytes stay in the store either way.
        save_on_error: commit also when the response is >= 500 or an exception escapes; default False.
        merge: rules by key, ``rule(base, mine, theirs)``: the value of a key that this request and
            another one have both changed; see `asgi_session.merging` for ready-made ones. A key that
            is not there is given as None, and a rule that returns None removes the key.
        on_conflict: what becomes of such a key without a rule. ``"mine"`` (default): mine wins.
            ``"raise"``: `SessionConflict`, and nothing of that commit is written.
        check: what a store that is set up wrongly (wrong password, kind of server or rights: what never
            heals by itself) does to the start of the app. ``"warn"`` (default): an error in the log.
            ``"refuse"``: `ConfigurationError`, and the app does not start. A store that is merely away
            never stops it.
        on_event: called as ``on_event(name, session_id, connection=..., **info)`` for everything that
            happens; see the documentation for the names. `connection` is Starlette's `HTTPConnection`
            of the request, or None outside of one. Must be quick; what it raises is logged.
        clock: tells the time in ms since the Unix epoch; for tests.

    Raises:
        ConfigurationError: an option, or a combination, that cannot work; says what to change.
    """

    def __init__(
        self,
        store: Store | str | Wrapped,
        *,
        secret_key: Key | Sequence[Key] | None = None,
        idle_timeout: float | timedelta = timedelta(days=14),
        absolute_timeout: float | timedelta = timedelta(days=90),
        unconfirmed_timeout: float | timedelta = timedelta(hours=1),
        max_size: int = 64 * 1024,
        deadline: float | timedelta = 5.0,
        namespace: str = "default",
        on_unavailable: Literal["fail", "anonymous"] = "fail",
        on_corrupt: Literal["raise", "new"] = "raise",
        save_on_error: bool = False,
        merge: Mapping[str, Rule] | None = None,
        on_conflict: Literal["mine", "raise"] = "mine",
        check: Literal["warn", "refuse"] = "warn",
        on_event: OnEvent | None = None,
        clock: Clock = system_clock,
        **options: Unpack[_NoOthers],
    ) -> None:
        if options:
            known = [name for name in signature(SessionManager).parameters if name != "options"]
            names = list(options)
            del store, secret_key, options  # error trackers record the local variables
            raise unknown("SessionManager", names, known)
        store, secret_key = hidden(store), hidden(secret_key)
        self.idle: int = milliseconds("idle_timeout", idle_timeout)
        self.absolute: int = milliseconds("absolute_timeout", absolute_timeout)
        self.unconfirmed: int = min(milliseconds("unconfirmed_timeout", unconfirmed_timeout), self.idle)
        self.deadline: float = milliseconds("deadline", deadline) / 1000
        if self.idle > self.absolute:
            raise ConfigurationError(
                f"idle_timeout={idle_timeout!r} is longer than absolute_timeout={absolute_timeout!r}: no "
                "session could ever expire by being idle. Lower idle_timeout or raise absolute_timeout"
            )
        if not isinstance(max_size, int) or max_size < 256:
            raise ConfigurationError(f"max_size={max_size!r}: give bytes, at least 256")
        if not isinstance(namespace, str) or not namespace or "\0" in namespace:
            raise ConfigurationError(f"namespace={namespace!r}: give a name that is not empty")
        if not _encodable(namespace):
            raise ConfigurationError(f"namespace={namespace!r} cannot be encoded as UTF-8: give another name")
        if not callable(clock):
            raise ConfigurationError(f"clock={clock!r}: give a function that returns milliseconds")
        choice("on_unavailable", on_unavailable, ("fail", "anonymous"))
        choice("on_corrupt", on_corrupt, ("raise", "new"))
        choice("on_conflict", on_conflict, ("mine", "raise"))
        choice("check", check, ("warn", "refuse"))
        if on_event is not None and (not callable(on_event) or iscoroutinefunction(on_event)):
            raise ConfigurationError(
                f"on_event={on_event!r}: give a function (a plain `def`) that is called as on_event(name, "
                "session_id, connection=..., ...). To await something, put the event into a queue"
            )
        self.max_size: int = max_size
        self.folding: Policy = Policy(self.idle, self.absolute, max_size, _rules(merge), on_conflict)
        self.on_unavailable: Literal["fail", "anonymous"] = on_unavailable
        self.on_corrupt: Literal["raise", "new"] = on_corrupt
        self.save_on_error: bool = save_on_error
        self._refuses: bool = check == "refuse"
        self.clock: Clock = clock
        self.tokens: Tokens = with_revealed(_tokens, namespace, secret_key)
        self.on_event: OnEvent | None = on_event
        self.failures: Failures = Failures()
        self._owns_store = isinstance(revealed(store), str)
        self.store: Store = with_revealed(stores.store_from_url if self._owns_store else _checked, store)
        if isinstance(self.store, Reports):
            self._hear_of(self.store)
        self._loops = Loops(self._furnish)
        loader = Loader(self, self._loops)
        committer = Committer(self, loader, self._loops)
        # For the session and the middleware.
        self._load, self._refresh = loader.load, loader.refresh
        self._commit, self._commit_and_release = committer.commit, committer.commit_and_release
        self._transact = Transactor(self, loader, committer, self._loops).transact
        self.decode: Callable[[str, bytes, str | None], Record] = loader.decode

    def _furnish(self, state: LoopState) -> None:
        state.rooms = Rooms(self, state)
        state.lanes = Lanes(self, state.spawn, state.name, state.rooms.told)

    # ---------------------------------------------------------------- life

    async def open(self) -> None:
        """Connect and check the set-up. Optional: the first use does what is necessary.

        Raises:
            ConfigurationError: the store is set up wrongly, which never heals by itself.
            StoreUnavailable: the store cannot be reached.
        """
        await self.store.open()

    async def ping(self) -> None:
        """Ask the store for a sign of life, for readiness probes; costs what a load costs.

        In a cluster a shard that is drawn at random is asked.

        Raises:
            StoreUnavailable: the store did not answer within the deadline, or refused.
        """
        await self.store.load(new_token().selector, deadline=time.monotonic() + self.deadline)

    async def close(self) -> None:
        """Wait for the saves on their way, then close the store if it was made from a URL."""
        await self.drain()
        self._loops.current().rooms.close()
        if self._owns_store:
            await self.store.close()

    async def drain(self) -> None:
        """Wait for the saves on their way in this event loop; they end with their deadlines."""
        await self._loops.current().drain()

    async def __aenter__(self) -> Self:
        """Open. A store that is away is only a warning, since the app can serve once it is there.

        Raises:
            ConfigurationError: the store is set up wrongly, and ``check="refuse"`` was given.
        """
        try:
            await self.open()
        except StoreUnavailable as error:
            logger.warning("the session store cannot be reached: %s", error)
        except ConfigurationError as error:
            if self._refuses:
                await self.close()
                raise
            # Without a traceback: it would show where this was found, not what to change.
            logger.error("the session store is set up wrongly: sessions will not work: %s", error)  # noqa: TRY400
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _lock(
        self,
        session: Session,
        wait: float | timedelta,
        lease: float | timedelta,
        max_hold: float | timedelta,
    ) -> AbstractAsyncContextManager[Session]:
        return SessionLock(self, session, _terms(wait, lease, max_hold))

    # ---------------------------------------------------------------- from outside a request

    def lock(
        self,
        session_id: str,
        *,
        wait: float | timedelta = 10.0,
        lease: float | timedelta = 30.0,
        max_hold: float | timedelta = 300.0,
    ) -> AbstractAsyncContextManager[Session]:
        """Hold a session's lock outside a request, by its public id (`Session.id`); see `Session.lock`.

        ``async with manager.lock(session_id) as session:`` gives the loaded session. What is saved does
        not extend its expiry, and it can get no new cookie: no `rotate`, no `clear`. In a block of
        `Session.lock` of the same session it would wait for itself.

        Raises:
            ValueError: this is not a session id, or a duration makes no sense.
            SessionGone: there is no such session.
        """
        _check_id(session_id)
        return OutsideLock(self, session_id, _terms(wait, lease, max_hold))

    async def revoke(self, session_id: str) -> bool:
        """End a session from outside, by its public id (`Session.id`); whether there was one.

        Its record is deleted: requests in flight can no longer save to it. When a reply of the store
        was lost, so that nobody can tell who has deleted it, the answer is True.

        Raises:
            ValueError: this is not a session id.
            StoreUnavailable: the store did not answer within the deadline.
        """
        _check_id(session_id)
        key = self.tokens.key(session_id)
        deadline = time.monotonic() + self.deadline
        backoff = Backoff()
        reply_lost = False
        while True:
            try:
                deleted = await self.store.delete(key, deadline=deadline)
            except StoreUnavailable as error:
                # Deleting twice is the same as once, so a lost reply is no reason to give up.
                if error.executed is False or time.monotonic() >= deadline:
                    raise
                reply_lost = True
                await backoff.pause(deadline)
            else:
                if deleted or reply_lost:
                    self.emit("revoked", session_id)
                    self._loops.current().rooms.look_again(key)
                return deleted or reply_lost

    def _hear_of(self, store: Reports) -> None:
        """Have the store's reports made events, as long as somebody has this manager."""
        hears = WeakMethod(self._reported)

        def tell(report: Report) -> None:
            reported = hears()
            if reported is not None:
                reported(report)

        finalize(self, store.report_to(tell)).atexit = False

    def _reported(self, report: Report) -> None:
        match report:
            case Lost():
                self.failures.lost(report)
                self.emit("store_lost", None, server=report.server, error=report.error)
            case Back():
                self.failures.back(report)
                self.emit(
                    "store_back", None, server=report.server, seconds=report.seconds, failed=report.failed
                )
            case Reconnected():
                self.emit("store_reconnected", None, server=report.server)

    def emit(self, name: str, session_id: str | None, *, session: Session | None = None, **info: Any) -> None:
        """Tell `on_event`; what it raises is logged and goes no further.

        Args:
            name: of the event.
            session_id: public.
            session: whose request it happened in, if it was one.
            **info: what there is to know.
        """
        if self.on_event is not None:
            connection = session._connection if session is not None else None
            try:
                self.on_event(name, session_id, connection=connection, **info)
            except (Exception, asyncio.CancelledError):  # the latter: from a future that it looks at
                logger.exception("on_event failed for %r", name)


def _check_id(session_id: str) -> None:
    if not isinstance(session_id, str) or not is_selector(session_id):
        raise ValueError(
            "not a session id: give Session.id, the 22 characters, not the cookie's value; a new session has "
            "one after its commit()"
        )


def _terms(wait: float | timedelta, lease: float | timedelta, max_hold: float | timedelta) -> Terms:
    return Terms(
        seconds("wait", wait, least=0.0, most=3600.0),
        seconds("lease", lease, least=0.1, most=3600.0),
        seconds("max_hold", max_hold, least=0.1, most=86400.0),
    )


def _rules(merge: Mapping[str, Rule] | None) -> dict[str, Rule]:
    if merge is None:
        return {}
    if not isinstance(merge, Mapping):
        raise ConfigurationError(f"merge={merge!r}: give a dict of session keys and rules")
    for key, rule in merge.items():
        if not isinstance(key, str):
            raise ConfigurationError(f"merge: session keys are str, not {type(key).__qualname__}: {key!r}")
        if not is_rule(rule):
            raise ConfigurationError(
                f"merge[{key!r}]={rule!r}: give a plain function rule(base, mine, theirs) of the values. One "
                "that is made by a call, such as by_key(), has to be called"
            )
    return dict(merge)


def _tokens(namespace: str, secret_key: Any) -> Tokens:
    return Tokens(namespace, _keys(secret_key))


def _keys(secret_key: Any) -> Sequence[str | bytes]:
    if secret_key is None:
        return ()
    several = isinstance(secret_key, Sequence) and not isinstance(secret_key, (str, bytes))
    keys = [revealed(key) for key in (secret_key if several else [secret_key])]
    if not keys or not all(isinstance(key, (str, bytes)) for key in keys):
        raise ConfigurationError(
            "secret_key: give text or bytes, plain or in a Secret or SecretStr, a list of them (the first "
            "signs), or None"
        )
    if not all(_encodable(key) for key in keys):
        raise ConfigurationError("secret_key cannot be encoded as UTF-8: give other text, or bytes")
    return keys


def _encodable(text: str | bytes) -> bool:
    try:
        if isinstance(text, str):
            text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(store: Any) -> Store:
    missing = [
        name
        for name in ("load", "create", "save", "touch", "delete", "open", "close")
        if not callable(getattr(store, name, None))
    ]
    if isinstance(store, bytes):
        raise ConfigurationError("store=...: a URL must be text (str), not bytes")
    if isinstance(store, type):
        raise ConfigurationError(f"store={store.__name__} is a class: make one, {store.__name__}(...)")
    if missing:
        raise ConfigurationError(
            # Its repr may hold a password.
            f"store=... got a {type(store).__name__}, which is no store: it lacks {', '.join(missing)}. "
            "Give a URL such as "
            "'redis://localhost:6379', or a Store such as RedisStore(client) or MemoryStore()"
        )
    return store  # type: ignore[no-any-return]

"""`SessionManager`: an app's sessions, and the way in from outside a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from inspect import signature
from types import TracebackType
from typing import Final, Literal, Self, TypedDict, Unpack
from weakref import WeakMethod, finalize

from asgi_session._backoff import Backoff
from asgi_session._data.rules import Rule
from asgi_session._data.token import is_selector, new_token
from asgi_session._engine.engine import Engine
from asgi_session._options import unknown
from asgi_session._policy import Key, OnEvent, Policy
from asgi_session._secret import Wrapped, hidden
from asgi_session._session.session import Session
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import Back, Lost, Reconnected, Report, Reports, Store

logger: Final = logging.getLogger("asgi_session")


class _NoOthers(TypedDict):
    """No further options: what is not known to type checkers is refused with a helpful text."""


class SessionManager:
    """An app's sessions: how they are kept, and what can be done with them outside requests.

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
        self._policy = policy = Policy(
            store,
            secret_key=secret_key,
            idle_timeout=idle_timeout,
            absolute_timeout=absolute_timeout,
            unconfirmed_timeout=unconfirmed_timeout,
            max_size=max_size,
            deadline=deadline,
            namespace=namespace,
            on_unavailable=on_unavailable,
            on_corrupt=on_corrupt,
            save_on_error=save_on_error,
            merge=merge,
            on_conflict=on_conflict,
            check=check,
            on_event=on_event,
            clock=clock,
        )
        if isinstance(policy.store, Reports):
            self._hear_of(policy.store)
        self._engine = Engine(policy)

    @property
    def store(self) -> Store:
        """The store: the one that was given, or the one made from the URL."""
        return self._policy.store

    # ---------------------------------------------------------------- life

    async def open(self) -> None:
        """Connect and check the set-up. Optional: the first use does what is necessary.

        Raises:
            ConfigurationError: the store is set up wrongly, which never heals by itself.
            StoreUnavailable: the store cannot be reached.
        """
        await self._policy.store.open()

    async def ping(self) -> None:
        """Ask the store for a sign of life, for readiness probes; costs what a load costs.

        In a cluster a shard that is drawn at random is asked.

        Raises:
            StoreUnavailable: the store did not answer within the deadline, or refused.
        """
        await self._policy.store.load(new_token().selector, deadline=time.monotonic() + self._policy.deadline)

    async def close(self) -> None:
        """Wait for the saves on their way, then close the store if it was made from a URL."""
        await self.drain()
        self._engine.loops.current().locks.close()
        if self._policy.owns_store:
            await self._policy.store.close()

    async def drain(self) -> None:
        """Wait for the saves on their way in this event loop; they end with their deadlines."""
        await self._engine.loops.current().drain()

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
            if self._policy.refuses:
                await self.close()
                raise
            # Without a traceback: it would show where this was found, not what to change.
            logger.error("the session store is set up wrongly: sessions will not work: %s", error)  # noqa: TRY400
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

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
        return self._engine.lock_outside(session_id, wait, lease, max_hold)

    async def revoke(self, session_id: str) -> bool:
        """End a session from outside, by its public id (`Session.id`); whether there was one.

        Its record is deleted: requests in flight can no longer save to it. When a reply of the store
        was lost, so that nobody can tell who has deleted it, the answer is True.

        Raises:
            ValueError: this is not a session id.
            StoreUnavailable: the store did not answer within the deadline.
        """
        _check_id(session_id)
        policy = self._policy
        key = policy.tokens.key(session_id)
        deadline = time.monotonic() + policy.deadline
        backoff = Backoff()
        reply_lost = False
        while True:
            try:
                deleted = await policy.store.delete(key, deadline=deadline)
            except StoreUnavailable as error:
                # Deleting twice is the same as once, so a lost reply is no reason to give up.
                if error.executed is False or time.monotonic() >= deadline:
                    raise
                reply_lost = True
                await backoff.pause(deadline)
            else:
                if deleted or reply_lost:
                    policy.emit("revoked", session_id)
                    self._engine.loops.current().locks.look_again(key)
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
                self._policy.failures.lost(report)
                self._policy.emit("store_lost", None, server=report.server, error=report.error)
            case Back():
                self._policy.failures.back(report)
                self._policy.emit(
                    "store_back", None, server=report.server, seconds=report.seconds, failed=report.failed
                )
            case Reconnected():
                self._policy.emit("store_reconnected", None, server=report.server)


def _check_id(session_id: str) -> None:
    if not isinstance(session_id, str) or not is_selector(session_id):
        raise ValueError(
            "not a session id: give Session.id, the 22 characters, not the cookie's value; a new session has "
            "one after its commit()"
        )

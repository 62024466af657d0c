"""`Session`: what handlers use. The mapping, and what can be asked of it besides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, TypeVar, overload

import anyio
import anyio.from_thread

from asgi_session._data.change import NO_CHANGES, Kind, Mark
from asgi_session._data.lifetime import asked
from asgi_session._data.rules import merge
from asgi_session._options import milliseconds
from asgi_session._session.contents import UNDECODED
from asgi_session._session.marking import Marking
from asgi_session._session.serving import CookieReader
from asgi_session._session.tracked import NO_KEYS, NO_ORIGIN
from asgi_session._session.versioned import UNLOADED_KEY
from asgi_session.errors import SessionError, SessionNotLoaded

T = TypeVar("T")

_NOT_LOADED: Final = (
    "the session is not loaded yet. Load it in one of three ways: (1) in FastAPI, declare the parameter "
    "`session: SessionDep` (from asgi_session.fastapi); (2) anywhere, call `session = await "
    "load_session(request)` or `await request.session.load()` first; (3) for code that cannot await, use "
    "`SessionMiddleware(..., autoload=True)`"
)


class Commits(Protocol):
    """How a session is committed."""

    def __call__(
        self, session: Session, *, explicit: bool, only_destroy: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Commit what was changed, if anything; await the result.

        Args:
            session: whose.
            explicit: the app asked and wants to know: a session that is gone is an error.
            only_destroy: the request has failed: drop the changes, end the session if it was to end.
        """
        ...


class Does(Protocol):
    """Something that is done for a session."""

    def __call__(self, session: Session) -> Awaitable[None]:
        """Do it."""
        ...


class Transacts(Protocol):
    """How a function is run on the newest data."""

    def __call__(self, session: Session, function: Callable[[Session], Any]) -> Awaitable[Any]:
        """Run it, save what it changes, and return its result."""
        ...


class Engine(Protocol):
    """What a session needs done: this process's way to the store."""

    @property
    def load(self) -> Does:
        """Find the record of the session's cookie and attach it."""
        ...

    @property
    def commit(self) -> Commits:
        """Save what was changed, if anything."""
        ...

    @property
    def refresh(self) -> Does:
        """Take over the newest record under the session's uncommitted changes."""
        ...

    @property
    def transact(self) -> Transacts:
        """Run a function on the newest data, and save what it changes."""
        ...

    def now(self) -> int:
        """Return the time, ms since the Unix epoch."""
        ...

    def principal_of(self, entries: Mapping[str, bytes]) -> str | None:
        """Return who encoded values say is signed in."""
        ...

    def touch(self, session: Session) -> None:
        """Have a use of the session extend its expiry, if that is due."""
        ...

    def lock(
        self,
        session: Session,
        wait: float | timedelta,
        lease: float | timedelta,
        max_hold: float | timedelta,
    ) -> AbstractAsyncContextManager[Session]:
        """Hold the session's lock."""
        ...


class Session(Marking):
    """The session of one request, as a dict of str to values.

    It is not loaded until you ask: ``await session.load()``, `load_session`, `SessionDep`, or, in a
    `def` handler that runs in a worker thread, by simply using it. Changes, those inside nested
    values included, are found and saved when the response starts.

    Keys are str. Values are None, bool, int, float, str, bytes, datetime, date, Decimal, UUID, and
    list, dict, tuple, set, frozenset of them. An instance of a subclass (a named tuple, an `OrderedDict`,
    an `IntEnum`) is stored as its plain value, and that is what comes back.

    Attributes cannot be set: ``session.user = ...`` raises AttributeError. Use ``session["user"]``.
    """

    __slots__ = ("__weakref__", "_engine", "_loading")

    def __init__(
        self,
        engine: Engine,
        cookie: CookieReader | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Not for users: the middleware makes sessions."""
        dict.__setitem__(self, UNLOADED_KEY, UNDECODED)
        self._opened = self._confirmed = self._cookie_dead = self._sealed = False
        self._status = "unloaded"
        self._token = self._version = self._mark = self._lifetime = None
        self._began = self._era = self._expires_at = 0
        self._owed = "nothing"
        self._origin = NO_ORIGIN
        self._watched = self._assigned = NO_KEYS
        self._replaced = ()
        self._cookie = cookie
        self._headers = headers
        self._accessed = self._served = False
        self._passive = ""
        self._waited = 0.0
        self._commit = None
        self._due = None
        self._hold = None
        self._touch = None
        self._connection = None
        self._engine = engine
        self._loading: list[asyncio.Future[None]] | None = None  # who waits for the load on its way

    # ---------------------------------------------------------------- loading and committing

    async def load(self) -> Session:
        """Load the session and return it; does nothing the second time.

        Concurrent calls share one load. Without a cookie, or with one that is unknown, expired or
        forged, the session is new and empty.

        Raises:
            StoreUnavailable: the store did not answer within the deadline.
            SessionCorrupt: what the store holds cannot be read (``on_corrupt="new"``: no error).
        """
        while self._status == "unloaded":
            if self._loading is None:
                self._loading = []
                try:
                    await self._engine.load(self)
                finally:
                    waiting, self._loading = self._loading, None
                    for each in waiting:
                        if not each.done():
                            each.set_result(None)
            else:
                # Somebody else's load. If that one is cancelled or fails, this caller tries itself.
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._loading.append(waiter)
                await waiter
        self._opened = self._accessed = True
        return self

    def _load_as(self, *, passive: bool) -> None:
        """Note whether who loads it now uses it. Whoever does wins over who only looks."""
        if passive:
            if self._status == "unloaded" and self._loading is None and not self._passive:
                self._passive = "until used"
        elif self._passive == "until used":
            self._passive = ""
            self._engine.touch(self)  # if it is loaded; else the load does

    async def commit(self) -> None:
        """Save what was changed now, rather than when the response starts.

        For WebSockets, background work, and whoever must know that it is stored. In a WebSocket it
        counts as use of the session.

        Raises:
            SessionGone: the session has ended or moved on; nothing was written.
            SessionError: it needs a new cookie, and the response has started; the changes are dropped.
            LockLost: in a block of `lock` that has lost the lock; nothing was written.
            SessionConflict, SessionTooLarge, SessionSerializationError, StoreUnavailable.
        """
        await self._engine.commit(self, explicit=True)

    async def refresh(self) -> Session:
        """Take over what others have saved, keep my uncommitted changes, and return the session.

        Values whose stored bytes have changed are replaced: hold on to no list or dict from before;
        a change to one that was replaced is lost (and reported as the event ``stale_value``).

        Raises:
            SessionGone: the session has ended or moved on.
            SessionSerializationError: an uncommitted value cannot be stored.
            StoreUnavailable, SessionCorrupt.
        """
        if self._status == "unloaded":
            return await self.load()
        self._opened = self._accessed = True
        await self._engine.refresh(self)
        return self

    def lock(
        self,
        *,
        wait: float | timedelta = 10.0,
        lease: float | timedelta = 30.0,
        max_hold: float | timedelta = 300.0,
    ) -> AbstractAsyncContextManager[Session]:
        """Hold the session's lock: ``async with session.lock():``. Exclusive over all processes.

        On entry what the request has changed so far is committed, and the session has the newest data:
        take lists and dicts out of it again in the block. On exit what was changed is committed and
        the lock released, in one save. An exception or a cancellation that leaves the (outermost) block
        releases the lock and *discards* what was changed in it since its last `commit`. Requests that
        read, merge or `transact` are not held up. Entering again in the same request is allowed and
        counted: the outermost block commits and releases. The lock is the request's, not the task's:
        what keeps two tasks of one request apart is an `asyncio.Lock`.

        Keep the block short, and the event loop free in it: the lock is renewed in the background,
        and a holder that is not heard of for 2 seconds at first, for `lease` later, loses it to the
        next in line. What is saved under a lock that is lost is refused.

        Args:
            wait: how long to wait for the lock. timedelta or seconds, 0 (one attempt) to an hour;
                default 10 s.
            lease: for how long the lock is held without being renewed: what a holder that has died
                costs the others, from when the first of them looks, or until 30 s after its end.
                timedelta or seconds, 0.1 to an hour; default 30 s.
            max_hold: for how long it is held at most. timedelta or seconds, 0.1 to a day; default 300 s.

        Raises:
            LockTimeout: on entry, the lock was not free in time (the middleware answers 503).
            LockLost: on exit or at a commit, it had passed on; that commit wrote nothing (409).
            SessionGone: the session has ended or moved on.
            StoreUnavailable: and what `commit` raises.
            ValueError: a duration that makes no sense.
        """
        return self._engine.lock(self, wait, lease, max_hold)

    @overload
    async def transact(self, function: Callable[[Session], Awaitable[T]], /) -> T: ...
    @overload
    async def transact(self, function: Callable[[Session], T], /) -> T: ...
    async def transact(self, function: Callable[[Session], Any], /) -> Any:
        """Run ``function(session)`` on the newest data, and save only if nothing changed meanwhile.

        For a check followed by an act ("decrement if above zero"). Else the function runs again: it
        must do nothing but read and change the session that it is given, which is a draft of this
        one. What the request has changed so far is committed before. A plain function runs inside the
        process's own save and hardly ever twice; an ``async def`` one runs between a load and a save,
        and again if any key of the session was changed in between.

        Returns what the last run returned (of an ``async def`` function, its result). What that raises
        is raised, and nothing saved.

        Raises:
            SessionGone: the session has ended or moved on.
            SessionConflict: it was changed during every run until the deadline; or, with
                ``outcome_unknown``, the store's reply was lost and it cannot be told whether it was saved.
            SessionTooLarge, SessionSerializationError, StoreUnavailable: as for `commit`.
            LockLost: in a block of `lock` that has lost the lock.
        """
        return await self._engine.transact(self, function)

    # ---------------------------------------------------------------- what it is

    @property
    def modified(self) -> bool:
        """Whether there is something to commit.

        May be set to True, as code for other libraries does after a change inside a value. That is not
        necessary here and does nothing: what differs is found, and nothing else is saved.
        """
        if self._mark is not None or self._lifetime is not None:
            return True
        try:
            return bool(self._changes())
        except SessionError:
            return True

    @modified.setter
    def modified(self, value: bool) -> None:
        if not value:
            raise ValueError("session.modified can only be set to True; to forget changes use discard()")

    @property
    def is_new(self) -> bool:
        """Whether there is no stored session behind it yet. Needs a loaded session."""
        self._use()
        return self._status == "new"

    @property
    def principal(self) -> str | None:
        """Who is signed in, as text (``"7"`` for 7), by the manager's `identity`; None: nobody is.

        By the values as they are now, saved or not. Only what `identity` looks at is decoded. Needs a loaded
        session.

        Raises:
            ConfigurationError: no `identity` is configured.
            SessionSerializationError: the value is neither text nor a number nor a UUID; or a value that
                was changed cannot be stored.
        """
        self._use()
        changes = self._changes() if self._watched else NO_CHANGES
        return self._engine.principal_of(merge(dict(self._origin), changes) if changes else self._origin)

    def authenticated_within(self, duration: float | timedelta) -> bool:
        """Tell whether somebody is signed in, and has proved within the last `duration` that it is them.

        That is: has signed in, or was `reauthenticated`. False in the request that signs them in, until its
        commit. Needs a loaded session.

        Args:
            duration: timedelta or seconds, more than zero.

        Raises:
            ConfigurationError: no `identity` is configured. And what `principal` raises.
        """
        within = milliseconds("authenticated_within", duration)
        return self.principal is not None and self._authenticated_since() >= self._engine.now() - within

    async def reauthenticated(self) -> None:
        """Note that who is signed in has just proved again that it is them, say with their password.

        Sets `authenticated_at` and gives the session a new credential, now (OWASP ASVS 5.0, 7.2.4: a new
        token at re-authentication, too). What was changed before is saved as well. A session from before the
        manager had its `identity` goes on under a new id, and is listed from now on.

        Raises:
            SessionError: nobody is signed in; or the response has started, or it is used outside a request,
                so that the new cookie could not reach the client.
            SessionGone: the session has ended or moved on. And what `commit` raises.
        """
        await self.load()
        self._refuse_if_ended()
        self._refuse_outside("reauthenticated")
        if self._sealed:
            raise SessionError(
                "reauthenticated() was called after the response had started, so the new cookie can no "
                "longer reach the client"
            )
        if self._version is None or self._engine.principal_of(self._version.record.entries) is None:
            raise SessionError(
                "reauthenticated(): nobody is signed in, by the keys that identity= names. Sign in first"
            )
        if self._mark is None or not self._mark.ends:
            self._mark = Mark(Kind.REAUTHENTICATE)
        await self.commit()

    def mark_accessed(self) -> None:
        """Note the access; Starlette's ``request.session`` calls this."""
        self._accessed = True

    def mark_modified(self) -> None:
        """Do nothing: changes are found, those inside values too. For code written for Starlette."""

    def __repr__(self) -> str:
        """Say what it is without loading it and without showing values."""
        what: list[str] = [self._status]
        if self.id is not None:
            what.append(f"id={self.id}")
        if self._status != "unloaded":
            what.append(f"keys={list(dict.keys(self))}")
        return f"<Session {' '.join(what)}>"

    # ---------------------------------------------------------------- marks

    def set_lifetime(
        self,
        *,
        idle: float | timedelta | None = None,
        absolute: float | timedelta | datetime | None = None,
        persistent: bool | None = None,
    ) -> None:
        """Give this session a lifetime of its own, in place of the manager's options.

        It may be longer or shorter than theirs. It is saved with the next commit, like a change of a key,
        and stays with the session when that is rotated. What is not given stays as it is; where two
        requests set the same, the later save counts. A new session is created with it as soon as something
        is set in it, and lasts `unconfirmed_timeout` at most until its cookie has come back once.

        When `absolute` or `persistent` changes, the response carries the cookie again, with the same
        credential. After the response has started, and outside a request, it cannot: the session ends when
        it should, but a cookie with an earlier Max-Age goes earlier.

        Call it at login, after `clear` or `rotate`: an `absolute` that is a duration counts from the call,
        so every call is a change.

        Args:
            idle: how long it lasts unused, but never beyond its absolute end. timedelta or seconds.
            absolute: when it ends however much it is used: timedelta or seconds from now on, or a datetime
                with a time zone. At most 100 years; browsers keep a cookie for 400 days at most.
            persistent: whether the cookie gets Max-Age, and so outlives the browser. False for a shared
                computer; many browsers that restore their tabs keep such cookies, too.

        Raises:
            SessionNotLoaded: load it first.
            SessionGone: it was ended by `destroy`.
            SessionError: `persistent` after the response has started, or outside a request.
            ValueError: nothing is given, or what makes no sense: a duration of zero, a past or naive
                datetime, an `idle` longer than an `absolute` that is a duration.
        """
        self._change()
        lifetime = asked(self._engine.now(), idle, absolute, persistent)
        if persistent is not None and self._sealed:
            raise SessionError(
                "set_lifetime(persistent=...) changes the cookie, which can no longer reach the client: "
                + ("this is outside a request" if self._outside else "the response has started")
                + ". Give idle= and absolute= alone, or call it before you return the response"
            )
        self._lifetime = lifetime if self._lifetime is None else self._lifetime.then(lifetime)

    def _did_nothing_but_rotate(self) -> bool:
        """Whether the commit that has failed was only to rotate, which a later request does as well."""
        if self._mark is None or not self._mark.by_itself:
            return False
        self._mark = None
        return not self.modified

    # ---------------------------------------------------------------- may it be used?

    def _use(self) -> None:
        if not self._opened:
            if self._status == "unloaded":
                self._load_from_thread()
            self._opened = self._accessed = True

    def _load_from_thread(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            try:
                anyio.from_thread.run(self.load)
            except anyio.NoEventLoopError:
                pass  # a thread of the app's own
            else:
                return
        raise SessionNotLoaded(_NOT_LOADED)

    def _change(self) -> None:
        if not self._opened:
            self._use()
        if self._mark is not None or self._status == "ended":
            self._refuse_if_ended()

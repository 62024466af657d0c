"""`Session`: the mapping that handlers use.

A real dict, so that everything that takes a dict takes a session. Its storage holds decoded values
beside `UNDECODED`, a placeholder for those that nobody has looked at yet. CPython and C serializers
take shortcuts through dict storage: those that go through the reading methods see decoded values;
those that do not (orjson, msgspec) meet the placeholder and fail, naming the way out, rather than
quietly giving ``{}`` or a wrong value.

What was changed is found at commit. Every key has its *origin*: the bytes from which the value in
hand was decoded, or to which it was last encoded. A key is changed if its value's bytes differ from
its own origin, whatever the store holds by then.
"""

from __future__ import annotations

import asyncio
import enum
import threading
from collections.abc import (
    Awaitable,
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from contextlib import AbstractAsyncContextManager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn, SupportsIndex, TypeVar, overload

import anyio
import anyio.from_thread

from asgi_session._data import codec
from asgi_session._data.fold import Changes, Kind, Mark, own_keys, too_large
from asgi_session._data.record import MAX_TIME
from asgi_session._data.token import Token
from asgi_session.errors import SessionError, SessionGone, SessionNotLoaded, SessionSerializationError

if TYPE_CHECKING:
    from asgi_session._engine.lock_queue import Hold
    from asgi_session._engine.manager import SessionManager
    from asgi_session._engine.save_request import Base, Pending
    from asgi_session._web.cookie import Cookie

# The class's name is what orjson and msgspec print when they meet it.
UNDECODED: Final[Any] = type("undecoded session value, pass dict(session) instead", (), {"__slots__": ()})()
_UNLOADED_KEY: Final = "session not loaded"
_ABSENT: Final = object()
_handing_out: Final = threading.Lock()  # two threads of one request must get the same list
_RAISE: Final = object()
T = TypeVar("T")

_NOT_LOADED: Final = (
    "the session is not loaded yet. Load it in one of three ways: (1) in FastAPI, declare the parameter "
    "`session: SessionDep` (from asgi_session.fastapi); (2) anywhere, call `session = await "
    "load_session(request)` or `await request.session.load()` first; (3) for code that cannot await, use "
    "`SessionMiddleware(..., autoload=True)`"
)


class Status(enum.Enum):
    """What a session is to the store."""

    UNLOADED = "unloaded"
    BLANK = "blank"  # cleared or destroyed before it was loaded: reads empty, commit loads first
    NEW = "new"  # no record; one is created when there is something to keep
    LIVE = "live"
    DETACHED = "detached"  # its record has moved on: reads empty, writes nowhere
    ANONYMOUS = "anonymous"  # the store was away (on_unavailable="anonymous"): writing is an error
    ENDED = "ended"  # by this session's own destroy() or clear()


class Owed(enum.Enum):
    """The Set-Cookie that the next response headers must carry."""

    NOTHING = "nothing"
    COOKIE = "cookie"
    DELETION = "deletion"


# Names of their own, since looking a member up on its enum takes 0.1 µs on Python 3.11.
_UNLOADED: Final = Status.UNLOADED
_BLANK: Final = Status.BLANK
_DETACHED: Final = Status.DETACHED
_ENDED: Final = Status.ENDED
_LIVE: Final = Status.LIVE
_NEW: Final = Status.NEW
_NOTHING: Final = Owed.NOTHING
_COOKIE: Final = Owed.COOKIE


class Session(dict[str, Any]):
    """The session of one request, as a dict of str to values.

    It is not loaded until you ask: ``await session.load()``, `load_session`, `SessionDep`, or, in a
    `def` handler that runs in a worker thread, by simply using it. Changes, those inside nested
    values included, are found and saved when the response starts.

    Keys are str. Values are None, bool, int, float, str, bytes, datetime, date, Decimal, UUID, and
    list, dict, tuple, set, frozenset of them. An instance of a subclass (a named tuple, an `OrderedDict`,
    an `IntEnum`) is stored as its plain value, and that is what comes back.
    """

    # Class attributes are the state of an unloaded session, so that a request that does not use its
    # session pays for one small object and nothing else.
    _status: Status = _UNLOADED
    _opened: bool = False  # somebody has read or changed it (autoload alone does not count)
    _accessed: bool = False
    _sealed: bool = False  # the headers have left: no cookie can be sent any more
    _confirmed: bool = False  # the request's own cookie has opened it
    _served: bool = False  # its request is over
    _outside: bool = False  # of no request: work on it is no use by its client
    _owed: Owed = _NOTHING
    _token: Token | None = None
    _base: Base | None = None  # the version it was loaded from or last committed to
    _expires_at: int = 0
    _mark: Mark | None = None
    _era: int = 0  # counts what makes the bookkeeping of a commit on its way pointless
    _waited: float = 0.0  # seconds of the request's deadline that are used up
    _loading: list[asyncio.Future[None]] | None = None  # who waits for the load on its way
    _pending: Pending | None = None  # the commit on its way
    _hold: Hold | None = None  # of its lock
    _touch: asyncio.Task[None] | None = None  # that this request has caused
    _connection: object = None  # of the request, for events; None when it is over, or nobody listens
    _origin: Mapping[str, bytes] = {}
    # Keys whose value may differ from its origin, in order.
    _watched: dict[str, None] = {}  # noqa: RUF012  (replaced by one of its own when loaded)
    _replaced: Sequence[tuple[str, Any, bytes]] = ()
    # Keys that this request has set, to whatever value, in order.
    _assigned: dict[str, None] = {}  # noqa: RUF012  (replaced by one of its own with the first)

    def __init__(
        self,
        manager: SessionManager,
        cookie: Cookie | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Not for users: the middleware makes sessions."""
        dict.__setitem__(self, _UNLOADED_KEY, UNDECODED)
        self._manager = manager
        self._cookie = cookie
        self._headers = headers

    # ---------------------------------------------------------------- loading and committing

    async def load(self) -> Session:
        """Load the session and return it; does nothing the second time.

        Concurrent calls share one load. Without a cookie, or with one that is unknown, expired or
        forged, the session is new and empty.

        Raises:
            StoreUnavailable: the store did not answer within the deadline.
            SessionCorrupt: what the store holds cannot be read (``on_corrupt="new"``: no error).
        """
        while self._status is _UNLOADED:
            if self._loading is None:
                self._loading = []
                try:
                    await self._manager._load(self)
                finally:
                    waiting, self._loading = self._loading, None
                    if waiting:
                        wake(waiting)
            else:
                # Somebody else's load. If that one is cancelled or fails, this caller tries itself.
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._loading.append(waiter)
                await waiter
        self._opened = self._accessed = True
        return self

    async def commit(self) -> None:
        """Save what was changed now, rather than when the response starts.

        For WebSockets, background work, and whoever must know that it is stored. In a WebSocket it
        counts as use of the session.

        Raises:
            SessionGone: the session has ended or moved on; nothing was written.
            SessionConflict, SessionTooLarge, SessionSerializationError, StoreUnavailable.
        """
        await self._manager._commit(self, explicit=True)

    async def refresh(self) -> Session:
        """Take over what others have saved, keep my uncommitted changes, and return the session.

        Values whose stored bytes have changed are replaced: hold on to no list or dict from before;
        a change to one that was replaced is lost (and reported as the event ``stale_value``).

        Raises:
            SessionGone: the session has ended or moved on.
            StoreUnavailable, SessionCorrupt.
        """
        if self._status is _UNLOADED:
            return await self.load()
        self._opened = self._accessed = True
        await self._manager._refresh(self)
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
        return self._manager._lock(self, wait, lease, max_hold)

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
        return await self._manager._transact(self, function)

    # ---------------------------------------------------------------- what it is

    @property
    def loaded(self) -> bool:
        """Whether it can be read without an await."""
        return self._status is not _UNLOADED

    @property
    def accessed(self) -> bool:
        """Whether this request has used it; the response then varies by cookie."""
        return self._accessed

    @property
    def modified(self) -> bool:
        """Whether there is something to commit.

        May be set to True, as code for other libraries does after a change inside a value. That is not
        necessary here and does nothing: what differs is found, and nothing else is saved.
        """
        if self._mark is not None:
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
        return self._status is _NEW

    @property
    def id(self) -> str | None:
        """The public id: safe to log and to show, no credential. None until it is created."""
        return self._token.selector if self._base is not None and self._token is not None else None

    @property
    def created_at(self) -> datetime | None:
        """When it was created, in UTC; None until then."""
        return _utc(self._base.record.created) if self._base is not None else None

    @property
    def expires_at(self) -> datetime | None:
        """When it expires if it is not used again, in UTC; None until it is created."""
        return _utc(self._expires_at) if self._base is not None else None

    def mark_accessed(self) -> None:
        """Note the access; Starlette's ``request.session`` calls this."""
        self._accessed = True

    def mark_modified(self) -> None:
        """Do nothing: changes are found, those inside values too. For code written for Starlette."""

    def __repr__(self) -> str:
        """Say what it is without loading it and without showing values."""
        what = [self._status.value]
        if self.id is not None:
            what.append(f"id={self.id}")
        if self._status is not _UNLOADED:
            what.append(f"keys={list(dict.keys(self))}")
        return f"<Session {' '.join(what)}>"

    # ---------------------------------------------------------------- marks

    def rotate(self, *, grace: float | timedelta | None = None) -> None:
        """Give the session a new credential at the next commit; the data stays.

        Call it whenever the user's privileges change, above all at login (OWASP Session Management
        Cheat Sheet, "Renew the Session ID After Any Privilege Level Change"). The old credential is
        dead at once, and what requests that came with it still want to write is dropped.

        Args:
            grace: seconds (or timedelta) for which the old credential stays good, for a periodic
                rotation under parallel requests. Never for a login.

        Raises:
            SessionNotLoaded: load it first.
            SessionError: the response has started, so the new cookie could not reach the client.
        """
        self._use()
        self._refuse_if_ended()
        self._refuse_outside("rotate")
        if self._sealed:
            raise SessionError(
                "rotate() was called after the response had started (or the WebSocket was accepted), so the "
                "new cookie can no longer reach the client. Call it before you return the response"
            )
        milliseconds = 0
        if grace is not None:
            seconds = grace.total_seconds() if isinstance(grace, timedelta) else float(grace)
            if not 0.001 <= seconds <= 3600:  # nor is NaN
                raise ValueError(f"rotate(grace={grace!r}): must be more than 0 seconds and at most an hour")
            milliseconds = round(seconds * 1000)
        if self._mark is None or self._mark.kind is Kind.ROTATE_WITH_GRACE:
            kind = Kind.ROTATE if grace is None else Kind.ROTATE_WITH_GRACE
            self._mark = Mark(kind, milliseconds)

    def clear(self) -> None:
        """End this session and begin anew: what is set afterwards goes into a new identity.

        That is what login and logout code written for Starlette means by it. Without anything set
        afterwards it ends the session, as `destroy` does. Needs no load.
        """
        self._refuse_if_ended()
        self._refuse_outside("clear")
        self._empty(Mark(Kind.CLEAR))

    def _refuse_outside(self, name: str) -> None:
        if self._outside:
            raise SessionError(
                f"{name}() cannot be used outside a request, because no new cookie can reach the client. To "
                "end the session call destroy(); to empty it, delete its keys"
            )

    def destroy(self) -> None:
        """End the session at the next commit, whatever else the request does. Needs no load.

        Writing to it afterwards raises `SessionGone`.
        """
        if self._status is not _ENDED:
            self._empty(Mark(Kind.DESTROY))

    def _empty(self, mark: Mark) -> None:
        dict.clear(self)
        self._mark = mark
        self._era += 1
        self._origin, self._watched, self._replaced, self._assigned = {}, {}, (), {}
        self._opened = self._accessed = True
        if self._status is _UNLOADED:
            self._status = _BLANK

    def discard(self) -> None:
        """Forget what was changed since the last load, commit or refresh; a `destroy()` is not forgotten.

        Values are as they were then. Lists and dicts have to be taken out of the session again.
        """
        if self._status not in (_LIVE, _NEW) or (self._mark is not None and self._mark.kind is Kind.DESTROY):
            return
        self._assigned = {key: None for key in self._assigned if self._is_stored(key)}
        self._mark = None
        self._era += 1
        self._origin = self._base.record.entries if self._base is not None else {}
        self._watched, self._replaced = {}, ()
        dict.clear(self)
        dict.update(self, dict.fromkeys(self._origin, UNDECODED))

    def _note_assigned(self, keys: Iterable[str]) -> None:
        """Take notice of keys that a transaction has set."""
        self._assigned = {**self._assigned, **dict.fromkeys(keys)}

    def _is_stored(self, key: str) -> bool:
        """Tell whether the value in hand is the one in the store, as far as known."""
        value = dict.get(self, key, _ABSENT)
        stored = self._base.record.entries.get(key) if self._base is not None else None
        if stored is None or value is _ABSENT:
            return False
        try:
            return (self._origin.get(key) if value is UNDECODED else codec.encode(value, key)) == stored
        except SessionError:
            return False

    # ---------------------------------------------------------------- reading

    def _use(self) -> None:
        """Make sure that it can be read: load it from a worker thread, else refuse."""
        if not self._opened:
            if self._status is _UNLOADED:
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

    def _decode(self, key: str) -> Any:
        if type(key) is not str:
            key = _plain_key(key)
        value = codec.decode(self._origin[key])
        with _handing_out:
            held = dict.get(self, key, _ABSENT)
            if held is not UNDECODED:
                return held if held is not _ABSENT else value  # another thread of this request was first
            dict.__setitem__(self, key, value)
            if type(value) not in codec.SCALARS and codec.is_mutable(value):
                self._watched[key] = None
        return value

    def _decode_all(self) -> None:
        for key, value in dict.items(self):
            if value is UNDECODED:
                self._decode(key)

    def __getitem__(self, key: str) -> Any:
        if not self._opened:
            self._use()
        value = dict.__getitem__(self, key)
        return self._decode(key) if value is UNDECODED else value

    def get(self, key: str, default: Any = None, /) -> Any:
        """Return the value of `key`, or `default`."""
        if not self._opened:
            self._use()
        value = dict.get(self, key, default)
        return self._decode(key) if value is UNDECODED else value

    def __contains__(self, key: object) -> bool:
        self._use()
        return dict.__contains__(self, key)

    def __len__(self) -> int:
        self._use()
        return dict.__len__(self)

    def __iter__(self) -> Iterator[str]:
        self._use()
        return iter(list(dict.keys(self)))  # a commit in the loop's body may bring in others' keys

    def __reversed__(self) -> Iterator[str]:
        self._use()
        return dict.__reversed__(self)

    # Views over the methods above: the ones of dict would show placeholders.
    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return a view of the keys."""
        self._use()
        return _Keys(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return a view of the values."""
        self._use()
        return _Values(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Return a view of the keys and values."""
        self._use()
        return _Items(self)

    def copy(self) -> dict[str, Any]:
        """Return the session's contents as a plain dict."""
        return {key: self[key] for key in self}

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return deepcopy(self.copy(), memo)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict):
            return NotImplemented
        self._use()
        self._decode_all()
        if isinstance(other, Session) and other is not self:
            other._use()
            other._decode_all()
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = None

    def __or__(self, other: Any, /) -> dict[Any, Any]:
        return self.copy() | other if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any, /) -> dict[Any, Any]:
        return other | self.copy() if isinstance(other, dict) else NotImplemented

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        raise TypeError(
            "a Session cannot be pickled because it belongs to one request. Pickle dict(session) instead"
        )

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], value: Any = None, /) -> NoReturn:
        """Refuse: sessions come from the middleware."""
        raise TypeError("Session.fromkeys is not supported; use session.update(dict.fromkeys(...))")

    # ---------------------------------------------------------------- changing

    def _change(self) -> None:
        if not self._opened:
            self._use()
        if self._mark is not None or self._status is _ENDED:
            self._refuse_if_ended()

    def _refuse_if_ended(self) -> None:
        if self._status is _ENDED or (self._mark is not None and self._mark.kind is Kind.DESTROY):
            raise SessionGone(
                "destroy() has ended this session, so it can no longer be changed. To end a session and "
                "start a new one in the same request, use clear()"
            )

    def __setitem__(self, key: str, value: Any) -> None:
        self._change()
        if type(key) is not str:
            key = _plain_key(key)
        dict.__setitem__(self, key, value)
        self._watched[key] = None
        if self._assigned:
            self._assigned[key] = None
        else:
            self._assigned = {key: None}

    def __delitem__(self, key: str) -> None:
        self._change()
        dict.__delitem__(self, key)
        self._watched[_plain_key(key)] = None

    def pop(self, key: str, default: Any = _RAISE, /) -> Any:
        """Remove `key` and return its value, or `default` when there is none."""
        self._change()
        if default is not _RAISE and not dict.__contains__(self, key):
            return default
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the last key and value."""
        self._change()
        for key in dict.__reversed__(self):
            return key, self.pop(key)
        raise KeyError("popitem(): the session is empty")

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        """Return the value of `key`, set to `default` before if there was none."""
        self._change()
        if not dict.__contains__(self, key):
            self[key] = default
        return self[key]

    def update(self, other: Any = (), /, **values: Any) -> None:
        """Set many keys, from a mapping, pairs or keywords."""
        self._change()
        for key, value in dict(other, **values).items():
            self[key] = value

    def __ior__(self, other: Any, /) -> Session:  # type: ignore[override]
        self.update(other)
        return self

    # ---------------------------------------------------------------- for the manager

    def _attach(self, status: Status, token: Token | None = None, base: Base | None = None) -> None:
        """Take the state that a load has found; of two loads the first counts."""
        unloaded = self._status is _UNLOADED
        if not unloaded and self._status is not _BLANK:
            return
        self._status, self._token, self._base = status, token, base
        if base is not None:
            self._expires_at = base.expires_at
            self._confirmed = True
        if unloaded:  # else it was cleared before, and what was set since stays
            dict.clear(self)
            self._watched = {}
            if base is not None:
                self._origin = base.record.entries
                dict.update(self, dict.fromkeys(self._origin, UNDECODED))

    def _detach(self) -> None:
        """Become a session whose record has moved on; uncommitted changes are dropped."""
        self._status, self._base, self._mark = _DETACHED, None, None
        self._era += 1
        dict.clear(self)
        self._origin, self._watched, self._replaced, self._assigned = {}, {}, (), {}

    def _changes(self, max_size: int | None = None) -> Changes:
        """Return what differs from its origin.

        With `max_size` (bytes) changes that are larger, and larger than what they replace, are refused
        before their values are walked: that costs many times what encoding them does.

        Raises:
            SessionSerializationError: a value cannot be stored.
            SessionTooLarge: see above.
        """
        changes: Changes = {}
        if self._status is _UNLOADED:
            return changes
        unchecked: list[tuple[str, Any]] = []
        size = before = 0
        for key in self._watched:
            value = dict.get(self, key, _ABSENT)
            origin = self._origin.get(key)
            if value is _ABSENT:
                if origin is not None:
                    changes[key] = None
                    before += len(origin)
            elif value is not UNDECODED:
                encoded = codec.encode(value, key)
                if encoded != origin:
                    changes[key] = encoded
                    size += len(encoded)
                    if origin is not None:
                        before += len(origin)
                    if type(value) not in codec.SCALARS or not key.isascii():
                        unchecked.append((key, value))
        if max_size is not None and size > max_size and size > before:
            raise too_large(size, max_size)
        for key, value in unchecked:
            codec.check(value, key)
        return changes

    def _take(self) -> Changes:
        """Return the changes for a commit, whose bookkeeping they then are.

        What cannot be changed in place is looked at again only when it is set again, or handed back.
        """
        changes = self._changes(self._manager.max_size)
        for key in changes:
            value = dict.get(self, key)
            if type(value) in codec.SCALARS or not codec.is_mutable(value):
                del self._watched[key]
        return changes

    def _own_values(self, changes: Changes) -> dict[str, bytes]:
        """Return what may go on in a new record: what this request has set, whether or not it differs.

        That is more than `changes`, of which a key that was set to the value it had is none.
        """
        own: dict[str, bytes] = {}
        for key in self._assigned:
            value = dict.get(self, key, _ABSENT)
            if key not in changes and value is not _ABSENT:
                own[key] = self._origin[key] if value is UNDECODED else codec.encode(value, key)
        own.update(own_keys(changes))
        return own

    def _hand_back(self, changes: Changes, era: int) -> None:
        """Have the changes of a commit that failed looked at again."""
        if era == self._era:
            self._watched.update(dict.fromkeys(changes))

    def _unchanged(self) -> bool:
        """Tell whether a commit would certainly have nothing to do."""
        return not self._watched and self._mark is None and self._pending is None and not self._replaced

    def _committed(self, changes: Changes, era: int, base: Base, *, merged: bool) -> None:
        """Note that `changes`, as they were in `era`, are in the store, as part of `base`."""
        was, self._base, self._expires_at = self._base, base, base.expires_at
        if era != self._era:
            return  # emptied or refreshed meanwhile: those bytes are no longer anyone's origin
        if not merged and was is not None and self._origin is was.record.entries:
            self._origin = base.record.entries  # just that, with the changes applied
            return
        origin = dict(self._origin)
        for key, encoded in changes.items():
            if encoded is None:
                origin.pop(key, None)
            else:
                origin[key] = encoded
        self._origin = origin
        if merged:
            self._take_over(origin, base.record.entries, keep=changes, handed_out=False)

    def _reborn(self, token: Token, base: Base, pending: Pending) -> None:
        """Become the new session that `pending` has created, with its own keys and no others."""
        self._status, self._token, self._owed = _LIVE, token, _COOKIE
        self._base, self._expires_at = base, base.expires_at
        self._confirmed = False
        if pending.era == self._era:
            for key in self._origin.keys() - base.record.entries.keys():
                # Of another identity: what this session was before it had to begin anew. Not what was set
                # while it did.
                if key not in self._assigned:
                    dict.pop(self, key, None)
                    self._watched.pop(key, None)
            self._origin = base.record.entries
        elif self._mark is None:  # changes were discarded meanwhile: it is what is stored, and nothing else
            self.discard()

    def _refreshed(self, base: Base) -> None:
        """Take over `base`, under the uncommitted changes."""
        changes = self._changes()
        record = base.record
        self._base, self._expires_at = base, base.expires_at
        self._era += 1
        origin = dict(self._origin)
        self._take_over(origin, record.entries, keep=changes, handed_out=True)
        for key, encoded in changes.items():
            if encoded is None and key not in record.entries:
                origin.pop(key, None)
            elif key not in self._manager.folding.rules:
                # From now on it is a change of the newest value: what others did to it was seen. With a
                # rule it stays one of the value that it was made on, or the others' changes would be lost.
                if key in record.entries:
                    origin[key] = record.entries[key]
                else:
                    origin.pop(key, None)
        self._origin = origin

    def _take_over(
        self, origin: dict[str, bytes], entries: Mapping[str, bytes], *, keep: Changes, handed_out: bool
    ) -> None:
        """Bring keys that `entries` has differently up to date.

        Args:
            origin: changed in place.
            entries: the newest record's.
            keep: keys to leave alone.
            handed_out: whether values that were already decoded are replaced too.
        """
        if origin == entries:  # always so for who gets a lock that nobody else had
            return
        replaced: list[tuple[str, Any, bytes]] = []
        for key in {**origin, **entries}:
            newest = entries.get(key)
            if key in keep or origin.get(key) == newest:
                continue
            held = dict.get(self, key, _ABSENT)
            if held is _ABSENT and key in origin:
                continue  # deleted here since, not committed yet
            if held is not UNDECODED and held is not _ABSENT:
                if not handed_out or key not in origin:
                    continue
                if codec.is_mutable(held):
                    replaced.append((key, held, origin[key]))
            self._assigned.pop(key, None)
            if newest is None:
                dict.pop(self, key, None)
                origin.pop(key, None)
            else:
                dict.__setitem__(self, key, UNDECODED)
                origin[key] = newest
        if replaced:
            self._replaced = (*self._replaced, *replaced)

    def _stale_values(self) -> list[str]:
        """Return the keys of replaced values that were changed after a refresh; forget them."""
        stale = []
        for key, value, encoded in self._replaced:
            try:
                changed = codec.encode(value, key) != encoded
            except SessionError:
                changed = True
            if changed:
                stale.append(key)
        self._replaced = ()
        return stale


# Views like a dict's: the abstract ones lack reversed().
class _Keys(KeysView[str]):
    _mapping: Session

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._mapping)


class _Values(ValuesView[Any]):
    _mapping: Session

    def __reversed__(self) -> Iterator[Any]:
        session = self._mapping
        return (session[key] for key in reversed(session))


class _Items(ItemsView[str, Any]):
    _mapping: Session

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        session = self._mapping
        return ((key, session[key]) for key in reversed(session))


def wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    """Let those go on who wait on these futures; some may have been cancelled."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def _plain_key(key: Any) -> str:
    if isinstance(key, str):
        return str.__str__(key)  # a StrEnum member, say: equal to its text, and stored as that
    raise SessionSerializationError(
        f"session keys are str, not {type(key).__qualname__}. Use str(key), or store a dict under one key"
    )


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(min(milliseconds, MAX_TIME) / 1000, UTC)

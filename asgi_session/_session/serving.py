"""A session's part in its request: what it waits for, holds and owes there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import ClassVar, Literal, Protocol, TypeAlias

import msgspec

from asgi_session._data.change import Mark
from asgi_session._data.claim import OldCookies
from asgi_session._data.expiry import NOT_USED, UNCONFIRMED, USED
from asgi_session._data.record import Version
from asgi_session._session.versioned import Owed, Versioned

Passive: TypeAlias = Literal["", "until used", "always"]
"""Whether a request is no use of its session: it is; not until somebody in it loads it as use; not."""


class CookieReader(Protocol):
    """Finds the session's cookies in a request's headers."""

    @property
    def old(self) -> OldCookies | None:
        """Of another library; None: sessions go on from none."""
        ...

    @property
    def name(self) -> str:
        """Of the cookie."""
        ...

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> Sequence[str]:
        """Return their values, in their order."""
        ...


class OnItsWay(Protocol):
    """A commit that has no result yet.

    Attributes:
        deadline: by when it must have one, as `time.monotonic`.
        use: what it says about the session's use: USED, UNCONFIRMED or NOT_USED.
    """

    deadline: float
    use: int

    async def wait(self) -> None:
        """Wait until it has one."""
        ...


class Standing(msgspec.Struct, frozen=True):
    """Where a session stands when a commit of it begins: what decides about who is signed in.

    Attributes:
        version: that it is of; None: there is no record.
        origin: the encoded values that it came from.
        began: when its request began, ms; 0: not known.
        no_cookie: why no new cookie can reach the client; empty: one can.
        detached: its record has ended, or moved on.
    """

    version: Version | None
    origin: Mapping[str, bytes]
    began: int
    no_cookie: str
    detached: bool = False


class Serving(Versioned):
    """A session as the engine and the middleware deal with it.

    Attributes:
        _accessed: this request has used it.
        _began: when its request began, ms; 0: not known, or nobody asks.
        _commit: the commit on its way.
        _due: a rotation that is to take place by itself when the response starts.
        _connection: of the request, for events; None when it is over, or nobody listens.
        _cookie: finds the session's cookies in the request's headers; None outside a request.
        _headers: of the request.
        _hold: of its lock.
        _passive: whether what is done counts as no use of the session.
        _served: its request is over.
        _touch: that this request has caused.
        _waited: seconds of the request's deadline that are used up.
    """

    __slots__ = (
        "_accessed", "_began", "_commit", "_connection", "_cookie", "_due", "_headers", "_hold", "_passive",
        "_served", "_touch", "_waited",
    )  # fmt: skip

    _outside: ClassVar = False  # of no request

    _accessed: bool
    _began: int
    _commit: OnItsWay | None
    _connection: object
    _cookie: CookieReader | None
    _due: Mark | None
    _headers: Iterable[tuple[bytes, bytes]]
    _hold: object
    _passive: Passive
    _served: bool
    _touch: asyncio.Task[None] | None
    _waited: float

    def _unchanged(self) -> bool:
        """Tell whether a commit would certainly have nothing to do."""
        return (
            not self._watched
            and self._mark is None
            and self._lifetime is None
            and self._commit is None
            and self._due is None
            and not self._replaced
        )

    # ---------------------------------------------------------------- a rotation by itself

    def _rotation_is_due(self, mark: Mark) -> bool:
        """Have the response's start carry out a rotation that nobody has asked for; whether it will."""
        if self._sealed or self._mark is not None:
            return False
        self._due = mark
        return True

    def _begin_rotation(self, *, commits: bool) -> None:
        """Have the commit that follows carry it out, unless the session gets a new credential or ends anyway.

        `commits`: whether that commit saves anything; else it is left to a later request.
        """
        due, self._due = self._due, None
        if commits and self._mark is None and self._status == "live":
            self._mark = due

    # ---------------------------------------------------------------- a commit on its way

    def _commit_begins(self, commit: OnItsWay, whole: float, *, asks: bool = False) -> Standing | None:
        """Have the next commit wait for this one, which may wait on the store as long as its request.

        `whole`: seconds that one request may wait in all. Returns where the session stands, if somebody
        `asks`.
        """
        self._commit = commit
        commit.use = self._use_of()
        commit.deadline = self._wait_begins(whole)
        return self._standing() if asks else None

    def _commit_ends(self, consumed: Mark | None, whole: float) -> None:
        """Let the next commit go on; the mark that this one has carried out is done with."""
        if self._mark is consumed:
            self._mark = None
        commit, self._commit = self._commit, None
        if commit is not None:
            self._wait_ends(commit.deadline, whole)

    async def _settled(self) -> None:
        """Wait for the commit that is on its way, if there is one."""
        while self._commit is not None:
            await self._commit.wait()

    def _use_of(self) -> int:
        """Return what a save of this session says about its use: USED, UNCONFIRMED or NOT_USED.

        It is unconfirmed while its cookie has not come back yet, and may be on its way to a client that
        never returns it. Once the headers have left that can no longer be known: another request may have
        come with it. Of a passive request, and from outside of one, nothing is use by its client.
        """
        if self._passive:
            return NOT_USED
        return USED if self._confirmed or self._sealed else UNCONFIRMED

    # ---------------------------------------------------------------- what may be waited

    def _wait_begins(self, whole: float) -> float:
        """Begin to wait on the store; return by when that must end, as `time.monotonic`.

        `whole`: seconds that one request may wait in all.
        """
        if self._sealed:
            self._waited = 0.0  # no response waits any more: every operation has the whole of it
        return monotonic() + whole - self._waited

    def _wait_ends(self, deadline: float, whole: float) -> None:
        """Note how much of what one request may wait is used up."""
        waited = whole - deadline + monotonic()
        if waited > self._waited:
            self._waited = waited

    def _touch_begins(self, touch: asyncio.Task[None], expires_at: int) -> None:
        """Note the touch that this request has caused, so that no other follows it; `expires_at` in ms."""
        self._touch, self._expires_at = touch, expires_at

    async def _touch_ended(self, whole: float) -> None:
        """Wait for the touch that this request has caused, as long as what it may wait is not used up."""
        touch, self._touch = self._touch, None
        if touch is not None and not touch.done():
            await asyncio.wait([touch], timeout=max(whole - self._waited, 0.0))

    # ---------------------------------------------------------------- lock, headers, end

    def _standing(self) -> Standing:
        """Return where it stands, for a decision about who is signed in."""
        late = "after the response has started" if self._sealed else ""
        no_cookie = "outside a request" if self._outside else late
        return Standing(self._version, self._origin, self._began, no_cookie, self._status == "detached")

    def _lock_with(self, hold: object) -> None:
        """Note the hold of its lock; None: it has none any more."""
        self._hold = hold

    def _seal(self) -> None:
        """Note that the headers have left: no cookie can be sent any more."""
        self._sealed = True

    def _take_owed(self) -> Owed:
        """Return the Set-Cookie that is due, which the caller sends with the headers that now leave."""
        owed, self._owed = self._owed, "nothing"
        if owed == "cookie" and (self._token is None or self._version is None):
            return "nothing"  # somebody else has ended what this request had created or rotated
        return owed

    def _be_passive(self) -> None:
        """Note that the request is no use of its session, whatever is done in it."""
        self._passive = "always"

    def _tell(self, connection: object, began: int) -> None:
        """Have events name the connection of its request, and sign-ins know when that began, ms."""
        self._connection, self._began = connection, began

    def _close(self) -> None:
        """Note that its request is over."""
        self._served = True
        self._connection = None  # or the two would keep each other alive

"""One commit on its way: what it wants, who waits for it, what became of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from asgi_session._data.fold import Changes, Intent, Mark, Verdict
from asgi_session._data.record import Record
from asgi_session._data.token import Token
from asgi_session.errors import SessionConflict, SessionGone, StoreUnavailable

if TYPE_CHECKING:
    from asgi_session._session.session import Session


class Base(msgspec.Struct, frozen=True, gc=False):
    """A version of a record as the store has it."""

    record: Record
    tag: bytes
    expires_at: int


class Settles(Protocol):
    """Takes the results of commits back to where they came from."""

    def settle(self, pending: Pending, settled: Settled) -> None:
        """Note the result of a commit that reached the store."""
        ...

    def fail(self, pending: Pending, error: Exception) -> None:
        """Note a failure; does nothing for a commit that has its result."""
        ...


# What a save says about the use of a session; of several in one save the least counts.
USED: Final = 0
UNCONFIRMED: Final = 1
"""Used, by a request whose cookie has not come back yet."""
NOT_USED: Final = 2
"""Worked on from outside a request, which is no use by its client."""


# Shared: nobody changes them. Most commits have none of their own.
_NOTHING: Final[dict[str, bytes]] = {}
_NOBODY: Final[list[asyncio.Future[None]]] = []


class Pending(Intent):
    """A commit, or a change of a lock, from the moment it was made until its result is known.

    Attributes:
        results: who is told what became of it.
        session: whose commit it is.
        era: of the session when the changes were taken.
        deadline: by when it must have a result, as `time.monotonic`.
        base: the version that the session was loaded from or last committed to, if any.
        known: a version that the store is known to have had since, if any.
        token: the new credential, if the commit hands one out.
        refused: why, if it was carried out in part only.
        own: what goes on in a new record, if the commit has a mark that may make one.
        use: USED, UNCONFIRMED or NOT_USED.
        timer: fails it at its deadline while it waits in a queue.
        dropped: set, to the reason, when nothing was written: "gone", "overtaken", "detached", "late".
        done: whether it has its result.
        error: set when it failed.
        id: the public id of the session that it is about, if that is known here.
        settled: what became of it, if it reached the store.
        then: called with it when it has its result, before anyone who waits for it goes on.
    """

    __slots__ = (
        "_waiters",
        "base",
        "deadline",
        "done",
        "dropped",
        "era",
        "error",
        "id",
        "known",
        "own",
        "refused",
        "results",
        "session",
        "settled",
        "then",
        "timer",
        "token",
        "use",
    )

    base: Base  # set for a session that has a record
    session: Session

    def __init__(
        self, results: Settles, changes: Changes, mark: Mark | None, era: int, deadline: float
    ) -> None:
        # What `Intent` has, set here: this is every save.
        self.changes = changes
        self.epoch = b""
        self.mark = mark
        self.digest = self.new_digest = b""
        self.origins = self.holder = self.step = self.compute = self.only_on = None
        self.overwritten = ()
        self.results = results
        self.id: str | None = None
        self.known: Base | None = None
        self.era = era
        self.deadline = deadline
        self.token: Token | None = None
        self.own: dict[str, bytes] = _NOTHING
        self.refused: Exception | None = None
        self.use = USED
        self.timer: asyncio.TimerHandle | None = None
        self.dropped = ""
        self.done = False
        self.error: Exception | None = None
        self.settled: Settled | None = None
        self.then: Callable[[Pending], None] | None = None
        self._waiters: list[asyncio.Future[None]] = _NOBODY

    async def wait(self) -> None:
        """Wait until it has a result. Being cancelled here does not touch the commit."""
        if not self.done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._waiters:
                self._waiters.append(waiter)
            else:
                self._waiters = [waiter]
            await waiter

    async def result(self) -> None:
        """Wait until it has a result; raise the error with which it failed."""
        await self.wait()
        if self.error is not None:
            raise self.error

    def finish(self, error: Exception | None = None) -> None:
        """Give it its result and wake who waits."""
        if self.done:
            return
        self.done, self.error = True, error
        if self.timer is not None:
            self.timer.cancel()
        if self.then is not None:
            self.then(self)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Settled(msgspec.Struct, frozen=True, gc=False):
    """What became of a commit that reached the store.

    Attributes:
        verdict: None when the record is gone.
        base: what the store now has, as far as known.
        merged: whether `base` holds more than this commit's own base and changes.
        tries: how many saves were sent.
        left_behind: it was applied, but the record has got another identity with it or since; `base`
            is then what it was under this commit's own.
    """

    verdict: Verdict | None
    base: Base | None
    merged: bool = False
    tries: int = 1
    left_behind: bool = False


class Backoff:
    """Jittered, growing pauses; the first retry comes at once."""

    __slots__ = ("_tries",)

    def __init__(self) -> None:
        self._tries = 0

    async def pause(self, deadline: float) -> None:
        """Pause before the next try, never beyond `deadline` (`time.monotonic`)."""
        self._tries += 1
        if self._tries > 1:
            longest = min(0.2, 0.001 * 2 ** min(self._tries, 10), max(deadline - time.monotonic(), 0))
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  (jitter, no secret)


def outcome_unknown() -> SessionConflict:
    """Return the error for a save of which nobody can tell any more whether it was applied."""
    return SessionConflict(
        "the store's reply to a save was lost, and so many other saves followed that the library can no "
        "longer tell whether the save was applied. Load the session again to find out",
        outcome_unknown=True,
    )


def shutting_down() -> StoreUnavailable:
    """Return the error for a commit whose event loop is closing."""
    return StoreUnavailable("the event loop was closed before the session was saved")


def gone() -> SessionGone:
    """Return the error for a session that can no longer be saved to."""
    return SessionGone("this session has ended, was revoked, has expired, or has a new credential")

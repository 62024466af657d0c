"""A save on its way to a record, and what became of it. It knows no session: only who is to be told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import copy
from typing import Any, Final, Literal, Self, TypeAlias

import msgspec

from asgi_session._data.change import Change
from asgi_session._data.expiry import USED
from asgi_session._data.record import Version
from asgi_session.errors import SessionConflict, StoreUnavailable


class SavedAs(msgspec.Struct, frozen=True, gc=False):
    """It was applied.

    Attributes:
        version: what the store now has, as far as known.
        merged: whether that holds more than the request's own base and changes.
        tries: how many saves were sent.
        rotated_already: another request has rotated the token, so this one's rotation was left out.
        left_behind: the record has got another identity with it or since; `version` is then what it was
            under the request's own.
    """

    version: Version
    merged: bool = False
    tries: int = 1
    rotated_already: bool = False
    left_behind: bool = False


class LeftOut(msgspec.Struct, frozen=True, gc=False):
    """Nothing of it was written: the record is gone, or was overtaken by another identity.

    Attributes:
        reason: as the event names it.
        version: what the store has in its place; None when it is gone.
    """

    reason: Literal["gone", "overtaken"]
    version: Version | None = None


class Failed(msgspec.Struct, frozen=True):
    """It was not written, or that cannot be told; the error says which."""

    error: Exception


Result: TypeAlias = SavedAs | LeftOut | Failed

_NOWHERE: Final[Any] = None  # until it goes to a record
_NOBODY: Final[list[asyncio.Future[None]]] = []  # shared: nobody changes it


class SaveRequest(Change, kw_only=True, eq=False):
    """A change on its way, until its result is known.

    Attributes:
        then: called with it, once, as soon as it has its result; calls `end` when nothing is left to do.
        base: the version that the change was made on.
        deadline: by when it must have a result, as `time.monotonic`.
        id: the public id of the session that it is about, if that is known here.
        known: a version that the store is known to have had since, if any.
        use: USED, UNCONFIRMED or NOT_USED.
        timer: fails it at its deadline while it waits in a queue.
        result: None until it is known.
        error: what whoever waits for it is told.
        done: whether everything that follows from the result is done.
    """

    then: Callable[[Self], None]
    deadline: float = 0.0
    base: Version = _NOWHERE
    id: str | None = None
    known: Version | None = None
    use: int = USED
    timer: asyncio.TimerHandle | None = None
    result: Result | None = None
    error: Exception | None = None
    done: bool = False
    waiters: list[asyncio.Future[None]] = _NOBODY

    def answer(self, result: Result) -> None:
        """Give it its result; only the first counts."""
        if self.result is None:
            self.result = result
            if isinstance(result, Failed):
                self.error = result.error
            if self.timer is not None:
                self.timer.cancel()
            self.then(self)

    def end(self) -> None:
        """Wake who waits: all is done."""
        self.done = True
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until all is done. Being cancelled here does not touch the save."""
        if not self.done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self.waiters:
                self.waiters.append(waiter)
            else:
                self.waiters = [waiter]
            await waiter

    async def outcome(self) -> None:
        """Wait until all is done; raise the error that it ended with."""
        await self.wait()
        if self.error is not None:
            raise self.error


def own_copy(error: Exception) -> Exception:
    """Return an error like `error` for each of several who are told: a traceback belongs to one request."""
    try:
        return copy(error)
    except Exception:  # of a foreign store: one that copy cannot make again
        return error


def outcome_unknown() -> SessionConflict:
    """Return the error for a save of which nobody can tell any more whether it was applied."""
    return SessionConflict(
        "the store's reply to a save was lost, and so many other saves followed that the library can no "
        "longer tell whether the save was applied. Load the session again to find out",
        outcome_unknown=True,
    )


def shutting_down() -> StoreUnavailable:
    """Return the error for a save whose event loop is closing."""
    return StoreUnavailable("the event loop was closed before the session was saved")

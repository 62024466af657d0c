"""A session's lock in the hands of one request."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Protocol

from asgi_session._data.record import Version
from asgi_session._engine.save_request import SaveRequest
from asgi_session._session.session import Session


class Terms:
    """For how long a lock is waited for and held; seconds."""

    __slots__ = ("lease", "max_hold", "wait")

    def __init__(self, wait: float, lease: float, max_hold: float) -> None:
        self.wait = wait
        self.lease = lease
        self.max_hold = max_hold


class Holds(Protocol):
    """Where a hold comes from: the session's lock queue."""

    def cover(self, hold: Hold, request: SaveRequest) -> None:
        """Have a save count only while the lock is held; with ``hold.leaving`` it releases the lock, too."""
        ...

    def left(self, hold: Hold, request: SaveRequest, *, done: bool) -> None:
        """Note what became of the commit with which a hold was to end."""
        ...

    def end(self, hold: Hold) -> None:
        """End a hold without a commit."""
        ...

    def learn(self, version: Version) -> None:
        """Take notice of a version, if it is newer than what is known."""
        ...

    async def catch_up(self) -> None:
        """Wait for the load that a wake-up has caused, so that the next save need not meet its news."""
        ...


class Hold:
    """A session's lock, held by one request.

    Attributes:
        session: whose lock.
        queue: of the session; None while nothing of it is stored, so that nobody else can know it.
        fence: the version of the record at the grant.
        version: the newest version of the record when it was granted.
        terms: as asked for.
        ends: when `max_hold` is over, as `time.monotonic`.
        depth: how often the request has entered.
        leaving: the commit that releases it is on its way.
        lost: it has ended otherwise; what is still saved under it is refused.
        task: that has entered; None when several have.
    """

    __slots__ = (
        "depth", "ends", "fence", "leaving", "lost", "queue", "session", "task", "terms", "version",
    )  # fmt: skip

    def __init__(
        self, session: Session, terms: Terms, queue: Holds | None, fence: int, version: Version | None
    ) -> None:
        self.session = session
        self.terms = terms
        self.queue = queue
        self.fence = fence
        self.version = version
        self.ends = monotonic() + terms.max_hold
        self.depth = 1
        self.leaving = False
        self.lost = False
        self.task: asyncio.Task[Any] | None = None

    def cover(self, request: SaveRequest, *, leaving: bool) -> None:
        """Have a save count only while the lock is held; with `leaving` it releases the lock, too."""
        self.leaving = leaving
        if self.queue is not None:
            self.queue.cover(self, request)

    def left(self, request: SaveRequest, *, done: bool) -> None:
        """Note what became of the commit with which it was to end.

        If that failed, what was changed is forgotten: it must not be merged later without the lock.
        """
        if request.error is not None:
            self.session.discard()
        if self.queue is not None:
            self.queue.left(self, request, done=done)

    def part(self, ended: Version | None) -> None:
        """Leave the lock of a record that has ended in the block: what is set now is for another one."""
        queue, self.queue = self.queue, None
        if queue is not None:
            if ended is not None:
                queue.learn(ended)
            queue.end(self)

    def end(self) -> None:
        """Forget what was changed under the lock, and release it without waiting for that."""
        held = hold_of(self.session)
        if held is None or held is self:
            self.session.discard()  # else that is by now the work of another task, which has the lock
            self.session._lock_with(None)
        if self.queue is not None:
            self.queue.end(self)


def hold_of(session: Session) -> Hold | None:
    """Return the hold of a session's lock, if it has one."""
    hold = session._hold
    assert hold is None or isinstance(hold, Hold), "nothing else is put there"
    return hold

"""What to do next about a session's lock, as one process sees it: the decision, without I/O.

Times are given: `at` in seconds of this process's own steady clock, `now` in ms since the Unix epoch.
"""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from asgi_session._data import lease as leases
from asgi_session._data.lease import Lease, Step, Term


class LetIn(msgspec.Struct, frozen=True):
    """This process was granted the lock: let in its first waiter."""


class Change(msgspec.Struct, frozen=True):
    """Change the record's lock field by `step`."""

    step: Step


class Wait(msgspec.Struct, frozen=True):
    """Another process has the lock, and ours is in its queue, or that is full: look again in `seconds`."""

    seconds: float


class Close(msgspec.Struct, frozen=True):
    """Nobody waits here, and nothing of ours is in the record: there is nothing to do."""


Next: TypeAlias = LetIn | Change | Wait | Close


class LockState:
    """What one process knows of a lock, and has done about it.

    Attributes:
        name: of this process.
        lease: the record's field, as last seen; None: the lock is free.
        since: when that was first seen in its present term, `at`.
        spent: the fence under which a waiter was last let in here: a grant is good for one.
        asked: the term under which this process last tried to queue, so that a full queue is not asked again.
        turn: how many waiters were let in since another process had its turn.
        doubted: nothing was asked of the store yet. Who was let in under which grant, before this process
            last forgot the lock, is not known, so nobody is let in under one of before.
    """

    __slots__ = ("asked", "doubted", "lease", "name", "since", "spent", "turn")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.lease: Lease | None = None
        self.since = 0.0
        self.spent = 0
        self.asked: Term | None = None
        self.turn = 0
        self.doubted = True

    @property
    def is_ours(self) -> bool:
        """Whether this process has the lock."""
        return self.lease is not None and self.lease.process == self.name

    @property
    def is_granted(self) -> bool:
        """Whether this process has the lock, and nobody was let in under that grant yet."""
        lease = self.lease
        return lease is not None and self.is_ours and not self.doubted and lease.fence != self.spent

    def note(self, lease: Lease | None, at: float) -> bool:
        """Take notice of a newer version's field; whether somebody was heard of."""
        before, self.lease = self.lease, lease
        if lease is None or lease.process != self.name:
            self.turn = 0
        if before is None or lease is None or lease.term != before.term:
            self.since = at
            return True
        return False

    def disbelieve(self) -> None:
        """Take what a session has read or saved, long ago perhaps, for no evidence.

        It may not be true any more that this process stands in line.
        """
        if self.lease is not None:
            queue = tuple(one for one in self.lease.queue if one != self.name)
            self.lease = replace(self.lease, queue=queue)

    def answered(self) -> None:
        """Note that the store has answered; a grant that it then shows for the first time is spent."""
        if self.doubted:
            self.doubted = False
            if self.lease is not None and self.is_ours:
                self.spent = self.lease.fence

    def let_in(self) -> int:
        """Note that a waiter is let in; return the fence under which it holds the lock."""
        assert self.lease is not None, "it is granted"
        self.spent = self.lease.fence
        self.turn += 1
        return self.spent

    def next(self, waiting: bool, at: float, now: int) -> Next:
        """Decide what to do while nobody of this process is inside.

        Args:
            waiting: whether somebody waits here.
            at: seconds.
            now: ms.
        """
        lease, name = self.lease, self.name
        if lease is not None and lease.process == name:
            if waiting and self.doubted:
                return self._take()
            if waiting and lease.fence != self.spent:
                return LetIn()
            # With nobody to let in, or after a hold that has ended without a commit.
            return Change(self.release(lease.fence, waiting=waiting))
        if not waiting:
            if lease is not None and name in lease.queue:
                self.asked = None  # who comes while it leaves has to ask again
                return Change(partial(leases.leave, process=name))
            return Close()
        if lease is None:
            return self._take()
        if self.has_run_out(at, now):
            return self._take(over=lease.term)
        if name in lease.queue or self.asked == lease.term:
            return Wait(max(self.since + lease.length / 1000 - at, 0.0))
        self.asked = lease.term
        return self._take()

    def _take(self, over: Term | None = None) -> Change:
        self.doubted = False  # if the lock is ours then, it is under a new grant
        return Change(partial(leases.take, process=self.name, over=over))

    def has_run_out(self, at: float, now: int) -> bool:
        """Whether the holder's lease is over: seen to be unchanged for its length, by our own clock.

        One that ended long ago by its writer's clock need not be watched for that long.
        """
        lease = self.lease
        if lease is None:
            return False
        return at - self.since >= lease.length / 1000 or now > lease.until + leases.MAX_SKEW

    def release(self, fence: int, *, waiting: bool) -> Step:
        """Return the change that ends the hold under `fence`."""
        return partial(leases.release, holder=(self.name, fence), waiting=waiting, turn=self.turn)

    def renew(self, fence: int, length: float) -> Step:
        """Return the change that extends the hold under `fence` by `length` seconds from then."""
        milliseconds = max(round(length * 1000), 1)
        return partial(leases.renew, holder=(self.name, fence), length=milliseconds)

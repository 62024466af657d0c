"""One save in flight per session: the merge loop.

Each session with commits on their way has a *lane*. What arrives while a save is on the wire waits
and leaves in the next one, merged in order of arrival, each commit with its own result. Without it
the writers of one process compete with each other, and most saves need many tries.

The save of a batch is repeated until its outcome is known. While it is not, the batch is closed and
the identical bytes are sent again, so that the record's nonces tell whether they were applied.

Whoever finds no lane leads the new one, in its own task, until its own commit has its result: a task
made for it would cost more than the merge. What is left then, or when the leader is cancelled, goes
on in a task of the manager's; a save that was on the wire is sent again, which the nonces make safe.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from asgi_session._data import lease
from asgi_session._data import record as records
from asgi_session._data.expiry import expires_at
from asgi_session._data.fold import ONE_APPLIED, Kind, Outcome, Verdict, fold, merge
from asgi_session._data.record import NOBODY, Applied, Record
from asgi_session._engine.save_request import (
    NOT_USED,
    UNCONFIRMED,
    Backoff,
    Base,
    Pending,
    Settled,
    outcome_unknown,
    shutting_down,
)
from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, Conflict, Saved, SaveResult, Stored, WakesUp

if TYPE_CHECKING:
    from asgi_session._engine.manager import SessionManager


_GIVES_UP: Final = 0.3
"""Seconds before its deadline at which a store may give up, when its next try would come after it."""
_AT_ONCE: Final = 10
"""Conflicts that a change of the lock meets without a pause."""
_GIVES_WAY: Final = 0.002
"""Seconds by which the longest pause after a conflict grows with each try: what some saves take."""
_LONGEST_WAY: Final = 0.01
_LARGEST_BATCH: Final = 100
"""Commits that leave in one save: all of them are folded without a pause."""
_NOBODY: Final[list[str]] = []  # shared: nobody changes it
_NO_QUEUE: Final[deque[Pending]] = deque()  # shared: nobody changes it
# Names of their own, since looking a member up on its enum takes 0.1 µs on Python 3.11.
_OVERTAKEN: Final = Verdict.OVERTAKEN


class _Lane:
    """The commits of one session, and the version of its record that is on the wire.

    Attributes:
        batch: the commits that leave together, or have left.
        queue: those that came since; those that have a result by now are passed over.
        known: the version that the store is known to have; None if that is not known.
        tries: how many versions of this batch were sent.
        data: of the version on the wire; empty when none is.
        base, record, verdicts, expires_at, wake, wake_own: what that was made of, what it is, what became
            of each commit of the batch, its expiry, the processes to wake up when it is saved, and whether
            this one is among them.
        reply_lost: whether that version may have been saved without our knowing.
        perhaps_deleted: whether the record may have been deleted in its stead without our knowing.
    """

    __slots__ = (
        "backoff", "base", "batch", "data", "expires_at", "key", "known", "perhaps_deleted", "queue",
        "record", "reply_lost", "tries", "verdicts", "wake", "wake_own",
    )  # fmt: skip

    base: Base
    record: Record
    verdicts: list[Outcome]
    expires_at: int
    wake: list[str]
    wake_own: bool

    # Most lanes have one commit, and live for one save.
    def __init__(self, key: str, pending: Pending) -> None:
        self.key = key
        self.queue: deque[Pending] = _NO_QUEUE
        self.known: Base | None = pending.known
        self.start((pending,))

    def start(self, batch: tuple[Pending, ...]) -> None:
        self.batch = batch
        self.tries = 0
        self.data = b""
        self.reply_lost = False
        self.perhaps_deleted = False
        self.backoff: Backoff | None = None

    def go_on_from(self, newest: Base) -> None:
        """Have the batch, and who queues, go on from what the store has answered.

        Or once from a later version that one who queues has seen: a wake-up may have overtaken that
        answer, and who has been granted the lock since then would be refused on it.
        """
        joining = self.take(_LARGEST_BATCH - len(self.batch))
        self.known = _newest(joining, newest)
        self.batch += joining
        self.perhaps_deleted = False  # it is another version that is there

    def take(self, most: int) -> tuple[Pending, ...]:
        """Take those who are to leave out of the queue."""
        taken: list[Pending] = []
        while self.queue and len(taken) < most:
            pending = self.queue.popleft()
            if not pending.done:
                if pending.timer is not None:  # from now on the store watches its deadline
                    pending.timer.cancel()
                taken.append(pending)
        return tuple(taken)

    async def give_way(self) -> None:
        """Pause after a conflict, so that the writers of several processes do not all meet again.

        After every second one: the version that a conflict brings is old again after a pause, so who
        paused after each would never be the first to save on it. Who is to wait in line for the lock
        is in no such crowd, and would lose its place.
        """
        if self.tries % 2 == 0 and (self.tries > _AT_ONCE or not self.batch[0].step):
            longest = min(_GIVES_WAY * self.tries, _LONGEST_WAY)
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  (jitter, no secret)

    async def pause(self) -> None:
        if self.backoff is None:
            self.backoff = Backoff()
        await self.backoff.pause(min(pending.deadline for pending in self.batch))


class Lanes:
    """The lanes of one event loop."""

    def __init__(
        self,
        policy: SessionManager,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        process: Callable[[], bytes],
        told: Callable[[str, Base], None],
    ) -> None:
        self._policy = policy
        self._spawn = spawn
        self._process = process
        self._waking: WakesUp | None = policy.store if isinstance(policy.store, WakesUp) else None
        self._told = told
        self._lanes: dict[str, _Lane] = {}

    def save(self, key: str, pending: Pending) -> Coroutine[Any, Any, None]:
        """Have a commit saved to the record `key`; await its result, or the error with which it failed.

        Being cancelled there does not touch the commit: it has its result by its deadline.
        """
        lane = self._lanes.get(key)
        if lane is not None:
            self._join(lane, pending)
            return pending.result()
        lane = self._lanes[key] = _Lane(key, pending)
        return self._save_batch(lane, pending)

    def unfinished(self) -> Iterator[Pending]:
        """Give the commits that have no result yet."""
        for lane in list(self._lanes.values()):
            yield from [pending for pending in [*lane.batch, *lane.queue] if not pending.done]

    def _join(self, lane: _Lane, pending: Pending) -> None:
        if lane.queue is _NO_QUEUE:
            lane.queue = deque()
        lane.queue.append(pending)
        # What is on the wire is watched by the store. What waits behind it needs a watch of its own.
        pending.timer = asyncio.get_running_loop().call_later(
            max(pending.deadline - time.monotonic(), 0), self._expire_queued, pending
        )

    def _expire_queued(self, pending: Pending) -> None:
        message = "the saves of this session ahead of this one took longer than the deadline"
        pending.results.fail(pending, StoreUnavailable(message, executed=False))

    async def _run(self, lane: _Lane) -> None:
        """Save what the lane holds until nothing is left."""
        try:
            while lane.batch or lane.queue:
                if not lane.batch:
                    lane.start(lane.take(_LARGEST_BATCH))
                await self._save_batch(lane)
                if lane.queue:
                    await asyncio.sleep(0)  # others' turn: a store in memory does not wait for anything
        finally:
            # Something is left only if this task was cancelled: the loop is closing.
            self._abandon(lane)

    def _abandon(self, lane: _Lane) -> None:
        del self._lanes[lane.key]
        self._fail([*lane.batch, *lane.queue], shutting_down())

    async def _save_batch(self, lane: _Lane, leader: Pending | None = None) -> None:
        """Save the batch, and what joins it after a conflict, until each commit has its result.

        With a `leader` until that one has its own, and then the rest is left to a task. It can be
        called again, also after it was cancelled, and goes on where it was.
        """
        try:
            try:
                while lane.batch and not (leader is not None and leader.done):
                    if not lane.data:
                        self._begin(lane)
                        if lane.batch and not lane.data:
                            await self._look(lane)
                        continue
                    batch = lane.batch
                    deadline = batch[0].deadline if len(batch) == 1 else min(one.deadline for one in batch)
                    try:
                        answer = await (
                            self._wake(lane, deadline)
                            if lane.wake
                            else self._policy.store.save(
                                lane.key, lane.data, lane.expires_at, expect=lane.base.tag, deadline=deadline
                            )
                        )
                    except asyncio.CancelledError:
                        lane.reply_lost = True
                        raise
                    except StoreUnavailable as error:
                        if error.full and _ends(lane):
                            await self._end_by_deleting(lane, error, deadline)
                        else:
                            await self._unanswered(lane, error, deadline)
                    else:
                        self._answered(lane, answer)
                        if lane.batch:
                            await lane.give_way()
                            self._expire(lane, "every save met a newer version of the session", False)
            except Exception as error:  # SessionCorrupt, or whatever a foreign store raises
                lane.known = None
                self._fail(lane.batch, error)
                lane.start(())
        except asyncio.CancelledError:
            if leader is not None:
                self._spawn(self._run(lane))
            raise
        except BaseException:
            if leader is not None:  # its coroutine was closed, so its event loop is gone; or a bug of ours
                self._abandon(lane)
            raise
        if leader is not None:
            if lane.batch or lane.queue:
                self._spawn(self._run(lane))
            else:
                del self._lanes[lane.key]
            if not leader.done:  # it goes on as a new session
                await leader.wait()
            if leader.error is not None:
                raise leader.error

    def _begin(self, lane: _Lane) -> None:
        """Fold the batch into the next version; what cannot be applied leaves the batch."""
        policy, batch = self._policy, lane.batch
        base = lane.known
        if base is None and len(batch) == 1:
            base = batch[0].base
        elif base is None or lane.tries == 0:
            # After a conflict it must be the store's, even if somebody has seen a later one: a failover
            # may have lost that.
            base = _newest(batch, base)
        now = policy.clock()
        folded = fold(base.record, batch, policy.folding, now)
        record, lane.data, lane.verdicts = folded.record, folded.data, folded.outcomes
        lane.base, lane.record, lane.reply_lost = base, record, False
        if lane.verdicts is not ONE_APPLIED:
            self._leave_out(lane)
            batch = lane.batch
        lane.wake, lane.wake_own = _NOBODY, False
        if base.record.parts:
            told = lease.to_wake(base.record, record)
            lane.wake_own = self._process() in told
            if self._waking is not None:
                lane.wake = [process.hex() for process in told if process != self._process()]
        idle = record.idle
        use = min([pending.use for pending in batch]) if batch and batch[0].use else 0
        if use == UNCONFIRMED:
            idle = min(idle, policy.unconfirmed)
        lane.expires_at = expires_at(now, idle, record.deadline)
        if use == NOT_USED:
            lane.expires_at = min(base.expires_at, record.deadline)
        lane.tries += 1

    def _leave_out(self, lane: _Lane) -> None:
        """Settle the commits that the fold left out, and take them out of the batch."""
        left: list[tuple[Pending, Outcome]] = []
        for pending, outcome in zip(lane.batch, lane.verdicts, strict=True):
            if outcome is _OVERTAKEN:
                pending.results.settle(pending, Settled(_OVERTAKEN, lane.base))
            elif isinstance(outcome, Exception):
                pending.results.fail(pending, outcome)
            else:
                left.append((pending, outcome))
        lane.batch = tuple(pending for pending, _ in left)
        lane.verdicts = [outcome for _, outcome in left]

    def _wake(self, lane: _Lane, deadline: float) -> Coroutine[Any, Any, SaveResult]:
        assert self._waking is not None, "else there is nobody to wake"
        return self._waking.save_and_wake(
            lane.key, lane.data, lane.expires_at, expect=lane.base.tag, wake=lane.wake, deadline=deadline
        )

    async def _look(self, lane: _Lane) -> None:
        """Settle a batch that has nothing to write, if what it looked at was the newest version.

        Else it stays, on that one: whoever decided not to write must have decided on the newest, too.
        """
        deadline = min(pending.deadline for pending in lane.batch)
        try:
            stored = await self._policy.store.load(lane.key, deadline=deadline)
        except StoreUnavailable as error:
            error.executed = False  # nothing was written
            await self._unanswered(lane, error, deadline)
            return
        if stored is None:
            self._answered(lane, GONE)
        elif stored.tag == lane.base.tag:
            batch, lane.batch = lane.batch, ()
            lane.known = Base(lane.base.record, lane.base.tag, stored.expires_at)
            for pending, outcome in zip(batch, lane.verdicts, strict=True):
                assert isinstance(outcome, Verdict), "errors were left out"
                pending.results.settle(pending, Settled(outcome, lane.known, True, lane.tries))
        else:
            lane.go_on_from(self._decoded(lane, stored))

    async def _end_by_deleting(self, lane: _Lane, full: StoreUnavailable, deadline: float) -> None:
        """Remove the record that a batch ends: a store that is full takes no record of the ending.

        Only the version that the batch was made on: a login that was saved meanwhile must not be lost. What
        was to begin in its place cannot be stored: who wanted that is told, and signed out all the same.
        """
        store, tag = self._policy.store, lane.base.tag
        deleting = True
        try:
            if await store.delete(lane.key, expect=tag, deadline=deadline):
                _refuse_new(lane, full)
                self._answered(lane, Saved(tag))
                return
            deleting = False
            stored = await store.load(lane.key, deadline=deadline)
        except asyncio.CancelledError:
            lane.reply_lost = True
            lane.perhaps_deleted = lane.perhaps_deleted or deleting
            raise
        except StoreUnavailable as error:
            lane.perhaps_deleted = lane.perhaps_deleted or (deleting and error.executed is None)
            await self._unanswered(lane, error, deadline)
        else:
            self._answered(lane, GONE if stored is None else Conflict(stored))

    def _decoded(self, lane: _Lane, stored: Stored) -> Base:
        record = self._policy.decode(lane.key, stored.data, lane.batch[0].id)
        return Base(record, stored.tag, stored.expires_at)

    async def _unanswered(self, lane: _Lane, error: StoreUnavailable, deadline: float) -> None:
        """Note that there was no answer: the same is to be sent again, by the commits that have time."""
        if error.executed is False and not lane.reply_lost:
            # The store repeats by itself what certainly did not execute: this is its last word,
            # unless it had no more time. Then those that have go on, without the others.
            had_time = time.monotonic() + _GIVES_UP < deadline
            latest = deadline + _GIVES_UP
            batch, lane.data = lane.batch, b""
            lane.batch = () if had_time else tuple(pending for pending in batch if pending.deadline > latest)
            self._fail([pending for pending in batch if pending not in lane.batch], error)
        else:
            lane.reply_lost = True
            await lane.pause()
            self._expire(lane, str(error), None)

    def _answered(self, lane: _Lane, answer: SaveResult) -> None:
        """Settle the batch as the store answered; after a conflict it stays, on another base."""
        batch, record = lane.batch, lane.record
        lane.data = b""
        if isinstance(answer, Saved):
            saved = Base(record, answer.tag, lane.expires_at)
            if len(batch) == 1 and _same_data(lane.base, batch[0].base):  # nothing of anybody else's in it
                lane.known, lane.batch = saved, ()
                verdict: Any = lane.verdicts[0]  # errors were left out
                batch[0].results.settle(batch[0], Settled(verdict, saved, tries=lane.tries))
                if lane.wake_own:
                    self._told(lane.key, saved)
                return
        elif answer is GONE and lane.perhaps_deleted:
            _refuse_new(lane, StoreUnavailable("the store is full", executed=False, full=True))
            self._answered(lane, Saved(lane.base.tag))
            return
        elif answer is GONE:
            lane.known, lane.batch = None, ()
            for pending in batch:
                pending.results.settle(pending, Settled(None, None, tries=lane.tries))
            return
        else:
            saved = self._decoded(lane, answer.current)
            # Looked at even when no reply was lost here: a store's client may have sent it twice.
            applied = records.was_applied(saved.record, record.version, record.nonce)
            if applied is not Applied.YES:
                if applied is Applied.UNKNOWN and lane.reply_lost:
                    lane.known, lane.batch = saved, ()
                    self._fail(batch, outcome_unknown())
                else:
                    lane.go_on_from(saved)
                return
        lane.known, lane.batch = saved, ()
        for pending, outcome in zip(batch, lane.verdicts, strict=True):
            assert isinstance(outcome, Verdict), "errors were left out"
            if not pending.epoch or _epoch_after(pending, record) == saved.record.epoch:
                pending.results.settle(pending, Settled(outcome, saved, True, lane.tries))
            else:
                own = _without_others(pending)
                pending.results.settle(pending, Settled(outcome, own, tries=lane.tries, left_behind=True))
        if lane.wake_own:
            self._told(lane.key, saved)

    def _fail(self, batch: Sequence[Pending], error: Exception) -> None:
        """Fail each of `batch`, with an error of its own: a traceback belongs to one request."""
        for pending in batch:
            pending.results.fail(pending, _copy(error))

    def _expire(self, lane: _Lane, reason: str, executed: bool | None) -> None:
        """Fail the commits whose deadline has passed, and take them out of the batch."""
        now = time.monotonic()
        late = [pending for pending in lane.batch if pending.deadline <= now]
        if not late:
            return
        if lane.data:
            lane.verdicts = [
                verdict
                for pending, verdict in zip(lane.batch, lane.verdicts, strict=True)
                if pending not in late
            ]
        lane.batch = tuple(pending for pending in lane.batch if pending not in late)
        for pending in late:
            message = f"the session was not saved within the deadline: {reason}"
            pending.results.fail(pending, StoreUnavailable(message, executed=executed))


def _ends(lane: _Lane) -> bool:
    """Tell whether the version on the wire ends the session, though another may begin in its place."""
    return lane.record.digest == NOBODY or any(
        pending.mark is not None and pending.mark.kind is Kind.CLEAR for pending in lane.batch
    )


def _refuse_new(lane: _Lane, full: StoreUnavailable) -> None:
    """Take from a batch whose record was deleted what was to begin in its place."""
    for pending in lane.batch:
        if pending.mark is not None and pending.mark.kind is Kind.CLEAR and pending.changes:
            pending.changes, pending.refused = {}, _copy(full)


def _copy(error: Exception) -> Exception:
    try:
        return copy(error)
    except Exception:  # of a foreign store: one that copy cannot make again
        return error


def _same_data(one: Base, other: Base) -> bool:
    """Whether nothing but the lock has changed between two versions."""
    if one is other:
        return True
    return one.record.epoch == other.record.epoch and one.record.entries == other.record.entries


def _epoch_after(pending: Pending, made: Record) -> bytes:
    """Return the epoch that a commit which was applied on the way to `made` left its record in."""
    mark = pending.mark
    # What came after a commit that raised the epoch was left out: that one made the last epoch.
    keeps = mark is None or mark.kind is Kind.ROTATE_WITH_GRACE
    return pending.epoch if keeps else made.epoch


def _without_others(pending: Pending) -> Base:
    """Return a commit's base with its changes; the tag is past, so that the next commit finds out."""
    base = pending.base
    entries = merge(base.record.entries, pending.changes)
    return Base(replace(base.record, entries=entries), base.tag, base.expires_at)


def _newest(batch: Sequence[Pending], known: Base | None) -> Base:
    newest = known or batch[0].base
    for pending in batch:
        if pending.base.record.version > newest.record.version:
            newest = pending.base
    return newest

"""One save in flight per session: what waits is merged, and leaves together.

Each session with saves on their way has a *queue*. What arrives while a save is on the wire waits and
leaves in the next one, merged in order of arrival, each request with its own result. Without it the
writers of one process compete with each other, and most saves need many tries.

The save of a batch is repeated until its outcome is known. While it is not, the batch is closed and the
identical bytes are sent again, so that the record's nonces tell whether they were applied.

Whoever finds no queue leads the new one, in its own task, until its own request has its result: a task
made for it would cost more than the merge. What is left then, or when the leader is cancelled, goes on in
a task of the manager's; a save that was on the wire is sent again, which the nonces make safe.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

from msgspec.structs import replace

from asgi_session._backoff import Backoff, jittered
from asgi_session._data import record as records
from asgi_session._data.fold import ONE_IN
from asgi_session._data.record import Applied, Version
from asgi_session._engine import batch as batches
from asgi_session._engine.batch import Attempt
from asgi_session._engine.reading import Reader
from asgi_session._engine.save_request import (
    Failed,
    LeftOut,
    SaveRequest,
    outcome_unknown,
    own_copy,
    shutting_down,
)
from asgi_session._engine.tasks import Tasks
from asgi_session._policy import Policy
from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, Conflict, Saved, SaveResult, WakesUp

_GIVES_UP: Final = 0.3
"""Seconds before its deadline at which a store may give up, when its next try would come after it."""
_AT_ONCE: Final = 10
"""Conflicts that a change of the lock meets without a pause."""
_GIVES_WAY: Final = 0.002
"""Seconds by which the longest pause after a conflict grows with each try: what some saves take."""
_LONGEST_WAY: Final = 0.01
_LARGEST_BATCH: Final = 100
"""Requests that leave in one save: all of them are folded without a pause."""
_NO_QUEUE: Final[deque[SaveRequest]] = deque()  # shared: nobody changes it


class SaveQueue:
    """The saves of one session that are on their way.

    Attributes:
        key: of the record in the store.
        batch: the requests that leave together, or have left.
        waiting: those that came since; those that have a result by now are passed over.
        known: the version that the store is known to have; None if that is not known.
        tries: how many versions of this batch were sent.
        made: the version on the wire; None when none is.
        reply_lost: whether that may have been saved without our knowing.
        perhaps_deleted: whether the record may have been deleted in its stead without our knowing.
    """

    __slots__ = (
        "_backoff", "batch", "key", "known", "made", "perhaps_deleted", "reply_lost", "tries", "waiting",
    )  # fmt: skip

    def __init__(self, key: str, first: SaveRequest) -> None:
        self.key = key
        self.waiting: deque[SaveRequest] = _NO_QUEUE
        self.known: Version | None = first.known
        self.start((first,))

    def start(self, batch: tuple[SaveRequest, ...]) -> None:
        """Begin with another batch."""
        self.batch = batch
        self.tries = 0
        self.made: Attempt | None = None
        self.reply_lost = self.perhaps_deleted = False
        self._backoff: Backoff | None = None

    def join(self, request: SaveRequest) -> None:
        """Wait here until what is on the wire has been answered."""
        if self.waiting is _NO_QUEUE:
            self.waiting = deque()
        self.waiting.append(request)
        # What is on the wire is watched by the store. What waits behind it needs a watch of its own.
        request.timer = asyncio.get_running_loop().call_later(
            max(request.deadline - time.monotonic(), 0), _expire, request
        )

    def take(self, most: int) -> tuple[SaveRequest, ...]:
        """Take those who are to leave out of those who wait."""
        taken: list[SaveRequest] = []
        while self.waiting and len(taken) < most:
            request = self.waiting.popleft()
            if request.result is None:
                if request.timer is not None:  # from now on the store watches its deadline
                    request.timer.cancel()
                taken.append(request)
        return tuple(taken)

    def make(self, policy: Policy) -> Attempt:
        """Fold the batch into the next version, on the newest that is known.

        What cannot be applied gets its result, and leaves the batch.
        """
        batch, base = self.batch, self.known
        if base is None and len(batch) == 1:
            base = batch[0].base
        elif base is None or self.tries == 0:
            # After a conflict it must be the store's, even if somebody has seen a later one: a failover
            # may have lost that.
            base = batches.newest(batch, base)
        made = batches.attempt(base, batch, policy)
        if made.outcomes is not ONE_IN:
            taken = [(one, outcome) for one, outcome in zip(batch, made.outcomes, strict=True)]
            for one, outcome in taken:
                if not batches.is_in(outcome):
                    one.answer(batches.refused(outcome, base))
            taken = [(one, outcome) for one, outcome in taken if batches.is_in(outcome)]
            self.batch = tuple(one for one, _ in taken)
            made = replace(made, outcomes=[outcome for _, outcome in taken])
        self.reply_lost = False
        self.tries += 1
        return made

    def go_on_from(self, current: Version) -> None:
        """Have the batch, and who waits, go on from what the store has answered.

        Or once from a later version that one who waits has seen: a wake-up may have overtaken that
        answer, and who has been granted the lock since then would be refused on it.
        """
        joining = self.take(_LARGEST_BATCH - len(self.batch))
        self.known = batches.newest(joining, current)
        self.batch += joining
        self.made = None
        self.perhaps_deleted = False  # it is another version that is there

    def deadline(self) -> float:
        """Return by when the first of the batch must have its result."""
        batch = self.batch
        return batch[0].deadline if len(batch) == 1 else min([one.deadline for one in batch])

    def fail(self, error: Exception) -> None:
        """Fail the batch."""
        batch, self.batch, self.known, self.made = self.batch, (), None, None
        _fail(batch, error)

    def expire(self, reason: str, executed: bool | None) -> None:
        """Fail the requests whose deadline has passed, and take them out of the batch."""
        now = time.monotonic()
        late = [one for one in self.batch if one.deadline <= now]
        if not late:
            return
        if self.made is not None:
            pairs = zip(self.batch, self.made.outcomes, strict=True)
            self.made = replace(self.made, outcomes=[outcome for one, outcome in pairs if one not in late])
        self.batch = tuple(one for one in self.batch if one not in late)
        for one in late:
            message = f"the session was not saved within the deadline: {reason}"
            one.answer(Failed(StoreUnavailable(message, executed=executed)))

    async def give_way(self) -> None:
        """Pause after a conflict, so that the writers of several processes do not all meet again.

        After every second one: the version that a conflict brings is old again after a pause, so who
        paused after each would never be the first to save on it. Who is to wait in line for the lock
        is in no such crowd, and would lose its place.
        """
        if self.tries % 2 == 0 and (self.tries > _AT_ONCE or not self.batch[0].step):
            await asyncio.sleep(jittered(min(_GIVES_WAY * self.tries, _LONGEST_WAY), 0.0))

    async def pause(self) -> None:
        """Pause before the same is sent again."""
        if self._backoff is None:
            self._backoff = Backoff()
        await self._backoff.pause(self.deadline())


class SaveQueues:
    """The queues of one event loop.

    Args:
        policy: the store, and how to fold.
        tasks: of the loop; their name is the one under which it holds locks.
        reader: reads what a conflict brings.

    Attributes:
        told: called with key and version of a save that this loop's own lock queue must learn of.
    """

    __slots__ = ("_policy", "_queues", "_reader", "_tasks", "_wakes", "told")

    def __init__(self, policy: Policy, tasks: Tasks, reader: Reader) -> None:
        self._policy = policy
        self._tasks = tasks
        self._reader = reader
        self.told: Callable[[str, Version], None] | None = None
        self._wakes: WakesUp | None = policy.store if isinstance(policy.store, WakesUp) else None
        self._queues: dict[str, SaveQueue] = {}

    def save(self, key: str, request: SaveRequest) -> Coroutine[Any, Any, None]:
        """Have a request saved to the record `key`; await what became of it, or the error it ended with.

        Being cancelled there does not touch the request: it has its result by its deadline.
        """
        queue = self._queues.get(key)
        if queue is not None:
            queue.join(request)
            return request.outcome()
        queue = self._queues[key] = SaveQueue(key, request)
        return self._lead(queue, request)

    def unfinished(self) -> Iterator[SaveRequest]:
        """Give the requests that are not done yet."""
        for queue in list(self._queues.values()):
            yield from [one for one in [*queue.batch, *queue.waiting] if not one.done]

    async def _lead(self, queue: SaveQueue, leader: SaveRequest) -> None:
        """Save until the leader has its result; the rest is left to a task."""
        try:
            while queue.batch and leader.result is None:
                await self._send(queue)
        except asyncio.CancelledError:
            self._tasks.spawn(self._run(queue))
            raise
        except BaseException:  # its coroutine was closed, so its event loop is gone; or a bug of ours
            self._abandon(queue)
            raise
        if queue.batch or queue.waiting:
            self._tasks.spawn(self._run(queue))
        else:
            del self._queues[queue.key]
        if not leader.done:  # it goes on as a new session
            await leader.wait()
        if leader.error is not None:
            raise leader.error

    async def _run(self, queue: SaveQueue) -> None:
        """Save what the queue holds until nothing is left."""
        try:
            while queue.batch or queue.waiting:
                if not queue.batch:
                    queue.start(queue.take(_LARGEST_BATCH))
                while queue.batch:
                    await self._send(queue)
                if queue.waiting:
                    await asyncio.sleep(0)  # others' turn: a store in memory does not wait for anything
        finally:
            # Something is left only if this task was cancelled: the loop is closing.
            self._abandon(queue)

    def _abandon(self, queue: SaveQueue) -> None:
        del self._queues[queue.key]
        _fail([*queue.batch, *queue.waiting], shutting_down())

    async def _send(self, queue: SaveQueue) -> None:
        """Make one step: fold, send, and settle what was answered.

        It can be called again, also after it was cancelled, and goes on where it was.
        """
        try:
            made = queue.made
            if made is None:
                made = queue.make(self._policy)
                if not queue.batch:
                    return
                if not made.data:
                    await self._look(queue, made)
                    return
                queue.made = made
            try:
                answer = await self._save(queue.key, made, queue.deadline())
            except asyncio.CancelledError:
                queue.reply_lost = True
                raise
            except StoreUnavailable as error:
                if error.full and made.ends:
                    await self._end_by_deleting(queue, made)
                else:
                    await self._unanswered(queue, error)
            else:
                self._answered(queue, made, answer)
                if queue.batch:
                    await queue.give_way()
                    queue.expire("every save met a newer version of the session", False)
        except Exception as error:  # SessionCorrupt, or whatever a foreign store raises
            queue.fail(error)

    def _save(self, key: str, made: Attempt, deadline: float) -> Coroutine[Any, Any, SaveResult]:
        wakes = self._wakes
        if made.told and wakes is not None:
            others = [name.hex() for name in made.told if name != self._tasks.name]
            if others:
                return wakes.save_and_wake(
                    key,
                    made.data,
                    made.expires_at,
                    expect=made.base.stored,
                    wake=others,
                    deadline=deadline,
                )
        return self._policy.store.save(
            key, made.data, made.expires_at, expect=made.base.stored, deadline=deadline
        )

    def _answered(self, queue: SaveQueue, made: Attempt, answer: SaveResult) -> None:
        """Settle the batch as the store answered; after a conflict it stays, on another base."""
        if isinstance(answer, Saved):
            self._applied(queue, made, made.saved(answer.tag))
        elif isinstance(answer, Conflict):
            current = self._reader.version(queue.key, answer.current, queue.batch[0].id)
            # Looked at even when no reply was lost here: a store's client may have sent it twice.
            applied = records.was_applied(current.record, made.record.version, made.record.nonce)
            if applied is Applied.YES:
                self._applied(queue, made, current)
            elif applied is Applied.UNKNOWN and queue.reply_lost:
                queue.fail(outcome_unknown())
                queue.known = current
            else:
                queue.go_on_from(current)
        elif queue.perhaps_deleted:
            self._applied(queue, made, made.saved(made.base.stored.tag))
        else:
            batch, queue.batch, queue.known, queue.made = queue.batch, (), None, None
            for one in batch:
                one.answer(LeftOut("gone"))

    def _applied(self, queue: SaveQueue, made: Attempt, current: Version) -> None:
        """Settle a batch that was applied: the store has `current`."""
        batch, queue.batch, queue.known, queue.made = queue.batch, (), current, None
        for one, result in batches.results(batch, made, current, queue.tries):
            one.answer(result)
        if made.told and self.told is not None and self._tasks.name in made.told:
            self.told(queue.key, current)

    async def _look(self, queue: SaveQueue, made: Attempt) -> None:
        """Settle a batch that has nothing to write, if what it looked at was the newest version.

        Else it stays, on that one: whoever decided not to write must have decided on the newest, too.
        """
        deadline = queue.deadline()
        try:
            stored = await self._policy.store.load(queue.key, deadline=deadline)
        except StoreUnavailable as error:
            error.executed = False  # nothing was written
            await self._unanswered(queue, error)
            return
        if stored is None:
            self._answered(queue, made, GONE)
        elif stored.tag == made.base.stored.tag:
            self._applied(queue, made, made.base.expiring(stored.expires_at))
        else:
            queue.go_on_from(self._reader.version(queue.key, stored, queue.batch[0].id))

    async def _end_by_deleting(self, queue: SaveQueue, made: Attempt) -> None:
        """Remove the record that a batch ends: a store that is full takes no record of the ending.

        Only the version that the batch was made on: a login that was saved meanwhile must not be lost.
        """
        store, expected, deadline = self._policy.store, made.base.stored, queue.deadline()
        deleting = True
        try:
            if await store.delete(queue.key, expect=expected, deadline=deadline):
                self._answered(queue, made, Saved(expected.tag))
                return
            deleting = False
            stored = await store.load(queue.key, deadline=deadline)
        except asyncio.CancelledError:
            queue.reply_lost = True
            queue.perhaps_deleted = queue.perhaps_deleted or deleting
            raise
        except StoreUnavailable as error:
            queue.perhaps_deleted = queue.perhaps_deleted or (deleting and error.executed is None)
            await self._unanswered(queue, error)
        else:
            self._answered(queue, made, GONE if stored is None else Conflict(stored))

    async def _unanswered(self, queue: SaveQueue, error: StoreUnavailable) -> None:
        """Note that there was no answer: the same is to be sent again, by the requests that have time."""
        if error.executed is False and not queue.reply_lost:
            # The store repeats by itself what certainly did not execute: this is its last word,
            # unless it had no more time. Then those that have go on, without the others.
            deadline = queue.deadline()
            had_time = time.monotonic() + _GIVES_UP < deadline
            latest = deadline + _GIVES_UP
            batch, queue.made = queue.batch, None
            queue.batch = () if had_time else tuple(one for one in batch if one.deadline > latest)
            _fail([one for one in batch if one not in queue.batch], error)
        else:
            queue.reply_lost = True
            await queue.pause()
            queue.expire(str(error), None)


def _fail(requests: Sequence[SaveRequest], error: Exception) -> None:
    for one in requests:
        one.answer(Failed(own_copy(error)))


def _expire(request: SaveRequest) -> None:
    message = "the saves of this session ahead of this one took longer than the deadline"
    request.answer(Failed(StoreUnavailable(message, executed=False)))

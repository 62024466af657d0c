"""One save in flight per session: what waits is merged, and leaves together.

Each session with saves on their way has a *queue*. What arrives while a save is on the wire waits and
leaves in the next one, merged in order of arrival, each request with its own result. Without it the
writers of one process compete with each other, and most saves need many tries.

The save of a batch is repeated until its outcome is known. While it is not, the batch is closed and the
identical bytes are sent again, so that the record's nonces tell whether they were applied.

Whoever finds nobody saves alone, in its own task, and if somebody joins meanwhile, leads the queue until
its own request has its result: a task made for it would cost more than the merge. What is left then, or
when the leader is cancelled, goes on in a task of the manager's; a save that was on the wire is sent again,
which the nonces make safe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from asgi_session._data import record as records
from asgi_session._data.fold import ONE_IN
from asgi_session._data.record import Applied, Version
from asgi_session._engine import batch as batches
from asgi_session._engine.batch import Attempt
from asgi_session._engine.reading import Reader
from asgi_session._engine.save_queue import LARGEST_BATCH, SaveQueue, fail_all
from asgi_session._engine.save_request import (
    LeftOut,
    SaveRequest,
    outcome_unknown,
    shutting_down,
)
from asgi_session._engine.tasks import Tasks
from asgi_session._policy import Policy
from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, Conflict, Saved, SaveResult, WakesUp

_GIVES_UP: Final = 0.3
"""Seconds before its deadline at which a store may give up, when its next try would come after it."""


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
        self._queues: dict[str, SaveQueue | SaveRequest] = {}  # a request: alone

    def save(self, key: str, request: SaveRequest) -> Coroutine[Any, Any, None]:
        """Have a request saved to the record `key`; await what became of it, or the error it ended with.

        Being cancelled there does not touch the request: it has its result by its deadline.
        """
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = request
            return self._save_alone(key, request)
        if isinstance(queue, SaveRequest):  # alone until now
            queue = self._queues[key] = SaveQueue(key, queue)
        queue.join(request)
        return request.outcome()

    def unfinished(self) -> Iterator[SaveRequest]:
        """Give the requests that are not done yet."""
        for queue in list(self._queues.values()):
            found = [queue] if isinstance(queue, SaveRequest) else [*queue.batch, *queue.waiting]
            yield from [one for one in found if not one.done]

    async def _save_alone(self, key: str, request: SaveRequest) -> None:
        """Save a request that has met nobody, which is nearly every one: without a queue.

        What it holds while it is suspended is what the garbage collector has to walk.
        """
        made: Attempt | None = None
        outcome: SaveResult | Exception | None = None
        try:
            known = request.known
            base = request.base if known is None else batches.newest((request,), known)
            made = batches.attempt(base, (request,), self._policy)
            if made.outcomes is ONE_IN and made.data:
                outcome = await (
                    self._save(key, made, request.deadline)
                    if made.told
                    else self._policy.store.save(
                        key, made.data, made.expires_at, expect=base.stored, deadline=request.deadline
                    )
                )
        except asyncio.CancelledError:
            queue = self._queue_of(key, request)
            queue.made, queue.tries, queue.reply_lost = made, 1, True
            self._tasks.spawn(self._run(queue))
            raise
        except Exception as error:
            outcome = error
        except BaseException:  # its coroutine was closed, so its event loop is gone
            self._abandon(self._queue_of(key, request))
            raise
        if made is None or not isinstance(outcome, Saved) or self._queues[key] is not request:
            await self._lead(self._queue_of(key, request), request, made, outcome)
            return
        del self._queues[key]
        version = made.saved(outcome.tag)
        request.answer(batches.result(request, made, version, 1))
        if made.told:
            self._tell(key, made, version)
        if not request.done:  # it goes on as a new session
            await request.wait()
        if request.error is not None:
            raise request.error

    def _queue_of(self, key: str, first: SaveRequest) -> SaveQueue:
        """Return the queue of a session whose first request was alone until now."""
        queue = self._queues[key]
        if isinstance(queue, SaveRequest):
            queue = self._queues[key] = SaveQueue(key, first)
        return queue

    async def _lead(
        self,
        queue: SaveQueue,
        leader: SaveRequest,
        made: Attempt | None,
        outcome: SaveResult | Exception | None,
    ) -> None:
        """Go on from what became of a request that was alone, until it has its result.

        The rest is left to a task.

        Args:
            queue: of its session.
            leader: the request.
            made: what it was folded into.
            outcome: of its save; None: it was not sent.
        """
        try:
            await self._go_on_from(queue, made, outcome)
            while queue.batch and leader.result is None:
                await self._step(queue)
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

    async def _go_on_from(
        self, queue: SaveQueue, made: Attempt | None, outcome: SaveResult | Exception | None
    ) -> None:
        try:
            if made is not None and outcome is None:
                await self._send(queue, queue.take_up(made))
            elif made is not None and outcome is not None:
                queue.made, queue.tries = made, 1
                await self._settle(queue, made, outcome)
            elif isinstance(outcome, Exception):  # it could not even be folded
                queue.fail(outcome)
        except Exception as error:  # SessionCorrupt
            queue.fail(error)

    async def _run(self, queue: SaveQueue) -> None:
        """Save what the queue holds until nothing is left."""
        try:
            while queue.batch or queue.waiting:
                if not queue.batch:
                    queue.start(queue.take(LARGEST_BATCH))
                while queue.batch:
                    await self._step(queue)
                if queue.waiting:
                    await asyncio.sleep(0)  # others' turn: a store in memory does not wait for anything
        finally:
            # Something is left only if this task was cancelled: the loop is closing.
            self._abandon(queue)

    def _abandon(self, queue: SaveQueue) -> None:
        del self._queues[queue.key]
        fail_all([*queue.batch, *queue.waiting], shutting_down())

    async def _step(self, queue: SaveQueue) -> None:
        """Make one step: fold, send, and settle what was answered.

        It can be called again, also after it was cancelled, and goes on where it was.
        """
        try:
            await self._send(queue, queue.made or queue.make(self._policy))
        except Exception as error:  # SessionCorrupt
            queue.fail(error)

    async def _send(self, queue: SaveQueue, made: Attempt) -> None:
        """Send what the batch was folded into, and settle what was answered."""
        if not queue.batch:
            return
        if not made.data:
            await self._look(queue, made)
            return
        queue.made = made
        outcome: SaveResult | Exception
        try:
            outcome = await self._save(queue.key, made, queue.deadline())
        except asyncio.CancelledError:
            queue.reply_lost = True
            raise
        except Exception as error:
            outcome = error
        await self._settle(queue, made, outcome)

    async def _settle(self, queue: SaveQueue, made: Attempt, outcome: SaveResult | Exception) -> None:
        """Settle the batch as far as the outcome of its save allows."""
        if isinstance(outcome, StoreUnavailable):
            if outcome.full and made.ends:
                await self._end_by_deleting(queue, made)
            else:
                await self._unanswered(queue, outcome)
        elif isinstance(outcome, Exception):  # whatever a foreign store raises
            queue.fail(outcome)
        else:
            self._answered(queue, made, outcome)
            if queue.batch:
                await queue.give_way()
                queue.expire("every save met a newer version of the session", False)

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
        if made.told:
            self._tell(queue.key, made, current)

    def _tell(self, key: str, made: Attempt, current: Version) -> None:
        """Tell this loop's own lock queue of a version that its process must learn of."""
        if self.told is not None and self._tasks.name in made.told:
            self.told(key, current)

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
            fail_all([one for one in batch if one not in queue.batch], error)
        else:
            queue.reply_lost = True
            await queue.pause()
            queue.expire(str(error), None)

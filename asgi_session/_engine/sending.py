"""Sending what a batch was folded into, and what each answer means, the missing one included."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from asgi_session._data import record as records
from asgi_session._data.record import Applied, Version
from asgi_session._engine import batch as batches
from asgi_session._engine.batch import Attempt
from asgi_session._engine.reading import Reader
from asgi_session._engine.save_queue import SaveQueue, fail_all
from asgi_session._engine.save_request import LeftOut, outcome_unknown
from asgi_session._engine.tasks import Tasks
from asgi_session._policy import Policy
from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, Conflict, Saved, SaveResult, WakesUp

_GIVES_UP: Final = 0.3
"""Seconds before its deadline at which a store may give up, when its next try would come after it."""


class Sender:
    """Sends the batches of one event loop.

    Args:
        policy: the store.
        tasks: of the loop; their name is the one under which it holds locks.
        reader: reads what a conflict brings.

    Attributes:
        told: called with key and version of a save that this loop's own lock queue must learn of.
    """

    __slots__ = ("_policy", "_reader", "_tasks", "_wakes", "told")

    def __init__(self, policy: Policy, tasks: Tasks, reader: Reader) -> None:
        self._policy = policy
        self._tasks = tasks
        self._reader = reader
        self._wakes: WakesUp | None = policy.store if isinstance(policy.store, WakesUp) else None
        self.told: Callable[[str, Version], None] | None = None

    async def send(self, queue: SaveQueue, made: Attempt) -> None:
        """Send what the batch was folded into, and settle what was answered."""
        if not queue.batch:
            return
        if not made.data:
            await self._look(queue, made)
            return
        queue.made = made
        outcome: SaveResult | Exception
        try:
            outcome = await self.save(queue.key, made, queue.deadline())
        except asyncio.CancelledError:
            queue.reply_lost = True
            raise
        except Exception as error:
            outcome = error
        await self.judge(queue, made, outcome)

    async def judge(self, queue: SaveQueue, made: Attempt, outcome: SaveResult | Exception) -> None:
        """Do what the outcome of a save calls for."""
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

    def save(self, key: str, made: Attempt, deadline: float) -> Coroutine[Any, Any, SaveResult]:
        """Send an attempt; with those that it wakes up, where the store can."""
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
            self.tell(queue.key, made, current)

    def tell(self, key: str, made: Attempt, current: Version) -> None:
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

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
from collections.abc import Coroutine, Iterator
from typing import Any

from asgi_session._data.fold import ONE_IN
from asgi_session._engine import batch as batches
from asgi_session._engine.batch import Attempt
from asgi_session._engine.save_queue import LARGEST_BATCH, SaveQueue, fail_all
from asgi_session._engine.save_request import (
    SaveRequest,
    shutting_down,
)
from asgi_session._engine.sending import Sender
from asgi_session._engine.tasks import Tasks
from asgi_session._policy import Policy
from asgi_session.store import Saved, SaveResult


class SaveQueues:
    """The queues of one event loop.

    Args:
        policy: the store, and how to fold.
        tasks: of the loop.
        sender: sends what is folded.
    """

    __slots__ = ("_policy", "_queues", "_sender", "_tasks")

    def __init__(self, policy: Policy, tasks: Tasks, sender: Sender) -> None:
        self._policy = policy
        self._tasks = tasks
        self._sender = sender
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
            made = batches.attempt(base, (request,), self._policy, key)
            if made.outcomes is ONE_IN and made.data:
                outcome = await (
                    self._sender.save(key, made, request.deadline)
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
            self._sender.tell(key, made, version)
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
                await self._sender.send(queue, queue.take_up(made))
            elif made is not None and outcome is not None:
                queue.made, queue.tries = made, 1
                await self._sender.judge(queue, made, outcome)
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
            await self._sender.send(queue, queue.made or queue.make(self._policy))
        except Exception as error:  # SessionCorrupt
            queue.fail(error)

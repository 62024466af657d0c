"""The lock queues of one event loop, and the ear with which they hear that a record may have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from asgi_session._data.record import Version
from asgi_session._engine.hold import Hold
from asgi_session._engine.lock_hints import Hints
from asgi_session._engine.lock_queue import LONGEST_POLL, LockQueue
from asgi_session._engine.lock_record import LockParts, LockRecord
from asgi_session._engine.reading import Reader
from asgi_session._engine.saving import SaveQueues
from asgi_session._engine.tasks import Tasks
from asgi_session._policy import Policy
from asgi_session.errors import StoreUnavailable
from asgi_session.store import WakesUp

logger: Final = logging.getLogger("asgi_session")

_LISTEN_AGAIN: Final = 30.0


class LockQueues:
    """Who waits for which lock in one event loop.

    Attributes:
        hints: the loads that wake-ups cause.
    """

    def __init__(self, policy: Policy, tasks: Tasks, reader: Reader, saves: SaveQueues) -> None:
        self.hints = Hints(self._check)
        self._policy = policy
        self._tasks = tasks
        self._parts = LockParts(policy, tasks, reader, saves, self.listens, self._hint, self._forget)
        self._queues: dict[str, LockQueue] = {}  # by key
        self._stop: Callable[[], None] | None = None
        self._starting = False
        self._not_before = 0.0

    def queue(self, session_id: str, latest: Version) -> LockQueue:
        """Return the queue of a session; it is closed when nobody is in it.

        One that is opened begins with `latest`, a version that the session has.
        """
        key = self._policy.tokens.key(session_id)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._open(key, session_id)
            queue.believe_in(latest)
        queue.id = session_id
        return queue

    def _open(self, key: str, session_id: str | None) -> LockQueue:
        queue = self._queues[key] = LockQueue(self._parts, key, session_id)
        return queue

    def _hint(self, key: str) -> bool:
        return self.hints.take(key, needed=True)

    def _forget(self, queue: LockRecord) -> None:
        if self._queues.get(queue.key) is queue:
            del self._queues[queue.key]

    def adopt(self, hold: Hold, session_id: str, version: Version) -> None:
        """Hold the lock of a session that has just been created with it taken."""
        queue = self.queue(session_id, version)
        if hold.session._hold is not hold:  # the block is over
            queue.go_on()
            return
        hold.queue, hold.fence = queue, version.record.version
        queue.adopt(hold)

    def told(self, key: str, saved: Version) -> None:
        """Take notice of a version that another request of this process has saved."""
        queue = self._queues.get(key)
        if queue is not None:
            queue.learn(saved)

    def look_again(self, key: str) -> None:
        """Have the queue of a session, if there is one, look at the record."""
        queue = self._queues.get(key)
        if queue is not None:
            queue.look_again()

    # ---------------------------------------------------------------- the ear

    def listens(self) -> bool:
        """Whether wake-ups are heard; makes sure that they will be, where that is possible."""
        if self._stop is not None:
            return True
        if not self._starting and monotonic() >= self._not_before:
            self._starting = True
            if isinstance(self._policy.store, WakesUp):
                self._tasks.spawn(self._listen(self._policy.store))
            else:
                logger.info(
                    "%s has no wake-ups, so waiting for a session's lock polls up to %d times a second",
                    type(self._policy.store).__name__,
                    1 / LONGEST_POLL,
                )
        return False

    async def _listen(self, store: WakesUp) -> None:
        deadline = monotonic() + self._policy.deadline
        try:
            self._stop = await store.listen(self._tasks.name.hex(), self._heard, deadline=deadline)
        except StoreUnavailable as error:
            logger.warning("wake-ups for locks cannot be received, so locks are polled: %s", error)
            self._not_before = monotonic() + _LISTEN_AGAIN
            self._starting = False
        else:
            self._heard(None)  # what was published before

    def _heard(self, key: str | None) -> None:
        for one in list(self._queues) if key is None else (key,):
            self.hints.take(one, needed=one in self._queues)

    async def _check(self, key: str) -> bool:
        # Without a queue nobody is here any more: one that was granted the lock passes it on.
        queue = self._queues.get(key) or self._open(key, None)
        return await queue.check()

    def close(self) -> None:
        """Listen no longer."""
        self.hints.close()
        if self._stop is not None:
            self._stop()
            self._stop = None
        self._starting = False

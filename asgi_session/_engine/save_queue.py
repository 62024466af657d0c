"""One session's saves that are on their way: what leaves together, and what waits."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from asgi_session._backoff import Backoff, jittered
from asgi_session._data.fold import ONE_IN, Outcome
from asgi_session._data.record import Version
from asgi_session._engine import batch as batches
from asgi_session._engine.batch import Attempt
from asgi_session._engine.save_request import Failed, SaveRequest, own_copy
from asgi_session._policy import Policy
from asgi_session.errors import StoreUnavailable

_AT_ONCE: Final = 10
"""Conflicts that a change of the lock meets without a pause."""
_GIVES_WAY: Final = 0.002
"""Seconds by which the longest pause after a conflict grows with each try: what some saves take."""
_LONGEST_WAY: Final = 0.01
LARGEST_BATCH: Final = 100
"""Requests that leave in one save: all of them are folded without a pause."""


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
        self.waiting: deque[SaveRequest] = deque()
        self.known: Version | None = first.known
        self.start((first,))

    def start(self, batch: tuple[SaveRequest, ...]) -> None:
        """Begin with another batch."""
        self.batch: tuple[SaveRequest, ...] = batch
        self.tries = 0
        self.made: Attempt | None = None
        self.reply_lost = self.perhaps_deleted = False
        self._backoff: Backoff | None = None

    def join(self, request: SaveRequest) -> None:
        """Wait here until what is on the wire has been answered."""
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
        """Fold the batch into the next version, on the newest that is known; see `take_up`."""
        batch, base = self.batch, self.known
        if base is None and len(batch) == 1:
            base = batch[0].base
        elif base is None or self.tries == 0:
            # After a conflict it must be the store's, even if somebody has seen a later one: a failover
            # may have lost that.
            base = batches.newest(batch, base)
        return self.take_up(batches.attempt(base, batch, policy, self.key))

    def take_up(self, made: Attempt) -> Attempt:
        """Go on with what the batch was folded into; what is not part of that gets its result, and leaves."""
        if made.outcomes is not ONE_IN:
            taken: list[tuple[SaveRequest, Outcome]] = []
            for one, outcome in zip(self.batch, made.outcomes, strict=True):
                if batches.is_in(outcome):
                    taken.append((one, outcome))
                else:
                    one.answer(batches.refused(outcome, made.base))
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
        joining = self.take(LARGEST_BATCH - len(self.batch))
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
        batch = self.batch
        self.batch, self.known, self.made = (), None, None
        fail_all(batch, error)

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


def fail_all(requests: Sequence[SaveRequest], error: Exception) -> None:
    """Fail each with an error of its own: a traceback belongs to one request."""
    for one in requests:
        one.answer(Failed(own_copy(error)))


def _expire(request: SaveRequest) -> None:
    message = "the saves of this session ahead of this one took longer than the deadline"
    request.answer(Failed(StoreUnavailable(message, executed=False)))

"""One save in flight per session: the merge loop.

Each session with commits on their way has a *lane*. What arrives while a save is on the wire waits
and leaves in the next one, merged in order of arrival, each commit with its own result. Without it
the writers of one process compete with each other, and most saves need many tries.

The save of a batch is repeated until its outcome is known. While it is not, the batch is closed and
the identical bytes are sent again, so that the record's nonce tells whether they were applied.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from asgi_session import changes as merging
from asgi_session import record as records
from asgi_session.changes import Changes, Fold, Intent, Mark, Verdict
from asgi_session.errors import SessionConflict, SessionTooLarge, StoreUnavailable
from asgi_session.expiry import expires_at
from asgi_session.record import Applied, Record
from asgi_session.store import Gone, Saved, SaveResult
from asgi_session.token import Token

if TYPE_CHECKING:
    from asgi_session.manager import SessionManager
    from asgi_session.session import Session


class Base(NamedTuple):
    """A version of a record as the store has it."""

    record: Record
    tag: bytes
    expires_at: int


class Pending:
    """One commit on its way, from the moment its changes were taken until its result is known.

    Attributes:
        session: whose commit it is.
        changes: what it changes, encoded.
        mark: what it carries out, besides.
        era: of the session when the changes were taken.
        token: the new credential, if the commit hands one out.
        deadline: by when it must have a result, as `time.monotonic`.
        base: the version that the session was loaded from or last committed to.
        intent: the commit as the merge sees it. `base` and `intent` are set for an existing record.
        timer: fails it at its deadline while it waits in a queue.
        dropped: set when nothing was written because the session is gone or has moved on.
        error: set when it failed.
    """

    __slots__ = (
        "_waiters", "base", "changes", "deadline", "done", "dropped", "era", "error", "intent", "mark",
        "session", "timer", "token",
    )  # fmt: skip

    base: Base
    intent: Intent

    def __init__(
        self, session: Session, changes: Changes, mark: Mark | None, era: int, deadline: float
    ) -> None:
        self.session = session
        self.changes = changes
        self.mark = mark
        self.era = era
        self.deadline = deadline
        self.token: Token | None = None
        self.dropped = False
        self.error: Exception | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.done = False
        self._waiters: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait until it has a result. Being cancelled here does not touch the commit."""
        if not self.done:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def finish(self, error: Exception | None = None) -> None:
        """Give it its result and wake who waits."""
        if self.done:
            return
        self.done, self.error = True, error
        if self.timer is not None:
            self.timer.cancel()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Settled(NamedTuple):
    """What became of a commit that reached the store.

    Attributes:
        verdict: None when the record is gone.
        base: what the store now has, as far as known.
        merged: whether `base` holds more than this commit's own base and changes.
        tries: how many saves were sent.
    """

    verdict: Verdict | None
    base: Base | None
    merged: bool = False
    tries: int = 1


class Settles(Protocol):
    """Takes the results of commits back to their sessions."""

    def settle(self, pending: Pending, settled: Settled) -> None:
        """Note the result of a commit that reached the store."""
        ...

    def fail(self, pending: Pending, error: Exception) -> None:
        """Note a failure; does nothing for a commit that has its result."""
        ...


class Backoff:
    """Jittered, growing pauses; the first retry comes at once."""

    __slots__ = ("_tries",)

    def __init__(self) -> None:
        self._tries = 0

    async def pause(self, deadline: float) -> None:
        """Pause before the next try, never beyond `deadline` (`time.monotonic`)."""
        self._tries += 1
        if self._tries > 1:
            longest = min(0.2, 0.001 * 2**self._tries, max(deadline - time.monotonic(), 0))
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  (jitter, no secret)


class Lanes:
    """The lanes of one event loop."""

    def __init__(
        self,
        policy: SessionManager,
        results: Settles,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._policy = policy
        self._results = results
        self._spawn = spawn
        self._queues: dict[str, list[Pending]] = {}

    def submit(self, key: str, pending: Pending) -> None:
        """Queue a commit for the record `key`; it is settled or failed by its deadline."""
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = [pending]
            self._spawn(self._run(key))
            return
        queue.append(pending)
        # What is on the wire is watched by the store. What waits behind it needs a watch of its own.
        pending.timer = asyncio.get_running_loop().call_later(
            max(pending.deadline - time.monotonic(), 0), self._expire_queued, key, pending
        )

    def _expire_queued(self, key: str, pending: Pending) -> None:
        queue = self._queues.get(key, [])
        if pending in queue:
            queue.remove(pending)
            message = "the saves of this session ahead of this one took longer than the deadline"
            self._results.fail(pending, StoreUnavailable(message, executed=False))

    async def _run(self, key: str) -> None:
        newest: Base | None = None
        batch: list[Pending] = []
        try:
            while batch := self._queues[key]:
                self._queues[key] = []
                try:
                    newest = await self._save(key, batch, newest)
                except Exception as error:  # SessionCorrupt, or whatever a foreign store raises
                    newest = None
                    for pending in batch:
                        self._results.fail(pending, error)
        finally:
            # Something is left only if this task was cancelled: the loop is closing.
            for pending in batch + self._queues.pop(key):
                self._results.fail(pending, shutting_down())

    async def _save(self, key: str, batch: list[Pending], newest: Base | None) -> Base | None:
        """Save `batch`, and what joins it after a conflict, until each commit has its result.

        `batch` is changed in place: it holds the commits that still wait. Returns the newest version
        known.
        """
        policy, results = self._policy, self._results
        base = _newest(batch, newest)
        backoff = Backoff()
        tries = 0
        while True:
            now = policy.clock()
            fold = merging.fold(
                base.record,
                [pending.intent for pending in batch],
                now=now,
                idle=policy.idle,
                absolute=policy.absolute,
                max_size=policy.max_size,
            )
            expires = expires_at(now, fold.record.idle, fold.record.deadline)
            verdicts = self._leave_out(batch, fold, base)
            if not batch:
                return base
            tries += 1
            answer, reply_lost = await self._send(key, batch, fold.data, base.tag, expires)
            if answer is None:  # every deadline has passed
                return base
            if isinstance(answer, Gone):
                for pending in batch:
                    results.settle(pending, Settled(None, None, tries=tries))
                return None
            if isinstance(answer, Saved):
                saved = Base(fold.record, answer.tag, expires)
            else:
                data, tag, expiry = answer.current
                current = Base(policy.decode(key, data), tag, expiry)
                # Looked at even when no reply was lost here: a store's client may have sent it twice.
                applied = records.was_applied(current.record, fold.record.version, fold.record.nonce)
                if applied is not Applied.YES:
                    if applied is Applied.UNKNOWN and reply_lost:
                        for pending in batch:
                            results.fail(pending, _outcome_unknown())
                        return current
                    base = current
                    batch += self._queues[key]
                    self._queues[key] = []
                    await backoff.pause(min(pending.deadline for pending in batch))
                    self._expire(batch, "every save met a newer version of the session", executed=False)
                    continue
                saved = current
            alone = len(batch) == 1 and base is batch[0].base and saved.record is fold.record
            for pending in batch:
                results.settle(pending, Settled(verdicts[pending], saved, merged=not alone, tries=tries))
            return saved

    async def _send(
        self, key: str, batch: list[Pending], data: bytes, expect: bytes, expires: int
    ) -> tuple[SaveResult | None, bool]:
        """Send one version until its outcome is known; the answer, and whether a reply was lost.

        Commits whose deadline passes are failed and taken out of `batch`; None when none is left.
        """
        reply_lost = False
        backoff = Backoff()
        while True:
            deadline = min(pending.deadline for pending in batch)
            try:
                answer = await self._policy.store.save(key, data, expires, expect=expect, deadline=deadline)
            except StoreUnavailable as error:
                if error.executed is False and not reply_lost:
                    # The store repeats by itself what certainly did not execute: this is its last word.
                    for pending in batch:
                        self._results.fail(pending, error)
                    return None, False
                reply_lost = True
                await backoff.pause(deadline)
                self._expire(batch, str(error), executed=None)
                if not batch:
                    return None, True
            else:
                return answer, reply_lost

    def _leave_out(self, batch: list[Pending], fold: Fold, base: Base) -> dict[Pending, Verdict]:
        """Settle the commits that `fold` left out, and take them out of `batch`; the verdicts of all."""
        verdicts = dict(zip(batch, fold.verdicts, strict=True))
        for pending, verdict in verdicts.items():
            if verdict is Verdict.OVERTAKEN:
                self._results.settle(pending, Settled(verdict, base))
            elif verdict is Verdict.TOO_LARGE:
                self._results.fail(pending, too_large(fold.size, self._policy.max_size))
            else:
                continue
            batch.remove(pending)
        return verdicts

    def _expire(self, batch: list[Pending], reason: str, *, executed: bool | None) -> None:
        """Fail the commits whose deadline has passed, and take them out of `batch`."""
        now = time.monotonic()
        for pending in [pending for pending in batch if pending.deadline <= now]:
            batch.remove(pending)
            message = f"the session was not saved within the deadline: {reason}"
            self._results.fail(pending, StoreUnavailable(message, executed=executed))


def too_large(size: int, max_size: int) -> SessionTooLarge:
    """Return the error for a session that would take `size` bytes."""
    return SessionTooLarge(
        f"the session would take {size} bytes, more than max_size={max_size}; keep large data elsewhere and "
        "its key in the session, or raise max_size",
        size=size,
        max_size=max_size,
    )


def shutting_down() -> StoreUnavailable:
    """Return the error for a commit whose event loop is closing."""
    return StoreUnavailable("the event loop was closed before the session was saved")


def _newest(batch: list[Pending], newest: Base | None) -> Base:
    bases = [pending.base for pending in batch]
    return max(bases if newest is None else [newest, *bases], key=lambda base: base.record.version)


def _outcome_unknown() -> SessionConflict:
    return SessionConflict(
        "the store's reply to a save was lost, and so many other saves followed that it can no longer be "
        "told whether it was applied; load the session again to see",
        outcome_unknown=True,
    )

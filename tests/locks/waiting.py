"""How clients waited: decided by the clock that all processes of a machine share."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import groupby, pairwise
from math import inf

from tests.locks.events import History, Operation
from tests.locks.violations import Limits, Violation


def waiting(history: History, operations: list[Operation], limits: Limits) -> Iterator[Violation]:
    """Check the operations of one session."""
    yield from _answers(history, operations, limits)
    yield from _idle(history, operations, limits)
    yield from _robbed(history, operations, limits)
    yield from _order(operations)
    if not limits.loss:
        yield from _turns(history, operations, limits)


def _answers(history: History, operations: list[Operation], limits: Limits) -> Iterator[Violation]:
    for operation in operations:
        if operation.outcome is None:
            stage = "asking" if operation.granted is None else "being granted the lock"
            yield Violation("hang", f"{operation.id} never ended after {stage}", (operation,))
        elif operation.outcome == "error":
            yield Violation("error", f"{operation.id}: {operation.error}", (operation,))
        answered = operation.answered
        if answered == inf or (operation.granted is None and operation.outcome == "killed"):
            continue
        troubled = _troubled(history, operation.asked, answered, limits)
        limit = operation.wait + (limits.late_in_trouble if troubled else limits.late)
        limit += _stopped(history, operation.process, operation.asked, answered)
        if answered - operation.asked > limit:
            waited = f"{answered - operation.asked:.2f} s instead of at most {operation.wait:.2f} s"
            yield Violation("late", f"{operation.id} waited {waited}", (operation,))


def _troubled(history: History, since: float, until: float, limits: Limits) -> bool:
    """Tell whether anything was done, shortly before or meanwhile, that excuses a delay."""
    return bisect_right(history.trouble, until) > bisect_left(history.trouble, since - limits.recovery)


def _stopped(history: History, process: str, since: float, until: float) -> float:
    """Return how long the process was stopped meanwhile: no answer can come then."""
    return sum(
        max(0.0, min(until, end) - max(since, start))
        for paused, start, end in history.pauses
        if paused == process
    )


def _robbed(history: History, operations: list[Operation], limits: Limits) -> Iterator[Violation]:
    for op in operations:
        if op.outcome == "refused" and op.granted is not None and op.ended is not None:
            held = op.ended - op.granted
            if held < op.max_hold and not _troubled(history, op.granted, op.ended, limits):
                yield Violation("robbed", f"{op.id} lost the lock after {held:.2f} s", (op,))


def remains(history: History) -> Iterator[Violation]:
    """Check that processes which have come to their end have left every lock."""
    for session, found in history.found.items():
        for name in found["lock"]:
            if name in history.names:
                yield Violation("remains", f"{history.names[name]} has ended and is in the lock of {session}")


def idle_times(operations: list[Operation]) -> Iterator[tuple[float, float, Operation, Operation | None]]:
    """Give the times in which one session's lock was free and a client waited all along.

    Each as (from, to, that client, who got the lock then). A killed or stopped holder holds until it
    is killed or goes on: how long its lease outlives it is seen as the lock's being free.
    """
    granted = sorted((op for op in operations if op.granted is not None), key=lambda op: op.granted or 0)
    waiting = sorted(operations, key=lambda op: op.asked)
    free_since = -inf
    for following in [*granted, None]:
        until = inf if following is None else following.answered
        longest, who = (0.0, 0.0), None
        for operation in waiting:
            if operation.asked >= until:
                break
            start, end = max(operation.asked, free_since), min(operation.answered, until)
            if longest[1] - longest[0] < end - start < inf:
                longest, who = (start, end), operation
        if who is not None:
            yield *longest, who, following
        waiting = [op for op in waiting if op.answered > until]
        if following is not None:
            free_since = max(free_since, inf if following.ended is None else following.ended)


def _idle(history: History, operations: list[Operation], limits: Limits) -> Iterator[Violation]:
    for since, until, waiter, following in idle_times(operations):
        troubled = _troubled(history, since, until, limits)
        if until - since > (limits.idle_in_trouble if troubled else limits.idle):
            text = f"the lock was free for {until - since:.2f} s while {waiter.id} waited"
            yield Violation("idle", text, (waiter, *([following] if following else ())))


def _order(operations: list[Operation]) -> Iterator[Violation]:
    """Look at the grants of each process; those who gave up have no place in the order."""
    granted = [op for op in operations if op.granted is not None and op.in_line]
    for process in sorted({op.process for op in granted}):
        own = sorted((op for op in granted if op.process == process), key=lambda op: op.granted or 0)
        arrival = {id(op): number for number, op in enumerate(op for op in granted if op.process == process)}
        for before, after in pairwise(own):
            if arrival[id(before)] > arrival[id(after)]:
                text = f"{before.id} asked after {after.id} and was granted the lock before it"
                yield Violation("order", text, (after, before))


def _turns(history: History, operations: list[Operation], limits: Limits) -> Iterator[Violation]:
    """Count the grants in a row, by fences, that one process got while another one was in the queue.

    Another process is in the queue on account of one of its clients

    * when its last turn is over, if the client had asked before the last grant of that turn: who passes
      the lock on with waiters left enters the queue again in the same save;
    * else from `enqueue` seconds after the client has asked: before that its own save that enters it
      may still be on the way, in a race with the saves of the process whose turn it is

    until the client is granted the lock or gives up. When something was tampered with meanwhile, the
    `enqueue` seconds begin anew. A process has no claim while it is stopped, or killed. A row ends
    where the lock was free for `expiry` seconds: there the turn of somebody who did not hear of it has
    come and expired.
    """
    last_grant: dict[str, float] = {}
    for process, row in _rows(operations, limits):
        if len(row) > limits.turn:
            for waiter in operations:
                if waiter.process == process or waiter.asked > row[-1].answered:
                    continue
                since = _in_queue(history, waiter, last_grant.get(waiter.process, -inf), limits)
                during = [op for op in row if since < op.answered < waiter.answered]
                if len(during) > limits.turn and not _disturbed(history, waiter):
                    text = f"{process} got the lock {len(during)} times in a row while {waiter.id} waited"
                    yield Violation("turns", text, (*during, waiter))
                    break
        last_grant[process] = row[-1].answered


def _in_queue(history: History, waiter: Operation, last_grant: float, limits: Limits) -> float:
    """Return when the waiter's process was in the queue for certain, on account of that waiter."""
    trouble = history.trouble
    tampered = trouble[bisect_right(trouble, waiter.asked) : bisect_right(trouble, waiter.answered)]
    if not tampered and waiter.asked < last_grant:
        return last_grant
    return max([waiter.asked, *tampered]) + limits.enqueue


def _rows(operations: list[Operation], limits: Limits) -> Iterator[tuple[str, list[Operation]]]:
    granted = sorted((op for op in operations if op.granted is not None), key=lambda op: op.fence)
    for process, group in groupby(granted, key=lambda op: op.process):
        row: list[Operation] = []
        for operation in group:
            if row and operation.answered - (row[-1].ended or inf) > limits.expiry:
                yield process, row
                row = []
            row.append(operation)
        yield process, row


def _disturbed(history: History, waiter: Operation) -> bool:
    since, until = waiter.asked, waiter.answered
    stopped = any(p == waiter.process and start < until and end > since for p, start, end in history.pauses)
    return stopped or history.kills.get(waiter.process, inf) <= until

"""How clients waited: decided by the clock that all processes of a machine share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby, pairwise
from math import inf

from tests.locks.events import History, Operation
from tests.locks.violations import Limits, Violation


def waiting(history: History, operations: list[Operation], limits: Limits) -> Iterator[Violation]:
    """Check the operations of one session."""
    yield from _answers(history, operations, limits)
    yield from _idle(history, operations, limits)
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
        limit = operation.wait + limits.late + _stopped(history, operation.process, operation.asked, answered)
        if answered - operation.asked > limit:
            waited = f"{answered - operation.asked:.2f} s instead of at most {operation.wait:.2f} s"
            yield Violation("late", f"{operation.id} waited {waited}", (operation,))


def _stopped(history: History, process: str, since: float, until: float) -> float:
    """Return how long the process was stopped meanwhile: no answer can come then."""
    return sum(
        max(0.0, min(until, end) - max(since, start))
        for paused, start, end in history.pauses
        if paused == process
    )


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
        troubled = any(since - limits.recovery <= at <= until for at in history.trouble)
        if until - since > (limits.idle_in_trouble if troubled else limits.idle):
            text = f"the lock was free for {until - since:.2f} s while {waiter.id} waited"
            yield Violation("idle", text, (waiter, *([following] if following else ())))


def _order(operations: list[Operation]) -> Iterator[Violation]:
    """Look at the grants of each process; those who gave up have no place in the order."""
    granted = [op for op in operations if op.granted is not None]
    for process in sorted({op.process for op in granted}):
        own = sorted((op for op in granted if op.process == process), key=lambda op: op.granted or 0)
        arrival = {id(op): number for number, op in enumerate(op for op in granted if op.process == process)}
        for before, after in pairwise(own):
            if arrival[id(before)] > arrival[id(after)]:
                text = f"{before.id} asked after {after.id} and was granted the lock before it"
                yield Violation("order", text, (after, before))


def _turns(history: History, operations: list[Operation], limits: Limits) -> Iterator[Violation]:
    """Count the grants in a row, by fences, that one process got while another one was in the queue.

    Another process is taken to be in the queue from `enqueue` seconds after one of its clients has
    asked (or, later, somebody's connection was tampered with) until that client is granted the lock
    or gives up. Before that its own save that enters it may still be on the way, in a race with the
    saves of the process whose turn it is. It has no claim while it is stopped, or killed before it
    was granted the lock. A row ends where the lock was free for `expiry` seconds: there the turn of
    somebody who did not hear of it has come and expired.
    """
    for process, run in _rows(operations, limits):
        if len(run) <= limits.turn:
            continue
        for waiter in operations:
            if waiter.process == process or waiter.asked > run[-1].answered:
                continue
            until = waiter.answered
            tampered = history.trouble[
                bisect_right(history.trouble, waiter.asked) : bisect_right(history.trouble, until)
            ]
            since = max([waiter.asked, *tampered]) + limits.enqueue
            during = [op for op in run if since < op.answered < until]
            if len(during) > limits.turn and not _disturbed(history, waiter.process, waiter.asked, until):
                text = f"{process} was granted the lock {len(during)} times in a row while {waiter.id} waited"
                yield Violation("turns", text, (*during, waiter))
                break


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


def _disturbed(history: History, process: str, since: float, until: float) -> bool:
    stopped = any(p == process and start < until and end > since for p, start, end in history.pauses)
    return stopped or history.kills.get(process, inf) <= until

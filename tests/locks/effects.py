"""What holders did: decided on the chain of writes, whatever clocks, leases and processes did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.locks.events import REFUSED, SAVED, UNKNOWN, Event, History, Operation, Write
from tests.locks.violations import Limits, Violation


def effects(
    history: History, session: str, operations: list[Operation], limits: Limits
) -> Iterator[Violation]:
    if session not in history.found:
        yield Violation("torn", f"session {session} is gone")
        return
    writes = {write.id: write for operation in operations for write in operation.writes}
    chain, torn = _chain(history.found[session], writes)
    yield from torn
    if torn:
        return
    yield from _membership(history, list(writes.values()), chain, limits)
    yield from _rising(chain)
    if not limits.loss:
        yield from _count(history.found[session]["value"], list(writes.values()))
        granted = sorted((op for op in operations if op.granted is not None), key=lambda op: op.fence)
        yield from _unique(granted)
        yield from _stale(granted, chain)
        yield from _overlap(granted)


def _chain(found: Event, writes: dict[str, Write]) -> tuple[list[Write], list[Violation]]:
    """Walk back from what is in the store; return the applied writes, first to last."""
    chain: list[Write] = []
    value, last = found["value"], found["last"]
    while last:
        write = writes.get(last)
        if write is None:
            return chain, [Violation("torn", f"value {value} was made by {last}, which nobody wrote")]
        if write.value != value:
            text = f"{last} set the value {write.value}, but stands beside the value {value}"
            return chain, [Violation("torn", text, (write.op,))]
        chain.append(write)
        value, last = value - 1, write.after
    chain.reverse()
    if value:
        first = (chain[0].op,) if chain else ()
        return chain, [Violation("torn", f"the chain begins at {value} instead of 0", first)]
    return chain, []


def _membership(
    history: History, writes: list[Write], chain: list[Write], limits: Limits
) -> Iterator[Violation]:
    applied = {write.id for write in chain}
    by_origin = {write.after: write for write in chain}
    for write in writes:
        if write.state == SAVED and write.id not in applied and not _excused(write, history, limits):
            text = f"{write.id} (value {write.value}) was acknowledged and is not there"
            other = by_origin.get(write.after)
            if other is not None:
                text += f"; {other.id} was applied to the same value"
            yield Violation("lost", text, (write.op, other.op) if other is not None else (write.op,))
        if write.state == REFUSED and write.id in applied:
            yield Violation("applied", f"{write.id} ended as {write.op.outcome!r} and is there", (write.op,))


def _excused(write: Write, history: History, limits: Limits) -> bool:
    """Whether a primary died so soon after the acknowledgement that it may have told nobody."""
    assert write.settled is not None
    return any(0 <= crash - write.settled <= limits.loss for crash in history.crashes)


def _rising(chain: list[Write]) -> Iterator[Violation]:
    for before, after in pairwise(chain):
        if before.op is not after.op and before.op.fence >= after.op.fence:
            text = f"{after.id} under fence {after.op.fence} follows {before.id} under {before.op.fence}"
            yield Violation("fence", text, (before.op, after.op))


def _count(found: int, writes: list[Write]) -> Iterator[Violation]:
    """Arithmetic that does not rely on the chain."""
    states = Counter(write.state for write in writes)
    saved, unknown = states[SAVED], states[UNKNOWN]
    if not saved <= found <= saved + unknown:
        text = f"the value is {found} after {saved} acknowledged writes and {unknown} of unknown outcome"
        yield Violation("count", text)


def _unique(granted: list[Operation]) -> Iterator[Violation]:
    for one, other in pairwise(granted):
        if one.fence == other.fence:
            text = f"fence {one.fence} was given to {one.id} and to {other.id}"
            yield Violation("fence", text, (one, other))


def _stale(granted: list[Operation], chain: list[Write]) -> Iterator[Violation]:
    place = {write.id: number for number, write in enumerate(chain)}
    for operation in granted:
        if operation.last and operation.last not in place:
            text = f"{operation.id} read the value of {operation.last}, which was not applied"
            yield Violation("stale", text, (operation,))
            continue
        number = place[operation.last] if operation.last else -1
        if number >= 0 and chain[number].op.fence >= operation.fence:
            text = f"{operation.id} under fence {operation.fence} read the value of a later holder"
            yield Violation("stale", text, (operation, chain[number].op))
        follower = chain[number + 1] if number + 1 < len(chain) else None
        if follower is not None and follower.op is not operation and follower.op.fence < operation.fence:
            text = (
                f"{operation.id} under fence {operation.fence} did not see {follower.id}, "
                f"written under fence {follower.op.fence}"
            )
            yield Violation("stale", text, (operation, follower.op))


def _overlap(granted: list[Operation]) -> Iterator[Violation]:
    earliest: Operation | None = None
    for operation in reversed(granted):
        assert operation.granted is not None
        kept = operation.outcome == "left" and operation.writes
        if kept and earliest is not None and earliest.granted < operation.leaving:  # type: ignore[operator]
            text = f"{earliest.id} (fence {earliest.fence}) came in before {operation.id} "
            yield Violation("overlap", text + f"(fence {operation.fence}) was done", (operation, earliest))
        if earliest is None or operation.granted < earliest.granted:  # type: ignore[operator]
            earliest = operation


def notes(history: History, limits: Limits) -> Iterator[Violation]:
    for (session, key), notes in history.notes.items():
        held = history.found.get(session, {}).get("notes", {}).get(key)
        allowed: list[str | None] = [None]
        for note in notes:
            lost = limits.loss and any(0 <= crash - note.at <= limits.loss + 5 for crash in history.crashes)
            allowed = [note.value] if note.saved and not lost else [*allowed, note.value]
        if held not in allowed:
            yield Violation("notes", f"{session}[{key!r}] is {held!r}, expected one of {allowed[-3:]}")


def tallies(history: History, limits: Limits) -> Iterator[Violation]:
    """Yield a violation for each tally that its transactions do not account for."""
    for session, (most, least) in history.tallies.items():
        tally = history.found.get(session, {}).get("tally", 0)
        if not (0 if limits.loss else least) <= tally <= most:
            text = f"{session}: the tally is {tally} after {least} transactions that succeeded"
            yield Violation("notes", f"{text} and {most - least} of unknown outcome")


def lost(history: History) -> list[Write]:
    """Return the acknowledged writes that are not there."""
    writes = {write.id: write for op in history.operations.values() for write in op.writes}
    applied = {write.id for found in history.found.values() for write in _chain(found, writes)[0]}
    return [write for write in writes.values() if write.state == SAVED and write.id not in applied]

"""What the lock promises, checked on what happened.

The counter of a session is changed under the lock only, one write of a unique id at a time, and each
write is recorded with the one whose value it had read. What the store holds in the end names its last
write, so all that were ever applied are found by walking back: the *chain*. On it everything is decided
that concerns effects, whatever clocks, leases and processes did:

* ``lost``: every acknowledged write is on the chain (so no two were made out of the same value).
* ``applied``: no write is on it that was refused or discarded, such as that of a holder who had been
  stopped and whose lock had passed on. If nobody took the lock meanwhile, his write is in order; then
  it was acknowledged and is on the chain.
* ``torn``: each write on it is known, and made the value after the one it had read.
* ``count``: the number in the store is that of the acknowledged writes, plus at most that of those
  whose outcome nobody knows.
* ``fence``: fences rise along the chain, and no fence was given out twice.
* ``stale``: every holder, one that changed nothing or lost the lock included, read what the last
  write before its fence had left.
* ``overlap``: nobody was granted the lock before an earlier holder, whose write was acknowledged,
  had come to the end of its block.
* ``notes``: commits and transactions without the lock, beside it, are all there.

And what concerns waiting, by the clock:

* ``hang``: every client that asked was granted the lock, got an error or was killed, and in the end left.
* ``late``: it did not wait longer than it had said.
* ``idle``: the lock was not free while somebody waited, or only for so long (a wake-up that is lost
  makes itself felt as that, since the waiter helps itself later).
* ``order``: within a process the lock was granted in the order of asking.
* ``turns``: see `_turns`.
* ``robbed``: nobody whose process was let alone lost the lock within `max_hold`.
* ``remains``: no process that has come to its end holds the lock or waits for it.
* ``error``: nobody got an error of another kind.

A failover in which the primary dies may lose what had just been acknowledged (``Limits.loss``). What
the store kept must then still be one chain without refused writes and with rising fences, and what is
missing must have been acknowledged shortly before a crash. Fences and versions may be used again for
what was lost, so the rules that compare them off the chain, and the count, are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.locks.effects import effects, lost, notes, tallies
from tests.locks.events import History, Operation
from tests.locks.violations import Limits, Violation
from tests.locks.waiting import remains, waiting


def check(history: History, limits: Limits) -> list[Violation]:
    """Return everything in the history that the lock does not allow."""
    violations = [*notes(history, limits), *tallies(history, limits), *remains(history)]
    for session, operations in _by_session(history.operations.values()).items():
        violations += effects(history, session, operations, limits)
        violations += waiting(history, operations, limits)
    return violations


def _by_session(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(operation.session, []).append(operation)
    return found


def summary(history: History) -> dict[str, int]:
    """Count the grants, the operations by their end, and the writes that a crash took along."""
    counts = Counter(operation.outcome or "hanging" for operation in history.operations.values())
    return {
        "acquisitions": sum(op.granted is not None for op in history.operations.values()),
        **dict(sorted(counts.items())),
        "notes": sum(map(len, history.notes.values())),
        "lost": len(lost(history)),
    }

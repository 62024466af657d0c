"""The lock as a field of the record: who holds it, until when, and which processes wait.

A lock is held by a *process* (strictly: one event loop of one, under a name that it has drawn) under
a *fence*: the version of the record at the grant. Whoever saves under the lock names both, and the
save is refused when the record names others. A holder that was suspended, and whose process has
been granted the lock again meanwhile, has an older fence: it is not the holder.

All that happens to the field is one of the functions below, applied to the newest version of the
record, whichever that is, and saved with compare-and-set. None does any I/O.

Bytes of the part, numbers big-endian: process (8), fence (8), until (6, ms since the Unix epoch),
length (4, ms), then the waiting processes in their order, 8 each.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final, Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from asgi_session._data.record import LOCK, NOBODY, Record
from asgi_session.errors import SessionCorrupt

PROCESS_SIZE: Final = 8
GRANT: Final = 2_000
"""How long a grant lasts until its first renewal, ms: what a waiter that has died costs the others."""
TURNS: Final = 4
"""How many local waiters a process lets in while another process waits."""
MAX_SKEW: Final = 30_000
"""By how much the clocks of two processes may differ, ms, before one ends the other's lease too early."""
MAX_QUEUE: Final = 128

_FIELD: Final = struct.Struct(">8sQHII")

Holder: TypeAlias = tuple[bytes, int]
"""A process and the fence that it was granted."""

Term: TypeAlias = tuple[bytes, int, int, int]
"""Process, fence, end and length: what a renewal, a release or a grant changes.

The end alone would not do: close to the end of `max_hold` each renewal ends when the one before does.
"""


class Lease(msgspec.Struct, frozen=True, gc=False):
    """The field. Without a holder there is none: a lock that is free takes no room.

    Attributes:
        process: who holds it.
        fence: the version of the record at the grant.
        until: when it ends, ms since the Unix epoch, by the clock of whoever wrote it.
        length: how long it lasts from when it was written, ms: clocks differ, durations hardly.
        queue: the processes that wait, first come first.
    """

    process: bytes
    fence: int
    until: int
    length: int
    queue: tuple[bytes, ...] = ()

    @property
    def term(self) -> Term:
        """What a renewal, a release or a grant changes: while it stays the same, nobody was heard of."""
        return self.process, self.fence, self.until, self.length


class Step(Protocol):
    """A change of the field: from what it is to what it shall be, or to None when the lock is free."""

    def __call__(self, lease: Lease | None, version: int, now: int) -> Lease | None:
        """Return the field as `version` of the record is to have it; `now` in ms."""
        ...


def read(record: Record) -> Lease | None:
    """Return the record's lock, None when it is free.

    Raises:
        SessionCorrupt: the part is malformed.
    """
    part = record.parts.get(LOCK)
    return None if part is None else _read(part)


@lru_cache(maxsize=256)  # each save reads the same field several times
def _read(part: bytes) -> Lease:
    queued = len(part) - _FIELD.size
    if queued < 0 or queued % PROCESS_SIZE:
        raise SessionCorrupt("the record cannot be read: its lock is malformed")
    process, fence, high, low, length = _FIELD.unpack_from(part)
    queue = tuple(part[start : start + PROCESS_SIZE] for start in range(_FIELD.size, len(part), PROCESS_SIZE))
    return Lease(process, fence, high << 32 | low, length, queue)


def write(record: Record, lease: Lease | None) -> Record:
    """Return `record` with that lock."""
    parts = {kind: part for kind, part in record.parts.items() if kind != LOCK}
    if lease is not None:
        field = _FIELD.pack(
            lease.process, lease.fence, lease.until >> 32, lease.until & 0xFFFFFFFF, lease.length
        )
        parts[LOCK] = b"".join((field, *lease.queue))
    return replace(record, parts=parts)


def step(record: Record, change: Step, now: int) -> Record:
    """Return `record` with its lock changed; the same object when there is nothing to change."""
    if record.digest == NOBODY:  # it has ended, and so has its lock
        return record
    before = read(record)
    after = change(before, record.version, now)
    return record if after == before else write(record, after)


def held_by(record: Record, holder: Holder) -> bool:
    """Tell whether that is the holder."""
    lease = read(record)
    return lease is not None and (lease.process, lease.fence) == holder


def to_wake(before: Record, after: Record) -> tuple[bytes, ...]:
    """Return the processes that must learn of a save from `before` to `after`.

    That is the one that is granted the lock. And its holder when somebody has queued: its own save
    would else meet a version that it does not know.
    """
    if LOCK not in before.parts:
        return ()
    was, now = read(before), read(after)
    assert was is not None, "it has the part"
    if now is None:  # released with nobody waiting, or ended under them
        return was.queue
    if (now.process, now.fence) != (was.process, was.fence) or len(now.queue) > len(was.queue):
        return (now.process,)
    return ()


# ---------------------------------------------------------------- the changes


def new(process: bytes, version: int, now: int, queue: tuple[bytes, ...] = ()) -> Lease:
    """Return a fresh grant."""
    return Lease(process, version, now + GRANT, GRANT, queue)


def take(
    lease: Lease | None,
    version: int,
    now: int,
    *,
    process: bytes,
    over: Term | None = None,
) -> Lease | None:
    """Have `process` hold the lock if it is free, else wait for it in the queue.

    If it has the lock already it gets a new grant: it asks because it does not know of the one that it has,
    and somebody may have been let in under that one.

    Args:
        lease: as it is.
        version: of the record that is being made.
        now: ms.
        process: who asks.
        over: the term that has run out, as far as the caller can tell: whoever is first then gets it.
    """
    if lease is None:
        return new(process, version, now)
    queue = lease.queue
    if lease.process == process:
        return new(process, version, now, tuple(one for one in queue if one != process))
    if process not in queue and len(queue) < MAX_QUEUE:
        queue = (*queue, process)
    if lease.term != over:
        return replace(lease, queue=queue)
    return new(queue[0], version, now, queue[1:]) if queue else new(process, version, now)


def renew(lease: Lease | None, version: int, now: int, *, holder: Holder, length: int) -> Lease | None:
    """Extend the holder's lease to `length` ms from now."""
    if lease is None or (lease.process, lease.fence) != holder:
        return lease
    return replace(lease, until=now + length, length=length)


def release(
    lease: Lease | None, version: int, now: int, *, holder: Holder, waiting: bool, turn: int
) -> Lease | None:
    """End the holder's hold: the next waiter of its own process gets the lock, or the next process.

    Args:
        lease: as it is.
        version: of the record that is being made.
        now: ms.
        holder: who releases; nothing happens if it is not the holder.
        waiting: whether more waiters wait in the holder's process.
        turn: how many of its waiters, this one included, that process has let in one after another.
    """
    if lease is None or (lease.process, lease.fence) != holder:
        return lease
    queue = tuple(one for one in lease.queue if one != lease.process)
    if waiting and (turn < TURNS or not queue):
        return new(lease.process, version, now, queue)
    if waiting:
        queue = (*queue, lease.process)
    return new(queue[0], version, now, queue[1:]) if queue else None


def leave(lease: Lease | None, version: int, now: int, *, process: bytes) -> Lease | None:
    """Have `process` neither wait nor, if it was granted the lock meanwhile, hold it."""
    if lease is None:
        return None
    queue = tuple(one for one in lease.queue if one != process)
    if lease.process != process:
        return replace(lease, queue=queue)
    return new(queue[0], version, now, queue[1:]) if queue else None

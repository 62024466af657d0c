"""Rotation with a grace: which credential opens a record, and what follows from its coming back. Pure.

A new credential takes the place of the one before only when it has *come back*: until then nobody knows
whether its response has arrived. So the record keeps the *previous* one, when the current one was *issued*,
and whether it was *seen*:

=============  =======================  ====================================================
presented      state                    answer
=============  =======================  ====================================================
current        not seen                 good; noted as seen, by a save that no response waits for;
                                        the previous one is good for the grace from then on
previous       not seen, issued less    good (requests side by side)
               than 60 s ago
previous       not seen, later          good; the response was lost, so another one is issued; the
                                        unseen one (*other*) stays as good as the new one
previous       seen, within the grace   good
previous       seen, later              replayed
in the ring                             replayed
=============  =======================  ====================================================

Of the last four that were retired the *ring* keeps 4 bytes each, only to tell that somebody has presented
one: they open nothing. What is drawn is random each time: derived from the one before, a thief's and his
victim's next credential would be the same.

`tests/identity/rotation_model.py` explores these rules.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data.expiry import ENDED_FOR
from asgi_session._data.record import MOVED, ROTATION, Record

PARALLEL_FOR: Final = 60_000
"""For how long (ms) after a rotation its response may still be on its way."""
GRACE: Final = 15_000
"""ms; of a rotation that takes place by itself."""
_RING_BYTES: Final = 4 * 4
_SEEN: Final = 1
_HAS_PREVIOUS: Final = 2
_HAS_OTHER: Final = 4

Fit: TypeAlias = Literal["opens", "is new", "parallel", "reply lost", "in grace", "replayed", "unknown"]
"""How a credential fits a record; all but the last two open it."""


class Rotation(msgspec.Struct, frozen=True, gc=False):
    """What a record keeps of its rotations.

    Attributes:
        seen: whether the current credential has come back.
        issued: when it was issued, ms.
        time: while it is not seen: the grace; then: until when the others are good; ms.
        previous: the digest of the last one that was seen; empty if none is of use.
        other: of one that was issued between the two and never seen; empty if there is none.
        ring: the first 4 bytes of retired digests, newest first.
    """

    seen: bool
    issued: int
    time: int
    previous: bytes = b""
    other: bytes = b""
    ring: bytes = b""


def of(record: Record) -> Rotation:
    """Return what `record` keeps; of one that was never rotated with a grace: as it was when created."""
    part = record.parts.get(ROTATION)
    if part is None:
        return Rotation(True, record.created, 0)
    flags, start = part[0], 13
    previous = other = b""
    if flags & _HAS_PREVIOUS:
        previous, start = part[start : start + 16], start + 16
    if flags & _HAS_OTHER:
        other, start = part[start : start + 16], start + 16
    seen = bool(flags & _SEEN)
    return Rotation(
        seen, records.time_of(part[1:7]), records.time_of(part[7:13]), previous, other, part[start:]
    )


def fit(record: Record, digest: bytes, now: int) -> Fit:
    """Tell how a credential with this `digest` fits a living `record` at `now` (ms)."""
    current = compare_digest(record.digest, digest)
    if ROTATION not in record.parts:
        return "opens" if current else "unknown"
    kept = of(record)
    if current:
        return "opens" if kept.seen else "is new"
    previous, other = compare_digest(kept.previous, digest), compare_digest(kept.other, digest)
    if not kept.seen:
        if other:
            return "is new"
        if previous:
            return "parallel" if now - kept.issued < PARALLEL_FOR else "reply lost"
    elif previous or other:
        return "in grace" if now < kept.time else "replayed"
    # What was retired before its time may be on its way still: that is no replay.
    retired = [compare_digest(kept.ring[at : at + 4], digest[:4]) for at in range(0, len(kept.ring), 4)]
    return "replayed" if any(retired) and records.moved_until(record) <= now else "unknown"


def lately(record: Record, now: int) -> bool:
    """Whether what is presented too late may yet be of a request that was on its way."""
    kept = of(record)
    return kept.seen and now < kept.time + ENDED_FOR


def due(record: Record, found: str, every: int, now: int) -> bool:
    """Whether a request whose credential fits like this is given another, by itself.

    Args:
        record: the newest.
        found: how the request's credential fits.
        every: how old a credential may become, ms; 0: any age.
        now: ms.
    """
    if found == "reply lost":
        return True
    if not every or (found != "opens" and found != "is new"):
        return False
    kept = of(record)
    if found == "is new":  # by then nothing with the previous one is on its way
        return now - kept.issued >= max(every, PARALLEL_FOR + kept.time)
    return now - kept.issued >= every and now >= kept.time


def seen(record: Record, digest: bytes, now: int) -> Record:
    """Note that a credential has come back; the same record if that is known, or it is not a new one."""
    if fit(record, digest, now) != "is new":
        return record
    kept = of(record)
    other = kept.other if digest == record.digest else record.digest
    return _with(
        record, digest, Rotation(True, kept.issued, now + kept.time, kept.previous, other, kept.ring)
    )


def issued(record: Record, digest: bytes, new: bytes, grace: int, every: int, now: int) -> Record | None:
    """Issue a credential in place of the one that was presented.

    None if another request has done so already: one new cookie is enough, and a second would take the place
    of the one that was just handed out.

    Args:
        record: the newest.
        digest: of the credential that the request came with.
        new: of the one that it shall get.
        grace: for how long the old one is good once the new one was seen, ms.
        every: as for `due`, if this takes place by itself; 0: somebody asked for it.
        now: ms.
    """
    found = fit(record, digest, now)
    kept = of(record)
    if found == "reply lost":
        again = Rotation(False, now, kept.time, kept.previous, record.digest, _retired(kept.ring, kept.other))
        return _with(record, new, again)
    if found not in ("opens", "is new") or (every and not due(record, found, every, now)):
        return None
    other = kept.other if digest == record.digest else record.digest
    ring = _retired(kept.ring, other, kept.previous)
    made = _with(record, new, Rotation(False, now, grace, digest, b"", ring))
    if not every and (found == "is new" or now < kept.time):
        # Somebody asked before its time was over.
        made.parts[MOVED] = records.until(now + ENDED_FOR)
    return made


def retire_all(record: Record, now: int) -> bytes:
    """Return the part of a record whose credentials are all dead at once, the current one too."""
    kept = of(record)
    ring = _retired(kept.ring, record.digest, kept.other, kept.previous)
    return _encode(Rotation(True, now, now, b"", b"", ring))


def _with(record: Record, digest: bytes, kept: Rotation) -> Record:
    return replace(record, digest=digest, parts={**record.parts, ROTATION: _encode(kept)})


def _retired(ring: bytes, *digests: bytes) -> bytes:
    return (b"".join(digest[:4] for digest in digests) + ring)[:_RING_BYTES]


def _encode(kept: Rotation) -> bytes:
    flags = kept.seen * _SEEN | bool(kept.previous) * _HAS_PREVIOUS | bool(kept.other) * _HAS_OTHER
    times = records.until(kept.issued) + records.until(kept.time)
    return bytes((flags,)) + times + kept.previous + kept.other + kept.ring

"""What commits want, and how it is applied to a record: the merge, without any I/O.

A commit is a set of *changes* (key to new bytes, or None for a deletion) and perhaps a *mark*
(rotate, clear, destroy). Changes do not name what they replace, so they apply to any later version
of the record as well as to the one they were made on: keys changed by me win, keys I left alone
keep what others wrote. What must not be carried over is an identity: a commit made under another
epoch than the record's is left out (`Verdict.OVERTAKEN`).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from asgi_session import record as records
from asgi_session.expiry import ENDED_FOR
from asgi_session.record import GRACE, MOVED, NOBODY, Record

Changes: TypeAlias = dict[str, bytes | None]


class Kind(enum.Enum):
    """What a mark asks for."""

    ROTATE = "rotate"
    ROTATE_WITH_GRACE = "rotate with grace"
    CLEAR = "clear"
    DESTROY = "destroy"


class Mark:
    """One call of `rotate`, `clear` or `destroy`; consumed, as an object, by the commit that does it."""

    __slots__ = ("grace", "kind")

    def __init__(self, kind: Kind, grace: int = 0) -> None:
        self.kind = kind
        self.grace = grace


class Intent:
    """What one commit wants.

    Attributes:
        changes: key to new bytes, or None for a deletion.
        epoch: of the record that the changes were made on.
        mark: what the commit carries out besides.
        digest: of the token that the session was loaded with, for a rotation.
        new_digest: of the token that a rotation or a new beginning hands out.
    """

    __slots__ = ("changes", "digest", "epoch", "mark", "new_digest")

    def __init__(
        self,
        changes: Changes,
        epoch: bytes,
        mark: Mark | None = None,
        digest: bytes = b"",
        new_digest: bytes = b"",
    ) -> None:
        self.changes = changes
        self.epoch = epoch
        self.mark = mark
        self.digest = digest
        self.new_digest = new_digest


class Verdict(enum.Enum):
    """What became of one commit."""

    APPLIED = "applied"
    APPLIED_WITHOUT_ROTATION = "applied without rotation"
    OVERTAKEN = "overtaken"
    TOO_LARGE = "too large"


# Names of their own, since looking a member up on its enum takes 0.1 µs on Python 3.11.
_APPLIED: Final = Verdict.APPLIED
ONE_APPLIED: Final = [_APPLIED]  # shared: nobody changes it


class Fold(NamedTuple):
    """What several commits make together.

    Attributes:
        record: the new version; the base itself when no commit was applied.
        data: its bytes; empty when no commit was applied.
        verdicts: one for each commit, in their order.
        size: in bytes, of the largest version that was refused; 0 if none was.
    """

    record: Record
    data: bytes
    verdicts: list[Verdict]
    size: int = 0


def own_keys(changes: Changes) -> dict[str, bytes]:
    """Return what a commit set itself: all that may go on under a new identity."""
    return {key: value for key, value in changes.items() if value is not None}


def merge(entries: dict[str, bytes], changes: Changes) -> dict[str, bytes]:
    """Return `entries` with `changes` applied."""
    merged: dict[str, Any] = {**entries, **changes}
    if None in changes.values():
        return {key: value for key, value in merged.items() if value is not None}
    return merged


def fold(
    base: Record, intents: Sequence[Intent], *, now: int, idle: int, absolute: int, max_size: int
) -> Fold:
    """Apply `intents` to `base` in their order, as one new version.

    Args:
        base: the newest version known.
        intents: in order of arrival.
        now: ms since the Unix epoch.
        idle: idle timeout of a session that begins anew, ms.
        absolute: absolute timeout of a session that begins anew, ms.
        max_size: bytes; above it only growth is refused.
    """
    if len(intents) == 1 and intents[0].mark is None and intents[0].epoch == base.epoch:
        # Nearly every save. One version less to make, and nothing to sort out.
        record = records.next_version(base, now, merge(base.entries, intents[0].changes))
        data = records.encode(record)
        if len(data) <= max_size:
            return tuple.__new__(Fold, (record, data, ONE_APPLIED, 0))
    verdicts: list[Verdict] = []
    record = start = records.next_version(base, now)
    for intent in intents:
        record, verdict = _apply(record, intent, now, idle, absolute)
        verdicts.append(verdict)
    if record is start:
        return Fold(base, b"", verdicts)
    data = records.encode(record)
    if len(data) <= max_size:
        return Fold(record, data, verdicts)
    # Rare, so done a second time: leave out each commit that makes the record larger than it may be.
    record, data, verdicts, refused = start, records.encode(start), [], 0
    for intent in intents:
        candidate, verdict = _apply(record, intent, now, idle, absolute)
        if candidate is not record:
            candidate_data = records.encode(candidate)
            # Growth of the header does not count, or a session that is full could not log in.
            if len(candidate_data) > max_size and records.body_size(candidate) > records.body_size(record):
                verdict, refused = Verdict.TOO_LARGE, max(refused, len(candidate_data))
            else:
                record, data = candidate, candidate_data
        verdicts.append(verdict)
    if record is start:
        return Fold(base, b"", verdicts, refused)
    return Fold(record, data, verdicts, refused)


def _apply(record: Record, intent: Intent, now: int, idle: int, absolute: int) -> tuple[Record, Verdict]:
    if intent.epoch != record.epoch:
        return record, Verdict.OVERTAKEN
    mark = intent.mark
    if mark is None:
        # Not _replace, which takes three times as long: this is every save.
        return tuple.__new__(Record, (*record[:-1], merge(record.entries, intent.changes))), _APPLIED
    if mark.kind is Kind.DESTROY or (mark.kind is Kind.CLEAR and not intent.changes):
        return _ended(record, now), _APPLIED
    if mark.kind is Kind.CLEAR:
        return _begun_anew(record, intent, now, idle, absolute), _APPLIED
    entries = merge(record.entries, intent.changes)
    if mark.kind is Kind.ROTATE:
        return _rotated(record, intent.new_digest, entries, now), _APPLIED
    if record.digest != intent.digest:
        # Another request rotated this very token already: one new cookie is enough, and a second
        # would kill the token that the first has just handed out.
        return record._replace(entries=entries), Verdict.APPLIED_WITHOUT_ROTATION
    return _rotated_with_grace(record, intent, mark.grace, entries, now), _APPLIED


def _rotated(record: Record, digest: bytes, entries: dict[str, bytes], now: int) -> Record:
    return record._replace(
        digest=digest,
        epoch=records.next_epoch(record.epoch),
        parts=_moved(record, now + ENDED_FOR),
        entries=entries,
    )


def _rotated_with_grace(
    record: Record, intent: Intent, grace: int, entries: dict[str, bytes], now: int
) -> Record:
    parts = _moved(record, now + max(grace, 0) + ENDED_FOR)
    parts[GRACE] = record.digest + records.until(now + grace)
    return record._replace(digest=intent.new_digest, parts=parts, entries=entries)


def _begun_anew(record: Record, intent: Intent, now: int, idle: int, absolute: int) -> Record:
    return record._replace(
        digest=intent.new_digest,
        epoch=records.next_epoch(record.epoch),
        created=now,
        idle=idle,
        deadline=now + absolute,
        parts=_moved(record, now + ENDED_FOR),
        entries=own_keys(intent.changes),
    )


def _ended(record: Record, now: int) -> Record:
    return record._replace(
        digest=NOBODY,
        epoch=records.next_epoch(record.epoch),
        deadline=now + ENDED_FOR,
        parts=_moved(record, now + ENDED_FOR),
        entries={},
    )


def _moved(record: Record, until: int) -> dict[int, bytes]:
    """Return the record's parts with an earlier rotation's grace ended and the move noted."""
    parts = {kind: part for kind, part in record.parts.items() if kind not in (GRACE, MOVED)}
    parts[MOVED] = records.until(until)
    return parts

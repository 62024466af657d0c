"""How commits are applied to a record: the merge, without any I/O.

Keys changed by me win, keys I left alone keep what others wrote; where both changed one key, a rule can
say what becomes of it (`rules`). What must not be carried over is an identity: a commit made under
another epoch than the record's is left out. So is one that was made under a lock that is no longer held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from asgi_session._data import identity, lease, rotation
from asgi_session._data import record as records
from asgi_session._data.change import Change, Kind, Moved, lock_lost, too_large
from asgi_session._data.expiry import ENDED_FOR
from asgi_session._data.record import DESCRIPTION, INDEXED, LOCK, MOVED, NOBODY, PRINCIPAL, ROTATION, Record
from asgi_session._data.rules import Rules, merge, merge_by_rules, overwritten

Outcome: TypeAlias = Literal["in", "rotated already", "overtaken"] | Exception
"""What became of one change: it is in; in, but not its rotation; left out; or left out for an error."""

_SHED: Final = (LOCK, MOVED, PRINCIPAL, ROTATION, DESCRIPTION, INDEXED)
"""Parts that a record has no more when it has ended."""
ONE_IN: Final[list[Outcome]] = ["in"]  # shared: nobody changes it


class Fold(msgspec.Struct, frozen=True):
    """What several changes make together.

    Attributes:
        record: the new version; the base itself when there is nothing to write.
        data: its bytes; empty when there is nothing to write.
        outcomes: one for each change, in their order; `ONE_IN` itself when one was made, and is in.
    """

    record: Record
    data: bytes
    outcomes: list[Outcome]


def fold(
    base: Record, changes: Sequence[Change], rules: Rules, max_size: int, now: int, overhead: int = 0
) -> Fold:
    """Apply `changes` to `base`, the newest version known, in their order, as one new version.

    Args:
        base: the newest version known.
        changes: in order of arrival.
        rules: the manager's.
        max_size: bytes; above it only growth is refused.
        now: ms since the Unix epoch.
        overhead: bytes that a seal will add. None is made here, since a version may be encoded more than
            once before it is the one that is sent.
    """
    one = changes[0] if len(changes) == 1 else None
    if (
        one is not None
        and one.mark is None
        and one.holder is None
        and one.step is None
        and one.lifetime is None
        and one.compute is None
        and one.rewrite is None
        and one.only_on is None
        and not one.came_back
        and one.epoch == base.epoch
        and (one.origins is base.entries or not rules.compares)
    ):
        # Nearly every save: changes and nothing else. One version less to make, and nothing to sort out.
        one.overwritten = overwritten(base.entries, one) if one.origins is not base.entries else ()
        record = records.next_version(base, now, merge(base.entries, one.changes))
        data = records.encode(record)
        if len(data) + overhead <= max_size:
            return Fold(record, data, ONE_IN)
    outcomes: list[Outcome] = []
    record = start = records.next_version(base, now)
    for change in changes:
        record, outcome = _apply(record, change, rules, now, max_size - overhead)
        outcomes.append(outcome)
    if len(outcomes) == 1 and outcomes[0] == "in":
        outcomes = ONE_IN
    if record is start:
        return Fold(base, b"", outcomes)
    data = records.encode(record)
    if len(data) + overhead <= max_size:
        return Fold(record, data, outcomes)
    # Rare, so done a second time: leave out each commit that makes the record larger than it may be.
    record, data, outcomes = start, b"", []
    for change in changes:
        candidate, outcome = _apply(record, change, rules, now, max_size - overhead)
        if candidate is not record:
            candidate_data = records.encode(candidate)
            # Growth of the header does not count, or a session that is full could not log in.
            grows = records.body_size(candidate) > records.body_size(record)
            size = len(candidate_data) + overhead
            if grows and size > max_size:
                outcome = too_large(size, max_size)
            else:
                record, data = candidate, candidate_data
        outcomes.append(outcome)
    return Fold(base if record is start else record, data, outcomes)


def _apply(record: Record, change: Change, rules: Rules, now: int, most: int) -> tuple[Record, Outcome]:
    if change.epoch and change.epoch != record.epoch:
        return record, "overtaken"
    if change.holder is not None and not lease.held_by(record, change.holder):
        return record, lock_lost()
    if change.only_on is not None and change.only_on != record.entries:
        return record, Moved()
    mark = change.mark
    if mark is not None and mark.ends:
        if mark.kind is Kind.SIGN_IN:
            try:
                change.carried = merge_by_rules(record.entries, change, rules)
            except Exception as error:  # a rule's, too
                return record, error
            grown = replace(record, entries=change.carried)
            size = len(records.encode(grown))
            if size > most and records.body_size(grown) > records.body_size(record):
                return record, too_large(size, most)  # before anything has ended
        record = _ended(record, now)
        return record if change.step is None else lease.step(record, change.step, now), "in"
    if change.compute is not None:
        change.changes = change.compute(record)
    change.overwritten = ()
    try:
        entries = merge_by_rules(record.entries, change, rules) if change.changes else record.entries
    except Exception as error:  # a rule's, too
        return record, error
    outcome: Outcome = "in"
    if mark is not None and mark.kind is not Kind.ROTATE_WITH_GRACE:
        record = _rotated(record, change.new_digest, entries, now)
        if mark.kind is Kind.REAUTHENTICATE:
            record = identity.proved_again(record, now)
    else:
        if entries is not record.entries:
            record = replace(record, entries=entries)
        if mark is not None:
            made = rotation.issued(record, change.digest, change.new_digest, mark.grace, mark.every, now)
            if made is None:
                outcome = "rotated already"
            else:
                record = made
        elif change.came_back:
            record = rotation.seen(record, change.came_back, now)
    if change.lifetime is not None:
        record = change.lifetime.of(record)
    if change.rewrite is not None:
        record = change.rewrite(record, now)
    if change.step is not None:
        record = lease.step(record, change.step, now)
    return record, outcome


def _rotated(record: Record, digest: bytes, entries: dict[str, bytes], now: int) -> Record:
    parts = {**record.parts, MOVED: records.until(now + ENDED_FOR)}
    if ROTATION in parts:
        parts[ROTATION] = rotation.retire_all(record, now)
    epoch = records.next_epoch(record.epoch)
    return replace(record, digest=digest, epoch=epoch, parts=parts, entries=entries)


def _ended(record: Record, now: int) -> Record:
    parts = {kind: part for kind, part in record.parts.items() if kind not in _SHED}
    parts[MOVED] = records.until(now + ENDED_FOR)
    return replace(
        record,
        digest=NOBODY,
        epoch=records.next_epoch(record.epoch),
        deadline=now + ENDED_FOR,
        parts=parts,
        entries={},
    )

"""What commits want, and how it is applied to a record: the merge, without any I/O.

A commit is a set of *changes* (key to new bytes, or None for a deletion) and perhaps a *mark*
(rotate, clear, destroy). Changes do not name what they replace, so they apply to any later version
of the record as well as to the one they were made on: keys changed by me win, keys I left alone
keep what others wrote; where both changed one key, a *rule* can say what becomes of it. What must
not be carried over is an identity: a commit made under another epoch than the record's is left out
(`Verdict.OVERTAKEN`). So is one that was made under a lock that is no longer held.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction, signature
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from asgi_session._data import codec, lease
from asgi_session._data import record as records
from asgi_session._data.expiry import ENDED_FOR
from asgi_session._data.record import GRACE, LOCK, MOVED, NOBODY, Record
from asgi_session.errors import LockLost, SessionConflict, SessionError, SessionTooLarge

Changes: TypeAlias = dict[str, bytes | None]

Rule: TypeAlias = Callable[[Any, Any, Any], Any]
"""``rule(base, mine, theirs)``: what becomes of a key that both sides have changed. A key that is not
there is given as None; a rule that returns None removes the key."""


def is_rule(rule: Any) -> bool:
    """Whether it can be called as a rule: a plain function of three."""
    if not callable(rule) or iscoroutinefunction(rule):
        return False
    try:
        signature(rule).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not tell
        return True
    return True


class Policy:
    """What a fold goes by: the manager's options.

    Attributes:
        idle: idle timeout of a session that begins anew, ms.
        absolute: absolute timeout of a session that begins anew, ms.
        max_size: bytes; above it only growth is refused.
        rules: by key.
        on_conflict: what becomes of a key without a rule that both sides have changed.
        compares: whether there is another answer than that mine wins.
    """

    __slots__ = ("absolute", "compares", "idle", "max_size", "on_conflict", "rules")

    def __init__(
        self,
        idle: int,
        absolute: int,
        max_size: int,
        rules: Mapping[str, Rule] | None = None,
        on_conflict: Literal["mine", "raise"] = "mine",
    ) -> None:
        self.idle = idle
        self.absolute = absolute
        self.max_size = max_size
        self.rules = rules or {}
        self.on_conflict = on_conflict
        self.compares: bool = bool(rules) or on_conflict == "raise"


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
        epoch: of the record that the changes were made on; empty when that does not matter.
        mark: what the commit carries out besides.
        digest: of the token that the session was loaded with, for a rotation.
        new_digest: of the token that a rotation or a new beginning hands out.
        origins: the bytes from which each key's value was decoded, or to which it was last encoded; None
            when it does not matter on what the changes were made.
        overwritten: set by a fold: keys that others have changed as well, and whose change is lost.
        holder: who must hold the lock for it to count; None: it is not made under a lock.
        step: what it does to the lock.
        compute: makes its changes, from the entries it is applied to; called once per attempt.
        only_on: the entries that its changes were made on, if it must not be applied to any others.
    """

    __slots__ = (
        "changes", "compute", "digest", "epoch", "holder", "mark", "new_digest", "only_on", "origins",
        "overwritten", "step",
    )  # fmt: skip

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
        self.origins: Mapping[str, bytes] | None = None
        self.overwritten: Sequence[str] = ()
        self.holder: lease.Holder | None = None
        self.step: lease.Step | None = None
        self.compute: Callable[[Record], Changes] | None = None
        self.only_on: Mapping[str, bytes] | None = None


class Verdict(enum.Enum):
    """What became of one commit."""

    APPLIED = "applied"
    APPLIED_WITHOUT_ROTATION = "applied without rotation"
    OVERTAKEN = "overtaken"


class Moved(SessionError):
    """An intent's `only_on` is not what the record holds. Internal: who made the intent tries again."""


Outcome: TypeAlias = Verdict | Exception
"""A commit's verdict, or the error for which it was left out."""

# Names of their own, since looking a member up on its enum takes 0.1 µs on Python 3.11.
_APPLIED: Final = Verdict.APPLIED
_OVERTAKEN: Final = Verdict.OVERTAKEN
ONE_APPLIED: Final[list[Outcome]] = [_APPLIED]  # shared: nobody changes it


class Fold(msgspec.Struct, frozen=True, gc=False):
    """What several commits make together.

    Attributes:
        record: the new version; the base itself when there is nothing to write.
        data: its bytes; empty when there is nothing to write.
        outcomes: one for each commit, in their order.
    """

    record: Record
    data: bytes
    outcomes: list[Outcome]


def own_keys(changes: Changes) -> dict[str, bytes]:
    """Return what a commit set itself: all that may go on under a new identity."""
    return {key: value for key, value in changes.items() if value is not None}


def merge(entries: dict[str, bytes], changes: Changes) -> dict[str, bytes]:
    """Return `entries` with `changes` applied."""
    merged: dict[str, Any] = {**entries, **changes}
    if None in changes.values():
        return {key: value for key, value in merged.items() if value is not None}
    return merged


def fold(base: Record, intents: Sequence[Intent], policy: Policy, now: int) -> Fold:
    """Apply `intents` to `base`, the newest version known, in their order, as one new version.

    Args:
        base: the newest version known.
        intents: in order of arrival.
        policy: the manager's options.
        now: ms since the Unix epoch.
    """
    if (
        len(intents) == 1
        and _is_plain(one := intents[0])
        and one.epoch == base.epoch
        and (one.origins is base.entries or not policy.compares)
    ):
        # Nearly every save. One version less to make, and nothing to sort out.
        one.overwritten = _overwritten(base.entries, one) if one.origins is not base.entries else ()
        record = records.next_version(base, now, merge(base.entries, one.changes))
        data = records.encode(record)
        if len(data) <= policy.max_size:
            return Fold(record, data, ONE_APPLIED)
    outcomes: list[Outcome] = []
    record = start = records.next_version(base, now)
    for intent in intents:
        record, outcome = _apply(record, intent, policy, now)
        outcomes.append(outcome)
    if len(outcomes) == 1 and outcomes[0] is _APPLIED:
        outcomes = ONE_APPLIED  # which tells that nothing was left out
    if record is start:
        return Fold(base, b"", outcomes)
    data = records.encode(record)
    if len(data) <= policy.max_size:
        return Fold(record, data, outcomes)
    # Rare, so done a second time: leave out each commit that makes the record larger than it may be.
    record, data, outcomes = start, b"", []
    for intent in intents:
        candidate, outcome = _apply(record, intent, policy, now)
        if candidate is not record:
            candidate_data = records.encode(candidate)
            # Growth of the header does not count, or a session that is full could not log in.
            grows = records.body_size(candidate) > records.body_size(record)
            if grows and len(candidate_data) > policy.max_size:
                outcome = too_large(len(candidate_data), policy.max_size)
            else:
                record, data = candidate, candidate_data
        outcomes.append(outcome)
    return Fold(base if record is start else record, data, outcomes)


def _is_plain(intent: Intent) -> bool:
    """Whether it is changes and nothing else, to be applied to whatever is there."""
    return (
        intent.mark is None
        and intent.holder is None
        and intent.step is None
        and intent.compute is None
        and intent.only_on is None
    )


def too_large(size: int, max_size: int) -> SessionTooLarge:
    """Return the error for a session that would take `size` bytes."""
    return SessionTooLarge(
        f"the session would take {size} bytes, more than max_size={max_size}. Keep large data elsewhere and "
        "store its key in the session, or raise max_size",
        size=size,
        max_size=max_size,
    )


def _apply(record: Record, intent: Intent, policy: Policy, now: int) -> tuple[Record, Outcome]:
    if intent.epoch and intent.epoch != record.epoch:
        return record, _OVERTAKEN
    if intent.holder is not None and not lease.held_by(record, intent.holder):
        return record, lock_lost()
    if intent.only_on is not None and intent.only_on != record.entries:
        return record, Moved()
    if intent.compute is not None:
        intent.changes = intent.compute(record)
    anew = intent.mark is not None and intent.mark.kind is Kind.CLEAR  # of another's data it knows nothing
    intent.overwritten = ()
    try:
        entries = _merged(record.entries, intent, policy) if intent.changes and not anew else record.entries
    except Exception as error:  # a rule's, too
        return record, error
    outcome: Outcome = _APPLIED
    mark = intent.mark
    if mark is None:
        if entries is not record.entries:
            record = replace(record, entries=entries)
    elif mark.kind is Kind.DESTROY or (mark.kind is Kind.CLEAR and not intent.changes):
        record = _ended(record, now)
    elif mark.kind is Kind.CLEAR:
        record = _begun_anew(record, intent, policy, now)
    elif mark.kind is Kind.ROTATE:
        record = _rotated(record, intent.new_digest, entries, now)
    elif record.digest != intent.digest:
        # Another request rotated this very token already: one new cookie is enough, and a second
        # would kill the token that the first has just handed out.
        record, outcome = replace(record, entries=entries), Verdict.APPLIED_WITHOUT_ROTATION
    else:
        record = _rotated_with_grace(record, intent, mark.grace, entries, now)
    if intent.step is not None:
        record = lease.step(record, intent.step, now)
    return record, outcome


def lock_lost() -> LockLost:
    """Return the error for a save under a lock that is held no longer."""
    return LockLost(
        "the lock ended or passed to another holder before this was saved, so nothing was written. Keep "
        "blocks under the lock short, do not block the event loop, and make lease and max_hold long enough"
    )


def _merged(entries: dict[str, bytes], intent: Intent, policy: Policy) -> dict[str, bytes]:
    """Return `entries` with the intent's changes, by the rules where both sides changed a key."""
    origins = intent.origins
    intent.overwritten = ()
    if origins is None or origins is entries:
        return merge(entries, intent.changes)
    if not policy.compares:
        intent.overwritten = _overwritten(entries, intent)
        return merge(entries, intent.changes)
    overwritten: list[str] = []
    changes = dict(intent.changes)
    for key, mine in intent.changes.items():
        base, theirs = origins.get(key), entries.get(key)
        if theirs == base:
            continue
        rule = policy.rules.get(key)
        if rule is not None:  # also for equal values: two that each add one both come to the same
            changes[key] = _by_rule(rule, key, base, mine, theirs)
        elif policy.on_conflict == "raise" and theirs != mine:
            raise SessionConflict(
                f"another request changed session[{codec.shown(key)}] as well, so nothing was saved. Set the "
                "key to the value you want (`theirs` is the stored one), call discard() to drop your "
                "changes, or give the key a merge rule. refresh() alone keeps your value and would save it "
                "over theirs",
                key=key,
                mine=_value(mine),
                theirs=_value(theirs),
            )
        elif theirs != mine:
            overwritten.append(key)
    intent.overwritten = overwritten
    return merge(entries, changes)


def _overwritten(entries: Mapping[str, bytes], intent: Intent) -> list[str]:
    """Return the keys of which the intent's change undoes one of others that it has not seen."""
    origins = intent.origins
    if origins is None:
        return []
    return [
        key
        for key, mine in intent.changes.items()
        if (theirs := entries.get(key)) != mine and theirs != origins.get(key)
    ]


def _by_rule(
    rule: Rule, key: str, base: bytes | None, mine: bytes | None, theirs: bytes | None
) -> bytes | None:
    try:
        merged = rule(_value(base), _value(mine), _value(theirs))
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        error.add_note(f"in the merge rule of session[{codec.shown(key)}]")
        raise
    except BaseException as error:
        # A CancelledError of something that it asked: it runs in anybody's task, who was not cancelled.
        name = type(error).__name__
        raise RuntimeError(f"the merge rule of session[{codec.shown(key)}] raised {name}") from error
    if merged is None:
        return None
    encoded = codec.encode(merged, key)
    codec.check(merged, key)
    return encoded


def _value(encoded: bytes | None) -> Any:
    return None if encoded is None else codec.decode(encoded)


def _rotated(record: Record, digest: bytes, entries: dict[str, bytes], now: int) -> Record:
    return replace(
        record,
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
    return replace(record, digest=intent.new_digest, parts=parts, entries=entries)


def _begun_anew(record: Record, intent: Intent, policy: Policy, now: int) -> Record:
    return replace(
        record,
        digest=intent.new_digest,
        epoch=records.next_epoch(record.epoch),
        created=now,
        idle=policy.idle,
        deadline=now + policy.absolute,
        parts=_moved(record, now + ENDED_FOR),
        entries=own_keys(intent.changes),
    )


def _ended(record: Record, now: int) -> Record:
    return replace(
        record,
        digest=NOBODY,
        epoch=records.next_epoch(record.epoch),
        deadline=now + ENDED_FOR,
        parts={kind: part for kind, part in _moved(record, now + ENDED_FOR).items() if kind != LOCK},
        entries={},
    )


def _moved(record: Record, until: int) -> dict[int, bytes]:
    """Return the record's parts with an earlier rotation's grace ended and the move noted."""
    parts = {kind: part for kind, part in record.parts.items() if kind not in (GRACE, MOVED)}
    parts[MOVED] = records.until(until)
    return parts

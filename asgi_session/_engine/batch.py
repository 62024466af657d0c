"""Requests that leave together: the version that they make, and what each of them gets. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from asgi_session._data import lease
from asgi_session._data.change import Kind
from asgi_session._data.expiry import NOT_USED, UNCONFIRMED, expires_at, expires_unused
from asgi_session._data.fold import ONE_IN, Outcome, fold
from asgi_session._data.record import INDEX, Record, Version
from asgi_session._data.rules import merge
from asgi_session._engine.save_request import Failed, LeftOut, Result, SavedAs, SaveRequest
from asgi_session._policy import Policy
from asgi_session.store import Stored

_NOBODY: Final[Sequence[bytes]] = ()
LARGEST_INDEX: Final = 1 << 20
"""Bytes: many times what the largest cap makes of one."""


class Attempt(msgspec.Struct, frozen=True):
    """A version that is to be saved, or is on the wire.

    Attributes:
        base: what the store is expected to have.
        record: what it shall have.
        data: the bytes of that; empty when there is nothing to write.
        expires_at: its expiry, ms.
        outcomes: what became of each request, in their order.
        told: the names of the processes that must learn of it.
    """

    base: Version
    record: Record
    data: bytes
    expires_at: int
    outcomes: list[Outcome]
    told: Sequence[bytes] = _NOBODY

    def saved(self, tag: bytes) -> Version:
        """Return the version that the store has when it has saved this under `tag`."""
        return Version(self.record, Stored(self.data, tag, self.expires_at))

    @property
    def ends(self) -> bool:
        """Whether it ends the session."""
        return self.record.ended


def attempt(base: Version, requests: Sequence[SaveRequest], policy: Policy, key: str) -> Attempt:
    """Fold the requests into the version after `base`, sealed if need be for the store's `key`."""
    now = policy.clock()
    was = base.record
    most = LARGEST_INDEX if was.digest == INDEX else policy.max_size
    folded = fold(was, requests, policy.rules, most, now, policy.overhead)
    record, data, outcomes = folded.record, folded.data, folded.outcomes
    if policy.sealer is not None and data:
        data = policy.sealer.seal(data, key)
    if outcomes is ONE_IN:
        use = requests[0].use
    else:
        use = min([one.use for one, outcome in zip(requests, outcomes, strict=True) if is_in(outcome)] or [0])
    if use == NOT_USED:
        expires = min(base.stored.expires_at, record.deadline)
        if record.idle != was.idle or record.deadline != was.deadline:
            expires = expires_unused(base.stored.expires_at, now, record.idle, record.deadline, was.deadline)
    else:
        idle = record.idle
        if use == UNCONFIRMED and policy.unconfirmed < idle:
            idle = policy.unconfirmed
        expires = expires_at(now, idle, record.deadline)
    told = lease.to_wake(was, record) if was.parts else _NOBODY
    return Attempt(base, record, data, expires, outcomes, told)


def is_in(outcome: Outcome) -> bool:
    """Whether what a request asked is part of the attempt."""
    return outcome == "in" or outcome == "rotated already"


def refused(outcome: Outcome, base: Version) -> Result:
    """Return the result of a request that a fold on `base` has left out."""
    return Failed(outcome) if isinstance(outcome, Exception) else LeftOut("overtaken", base)


def results(
    requests: Sequence[SaveRequest], made: Attempt, current: Version, tries: int
) -> Iterator[tuple[SaveRequest, Result]]:
    """Give each request of an attempt that was applied its result; the store now has `current`."""
    if len(requests) == 1 and current.record is made.record and _made_alone(requests[0], made):
        yield requests[0], result(requests[0], made, current, tries)
        return
    for request, outcome in zip(requests, made.outcomes, strict=True):
        already = outcome == "rotated already"
        if not request.epoch or _epoch_after(request, made.record) == current.record.epoch:
            yield request, SavedAs(current, True, tries, already)
        else:
            yield request, SavedAs(_without_others(request), False, tries, already, left_behind=True)


def result(request: SaveRequest, made: Attempt, current: Version, tries: int) -> SavedAs:
    """Return the result of the only request of an attempt that the store has just saved as `current`."""
    base, own = made.base.record, request.base.record
    # What was done to the lock alone is no merge.
    merged = base is not own and (base.epoch != own.epoch or base.entries != own.entries)
    return SavedAs(current, merged, tries, made.outcomes[0] == "rotated already")


def _made_alone(request: SaveRequest, made: Attempt) -> bool:
    """Whether an attempt holds nothing but what this request asked.

    Others may have been in it that have run out of time since: their changes are saved all the same, and
    so is the identity that one of them may have given the record.
    """
    entries = merge(made.base.record.entries, request.changes)
    return made.record.entries == entries and (
        not request.epoch or _epoch_after(request, made.record) == made.record.epoch
    )


def newest(requests: Sequence[SaveRequest], known: Version | None) -> Version:
    """Return the latest of the versions that the requests were made on, and of `known`."""
    found = known or requests[0].base
    for request in requests:
        if request.base.record.version > found.record.version:
            found = request.base
    return found


def _epoch_after(request: SaveRequest, made: Record) -> bytes:
    """Return the epoch that a request which was applied on the way to `made` left its record in."""
    mark = request.mark
    # What came after a request that raised the epoch was left out: that one made the last epoch.
    keeps = mark is None or mark.kind is Kind.ROTATE_WITH_GRACE
    return request.epoch if keeps else made.epoch


def _without_others(request: SaveRequest) -> Version:
    """Return a request's base with its changes; the tag is past, so that the next commit finds out."""
    base = request.base
    entries = merge(base.record.entries, request.changes)
    return Version(replace(base.record, entries=entries), base.stored)

"""An index of sessions: the ids of a principal's, or of those with some value. Changes of it, without I/O.

It is an ordinary record, of a kind of its own: an id to when it was created, until when it can live (its
absolute deadline) and a *state*:

- *free*;
- *suspect*: a reader has found no record, and looks a second time before it removes the entry;
- *doomed*: the session is to end. Nothing but the end of the session takes that back.

Every function here makes the next version from the newest, so that two who change an index at once never undo
each other: an entry that is added never clears a doom, and a removal takes only what is in the state that it
names. A function that has nothing to change returns the very record that it was given. An index is never
deleted: it expires with the last of its entries.

Bytes of an entry, numbers big-endian: created (6, ms), until (6, ms), state: nothing, ``d``, or ``s`` and by
whom (8). Under the empty id: `not_before` (6, ms).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data.record import Record
from asgi_session._data.token import is_selector
from asgi_session.errors import SessionCorrupt

SUSPICION_SIZE: Final = 8
REMEMBERED_FOR: Final = 60_000
"""How long `not_before` is kept, ms: longer than a request takes that has checked a password before it."""
_FOR_EVER: Final = (1 << 48) - 1  # an index has no idle timeout of its own
_DOOMED: Final = b"d"
_SUSPECT: Final = b"s"
_STATES: Final = (b"", _DOOMED)
_NOT_BEFORE: Final = ""

Added: TypeAlias = Literal["in", "doomed", "full", "revoked"]
"""What became of an id that was to be added.

``doomed``: it was there, and is to end. ``full``: the cap is reached, and nobody is to be ended for it.
``revoked``: the request began before the principal's sessions were revoked.
"""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A session in an index.

    Attributes:
        id: its public id.
        created: when, ms.
        until: its absolute deadline, ms.
        state: nothing: it is free.
    """

    id: str
    created: int
    until: int
    state: bytes = b""

    @property
    def doomed(self) -> bool:
        """Whether it is to end."""
        return self.state == _DOOMED

    @property
    def suspect(self) -> bool:
        """Whether a reader has found no record of it."""
        return self.state[:1] == _SUSPECT

    def encoded(self) -> bytes:
        """Return its bytes."""
        return self.created.to_bytes(6, "big") + self.until.to_bytes(6, "big") + self.state


class Addition(msgspec.Struct):
    """What adding an id has come to, on the version that it was last tried on.

    Attributes:
        added: whether it is in.
        doomed: the ids that are to end before the new session is created.
        evicted: those of them that it has doomed itself.
    """

    added: Added = "in"
    doomed: list[str] = []
    evicted: list[str] = []


def empty(now: int, check: bytes) -> Record:
    """Return an index without entries; `check` is that of its key."""
    record = records.new_record(
        now=now, idle=_FOR_EVER, absolute=REMEMBERED_FOR, digest=records.INDEX, check=check, entries={}
    )
    return replace(record, version=0)  # what is stored first is the next version of it


def entries_of(record: Record) -> list[Entry]:
    """Return the entries, the oldest first."""
    return sorted(_entries(record), key=lambda one: (one.created, one.id))


def find(record: Record | None, session_id: str) -> Entry | None:
    """Return the entry of an id."""
    raw = record.entries.get(session_id) if record is not None else None
    return None if raw is None else _entry(session_id, raw)


def add(
    record: Record, new: Entry, addition: Addition, *, cap: int, evict: bool, began: int, now: int
) -> Record:
    """Add an entry; note in `addition` what that has come to.

    Args:
        record: the newest version.
        new: what is added; one that is there stays as it is.
        addition: changed in place.
        cap: so many entries that are not doomed, at most.
        evict: at the cap doom the oldest; else the new one is refused.
        began: when its request began, ms.
        now: ms.
    """
    addition.added, addition.doomed, addition.evicted = "in", [], []
    found = {one.id: one for one in _entries(record) if one.until > now or one.id == new.id}
    if began < _not_before(record) and now - REMEMBERED_FOR < _not_before(record):
        addition.added = "revoked"
        return record
    own = found.get(new.id)
    if own is not None and own.doomed:
        addition.added = "doomed"
        return record
    others = [one for one in found.values() if one.id != new.id]
    free = sorted((one for one in others if not one.doomed), key=lambda one: (one.created, one.id))
    over = free[: max(len(free) + 1 - cap, 0)]
    if over and not evict and own is None:
        addition.added = "full"
        return record
    for one in over:
        found[one.id] = replace(one, state=_DOOMED)
    addition.evicted = [one.id for one in over]
    addition.doomed = [one.id for one in others if found[one.id].doomed]
    if own is None:
        found[new.id] = new
    return _with(record, found, now)


def doom(record: Record, keep: str | None, not_before: int, now: int) -> Record:
    """Doom every session but `keep`, and refuse those whose request began before `not_before` (ms)."""
    found = {
        one.id: one if one.id == keep else replace(one, state=_DOOMED)
        for one in _entries(record)
        if one.until > now
    }
    return _with(record, found, now, not_before=not_before)


def suspect(record: Record, ids: Collection[str], by: bytes, now: int) -> Record:
    """Note that no record was found for `ids`, by whom."""
    found = {one.id: one for one in _entries(record)}
    for one in ids:
        if one in found and not found[one].doomed:
            found[one] = replace(found[one], state=_SUSPECT + by)
    return _with(record, found, now)


def settle(record: Record, dead: Collection[str], by: bytes, now: int) -> Record:
    """Remove what is dead and was not cleared of the suspicion `by` somebody; clear the others of it."""
    mine = _SUSPECT + by
    found: dict[str, Entry] = {}
    for one in _entries(record):
        if one.state == mine:
            if one.id in dead:
                continue
            found[one.id] = replace(one, state=b"")
        else:
            found[one.id] = one
    return _with(record, found, now)


def clear(record: Record, session_id: str, now: int) -> Record:
    """Clear a session of suspicion, by its own process."""
    found = {one.id: one for one in _entries(record)}
    own = found.get(session_id)
    if own is not None and own.suspect:
        found[session_id] = replace(own, state=b"")
    return _with(record, found, now)


def prolong(record: Record, session_id: str, until: int, now: int) -> Record:
    """Have an entry last until a session's new absolute deadline, if that is later; ms."""
    found = {one.id: one for one in _entries(record)}
    own = found.get(session_id)
    if own is not None and own.until < until:
        found[session_id] = replace(own, until=until)
    return _with(record, found, now)


def remove_doomed(record: Record, ids: Collection[str], now: int) -> Record:
    """Remove those of `ids` that are doomed still: their sessions have ended."""
    found = {one.id: one for one in _entries(record) if not (one.id in ids and one.doomed)}
    return _with(record, found, now)


def remove(record: Record, session_id: str, now: int) -> Record:
    """Remove the entry of a session that has ended."""
    found = {one.id: one for one in _entries(record) if one.id != session_id}
    return _with(record, found, now)


def cut_off(record: Record, at: int) -> Record:
    """Have no session be good that was created up to then, ms. The record has no entries, and stays."""
    if at <= cutoff_of(record):
        return record
    return replace(record, entries={_NOT_BEFORE: at.to_bytes(6, "big")}, deadline=records.MAX_TIME)


def cutoff_of(record: Record) -> int:
    """Return up to when the sessions that were created are no longer good, ms; 0: all are."""
    return _not_before(record)


def _with(record: Record, found: dict[str, Entry], now: int, *, not_before: int | None = None) -> Record:
    entries = {one.id: one.encoded() for one in found.values()}
    remembered = _not_before(record) if not_before is None else max(not_before, _not_before(record))
    deadline = max([one.until for one in found.values()], default=0)
    if remembered > now - REMEMBERED_FOR:
        entries[_NOT_BEFORE] = remembered.to_bytes(6, "big")
    if entries == record.entries:
        return record
    return replace(record, entries=entries, deadline=max(deadline, now + REMEMBERED_FOR))


def _not_before(record: Record) -> int:
    return int.from_bytes(record.entries.get(_NOT_BEFORE, b""), "big")


def _entries(record: Record) -> Iterator[Entry]:
    for session_id, raw in record.entries.items():
        if session_id != _NOT_BEFORE:
            yield _entry(session_id, raw)


def _entry(session_id: str, raw: bytes) -> Entry:
    state = raw[12:]
    known = state in _STATES or (state[:1] == _SUSPECT and len(state) == 1 + SUSPICION_SIZE)
    if len(raw) < 12 or not known or not is_selector(session_id):
        # Nor is it left out: a session could then be neither listed nor revoked, and nobody would know.
        raise SessionCorrupt("an index of sessions cannot be read: an entry is none")
    return Entry(session_id, int.from_bytes(raw[:6], "big"), int.from_bytes(raw[6:12], "big"), state)

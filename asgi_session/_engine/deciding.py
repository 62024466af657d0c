"""What a commit does to who is signed in, and to the further indexes of its session. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from asgi_session._data import identity as identities
from asgi_session._data.change import Changes, Kind, Mark, own_keys
from asgi_session._data.identity import NOBODYS, NOT_SIGNED, Signed, refuse_here, signed_of, turn
from asgi_session._data.lifetime import Lifetime
from asgi_session._data.record import DESCRIPTION, INDEXED, PRINCIPAL, Record
from asgi_session._data.rules import merge
from asgi_session._policy import Policy
from asgi_session._session.serving import Standing


class Place:
    """A new session's place in the indexes that it is to be in.

    Attributes:
        session_id: its id.
        created: ms.
        until: its absolute deadline, ms.
        principal: the name of the index of whose it is; `NOBODYS`: nobody's.
        names: of all of the indexes.
        began: when its request began, ms.
        entered: how many of the indexes it is in.
        doomed: the ids that it has doomed, or found doomed, in each; they have ended.
        given_up: the session does not come to be.
        uncertain: it may have entered one that it is not known to be in.
    """

    __slots__ = (
        "began", "created", "doomed", "entered", "given_up", "names", "principal", "session_id",
        "uncertain", "until",
    )  # fmt: skip

    def __init__(self, session_id: str, record: Record, names: list[bytes], began: int) -> None:
        self.session_id = session_id
        self.created = record.created
        self.until = record.deadline
        self.principal = signed_of(record).key
        self.names = names
        self.began = began
        self.entered = 0
        self.doomed: dict[bytes, list[str]] = {}
        self.given_up = False
        self.uncertain = False


class Moving:
    """A change of the further indexes that a living session is in.

    Attributes:
        place: in those that it enters.
        left: the names of those that it leaves.
        changed: by what tells the option's keys apart: the new index's name, or None.
        also: what is done to the record besides.
        prolonged: the names of the indexes that must hear of a later deadline before the record has it.
    """

    __slots__ = ("also", "changed", "left", "place", "prolonged")

    def __init__(
        self,
        place: Place,
        left: list[bytes],
        changed: dict[bytes, bytes | None],
        also: Callable[[Record, int], Record] | None,
        prolonged: list[bytes],
    ) -> None:
        self.also = also
        self.prolonged = prolonged
        self.place = place
        self.left = left
        self.changed = changed

    def rewrite(self, record: Record, now: int) -> Record:
        """Return `record` as it says that it is in the new ones."""
        if self.also is not None:
            record = self.also(record, now)
        found = {**identities.indexed_of(record), **self.changed}
        kept = {option: name for option, name in found.items() if name is not None}
        parts = {kind: part for kind, part in record.parts.items() if kind != INDEXED}
        if kept:
            parts[INDEXED] = identities.indexed_part(kept)
        return replace(record, parts=parts)


class HasId(Protocol):
    """A session."""

    @property
    def id(self) -> str | None:
        """Public."""
        ...


class Deciding(Protocol):
    """A commit of which something more may have to be carried out than was asked."""

    changes: Changes
    lifetime: Lifetime | None
    mark: Mark | None
    moving: Moving | None
    rewrite: Callable[[Record, int], Record] | None

    @property
    def session(self) -> HasId:
        """Whose it is."""
        ...


class Decider:
    """Decides for the commits of one manager."""

    __slots__ = ("_options", "_policy")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._options = {
            hashlib.blake2b(name.encode(), digest_size=4, person=b"asgi-ses option").digest(): (name, key)
            for name, key in policy.indexes.items()
        }

    def signed(self, entries: Mapping[str, bytes], since: int) -> Signed:
        """Return what a record of `entries` is to say of who is signed in, `since` when (ms)."""
        policy = self._policy
        if policy.identity is None:
            return NOT_SIGNED
        who = policy.identity.who(entries)
        if who.principal is None:
            return Signed(further=who.further)
        return Signed(policy.tokens.index("identity", who.principal), since, who.further)

    def decide(self, commit: Deciding, at: Standing) -> None:
        """Have a commit carry out what its changes ask for: of who is signed in, and of the further indexes.

        Raises:
            SessionError: they change who is signed in, and no new cookie can reach the client.
            SessionSerializationError: who is signed in cannot be told.
        """
        mark, version = commit.mark, at.version
        if version is None and at.detached and mark is None and not at.no_cookie:
            if self.signed(own_keys(commit.changes), 0).key != NOBODYS:
                commit.mark = Mark(Kind.SIGN_IN)  # a login must not be lost because of a cookie that is dead
            return
        if version is None or (mark is not None and mark.ends):  # what is created then is looked at there
            return
        kind = self._turn(version.record, at.origin, commit.changes)
        if kind is None and mark is not None and mark.kind is Kind.REAUTHENTICATE:
            kind = self._first_proof(version.record)
        if kind is not None:
            if at.no_cookie:
                raise refuse_here(at.no_cookie)
            commit.mark = mark = Mark(kind)
            if kind is Kind.PROMOTE:
                further = self.signed(merge(dict(at.origin), commit.changes), 0).further
                commit.rewrite = partial(identities.with_further, further)
        if mark is None or not mark.ends:
            self._move(commit, version.record, at)

    def refuse_in_transaction(self, entries: Mapping[str, bytes], changes: Changes) -> None:
        """Refuse a transaction that changes who is signed in, or the further indexes of its session.

        Raises:
            SessionError: it does.
            SessionSerializationError: who is signed in cannot be told.
        """
        if self._policy.has_indexes and changes:
            after = merge(dict(entries), changes)
            if self.signed(entries, 0) != self.signed(after, 0) or self.indexed(entries) != self.indexed(
                after
            ):
                raise refuse_here("in a transaction")

    def _turn(self, record: Record, entries: Mapping[str, bytes], changes: Changes) -> Kind | None:
        """Return what is to be carried out because a commit changes who is signed in; None: nothing."""
        identity = self._policy.identity
        if identity is None or not changes or not identity.may_change_with(changes):
            return None
        before = signed_of(record)
        if PRINCIPAL not in record.parts:  # made before the option was
            before = self.signed(record.entries, 0)
        match turn(before, self.signed(merge(dict(entries), changes), 0)):
            case "same":
                return None
            case "in":
                return Kind.SIGN_IN
            case "further":
                return Kind.PROMOTE
            case _:
                return Kind.CLEAR

    def _first_proof(self, record: Record) -> Kind | None:
        """Return what carries out a `reauthenticated` of a record that does not say who is signed in.

        It was made before the option was, and is in no index: it goes on in one that is.
        """
        known = PRINCIPAL in record.parts or self.signed(record.entries, 0).key == NOBODYS
        return None if known else Kind.SIGN_IN

    def indexed(self, entries: Mapping[str, bytes]) -> dict[bytes, bytes]:
        """Return the further indexes that a record of `entries` belongs to."""
        found: dict[bytes, bytes] = {}
        for option, (name, key) in self._options.items():
            value = key.who(entries).principal
            if value is not None:
                found[option] = self._policy.tokens.index(name, value)
        return found

    def _move(self, commit: Deciding, record: Record, at: Standing) -> None:
        """Have a commit enter its record into the further indexes that it changes, and leave others."""
        changes, lifetime = commit.changes, commit.lifetime
        until = lifetime.deadline if lifetime is not None else None
        prolonged = identities.names_of(record) if until is not None and until > record.deadline else []
        moves = any(key.may_change_with(changes) for _, key in self._options.values())
        if not (moves or prolonged):
            return
        before, after = identities.indexed_of(record), self.indexed(merge(dict(at.origin), changes))
        changed = {
            option: after.get(option)
            for option in before.keys() | after.keys()
            if before.get(option) != after.get(option)
        }
        if not (changed or prolonged):
            return
        entered = [name for name in changed.values() if name is not None]
        left = [before[option] for option in changed if option in before]
        place = Place(commit.session.id or "", record, entered, at.began or self._policy.clock())
        if until is not None:
            place.until = max(place.until, until)
        commit.moving = Moving(place, left, changed, commit.rewrite, prolonged)
        if changed:
            commit.rewrite = commit.moving.rewrite

    def parts(self, entries: Mapping[str, bytes], since: int, description: bytes) -> dict[int, bytes]:
        """Return what a new record of `entries` says of who it belongs to, signed in `since` when (ms)."""
        parts: dict[int, bytes] = {}
        signed = self.signed(entries, since)
        if signed != NOT_SIGNED:
            parts[PRINCIPAL] = signed.part()
        indexed = self.indexed(entries)
        if indexed:
            parts[INDEXED] = identities.indexed_part(indexed)
        if description and signed.key != NOBODYS:
            parts[DESCRIPTION] = description
        return parts

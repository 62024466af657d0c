"""What differs: the contents, the version of the record that they are of, and what is to become of both.

What was changed is found at commit. Every key has its *origin*: the bytes from which the value in hand
was decoded, or to which it was last encoded. A key is changed if its value's bytes differ from its own
origin, whatever the store holds by then.

Nobody but the classes of this package assigns what a session is: the engine calls the methods below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from asgi_session._data import codec
from asgi_session._data.change import Changes, Kind, Mark, gone, own_keys, too_large
from asgi_session._data.record import Version
from asgi_session._data.token import Token
from asgi_session._session.contents import ABSENT, UNDECODED, Contents
from asgi_session.errors import SessionError, SessionGone

Status: TypeAlias = Literal["unloaded", "blank", "new", "live", "detached", "anonymous", "ended"]
"""What a session is to the store.

``blank``: cleared or destroyed before it was loaded; it reads empty, and a commit loads first. ``new``: no
record; one is created when there is something to keep. ``detached``: its record has moved on; it reads
empty and writes nowhere. ``anonymous``: the store was away (``on_unavailable="anonymous"``); writing is an
error. ``ended``: by its own `destroy`.
"""

Owed: TypeAlias = Literal["nothing", "cookie", "deletion"]
"""The Set-Cookie that the next response headers must carry."""

_UNLOADED_KEY: Final = "session not loaded"
_NO_KEYS: Final[dict[str, None]] = {}  # shared: nobody changes them
_NO_ORIGIN: Final[dict[str, bytes]] = {}


class Tracked(Contents):
    """Contents that know what they came from, and what was done to them since.

    Attributes:
        _status: what it is to the store.
        _token: its credential; None while there is none.
        _version: the version it was loaded from or last committed to; None while there is none.
        _expires_at: ms; later than the version's when a touch is on its way.
        _mark: what the next commit is to carry out.
        _era: counts what makes the bookkeeping of a commit on its way pointless.
        _replaced: values that were handed out and then replaced, with their bytes.
        _sealed: the headers have left: no cookie can be sent any more.
        _confirmed: the request's own cookie has opened it.
        _owed: the Set-Cookie that is due.
    """

    __slots__ = (
        "_confirmed", "_era", "_expires_at", "_mark", "_owed", "_replaced", "_sealed", "_status", "_token",
        "_version",
    )  # fmt: skip

    _confirmed: bool
    _era: int
    _expires_at: int
    _mark: Mark | None
    _owed: Owed
    _replaced: Sequence[tuple[str, Any, bytes]]
    _sealed: bool
    _status: Status
    _token: Token | None
    _version: Version | None

    def __init__(self) -> None:
        dict.__setitem__(self, _UNLOADED_KEY, UNDECODED)
        self._opened = self._confirmed = self._sealed = False
        self._status = "unloaded"
        self._token = self._version = self._mark = None
        self._era = self._expires_at = 0
        self._owed = "nothing"
        self._origin = _NO_ORIGIN
        self._watched = self._assigned = _NO_KEYS
        self._replaced = ()

    # ---------------------------------------------------------------- which version it is of

    def _attach(self, status: Status, token: Token | None = None, version: Version | None = None) -> None:
        """Take the state that a load has found; of two loads the first counts."""
        unloaded = self._status == "unloaded"
        if not unloaded and self._status != "blank":
            return
        self._status, self._token, self._version = status, token, version
        if version is not None:
            self._expires_at = version.stored.expires_at
            self._confirmed = True
        if unloaded:  # else it was cleared before, and what was set since stays
            dict.clear(self)
            self._watched = {}
            if version is not None:
                self._origin = origin = version.record.entries
                dict.update(self, dict.fromkeys(origin, UNDECODED))

    def _unload(self) -> dict[str, Any]:
        """Be as before the load, since the store was away then; return what was set since."""
        own = {key: self[key] for key in self._watched if key in self}
        self._status = "unloaded"
        return own

    def _stay_anonymous(self) -> None:
        """Note that the store is still away."""
        self._status = "anonymous"

    def _detach(self, *, keep: bool) -> None:
        """Become a session whose record has moved on; uncommitted changes are dropped.

        With `keep` they stay: it was cleared meanwhile, and what it holds begins anew.
        """
        self._status, self._version = "detached", None
        if not keep:
            self._mark = None
            self._forget()

    def _touched(self, was: Version, expires_at: int) -> None:
        """Note that the store has moved the expiry of a version; the next save must expect that."""
        if self._version is was:
            self._version = was.expiring(expires_at)

    # ---------------------------------------------------------------- what differs

    def _changes(self, max_size: int | None = None) -> Changes:
        """Return what differs from its origin.

        With `max_size` (bytes) changes that are larger, and larger than what they replace, are refused
        before their values are walked: that costs many times what encoding them does.

        Raises:
            SessionSerializationError: a value cannot be stored.
            SessionTooLarge: see above.
        """
        changes: Changes = {}
        if self._status == "unloaded":
            return changes
        unchecked: list[tuple[str, Any]] = []
        origins = self._origin
        size = before = 0
        for key in self._watched:
            value = dict.get(self, key, ABSENT)
            origin = origins.get(key)
            if value is ABSENT:
                if origin is not None:
                    changes[key] = None
                    before += len(origin)
            elif value is not UNDECODED:
                encoded = codec.encode(value, key)
                if encoded != origin:
                    changes[key] = encoded
                    size += len(encoded)
                    if origin is not None:
                        before += len(origin)
                    if type(value) not in codec.SCALARS or not key.isascii():
                        unchecked.append((key, value))
        if max_size is not None and size > max_size and size > before:
            raise too_large(size, max_size)
        for key, value in unchecked:
            codec.check(value, key)
        return changes

    def _take(self, max_size: int) -> Changes:
        """Return the changes for a commit, whose bookkeeping they then are.

        What cannot be changed in place is looked at again only when it is set again, or handed back.
        """
        changes = self._changes(max_size)
        for key in changes:
            value = dict.get(self, key)
            if type(value) in codec.SCALARS or not codec.is_mutable(value):
                del self._watched[key]
        return changes

    def _own_values(self, changes: Changes) -> dict[str, bytes]:
        """Return what may go on in a new record: what this request has set, whether or not it differs.

        That is more than `changes`, of which a key that was set to the value it had is none.
        """
        own: dict[str, bytes] = {}
        for key in self._assigned:
            value = dict.get(self, key, ABSENT)
            if key not in changes and value is not ABSENT:
                own[key] = self._origin[key] if value is UNDECODED else codec.encode(value, key)
        own.update(own_keys(changes))
        return own

    def _hand_back(self, changes: Iterable[str], era: int) -> None:
        """Have the changes of a commit that failed looked at again."""
        if era == self._era:
            self._watched.update(dict.fromkeys(changes))

    def _note_assigned(self, keys: Iterable[str]) -> None:
        """Take notice of keys that a transaction has set."""
        self._assigned = {**self._assigned, **dict.fromkeys(keys)}

    def _refuse_if_ended(self) -> None:
        if self._status == "ended" or (self._mark is not None and self._mark.kind is Kind.DESTROY):
            raise SessionGone(
                "destroy() has ended this session, so it can no longer be changed. To end a session and "
                "start a new one in the same request, use clear()"
            )

    def _is_to_end(self) -> bool:
        """Whether nothing of its record may come back into it: it was cleared; SessionGone if destroyed."""
        mark = self._mark
        if self._status == "ended" or (mark is not None and mark.kind is Kind.DESTROY):
            raise gone()
        return mark is not None and mark.kind is Kind.CLEAR

    # ---------------------------------------------------------------- what became of it

    def _saved(self, changes: Changes, era: int, version: Version, *, merged: bool) -> None:
        """Note that `changes`, as they were in `era`, are in the store, as part of `version`."""
        was, self._version, self._expires_at = self._version, version, version.stored.expires_at
        if era != self._era:
            return  # emptied or refreshed meanwhile: those bytes are no longer anyone's origin
        if not merged and was is not None and self._origin is was.record.entries:
            self._origin = version.record.entries  # just that, with the changes applied
            return
        origin = dict(self._origin)
        for key, encoded in changes.items():
            if encoded is None:
                origin.pop(key, None)
            else:
                origin[key] = encoded
        self._origin = origin
        if merged:
            self._take_over(origin, version.record.entries, keep=changes, handed_out=False)

    def _created(self, token: Token, version: Version, era: int) -> None:
        """Become the new session that a commit of `era` has created, with its own keys and no others."""
        self._status, self._token, self._owed = "live", token, "cookie"
        self._version, self._expires_at = version, version.stored.expires_at
        self._confirmed = False
        if era == self._era:
            for key in self._origin.keys() - version.record.entries.keys():
                # Of another identity: what this session was before it had to begin anew. Not what was set
                # while it did.
                if key not in self._assigned:
                    dict.pop(self, key, None)
                    self._watched.pop(key, None)
            self._origin = version.record.entries
        elif self._mark is None:  # changes were discarded meanwhile: it is what is stored, and nothing else
            self._revert()

    def _rotated(self, token: Token) -> None:
        """Take the new credential."""
        self._token, self._owed = token, "cookie"

    def _ended(self, kind: Kind) -> None:
        """Note that its record has ended, as `destroy` or `clear` asked."""
        self._status = "ended" if kind is Kind.DESTROY else "new"
        self._version = self._token = None
        # A session that this request has created itself never had a cookie; the client's own may be
        # another one by now.
        self._owed = "deletion" if self._confirmed else "nothing"

    def _refreshed(self, version: Version, rules: Mapping[str, Any]) -> None:
        """Take over `version`, under the uncommitted changes; `rules`: the keys with a merge rule."""
        changes = self._changes()
        entries = version.record.entries
        self._version, self._expires_at = version, version.stored.expires_at
        self._era += 1
        origin = dict(self._origin)
        self._take_over(origin, entries, keep=changes, handed_out=True)
        for key, encoded in changes.items():
            if encoded is None and key not in entries:
                origin.pop(key, None)
            elif key not in rules:
                # From now on it is a change of the newest value: what others did to it was seen. With a
                # rule it stays one of the value that it was made on, or the others' changes would be lost.
                if key in entries:
                    origin[key] = entries[key]
                else:
                    origin.pop(key, None)
        self._origin = origin

    def _take_over(
        self, origin: dict[str, bytes], entries: Mapping[str, bytes], *, keep: Changes, handed_out: bool
    ) -> None:
        """Bring keys that `entries` has differently up to date.

        Args:
            origin: changed in place.
            entries: the newest record's.
            keep: keys to leave alone.
            handed_out: whether values that were already decoded are replaced too.
        """
        if origin == entries:  # always so for who gets a lock that nobody else had
            return
        replaced: list[tuple[str, Any, bytes]] = []
        for key in {**origin, **entries}:
            newest = entries.get(key)
            if key in keep or origin.get(key) == newest:
                continue
            held = dict.get(self, key, ABSENT)
            if held is ABSENT and key in origin:
                continue  # deleted here since, not committed yet
            if held is not UNDECODED and held is not ABSENT:
                if not handed_out or key not in origin:
                    continue
                if codec.is_mutable(held):
                    replaced.append((key, held, origin[key]))
            self._assigned.pop(key, None)
            if newest is None:
                dict.pop(self, key, None)
                origin.pop(key, None)
            else:
                dict.__setitem__(self, key, UNDECODED)
                origin[key] = newest
        if replaced:
            self._replaced = (*self._replaced, *replaced)

    def _stale_values(self) -> list[str]:
        """Return the keys of replaced values that were changed after a refresh; forget them."""
        stale = []
        for key, value, encoded in self._replaced:
            try:
                changed = codec.encode(value, key) != encoded
            except SessionError:
                changed = True
            if changed:
                stale.append(key)
        self._replaced = ()
        return stale

    # ---------------------------------------------------------------- forgetting

    def _forget(self) -> None:
        """Be empty, and know of nothing that was changed."""
        dict.clear(self)
        self._era += 1
        self._origin, self._replaced = _NO_ORIGIN, ()
        self._watched, self._assigned = {}, {}

    def _drop_changes(self) -> list[str]:
        """Forget what was changed, and what was to be carried out, since the request failed; its keys."""
        keys = list(self._watched)
        self._watched, self._mark = {}, None
        return keys

    def _drop_late(self) -> None:
        """Forget what was changed: it can no longer be kept."""
        self._watched = {}

    def _revert(self) -> None:
        """Have the values of the last load, commit or refresh, and no changes."""
        if self._status not in ("live", "new") or (
            self._mark is not None and self._mark.kind is Kind.DESTROY
        ):
            return
        self._assigned = {key: None for key in self._assigned if self._is_stored(key)}
        self._mark = None
        self._era += 1
        self._origin = self._version.record.entries if self._version is not None else _NO_ORIGIN
        self._watched, self._replaced = {}, ()
        dict.clear(self)
        dict.update(self, dict.fromkeys(self._origin, UNDECODED))

    def _is_stored(self, key: str) -> bool:
        """Tell whether the value in hand is the one in the store, as far as known."""
        value = dict.get(self, key, ABSENT)
        stored = self._version.record.entries.get(key) if self._version is not None else None
        if stored is None or value is ABSENT:
            return False
        try:
            return (self._origin.get(key) if value is UNDECODED else codec.encode(value, key)) == stored
        except SessionError:
            return False

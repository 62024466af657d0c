"""Which version of the record the contents are of, and what became of what was changed.

Nobody but the classes of this package assigns what a session is: the engine calls the methods below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

from asgi_session._data import codec
from asgi_session._data.change import NO_CHANGES, Changes, Kind, Mark, gone
from asgi_session._data.lifetime import Lifetime
from asgi_session._data.record import Version
from asgi_session._data.token import Token
from asgi_session._session.contents import ABSENT, UNDECODED
from asgi_session._session.tracked import NO_ORIGIN, Tracked
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

UNLOADED_KEY: Final = "session not loaded"


class Versioned(Tracked):
    """Contents of a version of the record, and what is to become of that.

    Attributes:
        _status: what it is to the store.
        _token: its credential; None while there is none.
        _version: the version it was loaded from or last committed to; None while there is none.
        _cookie_dead: this request has ended what its own cookie opened.
        _expires_at: ms; later than the version's when a touch is on its way.
        _mark: what the next commit is to carry out.
        _sealed: the headers have left: no cookie can be sent any more.
        _confirmed: the request's own cookie has opened it.
        _owed: the Set-Cookie that is due.
    """

    __slots__ = (
        "_confirmed", "_cookie_dead", "_expires_at", "_mark", "_owed", "_sealed", "_status", "_token",
        "_version",
    )  # fmt: skip

    _confirmed: bool
    _cookie_dead: bool
    _expires_at: int
    _mark: Mark | None
    _owed: Owed
    _sealed: bool
    _status: Status
    _token: Token | None
    _version: Version | None

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

    def _move_in(self, token: Token, version: Version) -> None:
        """Take the state of the session that goes on from the request's old cookie."""
        self._attach("live", token, version)
        self._owe_cookie()

    def _unload(self) -> dict[str, Any]:
        """Be as before the load, since the store was away then; return what was set since."""
        own = {key: self[key] for key in self._watched if key in self}
        self._status = "unloaded"
        return own

    def _stay_anonymous(self) -> None:
        """Note that the store is still away."""
        self._status = "anonymous"

    def _detach(self, carried: Mark | None) -> None:
        """Become a session whose record has moved on; uncommitted changes are dropped.

        They stay if it was cleared or rotated meanwhile: that begins anew, and a login must not be lost.
        `carried`: the mark of the commit that found out, which is done with.
        """
        mark = self._mark
        self._status, self._version = "detached", None
        if mark is None or mark is carried or not mark.begins_anew:
            self._mark = None
            self._forget()

    def _touched(self, was: Version, expires_at: int) -> None:
        """Note that the store has moved the expiry of a version; the next save must expect that."""
        if self._version is was:
            self._version = was.expiring(expires_at)

    def _came_back(self, was: Version, version: Version) -> None:
        """Note the version in which a credential is known to have come back; its values are the same."""
        if self._version is was and version.record.entries == was.record.entries:
            self._version, self._expires_at = version, version.stored.expires_at

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

    def _take_lifetime(self, *, alone: bool) -> Lifetime | None:
        """Return what is to change of its lifetime, which is taken for a commit; None: nothing.

        With `alone` there is nothing else to commit: a new session then keeps it until it has data.
        """
        mark = self._mark
        if alone and (self._status == "new" if mark is None else mark.ends):
            return None
        lifetime, self._lifetime = self._lifetime, None
        if lifetime is None or self._version is None or mark is not None:
            return lifetime  # as with keys: all that was set goes on in a new record, if it comes to that
        return lifetime.differing(self._version.record)

    def _began_anew_since(self, era: int) -> bool:
        """Whether a session without a record has become another since that era."""
        return self._era != era and (self._is_to_end() or self._status != "new")

    # ---------------------------------------------------------------- what became of a commit

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

    def _created(self, token: Token, version: Version, era: int, taken: Changes = NO_CHANGES) -> None:
        """Become the new session that a commit of `era` has created, with its own keys and no others.

        `taken`: what that commit has changed.
        """
        self._status, self._token, self._owed = "live", token, "cookie"
        self._version, self._expires_at = version, version.stored.expires_at
        self._confirmed = False
        if era == self._era:
            entries = version.record.entries
            for key in self._origin.keys() - entries.keys():
                # Of another identity: what this session was before it had to begin anew. Not what was set
                # while it did.
                if key not in self._assigned:
                    dict.pop(self, key, None)
                    self._watched.pop(key, None)
            if self._origin:  # the data of before went along, perhaps with what others had saved meanwhile
                mine: Changes = {key: entries.get(key) for key in (*self._assigned, *taken)}
                origin = {
                    key: value
                    for key, value in {**self._origin, **mine}.items()
                    if value is not None and key in entries
                }
                self._take_over(origin, entries, keep=mine, handed_out=False)
                self._origin = origin
            else:
                self._origin = entries
        elif self._mark is None:  # changes were discarded meanwhile: it is what is stored, and nothing else
            self._revert()

    def _rotated(self, token: Token) -> None:
        """Take the new credential."""
        self._token, self._owed = token, "cookie"

    def _owe_cookie(self) -> None:
        """Have the response carry the cookie again, unless its headers have left."""
        if not self._sealed and self._owed == "nothing":
            self._owed = "cookie"

    def _ended(self, kind: Kind, *, keep: Iterable[str] | None = None) -> None:
        """Note that its record has ended, as `destroy` or `clear` asked.

        `keep`: the keys of it that the session goes on with, since it is somebody else's; None: all.
        """
        if keep is not None:
            self._leave_behind(keep)
        self._status = "ended" if kind is Kind.DESTROY else "new"
        self._version = self._token = None
        self._cookie_dead = self._cookie_dead or self._confirmed
        # A session that this request has created itself never had a cookie; the client's own may be
        # another one by now. Unless that is the one that this request has ended before.
        self._owed = "deletion" if self._cookie_dead else "nothing"

    def _refreshed(self, version: Version, rules: Mapping[str, Any]) -> bool:
        """Take over `version`, under the uncommitted changes; whether it was taken over.

        Of one that is to end, or to begin anew, the version is noted, and none of its values: they are
        of the identity that ends.

        Args:
            version: the newest.
            rules: the keys with a merge rule.
        """
        if self._mark is not None and self._mark.ends:
            self._version, self._expires_at = version, version.stored.expires_at
            return False
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
        return True

    # ---------------------------------------------------------------- forgetting

    def _leave_behind(self, keep: Iterable[str]) -> None:
        """Have no value of the record that has ended but those of the keys `keep`, which count as changed."""
        kept = {key: None for key in keep if dict.__contains__(self, key)}
        if not kept:
            self._forget()
            return
        for key in kept:
            self[key]  # decoded while there is something to decode it from
        for key in self._origin.keys() - kept.keys():
            if key not in self._assigned:  # not what was set while it ended
                dict.pop(self, key, None)
                self._watched.pop(key, None)
        self._origin, self._replaced = NO_ORIGIN, ()
        self._watched.update(kept)

    def _drop_changes(self) -> list[str]:
        """Forget what was changed, and what was to be carried out, since the request failed; its keys."""
        keys = list(self._watched)
        self._watched, self._mark, self._lifetime = {}, None, None
        return keys

    def _revert(self) -> None:
        """Have the values of the last load, commit or refresh, and no changes."""
        ended = self._status == "ended" or (self._mark is not None and self._mark.kind is Kind.DESTROY)
        if ended or self._status in ("unloaded", "blank"):
            return
        self._assigned = {key: None for key in self._assigned if self._is_stored(key)}
        self._mark = self._lifetime = None
        self._era += 1
        self._origin = self._version.record.entries if self._version is not None else NO_ORIGIN
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

"""What differs: every key has its *origin*, and what is no longer equal to it is a change.

What was changed is found at commit. A key's origin is the bytes from which the value in hand was decoded,
or to which it was last encoded. A key is changed if its value's bytes differ from its own origin, whatever
the store holds by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from asgi_session._data import codec
from asgi_session._data.change import Changes, own_keys, too_large
from asgi_session._data.lifetime import Lifetime
from asgi_session._data.values import SCALARS
from asgi_session._session.contents import ABSENT, UNDECODED, Contents
from asgi_session.errors import SessionError

NO_KEYS: Final[dict[str, None]] = {}  # shared: nobody changes them
NO_ORIGIN: Final[dict[str, bytes]] = {}


class Tracked(Contents):
    """Contents that know what they came from, and what was done to them since.

    Attributes:
        _era: counts what makes the bookkeeping of a commit on its way pointless.
        _lifetime: what is to change of its lifetime; None: nothing.
        _replaced: values that were handed out and then replaced, with their bytes.
    """

    __slots__ = ("_era", "_lifetime", "_replaced")

    _era: int
    _lifetime: Lifetime | None
    _replaced: Sequence[tuple[str, Any, bytes]]

    def _changes(self, max_size: int | None = None, *, take: bool = False) -> Changes:
        """Return what differs from its origin.

        With `max_size` (bytes) changes that are larger, and larger than what they replace, are refused
        before their values are walked: that costs many times what encoding them does. With `take` they
        are taken for a commit, whose bookkeeping they then are: what cannot be changed in place is looked
        at again only when it is set again, or handed back.

        Raises:
            SessionSerializationError: a value cannot be stored.
            SessionTooLarge: see above.
        """
        changes: Changes = {}
        unchecked: list[tuple[str, Any, bytes]] = []
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
                    if type(value) not in SCALARS or not key.isascii():
                        unchecked.append((key, value, encoded))
        if max_size is not None and size > max_size and size > before:
            raise too_large(size, max_size)
        for key, value, encoded in unchecked:
            codec.check(value, key, encoded)
        if take:
            mutable = {key for key, value, _ in unchecked if codec.is_mutable(value)} if unchecked else ()
            for key in changes:
                if key not in mutable:
                    del self._watched[key]
        return changes

    def _own_values(self, changes: Changes, *, only_set: bool = False) -> dict[str, bytes]:
        """Return what may go on in a new record: what this request has set, whether or not it differs.

        That is more than `changes`, of which a key that was set to the value it had is none; and, with
        `only_set`, less: what was changed inside a value that was there is left out.
        """
        own: dict[str, bytes] = {}
        for key in self._assigned:
            value = dict.get(self, key, ABSENT)
            if key not in changes and value is not ABSENT:
                own[key] = self._origin[key] if value is UNDECODED else codec.encode(value, key)
        changed = own_keys(changes)
        own.update({key: changed[key] for key in changed if key in self._assigned} if only_set else changed)
        return own

    def _hand_back(self, changes: Iterable[str], era: int, lifetime: Lifetime | None) -> None:
        """Have what a commit that failed has taken looked at again."""
        if era == self._era:
            self._watched.update(dict.fromkeys(changes))
            if lifetime is not None:
                self._lifetime = lifetime.then(self._lifetime)

    def _note_assigned(self, keys: Iterable[str]) -> None:
        """Take notice of keys that a transaction has set."""
        self._assigned = {**self._assigned, **dict.fromkeys(keys)}

    # ---------------------------------------------------------------- news from others

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
        self._origin, self._replaced, self._lifetime = NO_ORIGIN, (), None
        self._watched, self._assigned = {}, {}

    def _drop_late(self) -> None:
        """Forget what was changed: it can no longer be kept."""
        self._watched, self._lifetime = {}, None

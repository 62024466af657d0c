"""Who is signed in: which keys of a session say so, and what a change of them asks for. No I/O.

The first identity key names the *principal*, as text. A record says whose it is in an optional part of its
own, so that nobody has to decode a value, and no merge can change it: a commit that makes another principal
goes on in another record.

Bytes of the part, numbers big-endian: the principal's index key (16; zeros: nobody's), when the sign-in was
(6, ms since the Unix epoch; 0: never), a digest of the further identity keys (8; zeros: none is set).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec.structs import replace

from asgi_session._data import codec
from asgi_session._data.record import INDEXED, PRINCIPAL, Record
from asgi_session._data.values import shown
from asgi_session.errors import ConfigurationError, SessionError, SessionSerializationError

IdentityKey: TypeAlias = str | Callable[[Mapping[str, Any]], Any]
"""A key (``"user_id"``), a path (``"user.sub"``), or a function of the session's values."""

Turn: TypeAlias = Literal["same", "in", "switch", "out", "further"]
"""What a commit does to the identity: nothing; nobody to somebody; to another; to nobody; a further key."""

NOBODYS: Final = bytes(16)
"""The index key of a record that is nobody's."""
_NO_FURTHER: Final = bytes(8)
LOOKS_LIKE_ONE: Final = frozenset(
    ("user_id", "user", "uid", "sub", "username", "_auth_user_id", "account_id")
)
"""Keys that say who is signed in, in most apps."""


class Who(msgspec.Struct, frozen=True, gc=False):
    """What the identity keys say.

    Attributes:
        principal: who is signed in; None: nobody.
        further: a digest of the further keys.
    """

    principal: str | None = None
    further: bytes = _NO_FURTHER


class Signed(msgspec.Struct, frozen=True, gc=False):
    """What a record says of who is signed in.

    Attributes:
        key: the principal's index key; `NOBODYS`: nobody is.
        since: when the sign-in was, or was repeated, ms; 0: never.
        further: a digest of the further keys.
    """

    key: bytes = NOBODYS
    since: int = 0
    further: bytes = _NO_FURTHER

    def part(self) -> bytes:
        """Return its bytes."""
        return self.key + self.since.to_bytes(6, "big") + self.further


NOT_SIGNED: Final = Signed()


def is_signed_in(parts: Mapping[int, bytes]) -> bool:
    """Tell whether the parts of a record name somebody."""
    return parts.get(PRINCIPAL, NOBODYS)[:16] != NOBODYS


def signed_of(record: Record) -> Signed:
    """Return what `record` says of who is signed in."""
    part = record.parts.get(PRINCIPAL)
    if part is None:
        return NOT_SIGNED
    return Signed(part[:16], int.from_bytes(part[16:22], "big"), part[22:])


def proved_again(record: Record, now: int) -> Record:
    """Return `record` as whoever is signed in has proved at `now` (ms) that it is them."""
    if PRINCIPAL not in record.parts:
        return record
    signed = signed_of(record)
    return replace(record, parts={**record.parts, PRINCIPAL: Signed(signed.key, now, signed.further).part()})


def with_further(further: bytes, record: Record, _: int) -> Record:
    """Return `record` with another digest of the further keys, if it says who is signed in."""
    signed = signed_of(record)
    if PRINCIPAL not in record.parts:  # made before the option was: it is in no index, and is not to say so
        return record
    changed = Signed(signed.key, signed.since, further)
    return replace(record, parts={**record.parts, PRINCIPAL: changed.part()})


def indexed_of(record: Record) -> dict[bytes, bytes]:
    """Return the further indexes that a record is in: what tells the option's keys apart, to their names."""
    part = record.parts.get(INDEXED, b"")
    return {part[at : at + 4]: part[at + 4 : at + 20] for at in range(0, len(part), 20)}


def indexed_part(indexed: Mapping[bytes, bytes]) -> bytes:
    """Return the bytes of what `indexed_of` reads."""
    return b"".join(option + name for option, name in sorted(indexed.items()))


def claims(record: Record, name: bytes) -> bool:
    """Tell whether a session's record says that it belongs to the index of that name."""
    part = record.parts.get(PRINCIPAL)
    return (part is not None and part[:16] == name) or name in indexed_of(record).values()


def names_of(record: Record) -> list[bytes]:
    """Return the names of the indexes that a session's record says it belongs to."""
    key = signed_of(record).key
    return [*([key] if key != NOBODYS else []), *indexed_of(record).values()]


class Values(Mapping[str, Any]):
    """The values of encoded entries, decoded when they are looked at; each look gives another object."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[str, bytes]) -> None:
        self._entries = entries

    def __getitem__(self, key: str) -> Any:
        return codec.decode(self._entries[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Identity:
    """The identity keys of a manager.

    Args:
        name: of the option, for errors.
        keys: the option's value: an identity key, or several.

    Attributes:
        roots: the session's keys on which it depends; None: it may depend on any.
    """

    __slots__ = ("_finders", "_name", "roots")

    def __init__(self, keys: IdentityKey | Sequence[IdentityKey], name: str = "identity") -> None:
        self._name = name
        several = [keys] if isinstance(keys, str) or callable(keys) else list(_sequence(keys, name))
        if not several:
            raise ConfigurationError(f"{name}=(): name at least one key, or leave it out")
        self._finders = [_finder(key, name) for key in several]
        roots = [key.split(".", 1)[0] for key in several if isinstance(key, str)]
        self.roots: frozenset[str] | None = frozenset(roots) if len(roots) == len(several) else None

    def principal(self, entries: Mapping[str, bytes]) -> str | None:
        """Return whom `entries` name first; see `who`."""
        return principal_text(self._finders[0](Values(entries)), self._name)

    def who(self, entries: Mapping[str, bytes]) -> Who:
        """Return who `entries` say is signed in.

        Raises:
            SessionSerializationError: the principal is neither text nor a number nor a UUID.
        """
        values = Values(entries)
        first, *others = self._finders
        principal = principal_text(first(values), self._name)
        if not others:
            return Who(principal)
        found = [find(values) for find in others]
        if all(value is None for value in found):
            return Who(principal)
        encoded = codec.encode(found, self._name)
        return Who(principal, hashlib.blake2b(encoded, digest_size=8, person=b"asgi-ses further").digest())

    def may_change_with(self, keys: Mapping[str, Any]) -> bool:
        """Tell whether a change of `keys` may be one of the identity."""
        return self.roots is None or not self.roots.isdisjoint(keys)


def turn(before: Signed, after: Signed) -> Turn:
    """Tell what a commit does to the identity of a record."""
    if before.key == after.key:
        return "same" if before.further == after.further else "further"
    if before.key == NOBODYS:
        return "in"
    return "out" if after.key == NOBODYS else "switch"


def principal_text(value: Any, name: str = "identity") -> str | None:
    """Return a principal as text: 7 and "7" are one user. None and "" are nobody.

    Raises:
        SessionSerializationError: it is neither text nor a number nor a UUID.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return str.__str__(value) or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, UUID):
        return str(value)
    raise SessionSerializationError(
        f"{name}: who is signed in must be a str, an int or a UUID, not {type(value).__qualname__}. Name a "
        f"path ({name}='user.sub') or a function that returns one of these",
        key=name,
    )


def refuse_here(where: str) -> SessionError:
    """Return the error for a change of who is signed in where no new cookie can follow."""
    return SessionError(
        f"who is signed in cannot be changed {where}, because a new cookie cannot reach the client. Nothing "
        "was saved. Set or delete the identity key in the handler, before the response starts; to end a "
        "session call destroy()"
    )


def _finder(key: IdentityKey, name: str) -> Callable[[Mapping[str, Any]], Any]:
    if not isinstance(key, str):
        if callable(key):
            return key
        raise ConfigurationError(f"{name}={key!r}: give a key, a path such as 'user.sub', or a function")
    path = key.split(".")
    if not all(path):
        raise ConfigurationError(f"{name}={key!r}: give a key, a path such as 'user.sub', or a function")

    def find(values: Mapping[str, Any]) -> Any:
        value: Any = values
        for depth, step in enumerate(path):
            if value is None or value == "":
                return None
            if not isinstance(value, Mapping):
                where = ".".join(path[:depth])
                raise SessionSerializationError(
                    f"{name}={key!r}: session[{shown(where)}] is not a dict but a {type(value).__qualname__}",
                    key=path[0],
                )
            value = value.get(step)
        return value

    return find


def _sequence(keys: Any, name: str) -> Sequence[IdentityKey]:
    if isinstance(keys, (list, tuple)):
        return keys
    raise ConfigurationError(
        f"{name}={keys!r}: give a key, a path such as 'user.sub', a function of the session's values, or a "
        "list of these"
    )

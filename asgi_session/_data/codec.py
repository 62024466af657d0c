"""Values to bytes and back: msgpack, canonical, with the types a session needs.

What goes in comes out equal and of the same type, and encoding what was decoded gives the same
bytes again, in every process: that is what makes "the bytes differ" mean "the value was changed".

Types: None, bool, int, float, str, bytes, list, dict as msgpack has them, and by extension

====  ==========  ==========================================================================
code  type        payload
====  ==========  ==========================================================================
1     int         beyond 64 bits: big-endian two's complement, shortest
2     Decimal     its text
3     UUID        its 16 bytes
4     date        ``YYYY-MM-DD``
5     datetime    ISO 8601, then ``[zone]`` for a `ZoneInfo`, then ``/1`` for fold=1
6     tuple       a msgpack array
7     frozenset   a msgpack array, sorted by the encoded elements
8     set         the same
====  ==========  ==========================================================================

An instance of a subclass of one of these is stored as its plain value, and that is what comes back:
a member of an `IntEnum` as an int, a named tuple as a tuple. dicts are read with ``.items()``, as
`json` does; everything else is read as the plain type reads it, whatever the subclass overrides. A
datetime with nanoseconds (pandas) is refused, since they would be lost. So is everything else. Never
pickle: who can write to the store must not be able to run code (OWASP Deserialization Cheat Sheet).

Both directions take time in proportion to the bytes, whatever the shape of the value, with two
exceptions that no JSON can cause: tuples and sets inside each other are copied once per level (at
most MAX_DEPTH times), and the elements of a set are sorted.
"""

from __future__ import annotations

import re
from typing import Any, Final

from asgi_session._data.packing import pack, pack_plain
from asgi_session._data.unpacking import OUTER_HOOK, may_be_foreign, unpackb
from asgi_session._data.values import (
    ALWAYS_FINE,
    DIRECT,
    DIRECT_CONTAINERS,
    MAX_DEPTH,
    SCALARS,
    STORED,
    Refused,
    base_of,
    shown,
)
from asgi_session._data.walking import IN_KEYS, refuse, walk
from asgi_session.errors import SessionCorrupt, SessionSerializationError

_PACKED_PLAIN: Final = DIRECT | DIRECT_CONTAINERS
_BYTES_OR_EXTENSION: Final = re.compile(rb"[\xc4-\xc9\xd4-\xd8]")


def encode(value: Any, key: str) -> bytes:
    """Encode the value stored under `key`.

    Quick. It lets through a few things that must not be stored, so `check` has to follow; the size is
    looked at between the two.

    Raises:
        SessionSerializationError: it holds something that cannot be stored; names key, place, type.
    """
    try:
        if type(value) in _PACKED_PLAIN:
            try:
                return pack_plain(value)
            except (OverflowError, TypeError):  # an int beyond 64 bits; something that it does not know
                pass
        return pack(value)
    except Exception as error:  # that of a subclass's own code, too
        problem = error
    refuse(value, key, ALWAYS_FINE)  # names the place, where it finds the same
    raise SessionSerializationError(
        f"session[{shown(key)}] cannot be stored ({type(problem).__name__})", key=key
    ) from problem


def check(value: Any, key: str, encoded: bytes) -> None:
    """Refuse what `encode` has encoded but `decode` would not give back.

    Apart from `encode` because it may have to walk the value in Python: only a value that was changed
    needs it, and that is not too large.

    Raises:
        SessionSerializationError: names key, place and type.
    """
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError as error:
            message = f"session[{shown(key)}]: the key is not valid Unicode: {error}"
            raise SessionSerializationError(message, key=key) from None
    if type(value) in SCALARS or _is_plain(value, encoded):
        return
    if refuse(value, key, SCALARS) == IN_KEYS and not _comes_back(value):
        raise SessionSerializationError(
            f"session[{shown(key)}] has dict keys or set elements of a subclass that, as plain values, are "
            "equal to each other or cannot be hashed; store plain values",
            key=key,
        )


def _is_plain(value: Any, encoded: bytes) -> bool:
    """Tell, in C, that a container holds nothing that would have to be looked at; False: it may.

    What is packed without a single question holds msgpack's own types alone, and without a marker of
    bytes or an extension in it none of those that `decode` would give back as something else.
    """
    if type(value) not in DIRECT_CONTAINERS or _BYTES_OR_EXTENSION.search(encoded) is not None:
        return False
    try:
        pack_plain(value)
    except Exception:  # a subclass, a tuple, an int beyond 64 bits
        return False
    return not may_be_foreign(value, encoded)


def _comes_back(value: Any) -> bool:
    """Tell whether a value's bytes are the same again once they were decoded."""
    data = pack(value)
    try:
        return pack(decode(data)) == data
    except SessionCorrupt:
        return False


def decode(data: bytes) -> Any:
    """Decode what `encode` made.

    Raises:
        SessionCorrupt: these bytes are none of ours.
    """
    try:
        value = unpackb(data, ext_hook=OUTER_HOOK, strict_map_key=False)
        if type(value) in DIRECT or (len(data) <= MAX_DEPTH and 0xFF not in data):
            return value
        # Deeper containers and msgpack's own timestamps are never written, but msgpack reads them. The walk
        # finds them. Reading must not cost one, so first comes what rules them out at once.
        if may_be_foreign(value, data):
            walk(value, 1, SCALARS)
    except Refused:
        raise SessionCorrupt(
            f"a stored value nests deeper than {MAX_DEPTH} levels, or holds one of msgpack's timestamps: "
            "this library writes neither"
        ) from None
    except SessionCorrupt:
        raise
    except Exception as error:  # whatever msgpack, datetime, Decimal or ZoneInfo find wrong
        raise SessionCorrupt(f"a stored value cannot be decoded ({type(error).__name__})") from error
    return value


def is_mutable(value: Any) -> bool:
    """Tell whether what is stored of a value can be changed in place."""
    kind = type(value)
    base = kind if kind in STORED else base_of(kind)
    if base is tuple:
        return any(type(element) not in SCALARS and is_mutable(element) for element in tuple.__iter__(value))
    return base not in SCALARS and base is not frozenset

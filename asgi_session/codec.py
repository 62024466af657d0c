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

Subclasses (enums, str subclasses, namedtuples) are refused: they would come back as something
else. Never pickle: who can write to the store must not be able to run code (OWASP Deserialization
Cheat Sheet).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from asgi_session.errors import SessionCorrupt, SessionSerializationError

MAX_DEPTH: Final = 64
"""How deep containers may nest."""

_BIG_INT, _DECIMAL, _UUID, _DATE, _DATETIME, _TUPLE, _FROZENSET, _SET = range(1, 9)

SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, datetime, date, Decimal, UUID})
_DIRECT: Final = frozenset({type(None), bool, int, float, str, bytes})
_DATETIME_TEXT: Final = re.compile(r"([^\[\]/]+)(?:\[([^\[\]]+)\])?(/1)?")


def encode(value: Any, key: str) -> bytes:
    """Encode the value stored under `key`.

    Raises:
        SessionSerializationError: it holds something that cannot be stored; names key, place, type.
    """
    try:
        return _pack_plain(value) if type(value) in _DIRECT else _pack(value)
    except OverflowError:
        return _pack(value)  # an int beyond 64 bits
    except (TypeError, ValueError, RecursionError) as error:
        problem = error
    check(value, key)  # names the place, where it finds the same
    raise SessionSerializationError(f"session[{key!r}] cannot be stored: {problem}", key=key) from problem


def check(value: Any, key: str) -> None:
    """Refuse what `encode` would store but not give back equal and of the same type.

    Apart from `encode` because it walks the value in Python: only a value that was changed needs it.

    Raises:
        SessionSerializationError: names key, place and type.
    """
    if not key.isascii():
        _check(key, key, " (the key itself)", 1)
    if type(value) not in SCALARS or type(value) is datetime:
        _check(value, key, "", 1)


def decode(data: bytes) -> Any:
    """Decode what `encode` made.

    Raises:
        SessionCorrupt: these bytes are none of ours.
    """
    try:
        return msgpack.unpackb(data, ext_hook=_OUTER_HOOK, strict_map_key=False)
    except SessionCorrupt:
        raise
    except Exception as error:  # whatever msgpack, datetime, Decimal or ZoneInfo find wrong
        raise SessionCorrupt(f"a stored value cannot be decoded ({type(error).__name__})") from error


def is_mutable(value: Any) -> bool:
    """Tell whether a decoded value can be changed in place."""
    kind = type(value)
    if kind in SCALARS or kind is frozenset:
        return False
    if kind is tuple:
        try:
            hash(value)
        except TypeError:
            return True
        return False
    return True


# One packer for all: making one allocates its buffer. It calls no Python code while it packs these
# types, so no other thread gets in between.
_pack_plain: Final[Callable[[Any], bytes]] = msgpack.Packer(strict_types=True).pack


def _pack(value: Any) -> bytes:
    return msgpack.packb(value, default=_extension, strict_types=True)  # type: ignore[no-any-return]


def _extension(value: Any) -> msgpack.ExtType:
    kind = type(value)
    if kind is tuple:
        return msgpack.ExtType(_TUPLE, _pack(list(value)))
    if kind is set or kind is frozenset:
        code = _SET if kind is set else _FROZENSET
        elements = sorted(_pack(element) for element in value)
        return msgpack.ExtType(code, msgpack.Packer().pack_array_header(len(elements)) + b"".join(elements))
    if kind is datetime:
        return msgpack.ExtType(_DATETIME, _datetime_text(value).encode())
    if kind is date:
        return msgpack.ExtType(_DATE, value.isoformat().encode())
    if kind is Decimal:
        return msgpack.ExtType(_DECIMAL, str(value).encode())
    if kind is UUID:
        return msgpack.ExtType(_UUID, value.bytes)
    if kind is int:
        length = (value + (value < 0)).bit_length() // 8 + 1
        return msgpack.ExtType(_BIG_INT, value.to_bytes(length, "big", signed=True))
    raise TypeError(f"{kind.__qualname__} is not a type that a session stores")


def _datetime_text(value: datetime) -> str:
    zone = value.tzinfo
    fold = "/1" if value.fold else ""
    if zone is None or zone is UTC:
        return value.isoformat() + fold
    if type(zone) is timezone:
        if zone.utcoffset(None).microseconds:  # datetime.fromisoformat would drop it
            raise TypeError("datetime with a UTC offset of a fraction of a second")
        return value.isoformat() + fold
    if type(zone) is ZoneInfo and zone.key:
        return f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]{fold}"
    raise TypeError(f"datetime with tzinfo of type {type(zone).__qualname__}; use timezone or ZoneInfo")


def _check(value: Any, key: str, place: str, depth: int) -> None:
    kind = type(value)
    if depth > MAX_DEPTH and kind in _CONTAINERS:
        raise SessionSerializationError(
            f"session[{key!r}] nests deeper than {MAX_DEPTH} levels (or contains itself)", key=key
        )
    if kind is list or kind is tuple:
        for index, element in enumerate(value):
            if type(element) not in _PLAIN:
                _check(element, key, f"{place}[{index}]", depth + 1)
    elif kind is dict:
        for name, element in value.items():
            if type(name) not in _PLAIN:
                _check(name, key, f"{place} (key {name!r})", depth + 1)
            if type(element) not in _PLAIN:
                _check(element, key, f"{place}[{name!r}]", depth + 1)
    elif kind is set or kind is frozenset:
        for element in value:
            if type(element) not in _PLAIN:
                _check(element, key, f"{place} (an element)", depth + 1)
    elif kind is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise SessionSerializationError(
                f"session[{key!r}]{place} is text that is not valid Unicode: {error}", key=key
            ) from error
    elif kind is datetime:
        try:
            _datetime_text(value)
        except TypeError as error:
            raise SessionSerializationError(
                f"session[{key!r}]{place} cannot be stored: {error}", key=key
            ) from error
    elif kind not in SCALARS:
        raise SessionSerializationError(
            f"session[{key!r}]{place} is a {kind.__module__}.{kind.__qualname__}, which a session cannot "
            "store; store its plain value (str, int, dict, ...) instead",
            key=key,
        )


_PLAIN: Final = SCALARS - {datetime, str}
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})


def _unpack(data: bytes, depth: int) -> Any:
    return msgpack.unpackb(data, ext_hook=_HOOKS[depth], strict_map_key=False)


def _hook(depth: int) -> Callable[[int, bytes], Any]:
    def unpack_extension(code: int, data: bytes) -> Any:
        match code:
            case 1:  # _BIG_INT
                return int.from_bytes(data, "big", signed=True)
            case 2:  # _DECIMAL
                return Decimal(data.decode())
            case 3:  # _UUID
                return UUID(bytes=data)
            case 4:  # _DATE
                return date.fromisoformat(data.decode())
            case 5:  # _DATETIME
                return _parse_datetime(data.decode())
            case 6 | 7 | 8 if depth >= MAX_DEPTH:
                raise SessionCorrupt(f"a stored value nests deeper than {MAX_DEPTH} levels")
            case 6:  # _TUPLE
                return tuple(_elements(data, depth))
            case 7:  # _FROZENSET
                return frozenset(_elements(data, depth))
            case 8:  # _SET
                return set(_elements(data, depth))
            case _:
                raise SessionCorrupt(f"a stored value has the unknown extension type {code}")

    return unpack_extension


def _elements(data: bytes, depth: int) -> list[Any]:
    elements = _unpack(data, depth + 1)
    if type(elements) is not list:
        raise SessionCorrupt("a stored tuple or set is not an array")
    return elements


_HOOKS: Final = [_hook(depth) for depth in range(MAX_DEPTH + 1)]
_OUTER_HOOK: Final = _HOOKS[0]


def _parse_datetime(text: str) -> datetime:
    match = _DATETIME_TEXT.fullmatch(text)
    if match is None:
        raise SessionCorrupt("a stored datetime cannot be read")
    stamp, zone, fold = match.groups()
    value = datetime.fromisoformat(stamp)
    if zone is not None:
        value = value.replace(tzinfo=ZoneInfo(zone))
    elif value.tzinfo is not None and value.utcoffset() == timedelta(0):
        value = value.replace(tzinfo=UTC)
    return value.replace(fold=1) if fold else value

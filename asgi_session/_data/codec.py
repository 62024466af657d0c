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
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timezone
from decimal import Decimal
from enum import Enum
from gc import get_referents
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from asgi_session.errors import SessionCorrupt, SessionSerializationError

MAX_DEPTH: Final = 64
"""How deep containers may nest."""
_LONGEST_SHOWN: Final = 100

_BIG_INT, _DECIMAL, _UUID, _DATE, _DATETIME, _TUPLE, _FROZENSET, _SET = range(1, 9)

# Classes are looked up here, and not compared with the names `datetime` and `date`: while freezegun has
# stopped the clock, those name its own classes in every module.
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, datetime, date, Decimal, UUID})
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})
_STORED: Final = SCALARS | _CONTAINERS
_DIRECT: Final = frozenset({type(None), bool, int, float, str, bytes})
_ALWAYS_FINE: Final = _DIRECT - {str}  # text may have no UTF-8 form

_DATETIME_TEXT: Final = re.compile(r"([^\[\]/]+)(?:\[([^\[\]]+)\])?(/1)?")


def encode(value: Any, key: str) -> bytes:
    """Encode the value stored under `key`.

    Quick. It lets through a few things that must not be stored, so `check` has to follow; the size is
    looked at between the two.

    Raises:
        SessionSerializationError: it holds something that cannot be stored; names key, place, type.
    """
    try:
        if type(value) in _DIRECT:
            try:
                return _pack_plain(value)
            except OverflowError:  # an int beyond 64 bits
                pass
        return _pack(value)
    except Exception as error:  # that of a subclass's own code, too
        problem = error
    _refuse(value, key, _ALWAYS_FINE)  # names the place, where it finds the same
    raise SessionSerializationError(
        f"session[{shown(key)}] cannot be stored ({type(problem).__name__})", key=key
    ) from problem


def shown(key: str) -> str:
    """Return a session key as messages show it: a client may have made it long."""
    return repr(key) if len(key) <= _LONGEST_SHOWN else f"{key[:_LONGEST_SHOWN]!r}..."


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
    if _refuse(value, key, SCALARS) == _IN_KEYS and not _comes_back(value):
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
    if type(value) not in _DIRECT_CONTAINERS or _BYTES_OR_EXTENSION.search(encoded) is not None:
        return False
    try:
        _pack_plain(value)
    except Exception:  # a subclass, a tuple, an int beyond 64 bits
        return False
    return not _may_be_foreign(value, encoded)


def decode(data: bytes) -> Any:
    """Decode what `encode` made.

    Raises:
        SessionCorrupt: these bytes are none of ours.
    """
    try:
        value = _unpackb(data, ext_hook=_OUTER_HOOK, strict_map_key=False)
        if type(value) in _DIRECT or (len(data) <= MAX_DEPTH and 0xFF not in data):
            return value
        # Deeper containers and msgpack's own timestamps are never written, but msgpack reads them. The walk
        # finds them. Reading must not cost one, so first comes what rules them out at once.
        if _may_be_foreign(value, data):
            _walk(value, 1, SCALARS)
    except _Refused:
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
    base = kind if kind in _STORED else _base(kind)
    if base is tuple:
        return any(type(element) not in SCALARS and is_mutable(element) for element in tuple.__iter__(value))
    return base not in SCALARS and base is not frozenset


# ---------------------------------------------------------------- encoding

_packb: Final[Callable[..., Any]] = msgpack.packb
# One packer for all: making one allocates its buffer. It calls no Python code while it packs these
# types, so no other thread gets in between.
_pack_plain: Final[Callable[[Any], bytes]] = msgpack.Packer(strict_types=True).pack
_pack_array_header: Final[Callable[[int], bytes]] = msgpack.Packer().pack_array_header


def _pack(value: Any) -> bytes:
    return _packb(value, default=_OUTER_DEFAULT, strict_types=True)  # type: ignore[no-any-return]


def _pack_inner(value: Any, depth: int) -> bytes:
    # With a small buffer: one of msgpack's usual 256 KB beside another comes from the system each time.
    return _packb(  # type: ignore[no-any-return]
        value, default=_DEFAULTS[depth], strict_types=True, buf_size=1024
    )


def _pack_element(value: Any, depth: int) -> bytes:
    if type(value) in _DIRECT:
        try:
            return _pack_plain(value)
        except OverflowError:  # an int beyond 64 bits
            pass
    return _pack_inner(value, depth)


def _default(depth: int) -> Callable[[Any], Any]:
    """Return the function that msgpack calls for what it does not know, inside of `depth` extensions.

    It returns what is to be packed instead: an extension, or the plain value of a subclass.
    """

    def plain(value: Any) -> Any:
        kind = type(value)
        base = kind if kind in _STORED else _base(kind)
        writer = _SCALAR_WRITERS.get(base)
        if writer is not None:
            return writer(value)
        if base is list:
            return list.copy(value)
        if base is dict:
            return _read(value)
        if base is None:
            raise _Refused(_foreign(kind))
        if depth >= MAX_DEPTH:
            raise _Refused(_TOO_DEEP)
        if base is tuple:
            return msgpack.ExtType(_TUPLE, _pack_inner(list(tuple.__iter__(value)), depth + 1))
        elements = sorted([_pack_element(element, depth + 1) for element in _ITERATE[base](value)])
        packed = _pack_array_header(len(elements)) + b"".join(elements)
        return msgpack.ExtType(_SET if base is set else _FROZENSET, packed)

    return plain


_DEFAULTS: Final = [_default(depth) for depth in range(MAX_DEPTH + 1)]
_OUTER_DEFAULT: Final = _DEFAULTS[0]


def _base(kind: type) -> type | None:
    """Return the stored type of which `kind` is a subclass; None if there is none."""
    if kind is not msgpack.ExtType:  # a named tuple, but msgpack packs it as the extension that it is
        for base in kind.__mro__:
            if base in _STORED:
                return base
    return None


# The plain types' own, whatever a subclass overrides.
_ITERATE: Final[Mapping[type, Callable[[Any], Iterable[Any]]]] = {
    list: list.__iter__,
    tuple: tuple.__iter__,
    set: set.__iter__,
    frozenset: frozenset.__iter__,
}


def _read(value: Any) -> dict[Any, Any]:
    """Return the plain dict of a subclass. By its own ``.items()``: it may keep its values elsewhere."""
    try:
        return dict(value.items())
    except Exception as error:
        kind, problem = type(value), type(error).__name__
        raise _Refused(
            f"is a {kind.__module__}.{kind.__qualname__} whose items() failed ({problem}); store a plain dict"
        ) from error


# Bound here, since freezegun puts its own classes in the place of these names, too.
_combine: Final = datetime.combine
_date_of: Final = datetime.date
_time_of: Final = datetime.timetz
_read_datetime: Final = datetime.fromisoformat
_read_date: Final = date.fromisoformat
_date_text: Final = date.isoformat


def _write_int(value: int) -> Any:
    value = int.__index__(value)
    if -(1 << 63) <= value < 1 << 64:
        return value
    length = (value + (value < 0)).bit_length() // 8 + 1
    return msgpack.ExtType(_BIG_INT, value.to_bytes(length, "big", signed=True))


def _write_datetime(value: datetime) -> Any:
    if type(value) not in SCALARS:
        if getattr(value, "nanosecond", 0) != 0:  # of a pandas Timestamp; its NaT has NaN there
            raise TypeError("a datetime with nanoseconds, which would be lost: round it to microseconds")
        value = _combine(_date_of(value), _time_of(value))
    return msgpack.ExtType(_DATETIME, _datetime_text(value).encode())


_uuid_bytes: Final[Callable[[Any], bytes]] = UUID.bytes.fget  # type: ignore[attr-defined]

_SCALAR_WRITERS: Final[Mapping[type | None, Callable[[Any], Any]]] = {
    int: _write_int,
    float: float.__float__,
    str: str.__str__,  # str() of an enum's member would be its name
    bytes: bytes.__bytes__,
    datetime: _write_datetime,
    date: lambda value: msgpack.ExtType(_DATE, _date_text(value).encode()),
    Decimal: lambda value: msgpack.ExtType(_DECIMAL, Decimal.__str__(value).replace("e", "E").encode()),
    UUID: lambda value: msgpack.ExtType(_UUID, _uuid_bytes(value)),
}


def _datetime_text(value: datetime) -> str:
    zone = value.tzinfo
    fold = "/1" if value.fold else ""
    if zone is None or zone is UTC:
        return value.isoformat() + fold
    if type(zone) is timezone:
        if zone.utcoffset(None).microseconds:
            raise TypeError("a datetime with a UTC offset of a fraction of a second")
        return value.isoformat() + fold
    if isinstance(zone, ZoneInfo) and zone.key and _is_known(zone.key):
        return f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]{fold}"
    raise TypeError(f"a datetime with tzinfo of type {type(zone).__qualname__}; use timezone or ZoneInfo")


def _is_known(key: str) -> bool:
    try:
        ZoneInfo(key)
    except Exception:  # of a file of the app's own, under any name
        return False
    return True


def _comes_back(value: Any) -> bool:
    """Tell whether a value's bytes are the same again once they were decoded."""
    data = _pack(value)
    try:
        return _pack(decode(data)) == data
    except SessionCorrupt:
        return False


# ---------------------------------------------------------------- what cannot be stored

_TOO_DEEP: Final = f"nests deeper than {MAX_DEPTH} levels (or contains itself)"
_NOWHERE: Final = 0
_IN_VALUES: Final = 1
_IN_KEYS: Final = 2


class _Refused(TypeError):
    """Something that cannot be stored.

    Its place is put together while the walk that found it unwinds. To have the text ready for each
    element, found wrong or not, would cost more than all else, and more than linear time.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.places: list[str] = []  # the innermost first


def _refuse(value: Any, key: str, fine: frozenset[type]) -> int:
    """Walk a value; see `_walk`.

    Raises:
        SessionSerializationError: for the first thing in it that cannot be stored.
    """
    try:
        return _walk(value, 1, fine)
    except _Refused as refused:
        place = "".join(reversed(refused.places)) if str(refused) != _TOO_DEEP else ""
        message = f"session[{shown(key)}]{place} {refused}"
        raise SessionSerializationError(message, key=key) from refused.__cause__


def _walk(value: Any, depth: int, fine: frozenset[type]) -> int:
    """Raise `_Refused` for what cannot be stored; return where subclasses are: nowhere, in values, in keys.

    Args:
        value: one whose type is not in `fine`.
        depth: how many containers it is inside of, and itself.
        fine: types that need no look.
    """
    kind = type(value)
    base = kind if kind in _STORED else _base(kind)
    if base is None:
        raise _Refused(_foreign(kind))
    found = _NOWHERE if base is kind else _IN_VALUES
    if base not in _CONTAINERS:
        if base not in fine:
            _try(value)
        return found
    if depth > MAX_DEPTH:
        raise _Refused(_TOO_DEEP)
    place: int | str = ""
    try:
        if base is dict:
            for name, element in (value if kind is dict else _read(value)).items():
                if type(name) not in fine:
                    place = " (a key)"
                    if _walk(name, depth + 1, fine):
                        found = _IN_KEYS
                if type(element) not in fine:
                    place = "[...]"  # which one is the app's data: somebody's e-mail address, perhaps
                    found = max(found, _walk(element, depth + 1, fine))
        elif base is set or base is frozenset:
            place = " (an element)"
            for element in _ITERATE[base](value):
                if type(element) not in fine and _walk(element, depth + 1, fine):
                    found = _IN_KEYS
        else:
            for place, element in enumerate(_ITERATE[base](value)):  # noqa: B007  (read where it raises)
                if type(element) not in fine:
                    found = max(found, _walk(element, depth + 1, fine))
    except _Refused as refused:
        refused.places.append(place if isinstance(place, str) else f"[{place}]")
        raise
    return found


def _try(value: Any) -> None:
    try:
        _pack_element(value, 0)
    except Exception as error:
        raise _Refused(f"cannot be stored: {error}") from None


def _foreign(kind: type) -> str:
    if issubclass(kind, Enum):
        way_out = "store its .value, or make it a StrEnum or an IntEnum"
    elif kind in (bytearray, memoryview):
        way_out = "store bytes"
    else:
        way_out = "store its plain value (str, int, list, dict, ...)"
    return f"is a {kind.__module__}.{kind.__qualname__}, which a session cannot store; {way_out}"


# ---------------------------------------------------------------- decoding

_unpackb: Final[Callable[..., Any]] = msgpack.unpackb
_TIMESTAMP: Final = re.compile(b"\xd6\xff|\xd7\xff|\xc7\x0c\xff")  # how extension -1 begins
_SHORT: Final = 500
_BYTES_OR_EXTENSION: Final = re.compile(rb"[\xc4-\xc9\xd4-\xd8]")
_DIRECT_CONTAINERS: Final = frozenset({list, dict})
_NOT_HEADERS: Final = bytes({*range(256)} - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})


def _may_be_foreign(value: Any, data: bytes) -> bool:
    """Tell whether a decoded value may nest deeper than MAX_DEPTH, or hold one of msgpack's timestamps.

    Short ones have hardly ever bytes enough that a container may begin with. Longer ones are walked as the
    garbage collector does it, level by level and in C. It sees all that containers hold. Of the rest only
    timestamps and UUIDs lead on, to their class and all that it knows: soon more objects than bytes.
    """
    if len(data) < _SHORT:
        if 0xFF in data and _TIMESTAMP.search(data):
            return True
        if len(data.translate(None, _NOT_HEADERS)) <= MAX_DEPTH:
            return False
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = get_referents(*level)
        if not level:
            return False
        if len(level) > len(data):
            return True
    return True


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
                return _read_date(data.decode())
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
    elements = _unpackb(data, ext_hook=_HOOKS[depth + 1], strict_map_key=False)
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
    value = _read_datetime(stamp)
    if zone is not None:
        value = value.replace(tzinfo=ZoneInfo(zone))
    elif (offset := value.utcoffset()) is not None:
        if offset.microseconds:
            raise SessionCorrupt("a stored datetime has a UTC offset of a fraction of a second")
        if not offset:
            value = value.replace(tzinfo=UTC)
    return value.replace(fold=1) if fold else value

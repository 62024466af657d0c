"""Packing: values to bytes, by msgpack and its hook for what it does not know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from asgi_session._data.values import (
    BIG_INT,
    DATE,
    DATETIME,
    DECIMAL,
    DIRECT,
    FROZENSET,
    ITERATE,
    MAX_DEPTH,
    SCALARS,
    SET,
    STORED,
    TOO_DEEP,
    TUPLE,
    UUID_,
    Refused,
    base_of,
    foreign,
    read_dict,
)

_packb: Final[Callable[..., Any]] = msgpack.packb
# One packer for all: making one allocates its buffer. It calls no Python code while it packs these
# types, so no other thread gets in between.
pack_plain: Final[Callable[[Any], bytes]] = msgpack.Packer(strict_types=True).pack
_pack_array_header: Final[Callable[[int], bytes]] = msgpack.Packer().pack_array_header


def pack(value: Any) -> bytes:
    return _packb(value, default=_OUTER_DEFAULT, strict_types=True)  # type: ignore[no-any-return]


def _pack_inner(value: Any, depth: int) -> bytes:
    # With a small buffer: one of msgpack's usual 256 KB beside another comes from the system each time.
    return _packb(  # type: ignore[no-any-return]
        value, default=_DEFAULTS[depth], strict_types=True, buf_size=1024
    )


def pack_element(value: Any, depth: int) -> bytes:
    if type(value) in DIRECT:
        try:
            return pack_plain(value)
        except OverflowError:  # an int beyond 64 bits
            pass
    return _pack_inner(value, depth)


def _default(depth: int) -> Callable[[Any], Any]:
    """Return the function that msgpack calls for what it does not know, inside of `depth` extensions.

    It returns what is to be packed instead: an extension, or the plain value of a subclass.
    """

    def plain(value: Any) -> Any:
        kind = type(value)
        base = kind if kind in STORED else base_of(kind)
        writer = _SCALAR_WRITERS.get(base)
        if writer is not None:
            return writer(value)
        if base is list:
            return list.copy(value)
        if base is dict:
            return read_dict(value)
        if base is None:
            raise Refused(foreign(kind))
        if depth >= MAX_DEPTH:
            raise Refused(TOO_DEEP)
        if base is tuple:
            return msgpack.ExtType(TUPLE, _pack_inner(list(tuple.__iter__(value)), depth + 1))
        elements = sorted([pack_element(element, depth + 1) for element in ITERATE[base](value)])
        packed = _pack_array_header(len(elements)) + b"".join(elements)
        return msgpack.ExtType(SET if base is set else FROZENSET, packed)

    return plain


_DEFAULTS: Final = [_default(depth) for depth in range(MAX_DEPTH + 1)]
_OUTER_DEFAULT: Final = _DEFAULTS[0]


# Bound here, since freezegun puts its own classes in the place of these names, too.
_combine: Final = datetime.combine
_date_of: Final = datetime.date
_time_of: Final = datetime.timetz
_date_text: Final = date.isoformat


def _write_int(value: int) -> Any:
    value = int.__index__(value)
    if -(1 << 63) <= value < 1 << 64:
        return value
    length = (value + (value < 0)).bit_length() // 8 + 1
    return msgpack.ExtType(BIG_INT, value.to_bytes(length, "big", signed=True))


def _write_datetime(value: datetime) -> Any:
    if type(value) not in SCALARS:
        if getattr(value, "nanosecond", 0) != 0:  # of a pandas Timestamp; its NaT has NaN there
            raise TypeError("a datetime with nanoseconds, which would be lost: round it to microseconds")
        value = _combine(_date_of(value), _time_of(value))
    return msgpack.ExtType(DATETIME, _datetime_text(value).encode())


_uuid_bytes: Final[Callable[[Any], bytes]] = UUID.bytes.fget  # type: ignore[attr-defined]

_SCALAR_WRITERS: Final[Mapping[type | None, Callable[[Any], Any]]] = {
    int: _write_int,
    float: float.__float__,
    str: str.__str__,  # str() of an enum's member would be its name
    bytes: bytes.__bytes__,
    datetime: _write_datetime,
    date: lambda value: msgpack.ExtType(DATE, _date_text(value).encode()),
    Decimal: lambda value: msgpack.ExtType(DECIMAL, Decimal.__str__(value).replace("e", "E").encode()),
    UUID: lambda value: msgpack.ExtType(UUID_, _uuid_bytes(value)),
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

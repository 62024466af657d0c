"""Unpacking: bytes to values, and whether bytes may be none of ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from gc import get_referents
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack

from asgi_session._data.values import MAX_DEPTH
from asgi_session.errors import SessionCorrupt

# Bound here, since freezegun puts its own classes in the place of these names, too.
_read_datetime: Final = datetime.fromisoformat
_read_date: Final = date.fromisoformat
_DATETIME_TEXT: Final = re.compile(r"([^\[\]/]+)(?:\[([^\[\]]+)\])?(/1)?")
unpackb: Final[Callable[..., Any]] = msgpack.unpackb
_TIMESTAMP: Final = re.compile(b"\xd6\xff|\xd7\xff|\xc7\x0c\xff")  # how extension -1 begins
_SHORT: Final = 500
_NOT_HEADERS: Final = bytes({*range(256)} - {*range(0x80, 0xA0), *range(0xDC, 0xE0)})


def may_be_foreign(value: Any, data: bytes) -> bool:
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
            case 1:  # BIG_INT
                return int.from_bytes(data, "big", signed=True)
            case 2:  # DECIMAL
                return Decimal(data.decode())
            case 3:  # UUID_
                return UUID(bytes=data)
            case 4:  # DATE
                return _read_date(data.decode())
            case 5:  # DATETIME
                return _parse_datetime(data.decode())
            case 6 | 7 | 8 if depth >= MAX_DEPTH:
                raise SessionCorrupt(f"a stored value nests deeper than {MAX_DEPTH} levels")
            case 6:  # TUPLE
                return tuple(_elements(data, depth))
            case 7:  # FROZENSET
                return frozenset(_elements(data, depth))
            case 8:  # SET
                return set(_elements(data, depth))
            case _:
                raise SessionCorrupt(f"a stored value has the unknown extension type {code}")

    return unpack_extension


def _elements(data: bytes, depth: int) -> list[Any]:
    elements = unpackb(data, ext_hook=_HOOKS[depth + 1], strict_map_key=False)
    if type(elements) is not list:
        raise SessionCorrupt("a stored tuple or set is not an array")
    return elements


_HOOKS: Final = [_hook(depth) for depth in range(MAX_DEPTH + 1)]
OUTER_HOOK: Final = _HOOKS[0]


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

"""The types that a session stores, and what is said of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import msgpack

MAX_DEPTH: Final = 64
"""How deep containers may nest."""
TOO_DEEP: Final = f"nests deeper than {MAX_DEPTH} levels (or contains itself)"
LONGEST_SHOWN: Final = 100

BIG_INT, DECIMAL, UUID_, DATE, DATETIME, TUPLE, FROZENSET, SET = range(1, 9)

"""Codes of the extensions."""

# Classes are looked up here, and not compared with the names `datetime` and `date`: while freezegun has
# stopped the clock, those name its own classes in every module.
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, datetime, date, Decimal, UUID})
CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})
STORED: Final = SCALARS | CONTAINERS
DIRECT: Final = frozenset({type(None), bool, int, float, str, bytes})
ALWAYS_FINE: Final = DIRECT - {str}  # text may have no UTF-8 form

DIRECT_CONTAINERS: Final = frozenset({list, dict})


class Refused(TypeError):
    """Something that cannot be stored.

    Its place is put together while the walk that found it unwinds. To have the text ready for each
    element, found wrong or not, would cost more than all else, and more than linear time.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.places: list[str] = []  # the innermost first


def base_of(kind: type) -> type | None:
    """Return the stored type of which `kind` is a subclass; None if there is none."""
    if kind is not msgpack.ExtType:  # a named tuple, but msgpack packs it as the extension that it is
        for base in kind.__mro__:
            if base in STORED:
                return base
    return None


# The plain types' own, whatever a subclass overrides.
ITERATE: Final[Mapping[type, Callable[[Any], Iterable[Any]]]] = {
    list: list.__iter__,
    tuple: tuple.__iter__,
    set: set.__iter__,
    frozenset: frozenset.__iter__,
}


def read_dict(value: Any) -> dict[Any, Any]:
    """Return the plain dict of a subclass. By its own ``.items()``: it may keep its values elsewhere."""
    try:
        return dict(value.items())
    except Exception as error:
        kind, problem = type(value), type(error).__name__
        raise Refused(
            f"is a {kind.__module__}.{kind.__qualname__} whose items() failed ({problem}); store a plain dict"
        ) from error


def foreign(kind: type) -> str:
    if issubclass(kind, Enum):
        way_out = "store its .value, or make it a StrEnum or an IntEnum"
    elif kind in (bytearray, memoryview):
        way_out = "store bytes"
    else:
        way_out = "store its plain value (str, int, list, dict, ...)"
    return f"is a {kind.__module__}.{kind.__qualname__}, which a session cannot store; {way_out}"


def shown(key: str) -> str:
    """Return a session key as messages show it: a client may have made it long."""
    return repr(key) if len(key) <= LONGEST_SHOWN else f"{key[:LONGEST_SHOWN]!r}..."

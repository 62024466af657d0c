"""Walking a value, to find what cannot be stored, and where it is."""

from __future__ import annotations

from typing import Any, Final

from asgi_session._data.packing import pack_element
from asgi_session._data.values import (
    CONTAINERS,
    ITERATE,
    MAX_DEPTH,
    STORED,
    TOO_DEEP,
    Refused,
    base_of,
    foreign,
    read_dict,
    shown,
)
from asgi_session.errors import SessionSerializationError

NOWHERE: Final = 0
IN_VALUES: Final = 1
IN_KEYS: Final = 2


def refuse(value: Any, key: str, fine: frozenset[type]) -> int:
    """Walk a value; see `walk`.

    Raises:
        SessionSerializationError: for the first thing in it that cannot be stored.
    """
    try:
        return walk(value, 1, fine)
    except Refused as refused:
        place = "".join(reversed(refused.places)) if str(refused) != TOO_DEEP else ""
        message = f"session[{shown(key)}]{place} {refused}"
        raise SessionSerializationError(message, key=key) from refused.__cause__


def walk(value: Any, depth: int, fine: frozenset[type]) -> int:
    """Raise `Refused` for what cannot be stored; return where subclasses are: nowhere, in values, in keys.

    Args:
        value: one whose type is not in `fine`.
        depth: how many containers it is inside of, and itself.
        fine: types that need no look.
    """
    kind = type(value)
    base = kind if kind in STORED else base_of(kind)
    if base is None:
        raise Refused(foreign(kind))
    found = NOWHERE if base is kind else IN_VALUES
    if base not in CONTAINERS:
        if base not in fine:
            _try(value)
        return found
    if depth > MAX_DEPTH:
        raise Refused(TOO_DEEP)
    place: int | str = ""
    try:
        if base is dict:
            for name, element in (value if kind is dict else read_dict(value)).items():
                if type(name) not in fine:
                    place = " (a key)"
                    if walk(name, depth + 1, fine):
                        found = IN_KEYS
                if type(element) not in fine:
                    place = "[...]"  # which one is the app's data: somebody's e-mail address, perhaps
                    found = max(found, walk(element, depth + 1, fine))
        elif base is set or base is frozenset:
            place = " (an element)"
            for element in ITERATE[base](value):
                if type(element) not in fine and walk(element, depth + 1, fine):
                    found = IN_KEYS
        else:
            for place, element in enumerate(ITERATE[base](value)):  # noqa: B007  (read where it raises)
                if type(element) not in fine:
                    found = max(found, walk(element, depth + 1, fine))
    except Refused as refused:
        refused.places.append(place if isinstance(place, str) else f"[{place}]")
        raise
    return found


def _try(value: Any) -> None:
    try:
        pack_element(value, 0)
    except Exception as error:
        raise Refused(f"cannot be stored: {error}") from None

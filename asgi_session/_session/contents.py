"""The dict: values that are decoded when they are first looked at.

A real dict, so that everything that takes a dict takes a session. Its storage holds decoded values
beside `UNDECODED`, a placeholder for those that nobody has looked at yet. CPython and C serializers
take shortcuts through dict storage: those that go through the reading methods see decoded values;
those that do not (orjson, msgspec) meet the placeholder and fail, naming the way out, rather than
quietly giving ``{}`` or a wrong value.
"""

from __future__ import annotations

import threading
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from copy import deepcopy
from typing import Any, Final, NoReturn, Self, SupportsIndex

from asgi_session._data import codec
from asgi_session._data.values import SCALARS
from asgi_session.errors import SessionSerializationError

# The class's name is what orjson and msgspec print when they meet it.
UNDECODED: Final[Any] = type("undecoded session value, pass dict(session) instead", (), {"__slots__": ()})()
ABSENT: Final = object()
_RAISE: Final = object()
_handing_out: Final = threading.Lock()  # two threads of one request must get the same list


class Contents(dict[str, Any]):
    """A dict of str to values, some of them still encoded.

    Attributes:
        _opened: it can be read, and somebody has done so (autoload alone does not count).
        _origin: the bytes from which each key's value was decoded, or to which it was last encoded.
        _watched: keys whose value may differ from its origin, in order.
        _assigned: keys that this request has set, to whatever value, in order.
    """

    __slots__ = ("_assigned", "_opened", "_origin", "_watched")

    _assigned: dict[str, None]
    _opened: bool
    _origin: Mapping[str, bytes]
    _watched: dict[str, None]

    # ---------------------------------------------------------------- reading

    def _use(self) -> None:
        """Make sure that it can be read, or refuse."""
        raise NotImplementedError

    def _decode(self, key: str) -> Any:
        if type(key) is not str:
            key = _plain_key(key)
        value = codec.decode(self._origin[key])
        with _handing_out:
            held = dict.get(self, key, ABSENT)
            if held is not UNDECODED:
                return held if held is not ABSENT else value  # another thread of this request was first
            dict.__setitem__(self, key, value)
            if type(value) not in SCALARS and codec.is_mutable(value):
                self._watched[key] = None
        return value

    def _decode_all(self) -> None:
        for key, value in dict.items(self):
            if value is UNDECODED:
                self._decode(key)

    def __getitem__(self, key: str) -> Any:
        if not self._opened:
            self._use()
        value = dict.__getitem__(self, key)
        return self._decode(key) if value is UNDECODED else value

    def get(self, key: str, default: Any = None, /) -> Any:
        """Return the value of `key`, or `default`."""
        if not self._opened:
            self._use()
        value = dict.get(self, key, default)
        return self._decode(key) if value is UNDECODED else value

    def __contains__(self, key: object) -> bool:
        self._use()
        return dict.__contains__(self, key)

    def __len__(self) -> int:
        self._use()
        return dict.__len__(self)

    def __iter__(self) -> Iterator[str]:
        self._use()
        return iter(list(dict.keys(self)))  # a commit in the loop's body may bring in others' keys

    def __reversed__(self) -> Iterator[str]:
        self._use()
        return dict.__reversed__(self)

    # Views over the methods above: the ones of dict would show placeholders.
    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return a view of the keys."""
        self._use()
        return _Keys(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return a view of the values."""
        self._use()
        return _Values(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Return a view of the keys and values."""
        self._use()
        return _Items(self)

    def copy(self) -> dict[str, Any]:
        """Return the session's contents as a plain dict."""
        return {key: self[key] for key in self}

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return deepcopy(self.copy(), memo)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, dict):
            return NotImplemented
        self._use()
        self._decode_all()
        if isinstance(other, Contents) and other is not self:
            other._use()
            other._decode_all()
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = None

    def __or__(self, other: Any, /) -> dict[Any, Any]:
        return self.copy() | other if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any, /) -> dict[Any, Any]:
        return other | self.copy() if isinstance(other, dict) else NotImplemented

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:
        raise TypeError(
            "a Session cannot be pickled because it belongs to one request. Pickle dict(session) instead"
        )

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], value: Any = None, /) -> NoReturn:
        """Refuse: sessions come from the middleware."""
        raise TypeError("Session.fromkeys is not supported; use session.update(dict.fromkeys(...))")

    # ---------------------------------------------------------------- changing

    def _change(self) -> None:
        """Make sure that it can be changed, or refuse."""
        raise NotImplementedError

    def __setitem__(self, key: str, value: Any) -> None:
        self._change()
        if type(key) is not str:
            key = _plain_key(key)
        dict.__setitem__(self, key, value)
        self._watched[key] = None
        if self._assigned:
            self._assigned[key] = None
        else:
            self._assigned = {key: None}

    def __delitem__(self, key: str) -> None:
        self._change()
        dict.__delitem__(self, key)
        self._watched[_plain_key(key)] = None

    def pop(self, key: str, default: Any = _RAISE, /) -> Any:
        """Remove `key` and return its value, or `default` when there is none."""
        self._change()
        if default is not _RAISE and not dict.__contains__(self, key):
            return default
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the last key and value."""
        self._change()
        for key in dict.__reversed__(self):
            return key, self.pop(key)
        raise KeyError("popitem(): the session is empty")

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        """Return the value of `key`, set to `default` before if there was none."""
        self._change()
        if not dict.__contains__(self, key):
            self[key] = default
        return self[key]

    def update(self, other: Any = (), /, **values: Any) -> None:
        """Set many keys, from a mapping, pairs or keywords."""
        self._change()
        new: dict[str, Any] = dict(other, **values)
        for key in new:
            if type(key) is not str:
                new = {_plain_key(key): value for key, value in new.items()}
                break
        dict.update(self, new)
        keys = dict.fromkeys(new)
        self._watched.update(keys)
        self._assigned = {**self._assigned, **keys}

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override]
        self.update(other)
        return self


# Views like a dict's: the abstract ones lack reversed().
class _Keys(KeysView[str]):
    _mapping: Contents

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._mapping)


class _Values(ValuesView[Any]):
    _mapping: Contents

    def __reversed__(self) -> Iterator[Any]:
        session = self._mapping
        return (session[key] for key in reversed(session))


class _Items(ItemsView[str, Any]):
    _mapping: Contents

    def __reversed__(self) -> Iterator[tuple[str, Any]]:
        session = self._mapping
        return ((key, session[key]) for key in reversed(session))


def _plain_key(key: Any) -> str:
    if isinstance(key, str):
        return str.__str__(key)  # a StrEnum member, say: equal to its text, and stored as that
    raise SessionSerializationError(
        f"session keys are str, not {type(key).__qualname__}. Use str(key), or store a dict under one key"
    )

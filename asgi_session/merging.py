"""Ready-made merge rules: what becomes of a key that two writers have changed at the same time.

::

    SessionMiddleware(app, store=..., merge={"visits": counter, "cart": by_key(counter)})

A rule is a function of three values and returns the one to store. `base` is what I had loaded, `mine`
what I made of it, `theirs` what others have stored meanwhile. None stands for a key that is not there:
as `base`, both have created it; as `mine` or `theirs`, that side has removed it. A rule that returns
None removes the key. Where only one side has changed the key no rule is asked.

A rule must not change its arguments: they are shared, and what it returns may share items with them.
It may run several times for one commit. A value of a type that a rule is not for is a `TypeError`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

from asgi_session._data import codec
from asgi_session._data.rules import Rule, is_rule
from asgi_session.errors import ConfigurationError

_Number: TypeAlias = int | float | Decimal | None
_Set: TypeAlias = set[Any] | frozenset[Any] | None
_List: TypeAlias = list[Any] | None
_Dict: TypeAlias = dict[Any, Any] | None
_ABSENT: Final[Any] = object()
_NOWHERE: Final[list[int]] = []


def counter(base: _Number, mine: _Number, theirs: _Number) -> _Number:
    """Add up: what I have added to `base` is added to `theirs`.

    >>> counter(5, 6, 8)  # one visit here, three there
    9

    Assumes that every change is an addition or a subtraction, which includes setting it to 0: two who
    both do that to a 5 make -5 of it. To reset it, remove the key: what others have added meanwhile is
    then what is left, and two who both remove it remove it. It may fall below zero where each writer saw
    enough; use `Session.transact` where it must not. int, float and Decimal; only floats round.
    """
    _check("counter", (int, float, Decimal), base, mine, theirs)
    if mine is None and theirs is None:
        return None
    my, their, old = (0 if value is None else value for value in (mine, theirs, base))
    total = my + their - old  # type: ignore[operator]
    return None if not total and _removed(base, mine, theirs) else total


def union(base: _Set, mine: _Set, theirs: _Set) -> _Set:
    """Keep what either side has added, leave out what either has removed.

    >>> sorted(union({"a", "b"}, {"a", "b", "c"}, {"b", "d"}))
    ['b', 'c', 'd']

    Assumes that elements come and go each on their own. Removing the key removes those it had; what others
    have added meanwhile stays. set and frozenset; the result has the type of `theirs`.
    """
    _check("union", (set, frozenset), base, mine, theirs)
    old, my, their = (side or frozenset() for side in (base, mine, theirs))
    merged = (my & their) | (my - old) | (their - old)
    if not merged and _removed(base, mine, theirs):
        return None
    return set(merged) if isinstance(mine if theirs is None else theirs, set) else frozenset(merged)


def append(base: _List, mine: _List, theirs: _List) -> _List:
    """Put what I have appended behind `theirs`.

    >>> append(["a"], ["a", "b"], ["a", "c"])
    ['a', 'c', 'b']

    Assumes a list that grows at its end, and may be cut anywhere: messages that are shown and dropped,
    the last ten pages. What I have taken out of `base` is taken out of `theirs`, too; removing the key
    takes out all that it had. An item of mine that is not where `base` has it (inserted, changed, moved)
    counts as appended, so nothing that was added is lost, but my order of it is.

    >>> append(["a", "b"], ["b", "d"], ["a", "b", "c"])  # "a" dropped and "d" appended
    ['b', 'c', 'd']

    Items are told apart by what they hold: one that is dropped and appended again counts as kept, and of
    equal ones in a list that both sides cut another may go. Give them an id or a time if that matters.
    """
    _check("append", (list,), base, mine, theirs)
    old, my, their = base or [], mine or [], theirs or []
    mine_in_base, theirs_in_base = _places(my, old), _places(their, old)
    dropped = set(range(len(old))).difference(mine_in_base)
    merged = [item for item, place in zip(their, theirs_in_base, strict=True) if place not in dropped]
    merged += [item for item, place in zip(my, mine_in_base, strict=True) if place is None]
    return None if not merged and _removed(base, mine, theirs) else merged


def by_key(rule: Rule | None = None) -> Callable[[_Dict, _Dict, _Dict], _Dict]:
    """Return a rule that merges dicts key by key, as the session itself is merged.

    >>> by_key()({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "c": 1})  # "a" set; "b" removed, "c" set
    {'a': 2, 'c': 1}
    >>> by_key(counter)({"pear": 1}, {"pear": 2}, {"pear": 3})
    {'pear': 4}

    Assumes that the dict's keys mean something each on their own. Removing the dict removes the keys it
    had; those that others have added meanwhile stay.

    Args:
        rule: for a key that both sides have changed, or one has changed and the other removed. Without
            one mine wins.

    Raises:
        ConfigurationError: it is no rule.
    """
    if rule is not None and not is_rule(rule):
        raise ConfigurationError(
            f"by_key({rule!r}): give a plain function rule(base, mine, theirs) of the values of a key. One "
            "that is made by a call, such as by_key(), has to be called"
        )

    def merge(base: _Dict, mine: _Dict, theirs: _Dict) -> _Dict:
        _check("by_key", (dict,), base, mine, theirs)
        old, my, their = base or {}, mine or {}, theirs or {}
        merged = dict(their)
        for key in {**old, **my}:
            was, value, other = (side.get(key, _ABSENT) for side in (old, my, their))
            if _same(value, was):
                continue
            if rule is not None and not _same(other, was):
                value = rule(*(None if side is _ABSENT else side for side in (was, value, other)))
                value = _ABSENT if value is None else value
            if value is _ABSENT:
                merged.pop(key, None)
            else:
                merged[key] = value
        return None if not merged and _removed(base, mine, theirs) else merged

    return merge


def largest(base: Any, mine: Any, theirs: Any) -> Any:
    """Keep the larger one; one that was removed does not count.

    >>> largest(None, datetime(2027, 1, 1), datetime(2027, 3, 1))  # when it was last seen
    datetime.datetime(2027, 3, 1, 0, 0)

    Assumes a value that only grows: `base` plays no part, so who lowers it loses to who does not.
    Numbers, text, bytes, dates and tuples of them.
    """
    return _extreme("largest", max, base, mine, theirs)


def smallest(base: Any, mine: Any, theirs: Any) -> Any:
    """Keep the smaller one; one that was removed does not count.

    >>> smallest(None, 120, 90)  # the best time
    90

    Assumes a value that only falls: `base` plays no part, so who raises it loses to who does not.
    Numbers, text, bytes, dates and tuples of them.
    """
    return _extreme("smallest", min, base, mine, theirs)


# In an order, all of them: a set is not larger than one that it is no part of.
_ORDERED: Final = (bool, int, float, Decimal, str, bytes, date, datetime, tuple)


def _extreme(name: str, choose: Callable[..., Any], base: Any, mine: Any, theirs: Any) -> Any:
    _check(name, _ORDERED, base, mine, theirs)
    return choose((value for value in (theirs, mine) if value is not None), default=None)


def _removed(base: object, mine: object, theirs: object) -> bool:
    """Tell whether a side has removed the key: then nothing left of its value is no key either."""
    return (mine is None or theirs is None) and (base is not None or mine is theirs)


def _places(items: list[Any], base: list[Any]) -> list[int | None]:
    """Return where each item was in `base`; None for one that is not there, or not in base's order."""
    where: dict[bytes, list[int]] = {}  # of each item in base, in order
    for place, item in enumerate(base):
        where.setdefault(codec.encode(item, ""), []).append(place)
    places: list[int | None] = []
    start = 0
    for item in items:
        found = where.get(codec.encode(item, ""), _NOWHERE)
        at = bisect_left(found, start)
        if at < len(found):
            places.append(found[at])
            start = found[at] + 1
        else:
            places.append(None)
    return places


def _same(one: Any, other: Any) -> bool:
    """Tell whether a value is unchanged, as a commit does: 1 and True are equal, but not the same."""
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return codec.encode(one, "") == codec.encode(other, "")


def _check(rule: str, kinds: tuple[type, ...], base: object, mine: object, theirs: object) -> None:
    for name, value in (("base", base), ("mine", mine), ("theirs", theirs)):
        if value is not None and type(value) not in kinds:
            wanted = ", ".join(kind.__name__ for kind in kinds)
            found = type(value).__qualname__
            raise TypeError(f"the merge rule {rule} is for {wanted}; {name} is of type {found}")


__all__ = ["Rule", "append", "by_key", "counter", "largest", "smallest", "union"]

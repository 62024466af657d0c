"""The ready-made merge rules."""

from __future__ import annotations

import doctest
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_session import merging
from asgi_session._data.codec import decode, encode
from asgi_session.merging import Rule, append, by_key, counter, largest, smallest, union
from tests.unit.values import Values

numbers: Values = st.integers(-9, 9)
sets: Values = st.frozensets(st.sampled_from("abcdef"))
lists: Values = st.lists(st.sampled_from("abcdef"), max_size=6)
counts: Values = st.dictionaries(st.sampled_from("abcd"), numbers, max_size=4)
nested: Values = st.dictionaries(st.sampled_from("xy"), counts, max_size=2)


class Case(NamedTuple):
    rule: Rule
    values: Values
    commutes: bool


CASES = {
    "counter": Case(counter, numbers, commutes=True),
    "counter of Decimal": Case(counter, st.decimals(-9, 9, places=2), commutes=True),
    "union": Case(union, sets, commutes=True),
    "union of set": Case(union, sets.map(set), commutes=True),
    "append": Case(append, lists, commutes=False),
    "by_key": Case(by_key(), counts, commutes=False),
    "by_key(counter)": Case(by_key(counter), counts, commutes=True),
    "by_key(by_key(counter))": Case(by_key(by_key(counter)), nested, commutes=True),
    "by_key(largest)": Case(by_key(largest), counts, commutes=True),
    "largest": Case(largest, numbers, commutes=True),
    "smallest": Case(smallest, numbers, commutes=True),
}
THREE_WAY = [name for name in CASES if name not in ("largest", "smallest")]


def present(case: Case) -> Values:
    """Return the case's values, and None for a key that is not there."""
    return st.none() | case.values


def stored(value: Any) -> Any:
    """Return what another process would load."""
    return decode(encode(value, "key"))


@pytest.mark.parametrize("name", THREE_WAY)
@given(data=st.data())
def test_one_side_alone(name: str, data: st.DataObject) -> None:
    """Where only one side has changed the key, the result is that side's value."""
    case = CASES[name]
    base, changed = data.draw(present(case)), data.draw(present(case))
    assert case.rule(base, base, changed) == changed
    alone = case.rule(base, changed, base)
    if case.rule is append and changed and base:  # in what order they were inserted before is lost
        assert Counter(alone) == Counter(changed)
    else:
        assert alone == changed


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.commutes])
@given(data=st.data())
def test_who_is_first_does_not_matter(name: str, data: st.DataObject) -> None:
    """A rule for what commutes gives the same whoever commits first."""
    case = CASES[name]
    base, mine, theirs = (data.draw(present(case)) for _ in range(3))
    assert case.rule(base, mine, theirs) == case.rule(base, theirs, mine)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_arguments_are_left_alone(name: str, data: st.DataObject) -> None:
    """A rule changes none of its arguments, and what becomes of its result does not change them."""
    case = CASES[name]
    arguments = tuple(data.draw(present(case)) for _ in range(3))
    before = deepcopy(arguments)
    result = case.rule(*arguments)
    assert arguments == before
    if isinstance(result, (list, dict, set)):
        result.clear()
        assert arguments == before


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_the_result_can_be_stored(name: str, data: st.DataObject) -> None:
    """What a rule returns is of the type that it was given, and survives the store."""
    case = CASES[name]
    arguments = tuple(data.draw(present(case)) for _ in range(3))
    result = case.rule(*arguments)
    assert stored(result) == result
    assert result is None or type(result) in {type(value) for value in arguments} - {type(None)}


@pytest.mark.parametrize("name", ["union", "by_key(largest)", "largest", "smallest"])
@given(data=st.data())
def test_once_more_is_the_same(name: str, data: st.DataObject) -> None:
    """Merging what was merged already changes nothing, where changes are no additions."""
    case = CASES[name]
    base, mine, theirs = (data.draw(case.values) for _ in range(3))
    merged = case.rule(base, mine, theirs)
    assert case.rule(base, mine, merged) == merged


@pytest.mark.parametrize("name", THREE_WAY)
@given(data=st.data())
def test_both_removed(name: str, data: st.DataObject) -> None:
    """A key that both have removed is no more."""
    case = CASES[name]
    assert case.rule(data.draw(case.values), None, None) is None


class Writer:
    """A process with a base of its own, which changes its copy and commits as the manager does."""

    def __init__(self, value: Any) -> None:
        self.base = self.mine = value

    def change(self, make: Callable[[Any], Any]) -> None:
        self.mine = make(deepcopy(self.mine))

    def commit(self, theirs: Any, rule: Rule) -> Any:
        if self.mine == self.base:
            merged = theirs
        elif theirs == self.base:
            merged = self.mine
        else:
            merged = rule(self.base, self.mine, theirs)
        self.base = self.mine = stored(merged)
        return merged


# Who does something, and what: a number is a change by that much, None a commit.
steps = st.lists(st.tuples(st.integers(0, 2), st.none() | st.integers(-3, 3)), max_size=40)


def run(start: Any, plan: list[tuple[int, Any]], rule: Rule, make: Callable[[Any, Any], Any]) -> Any:
    """Let three writers change and commit in the order of `plan`, and all of them commit at the end."""
    value = start
    writers = [Writer(start) for _ in range(3)]
    for who, what in [*plan, (0, None), (1, None), (2, None)]:
        if what is None:
            value = writers[who].commit(value, rule)
        else:
            writers[who].change(lambda held, what=what: make(held, what))
    return value


@given(numbers, steps)
@example(0, [(0, 1), (1, 1)])  # the same bytes from both, and yet two counts
def test_no_count_is_lost(start: int, plan: list[tuple[int, int | None]]) -> None:
    """However three writers' additions and commits interleave, the sum is exact."""
    total = run(start, plan, counter, lambda held, what: held + what)
    assert total == start + sum(what for _, what in plan if what is not None)


@given(counts, steps)
def test_no_count_of_a_key_is_lost(start: dict[str, int], plan: list[tuple[int, int | None]]) -> None:
    """The same for the counts in a dict, where keys begin to exist as they go."""

    def make(held: dict[str, int], what: int) -> dict[str, int]:
        key = "abcdefg"[what + 3]
        return {**held, key: held.get(key, 0) + what + 4}

    total = run(start, plan, by_key(counter), make)
    expected = Counter(start)
    for _, what in plan:
        if what is not None:
            expected["abcdefg"[what + 3]] += what + 4
    assert total == {key: expected[key] for key in {*start, *total}}
    assert {"abcdefg"[what + 3] for _, what in plan if what is not None} <= total.keys()


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=40))
def test_no_element_is_lost(plan: list[tuple[int, bool]]) -> None:
    """However three writers' additions and commits interleave, a set and a list hold all of them, once."""
    numbered = [(who, number if change else None) for number, (who, change) in enumerate(plan)]
    added = {what for _, what in numbered if what is not None}
    assert run(set(), numbered, union, lambda held, what: held | {what}) == added
    in_order = run([], numbered, append, lambda held, what: [*held, what])
    assert sorted(in_order) == sorted(added)
    for who in range(3):
        own = [what for writer, what in numbered if writer == who and what is not None]
        assert [what for what in in_order if what in own] == own


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["add", "drop", "commit"])), max_size=40))
def test_dropped_stays_dropped(plan: list[tuple[int, str]]) -> None:
    """What a writer drops does not come back, and what it has not seen is not dropped with it."""
    value: list[int] = []
    writers = [Writer(value) for _ in range(3)]
    added, dropped = set(), set()
    for number, (who, what) in enumerate([*plan, (0, "commit"), (1, "commit"), (2, "commit")]):
        if what == "add":
            writers[who].change(lambda held, number=number: [*held, number])
            added.add(number)
        elif what == "drop":
            dropped.update(writers[who].mine)
            writers[who].change(lambda held: [])
        else:
            value = writers[who].commit(value, append)
    assert sorted(value) == sorted(added - dropped)


@given(lists, lists, lists)
def test_nothing_appended_is_lost(base: list[str], mine: list[str], theirs: list[str]) -> None:
    """Whatever both sides did to the list, what neither of them had before is in the result, as often."""
    mine, theirs = [*mine, "M", "M"], [*theirs, "T"]
    merged = append(base, mine, theirs) or []
    assert [item for item in merged if item in "MT"] == ["T", "M", "M"]
    # No item is there more often than both sides together account for.
    assert not Counter(merged) - (Counter(mine) + Counter(theirs))


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged"),
    [
        (["a"], ["a", "b"], ["a", "c"], ["a", "c", "b"]),
        (None, ["b"], ["c"], ["c", "b"]),
        (["a"], None, ["a", "c"], ["c"]),  # messages shown, and one more meanwhile
        (["a"], [], ["a", "c"], ["c"]),
        (["a"], None, [], None),
        (["a"], [], [], []),
        (["a"], ["a", "b"], None, ["b"]),
        (["a", "b", "c"], ["b", "c", "d"], ["b", "c", "e"], ["b", "c", "e", "d"]),  # the last three
        (["a", "b", "c"], ["a", "c"], ["b", "c"], ["c"]),
        (["a", "b"], ["x", "a", "b"], ["a", "b", "c"], ["a", "b", "c", "x"]),  # inserted
        (["a", "b"], ["A", "b"], ["a", "b", "c"], ["b", "c", "A"]),  # changed in place
        (["a", "b"], ["b", "a"], ["a", "b", "c"], ["b", "c", "a"]),  # moved
        ([{"id": 1}], [{"id": 1}, {"id": 2}], [{"id": 1}, {"id": 3}], [{"id": 1}, {"id": 3}, {"id": 2}]),
        ([1], [True], [1, 2], [2, True]),  # equal to Python, not to a reader
        ([float("nan")], [float("nan"), "b"], [], ["b"]),
    ],
)
def test_append(base: Any, mine: Any, theirs: Any, merged: Any) -> None:
    """A list that is appended to and cut."""
    assert append(base, mine, theirs) == merged


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged"),
    [
        (5, 6, 8, 9),
        (5, 6, 6, 7),
        (None, 1, 1, 2),
        (5, None, 8, 3),  # reset here, three more there
        (5, 8, None, 3),
        (5, None, 3, -2),
        (3, 0, 2, -1),  # each took what it saw
        (5, 0, 0, -5),  # no reset: see its docstring
        (1, 1.5, 2, 2.5),
        (0.0, 0.0, 0.0, 0.0),
        (None, 0.0, 0.0, 0.0),
        (Decimal("1.00"), Decimal("0.00"), Decimal("2.50"), Decimal("1.50")),
        (10**30, 10**30 + 1, 10**30 + 1, 10**30 + 2),
    ],
)
def test_counter(base: Any, mine: Any, theirs: Any, merged: Any) -> None:
    """Numbers, and what a removal counts."""
    found = counter(base, mine, theirs)
    assert found == merged
    assert type(found) is type(merged)


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged"),
    [
        (None, {"a"}, {"b"}, {"a", "b"}),
        ({"a"}, None, {"a", "b"}, {"b"}),
        ({"a"}, None, set(), None),
        ({"a"}, {"a", "b"}, None, {"b"}),
        ({"a", "b"}, {"a"}, {"b"}, set()),
        (frozenset("a"), frozenset("ab"), None, frozenset("b")),
        (None, frozenset("a"), {"b"}, {"a", "b"}),
    ],
)
def test_union(base: Any, mine: Any, theirs: Any, merged: Any) -> None:
    """Sets, their type, and what a removal takes along."""
    found = union(base, mine, theirs)
    assert found == merged
    assert type(found) is type(merged)


@pytest.mark.parametrize(
    ("rule", "base", "mine", "theirs", "merged"),
    [
        (None, {"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}),
        (None, {"a": 1}, {}, {"a": 3}, {}),
        (None, {"a": 1}, {"a": 2}, {}, {"a": 2}),
        (None, {"a": 1, "b": 1}, {"a": 1}, {"b": 1}, {}),
        (None, {"a": 1}, None, {"a": 1, "b": 1}, {"b": 1}),
        (None, {"a": 1}, None, {}, None),
        (None, {"a": 1}, {"a": 1, "b": 1}, None, {"b": 1}),
        (None, None, {"a": 1}, {"b": 1}, {"b": 1, "a": 1}),
        (None, {}, {"a": None}, {"b": 1}, {"b": 1, "a": None}),  # None is a value like any other
        (None, {"a": False}, {"a": 0}, {"a": False, "b": 1}, {"a": 0, "b": 1}),
        (None, {"a": float("nan")}, {"a": float("nan"), "b": 1}, {"a": 5}, {"a": 5, "b": 1}),
        (counter, {"a": 1}, {}, {"a": 3}, {"a": 2}),
        (counter, {"a": 1}, {}, {}, {}),
        (lambda base, mine, theirs: None, {"a": 1}, {"a": 2}, {"a": 3}, {}),
    ],
)
def test_by_key(rule: Rule | None, base: Any, mine: Any, theirs: Any, merged: Any) -> None:
    """Dicts, with and without a rule for their values."""
    found = by_key(rule)(base, mine, theirs)
    assert found == merged
    assert encode(found, "") == encode(merged, "")


def test_extremes() -> None:
    """The larger, the smaller, and removals that do not count."""
    assert largest(9, 1, 2) == 2
    assert smallest(0, 1, 2) == 1
    assert largest(5, None, 7) == largest(5, 7, None) == 7
    assert smallest(5, None, None) is None
    early, late = datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC)
    assert largest(None, early, late) == late
    assert smallest(None, date(2027, 1, 1), date(2026, 1, 1)) == date(2026, 1, 1)
    assert largest(False, True, False) is True
    assert largest(None, (1, 9), (2, 0)) == (2, 0)


@pytest.mark.parametrize(
    ("rule", "arguments", "says"),
    [
        (counter, (1, "2", 3), "the merge rule counter is for int, float, Decimal; mine is of type str"),
        (counter, (1, 2, True), "counter .* theirs is of type bool"),
        (counter, (1, 2.0, Decimal(3)), "float.*Decimal"),
        (union, (set(), ["a"], set()), "union is for set, frozenset; mine is of type list"),
        (append, (("a",), ["a"], ["b"]), "append is for list; base is of type tuple"),
        (by_key(), ({}, {}, ["a"]), "by_key is for dict; theirs is of type list"),
        (by_key(counter), ({}, {"a": 1}, {"a": "1"}), "counter .* theirs is of type str"),
        (largest, (None, {1}, {2}), "largest is for .*; mine is of type set"),
        (smallest, (None, 1, "2"), "'int'|'str'"),
    ],
)
def test_wrong_types(rule: Rule, arguments: tuple[Any, Any, Any], says: str) -> None:
    """A value of another type is an error that names the rule, whose value it is, and its type."""
    with pytest.raises(TypeError, match=says):
        rule(*arguments)


def test_docstrings() -> None:
    """Each rule's docstring has an example that is right."""
    failed, attempted = doctest.testmod(merging)
    assert not failed
    assert attempted >= 7
    for name in merging.__all__:
        if name != "Rule":
            assert ">>>" in (getattr(merging, name).__doc__ or "")


def places_by_searching(items: list[Any], base: list[Any]) -> list[int | None]:
    """Return what `_places` does, as it is most plainly said."""
    encoded = [encode(item, "") for item in base]
    places: list[int | None] = []
    start = 0
    for item in items:
        try:
            place = encoded.index(encode(item, ""), start)
        except ValueError:
            places.append(None)
        else:
            places.append(place)
            start = place + 1
    return places


few_values = st.lists(st.sampled_from([1, True, 1.0, "a", None, (1,), [1]]), max_size=12)


@given(few_values, few_values)
def test_the_index_of_append_finds_what_a_search_finds(items: list[Any], base: list[Any]) -> None:
    """The first equal item that is behind the last one found."""
    assert merging._places(items, base) == places_by_searching(items, base)

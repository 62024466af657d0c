"""The merge: what commits make of a record, without any I/O."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data import rotation
from asgi_session._data.change import Change, Changes, Kind, Mark, own_keys
from asgi_session._data.expiry import ENDED_FOR
from asgi_session._data.fold import Fold, Outcome, fold
from asgi_session._data.record import MOVED, NOBODY, ROTATION, Record
from asgi_session._data.rules import Rules, merge
from asgi_session.errors import SessionTooLarge

NOW = 1_790_000_000_000
ROOM = 10**9
OLD = b"o" * 16

keys = st.sampled_from("abcdef")
entries = st.dictionaries(keys, st.binary(max_size=6), max_size=6)
changes: st.SearchStrategy[Changes] = st.dictionaries(keys, st.none() | st.binary(max_size=6), max_size=6)
marks = st.builds(Mark, st.sampled_from(Kind), st.integers(1, 60_000))


def base(content: dict[str, bytes] | None = None) -> Record:
    record = records.new_record(
        now=NOW - 500, idle=700, absolute=5000, digest=OLD, check=b"c" * 4, entries=content or {}
    )
    return replace(record, parts={77: b"later"})


def folded(record: Record, *asked: Change, max_size: int = ROOM, now: int = NOW) -> Fold:
    return fold(record, asked, Rules(), max_size, now)


def kinds(result: Fold) -> list[Any]:
    """Return the outcomes, of the errors only their types."""
    return [type(one) if isinstance(one, Exception) else one for one in result.outcomes]


def change(
    record: Record,
    wanted: Changes,
    mark: Mark | None = None,
    new: bytes = b"n" * 16,
    *,
    epoch: bytes | None = None,
) -> Change:
    return Change(wanted, epoch or record.epoch, mark, record.digest, new)


@given(entries, changes)
def test_merge(content: dict[str, bytes], wanted: Changes) -> None:
    """Promise 4: keys changed by me are mine, keys I left alone are as they were."""
    before = dict(content)
    merged = merge(content, wanted)
    for key in "abcdef":
        assert merged.get(key) == (wanted[key] if key in wanted else content.get(key))
    assert content == before
    assert own_keys(wanted) == {key: value for key, value in wanted.items() if value is not None}


@given(entries, changes, changes)
def test_commits_on_different_keys_commute(content: dict[str, bytes], one: Changes, other: Changes) -> None:
    """Promise 4: whichever of two commits on different keys comes first, both survive."""
    other = {key: value for key, value in other.items() if key not in one}
    record = base(content)
    first = folded(record, change(record, one), change(record, other))
    second = folded(record, change(record, other), change(record, one))
    assert first.record.entries == second.record.entries == merge(merge(content, one), other)
    assert first.outcomes == ["in"] * 2


@given(entries, st.lists(changes, max_size=5))
def test_the_later_of_two_commits_on_one_key_wins(content: dict[str, bytes], wanted: list[Changes]) -> None:
    """Commits are applied in their order."""
    record = base(content)
    result = folded(record, *(change(record, one) for one in wanted))
    for one in wanted:
        content = merge(content, one)
    assert result.record.entries == content


def state(record: Record) -> tuple[Any, ...]:
    return (
        record.epoch[:4], record.created, record.idle, record.deadline, record.digest, record.check,
        record.parts, record.entries,
    )  # fmt: skip


@given(
    entries, st.lists(st.tuples(changes, st.none() | marks, st.binary(min_size=16, max_size=16)), max_size=6)
)
def test_a_batch_is_the_same_as_one_by_one(
    content: dict[str, bytes], wanted: list[tuple[Changes, Mark | None, bytes]]
) -> None:
    """What a batch makes of a record is what its commits make of it one after another."""
    record = base(content)
    asked = [change(record, one, mark, new) for one, mark, new in wanted]
    together = folded(record, *asked)
    outcomes: list[Outcome] = []
    current = record
    for one in asked:
        alone = folded(current, one)
        # Salts are random, so the epoch that a mark has made is another one here: still not the base's.
        current = alone.record
        outcomes += alone.outcomes
    assert together.outcomes == outcomes
    assert state(together.record) == state(current)
    if together.data:
        assert together.record.version == record.version + 1
        assert records.decode(together.data) == together.record
    else:
        assert together.record is record


@given(
    entries,
    st.lists(st.tuples(st.booleans(), changes, st.none() | marks), min_size=1, max_size=8),
    st.integers(300, 400) | st.just(ROOM),
)
def test_nothing_of_another_epoch_gets_in(
    content: dict[str, bytes], wanted: list[tuple[bool, Changes, Mark | None]], max_size: int
) -> None:
    """Promise 8: whatever the marks, a commit made under another epoch leaves no trace."""
    record = base(content)
    asked = []
    for number, (same, one, mark) in enumerate(wanted):
        # Every value names its commit, so that it can be recognized wherever it turns up.
        named: Changes = {key: value and b"%d:" % number + value for key, value in one.items()}
        epoch = record.epoch if same else records.next_epoch(record.epoch)
        asked.append(change(record, named, mark, b"%016d" % number, epoch=epoch))
    result = folded(record, *asked, max_size=max_size)
    current = record.epoch
    ended = False
    for number, (outcome, made) in enumerate(zip(result.outcomes, asked, strict=True)):
        left = any(value.startswith(b"%d:" % number) for value in result.record.entries.values())
        if made.epoch != current or ended:
            assert outcome == "overtaken"
        if outcome not in ("in", "rotated already"):
            assert not left
            assert result.record.digest != made.new_digest
        elif made.mark is not None and made.mark.kind is not Kind.ROTATE_WITH_GRACE:
            ended = True  # the epoch has moved on: nobody in this batch can know the new one


@given(
    entries,
    st.lists(st.tuples(changes, st.none() | marks), min_size=1, max_size=6),
    st.integers(60, 200),
)
def test_the_size_limit(
    content: dict[str, bytes], wanted: list[tuple[Changes, Mark | None]], max_size: int
) -> None:
    """Data never grow beyond max_size, a rotation's header may; what is refused leaves no trace."""
    record = base(content)
    asked = [change(record, one, mark, b"%016d" % number) for number, (one, mark) in enumerate(wanted)]
    result = folded(record, *asked, max_size=max_size)
    unchanged = len(records.encode(records.next_version(record, NOW)))
    if result.data:
        assert len(records.encode(replace(result.record, parts=record.parts))) <= max(max_size, unchanged)
    errors = [outcome for outcome in result.outcomes if isinstance(outcome, SessionTooLarge)]
    allowed = [one for one, outcome in zip(asked, result.outcomes, strict=True) if isinstance(outcome, str)]
    assert len(allowed) + len(errors) == len(asked)
    assert all(error.size > max_size == error.max_size for error in errors)
    without = folded(record, *allowed)
    assert state(without.record)[1:] == state(result.record)[1:]
    assert [outcome for outcome in result.outcomes if isinstance(outcome, str)] == without.outcomes


def test_a_full_session_can_rotate() -> None:
    """A login must not fail because the session is full to the byte: only its data count as growth."""
    record = base({"a": b"x" * 1000})
    full = len(records.encode(records.next_version(record, NOW)))
    result = folded(record, change(record, {}, Mark(Kind.ROTATE)), max_size=full)
    assert result.outcomes == ["in"]


def test_only_growth_is_refused_above_the_limit() -> None:
    """A session that is too large already, since the limit was lowered, may shrink and change."""
    record = base({"a": b"x" * 1000})
    result = folded(
        record,
        change(record, {"b": b"y"}),
        change(record, {"a": b"z" * 1000}),
        change(record, {"a": b"z" * 900}),
        max_size=500,
    )
    assert kinds(result) == [SessionTooLarge, "in", "in"]
    assert result.record.entries == {"a": b"z" * 900}
    assert isinstance(error := result.outcomes[0], SessionTooLarge)
    assert error.size > 1000


def test_one_that_is_too_large_does_not_spoil_the_others() -> None:
    """Of a batch only the commit that would exceed the limit is left out."""
    record = base({"a": b"1"})
    result = folded(
        record,
        change(record, {"b": b"2"}),
        change(record, {"c": b"x" * 1000}),
        change(record, {"d": b"4"}),
        max_size=300,
    )
    assert kinds(result) == ["in", SessionTooLarge, "in"]
    assert result.record.entries == {"a": b"1", "b": b"2", "d": b"4"}
    alone = folded(record, change(record, {"c": b"x" * 1000}), max_size=300)
    assert (alone.record, alone.data, kinds(alone)) == (record, b"", [SessionTooLarge])


def test_rotate() -> None:
    """Promise 8: the old digest is gone at once, the data stays, the epoch goes up, MOVED is noted."""
    record = base({"a": b"1"})
    made = folded(record, change(record, {"b": b"2"}, Mark(Kind.ROTATE))).record
    assert made.digest == b"n" * 16
    assert made.epoch[:4] == b"\0\0\0\2"
    assert made.entries == {"a": b"1", "b": b"2"}
    assert (made.created, made.idle, made.deadline) == (record.created, record.idle, record.deadline)
    assert ROTATION not in made.parts
    assert records.moved_until(made) == NOW + ENDED_FOR
    assert made.parts[77] == b"later"


def test_rotate_with_grace() -> None:
    """The old digest is kept beside the new one, with the grace; the epoch stays."""
    record = base({"a": b"1"})
    made = folded(record, change(record, {"b": None}, Mark(Kind.ROTATE_WITH_GRACE, 15_000))).record
    assert (made.digest, made.epoch, made.entries) == (b"n" * 16, record.epoch, {"a": b"1"})
    assert rotation.of(made) == rotation.Rotation(False, NOW, 15_000, OLD)
    assert MOVED not in made.parts


def test_only_the_first_of_two_grace_rotations_rotates() -> None:
    """Promise 14: of parallel grace rotations one hands out a token; the data of both is kept."""
    record = base()
    mark = Mark(Kind.ROTATE_WITH_GRACE, 15_000)
    result = folded(
        record,
        change(record, {"a": b"1"}, mark, b"1" * 16),
        change(record, {"b": b"2"}, Mark(Kind.ROTATE_WITH_GRACE, 60_000), b"2" * 16),
    )
    assert result.outcomes == ["in", "rotated already"]
    assert result.record.digest == b"1" * 16
    assert result.record.entries == {"a": b"1", "b": b"2"}
    assert rotation.of(result.record) == rotation.Rotation(False, NOW, 15_000, OLD)
    later = folded(result.record, change(record, {}, mark, b"3" * 16), now=NOW + 1)
    assert later.outcomes == ["rotated already"]
    assert later.record.digest == b"1" * 16


@pytest.mark.parametrize("kind", [Kind.ROTATE, Kind.CLEAR, Kind.DESTROY])
def test_a_grace_ends_with_the_next_new_identity(kind: Kind) -> None:
    """Promise 8: a login during a grace period kills the token that was still good."""
    record = base()
    graced = folded(record, change(record, {}, Mark(Kind.ROTATE_WITH_GRACE, 15_000))).record
    made = folded(graced, change(graced, {"a": b"1"}, Mark(kind), b"2" * 16), now=NOW + 5).record
    assert not rotation.of(made).previous
    assert rotation.fit(made, OLD, NOW + 5) == "unknown"
    assert records.moved_until(made) == NOW + 5 + ENDED_FOR
    assert (ROTATION in made.parts) == (kind is Kind.ROTATE)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [(Kind.DESTROY, {}), (Kind.DESTROY, {"a": b"9"}), (Kind.CLEAR, {}), (Kind.CLEAR, {"b": b"9"})],
)
def test_ending(kind: Kind, wanted: Changes) -> None:
    """Promise 5: an ended record is nobody's, is empty, and goes in 60 seconds."""
    record = base({"a": b"1"})
    made = folded(record, change(record, wanted, Mark(kind))).record
    assert (made.digest, made.entries, made.deadline) == (NOBODY, {}, NOW + ENDED_FOR)
    assert made.epoch[:4] == b"\0\0\0\2"
    assert set(made.parts) == {77, MOVED}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_destroy_then_others(order: tuple[int, ...]) -> None:
    """Promise 5: in whatever order a logout and two writes meet, the session ends and stays ended."""
    record = base({"a": b"1"})
    asked = [
        change(record, {}, Mark(Kind.DESTROY)),
        change(record, {"b": b"2"}),
        change(record, {"c": b"3"}, Mark(Kind.ROTATE_WITH_GRACE, 1000)),
    ]
    result = folded(record, *(asked[index] for index in order))
    place = order.index(0)
    assert result.outcomes[: place + 1] == ["in"] * (place + 1)
    assert result.outcomes[place + 1 :] == ["overtaken"] * (2 - place)
    assert (result.record.digest, result.record.entries) == (NOBODY, {})
    again = folded(result.record, *asked)
    assert again.outcomes == ["overtaken"] * 3
    assert (again.record, again.data) == (result.record, b"")


def test_nothing_to_do() -> None:
    """Promise 2: when every commit is left out there is nothing to save."""
    record = base({"a": b"1"})
    assert folded(record) == Fold(record, b"", [])
    stale = change(record, {"a": b"2"}, epoch=b"otherone")
    assert folded(record, stale) == Fold(record, b"", ["overtaken"])
    assert ROTATION not in record.parts
    rotated = folded(record, change(record, {}, Mark(Kind.ROTATE_WITH_GRACE, 1000))).record
    back = Change({}, rotated.epoch, came_back=rotated.digest)
    noted = folded(rotated, back)
    assert (noted.outcomes, rotation.of(noted.record).seen) == (["in"], True)
    assert folded(noted.record, back) == Fold(noted.record, b"", ["in"]), "it is known already"

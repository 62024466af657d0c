"""A session's own lifetime: what may be asked, and what becomes of it in the fold. No I/O."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data.change import Change, Changes, Kind, Mark
from asgi_session._data.expiry import expires_at, expires_unused
from asgi_session._data.fold import fold
from asgi_session._data.lifetime import Lifetime, asked, is_persistent
from asgi_session._data.record import LIFETIME, MAX_TIME, Record
from asgi_session._data.rules import Rules

NOW = 1_790_000_000_000
HOUR = 3_600_000

times = st.integers(NOW + 1, NOW + 10_000)
lifetimes = st.builds(
    Lifetime, st.none() | st.integers(1, 10_000), st.none() | times, st.none() | st.booleans()
)
changes: st.SearchStrategy[Changes] = st.dictionaries(
    st.sampled_from("abc"), st.none() | st.binary(max_size=4)
)
part_sets = st.dictionaries(st.sampled_from([LIFETIME, 77]), st.binary(max_size=3))


def record(parts: dict[int, bytes] | None = None) -> Record:
    made = records.new_record(
        now=NOW - 500, idle=700, absolute=5000, digest=b"o" * 16, check=b"c" * 4, entries={"a": b"1"}
    )
    return replace(made, parts=parts or {})


def folded(base: Record, *asked: Change) -> Record:
    return fold(base, asked, Rules(), 10**9, NOW).record


def change(base: Record, wanted: Changes, lifetime: Lifetime | None, mark: Mark | None = None) -> Change:
    return Change(wanted, base.epoch, mark, base.digest, b"n" * 16, lifetime=lifetime)


def kept(made: Record) -> tuple[int, int, bool | None]:
    return made.idle, made.deadline, is_persistent(made)


def test_durations_count_from_now() -> None:
    """`absolute` as a duration is so long from the call on, whenever the session began."""
    wanted = asked(NOW, timedelta(minutes=15), 8 * 3600, None)
    assert wanted == Lifetime(15 * 60_000, NOW + 8 * HOUR, None)
    assert asked(NOW, 0.0015, None, None) == Lifetime(2, None, None)
    assert asked(NOW, None, None, False) == Lifetime(None, None, False)


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-11))])
def test_a_datetime_is_an_end(zone: timezone) -> None:
    """`absolute` as a datetime is that moment, in whatever zone it was given."""
    end = datetime.fromtimestamp((NOW + HOUR) / 1000, zone)
    assert asked(NOW, None, end, None) == Lifetime(None, NOW + HOUR, None)
    # An identity provider's end may be nearer than the idle timeout: no error, the earlier counts.
    assert asked(NOW, timedelta(days=1), end, None) == Lifetime(24 * HOUR, NOW + HOUR, None)


def test_the_latest_end_is_one_that_a_datetime_can_hold() -> None:
    """What is asked beyond the year 9999 ends there, so that a record with it can be read."""
    latest = datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))
    assert asked(NOW, None, latest, None).deadline == MAX_TIME
    assert asked(MAX_TIME - 1, None, timedelta(days=1), None).deadline == MAX_TIME


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ((None, None, None), "give idle=, absolute= or persistent="),
        ((0, None, None), "idle=0"),
        ((-1, None, None), "idle=-1"),
        ((timedelta(0), None, None), "idle"),
        ((float("nan"), None, None), "idle=nan"),
        ((float("inf"), None, None), "100 years"),
        ((True, None, None), "idle=True"),
        (("1h", None, None), "give a timedelta or seconds"),
        ((datetime.now(UTC), None, None), "give a timedelta or seconds"),
        ((None, 0, None), "absolute=0"),
        ((None, timedelta(days=36601), None), "100 years"),
        ((None, "tomorrow", None), "a timedelta, seconds or a datetime"),
        ((None, datetime(2031, 1, 1), None), "tzinfo"),
        ((None, datetime.fromtimestamp(NOW / 1000, UTC), None), "destroy()"),
        ((61, 60, None), "idle is longer than absolute"),
        ((None, None, "no"), "give True or False"),
        ((None, None, 1), "give True or False"),
    ],
)
def test_what_makes_no_sense_is_refused(wanted: tuple[Any, Any, Any], text: str) -> None:
    """Each argument is checked when it is given, and the error says what to give."""
    with pytest.raises(ValueError, match="set_lifetime") as caught:
        asked(NOW, *wanted)
    assert text in str(caught.value)


@given(lifetimes, lifetimes, part_sets)
def test_two_are_one_after_the_other(one: Lifetime, other: Lifetime, parts: dict[int, bytes]) -> None:
    """Asked twice in one request, it is as if both had been saved in that order."""
    base = record(parts)
    assert one.then(other).of(base) == other.of(one.of(base))
    assert one.then(None) == one


@given(lifetimes, part_sets)
def test_what_a_record_has_is_no_change(lifetime: Lifetime, parts: dict[int, bytes]) -> None:
    """Promise 2: a lifetime that a record has already makes no new one; what differs is enough to make it."""
    base = record(parts)
    made = lifetime.of(base)
    assert lifetime.of(made) is made
    differs = lifetime.differing(base)
    assert (made is base) == (differs is None)
    assert differs is None or differs.of(base) == made


@given(lifetimes, st.binary(min_size=1, max_size=4))
def test_what_a_later_version_keeps_beside_it_stays(lifetime: Lifetime, part: bytes) -> None:
    """Of a part that is longer than this version knows, the rest is kept byte for byte."""
    made = lifetime.of(record({LIFETIME: part, 77: b"later"}))
    assert made.parts[LIFETIME][1:] == part[1:]
    assert made.parts[77] == b"later"
    assert records.decode(records.encode(made)) == made


@given(changes, lifetimes, lifetimes, st.booleans())
def test_the_fold_keeps_the_last_of_each(
    wanted: Changes, one: Lifetime, other: Lifetime, rotates: bool
) -> None:
    """Promise 4: of several in one save the later counts, field by field, and data is merged as ever."""
    base = record()
    mark = Mark(Kind.ROTATE_WITH_GRACE, 1000) if rotates else None
    made = folded(base, change(base, wanted, one), change(base, {"z": b"9"}, other, mark))
    assert kept(made) == kept(one.then(other).of(base))
    assert made.entries == folded(base, change(base, wanted, None), change(base, {"z": b"9"}, None)).entries
    assert (made.digest != base.digest) == rotates


@given(changes, lifetimes, st.sampled_from([Kind.ROTATE, Kind.DESTROY, Kind.CLEAR]))
def test_none_of_it_crosses_an_identity(wanted: Changes, lifetime: Lifetime, kind: Kind) -> None:
    """Promise 8: what a slow request asks for a session that has got another identity since is left out."""
    base = record()
    moved = folded(base, change(base, {}, None, Mark(kind)))
    late = fold(moved, [change(base, wanted, lifetime)], Rules(), 10**9, NOW)
    assert late.record is moved
    assert late.outcomes == ["overtaken"]


@given(lifetimes, st.sampled_from([Kind.DESTROY, Kind.CLEAR]))
def test_an_ending_is_not_put_off(lifetime: Lifetime, kind: Kind) -> None:
    """Promise 5: a lifetime set beside an ending is the next session's; the ended record has its minute."""
    base = record()
    ended = folded(base, change(base, {}, lifetime, Mark(kind)))
    assert ended.ended
    assert (ended.idle, ended.deadline) == (base.idle, NOW + 60_000)


@given(st.lists(lifetimes, min_size=3, max_size=3))
def test_whatever_the_order_one_of_them_counts(three: list[Lifetime]) -> None:
    """Each field is what one of the requests asked, or what it was if none did: nothing is made up."""
    base = record()
    for order in permutations(three):
        made = folded(base, *[change(base, {}, one) for one in order])
        for field, before in (("idle", base.idle), ("deadline", base.deadline)):
            values = {getattr(one, field) for one in order} - {None}
            assert getattr(made, field) in (values or {before})


@given(
    st.integers(1, 10_000), st.integers(1, 10_000), times, times, st.integers(0, 10_000),
)  # fmt: skip
@example(1000, 5000, NOW + 500, NOW + 9000, 500)  # cut short by its deadline alone
def test_what_is_no_use_never_lengthens_but_for_a_deadline(
    was_idle: int, idle: int, was_deadline: int, deadline: int, left: int
) -> None:
    """Promise 5: a change that is no use shortens at once, and lengthens only what the deadline had cut."""
    stored = min(NOW + was_idle, was_deadline, NOW + left)
    found = expires_unused(stored, NOW, idle, deadline, was_deadline)
    assert found <= expires_at(NOW, idle, deadline)
    if not stored == was_deadline < deadline:
        assert found <= stored
    else:
        assert found == expires_at(NOW, idle, deadline)

"""Expiry and touches: arithmetic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asgi_session._data.expiry import ENDED_FOR, TOUCH_FRACTION, expires_at, touch_due

times = st.integers(0, 10**13)
spans = st.integers(1, 10**10)


@given(times, spans, times)
def test_expires_at(now: int, idle: int, deadline: int) -> None:
    """A session expires after its idle timeout and never later than its deadline."""
    expires = expires_at(now, idle, deadline)
    assert expires == now + idle or expires == deadline <= now + idle


def test_touch_due() -> None:
    """Promise 2: a touch is due once more than 5 % of the idle timeout can be gained, not before."""
    assert touch_due(1000, 0, 1000, 10**6, TOUCH_FRACTION) is None
    assert touch_due(1000, 50, 1000, 10**6, TOUCH_FRACTION) is None
    assert touch_due(1000, 51, 1000, 10**6, TOUCH_FRACTION) == 1051
    assert touch_due(100, 0, 1000, 10**6, TOUCH_FRACTION) == 1000  # a new session's, confirmed
    assert touch_due(1000, 900, 1000, 1040, TOUCH_FRACTION) is None  # the deadline leaves too little to gain
    assert touch_due(1000, 900, 1000, 1100, TOUCH_FRACTION) == 1100
    assert touch_due(2000, 0, 1000, 10**6, TOUCH_FRACTION) is None  # never shortens
    assert touch_due(1000, 250, 1000, 10**6, 0.25) is None  # a store that wants fewer
    assert touch_due(1000, 251, 1000, 10**6, 0.25) == 1251
    assert ENDED_FOR == 60_000


@given(times, spans, spans, st.lists(st.integers(0, 10**9), max_size=30), st.sampled_from([20, 4, 2]))
def test_touches_are_rare_and_keep_it_alive(
    start: int, idle: int, life: int, steps: list[int], parts: int
) -> None:
    """Promise 2: at most one touch per 5 % of the idle timeout; idle expiry comes at most 5 % early."""
    deadline = start + life
    stored, now, touched = expires_at(start, idle, deadline), start, start
    for step in steps:
        now += step
        due = touch_due(stored, now, idle, deadline, 1 / parts)
        if due is not None:
            assert (now - touched) * parts > idle
            assert stored < due <= deadline
            stored, touched = due, now
        assert (expires_at(now, idle, deadline) - stored) * parts <= idle

"""Options: durations, choices, and what to do about names that do not exist."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_session._options import choice, duration, milliseconds, unknown
from asgi_session.errors import ConfigurationError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1000),
        (0.001, 1),
        (1.5, 1500),
        (timedelta(days=14), 1_209_600_000),
        (timedelta(milliseconds=1), 1),
        (100 * 366 * 86400, 3_162_240_000_000),
    ],
)
def test_milliseconds(value: float | timedelta, expected: int) -> None:
    """Seconds and timedeltas become whole milliseconds."""
    result = milliseconds("x", value)
    assert (result, type(result)) == (expected, int)


@pytest.mark.parametrize(
    "value",
    [
        0, -1, 0.0004, float("nan"), float("inf"), -float("inf"), timedelta(0), timedelta(days=-1),
        timedelta.max, pytest.param(10**400, id="huge"), 100 * 366 * 86400 + 1,
        True, "5", None, [1], object(),
    ],
)  # fmt: skip
def test_bad_durations(value: Any) -> None:
    """No duration, no number, nothing and for ever are refused by the option's name."""
    with pytest.raises(ConfigurationError, match=r"^idle_timeout="):
        milliseconds("idle_timeout", value)


def test_durations() -> None:
    """What need not be whole milliseconds stays as it is; nothing and for ever are refused."""
    assert duration("timeout", timedelta(seconds=2)) == duration("timeout", 2) == 2.0
    assert duration("timeout", 0.0001) == 0.0001
    for value in (0, -1, float("nan"), float("inf"), timedelta.max, True, "5", None):
        with pytest.raises(ConfigurationError, match=r"^timeout="):
            duration("timeout", value)  # type: ignore[arg-type]


@given(st.integers(1, 10**12))
def test_milliseconds_are_exact(value: int) -> None:
    """A timedelta of whole milliseconds loses nothing."""
    assert milliseconds("x", timedelta(milliseconds=value)) == value


def test_choice() -> None:
    """A choice that does not exist is refused with those that do."""
    choice("on_corrupt", "new", ("raise", "new"))
    for value in ("New", None, 1, ["new"]):
        with pytest.raises(ConfigurationError, match=r"on_corrupt=.*: give one of 'raise', 'new'"):
            choice("on_corrupt", value, ("raise", "new"))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("max_age", "'max_age' (here it is idle_timeout"),
        ("secret_keys", "'secret_keys' (here it is secret_key"),
        ("cookie_name", "here it is session_cookie"),
        ("idle_timout", "'idle_timout' (did you mean 'idle_timeout'?)"),
        ("xyz", "no option 'xyz'. It has: idle_timeout, secret_key, session_cookie"),
    ],
)
def test_unknown_options(name: str, advice: str) -> None:
    """An option of another library, or a slip, gets ours named; the rest gets the list."""
    error = unknown("SessionMiddleware", [name], ["session_cookie", "idle_timeout", "secret_key"])
    assert isinstance(error, ConfigurationError)
    assert advice in str(error)


def test_unknown_options_of_somebody_else() -> None:
    """A store's options have other names elsewhere than the middleware's."""
    error = unknown("X", ["max_age", "db"], ["url"], {"db": "the URL"}, "use")
    assert "X has no option 'max_age', 'db' (use the URL). It has: url" in str(error)


def test_several_unknown_options() -> None:
    """All of them are named at once."""
    assert "'max_age' (here it is " in str(unknown("X", ["foo", "max_age"], []))
    assert "X has no option 'foo', 'max_age'" in str(unknown("X", ["foo", "max_age"], []))

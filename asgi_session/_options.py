"""Reading options: durations and the like, checked when they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from asgi_session.errors import ConfigurationError

_LONGEST = 100 * 366 * 86400


def milliseconds(name: str, value: float | timedelta) -> int:
    """Return a duration option as whole milliseconds.

    Args:
        name: of the option, for the error.
        value: a timedelta, or seconds.
    """
    number = _number(name, value)
    if not 0.001 <= number <= _LONGEST:  # nor is NaN
        raise ConfigurationError(f"{name}={value!r}: give a duration of at least 1 ms and at most 100 years")
    return round(number * 1000)


def duration(name: str, value: float | timedelta) -> float:
    """Return a duration option as seconds, however short.

    Args:
        name: of the option, for the error.
        value: a timedelta, or seconds.
    """
    number = _number(name, value)
    if not 0 < number <= _LONGEST:  # nor is NaN
        raise ConfigurationError(f"{name}={value!r}: give more than zero and at most 100 years")
    return float(number)


def _number(name: str, value: float | timedelta) -> float:
    number = as_seconds(value)
    if number is None:
        raise ConfigurationError(f"{name}={value!r}: give a timedelta or a number of seconds")
    return number


def seconds(name: str, value: float | timedelta, *, least: float, most: float) -> float:
    """Return a duration given with a call as seconds.

    Args:
        name: of the argument, for the error.
        value: a timedelta, or seconds.
        least: seconds.
        most: seconds.

    Raises:
        ValueError: it is no duration, or none between `least` and `most`.
    """
    number = as_seconds(value)
    if number is None or not least <= number <= most:  # nor is NaN
        raise ValueError(f"{name}={value!r}: give a timedelta or seconds, from {least:g} to {most:g}")
    return float(number)


def as_seconds(value: Any) -> float | None:
    """Return a timedelta, or a number of seconds, as seconds; None for anything else."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def fraction(name: str, value: Any, *, most: float = 0.5) -> float:
    """Return a fraction above zero and at most `most`.

    Args:
        name: of the option, for the error.
        value: given for it.
        most: that it may be.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise ConfigurationError(f"{name}={value!r}: give a number above 0 and at most {most:g}")
    return float(value)


def choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a `value` that is not one of those `allowed`."""
    if value not in allowed:
        raise ConfigurationError(f"{name}={value!r}: give one of {', '.join(map(repr, allowed))}")


_ELSEWHERE = {
    "max_age": "idle_timeout (how long it lasts unused) and absolute_timeout (how long at most)",
    "lifetime": "idle_timeout and absolute_timeout",
    "rolling": "nothing: every session is kept alive by use (idle_timeout)",
    "backend": "store",
    "cookie_name": "session_cookie",
    "cookie_domain": "domain",
    "cookie_path": "path",
    "cookie_same_site": "same_site",
    "cookie_https_only": "https_only",
    "samesite": "same_site",
    "secure": "https_only",
    "httponly": "nothing: the cookie is always HttpOnly",
    "secret": "secret_key",
    "secret_keys": "secret_key (it takes a list)",
    "prefix": "store=RedisStore.from_url(url, prefix=...)",
}


def unknown(
    owner: str,
    names: Iterable[str],
    known: Iterable[str],
    elsewhere: Mapping[str, str] = _ELSEWHERE,
    advice: str = "here it is",
) -> ConfigurationError:
    """Return the error for options that `owner` does not have, naming the ones that were meant.

    Args:
        owner: what was called.
        names: the options that it does not have.
        known: those that it has.
        elsewhere: what to use for the names that other libraries have.
        advice: what stands before that.
    """
    known = sorted(known)
    parts = []
    for name in names:
        hint = f" ({advice} {elsewhere[name]})" if name in elsewhere else meant(name, known)
        parts.append(f"{name!r}{hint}")
    return ConfigurationError(f"{owner} has no option {', '.join(parts)}. It has: {', '.join(known)}")


def meant(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'that'?)" for a name that resembles a known one, else nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

"""Options that cannot work are refused when they are given, and the message says what to change."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_session import ConfigurationError, SessionManager
from asgi_session.stores import MemoryStore


@pytest.mark.parametrize(
    "secret_key",
    [5, [], [5], {}, "short", ["long enough to be a key", "short"], "\ud800" * 16, ["k" * 16, "\ud800" * 16]],
)
def test_secret_keys_are_checked(secret_key: Any) -> None:
    """A key that is no key, or too short to be one, is named."""
    with pytest.raises(ConfigurationError, match="secret_key"):
        SessionManager("memory://", secret_key=secret_key)


@pytest.mark.parametrize("store", [MemoryStore, object(), None, 5])
def test_what_is_no_store_is_refused(store: Any) -> None:
    """A class in place of its instance, or something else altogether, is named."""
    with pytest.raises(ConfigurationError, match="store="):
        SessionManager(store)


def test_a_url_in_bytes_is_refused_without_showing_it() -> None:
    """It may hold a password, so the message names its type alone."""
    url: Any = b"redis://:hunter2@h"
    with pytest.raises(ConfigurationError, match=r"text.*not bytes") as caught:
        SessionManager(url)
    assert "hunter2" not in str(caught.value)


def test_the_repr_of_what_is_no_store_is_not_shown() -> None:
    """A settings object, say, has its passwords in its repr."""

    class Settings:
        def __repr__(self) -> str:
            return "Settings(password='hunter2')"

    store: Any = Settings()
    with pytest.raises(ConfigurationError, match="Settings, which is no store") as caught:
        SessionManager(store)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clock": 5}, "clock=5: give a function"),
        ({"clock": None}, "clock=None: give a function"),
        ({"namespace": "\ud800"}, "UTF-8"),
        ({"max_age": 5}, "idle_timeout"),
        ({"lifetime": 5, "rolling": True}, "'rolling' (here it is nothing"),
        ({"idle_timout": 5}, "did you mean 'idle_timeout'"),
        (
            {"zzz": 5},
            "SessionManager has no option 'zzz'. It has: absolute_timeout, anonymous_idle_timeout, check",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], says: str) -> None:
    """Unknown ones are answered as the middleware answers them: with the name of ours."""
    with pytest.raises(ConfigurationError) as caught:
        SessionManager(MemoryStore(), **options)
    assert says in str(caught.value)

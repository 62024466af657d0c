"""Options that cannot work are refused when they are given, and the message says what to change."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_session import ConfigurationError, SessionManager
from asgi_session.stores import MemoryStore


@pytest.mark.parametrize("secret_key", [5, [], [5], {}, "short", ["long enough to be a key", "short"]])
def test_secret_keys_are_checked(secret_key: Any) -> None:
    """A key that is no key, or too short to be one, is named."""
    with pytest.raises(ConfigurationError, match="secret_key"):
        SessionManager("memory://", secret_key=secret_key)


@pytest.mark.parametrize("store", [MemoryStore, object(), None, 5])
def test_what_is_no_store_is_refused(store: Any) -> None:
    """A class in place of its instance, or something else altogether, is named."""
    with pytest.raises(ConfigurationError, match="store="):
        SessionManager(store)

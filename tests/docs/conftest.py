"""What several of the tests of the documentation need."""

from __future__ import annotations

import pytest

from tests.servers import ServerProcess


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, valkey: ServerProcess) -> None:
    """The environment that an app is deployed with."""
    monkeypatch.setenv("SESSION_STORE", valkey.url)
    monkeypatch.setenv("SESSION_KEY", "k" * 32)
    monkeypatch.setenv("SESSION_ENCRYPTION_KEY", "e" * 32)

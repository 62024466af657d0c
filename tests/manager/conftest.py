"""What several of the tests of the manager need."""

from __future__ import annotations

import pytest

from tests.inside import no_pauses, renew_early
from tests.manager.kit import World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renew, and look again, after milliseconds."""
    renew_early(monkeypatch)


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries end at once, or the orders could not be repeated."""
    no_pauses(monkeypatch)

"""What the tests of the middleware start from."""

from __future__ import annotations

import pytest

from tests.app.kit import World


@pytest.fixture
def world() -> World:
    """A store, a clock and a list of events of the test's own."""
    return World()

"""The stages of a move are safe side by side, whatever the order, and need every part of the protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stores.moving.model import CONTROLS, SCENARIOS, Control, Scenario, linearizable, lived


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    yield
    lived.cache_clear()
    linearizable.cache_clear()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_order_looks_like_one_store(scenario: Scenario) -> None:
    """No order of steps, crash, lost request or lost reply loses a write or brings a record back."""
    explored = scenario.explore()
    assert not explored.broken, str(explored)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_simpler_protocols_break(control: Control) -> None:
    """Without this part, or at stages that do not follow one another, the model finds what goes wrong."""
    explored = control.scenario.explore(control.rules)
    assert "no order explains" in explored.broken or "in both stores" in explored.broken

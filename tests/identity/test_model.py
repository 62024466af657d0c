"""The protocol of the index keeps its promises in every order of steps, and needs each of its parts.

These explore the model; what the library does is compared with it elsewhere.
"""

import pytest

from tests.identity.model import CONTROLS, OFF, SCENARIOS, Control, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_order_keeps_the_promises(scenario: Scenario) -> None:
    """No order of steps, crash, lost reply or expiry breaks a promise of the index."""
    explored = scenario.explore()
    assert not explored.broken, str(explored)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_safety_does_not_rest_on_clocks(scenario: Scenario) -> None:
    """Where clocks disagree, a login may fail or come too late, but what must not break does not."""
    explored = scenario.explore(**OFF)
    assert not explored.broken, str(explored)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.without)
def test_each_part_is_needed(control: Control) -> None:
    """Without this part of the protocol the model finds a broken promise."""
    assert control.breaks in control.explore().broken

"""Rotation with a grace signs nobody out, and tells of a thief; the rule that it had before does not.

These explore the model; `_data/rotation.py` is compared with it in `tests/unit/test_rotation.py`.
"""

import pytest

from tests.identity.rotation_model import CONTROLS, SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_order_keeps_the_promises(scenario: Scenario) -> None:
    """No cut connection signs the browser out, no thief goes unnoticed, whatever the order."""
    explored = scenario.explore()
    assert not explored.broken, str(explored)


@pytest.mark.parametrize(("control", "breaks"), CONTROLS, ids=lambda control: getattr(control, "name", ""))
def test_each_part_is_needed(control: Scenario, breaks: str) -> None:
    """Without this part of the rules the model finds a broken promise."""
    assert breaks in control.explore().broken

"""What these tests have counted is told at the end of the run, also when all is well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_COUNTED = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line for the end of the run."""
    return request.config.stash.setdefault(_COUNTED, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(_COUNTED, []):
        terminalreporter.section("the lock and transactions, counted")
        for line in lines:
            terminalreporter.line(line)

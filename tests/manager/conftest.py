"""What several of the tests of the manager need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.inside import no_pauses, renew_early, seal_everything
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


@pytest.fixture(autouse=True)
def sealing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have all records sealed, in the second of a test's two runs."""
    if not getattr(request, "param", False):
        yield
        return
    sealed = seal_everything(monkeypatch)
    yield
    sealed.check()


ONCE = ("test_dump", "test_interleavings", "test_processes", "test_sealed", "test_shutdown")
"""Run once: both by itself; hundreds of orders of the same steps; other processes; own keys; few records."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run nearly every test a second time with sealed records: all must be as without."""
    module = metafunc.module.__name__.rpartition(".")[2]
    if module == "test_interleavings_rotated" or not module.startswith(ONCE):
        metafunc.parametrize("sealing", [False, True], ids=["plain", "sealed"], indirect=True)

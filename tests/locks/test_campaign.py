"""The lock under many clients, in processes that are killed and stopped, over connections that break."""

from __future__ import annotations

from collections.abc import Callable

from tests.locks.campaign import Outcome, run
from tests.locks.history import summary
from tests.locks.rounds import Plan


def verdict(outcome: Outcome, tell: Callable[[str], None]) -> dict[str, int]:
    """Require that no promise was broken; return what there was of each kind."""
    tell(str(outcome))
    assert not outcome.violations, outcome.report()
    outcome.discard()
    return summary(outcome.history)


async def test_processes_and_connections_that_fail(tell: Callable[[str], None]) -> None:
    """Promise 12: 10,000 acquisitions by processes that are killed, stopped and cut off; nothing is lost."""
    counts = verdict(await run(Plan(calm=8, storm=8, least=10_000)), tell)
    assert counts["acquisitions"] >= 10_000
    for kind in ("left", "discarded", "refused", "timeout", "cancelled", "killed"):
        assert counts.get(kind), f"the campaign was too kind: {kind}"


async def test_primaries_that_hand_over(tell: Callable[[str], None]) -> None:
    """Promises 12, 13: a cluster's primaries hand over to their replicas meanwhile; nothing is lost."""
    counts = verdict(await run(Plan(where="cluster", seed=2, calm=0, storm=7)), tell)
    assert counts["acquisitions"] > 500


async def test_primaries_that_die(tell: Callable[[str], None]) -> None:
    """Promise 12, as far as the store keeps what it acknowledged: what it kept is one history."""
    counts = verdict(await run(Plan(where="crash", seed=3, calm=0, storm=8)), tell)
    assert counts["acquisitions"] > 500

"""What the store is filled with is found by the layers; and what is shown where requests failed."""

from __future__ import annotations

import pytest

from benchmarks.filling import FILLERS, fill, headers_of
from benchmarks.plans import carry_out
from benchmarks.questions.scaling import plots, prepare, tables, targets, wrong
from benchmarks.worker import Bed
from tests.servers import start_valkey


@pytest.mark.parametrize("name", FILLERS)
async def test_each_filled_session_is_found_by_its_cookie(name: str) -> None:
    """And one that was not filled is noticed: the check would see a store that is empty."""
    server = start_valkey()
    bed = Bed(name, server.url)
    try:
        await fill(bed, name, 0, 1500)  # more than a batch
        for sessions, missing in ((1500, False), (15_000, True)):
            await prepare(bed, name, "read", sessions, 300, seed=1)
            assert (await carry_out(bed, 8))["failed"] == 0
            assert bool(await wrong(bed)) is missing
        assert len({str(headers) for headers in await headers_of(bed, name, range(100))}) == 100
    finally:
        await bed.close()
        server.stop()


def _row(sessions: int, cpu: float, failed: float = 0.0, concurrency: int = 64) -> dict[str, object]:
    case = {"layer": "asgi_session_redis", "action": "read", "sessions": sessions, "concurrency": concurrency}
    return {**case, "cpu": cpu, "store_cpu": 2.0, "failed": failed}


def test_what_failed_has_no_cost() -> None:
    rows = [_row(10_000, 30.0), _row(10_000, 5.0, failed=0.4, concurrency=1024)]
    [table, _] = tables(rows)
    assert table.rows == [["asgi-session, redis, read", "30.0", "fails"]]
    assert list(plots(rows)) == ["scaling-concurrency"]


def test_the_target_needs_both_ends() -> None:
    assert targets([_row(1_000, 30.0), _row(10_000, 30.0)]) == []
    [target] = targets([_row(1_000, 30.0), _row(1_000_000, 33.0)])
    assert target.ratio == pytest.approx(1.1)
    assert target.met
    assert targets([_row(1_000, 30.0), _row(1_000_000, 5.0, failed=0.1)]) == []

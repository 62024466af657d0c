"""The question of memory in the store."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.questions import store_memory
from benchmarks.worker import Bed
from tests.servers import ServerProcess


async def test_the_sessions_are_there_and_each_is_another_users(valkey: ServerProcess) -> None:
    bed = Bed("starsessions", valkey.url)
    await store_memory.fill(bed, 700, 70, 2)
    await bed.close()
    stored = [valkey.command("GET", key) for key in valkey.command("KEYS", "*")]
    assert len(stored) == 70
    assert len(set(stored)) == 70
    assert all(b'"count": 2' in data for data in stored)


def test_the_payload_has_the_size_that_was_asked_for() -> None:
    assert [abs(store_memory.payload(size) - size) < 10 for size in (100, 700, 10_000)] == [True] * 3


def test_what_is_measured_lies_between_the_payload_and_some_kilobytes() -> None:
    with Bench(quick=True, say=lambda what, part: None) as bench:
        rows = store_memory.measure(bench)
    assert {row["layer"] for row in rows} >= {"starsessions", "asgi_session_redis", "fastapi_redis_sdk"}
    assert all(row["payload"] < row["bytes"] < row["payload"] + 3_000 for row in rows)
    (table,) = store_memory.tables(rows)
    assert all(len(line) == len(table.columns) for line in table.rows)
    assert list(store_memory.plots(rows)) == ["store-memory"]


def test_rows_are_shown_whatever_was_measured() -> None:
    rows = [
        {"layer": "starsessions", "size": size, "sessions": sessions, "changes": changes}
        | {"payload": size, "bytes": size * 1.5 + changes}
        for size, sessions, changes in store_memory.cases(quick=False)
    ]
    sizes, counts, changes = store_memory.tables(rows)
    assert sizes.columns == ["layer", "100", "700", "10,000"]
    assert sizes.title.endswith("of 10,000 sessions, by size")
    assert counts.columns == ["layer", "2,000", "10,000", "100,000"]
    assert changes.rows == [["starsessions", "1,050 (+350)", "1,059 (+359)"]]
    for measured in ([], rows[:1], rows):
        assert store_memory.tables(measured)
        assert len(store_memory.plots(measured)) == bool(measured)
        assert store_memory.targets(measured) == []

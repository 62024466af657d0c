"""A save as our store sends it, and a plain SET: as many bytes, as many at a time."""

from __future__ import annotations

import pytest

from benchmarks.questions import store_cost
from benchmarks.results import Row
from benchmarks.saves import AT_A_TIME, VIAS, prepare_saves, save_all
from benchmarks.worker import Bed
from tests.servers import ServerProcess


async def test_both_save_the_same_bytes(valkey: ServerProcess) -> None:
    """Every save is carried out: keys, values and lifetimes of both kinds are of one length."""
    lengths = {}
    for via in VIAS:
        valkey.flush()
        bed = Bed("asgi_session_redis", valkey.url)
        await prepare_saves(bed, via)
        assert await save_all(bed, via, 1) == AT_A_TIME
        keys = valkey.command("KEYS", "*")
        before = {key: valkey.command("GET", key) for key in keys}
        assert await save_all(bed, via, 2) == 2 * AT_A_TIME
        after = {key: valkey.command("GET", key) for key in keys}
        await bed.close()
        assert len(keys) == AT_A_TIME
        assert all(before[key] != after[key] for key in keys)
        days = {valkey.command("TTL", key) // 86_400 for key in keys}
        lengths[via] = ({len(key) for key in keys}, {len(value) for value in after.values()}, days)
    assert lengths["store"] == lengths["plain"]


async def test_an_error_is_no_save(valkey: ServerProcess) -> None:
    """What the server refuses ends the measurement, instead of looking cheap."""
    bed = Bed("asgi_session_redis", valkey.url)
    await prepare_saves(bed, "plain")
    await save_all(bed, "plain", 1)
    valkey.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(RuntimeError, match="OOM"):
            await save_all(bed, "plain", 1)
    finally:
        valkey.command("CONFIG", "SET", "maxmemory", "0")
        await bed.close()


def test_saves_make_a_table_and_a_target() -> None:
    """Beside the rows of layers, or without them."""
    rows: list[Row] = [
        {"via": "store", "cpu": 3.0, "bytes_in": 900.0, "bytes_out": 5.0},
        {"via": "plain", "cpu": 2.0, "bytes_in": 800.0, "bytes_out": 5.0},
    ]
    (table,) = store_cost.tables(rows)
    assert table.rows == [[VIAS["store"], "3.00", "900", "5.00"], [VIAS["plain"], "2.00", "800", "5.00"]]
    (target,) = store_cost.targets(rows)
    assert target.ratio == 1.5 and target.met
    store_cost.plots(rows)

"""The question of what is lost when requests overlap: it finds what is wrong, and shows what it found."""

from __future__ import annotations

import pytest

from benchmarks.layers import LAYERS
from benchmarks.questions import correctness
from benchmarks.questions.correctness import LOGOUTS, WRITES
from benchmarks.worker import Bed
from tests.servers import ServerProcess


@pytest.mark.parametrize(
    ("name", "back"), [("asgi_session_redis", 0), ("starsessions", 30), ("litestar_sessions", 30)]
)
async def test_a_logout_races_a_slow_request(valkey: ServerProcess, name: str, back: int) -> None:
    bed = Bed(name, valkey.url)
    found = await correctness.race(bed, 30)
    await bed.close()
    assert found == {"refused": 0, "back_in_browser": back, "back_with_old_cookie": back}


@pytest.mark.parametrize(("name", "least", "most"), [("asgi_session_redis", 60, 60), ("starsessions", 1, 30)])
async def test_parallel_writes(valkey: ServerProcess, name: str, least: int, most: int) -> None:
    bed = Bed(name, valkey.url)
    cookie = await correctness.sign_in(bed)
    result = await correctness.write(bed, cookie, 0, 60, 20)
    survived = await correctness.survivors(bed, result["cookie"])
    await bed.close()
    assert result["refused"] == 0
    assert least <= survived <= most


async def test_a_signed_cookie_keeps_the_last_answer() -> None:
    bed = Bed("signed_cookie", "")
    result = await correctness.write(bed, await correctness.sign_in(bed), 0, 60, 20)
    assert await correctness.survivors(bed, result["cookie"]) < 30
    assert (await correctness.race(bed, 5))["back_in_browser"] == 5
    await bed.close()


async def test_whatever_a_request_raises_is_a_refusal() -> None:
    bed = Bed("signed_cookie", "")
    cookie = await correctness.sign_in(bed)

    async def app(scope: object, receive: object, send: object) -> None:
        raise OSError("no connection")

    bed._apps["set"] = app
    result = await correctness.write(bed, cookie, 0, 3, 2)
    assert (result["refused"], result["error"]) == (3, "OSError")


def rows(layer: str, survived: int, back: int) -> list[dict[str, object]]:
    writes = {"layer": layer, "what": WRITES, "processes": 2, "sent": 100, "refused": 1, "survived": survived}
    races = {"back_in_browser": back, "back_with_old_cookie": 0, "refused": 0}
    return [writes, {"layer": layer, "what": LOGOUTS, "sent": 10, **races}]


def test_a_lost_write_misses_the_target() -> None:
    assert [target.met for target in correctness.targets(rows("asgi_session_redis", 100, 0))] == [True, True]
    assert [target.met for target in correctness.targets(rows("asgi_session_redis", 99, 1))] == [False, False]
    assert correctness.targets(rows("starsessions", 5, 10)) == []


def test_rows_are_shown_whatever_was_measured() -> None:
    for measured in ([], rows("starsessions", 5, 10), [row for name in LAYERS for row in rows(name, 9, 1)]):
        for table in correctness.tables(measured):
            assert all(len(line) == len(table.columns) for line in table.rows)
        assert len(correctness.plots(measured)) == 1
    assert correctness.lost({"sent": 100, "refused": 95, "survived": 9}) == 0
    assert correctness.tables(rows("starsessions", 5, 10))[0].rows == [
        ["starsessions", "2", "100", "1", "5", "94"]
    ]

"""The question of locks: what the grants tell, that a lock that does not lock is found out, and its rows."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from benchmarks import contend
from benchmarks.bench import Bench
from benchmarks.grants import NEVER, Grant, fairness, hand_overs, in_order, order, overlaps, unused
from benchmarks.lockers import LOCKERS, Loop, Operation, Times
from benchmarks.questions import locks
from benchmarks.results import Row
from benchmarks.worker import Bed
from tests.servers import ServerProcess


def grant(process: int, asked: float, inside: float = NEVER, left: float = NEVER, waiter: int = 0) -> Grant:
    return Grant(process, waiter, asked, inside, left)


LATECOMER = in_order([grant(0, 0, 1, 2), grant(0, 3, 4, 5), grant(1, 1.5, 8, 9), grant(0, 9.5, 10, 11)])
"""At 2 one waits, but a latecomer takes the lock at 4; at 9 nobody waits."""


def test_a_latecomer_uses_the_lock_but_was_not_handed_it() -> None:
    """The one who waited at 2 is inside at 8; the lock was unused until 4."""
    assert hand_overs(LATECOMER, 0, 20, 20) == [6, 3]
    assert unused(LATECOMER, 0, 20) == [2, 3]
    assert hand_overs(LATECOMER, 3, 20, 20) == [3]  # only who left in time
    assert unused(LATECOMER, 0, 2) == [2]


def test_one_who_never_gets_the_lock_has_waited_till_the_end() -> None:
    starved = in_order([*LATECOMER[:2], grant(1, 1.5)])
    assert hand_overs(starved, 0, 20, 12) == [10, 7]
    assert unused(starved, 0, 20) == [2]


def test_order() -> None:
    """The latecomer of process 0 passes over process 1; within a process nobody is passed over."""
    found = order(LATECOMER)
    assert (found.overtaking, found.overtaking_within, found.worst) == (0.25, 0, 1)
    in_line = in_order([grant(0, at, at + 10, at + 10.5) for at in range(5)])
    assert order(in_line) == (0, 0, 0)
    reversed_ = in_order([grant(0, -at, at + 10, at + 10.5) for at in range(5)])
    assert order(reversed_) == (0.8, 0.8, 4)
    assert order([grant(0, 0)]) == (0, 0, 0)


def test_two_inside_at_once_are_seen() -> None:
    assert overlaps(LATECOMER) == 0
    assert overlaps(in_order([grant(0, 0, 1, 3), grant(1, 0, 2, 4), grant(0, 0, 4, 5)])) == 1
    assert overlaps(in_order([grant(0, 0, 1), grant(1, 0, 2, 4)])) == 0  # it failed inside, nobody knows when


def test_fairness() -> None:
    assert fairness([3, 3, 3]) == 1
    assert fairness([2, 1, 1]) == 1  # four grants cannot be spread more evenly over three
    assert fairness([100, 0, 0, 0]) == pytest.approx(0.25)
    assert fairness([1, 0, 0, 0]) == 1
    assert fairness([0, 0]) == 0


async def some(bed: Bed, name: str, record: str, waiters: int, seconds: float) -> dict[str, Any]:
    gc.freeze()  # or to collect garbage before it begins takes longer, in a process that has gathered a lot
    try:
        begin = time.monotonic() + 0.3
        instants = [begin, begin, begin + seconds, begin + seconds]
        return await contend.contend(
            bed, name, record, waiters, hold=0.001, pause=0.002, instants=instants, seed=1
        )
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("name", LOCKERS)
async def test_each_lock_holds(valkey: ServerProcess, name: str) -> None:
    """Of two beds at once, as of two processes: no increment is lost, and nobody is inside with another."""
    beds = [Bed("bare", valkey.url) for _ in range(2)]
    record = await contend.create(beds[0], name)
    results = await asyncio.gather(*[some(bed, name, record, 3, 0.5) for bed in beds])
    ordered = in_order(locks.grants_of(results))
    done = sum(result["done"] for result in results)
    assert [result["error"] for result in results] == ["", ""]
    assert await contend.count(beds[1], name, record) == done
    assert overlaps(ordered) == 0
    assert done == sum(one.left < NEVER for one in ordered) > 10
    for bed in beds:
        await bed.close()


class Open(Loop):
    """No lock at all."""

    async def waiter(self, record: str) -> Operation:
        async def operate(times: Times, hold: float) -> None:
            times.asked = times.inside = time.monotonic()
            await self._add_one(record, hold)
            times.left = time.monotonic()

        return operate


class Broken(Loop):
    """A lock that cannot be had."""

    async def waiter(self, record: str) -> Operation:
        async def operate(times: Times, hold: float) -> None:
            times.asked = time.monotonic()
            await asyncio.sleep(0.001)
            raise OSError("no connection")

        return operate


async def test_no_lock_at_all_is_found_out(valkey: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOCKERS, "open", ("no lock", Open))
    bed = Bed("bare", valkey.url)
    record = await contend.create(bed, "open")
    result = await some(bed, "open", record, 5, 0.2)
    assert await contend.count(bed, "open", record) < result["done"]
    assert overlaps(in_order(locks.grants_of([result]))) > 0
    await bed.close()


async def test_failures_are_told_and_counted(valkey: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOCKERS, "broken", ("broken", Broken))
    bed = Bed("bare", valkey.url)
    result = await some(bed, "broken", "record", 2, 0.1)
    assert (result["done"], result["error"]) == (0, "OSError: no connection")
    assert result["failed"] >= 2
    await bed.close()


async def test_who_still_waits_at_the_end_gives_up(valkey: ServerProcess) -> None:
    """A lock that somebody else holds does not keep the waiters, and they count as waiting."""
    bed = Bed("bare", valkey.url)
    record = await contend.create(bed, "redis_py")
    valkey.command("SET", f"lock:{record}", "somebody")
    began = time.monotonic()
    result = await some(bed, "redis_py", record, 3, 0.2)
    assert time.monotonic() - began < 5
    assert (result["done"], result["failed"]) == (0, 0)
    assert [inside for _, _, inside, _ in result["times"]] == [None] * 3
    await bed.close()


@pytest.mark.parametrize("name", LOCKERS)
async def test_alone(valkey: ServerProcess, name: str) -> None:
    bed = Bed("bare", valkey.url)
    figures = await contend.alone(bed, name, at_a_time=4, operations=20)
    assert figures["cpu"] > 0
    await bed.close()


def test_waiters_are_spread_evenly() -> None:
    assert [locks.shares(2, 4), locks.shares(10, 4), locks.shares(50, 1)] == [[1, 1], [3, 3, 2, 2], [50]]


def test_the_cases() -> None:
    """2 to 500 waiters in one and in four processes, one in each of four, and once without a pause."""
    found = locks.cases(quick=False)
    usual = {(case.waiters, case.processes) for case in found if case.pause}
    assert usual == {(4, 4)} | {(waiters, processes) for waiters in (2, 10, 50, 500) for processes in (1, 4)}
    assert {case.locker for case in found} == set(LOCKERS)
    assert [(case.waiters, case.processes) for case in found if not case.pause] == [(50, 4)] * len(LOCKERS)


def test_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case of two lockers: commands are told from what scripts call, and the store's CPU is seen."""
    wanted = [locks.Case(name, 3, 2, locks.PAUSE, (0.1, 0.3, 0.3)) for name in ("ours", "loop")]
    monkeypatch.setattr(locks, "cases", lambda quick: wanted)
    with Bench(quick=True, say=lambda what, part: None) as bench:
        rows = locks.measure(bench)
    ours, loop = [row for row in rows if row["kind"] == "contended"]
    for row in (ours, loop):
        assert (row["lost"], row["overlaps"], row["failed"]) == (0, 0, 0)
        assert row["grants"] > 5
        assert row["store_cpu"] > 0
    assert 2 < ours["commands"] < 6
    assert loop["commands"] > 3
    assert 1 < loop["script_calls"] < 3  # a GET and a DEL for each release
    assert len([row for row in rows if row["kind"] == "uncontended"]) == 2 * len(LOCKERS)


def row(locker: str, waiters: int = 50, processes: int = 4, **figures: Any) -> Row:
    """Return what a case gives, where all goes well."""
    usual = {
        "pause": 4.0, "grants": 900, "hand_overs": 900, "rate": 450.0, "longest": 100.0,
        "p50": 1.0, "p99": 2.0, "unused": 1.0, "store_cpu": 40.0, "client_cpu": 900.0,
        "commands": 2.5, "script_calls": 3.0, "fairness": 1.0, "overtaking": 0.5, "overtaking_within": 0.0,
        "worst": 3, "done": 1000, "lost": 0, "overlaps": 0, "failed": 0, "error": "",
    }  # fmt: skip
    case = {"kind": "contended", "locker": locker, "waiters": waiters, "processes": processes}
    return {**case, **usual, **figures}


def alone(locker: str, cpu: float, at_a_time: int) -> Row:
    return {"kind": "uncontended", "locker": locker, "at_a_time": at_a_time, "cpu": cpu, "rate": 1e6 / cpu}


def verdicts(*rows: Row) -> list[tuple[float, bool]]:
    return [(round(target.ratio, 3), target.met) for target in locks.targets(list(rows))]


def test_the_targets_are_judged_by_the_worst_case() -> None:
    """The commands of all cases count, also of those without a pause; the hand-over of one case."""
    theirs = row("redis_py", p50=30.0)
    assert verdicts(row("ours"), row("ours", 2, 1, commands=3.2), theirs) == [
        (3.2, False), (round(1 / 30, 3), True), (0, True),
    ]  # fmt: skip
    assert verdicts(row("ours", p50=2.0), theirs)[1] == (round(2 / 30, 3), False)
    assert verdicts(row("ours", pause=0.0), theirs) == [(2.5, True), (0, True)]
    assert verdicts(theirs) == []


@pytest.mark.parametrize("wrong", [{"lost": 1}, {"lost": -1}, {"overlaps": 1}, {"failed": 1}])
def test_whatever_goes_wrong_misses_a_target(wrong: dict[str, int]) -> None:
    assert verdicts(row("ours"), row("ours", 2, **wrong))[-1] == (1, False)
    assert verdicts(row("ours_kept", **wrong)) == [(1, False)]


def test_the_uncontended_targets() -> None:
    rows = [
        alone("ours", 80, 1),
        alone("redis_py", 100, 1),
        alone("ours", 85, 64),
        alone("redis_py", 100, 64),
    ]
    assert verdicts(*rows) == [(0.8, True), (0.85, False)]


def test_a_lost_increment_is_shown() -> None:
    table = locks.tables([row("loop", lost=3, overlaps=2), row("loop", 2, failed=1)])[-1]
    assert table.rows == [["SET NX loop, 10 ms", "2000", "3", "2", "1", "3"]]


def test_rows_are_shown_whatever_was_measured() -> None:
    """Also a case in which nobody ever got the lock, and one with too few hand-overs for a p99."""
    nobody = row("loop", 500)
    for name in ("p50", "p99", "unused", "store_cpu", "client_cpu", "commands", "script_calls"):
        del nobody[name]
    every = [
        row(case.locker, case.waiters, case.processes, pause=case.pause * 1000)
        for case in locks.cases(quick=False)
    ]
    every += [alone(name, 100.0, many) for name in LOCKERS for many in (1, 64)]
    for measured, pictures in (
        ([], 0),
        ([nobody], 0),
        ([row("ours")], 2),
        ([nobody, row("ours")], 2),
        (every, 3),
    ):
        for table in locks.tables(measured):
            assert all(len(line) == len(table.columns) for line in table.rows)
        assert len(locks.plots(measured)) == pictures
        locks.targets(measured)
    assert locks.tables(every)[0].columns[1:] == [
        "2 in 1", "2 in 4", "4 in 4", "10 in 1", "10 in 4", "50 in 1", "50 in 4", "500 in 1", "500 in 4",
    ]  # fmt: skip


def test_timing() -> None:
    """What is counted lies in the stretch; ms; no p99 of a few."""
    found = locks.timing(LATECOMER, 0, 9, 12)
    assert found == {
        "grants": 3,
        "hand_overs": 2,
        "rate": pytest.approx(1 / 3),
        "longest": 6500,
        "p50": 3000,
        "unused": 2000,
    }

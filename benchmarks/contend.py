"""Waiters for one lock: in each process some of them, that take it again and again."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from typing import Any, Final

from benchmarks.grants import NEVER
from benchmarks.lockers import LOCKERS, Locker, Times
from benchmarks.worker import Bed, Meter

GRACE: Final = 30.0  # seconds in which all must have ended


def locker_of(bed: Bed, name: str) -> Locker:
    """Return the process's locker of that name, always the same one."""
    key = ("locker", name)
    if key not in bed.kept:
        bed.kept[key] = LOCKERS[name][1](bed.store_url)
        bed.at_end(bed.kept[key].close)
    locker: Locker = bed.kept[key]
    return locker


async def create(bed: Bed, name: str) -> str:
    """Make a record for the locker `name`, and return what every process finds it by."""
    return await locker_of(bed, name).create()


async def count(bed: Bed, name: str, record: str) -> int:
    """Return a record's count."""
    return await locker_of(bed, name).count(record)


async def contend(
    bed: Bed,
    name: str,
    record: str,
    waiters: int,
    hold: float,
    pause: float,
    instants: list[float],
    seed: int,
) -> dict[str, Any]:
    """Have `waiters` waiters take the lock again and again, until the last of `instants`.

    Who still waits then gives up; who is inside finishes.

    Args:
        bed: the process's.
        name: of the locker.
        record: that `create` has made.
        waiters: how many there are in this process.
        hold: seconds between reading and writing.
        pause: mean seconds from one operation's end to the next one's beginning.
        instants: of CLOCK_MONOTONIC: the beginning, the two between which CPU is counted, the end.
        seed: of the pauses.

    Returns:
        ``times``: waiter, asked, inside and left of each operation (None for never); ``done``: how many
        ended well; ``failed``: how many did not, ``error``: the first; ``cpu``: CPU seconds of this
        process in a second.
    """
    locker = locker_of(bed, name)
    operations = [await locker.waiter(record) for _ in range(waiters)]
    begin, since, until, end = instants
    current: list[Times | None] = [None] * waiters
    every: list[tuple[int, Times]] = []
    failures: list[Exception] = []
    done = 0
    over = False

    async def wait(number: int) -> None:
        nonlocal done
        chance = random.Random(seed + number)
        while not over:
            times = current[number] = Times()
            every.append((number, times))
            try:
                await operations[number](times, hold)
            except asyncio.CancelledError:
                times.left = NEVER  # at the end, just as it came in: it has done nothing
                raise
            except Exception as error:  # whatever a lock does when it is asked for too much
                failures.append(error)
            else:
                done += 1
            current[number] = None
            if pause:
                await asyncio.sleep(chance.uniform(0.5, 1.5) * pause)

    gc.collect()
    await _sleep_until(begin)
    tasks = [asyncio.create_task(wait(number)) for number in range(waiters)]
    readings = []
    for instant in (since, until):
        await _sleep_until(instant)
        readings.append((time.process_time(), time.monotonic()))
    await _sleep_until(end)
    over = True
    await _end(name, tasks, current)
    (cpu, at), (cpu_after, at_after) = readings
    return {
        "times": [
            (number, times.asked, _known(times.inside), _known(times.left))
            for number, times in every
            if times.asked < NEVER
        ],
        "done": done,
        "failed": len(failures),
        "error": f"{type(failures[0]).__name__}: {failures[0]}"[:300] if failures else "",
        "cpu": (cpu_after - cpu) / (at_after - at),
    }


async def _end(name: str, tasks: list[asyncio.Task[None]], current: list[Times | None]) -> None:
    """Have all waiters end: those that are not inside by cancelling them.

    Again and again, since some clients swallow a cancellation that meets them while connecting.
    """
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        for task, times in zip(tasks, current, strict=True):
            if times is None or times.inside == NEVER:
                task.cancel()
        _, late = await asyncio.wait(tasks, timeout=0.5)
        if not late:
            return
    raise RuntimeError(f"{name}: waiters did not end within {GRACE} s")


def _known(instant: float) -> float | None:
    return instant if instant < NEVER else None


async def _sleep_until(instant: float) -> None:
    await asyncio.sleep(max(instant - time.monotonic(), 0.0))


async def alone(bed: Bed, name: str, at_a_time: int, operations: int) -> dict[str, float]:
    """Do operations on `at_a_time` records at a time, each with a lock that nobody else wants.

    Returns:
        CPU µs of this process per operation, and operations per second.
    """
    key = ("alone", name, at_a_time)
    if key not in bed.kept:
        locker = locker_of(bed, name)
        records = [await locker.create() for _ in range(at_a_time)]
        bed.kept[key] = [await locker.waiter(record) for record in records]
    each = max(operations // at_a_time, 1)

    async def run(operate: Any) -> None:
        for _ in range(each):
            await operate(Times(), 0.0)

    with Meter() as meter:
        await asyncio.gather(*[run(operate) for operate in bed.kept[key]])
    return meter.per(each * at_a_time)

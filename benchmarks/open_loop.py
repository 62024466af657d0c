"""Requests that come when they are due, whether or not those before them have been answered.

A client that waits for an answer before it asks again spares a slow server: while it waits, the
requests that would have suffered most are not made ("coordinated omission"). Here the times of
arrival are fixed beforehand, and what a request takes is counted from the time when it was due.

Arrivals are those of a Poisson process, as from many clients who know nothing of each other: evenly
spaced ones never meet, and would hide most of the waiting. They come from a seed, so that all layers
get the same.

The scheduler shares the process and its loop with the app, and looks at the clock at every turn of the
loop: timers of event loops are good to 1 ms only. So the loop never sleeps, and what it takes to wake
up a process is in no figure.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Sequence
from itertools import accumulate
from math import ceil
from typing import Any, Final

from benchmarks.plans import Plan
from benchmarks.worker import Bed

MOST: Final = 1000
"""Requests that may wait for an answer: fewer than a connection pool may have connections
(`benchmarks.layers.CONNECTIONS`), so that a slow layer is not made to fail."""


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Return when each of `count` requests is due, in s: at random, but the last at ``count / rate``."""
    chance = random.Random(seed)
    times = list(accumulate(chance.expovariate(rate) for _ in range(count)))
    scale = count / rate / times[-1]
    return [at * scale for at in times]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest of the values that `percent` of all values do not exceed; 0 if there are none."""
    return ordered[max(ceil(len(ordered) * percent / 100) - 1, 0)] if ordered else 0.0


async def keep_rate(bed: Bed, rate: int, seed: int) -> dict[str, Any]:
    """Make the requests of the plan that the bed keeps, at `rate` a second.

    Stops early when `MOST` requests wait for an answer.

    Returns:
        ``achieved``: answers per second; ``p50``, ``p99``, ``p99.9``: ms from when a request was due to
        its answer; ``failed``: share of the requests begun that failed; ``error``: the first failure;
        ``stopped``: whether it was stopped early.
    """
    plan: Plan = bed.kept["plan"]
    due = arrivals(rate, len(plan), seed)
    clock = time.perf_counter
    taken: list[float] = []
    failures: list[Exception] = []
    running: set[asyncio.Task[None]] = set()

    async def one(app: Any, browser: Any, query: bytes, when: float) -> None:
        try:
            await browser.request(app, query)
        except Exception as error:  # whatever a layer does when it is asked for too much
            failures.append(error)
        else:
            taken.append(clock() - when)

    gc.collect()
    begun = 0
    began = clock()
    while begun < len(plan) and len(running) < MOST:
        now = clock() - began
        while begun < len(plan) and due[begun] <= now and len(running) < MOST:
            task = asyncio.create_task(one(*plan[begun], began + due[begun]))
            running.add(task)
            task.add_done_callback(running.discard)
            begun += 1
        await asyncio.sleep(0)
    stopped = begun < len(plan)
    if running:
        await asyncio.wait(running)
    passed = clock() - began
    ordered = [value * 1e3 for value in sorted(taken)]
    return {
        "achieved": len(taken) / passed,
        "p50": percentile(ordered, 50),
        "p99": percentile(ordered, 99),
        "p99.9": percentile(ordered, 99.9),
        "failed": len(failures) / begun,
        "error": f"{type(failures[0]).__name__}: {failures[0]}"[:300] if failures else "",
        "stopped": stopped,
    }

"""The open loop charges a request for its wait, and the question judges what is saturated."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

from benchmarks.client import Browser
from benchmarks.open_loop import arrivals, keep_rate, percentile
from benchmarks.questions import latency
from benchmarks.worker import Bed


def _bed(app: Any, requests: int) -> Bed:
    bed = Bed("bare", "")
    bed.kept["plan"] = [(app, Browser(), b"")] * requests
    return bed


async def _answer(send: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_arrivals_are_the_same_for_all_and_exact_in_their_mean() -> None:
    due = arrivals(1000, 500, 3)
    assert due == arrivals(1000, 500, 3) != arrivals(1000, 500, 4)
    assert due == sorted(due)
    assert due[-1] == pytest.approx(0.5)
    gaps = [after - before for before, after in pairwise(due)]
    assert min(gaps) < 0.0002  # at random, not evenly
    assert max(gaps) > 0.003


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 1001)]
    assert [percentile(values, p) for p in (50, 99, 99.9, 100)] == [500, 990, 999, 1000]
    assert percentile([7.0], 99.9) == 7.0
    assert percentile([], 50) == 0.0


async def test_those_who_wait_behind_a_slow_request_are_charged_for_it() -> None:
    """One request of 500 blocks all for 0.2 s. A client that waited would have seen 0.2 % slow ones."""
    calls = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 100:
            time.sleep(0.2)
        await _answer(send)

    figures = await keep_rate(_bed(app, 500), rate=1000, seed=1)
    assert figures["p99"] > 150
    assert not figures["failed"]
    assert not figures["stopped"]


async def test_failures_are_counted_and_not_timed() -> None:
    calls = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        calls += 1
        await _answer(send, 200 if calls % 4 else 500)

    figures = await keep_rate(_bed(app, 100), rate=10_000, seed=1)
    assert figures["failed"] == 0.25
    assert "500" in figures["error"]
    assert latency.saturated(10_000, figures)


async def test_it_stops_when_too_many_wait() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await _answer(send)

    figures = await keep_rate(_bed(app, 20_000), rate=50_000, seed=1)
    assert figures["stopped"]
    assert latency.saturated(50_000, figures)


def test_tables_and_plots_of_what_was_measured() -> None:
    """A saturated point is named in the table and not drawn; layers without a store hold for all delays."""
    good = {"p50": 0.1, "p99": 0.5, "failed": 0.0, "error": "", "saturated": False}
    rows = [
        {"layer": "scheduler", "delay": 0, "rate": 500, "achieved": 500.0, **good},
        {"layer": "signed_cookie", "delay": 0, "rate": 500, "achieved": 500.0, **good},
        {"layer": "", "delay": 5, "added": 5.2},
        {"layer": "starsessions", "delay": 5, "rate": 500, "achieved": 499.0, **good, "p99.9": 0.75},
        {"layer": "starsessions", "delay": 5, "rate": 1000, "achieved": 700.0, **good, "saturated": True},
    ]
    nothing, slow, proxy = latency.tables(rows)
    assert [row[0] for row in nothing.rows] == ["the scheduler alone", "Starlette signed cookie"]
    assert slow.rows == [
        ["the scheduler alone", "0.10 / 0.50", ""],
        ["Starlette signed cookie", "0.10 / 0.50", ""],
        ["starsessions", "0.10 / 0.50 / 0.75", "only 700/s"],
    ]
    assert proxy.rows == [["5 ms", "5.20 ms"]]
    assert list(latency.plots(rows)) == ["latency-0ms", "latency-5ms"]
    assert latency.targets(rows) == []

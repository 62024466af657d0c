"""The sampler and the flame graph, and the question that uses them."""

from __future__ import annotations

import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.calls import calls
from benchmarks.questions import own_time
from benchmarks.report.flame import FlameGraph, boxes
from benchmarks.results import Row
from benchmarks.sampler import Sampler, Stacks, by_function, by_part, inclusive, pruned
from benchmarks.worker import Bed

STACKS: Stacks = {
    ("asyncio/events.py:run",): 1.0,
    ("asyncio/events.py:run", "asgi_session/session.py:Session.load"): 5.0,
    ("asyncio/events.py:run", "asgi_session/session.py:Session.load", "asgi_session/codec.py:<decode>"): 3.9,
    ("asyncio/events.py:run", "starlette/routing.py:match"): 0.1,
}


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def quiet(seconds: float) -> None:
    time.sleep(seconds)


def test_sampler() -> None:
    """CPU time is found where it was used, all of it, waiting is not counted, and no path is told."""
    with Sampler() as sampler:
        busy(0.3)
        quiet(0.3)
    stacks = sampler.stacks()
    used = by_function(stacks)
    assert 0.3 <= sum(stacks.values()) < 0.5
    (own, whole) = used[next(name for name in used if name.endswith("test_own_time.py:busy"))]
    assert own == whole > 0.25
    assert sum(own for name, (own, _) in used.items() if name.endswith(":quiet")) < 0.02
    assert not any(name.startswith("/") for name in used)


def test_sums() -> None:
    """Pruning moves what was used to the caller and loses nothing; all sums agree."""
    totals = inclusive(STACKS)
    assert totals[("asyncio/events.py:run",)] == pytest.approx(10.0)
    kept = pruned(STACKS, 0.5)
    assert sum(kept.values()) == pytest.approx(10.0)
    assert kept[("asyncio/events.py:run",)] == pytest.approx(1.1)
    functions = by_function(STACKS)
    assert functions["asgi_session/session.py:Session.load"] == (5.0, pytest.approx(8.9))
    parts = by_part((name, own) for name, (own, _) in functions.items())
    assert parts == pytest.approx({"asyncio": 1.0, "asgi_session": 8.9, "starlette": 0.1})


def test_flame_graph(tmp_path: Path) -> None:
    """What was called lies within what called it; the SVG is well-formed, tells each box, and repeats."""
    made = {box.function: box for box in boxes(STACKS)}
    root, load = made["asyncio/events.py:run"], made["asgi_session/session.py:Session.load"]
    decode = made["asgi_session/codec.py:<decode>"]
    assert (root.left, root.width, root.depth) == (0.0, pytest.approx(1.0), 0)
    assert load.depth == 1 and decode.depth == 2
    assert load.left <= decode.left and decode.left + decode.width <= load.left + load.width + 1e-9
    assert made["starlette/routing.py:match"].left == pytest.approx(load.left + load.width)
    graph = FlameGraph(STACKS, title="A <title>", unit="µs per request")
    tree = ElementTree.fromstring(graph.svg())
    titles = [element.text or "" for element in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert "asgi_session/codec.py:<decode>\n3.90 µs per request, 39.0%" in titles
    assert graph.svg() == FlameGraph(STACKS, title="A <title>", unit="µs per request").svg()
    graph.savefig(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


async def test_single_calls() -> None:
    """Every single call can be made and takes some time; they make tables, a plot and the target's ratio."""
    timed = await calls(Bed("bare", ""), [700, 60_000], 1)
    assert all(row["ns"] > 10 for row in timed)
    rows: list[Row] = [{"kind": "call", **row} for row in timed]
    assert [len(table.columns) for table in own_time.tables(rows)] == [2, 3]
    assert list(own_time.plots(rows)) == ["own-time-decoding"]
    reading, hostile = own_time.targets(rows)
    assert 0 < reading.ratio < 1
    assert 0 < hostile.ratio < 10, "quadratic would be 85; the exact bound is the benchmark's"


def test_paths() -> None:
    """Samples make two tables and a graph for each path; rows of one path alone will do."""
    rows: list[Row] = [
        {"kind": "stack", "path": "read", "stack": ";".join(stack), "own": used}
        for stack, used in STACKS.items()
    ]
    for name, (own, whole) in by_function(STACKS).items():
        rows.append({"kind": "function", "path": "read", "function": name, "own": own, "whole": whole})
    packages, functions = own_time.tables(rows)
    assert packages.rows[0] == ["this library", "8.90", "89%"]
    assert functions.rows[0][0] == "asgi_session/session.py:Session.load"
    assert list(own_time.plots(rows)) == ["own-time-read"]

"""What was measured on uvloop stands beside asyncio's figures, and never in their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.layers import BY_THE_WAY, LAYERS, layer
from benchmarks.questions import request_cost
from benchmarks.questions.request_cost import DEPENDENCY, UVLOOP
from benchmarks.report.summary import compared
from benchmarks.results import Row, pick
from benchmarks.run import Run
from benchmarks.sessions import USUAL
from tests.benchmarks.test_summary import kept_run

CASE: dict[str, Any] = {"concurrency": 64, "size": USUAL, "rate": 1.0, "client": 1.0}


def rows_of_both_loops() -> list[Row]:
    """Return rows in which uvloop takes a tenth; they come first, where a careless reader would take them."""
    on_uvloop = [
        {"layer": name, "action": action, **CASE, "loop": "uvloop", "cpu": 1.0 + place}
        for place, name in enumerate(UVLOOP[0])
        for action, _, _ in UVLOOP[1]
    ]
    return on_uvloop + [
        {name: value for name, value in row.items() if name != "loop"} | {"cpu": 10 * row["cpu"]}
        for row in on_uvloop
    ]


def test_the_loops_have_a_table_of_their_own() -> None:
    """All other tables, the plot and the page's summary are asyncio's."""
    rows = rows_of_both_loops()
    *tables, both = request_cost.tables(rows)
    assert [row[1] for row in both.rows] == ["asyncio", "uvloop"] * 3
    assert both.rows[0][2:] == ["10.0"] * 4 and both.rows[1][2:] == ["1.00"] * 4
    assert tables[0].rows == [
        [layer(name).TITLE, *[f"{place}0.0"] * 4] for place, name in enumerate(UVLOOP[0], 1)
    ]
    (axes, *_) = request_cost.plots(rows)["request-cost"].axes
    assert sorted(bar.get_width() for bar in axes.patches) == [10.0, 20.0, 30.0]
    run = kept_run()
    answer = next(answer for answer in run.answers if answer.name == "request-cost")
    run = Run(run.environment, [replace(answer, rows=rows)])
    found = compared(run, "request-cost", "x", "asgi_session_redis", "bare", action="read", concurrency=64)
    assert found is not None and (found.ours, found.other) == (30.0, 10.0)


def test_each_loop_has_targets() -> None:
    """Reading and writing beside the signed cookie are judged on both loops, each by its own figures."""
    rows = rows_of_both_loops()
    for row in rows:
        if row["layer"] == "signed_cookie":
            row["cpu"] *= 2 if "loop" in row else 1
    found = {target.case.partition(",")[0]: target for target in request_cost.targets(rows)}
    assert {
        name: (target.ratio, target.bound) for name, target in found.items() if "untouched" not in name
    } == {
        "read over Redis": (1.5, 0.78),
        "read over Redis on uvloop": (0.75, 0.9),
        "write over Redis": (1.5, 0.72),
        "write over Redis on uvloop": (0.75, 0.82),
        "new session over Redis": (1.5, 1.6),
    }


def test_a_dependency_is_compared_with_an_empty_one() -> None:
    """The target is the quotient of two differences; without one of four figures there is none."""
    rows: list[Row] = [
        {"layer": name, "action": action, **CASE, "cpu": cpu}
        for name, action, cpu in (
            ("bare", "untouched", 10.0),
            ("asgi_session_memory", "read", 20.0),
            ("fastapi_dependency", "untouched", 40.0),
            ("asgi_session_fastapi_memory", "read", 52.0),
        )
    ]
    (target,) = [one for one in request_cost.targets(rows) if "SessionDep" in one.case]
    assert target.ratio == pytest.approx(1.2) and target.met
    assert [row[-1] for row in request_cost.tables(rows)[-1].rows] == ["10.0", "12.0"]
    for row in rows:
        less = [one for one in rows if one is not row]
        assert not [one for one in request_cost.targets(less) if "SessionDep" in one.case]
    assert {name for pair in DEPENDENCY.values() for name in pair} - set(LAYERS) == set(BY_THE_WAY)


def test_a_run_from_before_can_be_shown() -> None:
    """It has no figures on uvloop, nor of the dependency: their tables and targets are left out."""
    rows = [row for row in rows_of_both_loops() if "loop" not in row]
    assert not any("loop" in table.columns for table in request_cost.tables(rows))
    assert not any("uvloop" in target.case for target in request_cost.targets(rows))
    assert pick(rows, layer="bare", loop=None) is not None

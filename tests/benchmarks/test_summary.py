"""What the results page says first: computed from the run, and like for like."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.layers import LAYERS, framework, layer
from benchmarks.questions import questions
from benchmarks.report.page import COMMAND, page
from benchmarks.report.style import number, times
from benchmarks.report.summary import (
    COOKIE,
    PAIRS,
    compared,
    costs_more,
    kept,
    ratios,
    rows_of,
    summary,
    table,
)
from benchmarks.results import Row, pick
from benchmarks.run import Run, load

DOCS = Path(__file__).parents[2] / "docs"


def kept_run() -> Run:
    """Return the run from which the page in `docs` is made."""
    return load(DOCS / "benchmarks" / "results.json", questions())


@pytest.fixture
def run() -> Run:
    return kept_run()


def text_of(run: Run) -> str:
    return "\n\n".join(summary(run, "benchmarks"))


def test_the_page_is_made_from_the_kept_run(run: Run) -> None:
    """No figure and no sentence of it was written by hand."""
    again = ".venv/bin/python -m benchmarks.report docs/benchmarks/results.json docs"
    assert (DOCS / "benchmarks.md").read_text() == page(run), f"make it again: {again}"
    assert COMMAND in page(run)


def test_the_page_opens_with_what_users_ask_and_ends_with_targets(run: Run) -> None:
    """The ratios and the correctness plot come first; the environment, caveats and targets come last."""
    text = page(run)
    headings = re.findall(r"^## (.+)$", text, re.M)
    assert headings[:2] == ["In short", "What is compared"]
    assert headings[-3:] == ["Environment", "Caveats", "Targets"]
    opening = text[: text.index("## What is compared")]
    assert opening.count(" times less**") == 6
    assert "(benchmarks/correctness.svg)" in opening


def test_six_ratios_like_for_like(run: Run) -> None:
    """Each is a quotient of two figures of the run, of layers on one framework and on one kind of store."""
    found = ratios(run)
    assert len(found) == 6
    for one in found:
        assert framework(one.mine) == framework(one.theirs)
        assert layer(one.mine).STORE == layer(one.theirs).STORE == "redis"
        question = "store-cost" if "store" in one.what else "request-cost"
        figures = [row["cpu"] for row in rows_of(run, question) if row.get("layer") in (one.mine, one.theirs)]
        assert one.ours in figures and one.other in figures
        cell = next(
            cell
            for row in table(found).rows
            for cell in row
            if f"{number(one.ours)} against {number(one.other)} µs" in cell
        )
        assert times(one.ours, one.other, "as much", "less") in cell
    assert {framework(mine) for mine, _ in PAIRS} == {"Starlette", "FastAPI"}
    assert framework(COOKIE[0]) == framework(COOKIE[1])
    with pytest.raises(ValueError, match="runs on"):
        compared(run, "request-cost", "x", "asgi_session_redis", "fastapi_redis_sdk")


def test_other_figures_make_another_text(run: Run) -> None:
    """Where ours costs more than the others the same words say so; nothing is taken for granted."""
    for question, figure in (("request-cost", "cpu"), ("store-cost", "cpu"), ("scaling", "store_cpu")):
        for row in rows_of(run, question):
            if row.get("layer", "").startswith("asgi_session"):
                row[figure] *= 1000
    for row in rows_of(run, "correctness"):
        if row.get("layer", "").startswith("asgi_session"):
            row.update({"survived": row["sent"] - 1} if "survived" in row else {"back_in_browser": 3})
    text = text_of(run)
    assert "times less" not in text
    assert text.count(" times as much**") == 6
    assert "asgi-session 4 of 4,000" in text
    assert "asgi-session 12 of 800" in text
    assert len(costs_more(run)) == 3 * 3 + 2


def test_what_costs_more_is_said(run: Run) -> None:
    """Every case that is looked at and in which ours has the higher figure is listed, and no other."""
    said = costs_more(run)
    alone: dict[str, Any] = {"action": "write", "sessions": 10_000, "concurrency": 1}
    mine, theirs = (pick(rows_of(run, "scaling"), layer=name, **alone) for name in PAIRS[0])
    assert mine is not None and theirs is not None
    text = f"A write, 1 request at a time: {number(mine['store_cpu'])} µs of store CPU"
    assert any(one.startswith(text) for one in said) == (mine["store_cpu"] > theirs["store_cpu"])
    for row in rows_of(run, "scaling") + rows_of(run, "request-cost"):
        if row.get("layer", "").startswith("asgi_session"):
            row["cpu"] = row["store_cpu"] = 0.1
    assert costs_more(run) == []
    assert "costs more" not in text_of(run)


def test_what_was_not_measured_is_left_out(run: Run) -> None:
    """A run of a few questions, or of a few layers, has what it has; one of none opens with nothing."""
    whole = kept_run()
    run.answers = [answer for answer in whole.answers if answer.name == "store-cost"]
    assert len(ratios(run)) == 2
    assert kept(run) == "" and "correctness.svg" not in text_of(run)
    run.answers = [answer for answer in whole.answers if answer.name == "correctness"]
    assert ratios(run) == [] and "correctness.svg" in text_of(run)
    run.answers = [answer for answer in whole.answers if answer.name == "latency"]
    assert text_of(run) == ""
    assert "## In short" not in page(run)
    for answer in whole.answers:
        answer.rows = [row for row in answer.rows if row.get("layer") != "starsessions"]
    assert [one.mine for one in ratios(whole)] == ["asgi_session_fastapi"] * 3
    assert table(ratios(whole)).columns[1:] == ["on FastAPI, against fastapi-redis-sdk"]
    for answer in whole.answers:
        answer.error = "failed"
    assert text_of(whole) == ""


def test_targets_compare_like_with_like(run: Run) -> None:
    """No target sets a layer beside one of another framework."""
    texts = [target.case for answer in run.answers for target in answer.targets()]
    for text in texts:
        for name in LAYERS:
            if f"against {layer(name).TITLE}:" in text:
                assert (framework(name) == "FastAPI") == (" on FastAPI, " in text), text
    assert sum("fastapi-redis-sdk" in text for text in texts) == 3


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (60.3, 35.7, "1.7 times as much as"),
        (1.56, 7.61, "4.9 times less than"),
        (1.64, 17.4, "11 times less than"),
        (0.0, 5.0, "less than"),
        (5.0, 0.0, "as much as"),
    ],
)
def test_words_for_ratios(one: float, other: float, words: str) -> None:
    assert times(one, other) == words


def test_a_row_is_enough_to_say_nothing() -> None:
    """Findings need both sides of a comparison."""
    rows: list[Row] = [
        {"layer": "asgi_session_redis", "action": "write", "sessions": 10_000, "concurrency": 1}
    ]
    rows[0] |= {"cpu": 1.0, "store_cpu": 60.0, "failed": 0.0}
    from benchmarks.questions import scaling

    assert scaling.findings(rows) == []
    rows.append({**rows[0], "layer": "starsessions", "store_cpu": 30.0})
    assert scaling.findings(rows) == [
        "One request at a time, a write of asgi-session, redis costs the store 60.0 µs, "
        "2 times as much as one of starsessions (30.0 µs)."
    ]

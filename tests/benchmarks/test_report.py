"""The results page, and the command that makes what it is made from."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from benchmarks.__main__ import main, parse
from benchmarks.bench import Bench
from benchmarks.environment import environment
from benchmarks.layers import LAYERS, framework, layer
from benchmarks.questions import questions, store_cost
from benchmarks.report.files import save_plot
from benchmarks.report.page import page, write
from benchmarks.report.style import OWN_SCALES, SCALES_BY_ROW, bars, by_framework, lines, spread
from benchmarks.results import Question, Row, Table, Target, name_of
from benchmarks.run import Run, ask, load

ROOT = Path(__file__).parents[2]
ENVIRONMENT: dict[str, Any] = {
    "date": "2026-11-23T12:00:00+00:00",
    "quick": False,
    "commit": None,
    "cpu": "A processor",
    "cores": 2,
    "pinned": True,
    "system": "Linux",
    "python": "CPython 3.11",
    "server": "Valkey 9.1.2",
    "libraries": {"starlette": "1.10.0", "redis": "8.1.0"},
}


def question(name: str, measure: Any) -> Question:
    """Make a question as a module would be one."""
    return cast(
        Question,
        SimpleNamespace(
            __name__=f"benchmarks.questions.{name}",
            __doc__=f"What {name} shows, in ``code``.\n\nWhat it does not.\n",
            TITLE=f"About {name}",
            measure=measure,
            tables=lambda rows: [
                Table(
                    f"{name}: table {n}", ["layer", "a|b"], [[row["layer"], str(row["cpu"])] for row in rows]
                )
                for n in (1, 2)
            ],
            plots=lambda rows: {
                f"{name}-bars": bars(
                    {"read": {row["layer"]: row["cpu"] for row in rows}}, title="Bars", unit="µs"
                ),
                f"{name}-lines": lines(
                    {row["layer"]: [(1, row["cpu"]), (64, 2 * row["cpu"])] for row in rows},
                    title="Lines",
                    across="requests at a time",
                    unit="µs",
                ),
            },
            targets=lambda rows: [
                Target(f"{name}: met", 0.5, "at most", 0.7),
                Target(f"{name}: missed", 1.5, "at least", 8),
            ],
        ),
    )


def rows_of_all_layers(bench: Any) -> list[Row]:
    return [{"layer": layer(name).TITLE, "cpu": 10.0 + place} for place, name in enumerate(LAYERS)]


def fails(bench: Any) -> list[Row]:
    raise RuntimeError("no server")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of three questions, one of which has failed."""
    monkeypatch.setattr("benchmarks.run.environment", lambda bench: dict(ENVIRONMENT))
    asked = [
        question("first", rows_of_all_layers),
        question("broken", fails),
        question("other", rows_of_all_layers),
    ]
    return ask(cast(Bench, None), asked, lambda name: None, lambda run, answer: None)


def test_page_has_everything(run: Run, tmp_path: Path) -> None:
    """Every question, table, plot and target of a run is on the page, and no link leads nowhere."""
    write(run, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    for name in ("first", "other"):
        assert f"## About {name}\n\nWhat {name} shows, in `code`.\n\nWhat it does not." in text
        for n in (1, 2):
            assert f"**{name}: table {n}**\n\n| layer | a\\|b |\n|---|" in text
        assert f"| About {name} | {name}: met | 0.50 | at most 0.7 | met |" in text
        assert f"| About {name} | {name}: missed | 1.50 | at least 8 | **missed** |" in text
        for plot in ("bars", "lines"):
            assert f"(benchmarks/{name}-{plot}.svg)" in text
    assert "## About broken" in text and "Failed in this run, and missing here: About broken" in text
    assert "no server" not in text
    for name, version in ENVIRONMENT["libraries"].items():
        assert f"{name} {version}" in text
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (tmp_path / target).exists() or (ROOT / "docs" / target).exists(), target


def test_page_again(run: Run, tmp_path: Path) -> None:
    """From the JSON of a run the same page comes out, byte for byte; plots of earlier runs are gone."""
    first, second = tmp_path / "first", tmp_path / "second"
    run.answers[2].later = "tomorrow"
    made = write(run, first)
    (second / "benchmarks").mkdir(parents=True)
    (second / "benchmarks" / "old.svg").write_text("")
    known = [answer.question for answer in run.answers]
    write(load(first / "benchmarks" / "results.json", known), second)
    assert sorted(path.relative_to(first) for path in made) == sorted(
        path.relative_to(second) for path in second.rglob("*") if path.is_file()
    )
    for path in made:
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path


def test_later_answers(run: Run, tmp_path: Path) -> None:
    """Answers of a later run take the place of the earlier ones, which the page says; not of any run."""
    known = [answer.question for answer in run.answers]
    later = load(run.save(tmp_path), known)
    later.answers = later.answers[2:]
    later.environment["date"] = "tomorrow"
    run.renew(later)
    text = page(run)
    assert [answer.name for answer in run.answers] == ["first", "broken", "other"]
    assert "--only other`, in a later run than the rest (tomorrow, commit" in text
    assert "--only first`." in text
    later.answers = [replace(later.answers[0], name="new")]
    run.renew(later)
    assert [answer.name for answer in run.answers] == ["first", "broken", "other", "new"]
    later.environment["python"] = "another"
    with pytest.raises(ValueError, match="'another' is another python"):
        run.renew(later)


def test_nothing_to_draw(tmp_path: Path) -> None:
    """Plots of nothing, and lines of a single point, are plots all the same."""
    empty = {"read": dict[str, float]()}
    for place, figure in enumerate(
        (
            bars({}, title="None", unit="µs"),
            bars(empty, title="None", unit="µs"),
            lines({}, title="None", across="x", unit="µs"),
            lines({"one": [(64, 2.0)]}, title="One", across="x", unit="µs"),
            lines({"read": {"one": [(0, 0.0)], "none": []}}, title="One", across="x", unit="µs", log=""),
        )
    ):
        save_plot(figure, tmp_path / f"{place}.svg")
        assert (tmp_path / f"{place}.svg").read_text().endswith("</svg>\n")


def names_beside(axes: Any) -> dict[str, Any]:
    """Return the annotations of a panel by text."""
    return {text.get_text(): text for text in axes.texts}


def test_layers_are_grouped_by_framework() -> None:
    """Each framework's name stands in bold above its layers, and a bar beside its own name."""
    titles = [layer(name).TITLE for name in reversed(LAYERS)]
    labels = by_framework(["something else", *titles])
    assert [label for label, name in labels if not name] == ["Starlette", "FastAPI", "Litestar"]
    assert sorted(name for _, name in labels if name) == sorted([*titles, "something else"])
    group = ""
    for label, name in labels[:-1]:
        group = group if name else label
        assert not name or framework(next(one for one in LAYERS if name == layer(one).TITLE)) == group
    assert labels[-1] == ("something else", "something else")
    assert by_framework(["starsessions", "else"]) == [("starsessions", "starsessions"), ("else", "else")]

    values = {title: 10.0 + place for place, title in enumerate(titles)}
    (axes,) = bars({"read": values}, title="Bars", unit="µs").axes
    ticks = [(tick.get_text(), tick.get_fontweight()) for tick in axes.get_yticklabels()]
    assert [text for text, weight in ticks if weight == "bold"] == ["Starlette", "FastAPI", "Litestar"]
    for bar in axes.patches:
        text, _ = ticks[round(bar.get_y() + bar.get_height() / 2)]
        assert values[text] == bar.get_width()


def test_percentages_end_at_100() -> None:
    """Whatever was measured; and so they share a scale."""
    figure = bars({"lost": {"a": 3.0}, "back": {"a": 100.0, "b": 0.0}}, title="Wrong", unit="% of requests")
    assert [axes.get_xlim() for axes in figure.axes] == [(0, 100)] * 2
    assert [list(axes.get_xticks()) for axes in figure.axes] == [[0, 25, 50, 75, 100]] * 2
    assert figure.get_supxlabel() == ""


def test_panels_share_a_scale_or_say_that_they_do_not() -> None:
    """Panels of bars and of lines; a note that says it already is not made longer."""
    groups = {"read": {"a": 1.0}, "write": {"a": 50.0}}
    apart = bars(groups, title="Bars", unit="µs", note="64 at a time")
    assert apart.get_supxlabel() == f"64 at a time. {OWN_SCALES}"
    assert apart.axes[0].get_xlim() != apart.axes[1].get_xlim()
    assert (
        bars(groups, title="Bars", unit="µs", note=f"x. {OWN_SCALES}").get_supxlabel() == f"x. {OWN_SCALES}"
    )
    together = bars(groups, title="Bars", unit="µs", share=True)
    assert together.get_supxlabel() == ""
    assert together.axes[0].get_xlim() == together.axes[1].get_xlim()
    assert bars({"read": {"a": 1.0}}, title="Bars", unit="µs").get_supxlabel() == ""

    drawn = {
        name: {"a": [(1, high), (64, 2 * high)]} for name, high in zip("rstu", (1.0, 2, 90, 70), strict=True)
    }
    for log in ("xy", "x"):
        limits = {}
        for share in ("all", "row", "none"):
            figure = lines(drawn, title="Lines", across="n", unit="µs", log=log, share=share)  # type: ignore[arg-type]
            limits[share] = [axes.get_ylim() for axes in figure.axes]
            said = {"all": "", "row": SCALES_BY_ROW, "none": OWN_SCALES}[share]
            assert figure.get_supxlabel() == said
        assert len(set(limits["all"])) == 1
        one, two, three, four = limits["row"]
        assert one == two != three == four
        assert all(high[1] >= 180 for high in limits["all"])


def test_nothing_between_a_line_and_its_name_looks_like_data() -> None:
    """Names stand beside the last points; one that had to move has dots of grey, no line in colour."""
    close = {f"line {n}": [(1, 1.0), (64, 50 + n / 10)] for n in range(6)}
    (axes,) = lines(
        {"": {**close, "asgi-session, redis": [(1, 5.0), (16, 5.0)]}}, title="x", across="n", unit="y"
    ).axes
    colours = {line.get_color() for line in axes.lines}
    leaders = 0
    for name, text in names_beside(axes).items():
        assert text.xy == tuple(dict(axes_points(axes))[name])
        if text.arrow_patch is not None:
            leaders += 1
            assert to_hex(text.arrow_patch.get_edgecolor()) not in colours
            assert text.arrow_patch.get_linestyle() == (0, (1, 2))
    assert 0 < leaders < len(close)
    assert names_beside(axes)["asgi-session, redis"].arrow_patch is None


def axes_points(axes: Any) -> list[tuple[str, tuple[float, float]]]:
    return [(line.get_label(), (line.get_xdata()[-1], line.get_ydata()[-1])) for line in axes.lines]


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=12))
def test_names_are_spread(ends: dict[str, float]) -> None:
    """None over another, in the order of what they name, and no farther away than the crowd needs."""
    step = 0.05
    at = spread(ends, step)
    assert at.keys() == ends.keys()
    ordered = sorted(at, key=lambda name: at[name])
    for lower, upper in pairwise(ordered):
        assert at[upper] - at[lower] >= step - 1e-9
        assert ends[lower] <= ends[upper]
    if all(abs(one - other) >= step for one, other in combinations(ends.values(), 2)):
        assert at == pytest.approx(ends)
    assert all(abs(at[name] - ends[name]) <= step * len(ends) for name in ends)


def test_what_is_computed_says_so() -> None:
    """What a core of the store carries was not measured, and plot and table say so."""
    rows: list[Row] = [
        {"layer": name, "kind": "mix", "concurrency": 64, "cpu": 2.0, "commands": 1.0, "bytes_in": 1.0}
        | {"bytes_out": 1.0}
        for name in ("starsessions", "asgi_session_redis")
    ]
    assert store_cost.tables(rows)[0].columns[-1].endswith("(computed)")
    (axes,) = store_cost.plots(rows)["store-capacity"].axes
    assert axes.get_xlabel().endswith("(computed)")
    assert [text.get_text() for text in axes.texts] == ["500,000", "500,000"]


def test_quick_run_says_so(run: Run) -> None:
    """The page of a quick run warns, and its command is that of a quick run."""
    assert "make bench\n" in page(run) and "A quick run" not in page(run)
    run.environment["quick"] = True
    assert "make bench ARGS=--quick\n" in page(run) and "A quick run" in page(run)


def test_errors_keep_their_traceback_out_of_the_json(run: Run, tmp_path: Path) -> None:
    """A failed question has its traceback at hand, but not in the file, which may be passed on."""
    assert "RuntimeError: no server" in run.answers[1].error
    written = run.save(tmp_path).read_text()
    assert "Traceback" not in written and str(ROOT) not in written


def test_other_files_are_refused(tmp_path: Path) -> None:
    """What is no results.json of this version gets an error that says so."""
    path = tmp_path / "results.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        load(path, [])
    path.write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="of this version"):
        load(path, [])


def test_environment_names_nobody() -> None:
    """The description of a run has no host's or user's name and no path in it."""
    with Bench() as bench:
        found = environment(bench)
    assert found.keys() == ENVIRONMENT.keys()
    text = " ".join(str(value) for name, value in found.items() if name not in ("cpu", "libraries"))
    assert re.fullmatch(r"(Valkey|Redis) \d+\.\d+\.\d+", found["server"])
    assert "/" not in text and "\\" not in text
    for secret in filter(None, (socket.gethostname(), Path.home().name)):
        assert not re.search(rf"\b{re.escape(secret)}\b", text)


def test_one_question_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    """A question that fails is reported at the end; the others are asked, shown and kept. Exit code 1."""
    asked = [question("broken", fails), question("first", rows_of_all_layers)]
    monkeypatch.setattr("benchmarks.questions.questions", lambda: asked)
    assert main(["--output", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert "first: table 2" in out and "1 of 2 targets met" in out
    assert "broken FAILED" in err and "RuntimeError: no server" in err
    run = load(tmp_path / "results.json", asked)
    assert [(answer.name, bool(answer.error)) for answer in run.answers] == [
        ("broken", True),
        ("first", False),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json", "first-bars.svg", "first-bars.png", "first-lines.svg", "first-lines.png"
    }  # fmt: skip


def test_missed_targets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missed target is an error only when asked for."""
    monkeypatch.setattr("benchmarks.questions.questions", lambda: [question("first", rows_of_all_layers)])
    assert main(["--output", str(tmp_path), "--only", "first"]) == 0
    assert main(["--output", str(tmp_path), "--strict"]) == 1


def test_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An interrupted run keeps what it has measured."""

    def interrupted(bench: Any) -> list[Row]:
        raise KeyboardInterrupt

    asked = [question("first", rows_of_all_layers), question("other", interrupted)]
    monkeypatch.setattr("benchmarks.questions.questions", lambda: asked)
    assert main(["--output", str(tmp_path)]) == 130
    assert [answer.name for answer in load(tmp_path / "results.json", asked).answers] == ["first"]


def test_questions_are_whole() -> None:
    """Every question has a title and a text, and gives nothing, but no error, for no rows."""
    for asked in questions():
        assert asked.TITLE and asked.__doc__ and len(asked.__doc__) > 200, name_of(asked)
        assert asked.targets([]) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "speed"], "there is no question speed; there are: first, other"),
        (["--only", "first", "--fast"], "--fast"),
        (["--output", "README.md"], "--output README.md"),
    ],
)
def test_bad_options(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What makes no sense is refused before anything is started."""
    known = {name: question(name, fails) for name in ("first", "other")}
    with pytest.raises(SystemExit) as left:
        parse(arguments, known)
    assert left.value.code == 2
    assert says in capsys.readouterr().err

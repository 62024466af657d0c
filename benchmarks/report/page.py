"""The results page: Markdown and plots, made from a run and the modules of its questions.

Every figure on it comes from the run. The same run gives the same bytes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.layers import LAYERS, layer
from benchmarks.report.files import save_plot
from benchmarks.report.style import number
from benchmarks.results import Table
from benchmarks.run import Answer, Run

PAGE: Final = "benchmarks.md"
PLOTS: Final = "benchmarks"
COMMAND: Final = "python -m benchmarks.report build/benchmarks/results.json docs"

_INTRODUCTION: Final = """\
What session layers for ASGI apps cost and what they keep, measured side by side in one run, each set up
as its own documentation recommends; and where this library's own time goes. Each section says what it
shows and what it does not. [The run itself](benchmarks/results.json) has more than the page. To repeat it,
in a clone of the repository:
"""

_CAVEATS: Final = """\
- Everything runs on one machine and talks over its loopback: a network adds its own delay to every round
  trip, the same to all layers, and more to those that make more of them.
- Ratios between layers carry over to other machines; absolute figures do not. On a virtual machine that
  is shared with others, figures of one run differ from those of the next.
- Where the best of several rounds counts, that is the round that was disturbed least: a figure for
  comparing layers, not for sizing a server.
- The layers do not promise the same things. What each keeps when requests race each other is a question
  of its own on this page; a layer that is cheap because it keeps less is not cheaper at the same thing.
- Sessions are a web shop's, of the size that is named. The defaults of each layer are its authors'
  choice; the file of each, linked above, says what was set and what differs from its documentation.
- This page is made by the authors of one of the layers."""

_ENVIRONMENT: Final = (
    ("date", "date"),
    ("commit", "commit"),
    ("cpu", "CPU"),
    ("cores", "cores"),
    ("system", "system"),
    ("python", "Python"),
    ("server", "server"),
)


def write(run: Run, directory: Path) -> list[Path]:
    """Write the page, its plots and its run into a directory; plots that are no longer made are removed."""
    plots = directory / PLOTS
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    written = [directory / PAGE]
    written[0].write_text(page(run))
    for answer in run.answers:
        for name, figure in answer.plots().items():
            written.append(plots / f"{name}.svg")
            save_plot(figure, written[-1])
    return [*written, run.save(plots)]


def page(run: Run) -> str:
    """Return the page's Markdown."""
    blocks = [
        "# Benchmarks",
        f"<!-- Made by `{COMMAND}`. Do not edit: change the run, the questions or benchmarks/report. -->",
        _INTRODUCTION + "\n" + _fenced(_commands(run), "sh"),
        *_warnings(run),
        "## Environment",
        _environment(run.environment),
        "## Targets",
        _met(run),
        _markdown(_targets(run)),
        "## What is compared",
        "\n".join(_layers()),
    ]
    for answer in run.answers:
        blocks += _section(answer)
    blocks += ["## Caveats", "\n".join(_caveats(run.environment))]
    return "\n\n".join(blocks) + "\n"


def _commands(run: Run) -> list[str]:
    quick = " ARGS=--quick" if run.environment["quick"] else ""
    return [f"make bench{quick}", f".venv/bin/{COMMAND}"]


def _warnings(run: Run) -> Iterator[str]:
    if run.environment["quick"]:
        yield "**A quick run: few rounds, few cases. The figures are rough.**"
    failed = [answer.question.TITLE for answer in run.answers if answer.error]
    if failed:
        yield f"**Failed in this run, and missing here: {', '.join(failed)}.**"


def _environment(environment: dict[str, Any]) -> str:
    rows = [[title, str(environment[name] or "unknown")] for name, title in _ENVIRONMENT]
    pinned = "the servers on one core, the measured process on another" if environment["pinned"] else "no"
    rows.append(["pinned to cores", pinned])
    libraries = environment["libraries"].items()
    rows.append(["libraries", ", ".join(f"{name} {version}" for name, version in libraries)])
    return _markdown(Table("", ["what", "this run"], rows))


def _met(run: Run) -> str:
    targets = [target for answer in run.answers for target in answer.targets()]
    met = sum(target.met for target in targets)
    return f"Ratios that the project has promised itself: {met} of {len(targets)} are met in this run."


def _targets(run: Run) -> Table:
    rows = [
        [
            answer.question.TITLE,
            target.case,
            number(target.ratio),
            f"{target.how} {target.bound:.3g}",
            "met" if target.met else "**missed**",
        ]
        for answer in run.answers
        for target in answer.targets()
    ]
    return Table("", ["question", "case", "measured", "target", ""], rows)


def _layers() -> Iterator[str]:
    """Return a line for each layer: where its whole set-up can be read."""
    for name in LAYERS:
        module: Any = layer(name)
        about = _prose(module.__doc__ or "").split("\n\n", 1)[0].replace("\n", " ")
        yield f"- [{layer(name).TITLE}](../benchmarks/layers/{name}.py): {about}"


def _section(answer: Answer) -> Iterator[str]:
    yield f"## {answer.question.TITLE}"
    yield _prose(answer.question.__doc__ or "")
    if answer.error:
        yield "**This question failed in this run.**"
        return
    for name in answer.plots():
        # A link as well: the titles that some plots show under the pointer need the file itself.
        yield f"[![{answer.question.TITLE}: {name}]({PLOTS}/{name}.svg)]({PLOTS}/{name}.svg)"
    tables = answer.tables()
    if tables:
        yield "<details>\n<summary>The figures</summary>"
        for table in tables:
            yield f"**{_cell(table.title)}**"
            yield _markdown(table)
        yield "</details>"
    later = f", in a later run than the rest ({answer.later})" if answer.later else ""
    yield f"Measured in {answer.seconds:.0f} s by `python -m benchmarks --only {answer.name}`{later}."


def _caveats(environment: dict[str, Any]) -> Iterator[str]:
    yield _CAVEATS
    if not environment["pinned"]:
        yield "- In this run servers and apps were not pinned to cores, so they took time from each other."


def _prose(docstring: str) -> str:
    """Return a docstring as Markdown."""
    return inspect.cleandoc(docstring).replace("``", "`")


def _fenced(lines: Iterable[str], language: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_cell(cell) for cell in cells) + " |"

    rule = "|---" + "|---:" * (len(table.columns) - 1) + "|"
    if len(table.columns) == 2 or not _numeric(table):
        rule = "|---" * len(table.columns) + "|"
    return "\n".join([line(table.columns), rule, *map(line, table.rows)])


def _numeric(table: Table) -> bool:
    """Whether all columns but the first hold figures, and are better read right-aligned."""
    cells = [cell for row in table.rows for cell in row[1:] if cell]
    return all(re.match(r"[-+±<>≤≥]?\s?\d", cell) for cell in cells)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")

"""The results page: Markdown and plots, made from a run and the modules of its questions.

Every figure on it comes from the run. The same run gives the same bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.layers import FRAMEWORKS, LAYERS, framework, layer
from benchmarks.report.files import save_plot
from benchmarks.report.markdown import cell, markdown
from benchmarks.report.style import number
from benchmarks.report.summary import summary
from benchmarks.results import Table
from benchmarks.run import Answer, Run

PAGE: Final = "benchmarks.md"
PLOTS: Final = "benchmarks"
COMMAND: Final = "python -m benchmarks.report build/benchmarks/results.json docs"

_INTRODUCTION: Final = """\
What session layers for ASGI apps cost, and what they keep when requests overlap. All of them were measured
side by side in one run, each set up as its own documentation recommends. The authors of this page are the
authors of one of the layers."""

_REPEAT: Final = """\
[The run itself](benchmarks/results.json) has more figures than this page. To repeat it, in a clone of the
repository:
"""

_CAVEATS: Final = """\
- Everything runs on one machine and talks over its loopback. A network adds a delay to every round trip. The
  delay is the same for all layers, but some make more round trips.
- Ratios between layers carry over to other machines; absolute figures do not. On a virtual machine that
  shares its hardware, the figures of one run differ from those of the next.
- Where the best of several rounds counts, that is the round that was disturbed least. Use such a figure to
  compare layers, not to size a server.
- The layers do not promise the same things. A layer that is cheap because it overwrites what other requests
  have saved is not cheaper at the same thing: see "Correctness under concurrency".
- Sessions are a web shop's, of the size that is named. The defaults of each layer are its authors'
  choice. The file of each, linked above, says what was set and what differs from its documentation."""

_COMPARED: Final = """\
Layers of one framework can be compared: what differs is the session layer. Figures of different frameworks
differ by the framework, too. The links lead to the whole set-up of each layer."""

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
        _INTRODUCTION,
        *_warnings(run),
        *summary(run, PLOTS),
        "## What is compared",
        _COMPARED,
        *_layers(),
    ]
    for answer in run.answers:
        blocks += _section(answer)
    blocks += [
        "## Environment",
        _environment(run.environment),
        _REPEAT + "\n" + _fenced(_commands(run), "sh"),
        "## Caveats",
        "\n".join(_caveats(run.environment)),
        "## Targets",
        _met(run),
        markdown(_targets(run)),
    ]
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
    return markdown(Table("", ["what", "this run"], rows))


def _met(run: Run) -> str:
    targets = [target for answer in run.answers for target in answer.targets()]
    met = sum(target.met for target in targets)
    return f"Ratios that this project has set itself as goals. This run meets {met} of {len(targets)}."


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
    """Yield, for each framework, a line for each of its layers: what it does, and where its set-up is."""
    for each in FRAMEWORKS.values():
        lines = []
        for name in LAYERS:
            if framework(name) == each:
                module: Any = layer(name)
                about = _prose(module.__doc__ or "").split("\n\n", 1)[0].replace("\n", " ")
                lines.append(f"- [{layer(name).TITLE}](../benchmarks/layers/{name}.py): {about}")
        yield f"On {each}:"
        yield "\n".join(lines)


def _section(answer: Answer) -> Iterator[str]:
    yield f"## {answer.question.TITLE}"
    yield _prose(answer.question.__doc__ or "")
    if answer.error:
        yield "**This question failed in this run.**"
        return
    for name in answer.plots():
        # A link as well: the titles that some plots show under the pointer need the file itself.
        yield f"[![{answer.question.TITLE}: {name}]({PLOTS}/{name}.svg)]({PLOTS}/{name}.svg)"
    if findings := answer.findings():
        yield "\n".join(f"- {finding}" for finding in findings)
    tables = answer.tables()
    if tables:
        yield "<details>\n<summary>The figures</summary>"
        for table in tables:
            yield f"**{cell(table.title)}**"
            yield markdown(table)
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

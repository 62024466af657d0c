"""Tables and progress, for the terminal, or as plain lines for a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from benchmarks.report.style import number
from benchmarks.results import Table, Target
from benchmarks.run import Answer


def console() -> Console:
    """Return what to print on; a log gets lines long enough for every table."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=200)


class Teller:
    """Tells which question is asked, which case is measured, and for how long that has been going on.

    Args:
        out: a terminal gets a bar that moves; anything else gets nothing, and standard error a line
            for each case.
        count: how many questions there are.
    """

    def __init__(self, out: Console, count: int) -> None:
        self._out = out
        self._count = count
        self._asked = 0
        self._name = ""
        self._began = 0.0
        self._progress: Progress | None = None

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Tell about what is measured inside the block."""
        if not self._out.is_terminal:
            yield
            return
        # Once a second: drawing takes time on the core that the servers have.
        self._progress = Progress(
            TextColumn("[bold]{task.fields[question]}"),
            BarColumn(24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self._out,
            refresh_per_second=1,
            transient=True,
        )
        with self._progress:
            yield
        self._progress = None

    def begin(self, name: str) -> None:
        """Begin with a question."""
        self._asked += 1
        self._name = name
        self._began = time.perf_counter()
        if self._progress is not None:
            for task in self._progress.task_ids:
                self._progress.remove_task(task)
            self._progress.add_task("", total=1.0, question=f"{self._asked}/{self._count} {name}")

    def say(self, what: str, part: float) -> None:
        """Tell which case is being measured, and which part of the question is done (0 to 1)."""
        if self._progress is None:
            elapsed = time.perf_counter() - self._began
            where = f"[{self._asked}/{self._count} {self._name} {part:4.0%} {elapsed:5.1f} s]"
            print(where, what, file=sys.stderr, flush=True)
            return
        for task in self._progress.task_ids:
            self._progress.update(task, completed=part, description=escape(what))


def show_answer(out: Console, answer: Answer) -> None:
    """Print a question's tables."""
    out.rule(f"[bold]{escape(answer.question.TITLE)}", align="left")
    for table in answer.tables():
        out.print()
        out.print(_table(table))
    out.print(f"[dim]{answer.name} took {answer.seconds:.0f} s\n")


def show_targets(out: Console, judged: Sequence[tuple[str, Target]]) -> None:
    """Print all targets, each with the name of its question."""
    table = RichTable(box=box.SIMPLE_HEAD, title="Targets", title_style="bold", title_justify="left")
    for column in ("question", "case"):
        table.add_column(column)
    for column in ("measured", "target"):
        table.add_column(column, justify="right")
    table.add_column("")
    for name, target in judged:
        table.add_row(
            name,
            escape(target.case),
            number(target.ratio),
            f"{target.how} {target.bound:.3g}",
            "[green]met" if target.met else "[bold red]missed",
        )
    if judged:
        out.print(table)
    met = sum(target.met for _, target in judged)
    out.print(f"{met} of {len(judged)} targets met")


def _table(table: Table) -> RichTable:
    made = RichTable(box=box.SIMPLE_HEAD, title=escape(table.title), title_style="bold", title_justify="left")
    for at, column in enumerate(table.columns):
        made.add_column(escape(column), justify="right" if at else "left")
    for row in table.rows:
        made.add_row(*map(escape, row))
    return made

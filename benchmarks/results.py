"""What the questions hand on: rows of figures, tables, and ratios with a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Protocol

Row = dict[str, Any]
"""One measurement, flat: names and parameters (str, int), figures (float). Units are in the names of
the question's module."""


@dataclass(frozen=True)
class Table:
    """Rows of text for the terminal and the results page; the first column names what was measured."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Target:
    """A ratio that the project has promised itself.

    Attributes:
        case: what is compared with what, in words.
        ratio: as measured.
        how: whether `bound` is the most or the least that it may be.
        bound: the target.
    """

    case: str
    ratio: float
    how: Literal["at most", "at least"]
    bound: float

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.ratio <= self.bound if self.how == "at most" else self.ratio >= self.bound


class Question(Protocol):
    """What a module of `benchmarks.questions` has. Its docstring tells what it shows and what not.

    Attributes:
        TITLE: the heading on the results page.
        measure: measures, and returns its rows.
        tables: puts rows into tables.
        plots: draws rows; figures by file name (without an ending).
        targets: the targets that these rows can judge; none for what was not measured.

    It may have ``findings(rows)``: sentences for the results page whose figures come from the rows.
    """

    __name__: str
    __doc__: str | None
    TITLE: str

    def measure(self, bench: Any) -> list[Row]: ...
    def tables(self, rows: list[Row]) -> list[Table]: ...
    def plots(self, rows: list[Row]) -> dict[str, Any]: ...
    def targets(self, rows: list[Row]) -> list[Target]: ...


def pick(rows: list[Row], **wanted: Any) -> Row | None:
    """Return the row with these values; None if there is none."""
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)


def name_of(question: ModuleType | Question) -> str:
    """Return a question's name on the command line."""
    return question.__name__.rsplit(".", 1)[-1].replace("_", "-")

"""Tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.results import Table


def markdown(table: Table) -> str:
    """Return a table; figures are right-aligned."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(cell, cells)) + " |"

    rule = "|---" + "|---:" * (len(table.columns) - 1) + "|"
    if len(table.columns) == 2 or not _numeric(table):
        rule = "|---" * len(table.columns) + "|"
    return "\n".join([line(table.columns), rule, *map(line, table.rows)])


def _numeric(table: Table) -> bool:
    """Whether all columns but the first hold figures, and are better read right-aligned."""
    cells = [cell for row in table.rows for cell in row[1:] if cell]
    return all(re.match(r"[-+±<>≤≥]?\s?\d", cell) for cell in cells)


def cell(text: str) -> str:
    """Return text as a cell, or a heading, can have it."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")

"""The documentation's pages, cut into what the tests look at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
)

_BLOCK = re.compile(
    r"(?:<!-- (?P<file>\S+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


class Block(NamedTuple):
    """A fenced block; `file` is the one that the comment above it names."""

    language: str
    text: str
    file: str | None
    line: int


def name(page: Path) -> str:
    """Return a page's path for test ids."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """Return the page's fenced blocks."""
    text = page.read_text()
    return [
        Block(found["language"], found["text"], found["file"], text.count("\n", 0, found.start("text")) + 1)
        for found in _BLOCK.finditer(text)
    ]


def python(page: Path) -> list[Block]:
    """Return the page's Python."""
    return [block for block in blocks(page) if block.language == "python"]


def table(page: Path, header: str) -> list[list[str]]:
    """Return the cells of the tables whose first column has this header."""
    rows: list[list[str]] = []
    inside = False
    for line in page.read_text().splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] == header:
                inside = True
            elif inside and not set(cells[0]) <= set("-"):
                rows.append(cells)
        else:
            inside = False
    assert rows, f"{page} has no table of {header!r}"
    return rows

"""The memory of a process with a store."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.resident import URLS, Resident, measure, table

PAGE = Path(__file__).parents[2] / "docs" / "which-store.md"


def test_the_memory_store_is_measured() -> None:
    """Python, the library and the store, in this order."""
    found = measure("memory://")
    assert found.store is not None
    assert 1e6 < found.bare < found.library <= found.store < 500e6
    assert found.answered
    assert not found.missing


def test_a_store_that_is_not_there_says_so() -> None:
    """It has a line all the same."""
    found = measure("nosuchstore://")
    assert found.store is None
    assert "nosuchstore" in found.missing
    assert "| other | not measured | |" in table({"other": found})


def test_the_table_says_which_servers_were_away() -> None:
    """A client that has only tried to connect is not taken for one that is connected."""
    shown = table({"one": Resident(10_000_000, 20_000_000, 30_000_000, answered=False)})
    assert "| one | 30 | 10 |" in shown
    assert "No server was running for: one." in shown


def test_the_page_has_a_line_for_every_store() -> None:
    """The table in the documentation is that of this command."""
    page = PAGE.read_text()
    block = page[page.index("<!-- costs: resident -->") : page.index("<!-- end of resident -->")]
    names = re.findall(r"^\| ([^|]+?) \| ", block, re.MULTILINE)
    assert names == ["process", "Python alone", "with `import asgi_session`", *URLS]

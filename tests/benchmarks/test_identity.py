"""The question of what it costs to know who is signed in."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.questions import identity


def test_what_is_measured_is_what_the_design_says() -> None:
    """The commands are exact, so the targets can be a test."""
    with Bench(quick=True, say=lambda what, part: None) as bench:
        rows = identity.measure(bench)
    counts = {row["what"]: row["commands"] for row in rows}
    assert counts[identity.READ] == counts[identity.READ_NOBODYS] == 1
    assert counts[identity.WRITE] == counts[identity.WRITE_NOBODYS] == 2
    assert counts[identity.LIST] == 2
    # The first sign-in of a user creates the index instead of saving it.
    assert counts[identity.SIGN_IN] == counts[identity.NOBODY] + 3
    assert all(target.met for target in identity.targets(rows))
    (table,) = identity.tables(rows)
    assert all(len(line) == len(table.columns) for line in table.rows)
    assert list(identity.plots(rows)) == ["identity"]


def test_rows_are_shown_whatever_was_measured() -> None:
    """Nothing is taken for granted of a run that was cut short."""
    rows = [
        {"what": what, "others": others, "commands": 1.0, "cpu": 1.0, "ms": 1.0}
        for what, others, _ in identity.cases(quick=False)
    ]
    for measured in ([], rows[:1], rows):
        assert len(identity.tables(measured)) == len(identity.plots(measured)) == bool(measured)
        assert isinstance(identity.targets(measured), list)

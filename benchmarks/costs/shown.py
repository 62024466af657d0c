"""How figures look on the pages: few digits, since what they start from are estimates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; every column but the first holds figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figure(value: float) -> str:
    """Return a number with two significant digits, or whole below a hundred if it is."""
    if value == 0:
        return "0"
    if value >= 10:
        digits = len(str(int(value))) - 2
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}"


def money(value: float) -> str:
    """Return dollars: three digits, and nothing below a dollar where there are ten."""
    if value == 0:
        return "$0"
    if value >= 1000:
        return f"${round(value, 3 - len(str(int(value)))):,.0f}"
    if value >= 10:
        return f"${value:.0f}"
    return f"${value:.2f}" if value >= 1 else f"${value:.3g}"


def cores(value: float) -> str:
    """Return a number of cores."""
    return "under 0.01" if value < 0.01 else figure(value)


def power(value: float) -> str:
    """Return a power of ten as one."""
    return f"10<sup>{len(str(int(value))) - 1}</sup>"

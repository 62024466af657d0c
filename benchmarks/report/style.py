"""How numbers and plots look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(value: float) -> str:
    """Return a figure with three significant digits or so."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def bars(groups: Mapping[str, Mapping[str, float]], *, title: str, unit: str, note: str = "") -> Any:
    """Draw grouped bars: a group of layers for each thing that was measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    width = 0.8 / max(len(names), 1)
    for index, name in enumerate(names):
        places = [place for place, group in enumerate(groups.values()) if name in group]
        heights = [group[name] for group in groups.values() if name in group]
        axes.bar([place + index * width for place in places], heights, width, label=name)
    axes.set_xticks([place + 0.4 for place in range(len(groups))], list(groups))
    axes.set_title(title)
    axes.set_ylabel(unit)
    axes.legend()
    if note:
        axes.set_xlabel(note)
    return figure

"""Plots as files: the same figure gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_plot(figure: Any, path: Path) -> None:
    """Write a figure, as SVG or PNG, as the path's ending says.

    A figure is matplotlib's, or anything else with its method `savefig`.
    """
    import matplotlib

    # Text as text can be searched and is a fifth in size; browsers have a font of the same widths.
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "asgi-session", "svg.fonttype": "none"}):
        figure.savefig(path, dpi=110, metadata=metadata)

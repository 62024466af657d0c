"""A flame graph: what each call has used, its callers below it, what it called above it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.report.style import INK, number
from benchmarks.sampler import Stacks, inclusive, part_of

COLOURS: Final = {
    "asgi_session": "#7db3f2",
    "starlette": "#f2c078",
    "asyncio": "#b5d6a7",
    "redis": "#e8998d",
    "benchmarks": "#d0d4d8",
    "others": "#e6d9ec",
}
NAMES: Final = {
    "asgi_session": "this library",
    "starlette": "Starlette",
    "asyncio": "asyncio",
    "redis": "redis-py",
    "benchmarks": "the benchmark's app and client",
    "others": "others",
}
_WIDTH: Final = 1200
_ROW: Final = 18
_TOP: Final = 34
_BOTTOM: Final = 30
_LETTER: Final = 6.3  # the width of one, in pixels


class Box(NamedTuple):
    """One call in the graph; `left` and `width` are parts of the whole."""

    left: float
    width: float
    depth: int
    function: str
    value: float


def boxes(stacks: Stacks) -> list[Box]:
    """Return the graph's boxes: callers before what they called, calls of one function by name."""
    totals = inclusive(stacks)
    whole = sum(stacks.values()) or 1.0
    ends: dict[tuple[str, ...], float] = {}
    made = []
    for stack in sorted(totals):  # a caller's stack is shorter, so it comes first
        left = ends.get(stack[:-1], 0.0)
        width = totals[stack] / whole
        ends[stack[:-1]] = left + width
        ends[stack] = left
        made.append(Box(left, width, len(stack) - 1, stack[-1], totals[stack]))
    return made


class FlameGraph:
    """Draws stacks; `savefig` as a figure of matplotlib has it.

    In the SVG each box tells under the pointer what it is.

    Args:
        stacks: to what the innermost function has used itself.
        title: of the graph.
        unit: of the values.
    """

    def __init__(self, stacks: Stacks, *, title: str, unit: str) -> None:
        self._boxes = boxes(stacks)
        self._whole = sum(stacks.values())
        self._rows = max((box.depth for box in self._boxes), default=0) + 1
        self._title = f"{title}: {number(self._whole)} {unit}"
        self._unit = unit

    def savefig(self, path: Path, *, dpi: float = 100, metadata: Mapping[str, Any] | None = None) -> None:
        """Write the graph to a file, as its ending says."""
        if path.suffix == ".svg":
            path.write_text(self.svg())
        else:
            self._figure().savefig(path, dpi=dpi, metadata=metadata)

    def svg(self) -> str:
        """Return the graph as SVG."""
        height = _TOP + self._rows * _ROW + _BOTTOM
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="Verdana, sans-serif" font-size="10.5">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="8" y="21" font-size="15" font-weight="bold" fill="{INK}">{escape(self._title)}</text>',
        ]
        for box in self._boxes:
            x, wide = 8 + box.left * (_WIDTH - 16), box.width * (_WIDTH - 16)
            y = _TOP + (self._rows - 1 - box.depth) * _ROW
            parts.append(
                f'<g><title>{escape(self._about(box))}</title><rect x="{x:.2f}" y="{y}" width="{wide:.2f}" '
                f'height="{_ROW - 1}" rx="1" fill="{COLOURS[part_of(box.function)]}" stroke="white" '
                f'stroke-width="0.5"/>'
            )
            if text := _fitting(box.function, wide):
                parts.append(f'<text x="{x + 3:.2f}" y="{y + 12.5}" fill="{INK}">{escape(text)}</text>')
            parts.append("</g>")
        at = 8.0
        for part in self._parts():
            y = height - 20
            parts.append(f'<rect x="{at}" y="{y}" width="12" height="12" fill="{COLOURS[part]}"/>')
            parts.append(f'<text x="{at + 17}" y="{y + 10}" fill="{INK}">{escape(NAMES[part])}</text>')
            at += 40 + len(NAMES[part]) * _LETTER
        return "\n".join([*parts, "</svg>", ""])

    def _figure(self) -> Any:
        from matplotlib.figure import Figure

        height = (_TOP + self._rows * _ROW + _BOTTOM) / 100
        figure = Figure(figsize=(_WIDTH / 100, height), facecolor="white", layout="constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        figure.suptitle(self._title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
        for part in self._parts():
            drawn = [box for box in self._boxes if part_of(box.function) == part]
            axes.barh(
                [box.depth for box in drawn],
                [box.width for box in drawn],
                left=[box.left for box in drawn],
                height=0.94,
                color=COLOURS[part],
                edgecolor="white",
                linewidth=0.4,
                label=NAMES[part],
            )
        for box in self._boxes:
            if text := _fitting(box.function, box.width * (_WIDTH - 30)):
                axes.text(
                    box.left + 0.002, box.depth, text, va="center", fontsize=7.2, color=INK, clip_on=True
                )
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, self._rows - 0.4)
        figure.legend(loc="outside lower left", ncols=len(COLOURS), frameon=False, fontsize=8)
        return figure

    def _parts(self) -> list[str]:
        there = {part_of(box.function) for box in self._boxes}
        return [part for part in COLOURS if part in there]

    def _about(self, box: Box) -> str:
        return f"{box.function}\n{number(box.value)} {self._unit}, {box.width:.1%}"


def _fitting(function: str, width: float) -> str:
    """Return as much of a function's name as fits into `width` pixels."""
    name = function.partition(":")[2].removesuffix(".<locals>").replace(".<locals>", "")
    room = int((width - 6) / _LETTER)
    if room >= len(name):
        return name
    return name[: room - 1] + "…" if room >= 4 else ""

"""How numbers and plots look: one colour per layer in all of them, values written beside what shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, Final

from benchmarks.layers import LAYERS, layer

Points = Sequence[tuple[float, float]]

# This library is blue, an app without sessions grey, every other layer a colour of its own.
_LAYER_COLOURS: Final = {
    "bare": "#9aa0a6",
    "fastapi_bare": "#b4b9be",
    "litestar_bare": "#7f868d",
    "signed_cookie": "#e8a33d",
    "starsessions": "#d1603d",
    "fastapi_redis_sdk": "#9467bd",
    "litestar_sessions": "#3d9970",
    "asgi_session_memory": "#8cc0f5",
    "asgi_session_redis": "#1f6fd6",
    "asgi_session_cluster": "#0b3d82",
    "asgi_session_fastapi": "#3aa6d8",
}
_OTHERS: Final = ("#c2527f", "#8a6d3b", "#5f9ea0", "#a5a52a", "#6b5b95", "#444444")
INK: Final = "#24292f"
FAINT: Final = "#d8dce0"


def number(value: float) -> str:
    """Return a figure with three significant digits or so."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 0.1:
        return f"{value:.2f}"
    return f"{value:.2g}"


def colour(name: str, among: Sequence[str] = ()) -> str:
    """Return the colour of a layer, by its module's name or its title.

    Args:
        name: of a layer, or of something else that is drawn; what begins with "asgi-session" is ours.
        among: all that is drawn; what is neither ours nor a layer takes its colour from its place among
            such.
    """
    known = _LAYER_COLOURS | {
        layer(one).TITLE: _LAYER_COLOURS[one] for one in LAYERS if one in _LAYER_COLOURS
    }
    if name in known:
        return known[name]
    if name.startswith("asgi-session"):
        return _LAYER_COLOURS["asgi_session_redis"]
    strangers = [one for one in among if one not in known and not one.startswith("asgi-session")]
    return _OTHERS[strangers.index(name) % len(_OTHERS)] if name in strangers else INK


def panels(count: int, *, title: str, note: str = "", columns: int = 3, size: tuple[float, float]) -> Any:
    """Return a figure and `count` axes in a grid, each of `size` inches, under one title.

    The axes come row by row; `note` stands below them all.
    """
    from matplotlib.figure import Figure

    columns = _columns(count, columns)
    rows = max(1, -(-count // columns))
    width = size[0] * columns
    title, note = fill(title, int(width * 9)), fill(note, int(width * 14))
    height = size[1] * rows + 0.45 + 0.2 * title.count("\n") + (0.2 + 0.16 * note.count("\n") if note else 0)
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=9, color="#57606a")
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in grid[count:]:
        axes.set_axis_off()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(which="both", colors=INK, labelsize=9, length=0)
        axes.set_axisbelow(True)
    return figure, grid[:count]


def bars(
    groups: Mapping[str, Mapping[str, float]], *, title: str, unit: str, note: str = "", columns: int = 3
) -> Any:
    """Draw a panel of horizontal bars for each group; the same name has the same place in all of them.

    Groups without values are left out.
    Each panel has a scale of its own, that begins at 0; the values stand beside the bars.

    Args:
        groups: what was measured, to the value of each name, layers' titles most often.
        title: of the figure.
        unit: of the values.
        note: what else a reader has to know.
        columns: the most panels beside each other.
    """
    groups = {heading: group for heading, group in groups.items() if group}
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    height = 0.24 * len(names) + 0.75
    wide = 3.6 if len(groups) > 2 else 5.0 if len(groups) == 2 else 6.5
    figure, grid = panels(len(groups), title=title, note=note, columns=columns, size=(wide, height))
    columns = _columns(len(groups), columns)
    for at, (axes, (heading, group)) in enumerate(zip(grid, groups.items(), strict=True)):
        shown = [(place, name) for place, name in enumerate(names) if name in group]
        axes.barh(
            [place for place, _ in shown],
            [group[name] for _, name in shown],
            height=0.74,
            color=[colour(name, names) for _, name in shown],
        )
        for place, name in shown:
            axes.annotate(
                number(group[name]),
                (group[name], place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=INK,
            )
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_yticks(range(len(names)), names if at % columns == 0 else [""] * len(names))
        axes.set_xlim(0, max(group.values(), default=1) * 1.22 or 1)
        axes.xaxis.set_major_locator(_few())
        axes.xaxis.set_major_formatter(_tick)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_title(heading, loc="left", fontsize=10.5, color=INK)
        axes.set_xlabel(unit, fontsize=8.5, color="#57606a")
    return figure


def lines(
    series: Mapping[str, Points] | Mapping[str, Mapping[str, Points]],
    *,
    title: str,
    across: str,
    unit: str,
    note: str = "",
    log: str = "xy",
    columns: int = 2,
) -> Any:
    """Draw lines, each with its name at its end.

    Args:
        series: by name, layers' titles most often, points (x, y); or a mapping of panels' headings to such.
        title: of the figure.
        across: what x is, with its unit.
        unit: what y is.
        note: what else a reader has to know.
        log: which axes are logarithmic: "", "x", "y" or "xy".
        columns: the most panels beside each other.
    """
    grouped: dict[str, Any] = (
        dict(series) if any(isinstance(value, Mapping) for value in series.values()) else {"": dict(series)}
    )
    names = list(dict.fromkeys(name for group in grouped.values() for name in group))
    wide = 8.5 if len(grouped) == 1 else 6.2
    figure, grid = panels(len(grouped), title=title, note=note, columns=columns, size=(wide, 4.2))
    for axes, (heading, group) in zip(grid, grouped.items(), strict=True):
        draw_lines(axes, group, names, log=log)
        axes.set_title(heading, loc="left", fontsize=10.5, color=INK)
        axes.set_xlabel(across, fontsize=9, color="#57606a")
        axes.set_ylabel(unit, fontsize=9, color="#57606a")
    return figure


def draw_lines(
    axes: Any, series: Mapping[str, Points], names: Sequence[str] = (), *, log: str = "xy"
) -> None:
    """Draw lines into a panel, each with its name at its end; `names` are those of all panels."""
    from matplotlib.ticker import LogLocator, NullFormatter

    series = {name: sorted(points) for name, points in series.items() if points}
    for name, points in series.items():
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker="o",
            markersize=4,
            linewidth=2.2 if "asgi-session" in name else 1.6,
            color=colour(name, names or list(series)),
            label=name,
        )
    for axis, letter, scale in ((axes.xaxis, "x", axes.set_xscale), (axes.yaxis, "y", axes.set_yscale)):
        if letter in log:
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(_tick)
    heights = [y for points in series.values() for _, y in points if y > 0]
    if "y" not in log:
        axes.set_ylim(bottom=0)
    elif heights:
        axes.set_ylim(*_around(min(heights), max(heights)))
    places = sorted({x for points in series.values() for x, _ in points})
    if 0 < len(places) <= 8:
        axes.set_xticks(places)
        axes.set_xticks([], minor=True)
    axes.grid(color=FAINT, linewidth=0.6)
    _name_ends(axes, series, names)


def _name_ends(axes: Any, series: Mapping[str, Points], names: Sequence[str]) -> None:
    """Write each line's name to the right of the panel, at the height of its end, none over another."""
    ends = {name: _height(axes, points[-1][1]) for name, points in series.items()}
    step = 0.052
    placed: list[tuple[str, float]] = []
    for name, height in sorted(ends.items(), key=lambda item: item[1]):
        placed.append((name, max(height, placed[-1][1] + step) if placed else max(height, 0.0)))
    surplus = max(placed[-1][1] - 1.0, 0.0) if placed else 0.0
    limit = float("inf")
    for name, height in reversed(placed):  # push down again what went out at the top
        at = min(height, limit, 1.0 if surplus else height)
        limit = at - step
        axes.annotate(
            name,
            (series[name][-1][0], series[name][-1][1]),
            xytext=(1.03, at),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=INK,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": colour(name, names or list(series)),
                "linewidth": 1.0,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 3,
            },
        )


def _height(axes: Any, value: float) -> float:
    """Return where a value is on the y axis, as a part of its height."""
    _, y = axes.transLimits.transform(axes.transScale.transform((axes.get_xlim()[0], value)))
    return float(y)


def _around(low: float, high: float) -> tuple[float, float]:
    """Return the nearest of 1, 2, 5, 10, 20, 50 and so on below and above."""
    steps = [step * 10.0**power for power in range(-9, 13) for step in (1, 2, 5)]
    below = [step for step in steps if step <= low * 0.97]
    above = [step for step in steps if step >= high * 1.03]
    return below[-1] if below else low, above[0] if above else high


def _columns(count: int, most: int) -> int:
    return 2 if count == 4 and most == 3 else max(1, min(most, count))


def _tick(value: float, place: int | None = None) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"


def _few() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)

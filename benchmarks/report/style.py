"""How numbers and plots look: one colour per layer in all of them, values written beside what shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any, Final, Literal

from benchmarks.layers import LAYERS, framework, layer

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
SOFT: Final = "#57606a"

OWN_SCALES: Final = "Each panel has a scale of its own."
SCALES_BY_ROW: Final = "The panels of a row have the same scale; the rows do not."


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


def times(one: float, other: float, more: str = "as much as", less: str = "less than") -> str:
    """Return how one figure compares with another, in words: "1.7 times as much as", say."""
    if one <= 0 or other <= 0:
        return more if one > other else less
    ratio = one / other
    return f"{ratio:.2g} times {more}" if ratio > 1 else f"{1 / ratio:.2g} times {less}"


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
        figure.supxlabel(note, x=0.01, ha="left", fontsize=9, color=SOFT)
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
    groups: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    unit: str,
    note: str = "",
    columns: int = 3,
    share: bool = False,
) -> Any:
    """Draw a panel of horizontal bars for each group; the same name has the same place in all of them.

    Layers are grouped by framework, each group under its framework's name. Groups without values are
    left out. Scales begin at 0, and those of percentages end at 100; the values stand beside the bars.

    Args:
        groups: what was measured, to the value of each name, layers' titles most often.
        title: of the figure.
        unit: of the values; begins with "%" where they are percentages.
        note: what else a reader has to know.
        columns: the most panels beside each other.
        share: whether all panels have one scale; else the note says that they have not.
    """
    groups = {heading: group for heading, group in groups.items() if group}
    percent = unit.startswith("%")
    if len(groups) > 1 and not (share or percent):
        note = _and(note, OWN_SCALES)
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    labels = by_framework(names)
    places = {name: place for place, (_, name) in enumerate(labels) if name}
    height = 0.24 * len(labels) + 0.75
    wide = 3.6 if len(groups) > 2 else 5.0 if len(groups) == 2 else 6.5
    figure, grid = panels(len(groups), title=title, note=note, columns=columns, size=(wide, height))
    columns = _columns(len(groups), columns)
    most = max((value for group in groups.values() for value in group.values()), default=1)
    for at, (axes, (heading, group)) in enumerate(zip(grid, groups.items(), strict=True)):
        axes.barh(
            [places[name] for name in group],
            list(group.values()),
            height=0.74,
            color=[colour(name, names) for name in group],
        )
        for name, value in group.items():
            axes.annotate(
                number(value),
                (value, places[name]),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=INK,
            )
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_yticks(range(len(labels)), [label if at % columns == 0 else "" for label, _ in labels])
        for tick, (_, name) in zip(axes.get_yticklabels(), labels, strict=True):
            tick.set_fontweight("normal" if name else "bold")
        if percent:
            axes.set_xlim(0, 100)
            axes.set_xticks([0, 25, 50, 75, 100])
        else:
            axes.set_xlim(0, (most if share else max(group.values(), default=1)) * 1.22 or 1)
            axes.xaxis.set_major_locator(_few())
        axes.xaxis.set_major_formatter(_tick)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_title(heading, loc="left", fontsize=10.5, color=INK)
        axes.set_xlabel(unit, fontsize=8.5, color=SOFT)
    return figure


def by_framework(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return what stands beside the rows of a plot: (label, name), and (framework, "") above its layers.

    What is no layer comes last. Without layers of two frameworks there are no such headings.
    """
    frameworks = {layer(one).TITLE: framework(one) for one in LAYERS}
    there = [
        one for one in dict.fromkeys(frameworks.values()) if any(frameworks.get(n) == one for n in names)
    ]
    if len(there) < 2:
        return [(name, name) for name in names]
    labels: list[tuple[str, str]] = []
    for each in there:
        labels.append((each, ""))
        labels += [(name, name) for name in names if frameworks.get(name) == each]
    return labels + [(name, name) for name in names if name not in frameworks]


def _and(note: str, more: str) -> str:
    if more in note:
        return note
    return f"{note.rstrip('.')}. {more}" if note else more


def lines(
    series: Mapping[str, Points] | Mapping[str, Mapping[str, Points]],
    *,
    title: str,
    across: str,
    unit: str,
    note: str = "",
    log: str = "xy",
    columns: int = 2,
    share: Literal["all", "row", "none"] = "all",
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
        share: which panels have one scale of y; the note says so if that is not all.
    """
    grouped: dict[str, Any] = (
        dict(series) if any(isinstance(value, Mapping) for value in series.values()) else {"": dict(series)}
    )
    names = list(dict.fromkeys(name for group in grouped.values() for name in group))
    if len(grouped) > 1 and share != "all":
        note = _and(note, SCALES_BY_ROW if share == "row" else OWN_SCALES)
    wide = 8.5 if len(grouped) == 1 else 6.2
    figure, grid = panels(len(grouped), title=title, note=note, columns=columns, size=(wide, 4.2))
    in_a_row = {"all": len(grouped) or 1, "row": _columns(len(grouped), columns), "none": 1}[share]
    for start in range(0, len(grouped), in_a_row):
        together = list(zip(grid, grouped.items(), strict=True))[start : start + in_a_row]
        heights = [y for _, (_, group) in together for points in group.values() for _, y in points]
        for axes, (heading, group) in together:
            draw_lines(axes, group, names, log=log, heights=heights)
            axes.set_title(heading, loc="left", fontsize=10.5, color=INK)
            axes.set_xlabel(across, fontsize=9, color=SOFT)
            axes.set_ylabel(unit, fontsize=9, color=SOFT)
    return figure


def draw_lines(
    axes: Any,
    series: Mapping[str, Points],
    names: Sequence[str] = (),
    *,
    log: str = "xy",
    heights: Sequence[float] = (),
) -> None:
    """Draw lines into a panel, each with its name at its end.

    Args:
        axes: the panel.
        series: points by name.
        names: those of all panels.
        log: see `lines`.
        heights: all that the panels with the same scale show; by default the panel's own.
    """
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
    heights = heights or [y for points in series.values() for _, y in points]
    positive = [y for y in heights if y > 0]
    if "y" not in log:
        axes.set_ylim(0, max(positive, default=1) * 1.06)
    elif positive:
        axes.set_ylim(*_around(min(positive), max(positive)))
    places = sorted({x for points in series.values() for x, _ in points})
    if 0 < len(places) <= 8:
        axes.set_xticks(places)
        axes.set_xticks([], minor=True)
    axes.grid(color=FAINT, linewidth=0.6)
    _name_ends(axes, series, names)


def _name_ends(axes: Any, series: Mapping[str, Points], names: Sequence[str]) -> None:
    """Write each line's name beside its last point, in a dark shade of its colour, none over another.

    Nothing is drawn between a line and its name that could be taken for data: a name that had to move
    away from its line gets dots of grey.
    """
    step = 0.052
    columns: dict[float, dict[str, float]] = {}
    for name, points in series.items():
        columns.setdefault(points[-1][0], {})[name] = _height(axes, points[-1][1])
    for ends in columns.values():
        for name, at in spread(ends, step).items():
            moved = abs(at - ends[name]) > step / 2
            axes.annotate(
                name,
                series[name][-1],
                xytext=(16 if moved else 8, at),
                textcoords=("offset points", "axes fraction"),
                va="center",
                fontsize=9,
                color=_dark(colour(name, names or list(series))),
                annotation_clip=False,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
                arrowprops={
                    "arrowstyle": "-",
                    "relpos": (0, 0.5),
                    "color": "#8b949e",
                    "linewidth": 0.9,
                    "linestyle": (0, (1, 2)),
                    "shrinkA": 0,
                    "shrinkB": 4,
                }
                if moved
                else None,
            )


def spread(ends: Mapping[str, float], step: float) -> dict[str, float]:
    """Return heights that are at least `step` apart, as near to the given ones as that allows."""
    groups: list[tuple[float, list[str]]] = []  # the middle of names that touch each other, and they
    for name in sorted(ends, key=lambda name: ends[name]):
        middle, together = ends[name], [name]
        while groups and middle - (len(together) - 1) * step / 2 < (
            groups[-1][0] + (len(groups[-1][1]) - 1) * step / 2 + step
        ):
            together = groups.pop()[1] + together
            middle = sum(ends[one] for one in together) / len(together)
        groups.append((middle, together))
    return {
        name: middle + (place - (len(together) - 1) / 2) * step
        for middle, together in groups
        for place, name in enumerate(together)
    }


def _dark(shade: str) -> str:
    """Return a colour as text can have it on white: halfway to ink."""
    mixed = [(int(shade[at : at + 2], 16) + int(INK[at : at + 2], 16)) // 2 for at in (1, 3, 5)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


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

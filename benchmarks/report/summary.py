"""What a user wants to know first: six ratios, like for like; what is lost; where this library costs more.

Everything here is a function of a run. A figure that the run does not have is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from benchmarks.layers import LAYERS, framework, layer, like_for_like
from benchmarks.questions import correctness, scaling, store_cost
from benchmarks.report.markdown import markdown
from benchmarks.report.style import number, times
from benchmarks.results import Row, Table, pick
from benchmarks.run import Run
from benchmarks.sessions import USUAL

PAIRS: Final = (("asgi_session_redis", "starsessions"), ("asgi_session_fastapi", "fastapi_redis_sdk"))
"""This library and the other server-side sessions of the same framework."""
COOKIE: Final = ("asgi_session_redis", "signed_cookie")

_COSTS: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("app CPU of a read", "request-cost", {"action": "read", "concurrency": 64, "size": USUAL}),
    ("app CPU of a write", "request-cost", {"action": "write", "concurrency": 64, "size": USUAL}),
    ("store CPU of a request, on average", "store-cost", {"kind": "mix", "concurrency": 64}),
)


class Ratio(NamedTuple):
    """What ours costs beside another layer of the same framework; µs of CPU.

    Attributes:
        what: is compared.
        mine: the name of our layer.
        theirs: the name of the other.
        ours: the figure of ours.
        other: the figure of the other.
    """

    what: str
    mine: str
    theirs: str
    ours: float
    other: float


def rows_of(run: Run, question: str) -> list[Row]:
    """Return the rows of a question, none if it was not asked or failed."""
    return next((answer.rows for answer in run.answers if answer.name == question and not answer.error), [])


def compared(run: Run, question: str, what: str, mine: str, theirs: str, **case: Any) -> Ratio | None:
    """Return the ratio of two layers in a case; None if that was not measured.

    Raises:
        ValueError: the layers run on different frameworks.
    """
    like_for_like(mine, theirs)
    rows = rows_of(run, question)
    case["loop"] = None  # asyncio's own, which every layer was measured on
    one, other = pick(rows, layer=mine, **case), pick(rows, layer=theirs, **case)
    if one is None or other is None:
        return None
    return Ratio(what, mine, theirs, one["cpu"], other["cpu"])


def ratios(run: Run) -> list[Ratio]:
    """Return the six ratios, those that were measured."""
    return [
        found
        for what, question, case in _COSTS
        for mine, theirs in PAIRS
        if (found := compared(run, question, what, mine, theirs, **case)) is not None
    ]


def table(found: list[Ratio]) -> Table:
    """Return a line for each thing compared and a column for each pair of layers."""
    pairs = [pair for pair in PAIRS if any((one.mine, one.theirs) == pair for one in found)]
    lines = []
    for what in dict.fromkeys(one.what for one in found):
        cells = []
        for pair in pairs:
            there = [one for one in found if one.what == what and (one.mine, one.theirs) == pair]
            cells.append(_cell(there[0]) if there else "")
        lines.append([what, *cells])
    columns = [f"on {framework(mine)}, against {layer(theirs).TITLE}" for mine, theirs in pairs]
    return Table("", ["64 requests at a time", *columns], lines)


def _cell(one: Ratio) -> str:
    much = times(one.ours, one.other, "as much", "less")
    return f"**{much}**: {number(one.ours)} against {number(one.other)} µs"


def kept(run: Run) -> str:
    """Return how many parallel writes were lost, and how many ended sessions came back."""
    rows = rows_of(run, "correctness")
    writes = [row for row in rows if row["what"] == correctness.WRITES]
    races = [row for row in rows if row["what"] == correctness.LOGOUTS]
    sentences = []
    if writes:
        sentences.append(
            f"Parallel writes lost without an error: {_ours_and_others(writes, correctness.lost)}."
        )
    if races:
        sentences.append(
            "Sessions that were signed in again after a logout: "
            f"{_ours_and_others(races, lambda row: row['back_in_browser'])}."
        )
    return " ".join(sentences)


def _ours_and_others(rows: list[Row], count: Any) -> str:
    ours = [row for row in rows if row["layer"].startswith("asgi_session")]
    parts = []
    if ours:
        lost, sent = sum(map(count, ours)), sum(row["sent"] for row in ours)
        parts.append(f"asgi-session {lost:,} of {sent:,} ({_plural(len(ours), 'set-up')})")
    parts += [
        f"{layer(row['layer']).TITLE} {count(row):,} of {row['sent']:,}"
        for row in sorted(rows, key=lambda row: LAYERS.index(row["layer"]))
        if row not in ours
    ]
    return ", ".join(parts)


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def costs_more(run: Run) -> list[str]:
    """Return where this library costs more than another layer of its framework, one sentence each."""
    found = []
    for case in (
        {"action": "read", "concurrency": 1, "size": USUAL},
        {"action": "write", "concurrency": 1, "size": USUAL},
        {"action": "new", "concurrency": 64, "size": USUAL},
    ):
        what = f"{_actions(case['action'])}, {_plural(case['concurrency'], 'request')} at a time"
        for mine, theirs in (*PAIRS, COOKIE):
            one = compared(run, "request-cost", what, mine, theirs, **case)
            if one is not None and one.ours > one.other:
                found.append(_more("app", one))
    for action in scaling.ACTIONS:
        mine, theirs = PAIRS[0]
        case = {"action": action, "sessions": scaling.BASE_SESSIONS, "concurrency": 1}
        rows = rows_of(run, "scaling")
        row, other = pick(rows, layer=mine, **case), pick(rows, layer=theirs, **case)
        if row is not None and other is not None and row["store_cpu"] > other["store_cpu"]:
            what = f"{_actions(action)}, 1 request at a time"
            found.append(_more("store", Ratio(what, mine, theirs, row["store_cpu"], other["store_cpu"])))
    return found


def _actions(action: str) -> str:
    return {"read": "A read", "write": "A write", "new": "A new session"}[action]


def _more(whose: str, one: Ratio) -> str:
    much = times(one.ours, one.other)
    return (
        f"{one.what}: {number(one.ours)} µs of {whose} CPU, {much} with {layer(one.theirs).TITLE} "
        f"({number(one.other)} µs)."
    )


def cookie(run: Run) -> list[str]:
    """Return what a read and a write cost beside Starlette's signed cookie."""
    found = []
    for what, question, case in _COSTS[:2]:
        one = compared(run, question, what, *COOKIE, **case)
        if one is not None:
            found.append(f"{number(one.ours)} µs of {what}, against {number(one.other)} µs")
    return found


def summary(run: Run, plots: str) -> Iterator[str]:
    """Yield the blocks of Markdown with which the page opens; nothing if nothing of it was measured.

    Args:
        run: the run.
        plots: the directory of the plots, as the page links to it.
    """
    six, lost, more = ratios(run), kept(run), costs_more(run)
    if not (six or lost or more):
        return
    yield "## In short"
    if six:
        yield (
            "What asgi-session on Redis costs beside other server-side sessions. Each column compares layers "
            f"of one framework, with sessions of {USUAL} B."
        )
        yield markdown(table(six))
        untouched, read, write = (store_cost.MIX[kind] for kind in ("untouched", "read", "write"))
        yield (
            f"The store's average is that of a mix: {untouched} % of the requests leave the session alone, "
            f"{read} % read it, {write} % write to it."
        )
    if beside := cookie(run):
        yield (
            "Starlette's signed cookie keeps the session in the browser. It needs no store and cannot be "
            f"revoked. Beside it, with 64 requests at a time, asgi-session takes {' and '.join(beside)}."
        )
    if lost:
        yield f"![What goes wrong when requests of one user overlap]({plots}/correctness.svg)"
        yield lost
    if more:
        yield "Where asgi-session costs more:"
        yield "\n".join(f"- {sentence}" for sentence in more)

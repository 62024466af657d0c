"""What a request costs the application: CPU time, and requests per second of one process.

The benchmark calls the app directly, without a server in front, on asyncio's own event loop. So it measures
the app, the session layer and its store client. Each layer has a process of its own beside one store. The
layers take turns, round by round, and the best figure of all rounds counts: that of the round which was
disturbed least. CPU is the user and system time of the app's process, less what the calling client spends
by itself (some 1.3 µs; the requests per second include it, for every layer alike). Requests per second are
those that one process carries when it does nothing else.

A read gets one key, a write adds one to a count. Sessions larger than 1 KB have many keys, and these two
are small ones. A layer that decodes only what is looked at gains by that; it would gain nothing if a
session were a single large value. Compare layers only with those of the same framework, and with its bare
app. Sliding expiry costs asgi-session nothing here: it extends a session at most once per 5 % of its idle
timeout. A layer that extends it in every request pays for that in every request.

The signed cookie and asgi-session on Redis are measured on uvloop, too, on which apps run that are served by
``uvicorn[standard]``. A faster loop makes everything cheaper, but most what goes through a socket.

What a session costs in a FastAPI app is compared without a server: a read with ``SessionDep``, less the
same app with an async dependency that does nothing, beside a read with ``load_session`` on Starlette, less
the bare app. The same instructions take longer among more code, of which the processor's caches and branch
predictors then hold less: a read on Starlette does, too, when it takes turns with requests to FastAPI.

It does not show HTTP parsing and the network (see "end to end"), what the store spends (see "store cost"),
or waiting times under a given load (see "latency"). Browsers refuse a cookie of more than 4 KB, so larger
sessions are left out for the signed cookie.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.client import Browser, nothing
from benchmarks.layers import BY_THE_WAY, LAYERS, framework, layer, like_for_like
from benchmarks.report.style import bars, number
from benchmarks.results import Row, Table, Target, pick
from benchmarks.sessions import USUAL
from benchmarks.worker import FIRST_USER, Bed, Meter

TITLE: Final = "Cost of a request"

ACTIONS: Final = ("untouched", "anonymous", "read", "write", "new", "destroy")
CONCURRENCIES: Final = (1, 8, 64, 256)
SIZES: Final = (100, 1_000, 10_000, 60_000)
UVLOOP: Final = (
    ("bare", "signed_cookie", "asgi_session_redis"),
    [(action, 64, USUAL) for action in ("untouched", "read", "write", "new")],
)
"""What is measured on uvloop, too: layers and cases. Rows of these have a "loop"; the others have none."""
TARGETED: Final = [*UVLOOP[1], ("read", 1, USUAL)]
DEPENDENCY: Final = {
    "Starlette": ("bare", "asgi_session_memory"),
    "FastAPI": ("fastapi_dependency", "asgi_session_fastapi_memory"),
}
"""By framework: the app without a session, and with one that is read."""
COOKIE_LIMIT: Final = 2_500  # bytes of msgpack that are too much, as signed JSON in base64, for a cookie


def cases(quick: bool) -> list[tuple[str, int, int]]:
    """Return (action, concurrent requests, size of the session) of each case."""
    if quick:
        return TARGETED
    usual = [(action, 64, USUAL) for action in ACTIONS]
    others = [count for count in CONCURRENCIES if count != 64]
    more = [(action, count, USUAL) for action in ("untouched", "read", "write") for count in others]
    sizes = [(action, 64, size) for size in SIZES for action in ("read", "write")]
    return usual + more + sizes


def effort(size: int, quick: bool) -> tuple[int, int]:
    """Return how many rounds to make, of how many requests each."""
    return (2, 512) if quick else (12, max(256, 1024 // max(1, size // 2000)))


async def round_of(bed: Bed, action: str, concurrency: int, size: int, requests: int) -> dict[str, float]:
    """Make `requests` requests, `concurrency` at a time; return the cost of one, and of the client."""
    each = max(requests // concurrency, 1)
    app = await bed.app("read" if action == "anonymous" else action)
    stranger = action in ("anonymous", "new")
    browsers = await bed.browsers(concurrency, size) if action in ("untouched", "read", "write") else []
    browsers = browsers or [Browser() for _ in range(concurrency)]
    # One user each: some layers keep an index of a user's sessions.
    queries = [b"size=%d&user=%d" % (size, FIRST_USER + number) for number in range(concurrency)]

    async def run(browser: Browser, query: bytes, app: Any, times: int) -> None:
        for _ in range(times):
            if stranger:
                browser.headers = []
            await browser.request(app, query)

    async def all_of_them(app: Any, queries: list[bytes], times: int) -> Meter:
        with Meter() as meter:
            pairs = zip(browsers, queries, strict=True)
            await asyncio.gather(*[run(browser, query, app, times) for browser, query in pairs])
        return meter

    none = [b""] * concurrency
    if action == "destroy":
        meter = Meter()
        for _ in range(each):  # each needs a session of its own; making those is not measured
            await all_of_them(await bed.app("new"), queries, 1)
            await all_of_them(await bed.app("read"), none, 1)  # confirms it, where a layer knows of that
            cookies = [browser.headers for browser in browsers]
            done = await all_of_them(app, none, 1)
            meter = Meter(meter.cpu + done.cpu, meter.wall + done.wall)
        browsers[0].headers = cookies[0]
        await browsers[0].request(await bed.app("read"))
        if browsers[0].body != b"None" and bed.revocable:
            raise RuntimeError(f"a destroyed session was found again: user {browsers[0].body!r}")
    else:
        meter = await all_of_them(app, queries if action == "new" else none, each)
        if action == "read":
            for number, browser in enumerate(browsers):
                if browser.body != b"%d" % (FIRST_USER + number):
                    raise RuntimeError(f"read found user {browser.body!r}, not {FIRST_USER + number}")
    figures = meter.per(each * concurrency)
    client = await all_of_them(nothing, none, each)
    return {**figures, "client": client.per(each * concurrency)["cpu"]}


def measure(bench: Bench) -> list[Row]:
    """Measure all layers."""
    names = [name for name in (*LAYERS, *BY_THE_WAY) if not (bench.quick and name == "asgi_session_cluster")]
    todo = cases(bench.quick)
    on_asyncio = _measured(bench, names, todo, "")
    return on_asyncio + _measured(bench, UVLOOP[0], UVLOOP[1], "uvloop")


def _measured(
    bench: Bench, names: Sequence[str], todo: Sequence[tuple[str, int, int]], loop: str
) -> list[Row]:
    """Return the rows of these layers and cases on one kind of event loop."""
    best: dict[tuple[Any, ...], Row] = {}
    with bench.workers(*names, uvloop=loop == "uvloop") as workers:
        for at, (action, concurrency, size) in enumerate(todo):
            on = f", on {loop}" if loop else ""
            bench.say(f"{action}, {concurrency} at a time, {size} B{on}", 0.97 if loop else at / len(todo))
            rounds, requests = effort(size, bench.quick)
            for _ in range(rounds):
                for name, worker in workers.items():
                    if not _makes_sense(name, action, concurrency, size):
                        continue
                    case = {"action": action, "concurrency": concurrency, "size": size}
                    figures = worker.call(round_of, requests=requests, **case)
                    case |= {"loop": loop} if loop else {}
                    row = best.setdefault((name, *case.values()), {"layer": name, **case, **figures})
                    row["cpu"] = min(row["cpu"], figures["cpu"])
                    row["client"] = min(row["client"], figures["client"])
                    row["rate"] = max(row["rate"], figures["rate"])
    for row in best.values():
        row["cpu"] -= row["client"]
    return list(best.values())


def _makes_sense(name: str, action: str, concurrency: int, size: int) -> bool:
    if name in BY_THE_WAY:
        wanted = "untouched" if name in {without for without, _ in DEPENDENCY.values()} else "read"
        return (action, concurrency, size) == (wanted, 64, USUAL)
    if name == layer(name).BARE:
        return action == "untouched"
    return not (name == "signed_cookie" and size > COOKIE_LIMIT)


def tables(rows: list[Row]) -> list[Table]:
    """One table a kind of variation; the figures on uvloop; the FastAPI dependency."""
    on_uvloop = _on_uvloop(rows)
    dependency = _dependency(rows)
    rows = [row for row in rows if "loop" not in row and row["layer"] in LAYERS]
    layers = [name for name in LAYERS if pick(rows, layer=name)]
    made = []
    for title, varied, wanted in (
        (
            f"Kinds of requests, 64 at a time, sessions of {USUAL} B",
            "action",
            {"concurrency": 64, "size": USUAL},
        ),
        (f"Reading, by concurrency, sessions of {USUAL} B", "concurrency", {"action": "read", "size": USUAL}),
        (
            f"Writing, by concurrency, sessions of {USUAL} B",
            "concurrency",
            {"action": "write", "size": USUAL},
        ),
        ("Reading, by size of the session, 64 at a time", "size", {"action": "read", "concurrency": 64}),
        ("Writing, by size of the session, 64 at a time", "size", {"action": "write", "concurrency": 64}),
    ):
        values = list(dict.fromkeys(row[varied] for row in rows if wanted.items() <= row.items()))
        if len(values) < 2:
            continue
        if varied != "action":
            values.sort()
        for figure, unit in (("cpu", "CPU µs per request"), ("rate", "requests per second")):
            lines = [
                [
                    layer(name).TITLE,
                    *(_cell(rows, figure, layer=name, **wanted, **{varied: value}) for value in values),
                ]
                for name in layers
            ]
            made.append(
                Table(
                    f"{title}: {unit}",
                    ["layer", *map(str, values)],
                    [line for line in lines if any(line[1:])],
                )
            )
    return [*made, *on_uvloop, *dependency]


def _on_uvloop(rows: list[Row]) -> list[Table]:
    """Return the table of what was measured on both event loops."""
    names, todo = UVLOOP
    lines = []
    for name in names:
        for loop in (None, "uvloop"):
            cells = [
                _cell(rows, "cpu", layer=name, loop=loop, action=action, concurrency=concurrency, size=size)
                for action, concurrency, size in todo
            ]
            lines.append([layer(name).TITLE, loop or "asyncio", *cells])
    title = f"On both event loops, 64 at a time, sessions of {USUAL} B: CPU µs per request"
    columns = ["layer", "loop", *(action for action, _, _ in todo)]
    return [Table(title, columns, lines)] if pick(rows, loop="uvloop") is not None else []


def _dependency(rows: list[Row]) -> list[Table]:
    """Return the table of what a session costs on top of its framework."""
    found = {on: figures for on in DEPENDENCY if (figures := _without_and_with(rows, on)) is not None}
    if len(found) < len(DEPENDENCY):
        return []
    lines = [
        [
            layer(DEPENDENCY[on][1]).TITLE,
            layer(DEPENDENCY[on][0]).TITLE,
            *map(number, (one, other, one - other)),
        ]
        for on, (other, one) in found.items()
    ]
    title = (
        f"A read in memory, 64 at a time, sessions of {USUAL} B, less the app without one: CPU µs per request"
    )
    return [Table(title, ["layer", "without a session", "read", "without", "difference"], lines)]


def _without_and_with(rows: list[Row], on: str) -> tuple[float, float] | None:
    """Return the CPU of the app without a session and with one, on a framework; None if not measured."""
    without, session = DEPENDENCY[on]
    case = {"loop": None, "concurrency": 64, "size": USUAL}
    other = pick(rows, layer=without, action="untouched", **case)
    one = pick(rows, layer=session, action="read", **case)
    return None if one is None or other is None else (other["cpu"], one["cpu"])


def _cell(rows: list[Row], figure: str, **wanted: Any) -> str:
    row = pick(rows, **wanted)
    return number(row[figure]) if row is not None else ""


def plots(rows: list[Row]) -> dict[str, Any]:
    """CPU by kind of request."""
    groups = {}
    for action in ACTIONS:
        groups[action] = {
            layer(row["layer"]).TITLE: row["cpu"]
            for row in rows
            if (row["action"], row["concurrency"], row["size"]) == (action, 64, USUAL)
            and "loop" not in row
            and row["layer"] in LAYERS
        }
    return {
        "request-cost": bars(
            groups,
            title="What a request costs the application",
            unit="CPU µs per request",
            note=f"64 requests at a time, sessions of about {USUAL} B",
            share=True,
        )
    }


def targets(rows: list[Row]) -> list[Target]:
    """The targets on CPU and throughput."""
    found = []
    for action, mine, theirs, figure, how, bound, concurrency, loop in (
        ("untouched", "asgi_session_redis", "bare", "cpu", "at most", 1.25, 64, None),
        ("read", "asgi_session_redis", "signed_cookie", "cpu", "at most", 0.78, 64, None),
        ("read", "asgi_session_redis", "signed_cookie", "cpu", "at most", 0.90, 64, "uvloop"),
        ("write", "asgi_session_redis", "signed_cookie", "cpu", "at most", 0.72, 64, None),
        ("write", "asgi_session_redis", "signed_cookie", "cpu", "at most", 0.82, 64, "uvloop"),
        ("new", "asgi_session_redis", "signed_cookie", "cpu", "at most", 1.6, 64, None),
        ("read", "asgi_session_redis", "starsessions", "rate", "at least", 8, 64, None),
        ("write", "asgi_session_redis", "starsessions", "rate", "at least", 6, 64, None),
        ("read", "asgi_session_fastapi", "fastapi_redis_sdk", "rate", "at least", 7, 64, None),
        ("write", "asgi_session_fastapi", "fastapi_redis_sdk", "rate", "at least", 12, 64, None),
        ("read", "asgi_session_redis", "starsessions", "cpu", "at most", 0.3, 1, None),
    ):
        case = {"action": action, "concurrency": concurrency, "size": USUAL, "loop": loop}
        one, other = pick(rows, layer=mine, **case), pick(rows, layer=theirs, **case)
        if one is None or other is None:
            continue
        what = "CPU per request" if figure == "cpu" else "requests per second"
        _, other_layer = like_for_like(mine, theirs)
        on = f" on {framework(mine)}" if framework(mine) != "Starlette" else ""
        on += f" on {loop}" if loop else ""
        wanted = "new session" if action == "new" else action
        text = f"{wanted} over Redis{on}, {concurrency} at a time, against {other_layer.TITLE}: {what}"
        found.append(Target(text, one[figure] / other[figure], how, bound))
    return [*found, *_dependency_target(rows)]


def _dependency_target(rows: list[Row]) -> list[Target]:
    added = {
        on: figures[1] - figures[0]
        for on in DEPENDENCY
        if (figures := _without_and_with(rows, on)) is not None
    }
    if len(added) < len(DEPENDENCY):
        return []
    text = (
        "SessionDep in memory on FastAPI, 64 at a time, less an empty dependency, against load_session on "
        "Starlette, less the bare app: CPU of a read"
    )
    return [Target(text, added["FastAPI"] / added["Starlette"], "at most", 1.25)]

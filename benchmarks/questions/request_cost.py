"""What a request costs the application: CPU time, and requests per second of one process.

The app is called directly, without a server in front, so all that is measured is the app, the
session layer and its store client. Each layer has a process of its own beside one store; the rounds
of all layers alternate, and the best round of each counts, which is the one that was disturbed
least. CPU is the user and system time of the app's process; requests per second are those that one
process carries when it does nothing else.

It does not show HTTP parsing and the network (see "end to end"), nor what the store spends (see
"store cost"), nor waiting times under a given load (see "latency"). A signed cookie of more than
4 KB is refused by browsers; it is left out there.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.client import Browser
from benchmarks.layers import LAYERS, layer
from benchmarks.report.style import bars, number
from benchmarks.results import Row, Table, Target, pick
from benchmarks.sessions import USUAL
from benchmarks.worker import Bed, Meter

TITLE: Final = "Cost of a request"

ACTIONS: Final = ("untouched", "anonymous", "read", "write", "new", "destroy")
CONCURRENCIES: Final = (1, 8, 64, 256)
SIZES: Final = (100, 1_000, 10_000, 60_000)
TARGETED: Final = {("untouched", 64, USUAL), ("read", 64, USUAL), ("write", 64, USUAL), ("read", 1, USUAL)}
"""The cases with a target, which are measured more often."""
COOKIE_LIMIT: Final = 2_500  # bytes of msgpack that are too much, as signed JSON in base64, for a cookie


def cases(quick: bool) -> list[tuple[str, int, int]]:
    """Return (action, concurrent requests, size of the session) of each case."""
    if quick:
        return sorted(TARGETED)
    usual = [(action, 64, USUAL) for action in ACTIONS]
    more = [(action, count, USUAL) for action in ("untouched", "read", "write") for count in (1, 8, 256)]
    sizes = [(action, 64, size) for size in SIZES for action in ("read", "write")]
    return usual + more + sizes


def effort(case: tuple[str, int, int], quick: bool) -> tuple[int, int]:
    """Return how many rounds to make, of how many requests each."""
    if quick:
        return 2, 512
    size = case[2]
    return (20, 1280) if case in TARGETED else (6, max(256, 768 // max(1, size // 2000)))


async def round_of(bed: Bed, action: str, concurrency: int, size: int, requests: int) -> dict[str, float]:
    """Make `requests` requests, `concurrency` at a time; return the cost of one."""
    each = max(requests // concurrency, 1)
    if action == "destroy":
        return await _destroy(bed, concurrency, size, each)
    app = await bed.app("read" if action == "anonymous" else action)
    stranger = action in ("anonymous", "new")
    browsers = [Browser() for _ in range(concurrency)] if stranger else await bed.browsers(concurrency, size)

    async def run(number: int, browser: Browser) -> None:
        # One user each: some layers keep an index of a user's sessions.
        query = b"size=%d&user=%d" % (size, 5000 + number) if action == "new" else b""
        for _ in range(each):
            if stranger:
                browser.headers = []
            await browser.request(app, query)

    with Meter() as meter:
        await asyncio.gather(*[run(*numbered) for numbered in enumerate(browsers)])
    return meter.per(each * concurrency)


async def _destroy(bed: Bed, concurrency: int, size: int, each: int) -> dict[str, float]:
    """End sessions that were made for it; making them is not measured."""
    new, destroy = await bed.app("new"), await bed.app("destroy")
    browsers = [Browser() for _ in range(concurrency)]
    users = [b"size=%d&user=%d" % (size, 5000 + number) for number in range(concurrency)]
    total = Meter(0.0, 0.0)
    for _ in range(each):
        await asyncio.gather(*[one.request(new, user) for one, user in zip(browsers, users, strict=True)])
        with Meter() as meter:
            await asyncio.gather(*[browser.request(destroy) for browser in browsers])
        total = Meter(total.cpu + meter.cpu, total.wall + meter.wall)
    return total.per(each * concurrency)


def measure(bench: Bench) -> list[Row]:
    """Measure all layers."""
    best: dict[tuple[Any, ...], Row] = {}
    names = [name for name in LAYERS if not (bench.quick and name == "asgi_session_cluster")]
    with bench.workers(*names) as workers:
        todo = cases(bench.quick)
        for at, (action, concurrency, size) in enumerate(todo):
            bench.say(f"{action}, {concurrency} at a time, {size} B", at / len(todo))
            rounds, requests = effort((action, concurrency, size), bench.quick)
            for _ in range(rounds):
                for name, worker in workers.items():
                    if not _makes_sense(name, action, size):
                        continue
                    case = {"action": action, "concurrency": concurrency, "size": size}
                    figures = worker.call(round_of, requests=requests, **case)
                    row = best.setdefault((name, *case.values()), {"layer": name, **case, **figures})
                    row["cpu"] = min(row["cpu"], figures["cpu"])
                    row["rate"] = max(row["rate"], figures["rate"])
    return list(best.values())


def _makes_sense(name: str, action: str, size: int) -> bool:
    if name == layer(name).BARE:
        return action == "untouched"
    return not (name == "signed_cookie" and size > COOKIE_LIMIT)


def tables(rows: list[Row]) -> list[Table]:
    """One table a kind of variation."""
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
    return made


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
        }
    return {
        "request-cost": bars(
            groups,
            title="What a request costs the application",
            unit="CPU µs per request",
            note=f"64 requests at a time, sessions of about {USUAL} B",
        )
    }


def targets(rows: list[Row]) -> list[Target]:
    """The targets on CPU and throughput."""
    found = []
    for action, mine, theirs, figure, how, bound, concurrency in (
        ("untouched", "asgi_session_redis", "bare", "cpu", "at most", 1.25, 64),
        ("read", "asgi_session_redis", "signed_cookie", "cpu", "at most", 0.70, 64),
        ("write", "asgi_session_redis", "signed_cookie", "cpu", "at most", 0.65, 64),
        ("read", "asgi_session_redis", "starsessions", "rate", "at least", 8, 64),
        ("read", "asgi_session_redis", "fastapi_redis_sdk", "rate", "at least", 7, 64),
        ("write", "asgi_session_redis", "starsessions", "rate", "at least", 6, 64),
        ("write", "asgi_session_redis", "fastapi_redis_sdk", "rate", "at least", 12, 64),
        ("read", "asgi_session_redis", "starsessions", "cpu", "at most", 0.3, 1),
    ):
        case = {"action": action, "concurrency": concurrency, "size": USUAL}
        one, other = pick(rows, layer=mine, **case), pick(rows, layer=theirs, **case)
        if one is None or other is None:
            continue
        what = "CPU per request" if figure == "cpu" else "requests per second"
        text = f"{action} over Redis, {concurrency} at a time, against {layer(theirs).TITLE}: {what}"
        found.append(Target(text, one[figure] / other[figure], how, bound))
    return found

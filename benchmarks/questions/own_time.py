"""Where this library's own time goes: its parts by themselves, and samples of whole requests.

The parts first: how long single calls take, the best of many repeats, with sessions of two sizes.
"session" is a real `Session` with a store that answers at once, driven without an event loop: all of a
load but the store's own work, so reading the cookie, the token, the record, the digest, the expiry,
attaching it; then what a handler does with it. The target compares that with decoding: loading a
session of 60 KB and reading one key of it (a small number) against decoding every value of the same
session by the codec alone, without a load. What a session package pays that keeps a session as one
value stands below it: msgpack and JSON of the whole dict. "untouched POST" is a request with a cookie,
through the middleware to an app that does nothing: what hiding the cookie and `same_origin` cost there.

One line is for what a client can send to hold up the event loop: a dict of one long key of control
characters, with a list of as many empty texts, which once cost quadratic time. Per byte it must cost no
more at 60 KB than at 700 B.

Then the connection: GETs of whole records, 64 at a time, through this library's store and through
redis-py, as separate calls on its pool and as a pipeline of 64, which only a caller can use who has
all 64 keys in hand. CPU is this process's.

Then whole requests over Redis, 64 at a time, sessions of about 700 B: a timer of CPU time interrupts at
every tick of the system's clock, and the stacks that it meets share the CPU time. Time in C code (system
calls, msgpack, hiredis) counts for the Python function that called it: parsing replies for the library's
connection, sending for asyncio. The graphs have what the benchmark's client and app use as well; calls
that use less than a thousandth are not drawn.

It does not show waiting: neither for the store nor for other requests. The parts do not add up to a
request, since frameworks and the event loop have their share; calls repeated in a loop find their data in
the processor's caches, so they are faster than the same calls in a busy app. Samples are a few thousand
in a full run, so a function's share of 1 % may as well be one of 0.8 or 1.2 %.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.calls import AT_A_TIME, HOSTILE, calls, gets
from benchmarks.report.flame import NAMES, FlameGraph
from benchmarks.report.style import bars, number
from benchmarks.results import Row, Table, Target, pick
from benchmarks.sampler import Sampler, Stacks, by_function, by_part, pruned
from benchmarks.sessions import USUAL
from benchmarks.worker import Bed

TITLE: Final = "Where our own time goes"

LARGE: Final = 60_000
PATHS: Final = ("read", "write")
VIAS: Final = {
    "store": "asgi-session, RedisStore.load",
    "pool": "redis-py, calls on its pool",
    "pipeline": f"redis-py, pipelines of {AT_A_TIME}",
}
ONE_KEY: Final = "load, read one key"
EVERY_VALUE: Final = "decode every value"
TOP: Final = 20
_LAYER: Final = "asgi_session_redis"


async def sampled(bed: Bed, action: str, seconds: float) -> dict[str, Any]:
    """Make requests for that long; return CPU µs per request, by stack and by function."""
    app = await bed.app(action)
    browsers = await bed.browsers(AT_A_TIME, USUAL)
    done = 0
    until = 0.0
    now = asyncio.get_running_loop().time

    async def run(browser: Any) -> None:
        nonlocal done
        while now() < until:
            for _ in range(20):  # looking at the clock should not show
                await browser.request(app)
            done += 20

    for wanted, sampler in ((0.2, None), (seconds, Sampler())):  # the first warms up
        done, until = 0, now() + wanted
        if sampler is None:
            await asyncio.gather(*[run(browser) for browser in browsers])
            continue
        with sampler:
            await asyncio.gather(*[run(browser) for browser in browsers])
        stacks = {stack: used / done * 1e6 for stack, used in sampler.stacks().items()}
    functions = sorted(by_function(stacks).items(), key=lambda item: (-item[1][0], item[0]))
    shown = pruned(stacks, sum(stacks.values()) / 1000)
    return {
        "functions": [(function, own, whole) for function, (own, whole) in functions],
        "stacks": [(";".join(stack), used) for stack, used in shown.items()],
    }


def measure(bench: Bench) -> list[Row]:
    """Measure parts, connection and paths; rows have a `kind` each."""
    rows: list[Row] = []
    with bench.workers(_LAYER) as workers:
        worker = workers[_LAYER]
        bench.say("single calls", 0.0)
        timed = worker.call(calls, sizes=[USUAL, LARGE], repeats=5 if bench.quick else 100)
        rows += [{"kind": "call", **row} for row in timed]
        for place, size in enumerate((USUAL, LARGE)):
            bench.say(f"GETs of {_size(size)}", 0.3 + 0.15 * place)
            rows += _gets(bench, worker, size)
        for place, path in enumerate(PATHS):
            bench.say(f"samples of requests that {path}", 0.6 + 0.2 * place)
            got = worker.call(sampled, action=path, seconds=1.0 if bench.quick else 30.0)
            for function, own, whole in got["functions"]:
                rows.append(
                    {"kind": "function", "path": path, "function": function, "own": own, "whole": whole}
                )
            for stack, used in got["stacks"]:
                rows.append({"kind": "stack", "path": path, "stack": stack, "own": used})
    return rows


def _gets(bench: Bench, worker: Any, size: int) -> list[Row]:
    best: dict[str, Row] = {}
    for _ in range(3 if bench.quick else 20):
        for via in VIAS:
            figures = worker.call(gets, via=via, size=size, requests=1280 if size == USUAL else 256)
            row = best.setdefault(via, {"kind": "get", "via": via, "size": size, **figures})
            row["cpu"] = min(row["cpu"], figures["cpu"])
            row["rate"] = max(row["rate"], figures["rate"])
    return list(best.values())


def tables(rows: list[Row]) -> list[Table]:
    """Parts, connection, and for each path its packages and its most expensive functions."""
    made = []
    if found := [row for row in rows if row["kind"] == "call" and row["size"] == 0]:
        lines = [[f"{row['part']}: {row['what']}", number(row["ns"] / 1000)] for row in found]
        made.append(Table("Single calls", ["call", "µs"], lines))
    made += [_sized_calls(rows)] if any(row["kind"] == "call" and row["size"] for row in rows) else []
    if found := [row for row in rows if row["kind"] == "get"]:
        lines = [
            [VIAS[row["via"]], _size(row["size"]), number(row["cpu"]), number(row["rate"])] for row in found
        ]
        made.append(
            Table(
                f"GETs, {AT_A_TIME} at a time",
                ["via", "records of", "CPU µs per GET", "GETs per second"],
                lines,
            )
        )
    for path in PATHS:
        functions = [row for row in rows if row["kind"] == "function" and row["path"] == path]
        if functions:
            made += [_packages(path, functions), _functions(path, functions)]
    return made


def _sized_calls(rows: list[Row]) -> Table:
    found = [row for row in rows if row["kind"] == "call" and row["size"]]
    sizes = sorted({row["size"] for row in found})
    lines = []
    for part, what in dict.fromkeys((row["part"], row["what"]) for row in found):
        cells = []
        for size in sizes:
            row = pick(found, part=part, what=what, size=size)
            cells.append(number(row["ns"] / 1000) if row is not None else "")
        lines.append([f"{part}: {what}", *cells])
    return Table(
        "Single calls, by size of the session", ["call", *(f"{_size(size)}: µs" for size in sizes)], lines
    )


def _packages(path: str, functions: list[Row]) -> Table:
    parts = by_part((row["function"], row["own"]) for row in functions)
    whole = sum(parts.values())
    ranked = sorted(parts.items(), key=lambda item: -item[1])
    lines = [[NAMES[part], number(used), f"{used / whole:.0%}"] for part, used in ranked]
    return Table(
        f"Requests that {path}, {AT_A_TIME} at a time: CPU by whose code it is",
        ["whose", "µs per request", "of all"],
        [*lines, ["all", number(whole), "100%"]],
    )


def _functions(path: str, functions: list[Row]) -> Table:
    whole = sum(row["own"] for row in functions)
    ranked = sorted(functions, key=lambda row: (-row["own"], row["function"]))[:TOP]
    lines = [
        [row["function"], number(row["own"]), f"{row['own'] / whole:.1%}", number(row["whole"])]
        for row in ranked
    ]
    return Table(
        f"Requests that {path}: the {TOP} functions that use most themselves, CPU µs per request",
        ["function", "itself", "of all", "with what it calls"],
        lines,
    )


def plots(rows: list[Row]) -> dict[str, Any]:
    """Reading one key beside decoding everything; GETs; a flame graph for each path."""
    made: dict[str, Any] = {}
    if any(row["kind"] == "call" for row in rows):
        made["own-time-decoding"] = bars(
            {f"session of {_size(size)}": _decoding(rows, size) for size in (USUAL, LARGE)},
            title="Reading one key, beside decoding everything",
            unit="µs",
            note="A load is everything but the store's own work. Each panel has a scale of its own.",
        )
    if any(row["kind"] == "get" for row in rows):
        made["own-time-gets"] = bars(
            {
                f"records of {_size(size)}": {
                    VIAS[row["via"]]: row["cpu"]
                    for row in rows
                    if row["kind"] == "get" and row["size"] == size
                }
                for size in (USUAL, LARGE)
            },
            title="What a GET costs the client",
            unit="CPU µs per GET",
            note=f"{AT_A_TIME} at a time. Each panel has a scale of its own.",
        )
    for path in PATHS:
        stacks: Stacks = {
            tuple(row["stack"].split(";")): row["own"]
            for row in rows
            if row["kind"] == "stack" and row["path"] == path
        }
        if stacks:
            made[f"own-time-{path}"] = FlameGraph(
                stacks, title=f"CPU of a request that {path}s, over Redis", unit="µs per request"
            )
    return made


def _decoding(rows: list[Row], size: int) -> dict[str, float]:
    shown = {
        ("session", "load"): "asgi-session: load",
        ("session", ONE_KEY): "asgi-session: load, read one key",
        ("session", "load, read every key"): "asgi-session: load, read every key",
        ("codec", EVERY_VALUE): "asgi-session: only decode every value",
        ("for scale", "msgpack.unpackb of the whole dict"): "msgpack, the whole dict",
        ("for scale", "json.loads of the whole dict"): "json, the whole dict",
    }
    return {
        name: row["ns"] / 1000
        for (part, what), name in shown.items()
        if (row := pick(rows, kind="call", part=part, what=what, size=size)) is not None
    }


def _size(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size // 1000} KB"


def targets(rows: list[Row]) -> list[Target]:
    """Reading one key must not cost what decoding everything does."""
    one = pick(rows, kind="call", part="session", what=ONE_KEY, size=LARGE)
    whole = pick(rows, kind="call", part="codec", what=EVERY_VALUE, size=LARGE)
    if one is None or whole is None:
        return []
    made = [_hostile(rows)] if pick(rows, kind="call", what=HOSTILE) is not None else []
    text = f"load a session of {_size(LARGE)} and read one key, against decoding every value of it: time"
    return [Target(text, one["ns"] / whole["ns"], "at most", 0.1), *made]


def _hostile(rows: list[Row]) -> Target:
    per_byte = [
        row["ns"] / size
        for size in (USUAL, LARGE)
        if (row := pick(rows, kind="call", what=HOSTILE, size=size)) is not None
    ]
    text = f"{HOSTILE}: time per byte, {_size(LARGE)} against {_size(USUAL)}"
    return Target(text, per_byte[1] / per_byte[0], "at most", 1.5)

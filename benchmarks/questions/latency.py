"""How long a request takes at a given rate, until the layer can no longer keep up.

The traffic is the mix of "store cost" (60 % of the requests leave the session alone, 30 % read it, 10 %
write to it; 256 browsers). The p50 is therefore that of a request that leaves it alone (some layers load it
all the same), and the p99 that of a write. Of the bare apps all requests leave it alone. Each framework has
its own bare app and its own panel: a layer adds what it takes beyond the bare app.

Requests come at random times, at the same fixed rates and times for every layer, whether or not earlier ones
have been answered. The time of each counts from when it was *due*: a request that had to wait behind slow
ones is charged for the wait ("coordinated omission" is corrected for). The rate rises until a layer is
saturated: it answers less than 95 % of what is offered, half of the requests take more than 100 ms, or
requests fail in any round. A round ends early when 1,000 requests wait. That is fewer than a connection pool
may have connections, so a layer that cannot keep up is seen to be slow and does not fail for want of them.
Other figures are the medians of rounds in which the layers take turns.

The same is measured with 1 ms and 5 ms more of network delay to the store. That is round-trip time; a proxy
in a process of its own adds half of it each way. A table has what the proxy really adds. A signed cookie
asks no store, so its figures without a delay hold for every delay.

The app is called directly, on uvloop, in the process that also makes the requests. What making them takes is
the line "the scheduler alone", and is part of all others; where that line is high, the machine had something
else to do. A loop that waits for the next request does not sleep here but looks again at once, so the time
that a process takes to wake up does not show, for any layer. HTTP and the server do not show either (see
"end to end"). It is one process on one core; the store and the proxy have another. The highest percentiles
of rounds of this length are rough, and are left out where a round has less than 2,000 requests. With a
delay, connecting costs no round trip, which flatters layers that open connections under load.
"""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import Any, Final

from benchmarks.bench import Bench, Worker
from benchmarks.delay import DelayedServer
from benchmarks.layers import FRAMEWORKS, LAYERS, framework, layer
from benchmarks.open_loop import keep_rate
from benchmarks.plans import carry_out
from benchmarks.questions import store_cost
from benchmarks.report.style import lines, number
from benchmarks.results import Row, Table, Target, pick
from benchmarks.sessions import USUAL
from benchmarks.worker import Bed

TITLE: Final = "Latency"

COMPARED: Final = (
    "bare",
    "signed_cookie",
    "starsessions",
    "asgi_session_redis",
    "asgi_session_cluster",
    "fastapi_bare",
    "fastapi_redis_sdk",
    "asgi_session_fastapi",
    "litestar_bare",
    "litestar_sessions",
)
SCHEDULER: Final = "scheduler"
RATES: Final = (500, 2_000, 4_000, 8_000, 16_000, 32_000)
DELAYS: Final = (0, 1, 5)
"""ms of round-trip time."""
PERCENTILES: Final = ("p50", "p99", "p99.9")
_ENOUGH: Final = 2_000  # requests in a round, for a p99.9


def saturated(rate: int, figures: dict[str, Any]) -> bool:
    """Return whether a layer did not keep up with this rate."""
    return bool(figures["achieved"] < 0.95 * rate or figures["p50"] > 100 or figures["failed"])


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """Answer 200: the app to measure the scheduler with."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def prepare_nothing(bed: Bed, requests: int) -> None:
    """Make a plan ready that asks no app at all."""
    [browser, *_] = await bed.browsers(1, USUAL)
    bed.kept["plan"] = [(_nothing, browser, b"")] * requests


def measure(bench: Bench) -> list[Row]:
    """Measure all layers that are compared, with each delay."""
    known = [name for name in LAYERS if name in COMPARED]
    rows: list[Row] = []
    if bench.quick:
        return _with_delay(bench, ["starsessions", "asgi_session_redis"], 1, RATES[:2], 0.0)
    for at, delay in enumerate(DELAYS):
        stores = ("redis",) if delay else (None, "redis", "cluster")
        names = [name for name in known if layer(name).STORE in stores]
        rows += _with_delay(bench, names, delay, RATES, at / len(DELAYS))
    return rows


def _with_delay(bench: Bench, names: list[str], delay: int, rates: tuple[int, ...], part: float) -> list[Row]:
    rows: list[Row] = []
    with ExitStack() as stack:
        store_url = None
        if delay:
            server = stack.enter_context(DelayedServer(bench.server("redis").url, delay))
            store_url = server.url
            rows.append({"layer": "", "delay": delay, "added": server.added()})
        workers = stack.enter_context(bench.workers(*names, uvloop=True, store_url=store_url))
        for name, worker in workers.items():  # so that connections are there
            _prepare(name, worker, 640)
            worker.call(carry_out, concurrency=64)
        running = dict(workers)
        if "bare" in running:
            running[SCHEDULER] = running["bare"]
        for at, rate in enumerate(rates):
            where = part + at / len(rates) / (1 if bench.quick else len(DELAYS))
            bench.say(f"{rate:,} requests/s, {delay} ms to the store", where)
            for name, figures in _rounds(running, rate, bench.quick).items():
                rows.append({"layer": name, "delay": delay, "rate": rate, **figures})
                if rows[-1]["saturated"]:
                    del running[name]
    return rows


def _prepare(name: str, worker: Worker, requests: int) -> None:
    if name == SCHEDULER:
        worker.call(prepare_nothing, requests=requests)
    else:
        kind = "untouched" if name == layer(name).BARE else "mix"
        worker.call(store_cost.prepare, kind=kind, requests=requests)


def _rounds(workers: dict[str, Worker], rate: int, quick: bool) -> dict[str, dict[str, Any]]:
    """Return the figures of each layer at a rate: medians of rounds in which they take turns."""
    requests = rate * (4 if quick else 8) // 10
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for seed in range(2 if quick else 3):
        for name, worker in workers.items():
            _prepare(name, worker, requests)
            taken[name].append(worker.call(keep_rate, rate=rate, seed=seed))
    made: dict[str, dict[str, Any]] = {}
    for name, rounds in taken.items():
        figures: dict[str, Any] = {
            key: median(one[key] for one in rounds) for key in ("achieved", *PERCENTILES)
        }
        figures["failed"] = max(one["failed"] for one in rounds)
        if requests < _ENOUGH:
            del figures["p99.9"]
        error = next((one["error"] for one in rounds if one["error"]), "")
        made[name] = {**figures, "error": error, "saturated": saturated(rate, figures)}
    return made


def _title(name: str) -> str:
    return "the scheduler alone" if name == SCHEDULER else layer(name).TITLE


def _of_delay(rows: list[Row], delay: int) -> list[Row]:
    """Return the measurements that hold for a delay: without a store there is none to feel."""
    storeless = {SCHEDULER, *(name for name in LAYERS if layer(name).STORE is None)}
    return [
        row
        for row in rows
        if "rate" in row and (row["delay"] == delay or (row["layer"] in storeless and row["delay"] == 0))
    ]


def _delays(rows: list[Row]) -> list[int]:
    return sorted({row["delay"] for row in rows if "rate" in row})


def _to_the_store(delay: int) -> str:
    return f"{delay} ms of network delay to the store" if delay else "the store next door"


def tables(rows: list[Row]) -> list[Table]:
    """The percentiles by rate, a table each delay; what the proxy adds."""
    made = []
    for delay in _delays(rows):
        some = _of_delay(rows, delay)
        rates = sorted({row["rate"] for row in some})
        lines_of = []
        for name in (SCHEDULER, *LAYERS):
            found = [pick(some, layer=name, rate=rate) for rate in rates]
            if any(found):
                lines_of.append([_title(name), *("" if row is None else _cell(row) for row in found)])
        title = f"ms at p50 / p99 / p99.9, {_to_the_store(delay)}"
        made.append(Table(title, ["layer", *(f"{rate:,}/s" for rate in rates)], lines_of))
    added = [row for row in rows if "added" in row]
    if added:
        proxy = [[f"{row['delay']} ms", f"{row['added']:.2f} ms"] for row in added]
        made.append(Table("What the proxy really adds to a round trip", ["asked for", "measured"], proxy))
    return made


def _cell(row: Row) -> str:
    if row["saturated"]:
        return f"{row['failed']:.0%} fail" if row["failed"] else f"only {row['achieved']:,.0f}/s"
    return " / ".join(number(row[figure]) for figure in PERCENTILES if figure in row)


def plots(rows: list[Row]) -> dict[str, Any]:
    """The p99 by rate, a figure each delay and in it a panel each framework."""
    made = {}
    for delay in _delays(rows):
        panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
        drawn = [row for row in _of_delay(rows, delay) if not row["saturated"]]
        there = {framework(row["layer"]) for row in drawn if row["layer"] != SCHEDULER} or {"Starlette"}
        for row in drawn:
            # The scheduler is part of all the others.
            for panel in there if row["layer"] == SCHEDULER else {framework(row["layer"])}:
                series = panels.setdefault(panel, {}).setdefault(_title(row["layer"]), [])
                series.append((row["rate"], row["p99"]))
        if panels:
            made[f"latency-{delay}ms"] = lines(
                {name: panels[name] for name in FRAMEWORKS.values() if name in panels},
                title=f"99 % of requests take at most this long: {_to_the_store(delay)}",
                across="requests per second, one process",
                unit="ms from when a request was due",
                note="60 % untouched, 30 % read, 10 % write; a line ends at the last rate kept up with",
            )
    return made


def targets(rows: list[Row]) -> list[Target]:
    """There are none: how low a latency has to be is for a site to say."""
    return []

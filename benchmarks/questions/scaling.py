"""How the cost of a request changes as the store fills and as more requests come at a time.

First the number of sessions in the store grows from a thousand to a million, with 64 requests at a time,
each in a session picked at random from all of them. Then the number of requests at a time grows to 1,024,
with 10,000 sessions. Each layer has a server of its own, which is filled with records as the layer writes
them, without a request for each. Every answer to a read is checked to come from the right session, and a
write fails where there is none. CPU is the least of the rounds; that of the store is without what the server
spends idle.

Flat lines are good. The application does not notice how full the store is. The store may: in a large store
a random session is no longer in the processor's cache. The sentences below the plots say for which layer
that shows. Up to a point, more requests at a time make each of them cheaper, most of all for a layer that
sends them together; beyond that point they cost more again. "Fails" means that some requests did: redis-py's
pool refuses what exceeds its limit. The suite sets that limit higher than its default of 100 (see
`benchmarks.layers.CONNECTIONS`), and one could raise it further.

It does not show the other layers. What they would write is not known here without a request for each
session, and a million requests take longer than all the rest. asgi-session on FastAPI and on a cluster
stores what "asgi-session, redis" does. It does not show several processes, what a cluster spreads over its
nodes, or a store that evicts, swaps or persists. A million sessions take about 1 GB.
"""

from __future__ import annotations

import random
from typing import Any, Final

from benchmarks.bench import Bench, Worker
from benchmarks.client import Browser
from benchmarks.filling import FILLERS, fill, headers_of
from benchmarks.layers import LAYERS, layer, like_for_like
from benchmarks.plans import Plan, carry_out
from benchmarks.report.style import lines, number, times
from benchmarks.results import Row, Table, Target, pick
from benchmarks.sessions import USUAL
from benchmarks.store_meter import StoreMeter, wait_for_growth
from benchmarks.worker import Bed
from tests.servers import start_valkey

TITLE: Final = "Scaling"

SESSIONS: Final = (1_000, 10_000, 100_000, 1_000_000)
CONCURRENCIES: Final = (1, 4, 16, 64, 256, 1024)
BASE_SESSIONS: Final = 10_000
BASE_CONCURRENCY: Final = 64
ACTIONS: Final = ("read", "write")
FIGURES: Final = {"cpu": "app CPU µs per request", "store_cpu": "store CPU µs per request"}
_CHUNK: Final = 100_000


def cases(quick: bool) -> list[tuple[int, tuple[int, ...]]]:
    """Return (number of sessions, concurrencies) of each stage; the sessions only become more."""
    if quick:
        return [(1_000, (64,)), (BASE_SESSIONS, (8, 64))]
    usual = (BASE_CONCURRENCY,)
    return [(count, CONCURRENCIES if count == BASE_SESSIONS else usual) for count in SESSIONS]


async def prepare(bed: Bed, name: str, action: str, sessions: int, requests: int, seed: int) -> None:
    """Make a plan ready: a browser of its own for each request, in a random one of the sessions."""
    app = await bed.app(action)
    chance = random.Random(seed)
    numbers = [chance.randrange(sessions) for _ in range(requests)]
    plan: Plan = []
    for headers in await headers_of(bed, name, numbers):
        browser = Browser()
        browser.headers = headers
        plan.append((app, browser, b""))
    bed.kept["plan"] = plan
    bed.kept["answers"] = [str(number) if action == "read" else "ok" for number in numbers]


async def wrong(bed: Bed) -> int:
    """Return how many of the plan's requests did not find the session that they were for."""
    answers = zip(bed.kept["plan"], bed.kept["answers"], strict=True)
    return sum(browser.body != answer.encode() for (_, browser, _), answer in answers)


def measure(bench: Bench) -> list[Row]:
    """Measure the layers whose store can be filled quickly."""
    names = [name for name in LAYERS if name in FILLERS]
    rows: list[Row] = []
    for at, name in enumerate(names):
        server = start_valkey()
        try:
            with bench.workers(name, store_url=server.url) as workers:
                for stage, (sessions, concurrencies) in enumerate(todo := cases(bench.quick)):
                    part = (at + stage / len(todo)) / len(names)
                    present = todo[stage - 1][0] if stage else 0
                    _fill(bench, server, workers[name], present, sessions, part)
                    rows += _stage(bench, StoreMeter(server), workers[name], sessions, concurrencies, part)
        finally:
            server.stop()
    return rows


def _fill(bench: Bench, server: Any, worker: Worker, present: int, sessions: int, part: float) -> None:
    for first in range(present, sessions, _CHUNK):
        bench.say(f"{worker.name}: filling the store, {first:,} of {sessions:,} sessions", part)
        worker.call(fill, name=worker.name, first=first, end=min(first + _CHUNK, sessions))
    wait_for_growth(server)


def _stage(
    bench: Bench,
    meter: StoreMeter,
    worker: Worker,
    sessions: int,
    concurrencies: tuple[int, ...],
    part: float,
) -> list[Row]:
    """Measure with this many sessions in the store; the actions take turns."""
    rows = []
    meter.calibrate(0.1 if bench.quick else 1.0)
    for concurrency in concurrencies:
        bench.say(f"{worker.name}: {sessions:,} sessions, {concurrency} at a time", part)
        requests = 800 if bench.quick else max(4000 if concurrency >= 64 else 2000, 8 * concurrency)
        taken: dict[str, list[dict[str, float]]] = {action: [] for action in ACTIONS}
        for seed in range(3 if bench.quick else 6):
            for action in ACTIONS:
                plan = {"action": action, "sessions": sessions, "requests": requests, "seed": seed}
                taken[action].append(_round(meter, worker, concurrency, plan))
        for action, [_, *rounds] in taken.items():  # in the first it connected
            rows.append(
                {
                    "layer": worker.name,
                    "action": action,
                    "sessions": sessions,
                    "concurrency": concurrency,
                    "cpu": min(one["cpu"] for one in rounds),
                    "store_cpu": min(one["store_cpu"] for one in rounds),
                    "failed": max(one["failed"] for one in rounds),
                }
            )
    return rows


def _round(meter: StoreMeter, worker: Worker, concurrency: int, plan: dict[str, Any]) -> dict[str, float]:
    worker.call(prepare, name=worker.name, **plan)
    before = meter.read()
    answer = worker.call(carry_out, concurrency=concurrency)
    spent = meter.since(before)
    if not answer["failed"] and worker.call(wrong):
        raise RuntimeError(f"{worker.name} did not find what the store was filled with")
    store_cpu = spent.cpu / plan["requests"] * 1e6
    return {"cpu": answer["cpu"], "store_cpu": store_cpu, "failed": answer["failed"]}


def _views(rows: list[Row]) -> list[tuple[str, str, list[Row]]]:
    """Return (what is varied, in words, the rows) of both halves of the question."""
    return [
        ("sessions", "sessions in the store", [r for r in rows if r["concurrency"] == BASE_CONCURRENCY]),
        ("concurrency", "requests at a time", [r for r in rows if r["sessions"] == BASE_SESSIONS]),
    ]


def tables(rows: list[Row]) -> list[Table]:
    """A table for each figure and what is varied."""
    made = []
    for varied, words, some in _views(rows):
        values = sorted({row[varied] for row in some})
        for figure, unit in FIGURES.items():
            table_rows = []
            for name, action in _lines(some):
                found = [pick(some, layer=name, action=action, **{varied: value}) for value in values]
                cells = ["" if row is None else _cell(row, figure) for row in found]
                table_rows.append([f"{layer(name).TITLE}, {action}", *cells])
            if len(values) > 1:
                columns = ["layer", *(f"{value:,}" for value in values)]
                made.append(Table(f"By {words}: {unit}", columns, table_rows))
    return made


def _lines(rows: list[Row]) -> list[tuple[str, str]]:
    return [(name, act) for name in LAYERS for act in ACTIONS if pick(rows, layer=name, action=act)]


def _cell(row: Row, figure: str) -> str:
    return "fails" if row["failed"] else number(row[figure])


def plots(rows: list[Row]) -> dict[str, Any]:
    """Lines over the number of sessions, and over the requests at a time."""
    drawn = {}
    for varied, words, some in _views(rows):
        panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for figure, unit in FIGURES.items():
            for action in ACTIONS:
                panel = panels.setdefault(f"{action}: {unit}", {})
                for row in some:
                    if row["action"] == action and not row["failed"]:
                        panel.setdefault(layer(row["layer"]).TITLE, []).append((row[varied], row[figure]))
        if len({row[varied] for row in some}) > 1:
            drawn[f"scaling-{varied}"] = lines(
                panels,
                title=f"Cost of a request by {words}",
                across=words,
                unit="CPU µs per request",
                note=_note(varied),
                log="x",
                share="row",
            )
    return drawn


def findings(rows: list[Row]) -> list[str]:
    """What a fuller store costs the store, and what one request at a time does."""
    found = []
    for action in ACTIONS:
        changes = []
        for name in LAYERS:
            case = {"layer": name, "action": action, "concurrency": BASE_CONCURRENCY, "failed": 0.0}
            few, many = (pick(rows, sessions=count, **case) for count in (SESSIONS[0], SESSIONS[-1]))
            if few is not None and many is not None:
                changes.append(f"{layer(name).TITLE} {rise(few['store_cpu'], many['store_cpu'])}")
        if changes:
            text = (
                f"From {SESSIONS[0]:,} to {SESSIONS[-1]:,} sessions, the store's CPU for a {action} changes: "
            )
            found.append(f"{text}{'; '.join(changes)}.")
    for action in ACTIONS:
        case = {"action": action, "sessions": BASE_SESSIONS, "concurrency": 1}
        mine, theirs = "asgi_session_redis", "starsessions"
        like_for_like(mine, theirs)
        one, other = pick(rows, layer=mine, **case), pick(rows, layer=theirs, **case)
        if one is not None and other is not None:
            how = times(one["store_cpu"], other["store_cpu"], "as much as", "less than")
            found.append(
                f"One request at a time, a {action} of {layer(mine).TITLE} costs the store "
                f"{number(one['store_cpu'])} µs, {how} one of {layer(theirs).TITLE} "
                f"({number(other['store_cpu'])} µs)."
            )
    return found


def rise(before: float, after: float) -> str:
    """Return how a figure of µs has changed, in words."""
    return f"from {number(before)} to {number(after)} µs ({(after / before - 1) * 100:+.0f} %)"


def _note(varied: str) -> str:
    about = f"sessions of about {USUAL} B, each request in a random one"
    if varied == "sessions":
        return f"{BASE_CONCURRENCY} requests at a time; {about}"
    return f"{BASE_SESSIONS:,} sessions; {about}; a line ends where requests failed"


def targets(rows: list[Row]) -> list[Target]:
    """That the application does not notice how full the store is."""
    found = []
    for action in ACTIONS:
        case = {"layer": "asgi_session_redis", "action": action, "concurrency": BASE_CONCURRENCY}
        few, many = (pick(rows, sessions=sessions, **case) for sessions in (SESSIONS[0], SESSIONS[-1]))
        if few is not None and many is not None and not (few["failed"] or many["failed"]):
            text = f"{action} over Redis with {SESSIONS[-1]:,} sessions, against {SESSIONS[0]:,}: app CPU"
            found.append(Target(text, many["cpu"] / few["cpu"], "at most", 1.15))
    return found

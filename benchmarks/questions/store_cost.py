"""What a request costs the store: CPU time, commands and bytes, and how many requests one core carries.

The store is what all application servers share, so it is what cannot be multiplied as they can. The
*mix* is a site's traffic: 60 % of the requests leave the session alone, 30 % read it, 10 % write to
it, each in one of 256 browsers picked at random; the order is the same for every layer. From it
follows how many such requests per second one core of the store could carry: one second divided by the
CPU time of one request. CPU time and bytes are the server's own count (INFO) over some thousand
requests, what it spends idle and on being asked subtracted; each figure is the least of the rounds, in
which the layers take turns: other work on a machine only ever adds to them. Commands are those that a
client sent, counted with MONITOR in a round of their own: what a script calls is in the CPU time, and
is no command here.

The requests per second are computed, not measured: a server at its limit finds more commands in each
read and works cheaper. No figure includes the renewal of a session that is only read ("touch", sliding
expiry): asgi-session renews at most once per 5 % of the idle timeout, some 17 hours here. A layer that
renews in every request pays for that in every request, here as on a site.

What a command costs depends on how many requests of one process are under way, since a layer that sends
them together saves the store system calls: see the table by concurrency. With one request at a time
nothing can be sent together, and what each command costs by itself shows: "scaling" has the figures for
single reads and writes. A save of asgi-session compares before it writes, so that nothing is
overwritten; a layer that only overwrites has less to do.

A save by itself, as `RedisStore` sends it, stands beside a plain ``SET`` of the same bytes with the same
expiry: what is compared and promised costs the store that much more. Both are sent 64 at a time over one
connection each, all that are ready in one write.

It does not show a full store (see "scaling"). Of the cluster the three primaries are counted together,
which have one core between them here. Its replicas, which repeat each write, are not counted.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from itertools import count
from typing import Any, Final

from benchmarks.bench import Bench, Worker
from benchmarks.client import Browser
from benchmarks.layers import LAYERS, framework, layer, like_for_like
from benchmarks.plans import Plan, carry_out, follow
from benchmarks.report.style import bars, number
from benchmarks.results import Row, Table, Target, pick
from benchmarks.saves import AT_A_TIME, VIAS, prepare_saves, save_all
from benchmarks.sessions import USUAL
from benchmarks.store_meter import StoreMeter
from benchmarks.worker import Bed

TITLE: Final = "Store cost per request"

MIX: Final = {"untouched": 60, "read": 30, "write": 10}
"""Percent of the requests."""
KINDS: Final = ("untouched", "read", "write", "new", "destroy")
BROWSERS: Final = 256
HANDSHAKE: Final = ("hello", "auth", "client", "select")
"""Commands with which a connection begins; a pool may open one at any time."""
FIGURES: Final = {
    "cpu": "store CPU µs per request",
    "commands": "commands per request",
    "bytes_in": "bytes to the store per request",
    "bytes_out": "bytes from the store per request",
}


def sequence(kind: str, requests: int) -> list[tuple[str, int]]:
    """Return (action, number of the browser) of each request: always the same ones.

    The mix is exact if `requests` is a multiple of 10.
    """
    shares = MIX if kind == "mix" else {kind: 100}
    actions = [action for action, share in shares.items() for _ in range(requests * share // 100)]
    chance = random.Random(20)
    chance.shuffle(actions)
    return [(action, chance.randrange(BROWSERS)) for action in actions]


async def prepare(bed: Bed, kind: str, requests: int) -> None:
    """Make a plan ready, and the sessions that it needs."""
    plan: Plan
    if kind in ("new", "destroy"):
        new = await bed.app("new")
        # One user each, in all rounds: some layers keep an index of a user's sessions.
        users = bed.kept.setdefault("users", count(1_000_000))
        plan = [(new, Browser(), b"size=%d&user=%d" % (USUAL, next(users))) for _ in range(requests)]
        if kind == "destroy":
            await follow(plan, 64)
            read, destroy = await bed.app("read"), await bed.app("destroy")
            await follow([(read, browser, b"") for _, browser, _ in plan], 64)
            plan = [(destroy, browser, b"") for _, browser, _ in plan]
    else:
        browsers = await bed.browsers(BROWSERS, USUAL)
        plan = [(await bed.app(action), browsers[at], b"") for action, at in sequence(kind, requests)]
    bed.kept["plan"] = plan


def cases(quick: bool) -> list[tuple[str, int, int, int]]:
    """Return (kind of request, concurrent requests, requests in a round, rounds) of each case."""
    if quick:
        return [("mix", 64, 1000, 3), ("read", 64, 200, 1), ("destroy", 64, 200, 1)]
    mixes = [("mix", 64, 6000, 9), ("mix", 8, 6000, 5), ("mix", 1, 3000, 3)]
    return [*mixes, *((kind, 64, 2000, 5) for kind in KINDS)]


def measure(bench: Bench) -> list[Row]:
    """Measure all layers that have a store."""
    stores = {name: store for name in LAYERS if (store := layer(name).STORE)}
    if bench.quick:
        stores = {name: store for name, store in stores.items() if store != "cluster"}
    servers = {store: bench.server(store) for store in dict.fromkeys(stores.values())}
    meters = {kind: StoreMeter(server) for kind, server in servers.items()}
    rows: list[Row] = []
    with bench.workers(*stores) as workers:
        todo = cases(bench.quick)
        for at, (kind, concurrency, requests, rounds) in enumerate(todo):
            bench.say(f"{kind}, {concurrency} at a time", at / len(todo))
            commands = {
                name: _commands(servers[stores[name]], worker, kind, concurrency, requests)
                for name, worker in workers.items()
            }
            for meter in meters.values():
                meter.calibrate(0.1 if bench.quick else 1.0)
            taken: dict[str, list[dict[str, float]]] = {name: [] for name in stores}
            for _ in range(rounds):
                for name, worker in workers.items():
                    meter = meters[stores[name]]
                    taken[name].append(_round(meter, worker, kind, concurrency, requests))
            for name, figures in taken.items():
                least = {key: min(one[key] for one in figures) for key in figures[0]}
                case = {"layer": name, "kind": kind, "concurrency": concurrency}
                rows.append({**case, **least, "commands": commands[name]})
        rows += _saves(bench, meters["redis"], workers["asgi_session_redis"])
    for server in servers.values():
        server.flush()
    return rows


def _round(meter: StoreMeter, worker: Worker, kind: str, concurrency: int, requests: int) -> dict[str, float]:
    """Return what one request of a round has cost the store."""
    worker.call(prepare, kind=kind, requests=requests)
    before = meter.read()
    _carry_out(worker, concurrency)
    spent = meter.since(before)
    return {
        "cpu": spent.cpu / requests * 1e6,
        "bytes_in": spent.bytes_in / requests,
        "bytes_out": spent.bytes_out / requests,
    }


def _saves(bench: Bench, meter: StoreMeter, worker: Worker) -> list[Row]:
    """Return what one save has cost the store, and one plain SET: rows with a "via" and no layer."""
    bench.say("saves alone", 0.97)
    each, rounds = (10, 3) if bench.quick else (100, 9)
    for via in VIAS:
        worker.call(prepare_saves, via=via)
        worker.call(save_all, via=via, each=3)
    meter.calibrate(0.1 if bench.quick else 1.0)
    least: dict[str, Row] = {}
    for _ in range(rounds):
        for via in VIAS:
            before = meter.read()
            saved = worker.call(save_all, via=via, each=each)
            spent = meter.since(before)
            figures = {
                "cpu": spent.cpu / saved * 1e6,
                "bytes_in": spent.bytes_in / saved,
                "bytes_out": spent.bytes_out / saved,
            }
            row = least.setdefault(via, {"via": via, **figures})
            row.update({name: min(row[name], figure) for name, figure in figures.items()})
    return list(least.values())


def _commands(server: Any, worker: Worker, kind: str, concurrency: int, requests: int) -> float:
    """Return the client commands of a request; the connections are there after this, too."""
    requests = min(requests, 500)
    for _ in range(2):  # first to connect as often as the layer needs for so many at a time
        worker.call(prepare, kind=kind, requests=requests)
        with ExitStack() as stack:
            nodes = getattr(server, "primaries", [server])
            seen = [stack.enter_context(node.monitor()) for node in nodes]
            _carry_out(worker, concurrency)
    sent = [command for commands in seen for command in commands if command.source != "lua"]
    return sum(command.name not in HANDSHAKE for command in sent) / requests


def _carry_out(worker: Worker, concurrency: int) -> None:
    answer = worker.call(carry_out, concurrency=concurrency)
    if answer["failed"]:
        raise RuntimeError(f"requests of {worker.name} failed: {answer['error']}")


def tables(rows: list[Row]) -> list[Table]:
    """The mix; each kind of request alone; the mix by concurrency."""
    layers = [name for name in LAYERS if pick(rows, layer=name)]
    mixes = [(name, row) for name in layers if (row := pick(rows, layer=name, kind="mix", concurrency=64))]
    made = [
        Table(
            "The mix, 64 at a time: cost of a request to the store",
            [
                "layer",
                "CPU µs",
                "commands",
                "bytes in",
                "bytes out",
                "requests/s one core carries (computed)",
            ],
            [
                [layer(name).TITLE, *(number(row[figure]) for figure in FIGURES), number(carried(row))]
                for name, row in mixes
            ],
        )
    ]
    for figure, unit in FIGURES.items():
        made.append(_table(f"Kinds of requests, 64 at a time: {unit}", rows, figure, "kind", concurrency=64))
    by_concurrency = _table(
        "The mix, by concurrency: store CPU µs per request", rows, "cpu", "concurrency", kind="mix"
    )
    figures = ("cpu", "bytes_in", "bytes_out")
    saves = Table(
        f"Saves alone, {AT_A_TIME} at a time, records of {USUAL} B: cost to the store",
        ["what is sent", "CPU µs", "bytes in", "bytes out"],
        [
            [title, *(number(row[figure]) for figure in figures)]
            for via, title in VIAS.items()
            if (row := pick(rows, via=via)) is not None
        ],
    )
    return [table for table in (*made, by_concurrency, saves) if table.rows and len(table.columns) > 2]


def _table(title: str, rows: list[Row], figure: str, varied: str, **wanted: Any) -> Table:
    """Return a line a layer and a column a value of what is `varied`."""
    values = sorted({row[varied] for row in rows if wanted.items() <= row.items()} - {"mix"}, key=_place)
    lines = []
    for name in LAYERS:
        found = [pick(rows, layer=name, **wanted, **{varied: value}) for value in values]
        if any(found):
            cells = ["" if row is None else number(max(row[figure], 0.0)) for row in found]
            lines.append([layer(name).TITLE, *cells])
    return Table(title, ["layer", *map(str, values)], lines)


def _place(value: Any) -> int:
    return KINDS.index(value) if value in KINDS else value


def carried(row: Row) -> float:
    """Return how many such requests per second one core of the store can carry."""
    return float(1e6 / row["cpu"]) if row["cpu"] > 0 else float("inf")


def plots(rows: list[Row]) -> dict[str, Any]:
    """CPU of the mix and of each kind; requests per second that a core carries."""
    usual = [row for row in rows if row.get("concurrency") == 64]
    groups = {
        kind: {layer(row["layer"]).TITLE: max(row["cpu"], 0.0) for row in usual if row["kind"] == kind}
        for kind in ("mix", *KINDS)
        if pick(usual, kind=kind)
    }
    shares = "mix: " + ", ".join(f"{share}\u00a0% {kind}" for kind, share in MIX.items())
    capacity = {"": {layer(row["layer"]).TITLE: carried(row) for row in usual if row["kind"] == "mix"}}
    return {
        "store-cost": bars(
            groups,
            title="What a request costs the store",
            unit="store CPU µs per request",
            note=f"{shares}; 64 requests at a time, sessions of about {USUAL} B",
            share=True,
        ),
        "store-capacity": bars(
            capacity,
            title="Computed: what one core of the store can carry",
            unit="requests per second (computed)",
            note=f"One second divided by the CPU time of one request of the {shares}. Not a load test.",
        ),
    }


def targets(rows: list[Row]) -> list[Target]:
    """Store CPU of the mix, against the others on Redis; of a save, against a plain SET."""
    found = []
    for mine, theirs, most in (
        ("asgi_session_redis", "starsessions", 0.143),
        ("asgi_session_fastapi", "fastapi_redis_sdk", 0.075),
    ):
        _, other_layer = like_for_like(mine, theirs)
        one, other = (pick(rows, layer=name, kind="mix", concurrency=64) for name in (mine, theirs))
        if one is not None and other is not None:
            on = f" on {framework(mine)}" if framework(mine) != "Starlette" else ""
            text = f"60/30/10 mix over Redis{on}, 64 at a time, against {other_layer.TITLE}: store CPU"
            found.append(Target(text, one["cpu"] / other["cpu"], "at most", most))
    save, plain = pick(rows, via="store"), pick(rows, via="plain")
    if save is not None and plain is not None:
        text = f"a save, {AT_A_TIME} at a time, against a plain SET of the same {USUAL} B: store CPU"
        found.append(Target(text, save["cpu"] / plain["cpu"], "at most", 1.7))
    return found

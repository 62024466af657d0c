"""End to end: requests per second over HTTP through uvicorn, with one and two worker processes.

uvicorn serves each layer's app as ``uvicorn[standard]`` does, on uvloop and httptools. k9, a load generator
written in Rust, sends the requests over loopback: 64 connections, each with a session of its own of 700 B,
all doing the same. Two workers are two such servers with half of the connections each, as behind a load
balancer that is fair. The layers take turns, and the best round counts. CPU is the user and system time of
the server processes. The line "a constant answer" is a server that sends the same bytes to whatever it is
asked, without an app: the most that generator and loopback carry. As long as a layer stays far below it,
the generator is not the limit.

A connection waits for its answer before it asks again, so this is a test of throughput. Its p50 and p99 are
those of a server kept full (64 divided by the rate, more or less), and they suffer from "coordinated
omission"; for a given rate see "latency". The apps only use their session: the more a real app does, the
less its session layer counts. One worker has a core of its own; generator and store share another. Two
workers have two cores if there are more than two. If there are not, the workers share both cores with the
generator and the store, and their requests per second say what is left, not what two cores carry. TLS is
not included: the requests say, as a proxy in front would, that TLS was used. The memory store lives in one
process, so it is not measured with two.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.layers import LAYERS, layer
from benchmarks.load import generate
from benchmarks.report.style import bars, number
from benchmarks.results import Row, Table, Target, pick
from benchmarks.served import CONSTANT, Served
from benchmarks.sessions import USUAL

TITLE: Final = "End to end"

ACTIONS: Final = ("untouched", "read", "write")
CONNECTIONS: Final = 64
FIGURES: Final = {"rate": "requests per second", "cpu": "server CPU µs per request"}


def measure(bench: Bench) -> list[Row]:
    """Measure all layers, with one worker and with two."""
    names: list[str] = [CONSTANT, *LAYERS]
    if bench.quick:
        names = [CONSTANT, "signed_cookie", "asgi_session_redis"]
    rows: list[Row] = []
    for count in (1,) if bench.quick else (1, 2):
        some = [name for name in names if count == 1 or name != "asgi_session_memory"]
        rows += _with_workers(bench, some, count, 0.0 if count == 1 else 0.5)
    return rows


def places(cores: Sequence[int], workers: int) -> tuple[set[int] | None, list[set[int] | None]]:
    """Return the cores of the generator, and of each worker; the store has the first core.

    None where there is nothing to choose, and no pinning.
    """
    if len(cores) < 2:
        return None, [None] * workers
    if workers >= len(cores):
        return set(cores), [set(cores)] * workers
    generator = cores[workers + 1] if len(cores) > workers + 1 else cores[0]
    return {generator}, [{core} for core in cores[1 : workers + 1]]


def _with_workers(bench: Bench, names: list[str], count: int, part: float) -> list[Row]:
    generator, workers = places(bench.cores, count)
    best: dict[tuple[str, str], Row] = {}
    rounds, seconds = (1, 0.7) if bench.quick else (4, 1.0)
    with ExitStack() as stack:
        bench.say(f"starting {len(names)} apps on {count} uvicorn each", part)
        served: dict[str, list[Served]] = {}
        for name in names:
            url = "" if name == CONSTANT else bench.store_url(name)
            for at in workers:
                server = Served(name, url, at)
                stack.push(server)  # to be ended whatever happens to the others
                served.setdefault(name, []).append(server)
        for server in (one for each in served.values() for one in each):
            server.wait()
        clients = {name: _clients(name, each) for name, each in served.items()}
        cases = [(action, at) for action in ACTIONS for at in range(rounds)]
        for place, (action, at) in enumerate(cases):
            bench.say(f"{action}, {count} uvicorn", part + place / len(cases) / (1 if bench.quick else 2))
            for name, servers in served.items():
                if action != "untouched" and _has_no_session(name):
                    continue
                if at == 0:
                    generate(clients[name], action, 0.2, generator)  # to be warm
                figures = _round(servers, clients[name], action, seconds, generator)
                row: Row = {"layer": name, "action": action, "workers": count, **figures}
                other = best.setdefault((name, action), row)
                if row["rate"] > other["rate"]:
                    best[name, action] = row
    return list(best.values())


def _has_no_session(name: str) -> bool:
    return name == CONSTANT or name == layer(name).BARE


def _clients(name: str, servers: list[Served]) -> list[tuple[int, str]]:
    """Return the port and the cookie of each connection: the workers have the same number."""
    made = []
    for at in range(CONNECTIONS):
        server = servers[at % len(servers)]
        made.append((server.port, "" if _has_no_session(name) else server.cookie(USUAL)))
    return made


def _round(
    servers: list[Served],
    clients: list[tuple[int, str]],
    action: str,
    seconds: float,
    generator: set[int] | None,
) -> dict[str, float]:
    before = [server.cpu() for server in servers]
    figures = generate(clients, action, seconds, generator)
    spent = [server.cpu() - earlier for server, earlier in zip(servers, before, strict=True)]
    if min(spent) < 0.1 * sum(spent) / len(spent):
        raise RuntimeError(f"a worker of {servers[0].name} had nothing to do: {spent} s of CPU")
    requests = figures.pop("requests")
    return {"cpu": sum(spent) / requests * 1e6, **figures}


def _title(name: str) -> str:
    return "a constant answer" if name == CONSTANT else layer(name).TITLE


def tables(rows: list[Row]) -> list[Table]:
    """A table for each number of workers and figure."""
    made = []
    for count in sorted({row["workers"] for row in rows}):
        actions = [action for action in ACTIONS if pick(rows, workers=count, action=action)]
        for figures, unit in ((("rate",), "requests/s"), (("cpu",), FIGURES["cpu"]), (("p50", "p99"), "ms")):
            lines = []
            for name in (CONSTANT, *LAYERS):
                found = [pick(rows, layer=name, workers=count, action=action) for action in actions]
                if any(found):
                    cells = ["" if row is None else _cell(row, figures) for row in found]
                    lines.append([_title(name), *cells])
            what = "p50 / p99 at full load, ms" if len(figures) > 1 else unit
            made.append(Table(f"{_workers(count)}: {what}", ["layer", *actions], lines))
    return made


def _cell(row: Row, figures: tuple[str, ...]) -> str:
    return " / ".join(number(row[figure]) for figure in figures)


def _workers(count: int) -> str:
    return "One worker" if count == 1 else f"{count} workers"


def plots(rows: list[Row]) -> dict[str, Any]:
    """Requests per second by number of workers and kind of request; CPU with one worker."""
    made = {}
    for figure, name, title in (
        ("rate", "end-to-end-rate", "What uvicorn carries over HTTP"),
        ("cpu", "end-to-end-cpu", "What a request costs the server, HTTP and all"),
    ):
        groups: dict[str, dict[str, float]] = {}
        for row in sorted(rows, key=lambda row: (row["workers"], ACTIONS.index(row["action"]))):
            if row["layer"] != CONSTANT and (figure == "rate" or row["workers"] == 1):
                group = groups.setdefault(f"{row['action']}, {_workers(row['workers']).lower()}", {})
                group[_title(row["layer"])] = row[figure]
        made[name] = bars(groups, title=title, unit=FIGURES[figure], note=_note(rows), share=True)
    return made


def _note(rows: list[Row]) -> str:
    note = f"{CONNECTIONS} connections, sessions of about {USUAL} B"
    ceiling = pick(rows, layer=CONSTANT, workers=1)
    if ceiling is not None:
        note += f"; a constant answer without an app: {ceiling['rate']:,.0f} requests/s with one worker"
    return note


def targets(rows: list[Row]) -> list[Target]:
    """There are none: the server's share is the same for all layers, and not ours to promise."""
    return []

"""Locks: how fast one is handed on, what it costs, who gets it, and whether it holds.

Several *waiters*, in one process or spread evenly over four (two of them over two), want one lock again
and again, each for the same read-modify-write: read a count, wait 1 ms, as for a small query to a
database, write the count plus 1, release. Then the waiter pauses for 2 to 6 ms at random, which is a
network there and back, and asks again. All run on one core, the store on another.

*asgi-session* is ``session.lock`` on a session that is loaded anew for each operation, as in a request;
what that load costs is counted, too. "Session kept" has one `Session` object per waiter, as a WebSocket
has. The others have a GET and a SET of a record of the same size (some 700 B) under their lock:
redis-py's asyncio `Lock(timeout=30, blocking_timeout=60)` at its default, a try every 100 ms, and with
``sleep=0.01``; and what one writes by hand, ``SET NX PX`` every 10 ms and a Lua script that deletes the
key if it is one's own. redis-py's pool may open 1,200 connections: with its default of 100, 500 waiters
fail instead of waiting. Their record is a number and filling, nearly free to read and to write, while
our session is decoded and encoded.

**Hand-over** is the time from the instant at which a holder leaves its block, while others wait, until
one of those that were waiting then is inside. For ours the save that commits and releases is in it; the
others begin to release when their SET has been answered, so that is not. Where a latecomer takes the
lock first, as happens with locks that are polled, those who waited before go on waiting, and that counts.
**Unused** is the time until anyone at all is inside: a lock that goes to and fro between latecomers is
seldom unused, and yet is not handed over. Percentiles are in ms; p99 is left out where there were fewer
than 100. **Fairness**: Jain's index of what each waiter got, as a share of the highest that so many
grants allow; and the share of the grants that passed over somebody who had asked before, among all and
among the waiters of one process. With ours, processes take turns of up to four grants, so that across
processes the order is not that of asking, on purpose; within a process it should be.

**Commands** are those that clients sent, counted with MONITOR in a stretch of their own, in which nothing
else is measured; what scripts call is counted beside them. The target is on the worst case. With ours that
is few waiters in as many processes, where every lock goes to another process, and saves meet conflicts and
are sent again; with more waiters a process is granted several in a row. The store's CPU is its own count
(INFO) less what it spends idle; clients' CPU that of all processes together, pauses and the 1 ms wait
included. Both are divided by the locks obtained. **Uncontended** operations, on sessions or records of
their own, have no pause and no wait; the lockers alternate in one process, and the least of the rounds
counts.

At the end each record's count is compared with the operations that ended well (*lost*), and the instants
of all processes, on one clock, are searched for two inside at once.

It does not show a lock whose holder dies (then redis-py's is stuck for its 30 s, ours for at most 2 s
unless it had been renewed), nor holds longer than a lease. Where all processes share a core, polling looks
worse than with a core for each, as soon as the clients are at their limit: with 500 waiters those that
poll every 10 ms are, they get the lock a few times a second, and their figures there are rough. How long a
hand-over takes with polling depends on how soon latecomers come: for 50 waiters in four processes there
are figures without any pause, too, and "unused" is what remains if latecomers may pass.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from benchmarks import contend
from benchmarks.bench import Bench, Worker
from benchmarks.grants import NEVER, Grant, fairness, hand_overs, in_order, order, overlaps, unused
from benchmarks.lockers import LOCKERS
from benchmarks.open_loop import percentile
from benchmarks.questions.store_cost import HANDSHAKE
from benchmarks.report.style import bars, lines, number
from benchmarks.results import Row, Table, Target, pick
from benchmarks.store_meter import StoreMeter

TITLE: Final = "Locks"

WAITERS: Final = (2, 10, 50, 500)
PROCESSES: Final = 4
HOLD: Final = 0.001
PAUSE: Final = 0.004
TARGET: Final = {"waiters": 50, "processes": 4}
ENOUGH: Final = 100  # hand-overs, for a p99
_HOST: Final = "asgi_session_redis"  # the process's; all lockers are in it

FIGURES: Final = {
    "p50": "hand-over, p50, ms",
    "p99": "hand-over, p99, ms",
    "unused": "unused while somebody waits, p50, ms",
    "longest": "the longest wait, ms",
    "rate": "locks per second",
    "commands": "store commands per lock",
    "script_calls": "calls by scripts per lock",
    "store_cpu": "store CPU µs per lock",
    "client_cpu": "clients' CPU µs per lock",
    "fairness": "fairness (Jain), of 1",
    "overtaking": "grants that passed over somebody who had asked before",
    "overtaking_within": "grants that passed over somebody of the same process",
}


class Case(NamedTuple):
    """Who wants the lock, and for how long that is watched.

    Attributes:
        locker: how it is locked.
        waiters: in all processes together.
        processes: over which they are spread.
        pause: mean seconds before a waiter asks again.
        stretches: seconds: until it counts, measured, and with MONITOR.
    """

    locker: str
    waiters: int
    processes: int
    pause: float
    stretches: tuple[float, float, float]


def cases(quick: bool) -> list[Case]:
    """Return what is measured; the lockers of a case one after the other."""
    lockers = list(LOCKERS)
    if quick:
        found = [(2, 1, PAUSE), (10, 2, PAUSE)]
        return [Case(locker, *one, (0.05, 0.15, 0.1)) for one in found for locker in lockers]
    places = [(waiters, processes) for waiters in WAITERS for processes in (1, PROCESSES)]
    places.append((PROCESSES, PROCESSES))
    every = []
    for waiters, processes in sorted(places):
        stretches = (0.4 if waiters < 500 else 1.0, 1.8, 1.0)
        every += [Case(locker, waiters, processes, PAUSE, stretches) for locker in lockers]
    every += [Case(locker, **TARGET, pause=0.0, stretches=(0.4, 1.8, 1.0)) for locker in lockers]
    return every


def shares(waiters: int, processes: int) -> list[int]:
    """Return how many waiters each process has; those without any are left out."""
    each, more = divmod(waiters, processes)
    return [count for at in range(processes) if (count := each + (at < more))]


def measure(bench: Bench) -> list[Row]:
    """Measure all lockers, contended and not; rows have a `kind` each."""
    server = bench.server()
    meter = StoreMeter(server)
    rows: list[Row] = []
    with ExitStack() as stack:
        todo = cases(bench.quick)
        most = max(case.processes for case in todo)
        workers = [stack.enter_context(bench.workers(_HOST))[_HOST] for _ in range(most)]
        bench.say("uncontended", 0.0)
        rows += _uncontended(bench, workers[0])
        meter.calibrate(0.1 if bench.quick else 1.0)
        for at, case in enumerate(todo):
            title = LOCKERS[case.locker][0]
            bench.say(f"{title}, {case.waiters} waiters in {case.processes}", 0.1 + 0.9 * at / len(todo))
            rows.append({"kind": "contended", **_contended(server, meter, workers, case)})
    server.flush()
    return rows


def _uncontended(bench: Bench, worker: Worker) -> list[Row]:
    best: dict[tuple[str, int], Row] = {}
    rounds, operations = (1, 64) if bench.quick else (8, 256)
    for _ in range(rounds):
        for at_a_time in (1, 64):
            for name in LOCKERS:
                figures = worker.call(contend.alone, name=name, at_a_time=at_a_time, operations=operations)
                row = best.setdefault(
                    (name, at_a_time),
                    {"kind": "uncontended", "locker": name, "at_a_time": at_a_time, **figures},
                )
                row["cpu"] = min(row["cpu"], figures["cpu"])
                row["rate"] = max(row["rate"], figures["rate"])
    return list(best.values())


def _contended(server: Any, meter: StoreMeter, workers: list[Worker], case: Case) -> Row:
    record = workers[0].call(contend.create, name=case.locker)
    before_counting, measured, monitored = case.stretches
    begin = time.monotonic() + 0.03
    since = begin + before_counting
    until = since + measured
    end = until + monitored
    taking_part = list(zip(workers, shares(case.waiters, case.processes), strict=False))
    for at, (worker, waiters) in enumerate(taking_part):
        worker.start(
            contend.contend,
            name=case.locker,
            record=record,
            waiters=waiters,
            hold=HOLD,
            pause=case.pause,
            instants=[begin, since, until, end],
            seed=1000 * at,
        )
    _sleep_until(since)
    from_ = time.monotonic()
    before = meter.read()
    _sleep_until(until)
    spent = meter.since(before)
    to = time.monotonic()
    with server.monitor() as seen:
        monitored_from = time.monotonic()
        _sleep_until(end - 0.01)
        monitored_to = time.monotonic()
    results = [worker.result() for worker, _ in taking_part]
    count = workers[0].call(contend.count, name=case.locker, record=record)
    ordered = in_order(grants_of(results))
    row: Row = {
        "locker": case.locker,
        "waiters": case.waiters,
        "processes": case.processes,
        "pause": case.pause * 1000,
        **timing(ordered, from_, to, end),
        **_fairness(ordered, [waiters for _, waiters in taking_part]),
        "done": sum(result["done"] for result in results),
        "lost": sum(result["done"] for result in results) - count,
        "overlaps": overlaps(ordered),
        "failed": sum(result["failed"] for result in results),
        "error": next((result["error"] for result in results if result["error"]), ""),
    }
    if row["grants"]:
        row["store_cpu"] = spent.cpu / row["grants"] * 1e6
        row["client_cpu"] = sum(result["cpu"] for result in results) * (to - from_) / row["grants"] * 1e6
    if inside := sum(monitored_from <= grant.inside <= monitored_to for grant in ordered):
        called = Counter(command.source == "lua" for command in seen if command.name not in HANDSHAKE)
        row |= {"commands": called[False] / inside, "script_calls": called[True] / inside}
    return row


def _sleep_until(instant: float) -> None:
    time.sleep(max(instant - time.monotonic(), 0.0))


def grants_of(results: Sequence[dict[str, Any]]) -> Iterator[Grant]:
    """Yield what the processes tell, `contend.contend`'s answers, as grants."""
    for process, result in enumerate(results):
        for waiter, asked, inside, left in result["times"]:
            yield Grant(
                process, waiter, asked, NEVER if inside is None else inside, NEVER if left is None else left
            )


def timing(ordered: Sequence[Grant], since: float, until: float, end: float) -> Row:
    """Return how fast the lock went from one to the next; ms."""
    taken = sorted(hand_overs(ordered, since, until, end))
    idle = sorted(unused(ordered, since, until))
    inside = sum(since <= grant.inside <= until for grant in ordered)
    row: Row = {
        "grants": inside,
        "hand_overs": len(taken),
        "rate": inside / (until - since),
        "longest": max((min(grant.inside, end) - grant.asked) * 1000 for grant in ordered),
    }
    if taken:
        row["p50"] = percentile(taken, 50) * 1000
    if len(taken) >= ENOUGH:
        row["p99"] = percentile(taken, 99) * 1000
    if idle:
        row["unused"] = percentile(idle, 50) * 1000
    return row


def _fairness(ordered: Sequence[Grant], waiters: Sequence[int]) -> Row:
    found = order(ordered)
    got = Counter((grant.process, grant.waiter) for grant in ordered if grant.inside < NEVER)
    counts = [got[process, waiter] for process, many in enumerate(waiters) for waiter in range(many)]
    return {
        "fairness": fairness(counts),
        "overtaking": found.overtaking,
        "overtaking_within": found.overtaking_within,
        "worst": found.worst,
    }


def tables(rows: list[Row]) -> list[Table]:
    """Each figure over all cases; the case without a pause; uncontended; what went wrong."""
    contended = [row for row in rows if row["kind"] == "contended"]
    usual = [row for row in contended if row["pause"] == PAUSE * 1000]
    made = [_figure(figure, title, usual) for figure, title in FIGURES.items()]
    made.append(_against(usual))
    made.append(_at_once(contended))
    made.append(_uncontended_table([row for row in rows if row["kind"] == "uncontended"]))
    made.append(_wrong(contended))
    return [table for table in made if table.rows]


def _title(name: str) -> str:
    return LOCKERS[name][0]


def _figure(figure: str, title: str, rows: list[Row]) -> Table:
    places = sorted({(row["waiters"], row["processes"]) for row in rows})
    made = []
    for name in LOCKERS:
        found = [pick(rows, locker=name, waiters=waiters, processes=many) for waiters, many in places]
        if any(found):
            made.append([_title(name), *(_cell(row, figure) for row in found)])
    columns = [f"{waiters} in {many}" for waiters, many in places]
    return Table(f"Waiters in processes: {title}", ["lock", *columns], made)


def _against(rows: list[Row]) -> Table:
    """Return our figures divided by those of redis-py's lock at its default, and the worst of these."""
    places = sorted({(row["waiters"], row["processes"]) for row in rows})
    made = []
    for figure in ("p50", "p99", "unused", "commands", "store_cpu", "client_cpu"):
        ratios: list[float | None] = []
        for waiters, many in places:
            one, other = (
                pick(rows, locker=name, waiters=waiters, processes=many) or {}
                for name in ("ours", "redis_py")
            )
            ratios.append(one[figure] / other[figure] if figure in one and other.get(figure, 0) > 0 else None)
        if known := [ratio for ratio in ratios if ratio is not None]:
            cells = ["" if ratio is None else number(ratio) for ratio in ratios]
            made.append([FIGURES[figure], *cells, number(max(known))])
    columns = [f"{waiters} in {many}" for waiters, many in places]
    title = f"{_title('ours')} divided by {_title('redis_py')} at its default"
    return Table(title, ["figure", *columns, "the worst"], made)


def _cell(row: Row | None, figure: str) -> str:
    return "" if row is None or figure not in row else number(max(row[figure], 0.0))


def _at_once(rows: list[Row]) -> Table:
    figures = ("p50", "p99", "unused", "longest", "rate", "commands", "fairness", "overtaking")
    found = [row for row in rows if row["pause"] == 0]
    return Table(
        f"{TARGET['waiters']} waiters in {TARGET['processes']} processes that ask again without a pause",
        ["lock", *(FIGURES[figure] for figure in figures)],
        [[_title(row["locker"]), *(_cell(row, figure) for figure in figures)] for row in found],
    )


def _uncontended_table(rows: list[Row]) -> Table:
    made = []
    for name in LOCKERS:
        found = [pick(rows, locker=name, at_a_time=many) for many in (1, 64)]
        if any(found):
            made.append(
                [_title(name), *(_cell(row, "cpu") for row in found), *(_cell(row, "rate") for row in found)]
            )
    columns = ["CPU µs, 1 at a time", "CPU µs, 64 at a time", "per second, 1 at a time", "64 at a time"]
    return Table("Uncontended operations: the client's CPU, and how many a second", ["lock", *columns], made)


def _wrong(rows: list[Row]) -> Table:
    made = []
    for name in LOCKERS:
        found = [row for row in rows if row["locker"] == name]
        if found:
            sums = [str(sum(row[key] for row in found)) for key in ("done", "lost", "overlaps", "failed")]
            unluckiest = str(max(row["worst"] for row in found))
            made.append([_title(name), *sums, unluckiest])
    columns = [
        "operations",
        "increments lost",
        "two inside at once",
        "failed",
        "later ones before the unluckiest",
    ]
    return Table("Whether the lock holds: all cases together", ["lock", *columns], made)


def plots(rows: list[Row]) -> dict[str, Any]:
    """Hand-over and commands by the number of waiters; uncontended CPU."""
    usual = [row for row in rows if row["kind"] == "contended" and row["pause"] == PAUSE * 1000]
    made: dict[str, Any] = {}
    hold = f"{HOLD * 1000:.0f} ms under the lock, {PAUSE * 1000:.0f} ms or so until a waiter asks again"
    if any("p50" in row for row in usual):
        made["locks-hand-over"] = lines(
            _lines(usual, ("p50", "p99")),
            title="Until somebody who waits has the lock",
            across="waiters",
            unit="hand-over, ms",
            note=f"{hold}; p99 only of {ENOUGH} and more",
        )
    if any("commands" in row for row in usual):
        made["locks-commands"] = lines(
            _lines(usual, ("commands",)),
            title="Store commands for one locked read-modify-write",
            across="waiters",
            unit="commands",
            note=hold,
        )
    alone = [row for row in rows if row["kind"] == "uncontended"]
    if alone:
        made["locks-uncontended"] = bars(
            {
                f"{many} at a time": {
                    _title(row["locker"]): row["cpu"] for row in alone if row["at_a_time"] == many
                }
                for many in (1, 64)
            },
            title="A lock that nobody else wants: read, add 1, write",
            unit="client CPU µs",
            note="Records of about 700 B",
            share=True,
        )
    return made


def _lines(rows: list[Row], figures: Sequence[str]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return points by panel, a figure in so many processes, and by title."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for figure in figures:
        for processes in sorted({row["processes"] for row in rows}):
            series: dict[str, list[tuple[float, float]]] = {}
            for row in rows:
                if row["processes"] == processes and row.get(figure, 0) > 0 and row["locker"] != "ours_kept":
                    series.setdefault(_title(row["locker"]), []).append((row["waiters"], row[figure]))
            if series:
                what = f"{figure}, " if len(figures) > 1 else ""
                panels[f"{what}{processes} process{'es' if processes > 1 else ''}"] = series
    return panels


def targets(rows: list[Row]) -> list[Target]:
    """The cost of ours, its hand-over and its CPU against redis-py's; and that it holds."""
    found: list[Target] = []
    contended = [row for row in rows if row["kind"] == "contended"]
    mine = [row for row in contended if row["locker"] == "ours"]
    if counted := [row for row in mine if "commands" in row]:
        most = max(counted, key=lambda row: row["commands"])
        where = f"{most['waiters']} waiters in {most['processes']} processes"
        text = f"locked read-modify-write, session loaded anew, in the worst case ({where}): store commands"
        found.append(Target(text, most["commands"], "at most", 3.1))
    case = {**TARGET, "pause": PAUSE * 1000}
    one, other = pick(contended, locker="ours", **case), pick(contended, locker="redis_py", **case)
    if one is not None and other is not None and "p50" in one and "p50" in other:
        text = "50 waiters in 4 processes, against redis-py's Lock at its default: hand-over, p50"
        found.append(Target(text, one["p50"] / other["p50"], "at most", 0.05))
    for many in (1, 64):
        alone = [row for row in rows if row["kind"] == "uncontended" and row["at_a_time"] == many]
        one, other = pick(alone, locker="ours"), pick(alone, locker="redis_py")
        if one is not None and other is not None:
            text = f"uncontended, {many} at a time, against redis-py's Lock: client CPU"
            found.append(Target(text, one["cpu"] / other["cpu"], "at most", 0.8))
    for name in ("ours", "ours_kept"):
        wrong = [
            abs(row["lost"]) + row["overlaps"] + row["failed"] for row in contended if row["locker"] == name
        ]
        if wrong:
            text = f"{_title(name)}: increments lost, two inside at once, or operations failed"
            found.append(Target(text, sum(wrong), "at most", 0))
    return found

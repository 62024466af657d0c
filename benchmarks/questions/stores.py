"""What a verb costs on every store that has a server to run here: waiting, and CPU time on both sides.

A process makes a store and calls its verbs on records of 700 B, first one after the other, then 64 at a
time, each on a record of its own. The time of one at a time is the median. CPU time is the whole process's,
and on the other side that of the server and all its processes, to 10 ms. A *request of the mix* is the one
of "store cost": of a hundred, 30 load, and 10 load and save; its CPU time follows from that of the verbs, 64
at a time.

**What stands in for a service of AWS is not the service.** moto (DynamoDB) and ministack (S3) are programs in
Python: their times and their CPU time say nothing of AWS. What does carry over is the client's CPU time. On
AWS each round trip costs some milliseconds on DynamoDB, and some tens of them on S3. SimpleDB is left out:
what the tests have for it runs in their own process.

PostgreSQL and MariaDB keep here what they have acknowledged when their process dies, but do not wait for the
disk, as SQLite does not in its WAL mode. Where they do, each write waits for that as well.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

from asgi_session.clock import system_clock
from asgi_session.store import Saved, Store, Stored
from benchmarks.bench import Bench
from benchmarks.process_cpu import cpu_seconds
from benchmarks.report.style import bars, number
from benchmarks.results import Row, Table, Target
from tests.stores.every.kinds import KINDS, Kind

TITLE: Final = "Every store"

SIZE: Final = 700
AT_A_TIME: Final = 64
SECONDS: Final = 2.0
"""How long the slowest verb is repeated; not exactly, and within these bounds:"""
FEWEST: Final = 200
MOST: Final = 50_000
VERBS: Final = ("load", "save", "touch", "create", "delete")
MIX: Final = {"load": 0.4, "save": 0.1}
"""Verbs in a request of the mix."""

Do = Callable[[Store, str, Stored], Awaitable[object]]


def _soon() -> float:
    return time.monotonic() + 60.0


def _data() -> bytes:
    return os.urandom(SIZE)


def _expiry() -> int:
    return system_clock() + 3_600_000


async def _load(store: Store, key: str, stored: Stored) -> object:
    return await store.load(key, deadline=_soon())


async def _save(store: Store, key: str, stored: Stored) -> object:
    result = await store.save(key, _data(), _expiry(), expect=stored, deadline=_soon())
    assert isinstance(result, Saved)
    return result


async def _touch(store: Store, key: str, stored: Stored) -> object:
    done = await store.touch(key, stored.expires_at + 60_000, expect=stored, deadline=_soon())
    assert done
    return done


async def _delete(store: Store, key: str, stored: Stored) -> object:
    return await store.delete(key, expect=stored, deadline=_soon())


MEASURED: Final = tuple(kind for kind in KINDS if kind.fresh is not None or kind.shared is None)
"""Those with a server that is a process of its own, or without any."""

DO: Final[dict[str, Do]] = {"load": _load, "touch": _touch, "save": _save, "delete": _delete}
"""In this order: each leaves the records as the next one needs them, after another load."""


def measure(bench: Bench) -> list[Row]:
    """Measure each store in turn, on a server of its own."""
    rows: list[Row] = []
    for at, kind in enumerate(MEASURED):
        bench.say(kind.title.replace("`", ""), at / len(MEASURED))
        rows += _kind(kind, quick=bench.quick)
    return rows


def _kind(kind: Kind, *, quick: bool) -> list[Row]:
    with ExitStack() as stack:
        machine = None
        if kind.fresh is not None:
            machine = kind.fresh()
            stack.callback(machine.stop)
        pid = getattr(machine, "pid", None)
        url = "" if machine is None else machine.url
        return asyncio.run(_measured(kind, url, pid, quick=quick))


async def _measured(kind: Kind, url: str, pid: int | None, *, quick: bool) -> list[Row]:
    store = kind.make(url)
    await kind.prepare(store)
    if quick:
        alone, together = 10, AT_A_TIME
    else:
        trial = await _all(kind, store, pid, count=AT_A_TIME, at_a_time=AT_A_TIME)
        alone = FEWEST
        together = round(min(row["per_second"] for row in trial) * SECONDS)
        together = min(max(together, 2 * AT_A_TIME), MOST)
    rows = [
        *await _all(kind, store, pid, count=alone, at_a_time=1),
        *await _all(kind, store, pid, count=together, at_a_time=AT_A_TIME),
    ]
    await store.close()
    return rows


async def _all(kind: Kind, store: Store, pid: int | None, *, count: int, at_a_time: int) -> list[Row]:
    keys = [os.urandom(11).hex() for _ in range(count)]
    rows: list[Row] = []

    async def note(verb: str, each: Callable[[str], Awaitable[object]]) -> None:
        server = cpu_seconds(pid) if pid is not None else 0.0
        cpu, began = time.process_time(), time.perf_counter()
        waited = await _run(keys, each, at_a_time)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        row: Row = {
            "store": kind.name,
            "title": kind.title.replace("`", ""),
            "emulator": kind.emulator,
            "verb": verb,
            "concurrency": at_a_time,
            "ms": median(waited) * 1e3,
            "per_second": count / wall,
            "client_cpu": cpu / count * 1e6,
        }
        if pid is not None:
            row["server_cpu"] = (cpu_seconds(pid) - server) / count * 1e6
        rows.append(row)

    async def create(key: str) -> object:
        return await store.create(key, _data(), _expiry(), deadline=_soon())

    await store.load(keys[0], deadline=_soon())  # connects
    await note("create", create)
    for verb, do in DO.items():
        found: dict[str, Stored] = {}
        for key in keys:
            stored = await store.load(key, deadline=_soon())
            assert stored is not None
            found[key] = stored

        async def each(key: str, do: Do = do, found: dict[str, Stored] = found) -> object:
            return await do(store, key, found[key])

        await note(verb, each)
    return rows


async def _run(keys: list[str], each: Callable[[str], Awaitable[object]], at_a_time: int) -> list[float]:
    """Do it with every key, so many at a time; seconds that each has taken."""
    waited: list[float] = []
    todo = iter(keys)

    async def client() -> None:
        for key in todo:
            began = time.perf_counter()
            await each(key)
            waited.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(at_a_time)))
    return waited


def _titles(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["title"] for row in rows))


def _mix(rows: list[Row], title: str, side: str) -> float | None:
    """Return the CPU time of a request of the mix, µs; None where a verb was not measured."""
    found = {
        row["verb"]: row[side]
        for row in rows
        if row["title"] == title and row["concurrency"] == AT_A_TIME and side in row
    }
    return sum(share * found[verb] for verb, share in MIX.items()) if MIX.keys() <= found.keys() else None


def tables(rows: list[Row]) -> list[Table]:
    """How long each verb takes, what it costs the client, and what a request of the mix costs both."""
    if not rows:
        return []
    made = []
    for heading, figure, concurrency in (
        ("Time of a verb, ms, one at a time", "ms", 1),
        (f"Client CPU of a verb, µs, {AT_A_TIME} at a time", "client_cpu", AT_A_TIME),
        (f"Server CPU of a verb, µs, {AT_A_TIME} at a time", "server_cpu", AT_A_TIME),
    ):
        lines = []
        for title in _titles(rows):
            found = {
                row["verb"]: row[figure]
                for row in rows
                if row["title"] == title and row["concurrency"] == concurrency and figure in row
            }
            if found:
                lines.append([title, *(number(found[verb]) if verb in found else "" for verb in VERBS)])
        if lines:
            made.append(Table(heading, ["store", *VERBS], lines))
    lines = []
    for title in _titles(rows):
        client, server = (_mix(rows, title, side) for side in ("client_cpu", "server_cpu"))
        emulator = next(row["emulator"] for row in rows if row["title"] == title)
        if client is not None:
            lines.append([title, number(client), "" if server is None else number(server), emulator])
    if lines:
        columns = ["store", "client CPU, µs", "server CPU, µs", "the server is a stand-in"]
        made.append(Table("A request of the mix", columns, lines))
    return made


def plots(rows: list[Row]) -> dict[str, Any]:
    """Time of a verb, one at a time."""
    groups = {
        verb: {row["title"]: row["ms"] for row in rows if row["verb"] == verb and row["concurrency"] == 1}
        for verb in ("load", "save")
    }
    if not any(groups.values()):
        return {}
    note = "Stand-ins are not the services: their times say nothing of AWS."
    return {"stores": bars(groups, title="One verb at a time", unit="ms", note=note, columns=2)}


def targets(rows: list[Row]) -> list[Target]:
    """Judge nothing: what other servers cost is theirs."""
    return []

"""Memory in the store: what one session takes in Valkey, by layer and size of the session.

Each case has a server of its own. In it the layer's app creates the sessions, 64 at a time, each with
another ``user_id``. What counts is the growth of the server's ``used_memory`` from before the app's process
has started to after it has ended, divided by the number of sessions. That includes the payload as the layer
encodes it, what the layer adds, the key, the expiry and the server's own tables, but no connections. "Over
the payload" is what that is above the session's bare msgpack. The server's tables grow by leaps, and some
things are allocated only once, so few sessions look larger than many. Sizes are therefore compared with the
same number of sessions, and a table of its own shows how much the number matters. Another table has sessions
that were also changed nine times, because a record of asgi-session notes its last eight changes, and because
a larger value may need a larger block.

It does not show fragmentation, replicas' buffers and what a server reserves on top (``used_memory_rss`` is
larger). It does not show other servers: Valkey 9 may keep a hash whose fields expire, which
fastapi-redis-sdk uses, in another form than Redis 8. fastapi-redis-sdk's figure includes its index of each
user's sessions, which the other layers don't offer. Here each session is another user's; where a user has
several, the index costs less for each. A signed cookie takes no memory in a store. asgi-session on a cluster
and on FastAPI stores what "asgi-session, redis" does, and is left out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import msgpack

from benchmarks.bench import Bench
from benchmarks.client import Browser
from benchmarks.layers import LAYERS, layer
from benchmarks.report.style import bars, number
from benchmarks.results import Row, Table, Target, pick
from benchmarks.sessions import USUAL, session_of_size
from benchmarks.store_meter import wait_for_growth
from benchmarks.worker import Bed
from tests.servers import ServerProcess, start_valkey, wait_until

TITLE: Final = "Memory in the store"

AT_A_TIME: Final = 64
FIRST_USER: Final = 1_000_000
SAME: Final = ("asgi_session_cluster", "asgi_session_fastapi")
"""Layers that store what asgi_session_redis does."""


def cases(quick: bool) -> list[tuple[int, int, int]]:
    """Return (size of the session, number of sessions, changes after that) of each case."""
    if quick:
        return [(USUAL, 2_000, 0)]
    return [
        (USUAL, 100_000, 0),
        (USUAL, 10_000, 0),
        (USUAL, 2_000, 0),
        (USUAL, 2_000, 9),
        (100, 10_000, 0),
        (10_000, 10_000, 0),
    ]


async def fill(bed: Bed, size: int, sessions: int, changes: int) -> None:
    """Create sessions, each of another user, and change each of them so many times."""
    users = iter(range(FIRST_USER, FIRST_USER + sessions))
    new, write = await bed.app("new"), await bed.app("write")

    async def run() -> None:
        for user in users:
            browser = Browser()
            await browser.request(new, b"size=%d&user=%d" % (size, user))
            for _ in range(changes):
                await browser.request(write)

    await asyncio.gather(*[run() for _ in range(AT_A_TIME)])


def payload(size: int) -> int:
    """Return the bytes of one session's bare msgpack."""
    return len(msgpack.packb({**session_of_size(size), "user_id": FIRST_USER}))


def measure(bench: Bench) -> list[Row]:
    """Measure the layers that have a store."""
    names = [name for name in LAYERS if layer(name).STORE == "redis" and name not in SAME]
    todo = [(name, *case) for case in cases(bench.quick) for name in names]
    rows: list[Row] = []
    for done, (name, size, sessions, changes) in enumerate(todo):
        bench.say(f"{layer(name).TITLE}, {sessions:,} sessions of {size} B", done / len(todo))
        case = {"size": size, "sessions": sessions, "changes": changes}
        server = start_valkey()
        try:
            before = _used(server)
            with bench.workers(name, store_url=server.url) as workers:
                workers[name].call(fill, **case)
            each = (_used(server) - before) / sessions
        finally:
            server.stop()
        rows.append({"layer": name, **case, "payload": payload(size), "bytes": each})
    return rows


def _used(server: ServerProcess) -> int:
    """Return the server's memory once it is at rest, and all connections but the asking one are gone."""
    wait_until("connections closed", lambda: int(server.info("clients")["connected_clients"]) == 1)
    wait_for_growth(server)
    return int(server.info("memory")["used_memory"])


def number_for_sizes(rows: list[Row]) -> int:
    """Return the number of sessions with which most sizes were measured: those can be compared."""
    sizes = {(row["sessions"], row["size"]) for row in rows if not row["changes"]}
    counts = Counter(sessions for sessions, _ in sizes)
    return max(counts, key=lambda sessions: (counts[sessions], sessions), default=0)


def tables(rows: list[Row]) -> list[Table]:
    """Bytes by size; and whether the number of sessions, and changes, matter."""
    sessions = number_for_sizes(rows)
    made = [
        _table(
            rows,
            f"Bytes per session (over the payload) of {sessions:,} sessions, by size",
            "size",
            {"changes": 0, "sessions": sessions},
        ),
        _table(
            rows,
            f"Bytes per session of {USUAL} B (over the payload), by number of sessions",
            "sessions",
            {"size": USUAL, "changes": 0},
        ),
        _table(
            rows,
            f"Bytes per session of {USUAL} B (over the payload), by changes after the first",
            "changes",
            {"size": USUAL, "sessions": 2_000},
        ),
    ]
    return [table for at, table in enumerate(made) if at == 0 or len(table.columns) > 2]


def _table(rows: list[Row], title: str, varied: str, wanted: Row) -> Table:
    values = sorted({row[varied] for row in rows if wanted.items() <= row.items()})
    lines = [
        [layer(name).TITLE, *(_cell(pick(rows, layer=name, **wanted, **{varied: value})) for value in values)]
        for name in LAYERS
        if pick(rows, layer=name)
    ]
    if varied == "size":
        lines.append(["(msgpack of the session)", *(number(payload(value)) for value in values)])
    return Table(title, ["layer", *(f"{value:,}" for value in values)], lines)


def _cell(row: Row | None) -> str:
    return f"{row['bytes']:,.0f} (+{row['bytes'] - row['payload']:,.0f})" if row is not None else ""


def plots(rows: list[Row]) -> dict[str, Any]:
    """What a session takes, in sizes of its payload."""
    sessions = number_for_sizes(rows)
    groups: dict[str, dict[str, float]] = {}
    for size in sorted({row["size"] for row in rows}):
        group = groups.setdefault(f"{size:,} B", {})
        for name in LAYERS:
            if (row := pick(rows, layer=name, size=size, sessions=sessions, changes=0)) is not None:
                group[layer(name).TITLE] = row["bytes"] / row["payload"]
    if not groups:
        return {}
    return {
        "store-memory": bars(
            groups,
            title="Memory in the store per session",
            unit="bytes in the store per byte of payload",
            note=f"size of the session as msgpack; {sessions:,} sessions",
        )
    }


def targets(rows: list[Row]) -> list[Target]:
    """None: nothing is promised about memory."""
    return []

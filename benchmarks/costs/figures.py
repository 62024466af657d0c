"""What the benchmarks have measured of a session and a request, taken from docs/benchmarks/results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parents[2] / "docs" / "benchmarks" / "results.json"
LAYER: Final = "asgi_session_redis"

MIX: Final = {"untouched": 0.6, "read": 0.3, "write": 0.1}
"""Shares of the requests: the mix of the question "store cost"."""

TOUCH: Final = 300.0
"""Bytes of a touch on the wire: a script's call, with its hash, key and arguments. Counted by hand: the run
has none."""


@dataclass(frozen=True)
class Figures:
    """Bytes and CPU of a session of 700 B, on Valkey.

    Attributes:
        date: of the run.
        payload: bytes of the session by itself, as msgpack.
        record: bytes of the record in the store.
        memory: bytes that a session takes in Valkey, with key, expiry and tables.
        memory_by_size: the same of sessions of other sizes, by the bytes of their msgpack.
        verb_bytes: bytes on the wire, both ways, by verb.
        kind_bytes: bytes on the wire, both ways, of a request, by kind.
        kind_commands: commands of a request, by kind.
        cpu: store CPU µs of a request of the mix: 64 requests of each process sent together, and one by one.
        waits: p99 in ms of a request of the mix, 4,000 a second, by ms of delay to the store.
        full: how many times more a command costs with a million sessions than with ten thousand.
    """

    date: str
    payload: int
    record: int
    memory: float
    memory_by_size: Mapping[int, float]
    verb_bytes: Mapping[str, float]
    kind_bytes: Mapping[str, float]
    kind_commands: Mapping[str, float]
    cpu: tuple[float, float]
    waits: Mapping[int, float]
    full: float


def payload_of(reply: float) -> int:
    """Return how long the value in a GET's reply is: ``$820``, its bytes, and a line's end after each."""
    for digits in range(1, 10):
        size = round(reply) - 5 - digits
        if len(str(size)) == digits:
            return size
    raise ValueError(f"no reply has {reply} bytes")


def read(path: Path = RESULTS) -> Figures:
    """Read a run of the benchmarks."""
    run = json.loads(path.read_text())
    rows = {question["name"]: question["rows"] for question in run["questions"]}

    def find(question: str, **wanted: Any) -> dict[str, Any]:
        return next(row for row in rows[question] if wanted.items() <= row.items())

    def cost(kind: str, concurrency: int = 64) -> dict[str, Any]:
        return find("store-cost", layer=LAYER, kind=kind, concurrency=concurrency)

    def moved(row: dict[str, Any]) -> float:
        return float(max(row["bytes_in"], 0) + max(row["bytes_out"], 0))

    memory = find("store-memory", layer=LAYER, size=700, sessions=100_000, changes=0)
    kinds = ("untouched", "read", "write", "new", "destroy")
    few, many = (
        find("scaling", layer=LAYER, action="read", sessions=sessions, concurrency=64)["store_cpu"]
        for sessions in (10_000, 1_000_000)
    )
    return Figures(
        date=run["environment"]["date"][:10],
        payload=memory["payload"],
        record=payload_of(cost("read")["bytes_out"]),
        memory=memory["bytes"],
        memory_by_size={
            row["payload"]: row["bytes"]
            for row in rows["store-memory"]
            if (row["layer"], row["sessions"], row["changes"]) == (LAYER, 10_000, 0)
        },
        verb_bytes={
            "load": moved(cost("read")),
            "create": moved(cost("new")),
            "save": moved(find("store-cost", via="store")),
            "end": moved(cost("destroy")) - moved(cost("read")),
            "touch": TOUCH,
        },
        kind_bytes={kind: moved(cost(kind)) for kind in kinds},
        kind_commands={kind: cost(kind)["commands"] for kind in kinds},
        cpu=(cost("mix")["cpu"], cost("mix", concurrency=1)["cpu"]),
        waits={delay: find("latency", layer=LAYER, delay=delay, rate=4_000)["p99"] for delay in (0, 1, 5)},
        full=many / few,
    )

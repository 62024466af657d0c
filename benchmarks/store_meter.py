"""What a server has spent: CPU time and traffic, from its own INFO.

Differences of two readings hold two things that are nobody's: reading, and what the server does by
itself when it is idle. Both are measured beforehand, and subtracted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, NamedTuple

from tests.servers import wait_until


class Reading(NamedTuple):
    """A server's counters, or differences of them.

    Attributes:
        at: when they were read, s.
        cpu: user and system time of the whole process, s.
        bytes_in: read from clients.
        bytes_out: written to clients; what replicas get is not among them.
    """

    at: float
    cpu: float
    bytes_in: float
    bytes_out: float


NOTHING = Reading(0.0, 0.0, 0.0, 0.0)


def reading(info: Mapping[str, str], at: float) -> Reading:
    """Return what INFO's sections "cpu" and "stats" say."""

    def own(direction: str) -> int:
        return int(info[f"total_net_{direction}_bytes"]) - int(
            info.get(f"total_net_repl_{direction}_bytes", 0)
        )

    cpu = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
    return Reading(at, cpu, own("input"), own("output"))


def together(readings: Iterable[Reading]) -> Reading:
    """Return the sum of what several servers say, as of the moment when the last was read."""
    every = list(readings)
    _, *sums = (sum(column) for column in zip(*every, strict=True))
    return Reading(max(one.at for one in every), *sums)


def spent(before: Reading, after: Reading, own: Reading = NOTHING, idle: float = 0.0) -> Reading:
    """Return what was spent between two readings.

    Args:
        before: the first reading.
        after: the second.
        own: what lies between two readings with nothing between them.
        idle: CPU seconds that the server spends in a second by itself.
    """
    passed = after.at - before.at - own.at
    return Reading(
        passed,
        after.cpu - before.cpu - own.cpu - idle * passed,
        after.bytes_in - before.bytes_in - own.bytes_in,
        after.bytes_out - before.bytes_out - own.bytes_out,
    )


class StoreMeter:
    """Reads a server's counters; of a cluster those of its primaries, added up."""

    def __init__(self, server: Any) -> None:
        self._servers = server.primaries if hasattr(server, "primaries") else [server]
        self._own, self._idle = NOTHING, 0.0

    def calibrate(self, idle_for: float) -> None:
        """Measure what is to be subtracted, with the store as it is now; takes `idle_for` seconds."""
        pairs = [spent(self.read(), self.read()) for _ in range(15)]
        self._own = Reading(*(median(column) for column in zip(*pairs, strict=True)))
        before = self.read()
        time.sleep(idle_for)
        idle = spent(before, self.read(), self._own)
        self._idle = max(idle.cpu / idle.at, 0.0)

    def read(self) -> Reading:
        """Return the counters as they are."""
        return together(reading(_info(server), time.perf_counter()) for server in self._servers)

    def since(self, before: Reading) -> Reading:
        """Return what has been spent on clients since a reading."""
        return spent(before, self.read(), self._own, self._idle)


def wait_for_growth(server: Any) -> None:
    """Wait until a server has moved its keys to a larger table: for seconds that takes CPU, and memory."""
    wait_until("the server's table has grown", lambda: _has_grown(server), timeout=120, every=0.1)


def _has_grown(server: Any) -> bool:
    return int(server.info("memory").get("mem_overhead_db_hashtable_rehashing", 0)) == 0


def _info(server: Any) -> dict[str, str]:
    text: str = server.command("INFO", "cpu", "stats").decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

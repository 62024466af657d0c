"""CPU time of a process and of those that it has started, as Linux counts it."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def cpu_seconds(root: int) -> float:
    """Return user and system time of a process and all below it, in seconds, to the clock's tick of 10 ms.

    Processes that have ended count once their parent has waited for them.
    """
    tick = os.sysconf("SC_CLK_TCK")
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = sum(map(int, fields[11:15]))  # its own, and of those it has waited for
    return sum(ticks for pid, ticks in used.items() if _is_below(pid, root, parents)) / tick


def _is_below(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid not in (root, 0):
        pid = parents.get(pid, 0)
    return pid == root

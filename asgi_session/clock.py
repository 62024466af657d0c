"""Wall time, as whole milliseconds since the Unix epoch."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Tells the time: whole milliseconds since 1970-01-01 UTC."""


def system_clock() -> int:
    """Return the time of this machine's clock in milliseconds."""
    return time.time_ns() // 1_000_000

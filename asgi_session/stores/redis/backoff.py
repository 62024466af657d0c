"""Waiting between two tries."""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from typing import Final

_FIRST: Final = 0.01
_LONGEST: Final = 0.25


def delay(tries: int, *, first: float = _FIRST, longest: float = _LONGEST) -> float:
    """Return the jittered seconds to wait after `tries` failures in a row: between half and all of it."""
    return min(first * 2.0 ** min(tries, 20), longest) * random.uniform(0.5, 1.0)  # noqa: S311


async def pause(tries: int, deadline: float) -> bool:
    """Wait before the next try; False, at once, when it would come after the deadline."""
    seconds = delay(tries)
    if monotonic() + seconds >= deadline:
        return False
    await asyncio.sleep(seconds)
    return True

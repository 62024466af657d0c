"""Waiting between two tries: longer each time, and never for as long as somebody else."""

from __future__ import annotations

import asyncio
import random
from time import monotonic


def delay(tries: int, *, first: float, longest: float, least: float = 0.5) -> float:
    """Return jittered seconds to wait after `tries` failures in a row.

    Args:
        tries: how many have failed.
        first: seconds before the first doubling.
        longest: seconds.
        least: the part of the whole that is waited in any case, 0 to 1.
    """
    whole = min(first * 2.0 ** min(tries, 20), longest)
    return jittered(whole, least)


def jittered(seconds: float, least: float) -> float:
    """Return between `least` (a part, 0 to 1) and all of `seconds`, drawn anew each time."""
    return random.uniform(least * seconds, seconds)  # noqa: S311  (jitter, no secret)


async def pause(tries: int, deadline: float) -> bool:
    """Pause after `tries` failures; False, at once, when the next try would come after `deadline`."""
    seconds = delay(tries, first=0.01, longest=0.25)
    if monotonic() + seconds >= deadline:
        return False
    await asyncio.sleep(seconds)
    return True


class Backoff:
    """Jittered, growing pauses; the first retry comes at once."""

    __slots__ = ("_tries",)

    def __init__(self) -> None:
        self._tries = 0

    async def pause(self, deadline: float) -> None:
        """Pause before the next try, never beyond `deadline` (`time.monotonic`)."""
        self._tries += 1
        if self._tries > 1:
            longest = min(0.2, max(deadline - monotonic(), 0.0))
            await asyncio.sleep(delay(self._tries, first=0.001, longest=longest, least=0.0))

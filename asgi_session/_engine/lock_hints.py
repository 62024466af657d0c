"""What wake-ups may cause: loads, and no more of them than a budget allows.

A wake-up says that a record may have changed. Anybody who may write to the channel can send one, so
nothing is decided by it: the record is loaded, and that decides. A flood of them must not become a
flood of loads. At most `IN_FLIGHT` run at once, and at most `PER_SECOND` may turn out to have been for
nothing; one that finds what it was told of costs the budget nothing, since whoever can make that
happen can write the record itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

IN_FLIGHT: Final = 8
PER_SECOND: Final = 100


class Hints:
    """The loads of one event loop that wake-ups cause.

    They run in tasks of their own, which nobody waits for: a flood must not keep a shutdown from ending.

    Args:
        look: loads the record of a key and does what that calls for; whether there was anything new.
    """

    __slots__ = ("_left", "_look", "_running", "_since", "_tasks", "_timer", "_waiting")

    def __init__(self, look: Callable[[str], Awaitable[bool]]) -> None:
        self._look = look
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = float(PER_SECOND)  # what may still be for nothing; it grows back with time
        self._since = monotonic()
        self._running: dict[str, bool] = {}  # whether to look again afterwards
        self._waiting: dict[str, None] = {}  # in order
        self._timer: asyncio.TimerHandle | None = None

    def take(self, key: str, *, needed: bool) -> bool:
        """Have a key's record loaded: now, which is told, or as soon as the budget allows.

        Args:
            key: of the record.
            needed: somebody here holds the lock or waits for it. Else the hint is dropped when the
                budget is used up: a lock that was granted to nobody ends by itself.
        """
        if key in self._running:
            self._running[key] = True  # what it is about may have come after that load
        elif not self._waiting and self._may_start():
            self._start(key)
            return True
        elif needed:  # behind those that wait; what is not needed must not come before them
            self._waiting[key] = None
            self._start_waiting()
            return key in self._running
        return False

    def _may_start(self) -> bool:
        now = monotonic()
        self._left = min(self._left + (now - self._since) * PER_SECOND, float(PER_SECOND))
        self._since = now
        return len(self._running) < IN_FLIGHT and self._left >= 1

    def _start(self, key: str) -> None:
        self._left -= 1
        self._running[key] = False
        self._waiting.pop(key, None)
        task = asyncio.get_running_loop().create_task(self._run(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, key: str) -> None:
        try:
            if await self._look(key):
                self._left += 1
        finally:
            if self._running.pop(key):
                self._waiting[key] = None
            if not asyncio.get_running_loop().is_closed():
                self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and self._may_start():
            self._start(next(iter(self._waiting)))
        self._wait()

    def _wait(self) -> None:
        """Go on when the budget has grown; when too many run, the first that is done goes on."""
        if self._timer is None and self._waiting and len(self._running) < IN_FLIGHT:
            self._timer = asyncio.get_running_loop().call_later(
                max(1 - self._left, 0.0) / PER_SECOND + 0.001, self._time_has_come
            )

    def _time_has_come(self) -> None:
        self._timer = None
        self._start_waiting()

    def close(self) -> None:
        """Forget what waits, and end what runs."""
        self._waiting.clear()
        for task in list(self._tasks):
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

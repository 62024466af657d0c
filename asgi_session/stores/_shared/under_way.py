"""Which verbs are on their way: whoever closes a store waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable


class UnderWay:
    """The verbs that are being carried out with patience: whoever closes waits for them."""

    __slots__ = ("_count", "_over")

    def __init__(self) -> None:
        self._count = 0
        self._over: asyncio.Future[None] | None = None

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count and self._over is not None:
            if not self._over.done():
                self._over.set_result(None)
            self._over = None

    async def over(self, settled: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Wait until none is left, and for what is on the wire, which `settled` waits for.

        Twice, since what is on the wire may be answered in a way that calls for another command: a save
        that has met other bytes is settled by the script. So long in all: what takes longer waits for a
        server that is away.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for _ in range(2):
                    await asyncio.gather(self._none_left(), settled())
                    await asyncio.sleep(0)

    async def _none_left(self) -> None:
        if self._count:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._over])

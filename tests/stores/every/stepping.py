"""Cancels a coroutine at its nth suspension, whatever it waits for there."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any


class Cancelled:
    """A coroutine that is cancelled at one of its suspensions.

    Args:
        work: the coroutine.
        nth: at which suspension, the first being 0.
        late: not while it waits, but in the very moment in which it need wait no longer: what it has
            waited for is done then, and it will not learn of it.

    Attributes:
        reached: whether it came that far.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], nth: int, *, late: bool) -> None:
        self.reached = False
        self._work = work
        self._nth = nth
        self._late = late

    async def run(self) -> bool:
        """Run it in a task of its own; whether it was cancelled."""
        task = asyncio.create_task(self._main())
        await asyncio.wait([task])
        if task.cancelled():
            return True
        task.result()  # raises what it has raised
        return False

    async def _main(self) -> None:
        await self._stepped()

    @types.coroutine
    def _stepped(self) -> Generator[Any, None, Any]:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        thrown: BaseException | None = None
        number = -1
        while True:
            try:
                waits_for = self._work.send(None) if thrown is None else self._work.throw(thrown)
            except StopIteration as end:
                return end.value
            thrown = None
            number += 1
            if number == self._nth:
                self.reached = True
                if self._late and waits_for is not None:
                    waits_for.add_done_callback(lambda _: task.cancel())  # before the task's own
                else:
                    loop.call_soon(task.cancel)
            try:
                yield waits_for
            except BaseException as error:  # goes on into the coroutine
                thrown = error

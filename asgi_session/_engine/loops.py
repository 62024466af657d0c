"""What a manager keeps per event loop, and the tasks that it owns."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from asgi_session._data.lease import PROCESS_SIZE
from asgi_session.errors import ConfigurationError

if TYPE_CHECKING:
    from asgi_session._engine.lock_queue import Rooms
    from asgi_session._engine.save_queue import Lanes


def needs_asyncio() -> ConfigurationError:
    """Return the error for code that runs under trio, or in no event loop."""
    return ConfigurationError(
        "asgi-session runs on asyncio, and no asyncio event loop runs here. Serve the app on asyncio: with "
        "uvicorn as it is, with hypercorn --worker-class asyncio"
    )


class LoopState:
    """What belongs to one event loop."""

    __slots__ = ("__weakref__", "_name", "lanes", "rooms", "tasks", "touching")

    def __init__(self) -> None:
        self.lanes: Lanes
        self.rooms: Rooms
        self.tasks: set[asyncio.Task[None]] = set()
        self.touching: set[str] = set()  # selectors with a touch on its way
        self._name = b""

    def name(self) -> bytes:
        """Return the name under which this loop holds locks, and listens."""
        # Drawn when it is first needed: ahead of a fork, or of a memory snapshot, it would be two loops'.
        if not self._name:
            self._name = os.urandom(PROCESS_SIZE)
        return self._name

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in a task that no request can cancel and that `drain` waits for; return it."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def drain(self) -> None:
        """Wait for the tasks, and for the commits that requests wait for; they end with their deadlines."""
        while True:  # either makes more of the other
            if self.tasks:
                await asyncio.wait(list(self.tasks))
            elif pending := next(self.lanes.unfinished(), None):
                await pending.wait()
            else:
                return


class Loops:
    """The states of the event loops that use a manager, one after another or in several threads.

    Neither keeps a loop alive: a test suite makes one per test.
    """

    __slots__ = ("_furnish", "_recent", "_states")

    def __init__(self, furnish: Callable[[LoopState], None]) -> None:
        self._furnish = furnish
        self._states: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopState] = WeakKeyDictionary()
        self._recent: tuple[ref[asyncio.AbstractEventLoop], LoopState] | None = None

    def current(self) -> LoopState:
        """Return the running loop's state.

        Raises:
            ConfigurationError: no asyncio loop runs here.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            raise needs_asyncio() from None
        recent = self._recent
        if recent is not None and recent[0]() is running:
            return recent[1]
        state = self._states.get(running)
        if state is None:
            # A loop that was closed with a task in it is kept alive by that task.
            for loop in [loop for loop in self._states if loop.is_closed()]:
                del self._states[loop]
            state = self._states[running] = LoopState()
            self._furnish(state)
        self._recent = (ref(running), state)
        return state

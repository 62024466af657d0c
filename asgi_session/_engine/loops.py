"""What a manager keeps per event loop."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary, ref

from asgi_session._engine.lock_wakeups import LockQueues
from asgi_session._engine.reading import Reader
from asgi_session._engine.save_request import SaveRequest
from asgi_session._engine.saving import SaveQueues
from asgi_session._engine.sending import Sender
from asgi_session._engine.tasks import Tasks
from asgi_session._policy import Policy
from asgi_session.errors import ConfigurationError


def needs_asyncio() -> ConfigurationError:
    """Return the error for code that runs under trio, or in no event loop."""
    return ConfigurationError(
        "asgi-session runs on asyncio, and no asyncio event loop runs here. Serve the app on asyncio: with "
        "uvicorn as it is, with hypercorn --worker-class asyncio"
    )


class LoopState:
    """What belongs to one event loop.

    Attributes:
        tasks: those that the manager owns.
        saves: the saves on their way.
        locks: who waits for which lock.
        creating: the commits that create a session.
        touching: the ids of the sessions with a touch on its way.
    """

    __slots__ = ("__weakref__", "creating", "locks", "saves", "tasks", "touching")

    def __init__(self, policy: Policy, reader: Reader) -> None:
        self.tasks = Tasks()
        sender = Sender(policy, self.tasks, reader)
        self.saves = SaveQueues(policy, self.tasks, sender)
        self.locks = LockQueues(policy, self.tasks, reader, self.saves)
        sender.told = self.locks.told
        self.creating: set[SaveRequest] = set()
        self.touching: set[str] = set()

    async def drain(self) -> None:
        """Wait for the tasks, and for the commits that requests wait for; they end with their deadlines."""
        while True:  # either makes more of the other
            if self.tasks.running:
                await asyncio.wait(list(self.tasks.running))
            elif unfinished := next(self.saves.unfinished(), None) or next(iter(self.creating), None):
                await unfinished.wait()
            else:
                return


class Loops:
    """The states of the event loops that use a manager, one after another or in several threads.

    Neither keeps a loop alive: a test suite makes one per test.
    """

    __slots__ = ("_policy", "_reader", "_recent", "_states")

    def __init__(self, policy: Policy, reader: Reader) -> None:
        self._policy = policy
        self._reader = reader
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
            state = self._states[running] = LoopState(self._policy, self._reader)
        self._recent = (ref(running), state)
        return state

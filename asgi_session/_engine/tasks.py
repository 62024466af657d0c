"""Work that no request can cancel, and the name of the loop that does it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

from asgi_session._data.lease import PROCESS_SIZE


class Tasks:
    """The tasks of one event loop that the manager owns.

    Attributes:
        running: those that have not ended.
    """

    __slots__ = ("__weakref__", "_name", "running")

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()
        self._name = b""

    @property
    def name(self) -> bytes:
        """The name under which this loop holds locks, and listens."""
        # Drawn when it is first needed: ahead of a fork, or of a memory snapshot, it would be two loops'.
        if not self._name:
            self._name = os.urandom(PROCESS_SIZE)
        return self._name

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in a task that no request can cancel and that a drain waits for; return it."""
        task = asyncio.get_running_loop().create_task(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

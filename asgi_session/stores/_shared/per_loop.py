"""What a store holds per event loop, and how it ends with the loop or with the process.

A store may meet several loops, one after another or one per thread. Each has its own backend, and its
own listening once there is something to listen for. They are closed when the loop ends, by an async
generator that waits on it: `asyncio.run` and its relatives close those (`loop.shutdown_asyncgens`). A
loop that is just closed is noticed when the store meets the next one, or is itself collected.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Generic, Protocol, TypeVar

_inherited: Final[list[object]] = []
"""In a forked child: the parent's connections, kept so that nothing ever closes or uses them. Even an
unregistering from epoll would act on the parent's."""

_closing: Final[set[asyncio.Task[None]]] = set()
"""What is being closed: an event loop alone does not keep its tasks from being collected."""

_everywhere: Final[weakref.WeakSet[PerLoop[Any]]] = weakref.WeakSet()


class Held(Protocol):
    """What is held per event loop."""

    async def close(self) -> None:
        """Close all connections of this event loop."""
        ...

    def abandon(self) -> None:
        """Free the sockets of an event loop that was closed without `close`."""
        ...


H = TypeVar("H", bound=Held)


class PerLoop(Generic[H]):
    """The backends, or the listenings, of a store, by event loop."""

    def __init__(self, make: Callable[[], H]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self.backends: dict[asyncio.AbstractEventLoop, H] = {}
        self._guards: dict[asyncio.AbstractEventLoop, AsyncGenerator[None]] = {}
        _everywhere.add(self)

    def enter(self) -> H:
        """Make the backend of the running loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._forget_closed()
            backend = self.backends.get(loop)
            if backend is None:
                backend = self._make()
                guard = _until_loop_ends(weakref.ref(self), loop, backend)
                with contextlib.suppress(StopIteration):
                    guard.__anext__().send(None)  # start it: only then does the loop know of it
                self.backends[loop] = backend
                self._guards[loop] = guard
        return backend

    async def leave(self) -> None:
        """Close the backend of the running loop."""
        loop = asyncio.get_running_loop()
        guard = self._guards.pop(loop, None)
        if guard is not None:
            await guard.aclose()

    def discard(self, loop: asyncio.AbstractEventLoop) -> None:
        """Forget a loop."""
        self.backends.pop(loop, None)
        self._guards.pop(loop, None)

    def _forget_closed(self) -> None:
        for loop in [loop for loop in self.backends if loop.is_closed()]:
            self.backends[loop].abandon()
            self.discard(loop)

    def after_fork(self) -> None:
        """Start afresh in a forked child."""
        self._lock = threading.Lock()
        _inherited.extend((self.backends, self._guards))
        self.backends, self._guards = {}, {}

    def __del__(self) -> None:
        self._forget_closed()


async def _until_loop_ends(
    loops: weakref.ref[PerLoop[H]], loop: asyncio.AbstractEventLoop, backend: H
) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        owner = loops()
        if owner is not None:
            owner.discard(loop)
        del owner
        # Nobody else knows the backend any more: who is cancelled meanwhile leaves the closing to itself.
        closing: Any = loop.create_task(backend.close(), name="asgi-session closes")
        closing._log_destroy_pending = False  # nor is it an error when the loop ends before it
        _closing.add(closing)
        closing.add_done_callback(_closed)
        await asyncio.shield(closing)


def _closed(closing: asyncio.Task[None]) -> None:
    _closing.discard(closing)
    if not closing.cancelled():
        closing.exception()  # whoever has waited knows it


def _after_fork() -> None:
    for loops in list(_everywhere):
        loops.after_fork()


def _register() -> None:
    register: Any = getattr(os, "register_at_fork", None)  # not on Windows
    if register is not None:
        register(after_in_child=_after_fork)


_register()

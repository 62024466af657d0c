"""What the tests of the manager share: records that several managers ("processes") work on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from asgi_session import Session, SessionManager
from asgi_session.store import Store
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import FaultStore, ManualClock
from tests.inside import Record, credential, decoded, new_session, status_of

Event: TypeAlias = tuple[str, str | None, dict[str, Any]]


def soon(seconds: float = 30.0) -> float:
    """Return a deadline for a store's verb."""
    return time.monotonic() + seconds


class World:
    """A store that fails on demand, a clock that stands still, and a manager; `process` makes more.

    Attributes:
        memory: the records, without the faults of `store`.
        events: what the managers told, in order, other than of loads.
        loaded: the ids of the sessions that were loaded, in order.
    """

    def __init__(self, store: Callable[[MemoryStore], Store] | None = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.memory = MemoryStore(clock=self.clock)
        self.store = FaultStore(self.memory if store is None else store(self.memory))
        self.options = options
        self.events: list[Event] = []
        self.loaded: list[str | None] = []
        self.manager = self.process()

    def process(self, **options: Any) -> SessionManager:
        """Return another manager over the same records, as another process would have."""

        def on_event(name: str, session_id: str | None, *, connection: object, **info: Any) -> None:
            if name == "loaded":  # nearly everything begins with one
                self.loaded.append(session_id)
            else:
                self.events.append((name, session_id, info))

        chosen: dict[str, Any] = {"on_event": on_event, **self.options, **options}
        return SessionManager(self.store, clock=self.clock, **chosen)

    def session(self, token: str | None = None, manager: SessionManager | None = None) -> Session:
        """Return the session of a new request that carries `token`."""
        return new_session(manager or self.manager, *([] if token is None else [token]))

    async def load(self, token: str, manager: SessionManager | None = None) -> Session:
        return await self.session(token, manager).load()

    async def new(self, **values: Any) -> str:
        """Create a session of `values` ({"old": 1}) whose cookie has come back once; return its token."""
        session = await self.session().load()
        session.update(values or {"old": 1})
        await session.commit()
        token = credential(session)
        await self.load(token)
        await self.manager.drain()
        self.events.clear()
        self.store.calls.clear()
        return token

    async def read(self, token: str) -> dict[str, Any] | None:
        """Return what a new request finds under `token`, through a process of its own; None for nothing."""
        manager = SessionManager(self.memory, clock=self.clock)
        session = await self.session(token, manager).load()
        await manager.drain()
        return dict(session) if status_of(session) == "live" else None

    async def record(self, token: str) -> Record | None:
        """Return the stored record of a token or a selector, whoever may open it."""
        stored = await self.memory.load(token[:22], deadline=soon())
        return decoded(stored.data) if stored is not None else None

    async def expiry(self, token: str) -> int:
        stored = await self.memory.load(token[:22], deadline=soon())
        assert stored is not None
        return stored.expires_at

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the infos of the events of that name."""
        return [info for event, _, info in self.events if event == name]


async def settle(ticks: int = 30) -> None:
    """Let the event loop run what is ready."""
    for _ in range(ticks):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Poll until `condition` holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


def start(work: Awaitable[Any]) -> asyncio.Task[Any]:
    """Run `work` beside the test."""
    return asyncio.ensure_future(work)  # type: ignore[return-value]


def take_one(draft: Session) -> bool:
    """Decrement if above zero."""
    if draft["stock"] <= 0:
        return False
    draft["stock"] -= 1
    return True


async def take_one_slowly(draft: Session) -> bool:
    stock = draft["stock"]
    await asyncio.sleep(0)
    if stock <= 0:
        return False
    draft["stock"] = stock - 1
    return True

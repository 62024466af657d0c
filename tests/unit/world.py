"""A manager over a store in memory, a clock that stands still, and requests without a server.

The only place where these tests reach for what the middleware uses of sessions and managers.
"""

from __future__ import annotations

from typing import Any

from asgi_session import Session, SessionManager
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import FaultStore, ManualClock
from tests.inside import commit, credential, new_session, owed_by, seal

START = 1_790_000_000_000


class World:
    """One store, one manager, and everything that it has reported."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock(START)
        self.memory = MemoryStore(clock=self.clock)
        self.store = FaultStore(self.memory)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.manager = SessionManager(self.store, clock=self.clock, on_event=self._note, **options)

    def _note(self, name: str, session_id: str | None, *, connection: object, **info: Any) -> None:
        self.events.append((name, info))

    def names(self) -> list[str]:
        """Return the names of the events so far."""
        return [name for name, _ in self.events]

    def request(self, cookie: str | None = None) -> Session:
        """Return the session of a new request that carries `cookie`."""
        return new_session(self.manager, *([] if cookie is None else [cookie]))

    async def load(self, cookie: str | None = None) -> Session:
        """Return the loaded session of a new request."""
        return await self.request(cookie).load()

    async def respond(self, session: Session) -> None:
        """Do what happens when the request's response starts."""
        await commit(self.manager, session, explicit=False)

    def seal(self, session: Session) -> None:
        """Have the headers leave."""
        seal(session)

    def cookie(self, session: Session) -> str:
        """Return the cookie that a response would set for this session."""
        return credential(session)

    def owed(self, session: Session) -> str:
        """Return which Set-Cookie the response carries: "nothing", "cookie" or "deletion"."""
        return owed_by(session)

    async def create(self, **values: Any) -> str:
        """Create a session with `values`, as another client's request; return its cookie."""
        session = await self.load()
        session.update(values)
        await session.commit()
        assert owed_by(session) == "cookie"
        cookie = self.cookie(session)
        await self.load(cookie)  # the first visit confirms it
        await self.manager.drain()
        self.store.calls.clear()
        self.events.clear()
        return cookie

    async def write(self, cookie: str, **values: Any) -> None:
        """Have another request set values; None deletes."""
        session = await self.load(cookie)
        for key, value in values.items():
            if value is None:
                session.pop(key, None)
            else:
                session[key] = value
        await session.commit()

    async def stored(self, cookie: str) -> dict[str, Any]:
        """Return what a new request reads."""
        return dict(await self.load(cookie))

"""The lock is a field of the record: any store that compares and sets carries it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from asgi_session import (
    LockLost,
    LockTimeout,
    SessionGone,
    SessionManager,
    SessionMiddleware,
    load_session,
)
from asgi_session.store import Store
from asgi_session.testing._suite.base import Suite
from asgi_session.testing.faults import FaultStore

SHORT = 0.1
"""Seconds: the shortest lease that can be asked for."""


class Browser:
    """Makes requests that change its session, whichever process answers, and keeps the cookie."""

    def __init__(self) -> None:
        self._cookie = b""

    async def visit(self, manager: SessionManager, **values: Any) -> str:
        """Set keys of the session; return its id."""
        ids: list[str | None] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            session = await load_session(Request(scope))
            session.update(values)
            await session.commit()
            ids.append(session.id)
            await Response()(scope, receive, send)

        async def receive() -> Message:
            return {"type": "http.request"}

        async def send(message: Message) -> None:
            for name, value in message.get("headers", ()):
                if name == b"set-cookie":
                    self._cookie = value.partition(b";")[0]

        headers = [(b"cookie", self._cookie)] if self._cookie else []
        about = {"type": "http", "method": "POST", "scheme": "https", "path": "/", "query_string": b""}
        await SessionMiddleware(app, manager)({**about, "headers": headers}, receive, send)
        (session_id,) = ids
        assert session_id is not None, "the session was not stored"
        return session_id


class LockTests(Suite):
    """Managers stand for processes: each holds locks, and waits for them, under a name of its own."""

    def manager(self, store: Store) -> SessionManager:
        """Return a manager that goes by the store's clock."""
        return SessionManager(store, clock=self.now, deadline=self.timeout)

    async def counter(self, store: Store, browser: Browser | None = None) -> str:
        """Create a session with ``n`` of 0; return its id."""
        return await (browser or Browser()).visit(self.manager(store), n=0)

    async def read(self, store: Store, key: str) -> object:
        """Return ``n`` as it is stored."""
        async with self.manager(store).lock(key, wait=self.timeout) as session:
            return session["n"]

    async def lose(self, store: Store, key: str, meanwhile: Callable[[], Any]) -> None:
        """Hold the lock in a process that hears nothing of the store any more, so that its lease runs out.

        Then await `meanwhile`, let the process hear again, and have it save: that must be refused.
        """
        faults = FaultStore(store)
        manager = self.manager(faults)
        try:
            async with manager.lock(key, wait=self.timeout, lease=SHORT) as session:
                # Renewed once, and since then the lease is as short as asked for.
                renewed = faults.pause("save", when="after", times=None)
                await renewed.reached()
                await meanwhile()
                faults.heal()
                session["n"] = 99
        except LockLost:
            pass
        else:
            raise AssertionError("it was saved")
        finally:
            faults.heal()
            await manager.drain()

    async def test_locked_changes_are_all_there(self, store: Store) -> None:
        """Clients of several processes read, wait, and write what they have read plus one."""
        key = await self.counter(store)
        inside = 0

        async def client(manager: SessionManager) -> None:
            nonlocal inside
            for _ in range(3):
                async with manager.lock(key, wait=12 * self.timeout) as session:
                    inside += 1
                    assert inside == 1, "two hold the lock"
                    value = session["n"]
                    await asyncio.sleep(0)
                    session["n"] = value + 1
                    inside -= 1

        managers = [self.manager(store) for _ in range(3)]
        await asyncio.gather(*(client(manager) for manager in managers for _ in range(4)))
        assert await self.read(store, key) == 36
        for manager in managers:
            await manager.drain()

    async def test_a_lock_that_is_held_is_waited_for(self, store: Store) -> None:
        """No longer than asked for; and who waits is let in when it is released."""
        key = await self.counter(store)
        faults = FaultStore(store)
        first, second = self.manager(store), self.manager(faults)
        order: list[str] = []

        async def wait() -> None:
            async with second.lock(key, wait=self.timeout) as session:
                order.append("second")
                session["n"] += 10

        async with first.lock(key) as session:
            for manager in (first, second):
                try:
                    async with manager.lock(key, wait=0):
                        raise AssertionError("two hold the lock")
                except LockTimeout:
                    pass
            await second.drain()
            queued = faults.pause("save", when="after")
            waiting = asyncio.ensure_future(wait())
            await queued.reached()
            queued.release()
            order.append("first")
            session["n"] += 1
        await waiting
        assert order == ["first", "second"]
        assert await self.read(store, key) == 11

    async def test_a_save_under_a_lock_that_has_passed_on_is_refused(self, store: Store) -> None:
        """The fence is compared with the very write that it protects, whether the lock is held or free."""

        async def to_a_holder(key: str) -> None:
            other = self.manager(store).lock(key, wait=2 * self.timeout)
            await self.lose(store, key, other.__aenter__)
            await other.__aexit__(None, None, None)

        async def to_nobody(key: str) -> None:
            await self.lose(store, key, lambda: self.read(store, key))

        keys = [await self.counter(store), await self.counter(store)]
        await asyncio.gather(to_a_holder(keys[0]), to_nobody(keys[1]))
        assert [await self.read(store, key) for key in keys] == [0, 0]

    async def test_a_holder_that_has_died(self, store: Store) -> None:
        """It is watched for the length of its lease, then the first in line gets the lock."""
        key = await self.counter(store)

        async def take() -> None:
            async with self.manager(store).lock(key, wait=self.timeout) as session:
                session["n"] = 1

        await self.lose(store, key, take)
        assert await self.read(store, key) == 1

    async def test_a_lock_is_kept_by_whoever_else_writes(self, store: Store) -> None:
        """Ordinary commits merge, and leave the lock with its holder."""
        browser = Browser()
        key = await self.counter(store, browser)
        async with self.manager(store).lock(key, wait=self.timeout) as session:
            other = self.manager(store)
            assert await browser.visit(other, other=True) == key
            await other.drain()
            session["n"] = 1
        async with self.manager(store).lock(key, wait=self.timeout) as session:
            assert dict(session) == {"n": 1, "other": True}

    async def test_a_lock_ends_with_its_session(self, store: Store) -> None:
        """Who waits for it, or comes later, is told that the session is gone."""
        key = await self.counter(store)
        async with self.manager(store).lock(key, wait=self.timeout) as session:
            session.destroy()
        try:
            async with self.manager(store).lock(key, wait=self.timeout):
                raise AssertionError("it was locked")
        except SessionGone:
            pass

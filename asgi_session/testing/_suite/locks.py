"""The lock is a field of the record: any store that compares and sets carries it."""

from __future__ import annotations

import asyncio
import time

from asgi_session import lease as leases
from asgi_session import record as records
from asgi_session.errors import LockLost, LockTimeout, SessionGone
from asgi_session.lease import Lease
from asgi_session.manager import SessionManager
from asgi_session.session import Session
from asgi_session.store import Saved, Store
from asgi_session.testing._suite.base import Suite


class LockTests(Suite):
    """Managers stand for processes: each holds locks, and waits for them, under a name of its own."""

    def manager(self, store: Store) -> SessionManager:
        """Return a manager that goes by the store's clock."""
        return SessionManager(store, clock=self.now, deadline=self.timeout)

    async def counter(self, store: Store) -> str:
        """Create a session with ``n`` of 0; return its id."""
        session = await Session(self.manager(store)).load()
        session["n"] = 0
        await session.commit()
        assert session.id is not None
        return session.id

    async def read(self, store: Store, key: str) -> object:
        """Return ``n`` as it is stored."""
        async with self.manager(store).lock(key, wait=self.timeout) as session:
            return session["n"]

    async def write_lock(self, store: Store, key: str, lease: Lease | None) -> None:
        """Write a lock into the record, as another process would."""
        deadline = time.monotonic() + self.timeout
        stored = await store.load(key, deadline=deadline)
        assert stored is not None
        record = records.next_version(records.decode(stored.data), self.now())
        data = records.encode(leases.write(record, lease))
        answer = await store.save(key, data, stored.expires_at, expect=stored.tag, deadline=deadline)
        assert isinstance(answer, Saved), "nobody else writes it"

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
        first, second = self.manager(store), self.manager(store)
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
            waiting = asyncio.ensure_future(wait())
            rooms = second._loops.current().rooms
            while rooms._rooms.get(key) is None:  # noqa: ASYNC110  # no event to wait for
                await asyncio.sleep(0.001)
            order.append("first")
            session["n"] += 1
        await waiting
        assert order == ["first", "second"]
        assert await self.read(store, key) == 11

    async def test_a_save_under_a_lock_that_has_passed_on_is_refused(self, store: Store) -> None:
        """The fence is compared with the very write that it protects."""
        key = await self.counter(store)
        for lease in (Lease(b"somebody", 99, self.now(), 20), None):
            try:
                async with self.manager(store).lock(key, wait=self.timeout) as session:
                    await self.write_lock(store, key, lease)
                    session["n"] = 99
            except LockLost:
                pass
            else:
                raise AssertionError("it was saved")
            assert await self.read(store, key) == 0

    async def test_a_holder_that_has_died(self, store: Store) -> None:
        """It is watched for the length of its lease, then the first in line gets the lock."""
        key = await self.counter(store)
        await self.write_lock(store, key, Lease(b"somebody", 99, self.now() + 3_600_000, self.short_ms))
        async with self.manager(store).lock(key, wait=self.timeout) as session:
            session["n"] = 1
        assert await self.read(store, key) == 1

    async def test_a_lock_is_kept_by_whoever_else_writes(self, store: Store) -> None:
        """Ordinary commits merge, and leave the lock with its holder."""
        key = await self.counter(store)
        async with self.manager(store).lock(key, wait=self.timeout) as session:
            stored = await store.load(key, deadline=time.monotonic() + self.timeout)
            assert stored is not None
            record = records.next_version(records.decode(stored.data), self.now())
            data = records.encode(record._replace(entries={**record.entries, "other": b"\x01"}))
            await store.save(
                key, data, stored.expires_at, expect=stored.tag, deadline=time.monotonic() + self.timeout
            )
            session["n"] = 1
        async with self.manager(store).lock(key, wait=self.timeout) as session:
            assert dict(session) == {"n": 1, "other": 1}

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

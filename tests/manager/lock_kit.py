"""What the tests of the lock share: clients in line, and locks of somebody else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import Session, SessionManager
from tests.inside import Lease, changed, is_busy_with, lease_in, rewrite, waiters_for, with_lease
from tests.manager.kit import World, start, until

SOMEBODY = b"somebody"


async def lease_of(world: World, token: str) -> Lease | None:
    record = await world.record(token)
    assert record is not None
    return lease_in(record)


async def put(world: World, token: str, lease: Lease | None) -> None:
    """Write a lock into the record, as another process would have."""
    await rewrite(world.memory, token[:22], lambda record: with_lease(record, lease), world.clock())


async def held_by_somebody(world: World, token: str, length: int = 60_000, **fields: Any) -> Lease:
    lease: Lease = changed(Lease(SOMEBODY, 99, world.clock() + length, length), **fields)
    await put(world, token, lease)
    return lease


async def self_increment(session: Session) -> None:
    async with session.lock():
        session["n"] += 1


class Line:
    """Clients that increment ``n`` under the lock, and note the order in which they got in."""

    def __init__(self, world: World, token: str) -> None:
        self.world = world
        self.token = token
        self.entered: list[str] = []
        self.inside = 0

    async def client(self, name: str, manager: SessionManager, gate: asyncio.Event | None = None) -> None:
        session = await self.world.load(self.token, manager)
        async with session.lock():
            self.entered.append(name)
            self.inside += 1
            assert self.inside == 1, "two are inside"
            value = session["n"]
            if gate is not None:
                await gate.wait()
            await asyncio.sleep(0)
            session["n"] = value + 1
            self.inside -= 1

    async def queue(self, name: str, manager: SessionManager) -> asyncio.Task[None]:
        """Start a client, and wait until it stands in line."""
        before = waiters_for(manager, self.token)
        task = start(self.client(name, manager))
        await until(
            lambda: waiters_for(manager, self.token) > before and not is_busy_with(manager, self.token)
        )
        return task


class Gate:
    """A store's saves wait here, from when it is made until it is opened."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = asyncio.Event()
        for name in ("save", "save_and_wake"):
            monkeypatch.setattr(world.store, name, self._waiting(getattr(world.store, name)))

    def _waiting(self, verb: Any) -> Any:
        async def wait(*arguments: Any, **options: Any) -> Any:
            await self.opened.wait()
            return await verb(*arguments, **options)

        return wait

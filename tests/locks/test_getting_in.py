"""Getting into the line of a lock whose record changes all the time."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from asgi_session import Session, SessionManager
from asgi_session.stores.redis import RedisStore
from tests.inside import new_session
from tests.manager.kit import credential
from tests.servers import ServerProcess


class Process:
    """A manager with connections of its own, as another process has."""

    def __init__(self, url: str) -> None:
        self.store = RedisStore.from_url(url)
        self.manager = SessionManager(self.store, deadline=10)

    async def load(self, token: str) -> Session:
        return await new_session(self.manager, token).load()

    async def close(self) -> None:
        await self.manager.close()
        await self.store.close()


@pytest.mark.parametrize("what", ["lock", "commit", "transact"])
async def test_a_lock_in_steady_use_lets_others_in(valkey: ServerProcess, what: str) -> None:
    """A process whose save meets a newer version again and again must win soon: others save all the time.

    What is sent after a pause must be based on what is there after the pause; else the chance of each
    try falls with the length of the pauses, and the process waits for seconds.
    """
    busy, other = Process(valkey.url), Process(valkey.url)
    session = await busy.load("")
    session["count"] = 0
    await session.commit()
    token = credential(session)
    over = False

    async def client() -> None:
        while not over:
            session = await busy.load(token)
            async with session.lock():
                session["count"] += 1

    work = asyncio.create_task(client())
    longest = 0.0
    try:
        for number in range(100):
            session = await other.load(token)
            began = time.monotonic()
            if what == "lock":
                async with session.lock():
                    session["other"] = number
            elif what == "commit":
                session["other"] = number
                await session.commit()
            else:
                await session.transact(lambda draft: draft.update(other=number))  # noqa: B023
            longest = max(longest, time.monotonic() - began)
    finally:
        over = True
        await work
        await busy.close()
        await other.close()
    assert longest < 2.0, f"one of 100 took {longest:.2f} s"


async def test_sessions_that_are_kept(valkey: ServerProcess) -> None:
    """A session that is locked again waits for no queue that its process has left since.

    It still has the record as of its last release, which may have put its process into the queue.
    """
    processes = [Process(valkey.url) for _ in range(3)]
    session = await processes[0].load("")
    session["count"] = 0
    await session.commit()
    token = credential(session)
    longest = 0.0
    end = time.monotonic() + 3.0

    async def client(process: Process, rng: random.Random) -> None:
        nonlocal longest
        session = await process.load(token)
        while (now := time.monotonic()) < end:
            async with session.lock():
                longest = max(longest, time.monotonic() - now)
                session["count"] += 1
            await asyncio.sleep(rng.uniform(0, 0.01))

    try:
        clients = [client(process, random.Random(number)) for process in processes for number in range(3)]
        await asyncio.gather(*clients)
    finally:
        for process in processes:
            await process.close()
    assert longest < 1.5, f"one waited for {longest:.2f} s"

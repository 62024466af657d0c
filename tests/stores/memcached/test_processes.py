"""Two processes on one set of servers: nothing is lost, and nothing that was destroyed comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.inside import NOBODY, record_in, status_of
from tests.manager.kit import credential, soon
from tests.manager.processes import Process
from tests.manager.worker import Worker
from tests.servers import MemcachedProcess


@pytest.fixture(scope="module")
def processes(shared_memcached: MemcachedProcess) -> Iterator[list[Process]]:
    made = [Process(shared_memcached.url) for _ in range(2)]
    yield made
    for process in made:
        process.end()


async def new(worker: Worker) -> str:
    """Create a session; return its token."""
    session = await worker.load("")
    session["old"] = 1
    await session.commit()
    return credential(session)


async def test_five_hundred_writes(memcached: MemcachedProcess, processes: list[Process]) -> None:
    """Two processes with 10 clients each write 500 keys of one session; all survive."""
    worker = Worker(memcached.url)
    token = await new(worker)
    for name, process in zip("ab", processes, strict=True):
        process.send("write", token=token, prefix=name, clients=10, each=25)
    for process in processes:
        await process.answer()
    found = await worker.load(token)
    assert set(found) == {"old"} | {f"{name}{c}.{t}" for name in "ab" for c in range(10) for t in range(25)}
    await worker.manager.close()
    await worker.store.close()


async def test_a_destroy_that_races_writes(memcached: MemcachedProcess, processes: list[Process]) -> None:
    """200 sessions destroyed while two processes write to them stay dead; many writers were in the middle."""
    worker = Worker(memcached.url)
    told = Counter[str]()
    for chunk in range(4):
        tokens = await asyncio.gather(*(new(worker) for _ in range(50)))
        for number, process in enumerate(processes):
            process.send("race", tokens=tokens, destroy=number, seed=2 * chunk + number)
        for process in processes:
            told.update(await process.answer())
        for token in tokens:
            assert status_of(await worker.load(token)) in ("detached", "new")
            stored = await worker.store.load(token[:22], deadline=soon())
            assert stored is not None
            record = record_in(worker.manager, token[:22], stored.data)
            assert record.digest == NOBODY
            assert record.entries == {}
    assert told["dropped"] > 50, "they overlapped"
    await worker.manager.close()
    await worker.store.close()

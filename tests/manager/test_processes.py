"""Two real processes and a real cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.inside import NOBODY, record_in, status_of
from tests.manager.kit import credential, soon
from tests.manager.processes import Process
from tests.manager.worker import Worker
from tests.servers import Cluster


@pytest.fixture(
    params=[(), ("an old key, of at least 32 bytes", "a new key, of at least 32 bytes!")],
    ids=["plain", "sealed"],
)
def keys(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """No keys, or two: one process then seals with the one, and one with the other."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def processes(cluster: Cluster, keys: tuple[str, ...]) -> Iterator[list[Process]]:
    made = [Process(cluster.url, *keys), Process(cluster.url, *keys[::-1])]
    yield made
    for process in made:
        process.end()


async def new(worker: Worker) -> str:
    """Create a session; return its token."""
    session = await worker.load("")
    session["old"] = 1
    await session.commit()
    return credential(session)


async def test_two_thousand_writes(cluster: Cluster, processes: list[Process], keys: tuple[str, ...]) -> None:
    """Promise 4: two processes with 32 clients each write 2,000 keys of one session; all survive."""
    worker = Worker(cluster.url, *keys)
    token = await new(worker)
    before = cluster.commandstats()
    for name, process in zip("ab", processes, strict=True):
        process.send("write", token=token, prefix=name, clients=32, each=32)
    for process in processes:
        await process.answer()
    found = await worker.load(token)
    assert set(found) == {"old"} | {f"{name}{c}.{t}" for name in "ab" for c in range(32) for t in range(32)}
    after = cluster.commandstats()
    # A script that saves is counted, and the SET in it.
    saves = sum(after.get(name, 0) - before.get(name, 0) for name in ("set", "evalsha"))
    assert saves < 1_000, "they left merged"
    await worker.manager.close()
    await worker.store.close()


async def test_a_destroy_that_races_writes(
    cluster: Cluster, processes: list[Process], keys: tuple[str, ...]
) -> None:
    """Promise 5: 1,000 sessions destroyed while two processes write to them stay dead."""
    worker = Worker(cluster.url, *keys)
    told = Counter[str]()
    for chunk in range(20):
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
    assert told["saved"] > 500, "nobody was early"
    assert told["dropped"] > 500, "nobody was late"
    await worker.manager.close()
    await worker.store.close()

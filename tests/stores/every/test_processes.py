"""Two processes on the same sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.inside import NOBODY, record_in, status_of
from tests.manager.kit import credential
from tests.manager.processes import Process
from tests.stores.every.kinds import Kind, in_a_server, over
from tests.stores.every.site import Site, soon
from tests.stores.every.worker import Worker


@pytest.fixture
async def processes(site: Site) -> AsyncIterator[list[Process]]:
    def start() -> Process:
        return Process(site.kind.name, site.url, module="tests.stores.every.worker")

    made = await asyncio.gather(asyncio.to_thread(start), asyncio.to_thread(start))
    yield made
    await asyncio.gather(*(asyncio.to_thread(process.end) for process in made))


@over(in_a_server)
async def test_writes_and_endings(kind: Kind, site: Site, processes: list[Process]) -> None:
    """Promises 4 and 5: of 500 writes of two processes none is lost; of 200 sessions that one of them
    destroys while the other writes to them none is revived."""
    worker = Worker(kind.name, site.url)
    site.made.append(worker.store)
    await check_writes(worker, processes, 10)
    await check_endings(worker, processes, 10)
    await worker.manager.drain()


async def new(worker: Worker) -> str:
    """Create a session; return its token."""
    session = await worker.load("")
    session["old"] = 1
    await session.commit()
    return credential(session)


async def both(processes: list[Process], do: str, *orders: dict[str, Any]) -> list[dict[str, Any]]:
    """Give each process an order, and return their answers."""
    for process, order in zip(processes, orders, strict=True):
        process.send(do, **order)
    return await asyncio.gather(*(process.answer() for process in processes))


async def check_writes(worker: Worker, processes: list[Process], rounds: int) -> None:
    token = await new(worker)
    order = {"token": token, "clients": 25, "each": rounds}
    await both(processes, "write", {**order, "prefix": "a"}, {**order, "prefix": "b"})
    wanted = {f"{name}{client}.{turn}" for name in "ab" for client in range(25) for turn in range(rounds)}
    assert set(await worker.load(token)) == {"old"} | wanted


async def check_endings(worker: Worker, processes: list[Process], rounds: int) -> None:
    overlapped = 0
    for _ in range(rounds):
        tokens = await asyncio.gather(*(new(worker) for _ in range(20)))
        await both(processes, "meet", {"tokens": tokens}, {"tokens": tokens})
        one, other = await both(processes, "race", {"destroys": 0}, {"destroys": 1})
        assert one["destroyed"].keys() | other["destroyed"].keys() == {token[:22] for token in tokens}
        for here, there in ((one, other), (other, one)):
            for key, (began, ended) in here["destroyed"].items():
                overlapped += any(start < ended and began < end for start, end in there["saved"][key])
        for token in tokens:
            stored = await worker.store.load(token[:22], deadline=soon())
            assert stored is not None
            record = record_in(worker.manager, token[:22], stored.data)
            assert (record.digest, record.entries) == (NOBODY, {})
        assert status_of(await worker.load(tokens[0])) in ("detached", "new")
    print(f"{overlapped} of {20 * rounds} destroys overlapped with a save of the other process")
    assert overlapped >= 5 * rounds, "they hardly met"

"""`transact` from 64 clients in four processes, on one session."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.locks.processes import Process
from tests.locks.transacting import Transacting
from tests.manager.kit import credential
from tests.servers import LossyProxy, ServerProcess, saves

# Four processes take a second to start: the tests share them, and with them an event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")
MODULE = "tests.locks.transacting"


class Crowd:
    """Four processes and a session; each process has a quarter of the clients.

    Attributes:
        proxies: what the processes work through.
    """

    def __init__(self, server: ServerProcess, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.own = Transacting(server.url)
        self.proxies = [LossyProxy(server) for _ in range(4)]
        self.processes: list[Process] = []
        self.token = ""

    async def open(self) -> None:
        for proxy in self.proxies:
            await proxy.accept()
        self.processes = [Process(MODULE, proxy.url) for proxy in self.proxies]
        await asyncio.gather(*(process.ready() for process in self.processes))

    async def close(self) -> None:
        for process in self.processes:
            await asyncio.to_thread(process.end)
        for proxy in self.proxies:
            await proxy.refuse()
        await self.own.close()

    async def new(self, **values: Any) -> None:
        """Go on with a session of these values, and with proxies that let everything through."""
        for proxy in self.proxies:
            proxy.cut_no_more()
        session = await self.own.load("")
        session.update(values)
        await session.commit()
        self.token = credential(session)

    async def all(self, do: str, *, clients: int, each: int, asynchronous: bool) -> Counter[str]:
        """Have `clients` in all carry out an order; return what they were told."""
        share = {"clients": clients // 4, "each": each, "asynchronous": asynchronous}
        answers = await asyncio.gather(*(p.ask(do, token=self.token, **share) for p in self.processes))
        told = sum((Counter(answer) for answer in answers), Counter[str]())
        kind = "async def" if asynchronous else "plain"
        succeeded = told["added"] + told["sold"] + told["sold_out"]
        retries = (told["runs"] - succeeded) / succeeded
        counts = ", ".join(f"{name} {count}" for name, count in sorted(told.items()))
        self.tell(f"transact, {kind}, {clients} clients: {retries:.2f} retries per success; {counts}")
        return told

    async def value(self, key: str) -> int:
        return (await self.own.load(self.token)).get(key, 0)  # type: ignore[no-any-return]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowd(shared_valkey: ServerProcess, tell: Callable[[str], None]) -> AsyncIterator[Crowd]:
    crowd = Crowd(shared_valkey, tell)
    try:
        await crowd.open()
        yield crowd
    finally:
        await crowd.close()


async def test_a_counter_of_plain_functions(crowd: Crowd) -> None:
    """Every increment of 64 clients in four processes counts, and hardly any is computed again."""
    await crowd.new(count=0)
    told = await crowd.all("add", clients=64, each=25, asynchronous=False)
    assert told["added"] == 64 * 25 == await crowd.value("count")
    assert told["runs"] < 10 * told["added"]


async def test_a_counter_of_async_functions(crowd: Crowd) -> None:
    """Optimistic transactions repeat, and each counts once."""
    await crowd.new(count=0)
    told = await crowd.all("add", clients=8, each=10, asynchronous=True)
    assert told["added"] == 8 * 10 == await crowd.value("count")


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_stock_is_sold_once(crowd: Crowd, asynchronous: bool) -> None:
    """Of a stock of 60 exactly 60 are sold, whoever asks for more, and it never falls below zero."""
    clients, each = (8, 12) if asynchronous else (64, 5)
    await crowd.new(left=60)
    told = await crowd.all("buy", clients=clients, each=each, asynchronous=asynchronous)
    assert told["sold"] == 60
    assert told["sold_out"] == clients * each - 60
    assert await crowd.value("left") == 0
    assert await crowd.value("sold") == 60


async def test_replies_that_are_lost(crowd: Crowd) -> None:
    """Promise 7: with replies lost all the time a transaction counts once, or its outcome is unknown.

    The record remembers its last 8 versions. A process that needs longer to connect again than the
    others need for 8 saves cannot tell any more; each lost reply is that of one save, so at most the
    16 clients of one process don't know on its account.
    """
    await crowd.new(count=0)
    lost = 0

    async def lose(proxy: LossyProxy) -> None:
        nonlocal lost
        while True:
            await proxy.cut_after(saves, nth=7).wait()
            lost += 1

    losses = [asyncio.create_task(lose(proxy)) for proxy in crowd.proxies]
    try:
        told = await crowd.all("add", clients=64, each=25, asynchronous=False)
    finally:
        for loss in losses:
            loss.cancel()
        await asyncio.gather(*losses, return_exceptions=True)
    crowd.tell(f"replies lost: {lost}")
    assert lost >= 20, "too few to show anything"
    assert set(told) <= {"runs", "added", "unknown"}
    assert told["added"] + told["unknown"] == 64 * 25
    assert told["added"] <= await crowd.value("count") <= told["added"] + told["unknown"]
    assert told["unknown"] <= 16 * lost
    assert told["unknown"] < 64 * 25 / 2, "finding out is the rule"


async def test_a_stock_whose_buyers_hear_nothing(crowd: Crowd) -> None:
    """Promise 7: with lost replies what is gone from the stock is what was sold, to the piece."""
    await crowd.new(left=200)
    for proxy in crowd.proxies:
        for nth in range(3, 60, 6):
            proxy.cut_after(saves, nth=nth)
    told = await crowd.all("buy", clients=64, each=5, asynchronous=False)
    sold = await crowd.value("sold")
    assert await crowd.value("left") == 200 - sold >= 0
    assert told["sold"] <= sold <= told["sold"] + told["unknown"]
    assert told["sold"] + told["sold_out"] + told["unknown"] == 320

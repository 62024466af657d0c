"""Two browsers of one user, three processes, and a real cluster."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.servers import Cluster

KEYS = ("an old key, of at least 32 bytes", "a new key, of at least 32 bytes!")


class Process:
    """A server process."""

    def __init__(self, url: str, *keys: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.app.devices", url, *keys],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the process has died; its error is above"
        self.url = f"http://127.0.0.1:{line}"

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@pytest.fixture(params=[(), KEYS], ids=["plain", "sealed"])
def processes(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[list[Process]]:
    """Three processes; with keys, one of them seals with another key than the others."""
    orders: list[tuple[str, ...]] = [request.param, request.param, request.param[::-1]]
    made: list[Process] = []
    try:
        made.extend(Process(cluster.url, *keys) for keys in orders)
        yield made
    finally:
        for process in made:
            process.end()


class Browser:
    """A browser that asks a process of the test's choice."""

    def __init__(self, name: str, processes: list[Process]) -> None:
        self._client = httpx2.AsyncClient(headers={"user-agent": name}, timeout=30)
        self._processes = processes

    async def ask(self, process: int, method: str, path: str) -> Any:
        answer = await self._client.request(method, self._processes[process].url + path)
        assert answer.status_code in (200, 204), answer.text
        return answer.json() if answer.content else None

    async def close(self) -> None:
        await self._client.aclose()


async def test_two_browsers_and_three_processes(processes: list[Process]) -> None:
    """Promise 5: signed in on any, listed on any, revoked on any: the next request on any is nobody's."""
    phone, desktop = Browser("phone", processes), Browser("desktop", processes)
    for number, (first, second, third) in enumerate(itertools.product(range(3), repeat=3)):
        user = f"user {number}"
        await phone.ask(first, "POST", f"/login/{user}")
        await desktop.ask(second, "POST", f"/login/{user}")
        mine = (await phone.ask(third, "GET", "/me"))["id"]
        theirs = (await desktop.ask(third, "GET", "/me"))["id"]
        for process in range(3):
            seen = [await browser.ask(process, "GET", "/devices") for browser in (phone, desktop)]
            assert sorted(seen[0]) == sorted([[mine, "phone", True], [theirs, "desktop", False]])
            assert sorted(seen[1]) == sorted([[mine, "phone", False], [theirs, "desktop", True]])
        assert await phone.ask(third, "POST", f"/revoke/{theirs}") is True
        # Every process gets its next request at the same moment: none has to be told first.
        answers = await asyncio.gather(*(desktop.ask(process, "GET", "/me") for process in range(3)))
        assert answers == [{"id": None}] * 3
        assert await phone.ask(second, "POST", f"/revoke/{theirs}") is False
        for process in range(3):
            assert await phone.ask(process, "GET", "/devices") == [[mine, "phone", True]]
    await phone.close()
    await desktop.close()


async def test_all_others_and_a_stranger(processes: list[Process]) -> None:
    """All others end, whichever process they came from; an id of another user's does nothing."""
    browsers = [Browser(f"device {number}", processes) for number in range(9)]
    stranger = Browser("stranger", processes)
    await stranger.ask(0, "POST", "/login/bob")
    await asyncio.gather(*(one.ask(number % 3, "POST", "/login/ada") for number, one in enumerate(browsers)))
    keeper, *others = browsers
    listed = await keeper.ask(1, "GET", "/devices")
    assert sorted(name for _, name, _ in listed) == [f"device {number}" for number in range(9)]
    answers = [await stranger.ask(n % 3, "POST", f"/revoke/{one[0]}") for n, one in enumerate(listed)]
    assert answers == [False] * 9
    assert await keeper.ask(2, "GET", "/devices") == listed
    assert await keeper.ask(2, "POST", "/others") == 8
    seen = await asyncio.gather(*(one.ask(n % 3, "GET", "/me") for n, one in enumerate(others)))
    assert seen == [{"id": None}] * 8
    for process in range(3):
        assert [name for _, name, _ in await keeper.ask(process, "GET", "/devices")] == ["device 0"]
        assert (await stranger.ask(process, "GET", "/me"))["user"] == "bob"
    for one in (*browsers, stranger):
        await one.close()

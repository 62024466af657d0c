"""Event loops that end in every way, several processes on one file, and cancelled verbs on SQLite."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from asgi_session.clock import system_clock
from asgi_session.store import Saved, Stored
from asgi_session.stores.sql import SQLStore
from tests.servers.sql import SERVERS, SQLServer
from tests.stores.sql.helpers import in_time, new_data, new_key

FAR = system_clock() + 3_600_000


@pytest.fixture(params=[*SERVERS, "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    found: SQLServer = request.getfixturevalue(request.param)
    return found.url


async def record(store: SQLStore) -> tuple[str, Stored]:
    key, data = new_key(), new_data()
    assert isinstance(await store.create(key, data, FAR, deadline=in_time()), Saved)
    return key, Stored(data, data[:16], FAR)


def test_a_loop_that_is_just_closed(url: str) -> None:
    """The next one frees its connections, and has its own."""
    store = SQLStore.from_url(url)
    asyncio.run(store.create_schema())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            loop = asyncio.new_event_loop()
            key, stored = loop.run_until_complete(record(store))
            assert loop.run_until_complete(store.load(key, deadline=in_time())) == stored
            loop.close()  # without `shutdown_asyncgens`
            gc.collect()

        async def last() -> None:
            assert await store.load(key, deadline=in_time()) == stored
            await store.close()

        asyncio.run(last())
        gc.collect()
    assert [str(each.message) for each in caught if "transport" not in str(each.message)] == []


async def test_cancelled_at_every_moment(url: str) -> None:
    """On SQLite the thread goes on, so the statement does, too; the connection stays in step."""
    store = SQLStore.from_url(url, pool_size=2)
    await store.create_schema()
    key, stored = await record(store)
    for moments in range(25):
        tasks = [
            asyncio.create_task(store.load(key, deadline=in_time())),
            asyncio.create_task(store.touch(key, FAR, expect=stored, deadline=in_time())),
            asyncio.create_task(store.delete(new_key(), deadline=in_time())),
        ]
        for _ in range(moments):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        assert await store.load(key, deadline=in_time()) == stored
    await store.close()


COUNTING = """
import asyncio, os, sys, time
from asgi_session.store import Saved
from asgi_session.stores.sql import SQLStore

async def main(url, key, times):
    store = SQLStore.from_url(url)

    async def count():
        version = await store.load(key, deadline=time.monotonic() + 30)
        while True:
            number = int(version.data[16:]) + 1
            data = os.urandom(16) + str(number).encode()
            result = await store.save(
                key, data, version.expires_at, expect=version, deadline=time.monotonic() + 30
            )
            if isinstance(result, Saved):
                return
            version = result.current

    for _ in range(times):
        await asyncio.gather(*(count() for _ in range(5)))
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_two_processes_lose_no_count(url: str) -> None:
    """Each compares and sets what the other has written, on one file as on a server."""
    store = SQLStore.from_url(url)
    await store.create_schema()
    key, _ = await record(store)
    loaded = await store.load(key, deadline=in_time())
    assert loaded is not None
    await store.save(key, new_data(b"0"), FAR, expect=loaded, deadline=in_time())
    command = [sys.executable, "-c", COUNTING, url, key, "10"]
    processes = [
        await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE, env={"PYTHONPATH": "."})
        for _ in range(2)
    ]
    for process in processes:
        _, error = await process.communicate()
        assert process.returncode == 0, error.decode()
    loaded = await store.load(key, deadline=in_time())
    assert loaded is not None
    assert loaded.data[16:] == b"100"
    await store.close()

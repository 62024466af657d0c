"""One store, several event loops; loops that end without `close`; forks."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from asgi_session.store import TAKEN
from asgi_session.stores.redis import RedisStore
from tests.servers import ServerProcess
from tests.stores.redis.load import in_an_hour, record, soon

KEY = "k" * 22

Run = Callable[[Any], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on a new loop of either kind."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


def clients(server: ServerProcess) -> int:
    """Return how many connections the server has, the asking one left out."""
    return int(server.info("clients")["connected_clients"]) - 1


def wait_for_clients(server: ServerProcess, count: int) -> None:
    for _ in range(1000):
        if clients(server) == count:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"{clients(server)} connections, expected {count}")


async def use(store: RedisStore, times: int = 3) -> None:
    """Save and load."""
    data = record()
    await store.delete(KEY, deadline=soon())
    assert await store.create(KEY, data, in_an_hour(), deadline=soon()) is not TAKEN
    for _ in range(times):
        found = await asyncio.gather(*(store.load(KEY, deadline=soon()) for _ in range(20)))
        assert {each.data for each in found if each} == {data}


def test_loops_one_after_another(fresh_valkey: ServerProcess, run: Run) -> None:
    """Each loop gets a connection of its own, and leaves none behind, closed or not."""
    store = RedisStore.from_url(fresh_valkey.url)
    for _ in range(3):
        run(use(store))
    wait_for_clients(fresh_valkey, 0)

    async def use_and_close() -> None:
        await use(store)
        await store.close()
        await store.close()
        await use(store)  # a closed store opens again

    run(use_and_close())
    wait_for_clients(fresh_valkey, 0)
    assert store._loops.backends == {}


def test_a_loop_that_is_just_closed(fresh_valkey: ServerProcess) -> None:
    """Without asyncio.run's tidying up: the next loop works, the old socket is freed, nothing warns."""
    store = RedisStore.from_url(fresh_valkey.url)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(store))
        loop.close()
        gc.collect()
    assert clients(fresh_valkey) <= 1
    del store
    gc.collect()
    wait_for_clients(fresh_valkey, 0)


# uvloop warns of open sockets inside loop.close(), before anybody could close them; and there it never
# returns when warnings are errors.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_uvloop_that_is_just_closed(fresh_valkey: ServerProcess) -> None:
    """The next loop works, and uvloop frees the sockets by itself."""
    store = RedisStore.from_url(fresh_valkey.url)
    for _ in range(3):
        loop = uvloop.new_event_loop()
        loop.run_until_complete(use(store))
        loop.close()
        gc.collect()
    del store
    gc.collect()
    wait_for_clients(fresh_valkey, 0)


def test_a_store_dropped_while_its_loop_runs(fresh_valkey: ServerProcess, run: Run) -> None:
    """A store that is collected closes its connection, and nothing warns."""

    async def main() -> None:
        await use(RedisStore.from_url(fresh_valkey.url))
        gc.collect()
        for _ in range(200):
            if await asyncio.to_thread(clients, fresh_valkey) == 0:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the connection is still there")

    run(main())


def test_loops_in_several_threads(fresh_valkey: ServerProcess, run: Run) -> None:
    """Threads share the store and no connection."""
    store = RedisStore.from_url(fresh_valkey.url)
    inside = threading.Barrier(4)
    seen: list[int] = []
    errors: list[BaseException] = []

    async def one(key: str) -> None:
        data = record(key)
        assert await store.create(key, data, in_an_hour(), deadline=soon()) is not TAKEN
        inside.wait(10)
        if key.startswith("0"):
            seen.append(clients(fresh_valkey))
        inside.wait(10)
        for _ in range(50):
            found = await asyncio.gather(*(store.load(key, deadline=soon()) for _ in range(20)))
            assert {each.data for each in found if each} == {data}

    def work(number: int) -> None:
        try:
            run(one(f"{number}" * 22))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert seen == [4]
    wait_for_clients(fresh_valkey, 0)


def test_an_unclosed_store_warns_of_nothing(fresh_valkey: ServerProcess) -> None:
    """A whole process under -W error, asyncio's debug mode included, says nothing at its end."""
    script = f"""
        import asyncio, logging, uvloop
        from asgi_session.stores.redis import RedisStore
        from tests.stores.redis.test_loops import use

        logging.getLogger("asyncio").setLevel("ERROR")  # a slow machine is none of its business

        first = RedisStore.from_url({fresh_valkey.url!r})
        asyncio.run(use(first), debug=True)
        uvloop.run(use(first))
        second = RedisStore.from_url({fresh_valkey.url!r})
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use(second))
        loop.close()
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_forked_child_uses_connections_of_its_own(fresh_valkey: ServerProcess) -> None:
    """What the parent has open is not used by the child, and is not closed by it either."""
    store = RedisStore.from_url(fresh_valkey.url)
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(use(store))
        assert clients(fresh_valkey) == 1
        mine = fresh_valkey.command("CLIENT", "LIST").decode().split("id=")[1].split()[0]
        pid = os.fork()
        if pid == 0:
            # The child: nothing of pytest's may run here.
            code = 1
            try:
                asyncio.events._set_running_loop(None)
                asyncio.run(use(store))
                code = 0 if store._loops.backends == {} else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        loop.run_until_complete(use(store))
        listed = fresh_valkey.command("CLIENT", "LIST").decode()
        assert f"id={mine} " in listed, "the parent's connection has been closed"
        loop.run_until_complete(store.close())
    finally:
        loop.close()


@pytest.mark.parametrize("library", ["redis", "hiredis", "fastapi"])
def test_the_package_does_not_import(library: str) -> None:
    """`import asgi_session` and the store names load neither Redis client."""
    script = f"import sys, asgi_session, asgi_session.stores; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0

"""Sentinel: the primary is asked for at every connect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Sentinel

from asgi_session.errors import StoreUnavailable
from asgi_session.store import TAKEN
from asgi_session.stores.redis import RedisStore
from tests.servers import SentinelSetup
from tests.stores.redis.load import Load, in_an_hour, record, soon
from tests.stores.redis.scripted import Answer, scripted
from tests.stores.redis.test_cluster import in_step

KEYS = [f"{n:022d}" for n in range(8)]


@pytest.fixture
async def store(fresh_sentinel: SentinelSetup) -> AsyncIterator[RedisStore]:
    store = RedisStore.from_url(fresh_sentinel.url)
    yield store
    await store.close()


async def test_an_ordered_failover_under_load(fresh_sentinel: SentinelSetup, store: RedisStore) -> None:
    """Promise 13: the old primary refuses or hangs up, the new one is found, nothing surfaces."""
    load = Load(store, KEYS)
    async with load.running():
        floors = load.mark(KEYS)
        await in_step(fresh_sentinel.primary, fresh_sentinel.replica)
        load.allow_rollback(floors)
        await asyncio.to_thread(fresh_sentinel.failover)
        await load.progress()
    assert load.worst(KEYS) < 10


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_the_primary_is_lost_under_load(
    fresh_sentinel: SentinelSetup, store: RedisStore, how: str
) -> None:
    """Promise 13: a primary that is killed or frozen is replaced within the deadline."""
    primary, replica = fresh_sentinel.primary, fresh_sentinel.replica
    load = Load(store, KEYS)
    async with load.running():
        floors = load.mark(KEYS)
        await in_step(primary, replica)
        load.allow_rollback(floors)
        getattr(primary, how)()
        await asyncio.to_thread(fresh_sentinel.wait_primary, replica)
        await load.progress()
    assert load.worst(KEYS) < 10


async def test_dead_sentinels_are_passed_over(fresh_sentinel: SentinelSetup) -> None:
    """One living sentinel is enough, wherever it stands in the list."""
    store = RedisStore.from_url(fresh_sentinel.url)
    fresh_sentinel.sentinels[0].kill()
    fresh_sentinel.sentinels[1].freeze()
    assert await store.create(KEYS[0], record(), in_an_hour(), deadline=soon()) is not TAKEN
    await store.close()


async def test_a_sentinel_object(sentinel: SentinelSetup) -> None:
    """redis-py's Sentinel tells where the sentinels are, and is left alone."""
    client = Sentinel([(each.host, each.port) for each in sentinel.sentinels])
    store = RedisStore(client, service_name=sentinel.name)
    assert await store.create(KEYS[0], record(), in_an_hour(), deadline=soon()) is not TAKEN
    await store.close()
    await client.aclose()


async def test_an_unknown_service_is_named(sentinel: SentinelSetup) -> None:
    """The error tells which service the sentinels do not know."""
    store = RedisStore.from_url(sentinel.url.replace("/mymaster", "/other"))
    with pytest.raises(StoreUnavailable, match="knows no service 'other'"):
        await store.load(KEYS[0], deadline=soon(1))
    await store.close()


def naming(port: int) -> Answer:
    """Answer as a sentinel that names the server at `port`."""
    text = b"%d" % port

    def answer(number: int, command: tuple[bytes, ...]) -> bytes:
        return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(text), text)

    return answer


async def test_closing_while_a_server_is_asked_for_its_role() -> None:
    """The connection that waits for ROLE is closed with the store, though it serves nobody yet."""
    asked = asyncio.Event()

    def silent(number: int, command: tuple[bytes, ...]) -> bytes:
        asked.set()
        return b""

    # `scripted` fails at its end if a client has left a connection open.
    async with scripted(silent) as primary, scripted(naming(primary.port)) as watcher:
        store = RedisStore.from_url(f"redis+sentinel://127.0.0.1:{watcher.port}/svc")
        loading = asyncio.create_task(store.load(KEYS[0], deadline=soon(5)))
        await asyncio.wait_for(asked.wait(), 5)
        await store.close()
        with pytest.raises(StoreUnavailable):
            await loading


@pytest.mark.parametrize(
    "reply",
    [b"*0\r\n", b"*1\r\n:5\r\n", b"*1\r\n*0\r\n", b":1\r\n", b"_\r\n", b"%1\r\n+a\r\n+b\r\n"],
)
async def test_a_role_that_makes_no_sense(reply: bytes) -> None:
    """A server that says anything but that it is the primary is not used, and the error names it."""
    async with scripted(lambda *_: reply) as primary, scripted(naming(primary.port)) as watcher:
        store = RedisStore.from_url(f"redis+sentinel://127.0.0.1:{watcher.port}/svc")
        with pytest.raises(StoreUnavailable, match=f"{primary.port} is not the primary"):
            await store.load(KEYS[0], deadline=soon(0.3))
        await store.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"*0\r\n",
        b"*1\r\n$1\r\nh\r\n",
        b"*2\r\n$1\r\nh\r\n$1\r\nx\r\n",
        b"*2\r\n$1\r\n\xff\r\n$1\r\n1\r\n",
        b"*2\r\n:1\r\n:1\r\n",
        b"*2\r\n_\r\n_\r\n",
        b":1\r\n",
    ],
)
async def test_a_sentinel_that_makes_no_sense(reply: bytes) -> None:
    """What is no address is an error of the store's, not of Python's."""
    async with scripted(lambda *_: reply) as watcher:
        store = RedisStore.from_url(f"redis+sentinel://127.0.0.1:{watcher.port}/svc")
        with pytest.raises(StoreUnavailable, match="no address"):
            await store.load(KEYS[0], deadline=soon(0.3))
        await store.close()


@pytest.mark.parametrize("answer", [None, 5, ("h", "x"), ZeroDivisionError()])
@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis+cluster"])
async def test_an_address_remap_that_fails(scheme: str, answer: Any) -> None:
    """It is told by StoreUnavailable, with what it raised."""

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$1\r\nh\r\n:1\r\n"
    async with scripted(naming(1) if scheme == "redis+sentinel" else lambda *_: slots) as server:
        url = f"{scheme}://127.0.0.1:{server.port}/" + ("svc" if scheme == "redis+sentinel" else "")
        store = RedisStore.from_url(url, address_remap=remap)
        with pytest.raises(StoreUnavailable, match=r"(Type|Value|ZeroDivision)Error"):
            await store.load(KEYS[0], deadline=soon(0.3))
        await store.close()


async def test_a_sentinel_that_lags_behind_is_not_believed() -> None:
    """The server that is named must say itself that it is the primary."""
    primary_port = 0

    def a_sentinel(number: int, command: tuple[bytes, ...]) -> bytes:
        port = str(replica.port if number == 1 else primary_port).encode()
        return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port)

    def a_replica(number: int, command: tuple[bytes, ...]) -> bytes:
        return b"*1\r\n$5\r\nslave\r\n" if command[0] == b"ROLE" else b"_\r\n"

    def a_primary(number: int, command: tuple[bytes, ...]) -> bytes:
        return b"*1\r\n$6\r\nmaster\r\n" if command[0] == b"ROLE" else b"_\r\n"

    async with (
        scripted(a_sentinel) as watcher,
        scripted(a_replica) as replica,
        scripted(a_primary) as primary,
    ):
        primary_port = primary.port
        store = RedisStore.from_url(f"redis+sentinel://127.0.0.1:{watcher.port}/svc")
        assert await store.load(KEYS[0], deadline=soon()) is None
        assert not any(command[0] == b"GET" for command in replica.commands)
        assert any(command[0] == b"GET" for command in primary.commands)
        await store.close()

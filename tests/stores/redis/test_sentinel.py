"""Sentinel: the primary is asked for at every connect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Sentinel

from asgi_session.errors import StoreUnavailable
from asgi_session.stores.redis import RedisStore
from tests.servers import SentinelSetup
from tests.stores.redis.load import Load, in_an_hour, record, soon
from tests.stores.redis.scripted import scripted
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
    assert await store.create(KEYS[0], record(), in_an_hour(), deadline=soon())
    await store.close()


async def test_a_sentinel_object(sentinel: SentinelSetup) -> None:
    """redis-py's Sentinel tells where the sentinels are, and is left alone."""
    client = Sentinel([(each.host, each.port) for each in sentinel.sentinels])
    store = RedisStore(client, service_name=sentinel.name)
    assert await store.create(KEYS[0], record(), in_an_hour(), deadline=soon())
    await store.close()
    await client.aclose()


async def test_an_unknown_service_is_named(sentinel: SentinelSetup) -> None:
    """The error tells which service the sentinels do not know."""
    store = RedisStore.from_url(sentinel.url.replace("/mymaster", "/other"))
    with pytest.raises(StoreUnavailable, match="knows no service 'other'"):
        await store.load(KEYS[0], deadline=soon(1))
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

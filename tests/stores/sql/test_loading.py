"""Loads that travel together on PostgreSQL: who joins whom, and who must not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from asgi_session.clock import system_clock
from asgi_session.store import Saved, Stored
from asgi_session.stores.sql import SQLStore
from tests.servers.sql import PostgreSQL
from tests.servers.tcp_proxy import TcpProxy
from tests.stores.sql.helpers import in_time, new_data, new_key, through

FAR = system_clock() + 3_600_000


@pytest.fixture
async def direct(postgresql: PostgreSQL) -> AsyncIterator[SQLStore]:
    store = SQLStore.from_url(postgresql.url)
    await store.create_schema()
    yield store
    await store.close()


async def record(store: SQLStore) -> tuple[str, Stored]:
    key, data = new_key(), new_data()
    assert isinstance(await store.create(key, data, FAR, deadline=in_time()), Saved)
    return key, Stored(data, data[:16], FAR)


async def test_a_load_does_not_join_one_that_has_left(postgresql: PostgreSQL, direct: SQLStore) -> None:
    """It sees what was written after the other's statement had left, and before it began itself."""
    key, old = await record(direct)
    with TcpProxy(postgresql.port) as proxy:
        store = SQLStore.from_url(through(proxy, postgresql.url), pool_size=1)
        assert await store.load(key, deadline=in_time()) == old
        held = proxy.hold_replies()
        first = asyncio.create_task(store.load(key, deadline=in_time()))
        await asyncio.to_thread(held.reached.wait, 10)
        data = new_data()
        saved = await direct.save(key, data, FAR, expect=old, deadline=in_time())
        assert isinstance(saved, Saved)
        second = asyncio.create_task(store.load(key, deadline=in_time()))
        await asyncio.sleep(0)
        held.release()
        assert await first == old
        assert await second == Stored(data, data[:16], FAR)
        await store.close()


async def test_those_that_wait_for_a_connection_leave_together(
    postgresql: PostgreSQL, direct: SQLStore
) -> None:
    """More than one statement takes are several, each when its turn comes; nobody is forgotten."""
    records = [await record(direct) for _ in range(120)]
    with TcpProxy(postgresql.port) as proxy:
        store = SQLStore.from_url(through(proxy, postgresql.url), pool_size=1)
        for _ in range(2):  # what is counted is the second time: by then it is prepared
            before = proxy.trips

            began = asyncio.Event()

            def busy(connection: sa.Connection, began: asyncio.Event = began) -> None:
                began.set()
                connection.exec_driver_sql("SELECT pg_sleep(0.1)")

            held = asyncio.create_task(store._do("busy", in_time(), busy))
            await began.wait()  # it has the one connection
            loads = [asyncio.create_task(store.load(key, deadline=in_time())) for key, _ in records[:60]]
            await asyncio.sleep(0)
            loads += [asyncio.create_task(store.load(key, deadline=in_time())) for key, _ in records[60:]]
            assert [await load for load in loads] == [stored for _, stored in records]
            await held
        assert proxy.trips - before == 1 + 3
        await store.close()


async def test_a_key_that_is_asked_for_twice(direct: SQLStore) -> None:
    """Both get the record; one that is missing is None among others."""
    key, stored = await record(direct)
    loads = [direct.load(each, deadline=in_time()) for each in (key, key, new_key())]
    assert await asyncio.gather(*loads) == [stored, stored, None]


async def test_a_deadline_of_one_is_not_that_of_the_others(direct: SQLStore) -> None:
    """One that is over takes nobody along."""
    key, stored = await record(direct)
    results = await asyncio.gather(
        direct.load(key, deadline=in_time(0.000_001)),
        *(direct.load(key, deadline=in_time()) for _ in range(5)),
        return_exceptions=True,
    )
    assert results[1:] == [stored] * 5

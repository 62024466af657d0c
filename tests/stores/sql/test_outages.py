"""Servers that go away, freeze, come back and lose replies, and more requests than connections."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asgi_session.clock import system_clock
from asgi_session.errors import StoreUnavailable
from asgi_session.store import Conflict, Saved, Stored
from asgi_session.stores.sql import PostgreSQLStore, SQLStore
from asgi_session.stores.sql import store as store_module
from asgi_session.stores.sql.loading import LoadingPool
from tests.servers.sql import PostgreSQL, SQLServer
from tests.servers.tcp_proxy import TcpProxy
from tests.stores.sql.helpers import dropped, held_by, in_time, new_data, new_key, new_table, through, until

FAR = system_clock() + 3_600_000


async def record(store: SQLStore) -> tuple[str, Stored]:
    key, data = new_key(), new_data()
    assert isinstance(await store.create(key, data, FAR, deadline=in_time()), Saved)
    return key, Stored(data, data[:16], FAR)


async def fails(verb: Awaitable[object], *, executed: bool | None) -> str:
    """Await a verb that must fail so; return what it says."""
    with pytest.raises(StoreUnavailable) as caught:
        await verb
    assert caught.value.executed is executed, caught.value
    return str(caught.value)


async def test_a_lost_reply(store: SQLStore, direct: SQLStore, proxy: TcpProxy) -> None:
    """A write whose reply is lost may have been executed, and is not repeated; the next one works."""
    key, stored = await record(store)
    data = new_data()
    result = await store.save(key, data, FAR, expect=stored, deadline=in_time())  # it is prepared by now
    assert isinstance(result, Saved)
    stored, data = Stored(data, data[:16], FAR), new_data()
    proxy.cut_after()
    await fails(store.save(key, data, FAR, expect=stored, deadline=in_time()), executed=None)
    assert await store.load(key, deadline=in_time()) == Stored(data, data[:16], FAR)
    await record(store)  # a new connection prepares it anew
    fresh = new_key()
    proxy.cut_after()
    await fails(store.create(fresh, data, FAR, deadline=in_time()), executed=None)
    assert await direct.load(fresh, deadline=in_time()) is not None


async def test_a_connection_lost_on_the_way(store: SQLStore, proxy: TcpProxy) -> None:
    """A load is tried again on a new connection. Nobody can know whether a write has arrived."""
    key, stored = await record(store)
    for cut in (proxy.cut_before, proxy.cut_after):
        cut()
        assert await store.load(key, deadline=in_time()) == stored
    proxy.cut_before()
    await fails(store.touch(key, FAR + 1, expect=stored, deadline=in_time()), executed=None)
    assert await store.load(key, deadline=in_time()) == stored


async def test_a_conflict_whose_news_are_lost(store: SQLStore, proxy: TcpProxy) -> None:
    """Nothing was written, as the server has said before: the save is tried again, and answers."""
    key, stored = await record(store)
    data = new_data()
    assert isinstance(await store.save(key, data, FAR, expect=stored, deadline=in_time()), Saved)
    current = Stored(data, data[:16], FAR)
    if isinstance(store, PostgreSQLStore):  # which has it in one answer
        return
    proxy.cut_after(nth=2)
    result = await store.save(key, new_data(), FAR, expect=stored, deadline=in_time())
    assert result == Conflict(current)


@pytest.mark.parametrize("nth", [3, 6, 9])
async def test_a_connection_lost_before_anything_was_sent(
    server: SQLServer, direct: SQLStore, proxy: TcpProxy, nth: int
) -> None:
    """While it is set up, nothing of the verb has left: another one is made, also for a write."""
    store = SQLStore.from_url(through(proxy, server.url), pool_size=1)
    cut = proxy.cut_after(nth=nth)
    await record(store)
    assert cut.done.is_set()
    await store.close()


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Is set when a verb has failed, and pauses before it tries again."""
    event, pause = asyncio.Event(), store_module.pause

    async def noted(tries: int, deadline: float) -> bool:
        event.set()
        return await pause(tries, deadline)

    monkeypatch.setattr(store_module, "pause", noted)
    return event


async def test_a_verb_that_goes_on_trying_when_its_store_is_closed(
    server: SQLServer, store: SQLStore, proxy: TcpProxy, paused: asyncio.Event
) -> None:
    """It gets no further connection, which nobody would close; the next verb opens the store again."""
    await record(store)
    held_by(store)._patience = 0.1
    proxy.refuse()
    await dropped(store)
    task = asyncio.create_task(store.create(new_key(), new_data(), FAR, deadline=in_time()))
    await paused.wait()  # it has been refused
    await store.close()
    connections = proxy.connections
    proxy.accept()
    assert "closed" in await fails(task, executed=False)
    assert proxy.connections == connections
    await record(store)


async def test_connections_that_died_in_the_pool(server: SQLServer, store: SQLStore, proxy: TcpProxy) -> None:
    """A write notices that its connection is closed before anything is sent: no request fails for it."""
    wide = SQLStore.from_url(through(proxy, server.url), pool_size=5)
    keys = [await record(wide) for _ in range(5)]
    await asyncio.gather(*(wide.touch(key, FAR, expect=stored, deadline=in_time()) for key, stored in keys))
    proxy.drop_connections()
    await dropped(wide)
    results = await asyncio.gather(
        *(wide.save(key, new_data(), FAR, expect=stored, deadline=in_time()) for key, stored in keys)
    )
    assert all(isinstance(result, Saved) for result in results)
    await wide.close()


async def test_a_server_that_is_away(store: SQLStore, proxy: TcpProxy, paused: asyncio.Event) -> None:
    """Verbs fail by their deadline, certainly not executed, and work as soon as it is back."""
    key, stored = await record(store)
    proxy.refuse()
    await dropped(store)
    began = time.monotonic()
    await asyncio.gather(
        fails(store.load(key, deadline=in_time(0.4)), executed=False),
        fails(store.create(new_key(), new_data(), FAR, deadline=in_time(0.4)), executed=False),
    )
    assert time.monotonic() - began < 3
    paused.clear()
    save = asyncio.create_task(store.save(key, new_data(), FAR, expect=stored, deadline=in_time()))
    await paused.wait()  # it has been refused
    proxy.accept()
    assert isinstance(await save, Saved)


async def test_a_server_that_freezes(store: SQLStore, proxy: TcpProxy) -> None:
    """Verbs end at their deadline, also those that connect, and recover when it answers again."""
    key, stored = await record(store)
    proxy.freeze()
    began = time.monotonic()
    await asyncio.gather(
        fails(store.touch(key, FAR, expect=stored, deadline=in_time(0.3)), executed=None),
        fails(store.touch(key, FAR, expect=stored, deadline=in_time(0.3)), executed=False),
    )
    await fails(store.load(key, deadline=in_time(0.3)), executed=False)  # it waits for a connection
    assert time.monotonic() - began < 4
    proxy.thaw()
    assert await store.load(key, deadline=in_time()) == stored


@pytest.mark.parametrize("nth", [3, 6, 9])
async def test_a_server_that_vanishes_while_a_connection_is_made(
    server: SQLServer, direct: SQLStore, proxy: TcpProxy, nth: int
) -> None:
    """After the login, too: what SQLAlchemy asks then holds nobody up for longer than connecting may take,
    however many come meanwhile, and the store works again although that connection never says a word."""
    store = SQLStore.from_url(through(proxy, server.url), pool_size=2, connect_timeout=0.4)
    silent = proxy.silence(nth=nth)
    loads = [asyncio.create_task(store.load(new_key(), deadline=in_time(3)))]
    assert await asyncio.to_thread(silent.done.wait, 5)
    for _ in range(5):
        await asyncio.sleep(0)  # each comes on its own
        loads.append(asyncio.create_task(store.load(new_key(), deadline=in_time(3))))
    assert await asyncio.gather(*loads) == [None] * 6
    await record(store)
    async with asyncio.timeout(2):
        await store.close()


async def test_loads_that_were_given_up_while_connecting(
    server: SQLServer, direct: SQLStore, proxy: TcpProxy
) -> None:
    """The next one does not wait for their attempt, and `close` leaves none behind."""
    store = SQLStore.from_url(through(proxy, server.url), pool_size=2, connect_timeout=30)
    silent = proxy.silence()
    await fails(store.load(new_key(), deadline=in_time(0.3)), executed=False)
    assert silent.done.is_set()
    assert await store.load(new_key(), deadline=in_time(3)) is None
    await store.close()


async def test_close_of_a_store_whose_server_is_frozen(
    server: SQLServer, direct: SQLStore, proxy: TcpProxy
) -> None:
    """It comes to an end, and waits for no good-bye."""
    store = SQLStore.from_url(through(proxy, server.url), pool_size=2)
    await record(store)
    proxy.freeze()
    async with asyncio.timeout(6):
        await store.close()
    proxy.thaw()
    await record(store)
    await store.close()


async def test_a_server_that_falls_silent_costs_one_request_its_deadline(
    server: SQLServer, direct: SQLStore, proxy: TcpProxy
) -> None:
    """The other connections of the pool lead to the same machine: the next request makes a new one."""
    store = SQLStore.from_url(through(proxy, server.url), pool_size=4)
    records = [await record(store) for _ in range(4)]
    await asyncio.gather(*(store.touch(key, FAR, expect=old, deadline=in_time()) for key, old in records))
    for after_silence in (store.load, None):
        before = proxy.connections
        silent = proxy.silence()
        key, stored = records[0]
        await fails(store.touch(key, FAR + 1, expect=stored, deadline=in_time(1.2)), executed=None)
        assert silent.done.is_set()
        began = time.monotonic()
        if after_silence is not None:
            assert await after_silence(key, deadline=in_time(3)) is not None
        else:
            assert await store.touch(key, FAR, expect=stored, deadline=in_time(3)) is True
        assert time.monotonic() - began < 1.0
        # asyncpg asks to cancel the statement on a connection of its own.
        made = before + (2 if isinstance(server, PostgreSQL) else 1)
        await until(lambda made=made: proxy.connections >= made)
        assert proxy.connections == made
        await asyncio.gather(*(store.touch(key, FAR, expect=old, deadline=in_time()) for key, old in records))
    await store.close()


async def test_a_server_that_was_restarted(fresh_postgresql: PostgreSQL) -> None:
    """The next requests connect anew, and none fails; during the restart they wait."""
    store = SQLStore.from_url(fresh_postgresql.url, pool_size=3)
    await store.create_schema()
    records = [await record(store) for _ in range(3)]
    await asyncio.gather(*(store.touch(key, FAR, expect=it, deadline=in_time()) for key, it in records))
    await asyncio.to_thread(fresh_postgresql.kill)
    key = records[0][0]
    await fails(store.load(key, deadline=in_time(0.2)), executed=False)
    waiting = [store.touch(key, FAR, expect=stored, deadline=in_time()) for key, stored in records]
    verbs = asyncio.gather(*waiting)
    await asyncio.to_thread(fresh_postgresql.restart)
    assert await verbs == [True] * 3
    await store.close()


@pytest.fixture
async def locked(server: SQLServer, direct: SQLStore) -> AsyncIterator[tuple[AsyncEngine, str]]:
    """An engine to lock a table with, and the table."""
    table = new_table()
    store = SQLStore.from_url(server.url, table=table)
    await store.create_schema()
    await store.close()
    engine = create_async_engine(direct._target.engine.url)
    yield engine, table
    await engine.dispose()


async def test_five_hundred_requests_and_five_connections(
    server: SQLServer, locked: tuple[AsyncEngine, str]
) -> None:
    """While nothing is answered those that never got a connection say so; afterwards all is well."""
    engine, table = locked
    store = SQLStore.from_url(server.url, table=table, pool_size=5)
    await record(store)
    mode = (
        "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE" if isinstance(server, PostgreSQL) else "LOCK TABLES {} WRITE"
    )
    async with engine.connect() as holding:
        await holding.execute(sa.text(mode.format(table)))
        began = time.monotonic()
        results = await asyncio.gather(
            *(store.create(new_key(), new_data(), FAR, deadline=in_time(0.8)) for _ in range(500)),
            return_exceptions=True,
        )
        assert time.monotonic() - began < 5
        errors = [each for each in results if isinstance(each, StoreUnavailable)]
        assert Counter(each.executed for each in errors) == {False: 495, None: 5}
        if not isinstance(server, PostgreSQL):
            await holding.execute(sa.text("UNLOCK TABLES"))
    made = await asyncio.gather(
        *(store.create(new_key(), new_data(), FAR, deadline=in_time()) for _ in range(50))
    )
    assert all(isinstance(each, Saved) for each in made)
    await store.close()


async def test_close_waits_for_its_verbs(server: SQLServer, locked: tuple[AsyncEngine, str]) -> None:
    """Those on their way are answered, and those in line for a connection as well."""
    engine, table = locked
    store = SQLStore.from_url(server.url, table=table, pool_size=2)
    await record(store)
    mode = (
        "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE" if isinstance(server, PostgreSQL) else "LOCK TABLES {} WRITE"
    )
    async with engine.connect() as holding:
        await holding.execute(sa.text(mode.format(table)))
        tasks = [
            asyncio.create_task(store.create(new_key(), new_data(), FAR, deadline=in_time()))
            for _ in range(6)
        ]
        await until(held_by(store).slots.locked)  # two have the connections
        closing = asyncio.create_task(store.close())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not closing.done()
        if not isinstance(server, PostgreSQL):
            await holding.execute(sa.text("UNLOCK TABLES"))
    await closing
    assert [type(task.result()) for task in tasks] == [Saved] * 6


async def test_cancelled_at_every_moment(store: SQLStore, direct: SQLStore) -> None:
    """A verb that is cancelled leaves no connection out of step, and takes none with it."""
    key, stored = await record(store)
    for moments in range(0, 40, 3):
        tasks = [
            asyncio.create_task(store.load(key, deadline=in_time())),
            asyncio.create_task(store.touch(key, FAR, expect=stored, deadline=in_time())),
        ]
        for _ in range(moments):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        assert await store.load(key, deadline=in_time()) == stored
    assert await direct.load(key, deadline=in_time()) == stored


async def test_one_of_a_batch_is_cancelled(postgresql: PostgreSQL, direct: SQLStore) -> None:
    """The others get their answers; when all are gone the connection is free again."""
    keys = [await record(direct) for _ in range(3)]
    for moments in range(0, 30, 2):
        tasks = [asyncio.create_task(direct.load(key, deadline=in_time())) for key, _ in keys]
        for _ in range(moments):
            await asyncio.sleep(0)
        tasks[0].cancel()
        assert [await task for task in tasks[1:]] == [stored for _, stored in keys[1:]]
    gone = [asyncio.create_task(direct.load(key, deadline=in_time())) for key, _ in keys]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    assert await direct.load(keys[0][0], deadline=in_time()) == keys[0][1]


async def test_loads_that_are_given_up_as_their_connection_fails(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever is cancelled in the very moment in which there is no connection is cancelled, and no more."""
    store = SQLStore.from_url(postgresql.url)
    tasks: list[asyncio.Task[Stored | None]] = []

    def failing(pool: LoadingPool, execute: object) -> None:
        for task in tasks:
            task.cancel()
        raise OSError("away")

    with monkeypatch.context() as patched:
        patched.setattr(LoadingPool, "work", failing)
        tasks += [asyncio.create_task(store.load(new_key(), deadline=in_time())) for _ in range(3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3
    await store.create_schema()
    assert await store.load(new_key(), deadline=in_time()) is None
    await store.close()
    assert caplog.text == ""

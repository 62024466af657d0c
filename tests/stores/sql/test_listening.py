"""Wake-ups on PostgreSQL, when their connection is lost, and where nothing is heard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from asgi_session.clock import system_clock
from asgi_session.errors import StoreUnavailable
from asgi_session.store import Saved, Stored, WakesUp
from asgi_session.stores.sql import PostgreSQLStore, SQLStore
from asgi_session.stores.sql import listening as listening_module
from asgi_session.stores.sql.pool import connect
from tests.servers.sql import PostgreSQL, start_postgresql
from tests.servers.tcp_proxy import TcpProxy
from tests.stores.sql.helpers import in_time, new_data, new_key, through

FAR = system_clock() + 3_600_000
LISTENER = "0123456789abcdef"


class Ear:
    """A listener that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        self._came = asyncio.Event()

    def __call__(self, key: str | None) -> None:
        self.heard.append(key)
        self._came.set()

    async def hears(self, key: str | None) -> None:
        async with asyncio.timeout(10):
            while key not in self.heard:
                self._came.clear()
                await self._came.wait()


@pytest.fixture
def proxy(postgresql: PostgreSQL) -> Iterator[TcpProxy]:
    with TcpProxy(postgresql.port) as proxy:
        yield proxy


@pytest.fixture
async def store(postgresql: PostgreSQL, proxy: TcpProxy) -> AsyncIterator[PostgreSQLStore]:
    store = SQLStore.from_url(through(proxy, postgresql.url), pool_size=2)
    assert isinstance(store, PostgreSQLStore)
    await store.create_schema()
    yield store
    await store.close()


async def wake(store: PostgreSQLStore) -> str:
    key, data = new_key(), new_data()
    await store.create(key, data, FAR, deadline=in_time())
    expect = Stored(data, data[:16], FAR)
    saved = await store.save_and_wake(
        key, new_data(), FAR, expect=expect, wake=[LISTENER], deadline=in_time()
    )
    assert isinstance(saved, Saved)
    return key


async def notify(store: PostgreSQLStore, channel: str, message: str) -> None:
    """Send what another user of the database may send."""

    def send(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT pg_notify($1, $2)", (channel, message))

    await store._do("notify", in_time(), send)


async def test_the_class_fits_the_server(postgresql: PostgreSQL) -> None:
    """Only PostgreSQL's has wake-ups, and says so by its type."""
    assert isinstance(SQLStore.from_url(postgresql.url), WakesUp)
    for url in ("sqlite:////tmp/unused.db", "mariadb://u@localhost/x"):
        other = SQLStore.from_url(url)
        assert type(other) is SQLStore
        assert not hasattr(other, "listen")


async def test_a_lost_connection_is_made_again(store: PostgreSQLStore, proxy: TcpProxy) -> None:
    """Listeners are told that something may be lost, and hear again."""
    ear = Ear()
    end = await store.listen(LISTENER, ear, deadline=in_time())
    await ear.hears(await wake(store))
    for _ in range(2):
        ear.heard.clear()
        proxy.drop_connections()
        await ear.hears(None)
        await ear.hears(await wake(store))
    end()


async def test_a_server_that_is_away_for_a_while(store: PostgreSQLStore, proxy: TcpProxy) -> None:
    """It is tried again until it is back; a listener that comes meanwhile is told in time."""
    ear = Ear()
    await store.listen(LISTENER, ear, deadline=in_time())
    proxy.refuse()
    await asyncio.sleep(0.05)  # until the event loop has heard of it
    with pytest.raises(StoreUnavailable) as caught:
        await store.listen("f" * 16, Ear(), deadline=in_time(0.2))
    assert caught.value.executed is False
    proxy.accept()
    await ear.hears(None)
    await ear.hears(await wake(store))


async def test_a_silent_connection_is_noticed(
    store: PostgreSQLStore, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sign of life is asked for from time to time: nothing else would notice a silence."""
    monkeypatch.setattr(listening_module, "_BEAT", 0.1)
    ear = Ear()
    await store.listen(LISTENER, ear, deadline=in_time())
    held = proxy.hold_replies()
    await asyncio.to_thread(held.reached.wait, 10)
    await asyncio.sleep(0.25)  # longer than a beat and its patience
    held.release()
    await ear.hears(None)
    await ear.hears(await wake(store))


async def test_strange_messages_are_ignored(store: PostgreSQLStore) -> None:
    """Whoever may connect to the database may send anything to anyone."""
    ear = Ear()
    await store.listen(LISTENER, ear, deadline=in_time())
    for message in ("", "short", "x" * 23, "x" * 7000, "é" * 22):
        await notify(store, f"asgi_session:{LISTENER}", message)
    key = await wake(store)
    await ear.hears(key)
    assert ear.heard == [key]


async def test_a_listener_that_raises_hinders_nobody(
    store: PostgreSQLStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The others hear; its error is in the log."""

    def broken(key: str | None) -> None:
        raise ValueError(key)

    ear = Ear()
    await store.listen(LISTENER, broken, deadline=in_time())
    await store.listen(LISTENER, ear, deadline=in_time())
    with caplog.at_level(logging.ERROR, "asgi_session"):
        await ear.hears(await wake(store))
    assert "during a wake-up" in caplog.text


async def test_where_nothing_is_heard(
    store: PostgreSQLStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler: LISTEN is accepted, no NOTIFY comes. It is found out, and logged once."""
    monkeypatch.setattr(listening_module, "_PROBE", 0.1)
    original: Any = listening_module.Listening._join

    async def deaf(self: Any, channel: str) -> None:
        monkeypatch.setattr(self, "_pushed", lambda *_: None, raising=False)
        await original(self, channel)

    monkeypatch.setattr(listening_module.Listening, "_join", deaf)
    with caplog.at_level(logging.WARNING, "asgi_session"):
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="heard") as caught:
                await store.listen(LISTENER, Ear(), deadline=in_time())
            assert caught.value.executed is False
    assert caplog.text.count("pgbouncer") == 1
    assert isinstance(await wake(store), str)  # it still saves, and nobody hears


async def test_the_last_one_closes_the_connection(store: PostgreSQLStore, proxy: TcpProxy) -> None:
    """Nobody listens, nothing is kept open for it."""
    await wake(store)
    before = proxy.connections
    end = await store.listen(LISTENER, Ear(), deadline=in_time())
    assert proxy.connections == before + 1
    listening = next(iter(store._listenings.backends.values()))
    end()
    assert listening._connection is None
    await asyncio.wait(list(listening._tasks))


async def test_close_while_a_listener_connects(store: PostgreSQLStore, proxy: TcpProxy) -> None:
    """It fails, and leaves no connection behind that nobody would close."""
    held = proxy.hold_replies()
    task = asyncio.create_task(store.listen(LISTENER, Ear(), deadline=in_time()))
    assert await asyncio.to_thread(held.reached.wait, 10)
    listening = next(iter(store._listenings.backends.values()))
    await store.close()
    connections = proxy.connections
    held.release()
    with pytest.raises(StoreUnavailable, match="closed"):
        await task
    assert listening._connection is None
    assert proxy.connections == connections


async def test_a_full_queue_of_notifications() -> None:
    """The record is saved without the wake-up, which is a hint; or no lock could be released any more."""
    server = await asyncio.to_thread(start_postgresql, "max_notify_queue_pages=64")
    store = SQLStore.from_url(server.url)
    try:
        await store.create_schema()
        assert isinstance(store, PostgreSQLStore)
        sleeper = await connect(store._target)
        await sleeper.execute("LISTEN noise")
        await sleeper.execute("BEGIN; SELECT 1")  # it keeps all that comes from being dropped
        talker = await connect(store._target)
        noise = "SELECT count(pg_notify('noise', repeat('x', 7900) || i)) FROM generate_series(1, 20) AS i"
        with pytest.raises(Exception, match="too many notifications"):
            for _ in range(100):
                await talker.execute(noise)
        await wake(store)
        await talker.close()
        await sleeper.close()
    finally:
        await store.close()
        await asyncio.to_thread(server.stop)

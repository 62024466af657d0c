"""`RedisStore` on real servers, and on servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Distrusts, Saved, Stored
from asgi_session.stores._shared import node as node_module
from asgi_session.stores.redis import RedisStore
from asgi_session.stores.redis.connection import Connection
from tests.servers import FakeredisServer, LossyProxy, ServerProcess, saves, start_redis62, start_valkey
from tests.stores.redis.load import in_an_hour, record, soon, version
from tests.stores.redis.scripted import scripted

KEY = "k" * 22


@pytest.fixture(params=["valkey", "redis62"])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    """The newest and the oldest server."""
    found: ServerProcess = request.getfixturevalue(request.param)
    return found


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore.from_url(url, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def connection_of(store: RedisStore) -> Connection:
    """Return the connection of the running loop."""
    connection: Connection = store._loops.backends[asyncio.get_running_loop()]._node.connection  # type: ignore[attr-defined]
    return connection


async def test_the_layout(server: ServerProcess) -> None:
    """The key is the prefix and the key in braces, the value eight bytes of expiry and the data."""
    async with opened(server.url, prefix="app") as store:
        data, expires_at = record("x"), in_an_hour()
        assert await store.create(KEY, data, expires_at, deadline=soon()) is not TAKEN
        name = f"app:{{{KEY}}}"
        assert server.command("GET", name) == expires_at.to_bytes(8, "big") + data
        assert abs(server.command("PTTL", name) - (expires_at - time.time() * 1000)) < 5000
        assert await store.touch(KEY, expires_at + 999_000, expect=version(data), deadline=soon())
        assert server.command("PTTL", name) > 3_600_000
        assert server.command("GET", name) == (expires_at + 999_000).to_bytes(8, "big") + data


@pytest.mark.parametrize("past", [lambda: int(time.time() * 1000) - 1, lambda: 1, lambda: 0, lambda: -5])
async def test_an_expiry_in_the_past_ends_the_record(server: ServerProcess, past: Any) -> None:
    """Every writing verb takes an instant that has passed, however long, and the record is gone."""
    async with opened(server.url) as store:
        first, second = record("1"), record("2")
        assert await store.create(KEY, first, past(), deadline=soon()) is not TAKEN
        assert await store.load(KEY, deadline=soon()) is None
        assert await store.create(KEY, first, in_an_hour(), deadline=soon()) is not TAKEN
        assert await store.save(KEY, second, past(), expect=version(first), deadline=soon()) == Saved(
            second[:16]
        )
        assert await store.load(KEY, deadline=soon()) is None
        assert await store.save(KEY, second, past(), expect=version(first), deadline=soon()) is GONE
        assert await store.create(KEY, first, in_an_hour(), deadline=soon()) is not TAKEN
        assert await store.touch(KEY, past(), expect=version(first), deadline=soon())
        assert await store.load(KEY, deadline=soon()) is None


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 8, b"x" * 20, b"x" * 23])
async def test_a_value_too_short_for_a_record_is_not_missing(server: ServerProcess, value: bytes) -> None:
    """Promise 10: such bytes are handed on, are never written over, and stay."""
    async with opened(server.url) as store:
        server.command("SET", f"asgi_session:{{{KEY}}}", value)
        found = await store.load(KEY, deadline=soon())
        assert found == Stored(value[8:], value[8:], int.from_bytes(value[:8], "big", signed=True))
        assert await store.create(KEY, record(), in_an_hour(), deadline=soon()) is TAKEN
        result = await store.save(KEY, record(), in_an_hour(), expect=version(b"t" * 16), deadline=soon())
        assert result == Conflict(found)
        assert not await store.touch(KEY, in_an_hour(), expect=version(b"t" * 16), deadline=soon())
        assert server.command("GET", f"asgi_session:{{{KEY}}}") == value


async def test_an_empty_tag_writes_nothing(server: ServerProcess) -> None:
    """A save or touch that expects nothing does not create a record."""
    async with opened(server.url) as store:
        assert await store.save(KEY, record(), in_an_hour(), expect=version(b""), deadline=soon()) is GONE
        assert not await store.touch(KEY, in_an_hour(), expect=version(b""), deadline=soon())
        assert server.command("DBSIZE") == 0


async def test_64_loads_leave_in_one_write(valkey: ServerProcess) -> None:
    """Promise 2: what 64 tasks load in one tick is one system call."""
    async with opened(valkey.url) as store:
        connection = connection_of(store)
        transport: Any = connection._transport
        writes: list[bytes] = []

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            def write(self, data: bytes) -> None:
                writes.append(data)
                transport.write(data)

        connection._transport = Counting()  # type: ignore[assignment]
        loads = [store.load(f"{n:022d}", deadline=soon()) for n in range(64)]
        assert await asyncio.gather(*loads) == [None] * 64
        assert len(writes) == 1


async def test_many_requests_share_one_connection(server: ServerProcess) -> None:
    """A thousand concurrent verbs, 60 KB each way, need no second connection and mix nothing up."""
    async with opened(server.url) as store:
        before = server.info("clients")["connected_clients"]
        records = {f"{n:022d}": record(f"{n}:" + "x" * (60_000 if n % 10 == 0 else 10)) for n in range(500)}
        created = [store.create(key, data, in_an_hour(), deadline=soon(30)) for key, data in records.items()]
        assert all(await asyncio.gather(*created))
        loaded = await asyncio.gather(*(store.load(key, deadline=soon(30)) for key in [*records, *records]))
        assert [found.data for found in loaded if found] == [*records.values(), *records.values()]
        assert server.info("clients")["connected_clients"] == before


async def test_cancelled_loads_leave_the_connection_in_step(valkey: ServerProcess) -> None:
    """Tasks cancelled at every moment cost nobody else a reply, nor the connection."""
    async with opened(valkey.url) as store:
        connection = connection_of(store)
        records = {f"{n:022d}": record(str(n)) for n in range(64)}
        for key, data in records.items():
            await store.create(key, data, in_an_hour(), deadline=soon())

        async def load(key: str) -> None:
            found = await store.load(key, deadline=soon())
            assert found is not None
            assert found.data == records[key]

        for ticks in range(40):
            tasks = [asyncio.create_task(load(key)) for key in records]
            for _ in range(ticks % 8):
                await asyncio.sleep(0)
            for task in tasks[ticks % 3 :: 3]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [r for r in results if r is not None and not isinstance(r, asyncio.CancelledError)] == []
        assert connection_of(store) is connection


async def test_a_slow_server_keeps_its_connection(fresh_valkey: ServerProcess) -> None:
    """While the server is held up, as by a slow script, requests time out, but the connection stays."""
    async with opened(fresh_valkey.url, timeout=0.5) as store:
        connection = connection_of(store)
        data = record()
        await store.create(KEY, data, in_an_hour(), deadline=soon())
        fresh_valkey.command("CLIENT", "PAUSE", 900, "ALL")
        with pytest.raises(StoreUnavailable, match="in time"):
            await store.load(KEY, deadline=soon(0.1))
        found = await store.load(KEY, deadline=soon())
        assert found is not None
        assert found.data == data
        assert connection_of(store) is connection


async def test_a_frozen_server_uses_up_the_deadline_and_no_more(fresh_valkey: ServerProcess) -> None:
    """Promise 11: loads end at the deadline, a save earlier with an unknown outcome; then all is well."""
    async with opened(fresh_valkey.url, timeout=0.3, connect_timeout=0.3) as store:
        data = record()
        await store.create(KEY, data, in_an_hour(), deadline=soon())
        fresh_valkey.freeze()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as save:
            await store.save(KEY, record(), in_an_hour(), expect=version(data), deadline=soon(3))
        assert save.value.executed is None
        assert time.monotonic() - began < 1
        with pytest.raises(StoreUnavailable):
            await store.load(KEY, deadline=soon(1))
        assert time.monotonic() - began < 2.5
        fresh_valkey.thaw()
        assert await store.load(KEY, deadline=soon()) is not None


async def test_a_restart_is_survived(fresh_valkey: ServerProcess) -> None:
    """Verbs that begin while the server is down wait for it; the scripts are sent again."""
    async with opened(fresh_valkey.url) as store:
        data = record()
        await store.create(KEY, data, in_an_hour(), deadline=soon())
        await store.save(KEY, data, in_an_hour(), expect=version(data), deadline=soon())
        connection = connection_of(store)
        fresh_valkey.kill()
        while not connection.closed:
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(store.create(KEY, data, in_an_hour(), deadline=soon(10)))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        await asyncio.to_thread(fresh_valkey.restart)
        assert await waiting
        saved = await store.save(KEY, data, in_an_hour(), expect=version(data), deadline=soon())
        assert saved == Saved(data[:16])


async def test_no_server_at_all(fresh_valkey: ServerProcess) -> None:
    """Promise 11: what cannot have been executed says so, names the server, and takes the deadline."""
    fresh_valkey.kill()
    store = RedisStore.from_url(fresh_valkey.url)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{fresh_valkey.port}") as caught:
        await store.create(KEY, record(), in_an_hour(), deadline=soon(0.5))
    assert caught.value.executed is False
    assert 0.2 < time.monotonic() - began < 1
    with pytest.raises(StoreUnavailable):
        await RedisStore.from_url(fresh_valkey.url, connect_timeout=0.1).open()
    await store.close()


async def test_reconnects_are_few() -> None:
    """Hundreds of tasks that find the server gone make a handful of attempts to connect."""
    async with scripted(lambda *_: None) as server:
        store = RedisStore.from_url(server.url)
        loads = [store.load(f"{n:022d}", deadline=soon(1)) for n in range(300)]
        results = await asyncio.gather(*loads, return_exceptions=True)
        assert all(isinstance(result, StoreUnavailable) for result in results)
        assert 2 <= server.connections <= 25
        await store.close()


async def test_closing_waits_for_replies(valkey: ServerProcess) -> None:
    """A save that is on its way when the store is closed is answered."""
    async with LossyProxy(valkey) as proxy:
        store = RedisStore.from_url(proxy.url)
        data, following = record("1"), record("2")
        assert await store.create(KEY, data, in_an_hour(), deadline=soon()) is not TAKEN
        for patient in (False, True):
            hold = proxy.hold(saves)
            save = store.save_and_wake if patient else store.save
            options = {"wake": []} if patient else {}
            saving = asyncio.create_task(
                save(KEY, following, in_an_hour(), expect=version(data), deadline=soon(), **options)  # type: ignore[operator]
            )
            await hold.reached.wait()
            closing = asyncio.create_task(store.close())
            await asyncio.wait([closing], timeout=0.05)
            assert not closing.done()
            hold.release()
            assert await saving == Saved(following[:16])
            await closing
            assert await store.load(KEY, deadline=soon()) == version(following)
            data, following = following, record("3")
        await store.close()


async def test_closing_ends_what_waits(fresh_valkey: ServerProcess) -> None:
    """A verb that waits for a server, or for a reply, does not hang on a closed store."""
    fresh_valkey.kill()
    store = RedisStore.from_url(fresh_valkey.url)
    waiting = [
        asyncio.create_task(store.load(KEY, deadline=soon(30))),
        asyncio.create_task(store.create(KEY, record(), in_an_hour(), deadline=soon(30))),
    ]
    await asyncio.wait(waiting, timeout=0.2)
    began = time.monotonic()
    await store.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
    assert time.monotonic() - began < 2
    await asyncio.to_thread(fresh_valkey.restart)
    assert await store.create(KEY, record(), in_an_hour(), deadline=soon()) is not TAKEN
    fresh_valkey.freeze()
    frozen = asyncio.create_task(store.load(KEY, deadline=soon(30)))
    await asyncio.wait([frozen], timeout=0.1)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await frozen
    assert time.monotonic() - began < 6


async def test_refusals_carry_the_servers_words(valkey: ServerProcess) -> None:
    """A key of another type is an error of this key alone, not executed, not taken for missing."""
    async with opened(valkey.url) as store:
        valkey.command("RPUSH", f"asgi_session:{{{KEY}}}", "x")
        for verb in (
            store.load(KEY, deadline=soon()),
            store.save(KEY, record(), in_an_hour(), expect=version(b"t" * 16), deadline=soon()),
            store.touch(KEY, in_an_hour(), expect=version(b"t" * 16), deadline=soon()),
        ):
            with pytest.raises(StoreUnavailable, match="WRONGTYPE") as caught:
                await verb
            assert caught.value.executed is False
        assert await store.load("other" + KEY[5:], deadline=soon()) is None


@pytest.mark.parametrize("start", [start_valkey, start_redis62])
async def test_a_full_server_refuses(start: Any) -> None:
    """OOM is a refusal, with or without a script around it; reading goes on."""
    server = start("--maxmemory", "100mb", "--maxmemory-policy", "noeviction")
    try:
        async with opened(server.url) as store:
            data = record()
            await store.create(KEY, data, in_an_hour(), deadline=soon())
            await store.save(KEY, data, in_an_hour(), expect=version(data), deadline=soon())
            server.command("CONFIG", "SET", "maxmemory", "1")
            for write in (
                store.create("n" * 22, data, in_an_hour(), deadline=soon()),
                store.save(KEY, data, in_an_hour(), expect=version(data), deadline=soon()),
            ):
                with pytest.raises(StoreUnavailable, match=r"OOM|maxmemory") as caught:
                    await write
                assert caught.value.executed is False
            assert await store.load(KEY, deadline=soon()) is not None
    finally:
        server.stop()


@pytest.mark.parametrize("start", [start_valkey, start_redis62])
async def test_a_replica_is_not_written_to(start: Any) -> None:
    """READONLY, also from inside a script, means not executed: tried again until it is a primary."""
    server = start()
    try:
        async with opened(server.url) as store:
            data = record()
            await store.create(KEY, data, in_an_hour(), deadline=soon())
            server.command("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(StoreUnavailable, match="READONLY") as create:
                await store.create(KEY, data, in_an_hour(), deadline=soon(0.3))
            with pytest.raises(StoreUnavailable, match="READONLY") as save:
                await store.save(KEY, data, in_an_hour(), expect=version(data), deadline=soon(1))
            assert create.value.executed is save.value.executed is False
            waiting = asyncio.create_task(
                store.save(KEY, data, in_an_hour(), expect=version(data), deadline=soon())
            )
            await asyncio.wait([waiting], timeout=0.1)
            assert not waiting.done()
            server.command("REPLICAOF", "NO", "ONE")
            assert await waiting == Saved(data[:16])
    finally:
        server.stop()


async def test_connections_are_renewed_before_they_are_too_old(valkey: ServerProcess) -> None:
    """The new connection is made first, and no request under way is lost."""
    async with opened(valkey.url, max_connection_age=0.3) as store:
        first = connection_of(store)
        end = soon(10)
        seen = {first}
        while len(seen) < 3:
            assert time.monotonic() < end
            assert await asyncio.gather(*(store.load(KEY, deadline=soon()) for _ in range(8))) == [None] * 8
            seen.add(connection_of(store))
        while not first.closed:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)


async def test_a_login_that_expired_is_renewed() -> None:
    """NOAUTH leads to a new connection, and the command is carried out there."""

    def answer(connection: int, command: tuple[bytes, ...]) -> bytes:
        return b"-NOAUTH Authentication required.\r\n" if connection == 1 else b"_\r\n"

    async with scripted(answer) as server:
        store = RedisStore.from_url(server.url)
        assert await store.load(KEY, deadline=soon()) is None
        await store.close()
        assert server.connections == 2


async def test_distrust_drops_the_connection(valkey: ServerProcess) -> None:
    """The connection that delivered another key's record is not used again."""
    async with opened(valkey.url) as store:
        assert isinstance(store, Distrusts)
        first = connection_of(store)
        store.distrust(KEY)
        assert first.closed
        assert await store.load(KEY, deadline=soon()) is None
        assert connection_of(store) is not first


async def test_distrust_drops_one_connection_and_then_none_for_a_while(
    valkey: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that can bring it about does not keep the others' connection from working."""
    async with opened(valkey.url) as store:
        store.distrust(KEY)
        assert await store.load(KEY, deadline=soon()) is None
        second = connection_of(store)
        for _ in range(20):
            store.distrust(KEY)
            assert await store.load(KEY, deadline=soon()) is None
        assert connection_of(store) is second
        monkeypatch.setattr(node_module, "_TRUST", 0.0)
        store.distrust(KEY)
        assert second.closed


async def test_distrust_does_not_delay_the_next_connection(
    valkey: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections dropped for what they delivered do not count as ones that the server lost."""
    monkeypatch.setattr(node_module, "_TRUST", 0.0)
    monkeypatch.setattr(node_module, "delay", lambda *_, **__: 60.0)
    async with opened(valkey.url) as store:
        for _ in range(10):
            store.distrust(KEY)
            assert await store.load(KEY, deadline=soon()) is None


@pytest.mark.parametrize(("policy", "warned"), [("allkeys-lru", 1), ("volatile-ttl", 1), ("noeviction", 0)])
async def test_eviction_is_warned_of(
    fresh_valkey: ServerProcess, caplog: pytest.LogCaptureFixture, policy: str, warned: int
) -> None:
    """A policy that may evict sessions is warned of, once, however often the store connects."""
    fresh_valkey.command("CONFIG", "SET", "maxmemory-policy", policy)
    with caplog.at_level(logging.WARNING, "asgi_session"):
        async with opened(fresh_valkey.url) as store:
            await store.load(KEY, deadline=soon())
            await store.close()
            await store.load(KEY, deadline=soon())
    assert [record.name for record in caplog.records] == ["asgi_session"] * warned
    assert all(policy in record.getMessage() for record in caplog.records)


async def test_fakeredis_works_too(fakeredis_server: FakeredisServer) -> None:
    """A server without INFO and CLIENT SETINFO is served, and nothing is said about it."""
    async with opened(fakeredis_server.url) as store:
        data = record()
        assert await store.create(KEY, data, in_an_hour(), deadline=soon()) is not TAKEN
        assert await store.load(KEY, deadline=soon()) is not None
        assert await store.delete(KEY, deadline=soon())

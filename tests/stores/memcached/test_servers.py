"""`MemcachedStore` on real servers: what lies in them, restarts, lost replies, limits, outages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, TAKEN, Back, Conflict, Lost, Reconnected, Report, Saved, Stored
from asgi_session.stores._shared import health
from asgi_session.stores.memcached import MemcachedStore
from tests.servers import MemcachedProcess, MemcachedProxy, named, start_memcached
from tests.stores.memcached.kit import KEY, in_an_hour, record, soon, written
from tests.stores.memcached.trips import TRIPS

NAME = f"asgi_session:{KEY}"


@pytest.fixture
async def store(memcached: MemcachedProcess) -> AsyncIterator[MemcachedStore]:
    made = MemcachedStore.from_url(memcached.url)
    yield made
    await made.close()


@pytest.fixture
async def proxy(memcached: MemcachedProcess) -> AsyncIterator[MemcachedProxy]:
    async with MemcachedProxy(memcached) as made:
        yield made


@pytest.fixture
async def through(proxy: MemcachedProxy) -> AsyncIterator[MemcachedStore]:
    """A store that is connected through the proxy, with nothing counted yet."""
    made = MemcachedStore.from_url(proxy.url)
    await made.open()
    proxy.commands.clear()
    yield made
    await made.close()


async def test_the_layout(memcached: MemcachedProcess, store: MemcachedStore) -> None:
    """A key is the prefix and the key, a value eight bytes of expiry and the data, freed some time later."""
    data, expires_at = record(b"\r\nflush_all\r\n\x00\xff"), in_an_hour()
    await store.create(KEY, data, expires_at, deadline=soon())
    blob = expires_at.to_bytes(8, "big") + data
    head, rest = memcached.raw(f"mg {NAME} t v\r\n".encode(), blob[-4:] + b"\r\n").split(b"\r\n", 1)
    assert rest == blob + b"\r\n"
    left = int(head.split(b" t")[1])
    assert 3599 <= left <= 3602
    found = await store.load(KEY, deadline=soon())
    assert found == Stored(data, data[:16], expires_at)
    for days, told in ((29, lambda t: 28 * 86_400 < t < 30 * 86_400), (400, lambda t: t > 399 * 86_400)):
        later = expires_at + days * 86_400_000
        assert await store.touch(KEY, later, expect=found, deadline=soon())
        head = memcached.raw(f"mg {NAME} t\r\n".encode())
        assert told(int(head.split(b" t")[1]))
    assert await store.touch(KEY, 2**62, expect=found, deadline=soon())
    assert memcached.raw(f"mg {NAME} t\r\n".encode()) == b"HD t-1\r\n", "it never expires there"


async def test_open_leaves_nothing_behind(memcached: MemcachedProcess, store: MemcachedStore) -> None:
    """The values that it has tried out are gone."""
    before = memcached.stats()["curr_items"]
    await store.open()
    assert memcached.stats()["curr_items"] == before


async def ended(store: MemcachedStore, version: Stored) -> None:
    await store.delete(KEY, deadline=soon())


async def changed(store: MemcachedStore, version: Stored) -> None:
    await store.save(KEY, record(), in_an_hour(), expect=version, deadline=soon())


async def nothing(store: MemcachedStore, version: Stored) -> None:
    pass


CALLS: dict[str, tuple[Any, Any, Any]] = {
    "load": (nothing, lambda store, _: store.load(KEY, deadline=soon()), Stored),
    "create": (ended, lambda store, _: store.create(KEY, record(), in_an_hour(), deadline=soon()), Saved),
    "save": (nothing, lambda store, old: save(store, old), Saved),
    "save, which conflicts": (changed, lambda store, old: save(store, old), Conflict),
    "save, of a session that has ended": (ended, lambda store, old: save(store, old), type(GONE)),
    "touch": (
        nothing,
        lambda store, old: store.touch(KEY, in_an_hour() + 5, expect=old, deadline=soon()),
        bool,
    ),
    "delete of one version": (
        nothing,
        lambda store, old: store.delete(KEY, expect=old, deadline=soon()),
        bool,
    ),
    "delete, whichever version it is": (nothing, lambda store, _: store.delete(KEY, deadline=soon()), bool),
}
"""By the documentation's names: what another process has done, the verb, and what it answers."""


def save(store: MemcachedStore, old: Stored) -> Any:
    return store.save(KEY, record(), in_an_hour(), expect=old, deadline=soon())


@pytest.mark.parametrize("verb", CALLS)
@pytest.mark.parametrize("known", [True, False], ids=["known", "not known"])
async def test_round_trips(
    memcached: MemcachedProcess, proxy: MemcachedProxy, through: MemcachedStore, verb: str, known: bool
) -> None:
    """A verb takes one trip when the version is known, or two; the documentation has the table."""
    before, call, kind = CALLS[verb]
    other = MemcachedStore.from_url(memcached.url)
    version = await written(through if known else other)
    await before(other, version)
    proxy.commands.clear()
    answer = await call(through, version)
    assert isinstance(answer, kind)
    assert answer is not False
    assert len(proxy.commands) == TRIPS[verb][0 if known else 1]
    assert proxy.connections == 1
    await other.close()


# Restarts.


async def noticed(store: MemcachedStore) -> None:
    """Wait until the store knows that its connection is lost."""
    node = store._loops.backends[asyncio.get_running_loop()].owner(KEY)
    while node.connection is not None:
        await asyncio.sleep(0)


def token_of(server: MemcachedProcess) -> bytes:
    return server.raw(f"mg {NAME} c\r\n".encode()).strip()


@pytest.mark.parametrize("verb", ["save", "touch", "delete"])
async def test_a_restart_between_load_and_write(fresh_memcached: MemcachedProcess, verb: str) -> None:
    """A server that has restarted counts tokens from 1 again: what was learned before means nothing then."""
    server = fresh_memcached
    store = MemcachedStore.from_url(server.url)
    old = await written(store)
    token = token_of(server)
    server.restart()
    data = record()
    blob = in_an_hour().to_bytes(8, "big") + data
    while token_of(server) != token:  # until another record has the very token that the store remembers
        assert server.raw(b"ms %b %d\r\n%b\r\n" % (NAME.encode(), len(blob), blob)) == b"HD\r\n"
    await noticed(store)
    assert token_of(server) == token
    if verb == "save":
        result = await store.save(KEY, record(), in_an_hour(), expect=old, deadline=soon())
        assert isinstance(result, Conflict)
        assert result.current.data == data
    elif verb == "touch":
        assert await store.touch(KEY, in_an_hour(), expect=old, deadline=soon()) is False
    else:
        assert await store.delete(KEY, expect=old, deadline=soon()) is False
    found = await store.load(KEY, deadline=soon())
    assert found is not None
    assert found.data == data
    await store.close()


async def test_a_restart_ends_all_sessions(fresh_memcached: MemcachedProcess) -> None:
    """They are missing, which is no error, and none comes back by a save."""
    store = MemcachedStore.from_url(fresh_memcached.url)
    old = await written(store)
    fresh_memcached.restart()
    await noticed(store)
    assert await store.save(KEY, record(), in_an_hour(), expect=old, deadline=soon()) is GONE
    assert await store.load(KEY, deadline=soon()) is None
    assert await store.create(KEY, record(), in_an_hour(), deadline=soon()) is not TAKEN
    await store.close()


# Lost replies.


async def test_a_load_is_repeated(proxy: MemcachedProxy, through: MemcachedStore) -> None:
    """Reading twice is the same as once."""
    stored = await written(through)
    proxy.cut_after(named("mg"))
    proxy.cut_before(named("mg"), nth=2)
    assert await through.load(KEY, deadline=soon()) == stored


@pytest.mark.parametrize("cut", ["cut_after", "cut_before"])
@pytest.mark.parametrize("verb", ["create", "save", "touch", "delete"])
async def test_a_write_is_not_repeated(
    proxy: MemcachedProxy, through: MemcachedStore, verb: str, cut: str
) -> None:
    """Sent and unanswered it may have been carried out: the store says so. Again, it is done once."""
    later, data = in_an_hour() + 5, record()
    stored = Stored(data, data[:16], later) if verb == "create" else await written(through)

    async def again() -> Any:
        if verb == "create":
            return await through.create(KEY, data, later, deadline=soon())
        if verb == "save":
            return await through.save(KEY, data, later, expect=stored, deadline=soon())
        if verb == "touch":
            return await through.touch(KEY, later, expect=stored, deadline=soon())
        return await through.delete(KEY, expect=stored, deadline=soon())

    lost = getattr(proxy, cut)(named("ms", "md"))
    with pytest.raises(StoreUnavailable) as caught:
        await again()
    assert lost.is_set()
    assert (caught.value.executed, caught.value.full) == (None, False)
    assert verb in str(caught.value)
    result = await again()
    if verb == "delete":
        assert result is (cut == "cut_before")
    else:
        assert result in (True, Saved(data[:16]))
    found = await through.load(KEY, deadline=soon())
    if verb == "delete":
        assert found is None
    else:
        assert found is not None
        assert found.data == (stored.data if verb == "touch" else data)
        assert found.expires_at == later


async def test_a_write_that_never_left_is_repeated(proxy: MemcachedProxy, through: MemcachedStore) -> None:
    """Nobody answers while the server cannot be reached; then the verb goes on by itself."""
    stored = await written(through)
    await proxy.refuse()
    saving = asyncio.create_task(
        through.save(KEY, data := record(), in_an_hour(), expect=stored, deadline=soon())
    )
    while through._loops.backends[asyncio.get_running_loop()].owner(KEY).health.since is None:
        await asyncio.sleep(0)
    await proxy.accept()
    assert await saving == Saved(data[:16])


async def test_a_late_reply(proxy: MemcachedProxy) -> None:
    """A write whose reply is late is of unknown outcome; the late reply is nobody else's."""
    store = MemcachedStore.from_url(proxy.url, timeout=0.2)
    stored = await written(store)
    hold = proxy.hold(named("ms"))
    with pytest.raises(StoreUnavailable, match="did not answer in time") as caught:
        await store.save(KEY, data := record(), in_an_hour(), expect=stored, deadline=soon())
    assert caught.value.executed is None
    connections = proxy.connections
    hold.release()
    found = await store.load(KEY, deadline=soon())
    assert found is not None
    assert found.data == data
    assert proxy.connections == connections
    await store.close()


# Cancellation.


def start(store: MemcachedStore, verb: str, stored: Stored) -> Any:
    match verb:
        case "load":
            return store.load(KEY, deadline=soon())
        case "create":
            return store.create(KEY, stored.data, in_an_hour(), deadline=soon())
        case "save":
            return store.save(KEY, record(), in_an_hour(), expect=stored, deadline=soon())
        case "touch":
            return store.touch(KEY, in_an_hour(), expect=stored, deadline=soon())
        case "delete":
            return store.delete(KEY, expect=stored, deadline=soon())
        case _:
            return store.open()


@pytest.mark.parametrize("verb", ["load", "create", "save", "touch", "delete", "open"])
async def test_cancelled_at_every_step(memcached: MemcachedProcess, verb: str) -> None:
    """Whenever a verb is cancelled, connecting or connected, others get their own replies all the same."""
    writer = MemcachedStore.from_url(memcached.url)
    for connected in (False, True):
        store = MemcachedStore.from_url(memcached.url)
        if connected:
            await store.open()
        for steps in range(40):
            await writer.delete(KEY, deadline=soon())
            stored = Stored(record(), b"x" * 16, 0) if verb == "create" else await written(writer)
            task = asyncio.ensure_future(start(store, verb, stored))
            for _ in range(steps):
                if task.done():
                    break
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            key = f"{steps:022d}"
            data = record()
            await store.create(key, data, in_an_hour(), deadline=soon())
            found = await store.load(key, deadline=soon())
            assert found is not None
            assert found.data == data
            await store.delete(key, deadline=soon())
            if not connected:
                await store.close()
        await store.close()
    await writer.close()


# Limits.


async def test_too_large_for_the_server(memcached: MemcachedProcess, store: MemcachedStore) -> None:
    """It is refused before it is sent: the server itself would remove the record that there is."""
    stored = await written(store)
    big = record(b"x" * 2**20)
    with pytest.raises(StoreUnavailable, match=r"raise its -I") as caught:
        await store.save(KEY, big, in_an_hour(), expect=stored, deadline=soon())
    assert (caught.value.executed, caught.value.full) == (False, True)
    assert await store.load(KEY, deadline=soon()) == stored
    with pytest.raises(StoreUnavailable):
        await store.create("o" * 22, big, in_an_hour(), deadline=soon())
    most = record(b"x" * (2**20 - 16 - 8 - len(NAME) - 80))
    assert isinstance(await store.save(KEY, most, in_an_hour(), expect=stored, deadline=soon()), Saved)


@pytest.fixture(scope="module")
def small() -> Iterator[MemcachedProcess]:
    """A server with little memory that does not evict."""
    server = start_memcached("-m", "2", "-M")
    yield server
    server.stop()


async def test_a_server_that_is_full(small: MemcachedProcess, caplog: pytest.LogCaptureFixture) -> None:
    """Without evictions there is no room at some time; deleting works, and then writing does."""
    store = MemcachedStore.from_url(small.url)
    data = record(b"x" * 40_000)
    keys = [f"{number:022d}" for number in range(200)]
    with pytest.raises(StoreUnavailable, match="out of memory") as caught:
        for key in keys:
            await store.create(key, data, in_an_hour(), deadline=soon())
    assert (caught.value.executed, caught.value.full) == (False, True)
    with pytest.raises(StoreUnavailable) as caught:
        expect = Stored(data, data[:16], in_an_hour())
        await store.save(keys[2], record(b"x" * 40_000), in_an_hour(), expect=expect, deadline=soon())
    assert (caught.value.executed, caught.value.full) == (False, True)
    assert await store.load(keys[2], deadline=soon()) is None, "the server removes what it cannot replace"
    assert [each for each in caplog.records if each.name == "asgi_session"] == []
    assert await store.delete(keys[0], deadline=soon())
    assert await store.delete(keys[1], expect=Stored(data, data[:16], in_an_hour()), deadline=soon())
    assert isinstance(await store.create(keys[0], data, in_an_hour(), deadline=soon()), Saved)
    await store.close()


async def test_a_server_that_evicts(caplog: pytest.LogCaptureFixture) -> None:
    """What it has thrown away is missing, without an error; one line says that it does so."""
    server = start_memcached("-m", "2")
    store = MemcachedStore.from_url(server.url)
    await store.open()
    await store.close()
    data = record(b"x" * 40_000)
    keys = [f"{number:022d}" for number in range(200)]
    for key in keys:
        assert isinstance(await store.create(key, data, in_an_hour(), deadline=soon()), Saved)
    found = [await store.load(key, deadline=soon()) for key in keys]
    assert 0 < found.count(None) < len(keys)
    old = Stored(data, data[:16], in_an_hour())
    gone = keys[found.index(None)]
    assert await store.save(gone, record(), in_an_hour(), expect=old, deadline=soon()) is GONE
    (line,) = [each for each in caplog.records if each.name == "asgi_session"]
    assert line.levelno == logging.WARNING
    assert line.getMessage().startswith(f"{server.host}:{server.port} throws sessions away")
    await store.close()
    server.stop()


async def test_five_hundred_at_once(memcached: MemcachedProcess, store: MemcachedStore) -> None:
    """They share one connection, and each gets its own."""
    before = int(memcached.stats()["total_connections"])

    async def client(number: int) -> None:
        key = f"{number:022d}"
        data = record(b"%d" % number)
        await store.create(key, data, in_an_hour(), deadline=soon())
        found = await store.load(key, deadline=soon())
        assert found is not None
        assert found.data == data
        following = record()
        assert isinstance(
            await store.save(key, following, in_an_hour(), expect=found, deadline=soon()), Saved
        )

    await asyncio.gather(*(client(number) for number in range(500)))
    assert int(memcached.stats()["total_connections"]) - before == 2, "and that of the second question"


# Outages.


async def attempt(store: MemcachedStore, key: str = KEY, seconds: float = 0.4) -> tuple[bool, float]:
    """Load; whether that was possible, and how long it took."""
    began = time.monotonic()
    try:
        await store.load(key, deadline=began + seconds)
    except StoreUnavailable as error:
        if error.executed is not False:
            raise
        return False, time.monotonic() - began
    return True, time.monotonic() - began


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_lost_and_back(
    fresh_memcached: MemcachedProcess, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within their deadlines requests fail; soon all but one at once; with the server's answer it is over."""
    monkeypatch.setattr(health, "_LEAST", 0.3)
    server = fresh_memcached
    store = MemcachedStore.from_url(server.url, timeout=0.15, connect_timeout=0.2)
    reports: list[Report] = []
    end = store.report_to(reports.append)
    assert (await attempt(store))[0], "and so long is what it waits for"
    stored = await written(store)
    getattr(server, how)()
    for verb in (
        store.save(KEY, record(), in_an_hour(), expect=stored, deadline=soon(0.4)),
        store.delete(KEY, deadline=soon(0.4)),
    ):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await verb
        assert time.monotonic() - began < 1.0
    limit = soon(10)
    while not any(isinstance(each, Lost) for each in reports):
        assert time.monotonic() < limit
        assert await attempt(store) != (True, 0)
    probe = asyncio.create_task(attempt(store))
    await asyncio.sleep(0)
    outcomes = await asyncio.gather(*(attempt(store) for _ in range(20)))
    assert all(not done and took < 0.1 for done, took in outcomes)
    assert not (await probe)[0]
    if how == "kill":
        server.restart()
    else:
        server.thaw()
    assert (await attempt(store, seconds=5))[0], "the next request is the probe"
    assert all(done for done, _ in await asyncio.gather(*(attempt(store) for _ in range(20))))
    where = f"{server.host}:{server.port}"
    assert [type(each) for each in reports if not isinstance(each, Reconnected)] == [Lost, Back]
    assert Reconnected(where) in reports
    assert all(each.server == where for each in reports)
    end()
    await store.close()


async def test_the_other_servers_are_not_concerned(memcached: MemcachedProcess) -> None:
    """When one of two is away, the keys of the other are served as ever."""
    other = start_memcached()
    hosts = ",".join(f"{each.host}:{each.port}" for each in (memcached, other))
    store = MemcachedStore.from_url(f"memcached://{hosts}", timeout=0.1, connect_timeout=0.2)
    keys = [f"{number:022d}" for number in range(50)]
    for key in keys:
        await store.create(key, record(), in_an_hour(), deadline=soon())
    other.kill()
    outcomes = dict(zip(keys, await asyncio.gather(*(attempt(store, key) for key in keys)), strict=True))
    servers = store._loops.backends[asyncio.get_running_loop()]
    for key, (done, took) in outcomes.items():
        assert done is (servers.owner(key).address[1] == memcached.port)
        if done:
            assert took < 0.3
    assert len({done for done, _ in outcomes.values()}) == 2
    with pytest.raises(StoreUnavailable, match=f":{other.port}"):
        await store.open()
    await store.close()
    other.stop()


async def test_distrust(memcached: MemcachedProcess, store: MemcachedStore) -> None:
    """The connection is dropped, and the next verb makes another."""
    stored = await written(store)
    before = int(memcached.stats()["total_connections"])
    store.distrust(KEY)
    assert await store.load(KEY, deadline=soon()) == stored
    assert int(memcached.stats()["total_connections"]) - before == 2, "and that of the question"


async def test_a_connection_is_replaced_in_time(memcached: MemcachedProcess) -> None:
    """The new one comes first, and what was learned on the old one is asked for again."""
    store = MemcachedStore.from_url(memcached.url, max_connection_age=0.05)
    stored = await written(store)
    node = store._loops.backends[asyncio.get_running_loop()].owner(KEY)
    first = node.connection
    while node.connection is first:
        assert await store.load(KEY, deadline=soon()) == stored
    assert isinstance(await store.save(KEY, record(), in_an_hour(), expect=stored, deadline=soon()), Saved)
    await store.close()


# A stream that is out of step.


@pytest.mark.parametrize(
    "reply", [b"HD\r\n", b"HD c5\r\n", b"NF\r\n", b"STORED\r\n", b"MN\r\n", b"VA 1048577 c1\r\n"]
)
async def test_another_requests_reply_signs_nobody_out(store: MemcachedStore, reply: bytes) -> None:
    """What is no answer to a load is not taken for a missing record: it is asked again, elsewhere."""
    stored = await written(store)
    connection: Any = store._servers().owner(KEY).connection
    loading = asyncio.create_task(store.load(KEY, deadline=soon()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection.data_received(reply)
    assert await loading == stored
    assert connection.closed


@pytest.mark.parametrize("reply", [b"EN\r\n", b"VA 1 c1\r\na\r\n", b"MN\r\n"])
async def test_another_requests_reply_is_no_refusal(store: MemcachedStore, reply: bytes) -> None:
    """A write that is answered so may have been carried out."""
    stored = await written(store)
    connection: Any = store._servers().owner(KEY).connection
    saving = asyncio.create_task(store.save(KEY, record(), in_an_hour(), expect=stored, deadline=soon()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection.data_received(reply)
    with pytest.raises(StoreUnavailable, match="out of step") as raised:
        await saving
    assert raised.value.executed is None

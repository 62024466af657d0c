"""`SimpleDBStore` on a stand-in of what SimpleDB's documentation says."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from asgi_session import SessionCorrupt, SessionManager
from asgi_session.clock import system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Purges, Saved, Store, Stored
from asgi_session.stores import store_from_url
from asgi_session.stores.simpledb import LARGEST, SimpleDBStore
from asgi_session.testing import StoreConformance
from tests.servers import HttpProxy, SimpleDB
from tests.servers.aws import session

SESSION = session()


class TestSimpleDBStore(StoreConformance):
    short_ms = 100  # a touch must have been answered before the record expires
    timeout = 20.0
    steps = 50

    def made(self) -> SimpleDBStore:
        return SimpleDBStore.from_url(
            f"simpledb://sessions?endpoint_url={self.server.url}", session=SESSION, timeout=10
        )

    @pytest.fixture
    async def store(self, simpledb: SimpleDB) -> AsyncIterator[SimpleDBStore]:
        self.server = simpledb
        store = self.made()
        await store.create_domain()
        yield store
        await store.close()

    def another(self, store: Store) -> SimpleDBStore:
        return self.made()


def soon(seconds: float = 10.0) -> float:
    return monotonic() + seconds


def new_key() -> str:
    return secrets.token_urlsafe(16)


def data(size: int = 20) -> bytes:
    return os.urandom(size)


def far() -> int:
    return system_clock() + 3_600_000


@pytest.fixture
async def proxy(simpledb: SimpleDB) -> AsyncIterator[HttpProxy]:
    async with HttpProxy(simpledb) as proxy:
        yield proxy


@asynccontextmanager
async def made(server: SimpleDB | HttpProxy, **options: Any) -> AsyncIterator[SimpleDBStore]:
    """Give a store on a domain that is there."""
    store = SimpleDBStore("sessions", endpoint_url=server.url, session=SESSION, **options)
    await store.create_domain()
    if isinstance(server, SimpleDB):
        server.actions.clear()
    yield store
    if isinstance(server, HttpProxy):
        server.heal()
    await store.close()


async def written(store: SimpleDBStore, key: str, size: int = 20, expires_at: int | None = None) -> Stored:
    expires_at = far() if expires_at is None else expires_at
    assert isinstance(await store.create(key, data(size), expires_at, deadline=soon()), Saved)
    stored = await store.load(key, deadline=soon())
    assert stored is not None
    return stored


async def test_what_an_item_holds(simpledb: SimpleDB) -> None:
    """A version, an expiry that sorts as a number does, and base64 in chunks of 1,024 bytes."""
    async with made(simpledb) as store:
        key = new_key()
        stored = await written(store, key, 2000)
        item = simpledb.item("sessions", key)
        assert set(item) == {"v", "x", "000", "001", "002"}
        assert item["x"] == [f"{stored.expires_at:019}"]
        assert [len(item[name][0]) for name in ("000", "001")] == [1024, 1024]
        assert item["v"][0].endswith(".3")


async def test_a_record_that_shrinks_leaves_none_of_its_data(simpledb: SimpleDB) -> None:
    """The chunks that are left over are overwritten in the same step, and are not read."""
    async with made(simpledb) as store:
        key = new_key()
        stored = await written(store, key, 5000)
        small = data(100)
        await store.save(key, small, far(), expect=stored, deadline=soon())
        item = simpledb.item("sessions", key)
        assert [item[f"{number:03}"] for number in range(1, 7)] == [["-"]] * 6
        stored = await store.load(key, deadline=soon())
        assert stored is not None
        assert stored.data == small
        large = data(5000)
        await store.save(key, large, far(), expect=stored, deadline=soon())
        stored = await store.load(key, deadline=soon())
        assert stored is not None
        assert stored.data == large


async def test_the_largest_record(simpledb: SimpleDB) -> None:
    """An item takes 195,064 bytes, over and over; one more is refused, as on a full store."""
    async with made(simpledb) as store:
        assert LARGEST - 8 == 195_064
        key = new_key()
        stored = await written(store, key, LARGEST - 8)
        for size in (20, LARGEST - 8, 100_000, LARGEST - 8):
            saved = await store.save(key, data(size), far(), expect=stored, deadline=soon())
            assert isinstance(saved, Saved)
            stored = await store.load(key, deadline=soon())
            assert stored is not None
            assert len(stored.data) == size
        assert len(simpledb.item("sessions", key)) == 256
        simpledb.actions.clear()
        for verb in (
            store.save(key, data(LARGEST - 7), far(), expect=stored, deadline=soon()),
            store.create(new_key(), data(LARGEST - 7), far(), deadline=soon()),
        ):
            with pytest.raises(StoreUnavailable, match="max_size") as raised:
                await verb
            assert (raised.value.executed, raised.value.full) == (False, True)
        assert simpledb.actions == []
        assert await store.delete(key, deadline=soon()) is True


REQUESTS = {
    "load": ["Get"],
    "create": ["Put"],
    "save": ["Put"],
    "save, touched by another process": ["Put", "Get", "Put"],
    "save, saved by another process": ["Put", "Get"],
    "touch": ["Put"],
    "touch, not seen": ["Get", "Put"],
    "delete": ["Delete"],
    "delete, not seen": ["Get", "Delete"],
}
"""What each verb sends; the page on SimpleDB shows it."""


async def test_requests_of_each_verb(simpledb: SimpleDB) -> None:
    """One request for what this process has seen, two for what it has not."""
    async with made(simpledb) as store, made(simpledb) as other, made(simpledb) as third:
        key = new_key()
        taken: dict[str, list[str]] = {}

        async def take(name: str, verb: Any) -> Any:
            simpledb.actions.clear()
            result = await verb
            taken[name] = [action.removesuffix("Attributes") for action in simpledb.actions]
            return result

        await take("create", store.create(key, data(), far(), deadline=soon()))
        stored = await take("load", store.load(key, deadline=soon()))
        assert await take("touch", store.touch(key, far() + 1, expect=stored, deadline=soon()))
        assert await take("touch, not seen", other.touch(key, far() + 2, expect=stored, deadline=soon()))
        saving = store.save(key, data(), far(), expect=stored, deadline=soon())
        assert isinstance(await take("save, touched by another process", saving), Saved)
        late = await take(
            "save, saved by another process", other.save(key, data(), far(), expect=stored, deadline=soon())
        )
        assert isinstance(late, Conflict)
        await take("save", store.save(key, data(), far(), expect=late.current, deadline=soon()))
        assert await take("delete, not seen", third.delete(key, deadline=soon()))
        assert await other.save(key, data(), far(), expect=stored, deadline=soon()) is GONE
        stored = await written(store, key)
        assert await take("delete", store.delete(key, expect=stored, deadline=soon()))
        assert taken == REQUESTS


async def test_a_lost_answer_is_unknown(proxy: HttpProxy) -> None:
    """A POST is sent once, so a write whose answer is lost may have been carried out; a load asks again."""
    async with made(proxy) as store:
        key = new_key()
        stored = await written(store, key)
        proxy.requests.clear()
        proxy.lose_answer(lambda request: b"Action=PutAttributes" in request.body)
        with pytest.raises(StoreUnavailable) as raised:
            await store.save(key, data(), far(), expect=stored, deadline=soon())
        assert raised.value.executed is None
        assert len(proxy.requests) == 1
        proxy.lose_answer(lambda request: True)
        current = await store.load(key, deadline=soon())
        assert current is not None
        assert current.data != stored.data
        await proxy.refuse()
        with pytest.raises(StoreUnavailable) as raised:
            await store.save(key, data(), far(), expect=current, deadline=soon(0.3))
        assert raised.value.executed is False
        await proxy.accept()
        assert isinstance(await store.save(key, data(), far(), expect=current, deadline=soon()), Saved)


async def test_a_frozen_server(proxy: HttpProxy) -> None:
    """Verbs end by their deadline, and say whether they have only waited for a connection."""
    async with made(proxy, connections=1) as store:
        rule = proxy.hold(lambda request: True)
        first = asyncio.create_task(store.create(new_key(), data(), far(), deadline=soon(0.6)))
        await rule.reached.wait()
        results = await asyncio.gather(
            *(store.create(new_key(), data(), far(), deadline=soon(0.2)) for _ in range(10)),
            return_exceptions=True,
        )
        executed = [result.executed for result in results if isinstance(result, StoreUnavailable)]
        assert executed == [False] * 10
        with pytest.raises(StoreUnavailable) as raised:
            await first
        assert raised.value.executed is None
        proxy.heal()
        await written(store, new_key())


def refusal(code: str) -> str:
    error = f"<Error><Code>{code}</Code><Message>as told</Message><BoxUsage>0</BoxUsage></Error>"
    return f"<?xml version='1.0'?><Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>"


@pytest.mark.parametrize(
    ("status", "code", "executed", "full"),
    [
        (409, "NumberDomainBytesExceeded", False, True),
        (408, "RequestTimeout", None, False),
        (503, "ServiceUnavailable", None, False),
        (400, "NoSuchDomain", False, False),
        (403, "AuthorizationFailure", False, False),
    ],
)
async def test_errors_of_a_write(
    proxy: HttpProxy, status: int, code: str, executed: bool | None, full: bool
) -> None:
    """What an error says of the write, and of the room there is."""
    async with made(proxy) as store:
        proxy.answer(lambda request: True, status, refusal(code))
        with pytest.raises(StoreUnavailable, match=code) as raised:
            await store.create(new_key(), data(), far(), deadline=soon())
        assert (raised.value.executed, raised.value.full) == (executed, full)


async def test_purge_removes_what_has_expired(simpledb: SimpleDB) -> None:
    """And nothing else; so often as is asked for."""
    now = system_clock()
    async with made(simpledb, clock=lambda: now) as store:
        assert isinstance(store, Purges)
        for number in range(30):
            await written(store, new_key(), expires_at=now + 1000 + number)
        kept = new_key()
        await written(store, kept)
        assert await store.purge(deadline=soon()) == 0
        now += 1025
        assert await store.purge(limit=20, deadline=soon()) == 20
        simpledb.actions.clear()
        assert await store.purge(deadline=soon()) == 6
        assert simpledb.actions.count("Select") == 2
        assert await store.load(kept, deadline=soon()) is not None


async def test_a_purge_does_not_remove_what_was_written_meanwhile(proxy: HttpProxy) -> None:
    """It removes the version whose expiry it has read."""
    now = system_clock()
    async with made(proxy, clock=lambda: now) as store:
        key = new_key()
        await written(store, key, expires_at=now + 1000)
        now += 1000
        rule = proxy.hold(lambda request: b"Action=Select" in request.body, times=1)
        task = asyncio.create_task(store.purge(deadline=soon()))
        await rule.reached.wait()
        await written(store, key)
        rule.released.set()
        proxy.answer(lambda request: b"Action=Select" in request.body, 200, EMPTY)
        assert await task == 0
        assert await store.load(key, deadline=soon()) is not None


EMPTY = (
    "<SelectResponse xmlns='http://sdb.amazonaws.com/doc/2009-04-15/'><SelectResult></SelectResult>"
    "<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></SelectResponse>"
)


async def test_a_page_may_be_empty_and_yet_not_the_last(proxy: HttpProxy) -> None:
    """SimpleDB may find nothing in its time and say where to go on."""
    now = system_clock()
    async with made(proxy, clock=lambda: now) as store:
        await written(store, new_key(), expires_at=now + 1000)
        now += 1000
        page = EMPTY.replace("<SelectResult>", "<SelectResult><NextToken>on</NextToken>")
        proxy.answer(lambda request: b"Action=Select" in request.body, 200, page)
        proxy.requests.clear()
        assert await store.purge(limit=1, deadline=soon()) == 1
        assert b"NextToken=on" in proxy.requests[1].body


# The set-up.


async def test_open_finds_what_is_wrong(simpledb: SimpleDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such domain, a wrong key, none: each says what to do, and shows no secret."""
    async with made(simpledb) as store:
        await store.open()
    missing = SimpleDBStore("no-such", endpoint_url=simpledb.url, session=SESSION)
    with pytest.raises(ConfigurationError, match=r"no domain 'no-such'.*create_domain"):
        await missing.open()
    await missing.close()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    wrong = SimpleDBStore("sessions", endpoint_url=simpledb.url)
    with pytest.raises(ConfigurationError, match="refuses the credentials") as raised:
        await wrong.open()
    assert "wrong-secret" not in str(raised.value)
    await wrong.close()
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    without = SimpleDBStore("sessions", endpoint_url=simpledb.url)
    with pytest.raises(ConfigurationError, match=r"set AWS_ACCESS_KEY_ID.*NoCredentialsError"):
        await without.open()
    await without.close()


async def test_what_may_heal_is_no_configuration_error(proxy: HttpProxy) -> None:
    """SimpleDB being away does not keep an app from starting."""
    async with made(proxy) as store:
        store._patience = 0.3
        proxy.answer(lambda request: True, 503, refusal("ServiceUnavailable"), times=None)
        with pytest.raises(StoreUnavailable):
            await store.open()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("simpledb://", {}, "lacks a name"),
        ("simpledb://ab", {}, "domain"),
        ("simpledb://sessions/path", {}, "no path"),
        ("simpledb://me:secret@sessions", {}, "no user"),
        ("simpledb://sessions?color=red", {}, "color"),
        ("simpledb://sessions", {"regoin": "x"}, "regoin"),
        ("simpledb://sessions", {"connections": 0}, "connections"),
        ("simpledb://sessions", {"clock": 1}, "clock"),
    ],
)
def test_urls_and_options_are_checked(url: str, options: dict[str, Any], says: str) -> None:
    """What cannot work is refused by name."""
    with pytest.raises(ConfigurationError, match=says) as raised:
        store_from_url(url, **{"region": "us-east-1", **options})
    assert "secret" not in str(raised.value)


def test_a_url_makes_one() -> None:
    """The domain and the region."""
    store = store_from_url("simpledb://sessions?region=eu-west-1")
    assert repr(store) == "<SimpleDBStore sessions>"


@pytest.mark.parametrize(
    "damage",
    [
        {"v": ["hello"]},
        {"v": ["a." + "9" * 5000]},
        {"000": []},
        {"000": ["!!!a"]},
    ],
)
async def test_a_damaged_item_is_an_unreadable_record(
    simpledb: SimpleDB, damage: dict[str, list[str]]
) -> None:
    """It is neither an error of the store nor taken for a missing record, and it can be removed."""
    store = SimpleDBStore("sessions", endpoint_url=simpledb.url, session=SESSION)
    await store.create_domain()
    key, expires_at = new_key(), far()
    await store.create(key, data(), expires_at, deadline=soon())
    simpledb.item("sessions", key).update(damage)
    assert await store.load(key, deadline=soon()) == Stored(b"", b"", expires_at)
    assert await store.create(key, data(), far(), deadline=soon()) is TAKEN
    with pytest.raises(SessionCorrupt):
        await SessionManager(store).get(key)
    assert await store.delete(key, deadline=soon()) is True
    assert await store.load(key, deadline=soon()) is None
    await store.close()


@pytest.mark.parametrize("body", ["<html></html>", "<PutAttributesResponse/>", "hello", ""])
async def test_an_answer_that_is_not_from_simpledb_is_an_error(simpledb: SimpleDB, body: str) -> None:
    """Whoever answers 200 to everything has stored nothing: what became of a write is not known."""
    async with HttpProxy(simpledb) as proxy:
        store = SimpleDBStore("sessions", endpoint_url=proxy.url, session=SESSION)
        await store.create_domain()
        proxy.answer(lambda request: True, 200, body, times=None)
        with pytest.raises(StoreUnavailable) as raised:
            await store.load(new_key(), deadline=soon(0.2))
        assert raised.value.executed is False
        with pytest.raises(StoreUnavailable) as raised:
            await store.create(new_key(), data(), far(), deadline=soon(0.2))
        assert raised.value.executed is None
        proxy.heal()
        await store.close()

"""`S3Store` on stand-ins: the suite, lost answers, what leaves on the wire, errors and the set-up."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from asgi_session import SessionManager
from asgi_session.clock import system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Purges, Saved, Store, Stored, TouchesRarely
from asgi_session.stores import store_from_url
from asgi_session.stores.s3 import S3Store
from asgi_session.testing import StoreConformance
from tests.servers import AwsServer, HttpProxy, Ministack, Moto, SeaweedFS, method
from tests.servers.aws import session

SESSION = session()

writes = method("PUT", "DELETE")

PARTS: dict[str, Any] = {part.__name__: part for part in StoreConformance.__mro__}
"""Of the suite, by name."""


class OnS3(PARTS["Suite"]):  # type: ignore[misc]
    """The suite's hooks; which parts of it run on which server follows."""

    short_ms = 100  # a touch must have been answered before the record expires
    timeout = 30.0
    steps = 50
    server: AwsServer

    async def opened(self, server: AwsServer) -> S3Store:
        self.server = server
        store = self.made(server.url)
        await store.create_bucket()
        return store

    def made(self, url: str) -> S3Store:
        return S3Store.from_url(f"s3://sessions/app?endpoint_url={url}", session=SESSION, timeout=30)

    def another(self, store: Store) -> S3Store:
        return self.made(self.server.url)

    @asynccontextmanager
    async def repeating(self, store: Store) -> AsyncIterator[Store]:
        """aiohttp sends a PUT and a DELETE again when it finds its connection dropped."""
        async with HttpProxy(self.server) as proxy:
            other = self.made(proxy.url)
            await other.load("a" * 22, deadline=soon())
            proxy.lose_answer(writes)
            yield other
            await other.close()


class TestS3StoreOnSeaweedFS(OnS3, StoreConformance):
    """Whoever waits there for a write to the same object asks again once a second, which may
    take the last of many 20 s: tests of nothing but such waiting run on ministack alone."""

    test_a_touch_does_not_stop_a_delete = None  # type: ignore[assignment]
    test_a_touch_does_not_undo_a_save = None  # type: ignore[assignment]
    test_after_a_delete_there_is_only_gone = None  # type: ignore[assignment]
    test_nothing_in_flight_brings_a_deleted_record_back = None  # type: ignore[assignment]
    test_one_of_many_creates_follows_an_expired_record = None  # type: ignore[assignment]
    test_one_of_many_creates_wins = None  # type: ignore[assignment]
    test_one_of_many_saves_wins = None  # type: ignore[assignment]
    test_touches_do_not_hinder_who_knows_the_tag = None  # type: ignore[assignment]
    test_who_loses_is_told_of_a_version_that_was_written = None  # type: ignore[assignment]

    @pytest.fixture
    async def store(self, seaweedfs: SeaweedFS) -> AsyncIterator[S3Store]:
        store = await self.opened(seaweedfs)
        yield store
        await store.close()


class TestS3StoreOnMinistack(OnS3, PARTS["RaceTests"], PARTS["VerbTests"]):
    """A second opinion, on verbs and races."""

    _expired = StoreConformance._expired
    test_one_of_many_creates_follows_an_expired_record = (
        StoreConformance.test_one_of_many_creates_follows_an_expired_record
    )
    test_two_hundred_at_once_get_their_own_answers = None  # type: ignore[assignment]  # takes 8 s

    @pytest.fixture
    async def store(self, ministack: Ministack) -> AsyncIterator[S3Store]:
        store = await self.opened(ministack)
        yield store
        await store.close()


class TestS3StoreOnMoto(OnS3, PARTS["VerbTests"]):
    """A third, on the verbs one after another: it takes several milliseconds for each, in our process."""

    steps = 20

    @pytest.fixture
    async def store(self, moto: Moto) -> AsyncIterator[S3Store]:
        store = await self.opened(moto)
        yield store
        await store.close()


def soon(seconds: float = 10.0) -> float:
    return monotonic() + seconds


def new_key() -> str:
    return secrets.token_urlsafe(16)


def data(body: bytes = b"body") -> bytes:
    return os.urandom(16) + body


def far() -> int:
    return system_clock() + 3_600_000


@pytest.fixture
async def proxy(ministack: Ministack) -> AsyncIterator[HttpProxy]:
    async with HttpProxy(ministack) as proxy:
        yield proxy


@asynccontextmanager
async def made(proxy: HttpProxy, **options: Any) -> AsyncIterator[S3Store]:
    """Give a store that has no connection yet, on a bucket that is there."""
    store = S3Store("sessions", endpoint_url=proxy.url, session=SESSION, **options)
    await store.create_bucket()
    await store.close()
    proxy.requests.clear()
    yield store
    proxy.heal()
    await store.close()


async def written(store: S3Store, key: str) -> Stored:
    assert isinstance(await store.create(key, data(), far(), deadline=soon()), Saved)
    stored = await store.load(key, deadline=soon())
    assert stored is not None
    return stored


@pytest.mark.parametrize("known", [True, False], ids=["seen", "not seen"])
async def test_what_aiohttp_repeats_counts_once(proxy: HttpProxy, known: bool) -> None:
    """A write whose answer is lost is sent again by the client, which the store recognises by its bytes."""
    async with made(proxy) as store, made(proxy) as other:
        key, first, second = new_key(), data(), data()

        async def losing() -> S3Store:
            chosen = store if known else other
            await chosen.load(new_key(), deadline=soon())  # now it has a connection
            proxy.lose_answer(writes)
            proxy.requests.clear()
            return chosen

        assert isinstance(await (await losing()).create(key, first, far(), deadline=soon()), Saved)
        assert proxy.methods == ["PUT", "PUT", "GET"]
        stored = await store.load(key, deadline=soon())
        assert stored is not None
        assert isinstance(
            await (await losing()).save(key, second, far(), expect=stored, deadline=soon()), Saved
        )
        stored = await store.load(key, deadline=soon())
        assert stored is not None
        assert stored.data == second
        later = far() + 1000
        assert await (await losing()).touch(key, later, expect=stored, deadline=soon()) is True
        assert (await store.load(key, deadline=soon())).expires_at == later  # type: ignore[union-attr]
        losing_both = await losing()
        proxy.lose_answer(method("DELETE"))
        assert await losing_both.delete(key, expect=stored, deadline=soon()) is True
        assert proxy.methods.count("DELETE") == 2
        assert await store.load(key, deadline=soon()) is None
        assert await store.delete(key, deadline=soon()) is False


async def test_an_answer_that_is_lost_twice_is_unknown(proxy: HttpProxy) -> None:
    """aiohttp sends a request again once; the store never does when it may have been done."""
    async with made(proxy) as store:
        key, first = new_key(), data()
        proxy.lose_answer(writes, times=2)
        with pytest.raises(StoreUnavailable) as raised:
            await store.create(key, first, far(), deadline=soon())
        assert raised.value.executed is None
        assert proxy.methods == ["PUT", "PUT"]
        stored = await store.load(key, deadline=soon())
        assert stored is not None
        proxy.lose_answer(writes, times=2)
        with pytest.raises(StoreUnavailable) as raised:
            await store.delete(key, expect=stored, deadline=soon())
        assert raised.value.executed is None
        assert await store.load(key, deadline=soon()) is None


async def test_a_server_that_dies_with_a_write_may_have_done_it(proxy: HttpProxy) -> None:
    """aiohttp's second try cannot connect, which says nothing of the first."""
    async with made(proxy) as store:
        lost = proxy.hold(writes, times=1)
        task = asyncio.create_task(store.create(new_key(), data(), far(), deadline=soon(0.5)))
        await lost.reached.wait()
        await proxy.refuse()
        with pytest.raises(StoreUnavailable) as raised:
            await task
        assert raised.value.executed is None
        await proxy.accept()


REQUESTS = {
    "load": ["GET"],
    "create": ["PUT"],
    "create, the key is taken": ["PUT", "GET"],
    "save": ["PUT"],
    "save, touched by another process": ["PUT", "GET", "PUT"],
    "save, saved by another process": ["PUT", "GET"],
    "touch": ["PUT"],
    "touch, not seen": ["GET", "PUT"],
    "delete": ["PUT", "DELETE"],
    "delete, not seen": ["GET", "PUT", "DELETE"],
}
"""What each verb sends; the page on S3 shows it."""


async def test_requests_of_each_verb(proxy: HttpProxy) -> None:
    """One request for what this process has seen, two for what it has not; a delete buries, then removes."""
    async with made(proxy) as store, made(proxy) as other, made(proxy) as third:
        key = new_key()
        taken: dict[str, list[str]] = {}

        async def take(name: str, verb: Any) -> Any:
            proxy.requests.clear()
            result = await verb
            taken[name] = proxy.methods
            return result

        await take("create", store.create(key, data(), far(), deadline=soon()))
        stored = await take("load", store.load(key, deadline=soon()))
        taken_already = store.create(key, data(), far(), deadline=soon())
        assert await take("create, the key is taken", taken_already) is TAKEN
        assert await take("touch", store.touch(key, far() + 1, expect=stored, deadline=soon()))
        await take("touch, not seen", other.touch(key, far() + 2, expect=stored, deadline=soon()))
        saving = store.save(key, data(), far(), expect=stored, deadline=soon())
        assert isinstance(await take("save, touched by another process", saving), Saved)
        late = await take(
            "save, saved by another process", other.save(key, data(), far(), expect=stored, deadline=soon())
        )
        assert isinstance(late, Conflict)
        assert isinstance(
            await take("save", store.save(key, data(), far(), expect=late.current, deadline=soon())), Saved
        )
        assert await take("delete, not seen", third.delete(key, deadline=soon()))
        stored = await written(store, key)
        assert await take("delete", store.delete(key, expect=stored, deadline=soon()))
        assert taken == REQUESTS


async def test_no_put_waits_for_100_continue(proxy: HttpProxy) -> None:
    """botocore would ask before it sends a body, which costs a round trip; the store's client does not."""
    async with made(proxy) as store:
        await written(store, new_key())
        assert [request.headers.get("expect") for request in proxy.requests] == [None, None]
        plain = SESSION.create_client("s3", region_name="us-east-1", endpoint_url=proxy.url)
        async with plain as client:
            await client.put_object(Bucket="sessions", Key="plain", Body=b"x")
        assert proxy.requests[-1].headers["expect"] == "100-continue", "the test would notice"


async def test_what_a_request_carries(proxy: HttpProxy) -> None:
    """Conditions, and neither checksums nor chunks of their own."""
    async with made(proxy, prefix="shop/sessions") as store:
        key = new_key()
        stored = await written(store, key)
        await store.save(key, data(), far(), expect=stored, deadline=soon())
        insert, load, replace = proxy.requests
        assert insert.path == load.path == f"/sessions/shop/sessions/{key}"
        assert insert.headers["if-none-match"] == "*"
        assert replace.headers["if-match"].startswith('"')
        for request in proxy.requests:
            assert not [name for name in request.headers if "checksum" in name]
            assert "content-encoding" not in request.headers
        assert insert.body == stored.expires_at.to_bytes(8, "big") + stored.data


def error(code: str) -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as told</Message></Error>"


@pytest.mark.parametrize(("status", "code"), [(409, "ConditionalRequestConflict"), (503, "SlowDown")])
async def test_what_s3_has_put_off_is_sent_again(proxy: HttpProxy, status: int, code: str) -> None:
    """A conflict with another write, and a busy S3, are met with pauses, each verb until its deadline."""
    async with made(proxy) as store:
        key = new_key()
        proxy.answer(writes, status, error(code), times=2)
        stored = await written(store, key)
        assert proxy.methods == ["PUT", "PUT", "PUT", "GET"]
        proxy.answer(writes, status, error(code), times=1)
        assert isinstance(await store.save(key, data(), far(), expect=stored, deadline=soon()), Saved)
        rule = proxy.answer(writes, status, error(code), times=None)
        begun = monotonic()
        with pytest.raises(StoreUnavailable, match=f"{code}|no answer in time"):
            await store.create(new_key(), data(), far(), deadline=soon(0.3))
        assert monotonic() - begun < 0.5
        rule.times = 0
        assert await store.delete(key, deadline=soon()) is True


async def test_a_load_is_repeated_and_a_write_is_not(proxy: HttpProxy) -> None:
    """After an error on S3's side a load asks again; a write may have been carried out."""
    async with made(proxy) as store:
        key = new_key()
        stored = await written(store, key)
        proxy.answer(method("GET"), 500, error("InternalError"))
        assert await store.load(key, deadline=soon()) == stored
        proxy.answer(writes, 500, error("InternalError"))
        with pytest.raises(StoreUnavailable, match="InternalError") as raised:
            await store.save(key, data(), far(), expect=stored, deadline=soon())
        assert raised.value.executed is None


async def test_a_bucket_that_is_removed_is_an_error(proxy: HttpProxy) -> None:
    """404 for the bucket is not 404 for the record: nobody is signed out by a wrong name."""
    async with made(proxy) as store:
        stored = await written(store, new_key())
        proxy.answer(lambda request: True, 404, error("NoSuchBucket"), times=None)
        for verb in (
            store.load(new_key(), deadline=soon()),
            store.create(new_key(), data(), far(), deadline=soon()),
            store.save(new_key(), data(), far(), expect=stored, deadline=soon()),
            store.touch(new_key(), far(), expect=stored, deadline=soon()),
            store.delete(new_key(), deadline=soon()),
        ):
            with pytest.raises(StoreUnavailable, match="NoSuchBucket") as raised:
                await verb
            assert raised.value.executed is False


@pytest.mark.parametrize("body", ["", "404 page not found", error("NoSuchWebsite")])
async def test_only_s3_says_that_there_is_no_record(proxy: HttpProxy, body: str) -> None:
    """A gateway that answers 404 to everything is an outage: nobody is signed out by it."""
    async with made(proxy) as store, made(proxy) as other:
        key = new_key()
        stored = await written(store, key)
        proxy.answer(lambda request: True, 404, body, times=None)
        for verb in (
            store.load(key, deadline=soon()),
            other.load(key, deadline=soon()),
            store.create(new_key(), data(), far(), deadline=soon()),
            store.save(key, data(), far(), expect=stored, deadline=soon()),
            store.touch(key, far(), expect=stored, deadline=soon()),
            store.delete(key, deadline=soon()),
            store.delete(key, expect=stored, deadline=soon()),
        ):
            with pytest.raises(StoreUnavailable, match="404"):
                await verb
        proxy.heal()
        assert await store.load(key, deadline=soon()) == stored


async def test_an_answer_that_is_not_from_s3_is_an_error(proxy: HttpProxy) -> None:
    """Whoever answers 200 to everything gives no ETag, and what became of a write is not known."""
    async with made(proxy) as store:
        stored = await written(store, new_key())
        proxy.answer(lambda request: True, 200, "Welcome!", times=None)
        with pytest.raises(StoreUnavailable, match="ETag") as raised:
            await store.save(new_key(), data(), far(), expect=stored, deadline=soon(0.3))
        assert raised.value.executed is False
        for body in ("Welcome!", ""):
            proxy.heal()
            proxy.answer(lambda request: True, 200, body, times=None)
            with pytest.raises(StoreUnavailable) as raised:
                await store.create(new_key(), data(), far(), deadline=soon(1))
            assert raised.value.executed is None


async def test_a_save_that_is_repeated_and_then_not_found_is_unknown(proxy: HttpProxy) -> None:
    """aiohttp's second try is refused for the first one's sake; whether it was, S3 does not say any more."""
    async with made(proxy) as store:
        key, new = new_key(), data(b"new")
        stored = await written(store, key)
        proxy.lose_answer(writes)
        proxy.answer(method("GET"), 500, error("InternalError"), times=None)
        with pytest.raises(StoreUnavailable) as raised:
            await store.save(key, new, far(), expect=stored, deadline=soon(0.5))
        assert raised.value.executed is None
        proxy.heal()
        found = await store.load(key, deadline=soon())
        assert found is not None
        assert found.data == new, "it was carried out"


async def test_a_record_ends_where_objects_must_not_be_removed(proxy: HttpProxy) -> None:
    """It has been overwritten by then: the delete was carried out, and says so."""
    async with made(proxy) as store:
        key = new_key()
        await written(store, key)
        proxy.answer(method("DELETE"), 403, error("AccessDenied"), times=None)
        assert await store.delete(key, deadline=soon()) is True
        assert await store.load(key, deadline=soon()) is None


async def test_a_server_that_is_away_and_back(proxy: HttpProxy) -> None:
    """It fails by the deadline, refused or frozen, and the next verb after its return succeeds."""
    async with made(proxy, timeout=0.2) as store:
        key = new_key()
        stored = await written(store, key)
        await proxy.refuse()
        begun = monotonic()
        with pytest.raises(StoreUnavailable) as raised:
            await store.load(key, deadline=soon(0.3))
        assert raised.value.executed is False
        with pytest.raises(StoreUnavailable):
            await store.create(new_key(), data(), far(), deadline=soon(0.3))
        assert monotonic() - begun < 1.5
        await proxy.accept()
        assert await store.load(key, deadline=soon()) == stored
        proxy.hold(lambda request: True)
        begun = monotonic()
        with pytest.raises(StoreUnavailable):
            await store.load(key, deadline=soon(0.3))
        with pytest.raises(StoreUnavailable) as raised:
            await store.save(key, data(), far(), expect=stored, deadline=soon(0.3))
        assert raised.value.executed is None
        assert monotonic() - begun < 1.5
        proxy.heal()
        assert await store.load(key, deadline=soon()) is not None


async def test_waiting_for_a_connection_is_not_executing(proxy: HttpProxy) -> None:
    """While two creates have both connections, the others say by their deadline that nothing was sent."""
    async with made(proxy, connections=2) as store:
        rule = proxy.hold(writes)
        first = [
            asyncio.create_task(store.create(new_key(), data(), far(), deadline=soon())) for _ in range(2)
        ]
        await rule.reached.wait()
        results = await asyncio.gather(
            *(store.create(new_key(), data(), far(), deadline=soon(0.2)) for _ in range(20)),
            return_exceptions=True,
        )
        executed = [result.executed for result in results if isinstance(result, StoreUnavailable)]
        assert executed == [False] * 20
        proxy.heal()
        assert all(isinstance(result, Saved) for result in await asyncio.gather(*first))
        assert proxy.methods == ["PUT", "PUT"]


async def test_cancelled_writes_hold_no_connection(proxy: HttpProxy) -> None:
    """Cancelled while S3 does not answer: the one connection is free for the next verb."""
    async with made(proxy, connections=1) as store:
        key = new_key()
        for _ in range(3):
            rule = proxy.hold(writes, times=1)
            task = asyncio.create_task(store.create(key, data(), far(), deadline=soon()))
            await rule.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            proxy.heal()
        stored = await store.load(key, deadline=soon())
        assert stored is not None
        assert await store.delete(key, expect=stored, deadline=soon())


# The set-up.


async def test_open_leaves_nothing_behind(proxy: HttpProxy) -> None:
    """It tries out every condition and right, and the bucket is as before."""
    async with made(proxy, prefix=f"check-{new_key()}") as store:
        await store.open()
        assert proxy.methods == ["GET", *["PUT"] * 3, "DELETE", "GET", "DELETE"]
        async with SESSION.create_client("s3", region_name="us-east-1", endpoint_url=proxy.url) as client:
            found = await client.list_objects_v2(Bucket="sessions", Prefix=store._bucket.before)
        assert found["KeyCount"] == 0


@pytest.mark.parametrize(
    ("ignoring", "named"),
    [("if-none-match", "If-None-Match with PUT"), ("if-match", "If-Match with PUT")],
)
async def test_a_server_that_ignores_conditions_is_refused(
    proxy: HttpProxy, ignoring: str, named: str
) -> None:
    """There a session that has ended could come back."""
    async with made(proxy) as store:
        seen: list[str] = []

        def matches(request: Any) -> bool:
            if request.method != "PUT" or ignoring not in request.headers:
                return False
            seen.append(request.path)
            return len(seen) > (ignoring == "if-none-match")

        proxy.answer(matches, 200, "", headers='ETag: "1"\r\n')
        with pytest.raises(ConfigurationError, match=named):
            await store.open()


async def test_a_server_that_ignores_conditions_of_deletes_is_refused(proxy: HttpProxy) -> None:
    """There a delete could remove what another request has just saved."""
    async with made(proxy) as store:
        proxy.answer(method("DELETE"), 204, "")
        with pytest.raises(ConfigurationError, match="If-Match with DELETE"):
            await store.open()


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "NoSuchBucket", "no bucket 'sessions'.*create_bucket"),
        (403, "AccessDenied", "s3:ListBucket"),
        (403, "RequestTimeTooSkewed", "this machine's clock .*RequestTimeTooSkewed"),
        (400, "AuthorizationHeaderMalformed", "another region"),
    ],
)
async def test_what_never_heals_is_a_configuration_error(
    proxy: HttpProxy, status: int, code: str, says: str
) -> None:
    """It says what to do."""
    async with made(proxy) as store:
        proxy.answer(lambda request: True, status, error(code), times=None)
        with pytest.raises(ConfigurationError, match=says):
            await store.open()


async def test_what_may_heal_is_not(proxy: HttpProxy) -> None:
    """S3 being away does not keep an app from starting."""
    async with made(proxy) as store:
        store._patience = 0.3
        proxy.answer(lambda request: True, 500, error("InternalError"), times=None)
        with pytest.raises(StoreUnavailable, match="InternalError"):
            await store.open()


async def test_wrong_keys_and_buckets_on_a_server_that_looks(
    seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SeaweedFS checks signatures, as AWS does; neither error shows the secret key."""
    store = S3Store("no-such-bucket", endpoint_url=seaweedfs.url)
    with pytest.raises(ConfigurationError, match="no bucket 'no-such-bucket'"):
        await store.open()
    await store.close()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    store = S3Store("sessions", endpoint_url=seaweedfs.url)
    with pytest.raises(ConfigurationError, match=r"refuses the credentials.*SignatureDoesNotMatch") as raised:
        await store.open()
    assert "wrong-secret" not in str(raised.value)
    with pytest.raises(StoreUnavailable, match="SignatureDoesNotMatch") as refused:
        await store.create(new_key(), data(), far(), deadline=soon())
    assert refused.value.executed is False
    await store.close()


async def test_no_credentials(ministack: Ministack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and a verb says that nothing was sent."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store("sessions", endpoint_url=ministack.url)
    with pytest.raises(ConfigurationError, match=r"set AWS_ACCESS_KEY_ID.*NoCredentialsError"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="NoCredentialsError") as raised:
        await store.create(new_key(), data(), far(), deadline=soon(0.3))
    assert raised.value.executed is False
    await store.close()


@pytest.mark.usefixtures("aws_keys")
def test_a_region_is_needed_on_aws_alone() -> None:
    """Without one, and without an endpoint, there is nowhere to go."""
    with pytest.raises(ConfigurationError, match="region"):
        S3Store("sessions")
    assert repr(S3Store("sessions", region="eu-central-1")) == "<S3Store sessions/>"


@pytest.mark.parametrize(
    ("bucket", "options", "says"),
    [
        ("S", {}, "bucket"),
        (None, {}, "bucket"),
        ("sessions", {"prefix": "/a"}, "prefix"),
        ("sessions", {"prefix": "a//b"}, "prefix"),
        ("sessions", {"prefix": "a/../b"}, "prefix"),
        ("sessions", {"prefix": "."}, "prefix"),
        ("sessions", {"prefix": "ä"}, "prefix"),
        ("sessions", {"prefix": "a" * 901}, "prefix"),
        ("sessions", {"prefix": None}, "prefix"),
        ("sessions", {"touch_fraction": 0}, "touch_fraction"),
        ("sessions", {"touch_fraction": 0.6}, "touch_fraction"),
        ("sessions", {"connections": 0}, "connections"),
        ("sessions", {"timeout": 0}, "timeout"),
        ("sessions", {"clock": 1}, "clock"),
        ("sessions", {"region": "mars"}, "region"),
    ],
)
def test_arguments_are_checked(bucket: Any, options: dict[str, Any], says: str) -> None:
    """What cannot work is refused by name."""
    with pytest.raises(ConfigurationError, match=says):
        S3Store(bucket, **{"region": "us-east-1", **options})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "lacks a name"),
        ("s3://me:secret@bucket", "no user"),
        ("s3://bucket?color=red", "color"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket?endpoint_url=nonsense", "endpoint_url"),
    ],
)
def test_urls_are_checked(url: str, says: str) -> None:
    """What is wrong in a URL is named, and a password in it is not shown."""
    with pytest.raises(ConfigurationError, match=says) as raised:
        store_from_url(url, region="us-east-1")
    assert "secret" not in str(raised.value)


def test_a_url_says_it_all() -> None:
    """Bucket, prefix, region; options are those of the class."""
    store = store_from_url("s3://bucket/shop/sessions?region=eu-central-1", touch_fraction=0.5)
    assert isinstance(store, S3Store)
    assert repr(store) == "<S3Store bucket/shop/sessions/>"
    assert store.touch_fraction == 0.5
    with pytest.raises(ConfigurationError, match="tuch_fraction"):
        store_from_url("s3://bucket?region=eu-central-1", tuch_fraction=0.5)


def test_touches_are_rare() -> None:
    """A touch is a PUT: by default one is due per quarter of the idle timeout."""
    store = S3Store("sessions", region="us-east-1")
    assert isinstance(store, TouchesRarely)
    assert store.touch_fraction == 0.25
    SessionManager(store)  # which takes it


# Purging.


class Clock:
    """The system's, with an offset."""

    offset = 0

    def __call__(self) -> int:
        return system_clock() + self.offset


async def test_purge_removes_what_has_expired(proxy: HttpProxy) -> None:
    """And nothing else: living records, one that is touched meanwhile, and what is not ours, stay."""
    clock = Clock()
    async with made(proxy, prefix=f"purge-{new_key()}", clock=clock) as store:
        assert isinstance(store, Purges)
        kept, gone = [new_key() for _ in range(3)], [new_key() for _ in range(20)]
        for key in kept:
            await store.create(key, data(), far() + 7_200_000, deadline=soon())
        for key in gone:
            await store.create(key, data(), far(), deadline=soon())
        async with store._clients.verb("look", soon()) as verb:
            client = await verb.client()
        for name, body in ((new_key(), b""), ("a-note.txt", b"\0" * 20)):
            await client.put_object(Bucket="sessions", Key=store._bucket.before + name, Body=body)
        assert await store.purge(deadline=soon()) == 0
        clock.offset = 3_700_000
        assert await store.purge(limit=1, deadline=soon()) == 1
        assert await store.purge(deadline=soon()) == 19
        found = await client.list_objects_v2(Bucket="sessions", Prefix=store._bucket.before)
        assert found["KeyCount"] == len(kept) + 2
        assert await store.purge(deadline=soon()) == 0


async def test_a_purge_does_not_remove_what_was_written_meanwhile(proxy: HttpProxy) -> None:
    """It removes the object that it has looked into, not the one that has taken its place."""
    clock = Clock()
    async with made(proxy, prefix=f"purge-{new_key()}", clock=clock) as store:
        key = new_key()
        await store.create(key, data(), far(), deadline=soon())
        clock.offset = 3_700_000
        rule = proxy.hold(lambda request: "range" in request.headers)
        task = asyncio.create_task(store.purge(deadline=soon()))
        await rule.reached.wait()
        fresh = data()
        assert isinstance(await store.create(key, fresh, far() + 7_200_000, deadline=soon()), Saved)
        rule.released.set()
        assert await task == 0
        stored = await store.load(key, deadline=soon())
        assert stored is not None
        assert stored.data == fresh
        assert await store.save(new_key(), data(), far(), expect=stored, deadline=soon()) is GONE


async def test_a_purge_that_is_not_through_goes_on_next_time(proxy: HttpProxy) -> None:
    """By its deadline it ends, and the next one begins where it was."""
    clock = Clock()
    async with made(proxy, prefix=f"purge-{new_key()}", clock=clock) as store:
        for _ in range(6):
            await store.create(new_key(), data(), far(), deadline=soon())
        clock.offset = 3_700_000
        proxy.requests.clear()
        assert await store.purge(limit=2, deadline=soon()) == 2
        first = [request for request in proxy.requests if "range" in request.headers]
        rule = proxy.hold(lambda request: "range" in request.headers)
        with pytest.raises(StoreUnavailable):
            await store.purge(deadline=soon(0.2))
        proxy.heal()
        rule.released.set()
        proxy.requests.clear()
        assert await store.purge(deadline=soon()) == 4
        assert not {request.path for request in first} & {request.path for request in proxy.requests}

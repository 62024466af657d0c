"""`DynamoDBStore` on stand-ins, and what it makes of DynamoDB's errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import zlib
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from asgi_session.clock import system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Saved, Store, Stored
from asgi_session.stores import store_from_url
from asgi_session.stores.dynamodb import DynamoDBStore
from asgi_session.testing import ManualClock, StoreConformance
from tests.servers import Moto
from tests.servers.aws import session

pytestmark = pytest.mark.usefixtures("aws_keys")

SESSION = session()
KEY, DATA = "k" * 22, b"0" * 16 + b"data"
OLD = Stored(DATA, DATA[:16], 2**41)


def soon(seconds: float = 5.0) -> float:
    return monotonic() + seconds


class TestDynamoDBStoreOnMoto(StoreConformance):
    timeout = 10.0
    steps = 50

    @pytest.fixture
    async def store(self, moto: Moto) -> AsyncIterator[DynamoDBStore]:
        self.url = f"dynamodb://sessions?endpoint_url={moto.url}"
        store = DynamoDBStore.from_url(self.url, session=SESSION)
        await store.create_table()
        yield store
        await store.close()

    def another(self, store: Store) -> DynamoDBStore:
        return DynamoDBStore.from_url(self.url, session=SESSION)


Answer = tuple[int, dict[str, Any] | bytes]
THROTTLED: Answer = (
    400,
    {"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException", "message": "slow"},
)
BROKEN: Answer = (500, {"__type": "com.amazonaws.dynamodb.v20120810#InternalServerError", "message": "oops"})
DONE: Answer = (200, {})


def refusal(kind: str, message: str = "no") -> Answer:
    return 400, {"__type": f"com.amazonaws.dynamodb.v20120810#{kind}", "message": message}


class Scripted:
    """A server that gives the answers it is told to, and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer | None] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.url = ""
        self.kind = "application/x-amz-json-1.0"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head.splitlines()[1:] if line)
                }
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.asked.append((headers["x-amz-target"].partition(".")[2], body))
                answer = self.answers.pop(0) if self.answers else DONE
                if answer is None:
                    break
                status, content = answer
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                writer.write(
                    b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nContent-Type: %b\r\n"
                    b"x-amz-crc32: %d\r\n\r\n%b"
                    % (status, len(data), self.kind.encode(), zlib.crc32(data), data)
                )
                await writer.drain()
        writer.close()


@asynccontextmanager
async def scripted(**options: Any) -> AsyncGenerator[tuple[Scripted, DynamoDBStore]]:
    """Serve, with a store before it."""
    script = Scripted()
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    store = DynamoDBStore("sessions", endpoint_url=script.url, session=SESSION, **options)
    try:
        yield script, store
    finally:
        await store.close()
        server.close()


async def test_every_verb_is_one_request() -> None:
    """Also a conflict: the failed condition brings what is there instead."""
    far = system_clock() + 3_600_000
    there = {"k": {"S": KEY}, "d": {"B": "MTExMTExMTExMTExMTExMW5ldw=="}, "x": {"N": str(far)}}
    failed = refusal("ConditionalCheckFailedException")
    async with scripted() as (script, store):
        assert await store.load(KEY, deadline=soon()) is None
        assert isinstance(await store.create(KEY, DATA, far, deadline=soon()), Saved)
        script.answers = [failed]
        assert await store.create(KEY, DATA, far, deadline=soon()) is TAKEN
        assert isinstance(await store.save(KEY, DATA, far, expect=OLD, deadline=soon()), Saved)
        script.answers = [(400, {**failed[1], "Item": there})]
        result = await store.save(KEY, DATA, far, expect=OLD, deadline=soon())
        assert result == Conflict(Stored(b"1" * 16 + b"new", b"1" * 16, far))
        script.answers = [failed]
        assert await store.save(KEY, DATA, far, expect=OLD, deadline=soon()) is GONE
        assert await store.touch(KEY, far, expect=OLD, deadline=soon()) is True
        script.answers = [failed]
        assert await store.touch(KEY, far, expect=OLD, deadline=soon()) is False
        assert await store.delete(KEY, deadline=soon()) is False
        script.answers = [(200, {"Attributes": there})]
        assert await store.delete(KEY, expect=OLD, deadline=soon()) is True
        assert [name for name, _ in script.asked] == [
            *("GetItem", "PutItem", "PutItem", "PutItem", "PutItem", "PutItem"),
            *("UpdateItem", "UpdateItem", "DeleteItem", "DeleteItem"),
        ]
        assert script.asked[0][1]["ConsistentRead"] is True
        ttl = int(script.asked[1][1]["Item"]["t"]["N"])
        assert ttl == far // 1000 + 60, "the TTL must leave room for clocks that differ"


async def test_what_something_on_the_way_has_repeated_counts_once() -> None:
    """The condition of the second one fails, and what is there is what was to be written."""
    far = system_clock() + 3_600_000
    ours = {"k": {"S": KEY}, "d": {"B": b64encode(DATA).decode()}, "x": {"N": str(far)}}
    twice = (400, {**refusal("ConditionalCheckFailedException")[1], "Item": ours})
    async with scripted() as (script, store):
        script.answers = [twice, twice]
        assert await store.create(KEY, DATA, far, deadline=soon()) == Saved(DATA[:16])
        expect = Stored(b"1" * 16, b"1" * 16, far)
        assert await store.save(KEY, DATA, far, expect=expect, deadline=soon()) == Saved(DATA[:16])


async def test_what_was_refused_for_want_of_capacity_is_asked_again() -> None:
    """A throttled write has certainly not been carried out; until the deadline it is tried."""
    async with scripted() as (script, store):
        script.answers = [THROTTLED, THROTTLED]
        assert isinstance(await store.create(KEY, DATA, 2**42, deadline=soon()), Saved)
        assert len(script.asked) == 3
        script.answers = [THROTTLED] * 1000
        with pytest.raises(StoreUnavailable, match="ThrottlingException") as raised:
            await store.save(KEY, DATA, 2**42, expect=OLD, deadline=soon(0.2))
        assert raised.value.executed is False


async def test_each_try_goes_by_the_time_that_it_is_then() -> None:
    """What has expired while a write was throttled does not come back."""
    clock = ManualClock(1_000_000)
    async with scripted(clock=clock) as (script, store):

        class Passing(list[Answer | None]):
            def pop(self, at: Any = -1) -> Answer | None:
                clock.ms += 500
                return super().pop(at)

        script.answers = Passing([THROTTLED, DONE])
        await store.save(KEY, DATA, 2**42, expect=OLD, deadline=soon())
        times = [asked["ExpressionAttributeValues"][":n"]["N"] for _, asked in script.asked]
        assert times == ["1000000", "1000500"]


@pytest.mark.parametrize("answer", [BROKEN, None], ids=["an error of theirs", "a lost reply"])
async def test_a_write_of_unknown_outcome_is_sent_once(answer: Answer | None) -> None:
    """Nobody knows whether it was carried out, and the error says so; a load is asked again."""
    async with scripted() as (script, store):
        for write in (
            lambda: store.create(KEY, DATA, 2**42, deadline=soon()),
            lambda: store.save(KEY, DATA, 2**42, expect=OLD, deadline=soon()),
            lambda: store.touch(KEY, 2**42, expect=OLD, deadline=soon()),
            lambda: store.delete(KEY, deadline=soon()),
        ):
            script.answers, script.asked = [answer], []
            with pytest.raises(StoreUnavailable) as raised:
                await write()
            assert raised.value.executed is None
            assert len(script.asked) == 1
        script.answers, script.asked = [answer], []
        assert await store.load(KEY, deadline=soon()) is None
        assert len(script.asked) == 2


async def test_nothing_listens() -> None:
    """A request that could not leave was not executed; it is tried until the deadline."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        store = DynamoDBStore(
            "sessions", endpoint_url=f"http://127.0.0.1:{taken.getsockname()[1]}", session=SESSION
        )
        with pytest.raises(StoreUnavailable) as raised:
            await store.create(KEY, DATA, 2**42, deadline=soon(0.3))
        assert raised.value.executed is False
        with pytest.raises(StoreUnavailable):
            await store.open()
        await store.close()


async def test_who_waits_for_a_connection_was_not_executed() -> None:
    """Of three verbs over two connections the third has not been sent."""

    class Silent(asyncio.Protocol):
        pass

    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    store = DynamoDBStore("sessions", endpoint_url=url, session=SESSION, connections=2)
    await asyncio.gather(store.load(KEY, deadline=soon(0.01)), return_exceptions=True)  # makes the client
    creates = [store.create(f"{n:022}", DATA, 2**42, deadline=soon(0.2)) for n in range(3)]
    results = await asyncio.gather(*creates, return_exceptions=True)
    assert [result.executed for result in results if isinstance(result, StoreUnavailable)] == [
        None,
        None,
        False,
    ]
    await store.close()
    server.close()


async def test_too_large_for_an_item() -> None:
    """The error says what is wrong, and that there is no room for it."""
    async with scripted() as (script, store):
        script.answers = [refusal("ValidationException", "Item size has exceeded the maximum allowed size")]
        with pytest.raises(StoreUnavailable, match="400 KB") as raised:
            await store.create(KEY, DATA, 2**42, deadline=soon())
        assert raised.value.full
        assert raised.value.executed is False


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refusal("ResourceNotFoundException"), "create_table"),
        (refusal("AccessDeniedException"), "PutItem"),
        (refusal("UnrecognizedClientException"), "refuses the credentials"),
        (
            refusal("ValidationException", "The provided key element does not match the schema"),
            "the one key 'k'",
        ),
    ],
)
async def test_open_says_what_never_heals(answer: Answer, says: str) -> None:
    """Each comes with the way out."""
    async with scripted() as (script, store):
        script.answers = [answer]
        with pytest.raises(ConfigurationError, match=says):
            await store.open()


@pytest.mark.parametrize(
    ("answer", "warns"),
    [
        ((200, {"TimeToLiveDescription": {"TimeToLiveStatus": "DISABLED"}}), True),
        ((200, {"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "other"}}), True),
        ((200, {"TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "t"}}), False),
        (refusal("AccessDeniedException"), False),
    ],
)
async def test_open_warns_when_nothing_removes_what_has_expired(
    answer: Answer, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The TTL must be on, and for our attribute; not to be allowed to look is no reason to complain."""
    async with scripted() as (script, store):
        script.answers = [DONE, answer]
        await store.open()
    assert ("TTL" in caplog.text) is warns


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said by name at the start."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store = DynamoDBStore("sessions", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="credentials"):
        await store.open()
    await store.close()


def dynamodb(**options: Any) -> Callable[[], DynamoDBStore]:
    return lambda: DynamoDBStore("sessions", **{"endpoint_url": "http://h", **options})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DynamoDBStore("sessions"), "AWS_REGION"),
        (lambda: DynamoDBStore("s p"), "3 to 255"),
        (lambda: DynamoDBStore(5), "3 to 255"),  # type: ignore[arg-type]
        (dynamodb(region="eu central"), "region"),
        (dynamodb(endpoint_url="h:8000"), "endpoint_url"),
        (dynamodb(endpoint_url=5), "endpoint_url"),
        (dynamodb(connections=0), "connections"),
        (dynamodb(timeout=0), "timeout"),
        (dynamodb(connect_timeout="1"), "connect_timeout"),
        (dynamodb(session="default"), "AioSession"),
        (dynamodb(clock=5), "clock"),
        (lambda: store_from_url("dynamodb://"), "lacks a name"),
        (lambda: store_from_url("dynamodb://key:hunter2@sessions"), "no user or password"),
        (lambda: store_from_url("dynamodb://sessions/more"), "no path"),
        (lambda: store_from_url("dynamodb://sessions?regio=x"), "'regio'.*region"),
        (lambda: store_from_url("dynamodb://sessions", regio="x"), "did you mean 'region'"),
        (lambda: store_from_url("dynamodb://[", region="x"), "dynamodb://sessions"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_given(make: Callable[[], Any], says: str) -> None:
    """By name, with the way out, and without a secret."""
    with pytest.raises(ConfigurationError, match=says) as raised:
        make()
    assert "hunter2" not in str(raised.value)


def test_urls_and_names() -> None:
    """A table by its name or its ARN, the region from the URL or the environment."""
    for url in ("dynamodb://sessions?region=eu-central-1", "dynamodb://s-1_x.y?region=us-gov-west-1"):
        assert isinstance(store_from_url(url), DynamoDBStore)
    arn = "arn:aws:dynamodb:eu-central-1:123456789012:table/sessions"
    assert repr(DynamoDBStore(arn, region="eu-central-1")) == f"<DynamoDBStore {arn}>"


async def test_the_table_is_made_once(moto: Moto) -> None:
    """Made twice, or opened before it is there and after."""
    store = DynamoDBStore("made-once", endpoint_url=moto.url, session=SESSION)
    with pytest.raises(ConfigurationError, match="create_table"):
        await store.open()
    with pytest.raises(StoreUnavailable, match=r"made-once|ResourceNotFound"):
        await store.load(KEY, deadline=soon())
    await store.create_table()
    await store.create_table()
    await store.open()
    await store.close()


async def test_a_record_that_ends_while_its_save_is_throttled() -> None:
    """Each try goes by the time that it is then, or it would bring back what others have seen end."""
    now = 1000
    async with scripted(clock=lambda: now) as (server, store):
        server.answers = [THROTTLED, THROTTLED]
        save = asyncio.create_task(store.save(KEY, DATA, 2**41, expect=OLD, deadline=soon()))
        while not server.asked:
            await asyncio.sleep(0.001)
        now = 2000
        await save
    times = [body["ExpressionAttributeValues"][":n"]["N"] for _, body in server.asked]
    assert times[0] == "1000"
    assert times[-1] == "2000"


@pytest.mark.parametrize("verb", ["load", "create", "touch", "delete"])
async def test_a_web_page_in_place_of_an_answer(verb: str) -> None:
    """A proxy's page with status 200 is no missing record, and says of no write that it was done."""
    async with scripted() as (server, store):
        server.kind, server.answers = "text/html", [(200, b"<html>Sign in</html>")] * 2
        with pytest.raises(StoreUnavailable, match="text/html") as caught:
            match verb:
                case "load":
                    await store.load(KEY, deadline=soon())
                case "create":
                    await store.create(KEY, DATA, 2**41, deadline=soon())
                case "touch":
                    await store.touch(KEY, 2**41, expect=OLD, deadline=soon())
                case _:
                    await store.delete(KEY, deadline=soon())
        assert caught.value.executed is None


@pytest.mark.parametrize("content", [b"[]", b"null", b"\xff\xfe", b'"text"'])
async def test_an_answer_that_makes_no_sense(content: bytes) -> None:
    """The SDK fails in ways of its own on it; to whoever calls it is a service that is away."""
    async with scripted() as (server, store):
        server.answers = [(200, content)]
        with pytest.raises(StoreUnavailable) as caught:
            await store.create(KEY, DATA, 2**41, deadline=soon(1))
        assert caught.value.executed is None

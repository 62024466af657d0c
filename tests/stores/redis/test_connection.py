"""The multiplexed connection against a transport that only writes down what it is given."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import hiredis
import pytest

from asgi_session.stores._shared import connection as module
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores.redis.connection import Connection

PING = b"*1\r\n$4\r\nPING\r\n"


class Recorder(asyncio.Transport):
    """A transport whose peer is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.wrote = asyncio.Event()
        self.state = "open"

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.writes.append(bytes(data))
        self.wrote.set()

    def close(self) -> None:
        self.state = "closed"

    def abort(self) -> None:
        self.state = "aborted"


def connect(timeout: float = 5.0, received: bytes = b"") -> tuple[Connection, Recorder, list[Connection]]:
    """Return a connection, its transport, and where it reports its end."""
    ended: list[Connection] = []
    connection = Connection("host:1", timeout, ended.append)
    transport = Recorder()
    connection.take_over(transport, received, None)
    return connection, transport, ended


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


async def one_tick() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_what_one_tick_asks_leaves_in_one_write() -> None:
    """64 tasks make one write, in the order in which they asked."""
    connection, transport, _ = connect()

    async def ask(number: int) -> Any:
        return await connection.request(b"<%d>" % number, soon())

    tasks = [asyncio.create_task(ask(number)) for number in range(64)]
    await one_tick()
    assert transport.writes == [b"".join(b"<%d>" % number for number in range(64))]
    connection.data_received(b"".join(b":%d\r\n" % number for number in range(64)))
    assert await asyncio.gather(*tasks) == list(range(64))


async def test_replies_may_come_in_any_pieces() -> None:
    """A reply split at every byte reaches the right request."""
    connection, _, _ = connect()
    futures = [connection.request(b"x", soon()) for _ in range(3)]
    await one_tick()
    for byte in b"$5\r\nab\r\nc\r\n_\r\n-ERR no\r\n":
        connection.data_received(bytes([byte]))
    assert await futures[0] == b"ab\r\nc"
    assert await futures[1] is None
    error = await futures[2]
    assert isinstance(error, hiredis.ReplyError)
    assert str(error) == "ERR no"


async def test_what_the_former_owner_had_read_comes_first() -> None:
    """Bytes that arrived before the hand-over are not lost."""
    connection, _, _ = connect(received=b">2\r\n+message\r\n+hello\r\n$3\r\nab")
    future = connection.request(b"x", soon())
    await one_tick()
    connection.data_received(b"c\r\n")
    assert await future == b"abc"


async def test_a_cancelled_request_that_has_not_left_never_leaves() -> None:
    """Cancellation before the write takes the command back."""
    connection, transport, _ = connect()
    gone = connection.request(b"gone", soon())
    stays = connection.request(b"stays", soon())
    gone.cancel()
    await one_tick()
    assert transport.writes == [b"stays"]
    connection.data_received(b":1\r\n")
    assert await stays == 1


async def test_a_cancelled_request_leaves_the_stream_in_step() -> None:
    """Cancellation after the write, or while the reply is on its way, drops that reply alone."""
    connection, _, _ = connect()
    futures = [connection.request(b"x", soon()) for _ in range(4)]
    await one_tick()
    futures[0].cancel()
    connection.data_received(b":0\r\n:1")
    futures[1].cancel()
    connection.data_received(b"\r\n:2\r\n")
    futures[2].cancel()  # too late: it has its reply
    connection.data_received(b":3\r\n")
    assert futures[0].cancelled()
    assert futures[1].cancelled()
    assert futures[2].result() == 2
    assert await futures[3] == 3


async def test_pushes_are_nobodys_reply() -> None:
    """RESP3 pushes before, between and after replies shift nothing."""
    connection, _, ended = connect()
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
    futures = [connection.request(b"x", soon()) for _ in range(2)]
    await one_tick()
    connection.data_received(push + b":0\r\n" + push + push + b":1\r\n" + push)
    assert await asyncio.gather(*futures) == [0, 1]
    assert ended == []


async def test_the_reply_to_asking_is_skipped() -> None:
    """A request that brings two replies gets the second, in one write, and shifts nothing."""
    connection, transport, _ = connect()
    asking = connection.request(b"ASKING+GET", soon(), 1)
    plain = connection.request(b"GET", soon())
    await one_tick()
    assert transport.writes == [b"ASKING+GETGET"]
    connection.data_received(b"+OK\r\n:1\r\n:2\r\n")
    assert await asking == 1
    assert await plain == 2


async def test_a_request_times_out_alone() -> None:
    """The late reply is dropped; those before and after get their own, on the same connection."""
    connection, _, ended = connect()
    before = connection.request(b"x", soon())
    late = connection.request(b"x", soon(0.05))
    after = connection.request(b"x", soon())
    began = time.monotonic()
    failure = await late
    assert isinstance(failure, Failure)
    assert failure.executed is None
    assert time.monotonic() - began < 0.5
    connection.data_received(b":0\r\n:1\r\n:2\r\n")
    assert await before == 0
    assert await after == 2
    assert ended == []


async def test_a_connection_that_makes_progress_is_never_dropped() -> None:
    """Bytes of a big reply that comes slowly count as signs of life."""
    connection, transport, ended = connect(timeout=0.2)
    future = connection.request(b"x", soon(30))
    connection.data_received(b"")
    await one_tick()
    connection.data_received(b"$30\r\n")
    for _ in range(30):  # three times the timeout and the probe's together
        await asyncio.wait([future], timeout=0.04)
        connection.data_received(b"x")
    connection.data_received(b"\r\n")
    assert await future == b"x" * 30
    assert transport.writes == [b"x"]
    assert ended == []


async def test_a_silent_connection_is_probed_and_then_dropped() -> None:
    """After the timeout comes a PING, after as long again without a byte the end."""
    connection, transport, ended = connect(timeout=0.2)
    began = time.monotonic()
    future = connection.request(b"x", soon(30))
    failure = await future
    assert isinstance(failure, Failure)
    assert failure.executed is None
    assert 0.35 < time.monotonic() - began < 2
    assert transport.writes == [b"x", PING]
    assert transport.state == "aborted"
    assert ended == [connection]


async def test_an_answered_probe_keeps_the_connection() -> None:
    """A server that is merely slow keeps its connection, and the slow reply still counts."""
    connection, transport, ended = connect(timeout=0.2)
    future = connection.request(b"x", soon(30))
    for _ in range(200):
        if PING in transport.writes:
            break
        await asyncio.wait([future], timeout=0.02)
    connection.data_received(b":7\r\n+PONG\r\n")
    assert await future == 7
    assert ended == []


async def test_the_watchdog_rests_when_nothing_is_pending() -> None:
    """An idle connection has no timer but the idle PING's."""
    connection, _, _ = connect()
    future = connection.request(b"x", soon())
    await one_tick()
    connection.data_received(b":1\r\n")
    await future
    for _ in range(100):
        if connection._watch is None:
            break
        await asyncio.sleep(0.01)
    assert connection._watch is None


async def test_a_paused_transport_makes_callers_wait_in_order() -> None:
    """While the transport's buffer is full nothing is written; afterwards all that still matters is."""
    connection, transport, _ = connect()
    connection.pause_writing()
    first = connection.request(b"<1>", soon())
    late = connection.request(b"<2>", soon(0.05))
    third = connection.request(b"<3>", soon())
    failure = await late
    assert isinstance(failure, Failure)
    assert failure.executed is False, "it never left"
    assert transport.writes == []
    connection.resume_writing()
    assert transport.writes == [b"<1><3>"]
    connection.data_received(b":1\r\n:3\r\n")
    assert (await first, await third) == (1, 3)


async def test_unanswered_bytes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What exceeds the cap waits until replies make room."""
    monkeypatch.setattr(module, "_MAX_IN_FLIGHT", 100)
    connection, transport, _ = connect()
    futures = [connection.request(b"x" * 60, soon()) for _ in range(5)]
    await one_tick()
    assert [len(write) for write in transport.writes] == [120]
    connection.data_received(b":0\r\n")
    await one_tick()
    assert [len(write) for write in transport.writes] == [120, 60]
    for number in range(1, 5):
        connection.data_received(b":%d\r\n" % number)
        await one_tick()
    assert await asyncio.gather(*futures) == list(range(5))


async def test_a_lost_connection_tells_what_may_have_been_executed() -> None:
    """Written commands may have been executed, unwritten ones not; a later one is refused at once."""
    connection, _, ended = connect()
    written = connection.request(b"x", soon())
    await one_tick()
    unwritten = connection.request(b"x", soon())
    connection.connection_lost(ConnectionResetError())
    later = connection.request(b"x", soon())
    assert [(await f).executed for f in (written, unwritten, later)] == [None, False, False]
    assert ended == [connection]


@pytest.mark.parametrize("noise", [b":1\r\n", b"!!not RESP\r\n"])
async def test_a_stream_out_of_step_is_dropped(noise: bytes) -> None:
    """A reply to nothing, or bytes that are no reply, end the connection before they can mislead."""
    connection, transport, ended = connect()
    connection.data_received(noise)
    assert transport.state == "aborted"
    assert ended == [connection]


async def test_retiring_waits_for_the_replies_that_are_due() -> None:
    """A connection that is replaced first answers what it was asked."""
    connection, transport, _ = connect()
    future = connection.request(b"x", soon())
    await one_tick()
    connection.retire()
    assert transport.state == "open"
    connection.data_received(b":1\r\n")
    assert await future == 1
    for _ in range(100):
        if transport.state == "closed":
            break
        await asyncio.sleep(0.01)
    assert transport.state == "closed"


async def test_an_idle_connection_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection nobody uses is asked for a sign of life, and dropped when there is none."""
    monkeypatch.setattr(module, "_IDLE_PROBE", 0.02)
    connection, transport, ended = connect(timeout=0.1)
    await asyncio.wait_for(transport.wrote.wait(), 5)
    assert transport.writes[0] == PING
    while not connection.closed:
        await asyncio.sleep(0.01)
    assert ended == [connection]


async def test_a_held_up_loop_is_not_taken_for_a_silent_server() -> None:
    """When the loop itself was blocked, what the server has sent meanwhile is read first."""
    connection, transport, ended = connect(timeout=0.2)
    future = connection.request(b"x", soon(0.3))
    await one_tick()
    asyncio.get_running_loop().call_soon(time.sleep, 1.0)
    asyncio.get_running_loop().call_later(1.0, connection.data_received, b":1\r\n")
    assert await future == 1
    assert PING not in transport.writes
    assert ended == []


async def test_pushes_go_where_they_are_wanted() -> None:
    """They are no replies. Where they are wanted an array is one, too; elsewhere it is a reply."""
    connection, _, _ = connect()
    pushed: list[Any] = []
    connection.on_push = pushed.append
    reply = connection.request(PING, soon())
    await one_tick()
    connection.data_received(b">2\r\n+a\r\n:1\r\n*1\r\n:2\r\n+PONG\r\n>1\r\n:3\r\n")
    assert await reply == b"PONG"
    assert pushed == [[b"a", 1], [2], [3]]
    plain, _, _ = connect()
    reply = plain.request(b"x", soon())
    await one_tick()
    plain.data_received(b">1\r\n:3\r\n*1\r\n:2\r\n")
    assert await reply == [2]

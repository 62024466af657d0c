"""What Memcached's connection adds to the shared one, against a transport that only writes down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session.stores._shared import connection as shared
from asgi_session.stores.memcached.connection import Connection
from tests.stores.memcached.kit import soon
from tests.stores.redis.test_connection import Recorder, one_tick


def connect(timeout: float = 5.0) -> tuple[Connection, Recorder, list[Connection]]:
    """Return a connection, its transport, and where it reports its end."""
    ended: list[Connection] = []
    connection = Connection("host:1", timeout, ended.append)
    transport = Recorder()
    connection.take_over(transport, b"", None)
    return connection, transport, ended


async def test_replies_reach_their_requests() -> None:
    """One write for a tick; a request that is cancelled loses its own reply and nobody else's."""
    connection, transport, ended = connect()
    futures: list[asyncio.Future[Any]] = [connection.request(b"mg %d v\r\n" % n, soon()) for n in range(4)]
    await one_tick()
    assert len(transport.writes) == 1
    futures[1].cancel()
    connection.data_received(b"VA 1 c1\r\n0\r\nVA 1 c2\r\n1\r\nEN\r\nVA 2")
    connection.data_received(b" c3\r\n33\r\n")
    replies = [(await future).value for future in (futures[0], futures[2], futures[3])]
    assert replies == [b"0", None, b"33"]
    assert ended == []


@pytest.mark.parametrize("noise", [b"EN\r\n", b"VA x\r\n", b"\r\n"])
async def test_a_stream_out_of_step_is_dropped(noise: bytes) -> None:
    """A reply to nothing, or bytes that are no reply, end the connection before they can mislead."""
    connection, transport, ended = connect()
    connection.data_received(noise)
    assert transport.state == "aborted"
    assert ended == [connection]


async def test_what_waits_for_room_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What exceeds the cap of unanswered bytes leaves when replies have made room."""
    monkeypatch.setattr(shared, "_MAX_IN_FLIGHT", 100)
    connection, transport, _ = connect()
    futures = [connection.request(b"x" * 60, soon()) for _ in range(3)]
    await one_tick()
    assert [len(write) for write in transport.writes] == [120]
    connection.data_received(b"HD c1\r\n")
    await one_tick()
    assert [len(write) for write in transport.writes] == [120, 60]
    connection.data_received(b"HD c2\r\nHD c3\r\n")
    assert [(await future).token for future in futures] == [b"1", b"2", b"3"]


async def test_a_silent_connection_is_probed_and_then_dropped() -> None:
    """The probe is a no-op, after which as long again without a byte is the end."""
    connection, transport, ended = connect(timeout=0.1)
    await connection.request(b"mg k v\r\n", soon(30))
    assert transport.writes == [b"mg k v\r\n", b"mn\r\n"]
    assert transport.state == "aborted"
    assert ended == [connection]

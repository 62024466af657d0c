"""Guards for what is used of redis-py but not promised by it."""

from __future__ import annotations

import asyncio

import hiredis
import redis.asyncio
from redis.asyncio.connection import Connection, SSLConnection

from tests.servers import ServerProcess


async def test_a_connection_has_the_private_parts_that_are_taken_over(valkey: ServerProcess) -> None:
    """Reader, writer and parser are where `dial` looks, and a connection without them stays silent."""
    connection = Connection(host=valkey.host, port=valkey.port, protocol=3, socket_keepalive=True)
    await connection.connect()
    reader, writer = connection._reader, connection._writer
    assert isinstance(reader, asyncio.StreamReader)
    assert isinstance(writer, asyncio.StreamWriter)
    assert isinstance(writer.transport, asyncio.Transport)
    assert isinstance(reader._buffer, bytearray)  # type: ignore[attr-defined]
    assert reader.exception() is None
    assert isinstance(connection._parser._reader, hiredis.Reader)
    assert connection._parser._reader.has_data() is False
    writer.transport.abort()
    connection._reader = connection._writer = None
    del connection


def test_tls_arguments_are_asked_for_by_a_method() -> None:
    """`_connection_arguments` is what `asyncio.open_connection` gets, so a name to verify can be added."""
    arguments = SSLConnection(host="h", port=1)._connection_arguments()
    assert {"host", "port", "ssl"} <= arguments.keys()
    raw = SSLConnection(host="h", port=1)
    raw._connection_arguments = lambda: {"mine": True}
    assert raw._connection_arguments() == {"mine": True}


async def test_client_objects_show_their_settings() -> None:
    """Pools, clusters and sentinels keep their settings where `describe` reads them."""
    client = redis.asyncio.Redis(host="h", port=1)
    assert client.connection_pool.connection_class is Connection
    assert client.connection_pool.connection_kwargs["host"] == "h"
    cluster = redis.asyncio.RedisCluster(host="h", port=1)
    assert [(node.host, node.port) for node in cluster.startup_nodes] == [("h", 1)]
    assert cluster.connection_kwargs["connection_class"] is Connection
    assert cluster.nodes_manager.address_remap is None
    sentinel = redis.asyncio.Sentinel([("h", 1)], password="p")
    assert sentinel.connection_kwargs == {"password": "p"}
    pool = sentinel.master_for("svc").connection_pool
    assert (pool.service_name, pool.is_master, pool.sentinel_manager) == ("svc", True, sentinel)
    await cluster.aclose()

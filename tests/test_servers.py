"""The helpers of the tests do what the tests rely on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import hiredis
import pytest
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from tests.servers import (
    Cluster,
    FakeredisServer,
    LossyProxy,
    SentinelSetup,
    ServerProcess,
    SimpleDB,
    named,
    slot_of,
    start_cluster,
    wait_until,
)
from tests.servers.server import free_port, pack


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_port_is_given_twice() -> None:
    """Servers that are about to start, as the six of a cluster are, do not take each other's port."""
    ports = [free_port() for _ in range(1000)]
    assert len({*ports}) == 1000


def test_valkey_answers_and_persists_nothing(valkey: ServerProcess) -> None:
    """The server is the expected one, with persistence off."""
    assert valkey.info("server")["valkey_version"].startswith("9.")
    assert valkey.command("CONFIG", "GET", "save") == [b"save", b""]
    valkey.command("SET", "k", b"\x00\xff\r\n")
    assert valkey.command("GET", "k") == b"\x00\xff\r\n"


def test_redis62_is_redis_62(redis62: ServerProcess) -> None:
    """The oldest supported server is the one that runs."""
    assert redis62.info("server")["redis_version"].startswith("6.2.")


def test_fakeredis_answers(fakeredis_server: FakeredisServer) -> None:
    """fakeredis is reached over TCP."""
    fakeredis_server.command("SET", "k", "v")
    assert fakeredis_server.command("GET", "k") == b"v"


async def test_fakeredis_survives_an_error_reply(fakeredis_server: FakeredisServer) -> None:
    """A connection goes on after an error reply, as on a real server."""
    async with LossyProxy(fakeredis_server) as proxy:
        client = await connect(proxy)
        client.send(("NONSENSE",), ("PING",))
        assert (await client.line()).startswith(b"-ERR unknown command")
        assert await client.line() == b"+PONG\r\n"
        client.writer.close()


def test_error_replies_raise(valkey: ServerProcess) -> None:
    """An error reply is an exception, so that no helper goes on silently."""
    with pytest.raises(hiredis.ReplyError, match="unknown command"):
        valkey.command("NONSENSE")


def test_commandstats_count_exactly(valkey: ServerProcess) -> None:
    """Statistics hold what was called since the reset, without the helpers' own commands."""
    valkey.reset_stats()
    valkey.command("GET", "a")
    valkey.command("GET", "b")
    valkey.command("EVAL", "return redis.call('GET', KEYS[1])", 1, "a")
    assert valkey.commandstats() == {"get": 3, "eval": 1}


def test_monitor_sees_every_command_with_its_bytes(valkey: ServerProcess) -> None:
    """MONITOR's lines are complete at the end of the block, and parsed back to bytes."""
    value = bytes(range(256))
    with valkey.monitor() as seen:
        valkey.command("SET", "k", value)
        valkey.command("EVAL", "return redis.call('GET', 'k')", 0)
    assert [c.name for c in seen] == ["set", "eval", "get"]
    assert seen[0].args == (b"SET", b"k", value)
    assert seen[2].source == "lua"


def test_kill_restart_freeze_thaw(fresh_valkey: ServerProcess) -> None:
    """A server can be killed, brought back empty on its port, frozen and thawed."""
    server = fresh_valkey
    server.command("SET", "k", "v")
    first, port = server.pid, server.port
    server.kill()
    assert not exists(first)
    with pytest.raises(OSError, match="refused"):
        server.command("PING")
    server.restart()
    assert server.port == port
    assert server.command("GET", "k") is None
    server.freeze()
    with pytest.raises(TimeoutError):
        server.command("PING", timeout=0.2)
    server.thaw()
    assert server.command("PING") == b"PONG"


def test_servers_die_with_a_killed_parent(tmp_path: Path) -> None:
    """No server outlives its test process, even when that is killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", "from tests.servers import *; print(start_valkey().pid, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert child.stdin
    assert child.stdout
    with child.stdin, child.stdout:
        pid = int(child.stdout.readline())
        assert exists(pid)
        child.kill()
        child.wait()
        wait_until("the server is gone", lambda: not exists(pid) or zombie(pid))


def test_servers_outlive_a_forked_child(tmp_path: Path) -> None:
    """A child made by fork that exits in the ordinary way takes no server with it."""
    code = """
import os, sys
from tests.servers import start_valkey
server = start_valkey()
if (child := os.fork()) == 0:
    sys.exit()
os.waitpid(child, 0)
print(server.command("PING"), (server.directory / "log").exists())
"""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert ran.stdout == "b'PONG' True\n", ran.stderr
    assert list(tmp_path.iterdir()) == [], "the parent removes what its server left"


def zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_slot_of_knows_hash_tags(cluster: Cluster) -> None:
    """Our slots are the server's."""
    for key in ("foo", "asgi_session:{abc}", "{}x", "a{b", "a{}{b}", "{a}{b}"):
        assert slot_of(key) == cluster.nodes[0].command("CLUSTER", "KEYSLOT", key), key


def test_cluster_starts_whole_and_quickly() -> None:
    """A cluster of six is up, with replicas in step, within eight seconds."""
    began = time.monotonic()
    cluster = start_cluster()
    try:
        assert time.monotonic() - began < 8
        primary = cluster.primary_of("k")
        assert len(cluster.primaries) == 3
        assert primary.command("SET", "k", "v") == b"OK"
        assert cluster.replica_of(primary).info("replication")["role"] == "slave"
    finally:
        cluster.stop()


def test_slots_move_by_hand(fresh_cluster: Cluster) -> None:
    """A slot can be left half moved (ASK), then finished (MOVED)."""
    source = fresh_cluster.primary_of("k")
    target = next(p for p in fresh_cluster.primaries if p is not source)
    source.command("SET", "k", "v")
    fresh_cluster.move_slot(slot_of("k"), target, finish=False)
    with pytest.raises(hiredis.ReplyError, match="ASK"):
        source.command("GET", "k")
    assert fresh_cluster.primary_of("k") is source
    fresh_cluster.assign_slot(slot_of("k"), target)
    with pytest.raises(hiredis.ReplyError, match="MOVED"):
        source.command("GET", "k")
    assert target.command("GET", "k") == b"v"
    assert fresh_cluster.primary_of("k") is target
    fresh_cluster.wait_ok()


def test_slots_move_atomically(fresh_cluster: Cluster) -> None:
    """Valkey 9 moves a range by itself, keys included."""
    slot = slot_of("k")
    source = fresh_cluster.primary_of("k")
    target = next(p for p in fresh_cluster.primaries if p is not source)
    source.command("SET", "k", "v")
    fresh_cluster.migrate_slots_atomically(slot, slot, target)
    assert target.command("GET", "k") == b"v"
    fresh_cluster.wait_ok()


def test_cluster_fails_over_when_told_and_when_a_primary_dies(fresh_cluster: Cluster) -> None:
    """Both kinds of failover end with the replica as primary, and the killed one comes back as replica."""
    old = fresh_cluster.primary_of("k")
    replica = fresh_cluster.replica_of(old)
    fresh_cluster.failover(replica)
    fresh_cluster.wait_ok()
    assert fresh_cluster.primary_of("k") is replica
    replica.kill()
    fresh_cluster.wait_primary(old)
    assert fresh_cluster.primary_of("k") is old
    replica.restart()
    fresh_cluster.wait_ok()
    assert fresh_cluster.replica_of(old) is replica


def test_sentinel_fails_over_when_told(fresh_sentinel: SentinelSetup) -> None:
    """An ordered failover swaps the roles."""
    old, new = fresh_sentinel.primary, fresh_sentinel.replica
    fresh_sentinel.failover()
    assert (fresh_sentinel.primary, fresh_sentinel.replica) == (new, old)
    assert new.command("SET", "k", "v") == b"OK"


def test_sentinel_replaces_a_killed_primary(fresh_sentinel: SentinelSetup) -> None:
    """A primary that dies is replaced without being told."""
    old, new = fresh_sentinel.primary, fresh_sentinel.replica
    old.kill()
    fresh_sentinel.wait_primary(new)
    assert new.command("SET", "k", "v") == b"OK"


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *commands: tuple[str, ...]) -> None:
        self.writer.write(b"".join(pack(*c) for c in commands))

    async def line(self) -> bytes:
        async with asyncio.timeout(5):
            try:
                return await self.reader.readline()
            except ConnectionResetError:
                return b""


async def connect(proxy: LossyProxy) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", proxy.port))


async def test_proxy_counts_commands_and_writes(valkey: ServerProcess) -> None:
    """Two commands of one write are two commands in one chunk."""
    async with LossyProxy(valkey) as proxy:
        client = await connect(proxy)
        client.send(("INCR", "a"), ("INCR", "a"))
        assert [await client.line(), await client.line()] == [b":1\r\n", b":2\r\n"]
        assert proxy.commands == [(b"INCR", b"a")] * 2
        assert (proxy.client_writes, proxy.connections) == (1, 1)
        client.writer.close()


async def test_proxy_loses_the_reply_of_an_executed_command(valkey: ServerProcess) -> None:
    """The nth matching command is executed, its reply is not delivered, the connection drops."""
    async with LossyProxy(valkey) as proxy:
        cut = proxy.cut_after(named("incr"), nth=2)
        client = await connect(proxy)
        client.send(("GET", "a"), ("INCR", "a"), ("INCR", "a"), ("INCR", "a"))
        assert [await client.line(), await client.line()] == [b"$-1\r\n", b":1\r\n"]
        assert await client.line() == b""
        assert cut.is_set()
        client.writer.close()
    assert int(valkey.command("GET", "a")) >= 2


async def test_proxy_loses_a_command_before_it_is_executed(valkey: ServerProcess) -> None:
    """A command cut before never reaches the server."""
    async with LossyProxy(valkey) as proxy:
        cut = proxy.cut_before(named("incr"))
        client = await connect(proxy)
        client.send(("INCR", "a"))
        assert await client.line() == b""
        assert cut.is_set()
        client.writer.close()
    assert valkey.command("GET", "a") is None


async def test_proxy_holds_replies(valkey: ServerProcess) -> None:
    """A held reply has been executed by the server and arrives after the release."""
    async with LossyProxy(valkey) as proxy:
        hold = proxy.hold(named("incr"))
        client = await connect(proxy)
        client.send(("PING",), ("INCR", "a"))
        assert await client.line() == b"+PONG\r\n"
        await hold.reached.wait()
        assert valkey.command("GET", "a") == b"1"
        pending = asyncio.ensure_future(client.line())
        await asyncio.sleep(0)
        assert not pending.done()
        hold.release()
        assert await pending == b":1\r\n"
        client.writer.close()


async def test_proxy_refuses_and_accepts_again(valkey: ServerProcess) -> None:
    """Connections are dropped and refused, then accepted on the same port."""
    async with LossyProxy(valkey) as proxy:
        client = await connect(proxy)
        client.send(("PING",))
        assert await client.line() == b"+PONG\r\n"
        port = proxy.port
        await proxy.refuse()
        client.writer.close()
        with pytest.raises(OSError, match=r"Connect|refused"):
            await connect(proxy)
        await proxy.accept()
        assert proxy.port == port
        client = await connect(proxy)
        client.send(("PING",))
        assert await client.line() == b"+PONG\r\n"
        client.writer.close()


async def test_the_stand_in_for_simpledb(simpledb: SimpleDB) -> None:
    """It does what the documentation says and our store never asks for, and reads stale where it may."""
    async with get_session().create_client(
        "sdb", region_name="us-east-1", endpoint_url=simpledb.url
    ) as client:
        item = {"DomainName": "d", "ItemName": "i"}
        with pytest.raises(ClientError, match="NoSuchDomain"):
            await client.get_attributes(**item)
        await client.create_domain(DomainName="d")
        for value in ("one", "two"):
            await client.put_attributes(**item, Attributes=[{"Name": "a", "Value": value}])
        assert simpledb.item("d", "i") == {"a": ["one", "two"]}
        stale = await client.get_attributes(**item)
        assert [each["Value"] for each in stale["Attributes"]] == ["one"]
        fresh = await client.get_attributes(**item, ConsistentRead=True)
        assert [each["Value"] for each in fresh["Attributes"]] == ["one", "two"]
        for attributes, expected, code in (
            ([("b", "x")], {"Name": "a", "Value": "one"}, "MultiValuedAttribute"),
            ([("b", "x")], {"Name": "c", "Value": "x"}, "AttributeDoesNotExist"),
            ([("b", "x")], {"Name": "a", "Exists": False}, "ConditionalCheckFailed"),
            ([("b", "x" * 1025)], None, "InvalidParameterValue"),
            ([(str(number), "x") for number in range(257)], None, "NumberSubmittedAttributesExceeded"),
            ([(str(number), "x") for number in range(255)], None, "NumberItemAttributesExceeded"),
        ):
            named = [{"Name": name, "Value": value} for name, value in attributes]
            with pytest.raises(ClientError, match=code):
                await client.put_attributes(
                    **item, Attributes=named, **({} if expected is None else {"Expected": expected})
                )
        await client.delete_attributes(**item, Attributes=[{"Name": "a", "Value": "one"}])
        assert simpledb.item("d", "i") == {"a": ["two"]}
        await client.delete_attributes(**item)
        assert simpledb.item("d", "i") == {}

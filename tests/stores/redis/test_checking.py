"""Promise 18: `open` finds out what can never work, and says by name what to do about it."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio import Redis

import asgi_session.stores.redis as package
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import TAKEN
from asgi_session.stores.redis import RedisStore
from tests.servers import (
    Cluster,
    FakeredisServer,
    SentinelSetup,
    ServerProcess,
    start_cluster,
    start_redis62,
    start_valkey,
)
from tests.stores.redis.load import in_an_hour, record, soon
from tests.stores.redis.scripted import scripted
from tests.stores.redis.test_access import PASSWORD, lock, quoted, tls_in_front

KEY = "k" * 22
QUICK = 3.0
"""Seconds within which what never heals is found: nobody waits for it to heal."""


@contextlib.asynccontextmanager
async def made(url: str, **options: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore.from_url(url, **options)
    try:
        yield store
    finally:
        await store.close()


async def refusal(url: str, **options: Any) -> str:
    """Return what `open` says of a set-up that it refuses."""
    async with made(url, **options) as store:
        began = time.monotonic()
        with pytest.raises(ConfigurationError) as caught:
            await store.open()
        assert time.monotonic() - began < QUICK
    said = str(caught.value)
    for secret in ("hunter2", "someone", PASSWORD):
        assert secret not in said
    return said


@pytest.fixture(params=[start_valkey, start_redis62], ids=["valkey", "redis62"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """The newest and the oldest server, of the test's own."""
    server = request.param()
    yield server
    server.stop()


async def test_a_good_server_keeps_nothing(server: ServerProcess, caplog: pytest.LogCaptureFixture) -> None:
    """The check says nothing, and leaves neither a key nor a connection behind."""
    with caplog.at_level(logging.DEBUG, "asgi_session"):
        async with made(server.url) as store:
            await store.open()
            assert await store.create(KEY, record(), in_an_hour(), deadline=soon()) is not TAKEN
            assert server.command("DBSIZE") == 1
    assert caplog.records == []


async def test_a_good_cluster_and_a_good_sentinel(
    cluster: Cluster, sentinel: SentinelSetup, caplog: pytest.LogCaptureFixture
) -> None:
    """Every primary of a cluster is tried out with a key of its own slots."""
    cluster.reset_stats()
    with caplog.at_level(logging.DEBUG, "asgi_session"):
        for url in (cluster.url, sentinel.url):
            async with made(url) as store:
                await store.open()
    assert caplog.records == []
    assert all(node.command("DBSIZE") == 0 for node in cluster.primaries)
    assert all(node.commandstats()["pexpireat"] == 1 for node in cluster.primaries)


async def test_fakeredis_is_good_enough(
    fakeredis_server: FakeredisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that is not quite Redis is served all the same."""
    async with made(fakeredis_server.url) as store:
        await store.open()
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_password_that_is_missing(server: ServerProcess) -> None:
    """Where to put it is said."""
    server.command("CONFIG", "SET", "requirepass", "hunter2")
    said = await refusal(server.url)
    assert "asks for a password, and none was given (redis://user:password@host" in said


async def test_a_password_that_is_wrong(server: ServerProcess) -> None:
    """Neither user nor password is repeated."""
    server.command("CONFIG", "SET", "requirepass", "a")
    url = server.url.removeprefix("redis://")
    assert "user or password is wrong" in await refusal(f"redis://:hunter2@{url}")
    assert "user or password is wrong" in await refusal(f"redis://someone:hunter2@{url}")


async def test_tls_to_a_plain_port(server: ServerProcess) -> None:
    """The scheme to write instead is said, in the words that were used."""
    at = f"{server.host}:{server.port}"
    assert f"{at} speaks no TLS: use redis://" in await refusal(f"rediss://someone:hunter2@{at}")
    assert f"{at} speaks no TLS: use valkey+cluster://" in await refusal(f"valkeys+cluster://{at}")
    assert f"{at} speaks no TLS: use redis+sentinel://" in await refusal(f"rediss+sentinel://{at}/svc")


async def test_no_tls_to_a_tls_port(valkey: ServerProcess) -> None:
    """The other way round, too; a certificate that nobody trusts is no obstacle to finding that out."""
    async with tls_in_front(valkey, trustme.CA().issue_cert("redis.example.com")) as port:
        said = await refusal(f"valkey://:hunter2@127.0.0.1:{port}")
        assert f"127.0.0.1:{port} speaks TLS only: use valkeys://" in said
        assert "speaks TLS only: use rediss+cluster://" in await refusal(f"redis+cluster://127.0.0.1:{port}")


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"])
def test_files_that_are_missing(name: str, tmp_path: Path) -> None:
    """A store that names a file of certificates that is not there cannot be made; no path is repeated."""
    missing = tmp_path / "hunter2"
    for make in (
        lambda: RedisStore.from_url(f"rediss://h?{name}={missing}"),
        lambda: RedisStore.from_url(f"valkeys+sentinel://h/svc?{name}={missing}"),
        lambda: RedisStore(Redis.from_url(f"rediss://h?{name}={missing}")),
    ):
        with pytest.raises(ConfigurationError, match=f"{name}: there is no such file") as caught:
            make()
        assert "hunter2" not in str(caught.value)
    missing.touch()
    RedisStore.from_url(f"rediss://h?{name}={missing}")


async def test_a_single_server_to_a_cluster_node(cluster: Cluster) -> None:
    """Any node is found out, also the one that has the slot of whatever is asked."""
    for node in cluster.primaries:
        said = await refusal(f"valkey://{node.host}:{node.port}")
        assert "is a node of a cluster: use valkey+cluster://host:port (or a RedisCluster object)" in said


async def test_a_cluster_of_one_shard_works_like_a_single_server() -> None:
    """What has all the slots is used as it was asked for."""
    cluster = start_cluster(primaries=1, replicas=0)
    try:
        node = cluster.nodes[0]
        async with made(f"redis://{node.host}:{node.port}") as store:
            await store.open()
            assert await store.create(KEY, record(), in_an_hour(), deadline=soon()) is not TAKEN
    finally:
        cluster.stop()


async def test_schemes_of_another_kind(
    valkey: ServerProcess, cluster: Cluster, sentinel: SentinelSetup
) -> None:
    """Each kind of server that is taken for another is named, and so is the scheme to use."""
    single, node, watcher = (
        f"{each.host}:{each.port}" for each in (valkey, cluster.nodes[0], sentinel.sentinels[0])
    )
    for url, says in (
        (f"redis://{watcher}", "is a Sentinel: use redis+sentinel://host:26379/service"),
        (f"redis+cluster://{watcher}", "is a Sentinel: use redis+sentinel://"),
        (f"redis+cluster://{single}", "is a single server: use redis://host:port"),
        (f"valkey+sentinel://{single}/svc", "is a single server: use valkey://host:port"),
        (f"redis+sentinel://{node}/svc", "is a node of a cluster: use redis+cluster://"),
        (f"redis+sentinel://{watcher}/other", "knows no service 'other'"),
    ):
        assert says in await refusal(url)


async def test_one_seed_of_several_is_enough(cluster: Cluster, valkey: ServerProcess) -> None:
    """What answers as it should counts, whoever else is in the list."""
    async with made(f"{cluster.url},{valkey.host}:{valkey.port}") as store:
        await store.open()


def without(right: str) -> list[str]:
    """Return the documented rights but for one."""
    rule = (package.__doc__ or "").split("ACL SETUSER ")[1].split("\n\n")[0].split()[3:]
    assert right in rule or not right
    return [each for each in rule if each != right]


@pytest.mark.parametrize(
    ("right", "says"),
    [
        ("+get", "GET"),
        ("+set", "SET"),
        ("+del", "EVAL to delete, DEL"),
        ("+eval", "EVAL to save"),
        ("+evalsha", "EVALSHA"),
        ("+getrange", "EVAL to save, EVAL to touch"),
        ("+setrange", "EVAL to touch"),
        ("+pexpireat", "EVAL to touch"),
        ("+ping", "PING"),
        ("~asgi_session:*", "GET, SET"),
    ],
)
async def test_a_right_that_is_missing(server: ServerProcess, right: str, says: str) -> None:
    """What cannot be done without it is named, and the rule that gives everything."""
    server.command("ACL", "SETUSER", "someone", "on", ">hunter2", *without(right))
    said = await refusal(f"redis://someone:hunter2@{server.host}:{server.port}")
    assert says in said
    assert "ACL SETUSER <user> ~asgi_session:* +get +set +del" in said


@pytest.mark.parametrize("right", ["+publish", "+subscribe", "&asgi_session:wake:*"])
async def test_wake_ups_that_are_not_allowed(
    server: ServerProcess, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are not needed, so this is a warning, once, that names the rights."""
    server.command("ACL", "SETUSER", "someone", "on", ">hunter2", *without(right))
    async with made(f"redis://someone:hunter2@{server.host}:{server.port}") as store:
        await store.open()
        await store.open()
    (said,) = [each.getMessage() for each in caplog.records if each.name == "asgi_session"]
    assert "+publish +subscribe &asgi_session:wake:*" in said


async def test_rights_of_a_cluster_and_of_a_sentinel(fresh_cluster: Cluster, sentinel: SentinelSetup) -> None:
    """One node without them is found, and so are those to ask for the topology, or for the primary."""
    for node in fresh_cluster.nodes:
        node.command("ACL", "SETUSER", "someone", "on", ">hunter2", *without(""), "+asking")
    url = fresh_cluster.url.replace("://", "://someone:hunter2@")
    assert "give it the right +cluster|slots" in await refusal(url)
    for node in fresh_cluster.nodes:
        node.command("ACL", "SETUSER", "someone", "+cluster|slots")
    async with made(url) as store:
        await store.open()
    for missing, says in (("-asking", "ASKING"), ("-evalsha", "EVALSHA")):
        node = fresh_cluster.primaries[1]
        node.command("ACL", "SETUSER", "someone", missing)
        said = await refusal(url)
        assert f"{node.host}:{node.port} does not allow the store's user {says}" in said
        node.command("ACL", "SETUSER", "someone", missing.replace("-", "+"))
    for watcher in sentinel.sentinels:
        watcher.command("ACL", "SETUSER", "someone", "on", ">hunter2", "+ping")
    try:
        said = await refusal(f"{sentinel.url}?sentinel_username=someone&sentinel_password=hunter2")
    finally:
        for watcher in sentinel.sentinels:
            watcher.command("ACL", "DELUSER", "someone")
    assert "+sentinel|get-master-addr-by-name" in said


async def test_eviction_that_may_not_be_looked_at(
    fresh_valkey: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """A user without INFO is told of it, once: nobody then warns of a policy that evicts sessions."""
    lock(fresh_valkey).command("ACL", "SETUSER", "sessions", "-info")
    async with made(f"redis://sessions:{quoted()}@{fresh_valkey.host}:{fresh_valkey.port}") as store:
        await store.open()
        await store.close()
        await store.open()
    (said,) = [each.getMessage() for each in caplog.records if each.name == "asgi_session"]
    assert "maxmemory-policy" in said
    assert "+info" in said


async def unavailable(store: RedisStore) -> StoreUnavailable:
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await store.open()
    assert time.monotonic() - began < 3
    assert caught.value.executed is False
    return caught.value


def away(server: ServerProcess) -> None:
    server.kill()


def frozen(server: ServerProcess) -> None:
    server.freeze()


def replica(server: ServerProcess) -> None:
    server.command("REPLICAOF", "127.0.0.1", "1")


def full(server: ServerProcess) -> None:
    server.command("CONFIG", "SET", "maxmemory", "1")


@pytest.mark.parametrize(
    ("ail", "says"),
    [(away, "refused|Connect"), (frozen, "no connection"), (replica, "replica.*primary"), (full, "full")],
)
async def test_what_heals_is_no_wrong_set_up(
    server: ServerProcess, ail: Callable[[ServerProcess], None], says: str
) -> None:
    """An outage, a failover and a full memory end by themselves: they must never end the app's start."""
    async with made(server.url, connect_timeout=0.5, timeout=0.3) as store:
        ail(server)
        error = await unavailable(store)
    assert re.search(says, str(error))
    assert error.full is (ail is full)


async def test_a_server_that_is_loading_is_waited_for() -> None:
    """Within the time that `open` has."""
    answers = 0

    def answer(connection: int, command: tuple[bytes, ...]) -> bytes:
        nonlocal answers
        answers += 1
        return b"-LOADING the dataset\r\n" if answers < 40 else b"_\r\n"

    async with scripted(answer) as server, made(server.url) as store:
        await store.open()
    assert answers > 40


async def test_what_the_check_does_to_a_cluster_that_is_down(fresh_cluster: Cluster) -> None:
    """With a shard away the others are not accused of anything."""
    fresh_cluster.primaries[0].kill()
    async with made(fresh_cluster.url, connect_timeout=0.5, timeout=0.3) as store:
        began = time.monotonic()
        with contextlib.suppress(StoreUnavailable):  # unless the replica has taken over by now
            await store.open()
        assert time.monotonic() - began < 3


async def test_a_database_that_does_not_exist(valkey: ServerProcess) -> None:
    """It never heals by itself."""
    store = RedisStore.from_url(f"{valkey.url}/99")
    with pytest.raises(ConfigurationError, match="no such database"):
        await store.open()
    await store.close()

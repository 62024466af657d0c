"""TLS, logins and rights."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import secrets
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
import uvloop
from redis.asyncio import Redis
from redis.credentials import CredentialProvider

import asgi_session.stores.redis as package
from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Saved
from asgi_session.stores.redis import RedisStore
from tests.servers import Cluster, ServerProcess, start_redis62
from tests.stores.redis.load import in_an_hour, record, soon, version

KEY = "k" * 22
PASSWORD = "s3cr3t-@:/%"


async def use_every_verb(store: RedisStore) -> None:
    first, second = record("1"), record("2" * 100_000)
    await store.delete(KEY, deadline=soon())
    assert await store.load(KEY, deadline=soon()) is None
    assert await store.create(KEY, first, in_an_hour(), deadline=soon()) is not TAKEN
    assert await store.save(KEY, second, in_an_hour(), expect=version(first), deadline=soon()) == Saved(
        second[:16]
    )
    assert isinstance(
        await store.save(KEY, first, in_an_hour(), expect=version(first), deadline=soon()), Conflict
    )
    assert await store.touch(KEY, in_an_hour(), expect=version(second), deadline=soon())
    found = await asyncio.gather(*(store.load(KEY, deadline=soon()) for _ in range(20)))
    assert {each.data for each in found if each} == {second}
    assert await store.delete(KEY, deadline=soon())
    assert await store.save(KEY, first, in_an_hour(), expect=version(first), deadline=soon()) is GONE
    await use_wake_ups(store)


async def use_wake_ups(store: RedisStore) -> None:
    listener, woken = secrets.token_hex(8), asyncio.Event()
    end = await store.listen(listener, lambda *_: woken.set(), deadline=soon())
    first, second = record("1"), record("2")
    assert await store.create(KEY, first, in_an_hour(), deadline=soon()) is not TAKEN
    await store.save_and_wake(
        KEY, second, in_an_hour(), expect=version(first), wake=[listener], deadline=soon()
    )
    await asyncio.wait_for(woken.wait(), 10)
    end()
    assert await store.delete(KEY, deadline=soon())


@contextlib.asynccontextmanager
async def tls_in_front(server: ServerProcess, certificate: trustme.LeafCert) -> AsyncIterator[int]:
    """Terminate TLS on another port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(server.host, server.port)
        await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(start, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        assert not tasks, "a client has not closed its connection"


@pytest.fixture
def locked(fresh_valkey: ServerProcess) -> ServerProcess:
    """A server where "sessions" may only what the documentation says."""
    return lock(fresh_valkey)


def lock(server: ServerProcess) -> ServerProcess:
    documented = package.__doc__ or ""
    rule = documented.split("ACL SETUSER ")[1].split("\n\n")[0].split()
    assert rule[:2] == ["sessions", "on"]
    rule[2] = ">" + PASSWORD
    server.command("ACL", "SETUSER", *rule)
    return server


def quoted() -> str:
    return PASSWORD.replace("%", "%25").replace("@", "%40").replace(":", "%3A").replace("/", "%2F")


async def test_the_documented_rights_are_enough(
    locked: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """A user with nothing more can do everything; the missing INFO is not even mentioned."""
    with caplog.at_level(logging.DEBUG, "asgi_session"):
        store = RedisStore.from_url(f"redis://sessions:{quoted()}@{locked.host}:{locked.port}")
        await store.open()
        await use_every_verb(store)
        await store.close()
    assert caplog.records == []


async def test_the_documented_rights_are_enough_on_redis_6(caplog: pytest.LogCaptureFixture) -> None:
    """Where a new user may use every channel, unless it is said otherwise."""
    server = start_redis62()
    try:
        lock(server)
        store = RedisStore.from_url(f"redis://sessions:{quoted()}@{server.host}:{server.port}")
        await use_every_verb(store)
        await store.close()
    finally:
        server.stop()
    assert [each for each in caplog.records if each.name == "asgi_session"] == []


async def test_no_channel_but_the_documented_ones(locked: ServerProcess) -> None:
    """Under another prefix neither keys nor channels are allowed."""
    url = f"redis://sessions:{quoted()}@{locked.host}:{locked.port}"
    store = RedisStore.from_url(url, prefix="elsewhere")
    with pytest.raises(StoreUnavailable, match=r"NOPERM.*&elsewhere:wake:\*"):
        await store.listen("a" * 16, lambda *_: None, deadline=soon())
    await store.close()


async def test_rights_that_are_missing_are_named(locked: ServerProcess) -> None:
    """A right that is missing is refused with the server's words, other than the user's name."""
    store = RedisStore.from_url(
        f"redis://sessions:{quoted()}@{locked.host}:{locked.port}", prefix="elsewhere"
    )
    with pytest.raises(StoreUnavailable, match="NOPERM") as caught:
        await store.load(KEY, deadline=soon())
    assert caught.value.executed is False
    locked.command("ACL", "SETUSER", "sessions", "~elsewhere:*", "-get")
    with pytest.raises(StoreUnavailable, match="NOPERM the user has no permissions to run the 'get'"):
        await store.load(KEY, deadline=soon())
    await store.close()


async def test_a_wrong_password_fails_at_once(locked: ServerProcess) -> None:
    """No retry helps, so none is made; neither password nor user's secret is in the error."""
    store = RedisStore.from_url(f"redis://sessions:wrong-{quoted()}@{locked.host}:{locked.port}")
    began = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable, match="refused the login") as caught:
        await store.load(KEY, deadline=soon(10))
    assert asyncio.get_running_loop().time() - began < 2
    assert caught.value.executed is False
    seen: BaseException | None = caught.value
    while seen is not None:
        assert "wrong-" not in str(seen)
        seen = seen.__cause__ or seen.__context__
    await store.close()


async def test_a_credential_provider_is_asked_at_every_connect(locked: ServerProcess) -> None:
    """Credentials that expire are fetched anew, with the connection's maximum age or a lost connection."""
    asked = 0

    class Provider(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            nonlocal asked
            asked += 1
            return "sessions", PASSWORD

    client = Redis(host=locked.host, port=locked.port, credential_provider=Provider())
    store = RedisStore(client)
    await use_every_verb(store)
    assert asked == 2  # for the commands, for the wake-ups
    store.distrust(KEY)
    await use_every_verb(store)
    assert asked == 4
    await store.close()


async def test_a_credential_provider_that_fails(locked: ServerProcess) -> None:
    """Whatever it raises becomes StoreUnavailable, without the text, which may hold secrets."""

    class Provider(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            raise RuntimeError("token hush-hush has expired")

    store = RedisStore(Redis(host=locked.host, port=locked.port, credential_provider=Provider()))
    with pytest.raises(StoreUnavailable, match="RuntimeError") as caught:
        await store.load(KEY, deadline=soon(0.2))
    assert "hush" not in str(caught.value)
    await store.close()


async def test_a_database_and_a_client_name(fresh_valkey: ServerProcess) -> None:
    """Both are set on the connection that the commands take."""
    store = RedisStore.from_url(f"{fresh_valkey.url}/3?client_name=web-1")
    assert await store.create(KEY, record(), in_an_hour(), deadline=soon()) is not TAKEN
    assert fresh_valkey.info("keyspace").keys() == {"db3"}
    assert " name=web-1 " in fresh_valkey.command("CLIENT", "LIST").decode()
    await store.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_tls(locked: ServerProcess, tmp_path: Path, run: object) -> None:
    """TLS with a private CA and a login, on both kinds of loop; the end of the loop closes it quietly."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def main() -> None:
        async with tls_in_front(locked, authority.issue_cert("127.0.0.1")) as port:
            url = f"rediss://sessions:{quoted()}@127.0.0.1:{port}?ssl_ca_certs={tmp_path / 'ca.pem'}"
            store = RedisStore.from_url(url)
            await use_every_verb(store)
            await store.close()
            await use_every_verb(store)
            await store.close()

    assert callable(run)
    run(main())


def test_an_unclosed_tls_connection_warns_of_nothing(fresh_valkey: ServerProcess, tmp_path: Path) -> None:
    """Also with TLS a loop may end, or just be closed, without the store being closed."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    started: queue.Queue[int] = queue.Queue()
    stop = threading.Event()

    async def serve() -> None:
        async with tls_in_front(fresh_valkey, authority.issue_cert("127.0.0.1")) as port:
            started.put(port)
            await asyncio.to_thread(stop.wait, 60)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        url = f"rediss://127.0.0.1:{started.get(timeout=10)}?ssl_ca_certs={tmp_path / 'ca.pem'}"
        script = f"""
            import asyncio, gc, uvloop
            from asgi_session.stores.redis import RedisStore
            from tests.stores.redis.test_access import use_every_verb

            store = RedisStore.from_url({url!r})
            asyncio.run(use_every_verb(store))
            uvloop.run(use_every_verb(store))
            loop = asyncio.new_event_loop()
            loop.run_until_complete(use_every_verb(store))
            loop.close()
            asyncio.run(use_every_verb(store))
            gc.collect()
        """
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        stop.set()
        thread.join(20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_the_name_to_verify_can_be_given(fresh_valkey: ServerProcess, tmp_path: Path) -> None:
    """A certificate for another name is refused, unless that name is the one to expect."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with tls_in_front(fresh_valkey, authority.issue_cert("redis.example.com")) as port:
        url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path / 'ca.pem'}"
        wrong = RedisStore.from_url(url)
        with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await wrong.load(KEY, deadline=soon(0.5))
        await wrong.close()
        store = RedisStore.from_url(url, tls_server_name="redis.example.com")
        await use_every_verb(store)
        await store.close()


async def test_client_objects_are_left_alone(valkey: ServerProcess) -> None:
    """A client's settings are used; its pool makes no connection and stays usable."""
    client = Redis(host=valkey.host, port=valkey.port, decode_responses=True, client_name="theirs")
    store = RedisStore(client)
    await use_every_verb(store)
    assert client.connection_pool._available_connections == []
    await store.close()
    assert await client.ping()
    await client.aclose()


async def test_a_cluster_client_object(cluster: Cluster) -> None:
    """A RedisCluster that was never connected tells enough."""
    from redis.asyncio import RedisCluster

    first = cluster.nodes[0]
    client = RedisCluster(host=first.host, port=first.port)
    store = RedisStore(client)
    for number in range(20):
        assert await store.create(f"{number:022d}", record(), in_an_hour(), deadline=soon()) is not TAKEN
    await use_every_verb(store)
    await store.close()
    await client.aclose()

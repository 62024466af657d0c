"""Getting in: versions, passwords, TLS, and servers that are none."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import TAKEN
from asgi_session.stores.memcached import MemcachedStore
from tests.servers import MemcachedProcess, MemcachedProxy, ServerProcess, start_memcached
from tests.stores.memcached.kit import KEY, in_an_hour, record, scripted, soon

EITHER = (StoreUnavailable, ConfigurationError)
Errors = type[Exception] | tuple[type[Exception], ...]


async def refused(url: str, what: str, kind: Errors = ConfigurationError, **options: float) -> str:
    """Open a store, which must fail so; and a verb is unavailable, without having been carried out."""
    store = MemcachedStore.from_url(url, **options)  # type: ignore[arg-type]
    with pytest.raises(kind, match=what) as caught:
        await store.open()
    with pytest.raises(StoreUnavailable, match=what) as verb:
        await store.create(KEY, record(), in_an_hour(), deadline=soon(0.3))
    assert verb.value.executed is False
    await store.close()
    return str(caught.value)


async def works(store: MemcachedStore) -> None:
    await store.open()
    assert await store.create(KEY, record(), in_an_hour(), deadline=soon()) is not TAKEN
    assert await store.delete(KEY, deadline=soon())
    await store.close()


# Versions.


@pytest.mark.parametrize("version", ["1.4.39", "1.5.22", "1.6.0", "1.6.12"])
async def test_a_server_that_is_too_old(version: str) -> None:
    """It is told so, and was sent no data, which it would have taken for commands."""
    async with scripted(lambda _: f"VERSION {version}\r\n".encode()) as (url, seen):
        text = await refused(url, r"1\.6\.13 or later")
        assert f"Memcached {version}" in text
        assert set(seen) == {b"version\r\n"}


@pytest.mark.parametrize(
    "reply", [b"-ERR unknown command\r\n", b"VERSION 9\r\n", b"HTTP/1.1 400 Bad Request\r\n"]
)
async def test_another_server(reply: bytes) -> None:
    """What is no Memcached is refused for good."""
    async with scripted(lambda _: reply) as (url, _):
        await refused(url, "is no Memcached server")


async def test_redis(valkey: ServerProcess) -> None:
    """A server of sessions, but of the other kind."""
    await refused(valkey.url.replace("redis", "memcached"), "is no Memcached server")


async def test_a_server_without_room_for_a_connection() -> None:
    """That may heal."""
    async with scripted(lambda _: b"ERROR Too many open connections\r\n") as (url, _):
        await refused(url, "Too many open connections", StoreUnavailable, connect_timeout=0.1)


@pytest.mark.parametrize("reply", [None, b"\x15\x03\x01\r\n\r\n"])
async def test_a_server_that_hangs_up(reply: bytes | None) -> None:
    """Or answers what is no protocol at all: one with TLS does either."""
    async with scripted(lambda _: reply) as (url, _):
        await refused(url, "use memcacheds://|is no Memcached", EITHER, connect_timeout=0.1)


async def test_a_server_that_says_nothing() -> None:
    """Connecting ends with its time."""
    async with scripted(lambda _: b"") as (url, _):
        await refused(url, "no connection within 0.1 s", StoreUnavailable, connect_timeout=0.1)


async def test_a_server_that_compares_nothing() -> None:
    """One that takes every write for good would lose sessions: it is not believed."""

    def answer(line: bytes) -> bytes:
        if line == b"version\r\n":
            return b"VERSION 1.6.40\r\n"
        if line.startswith(b"stats"):
            return b"ERROR\r\n"
        return b"" if line == b"\r\n" else b"HD c1\r\n"

    async with scripted(answer) as (url, _):
        await refused(url, "does not do what Memcached does", StoreUnavailable, connect_timeout=0.1)


async def test_without_cas() -> None:
    """A server that compares no versions cannot keep the promises."""
    server = start_memcached("-C")
    await refused(server.url, "without CAS")
    server.stop()


async def test_a_server_that_no_longer_understands() -> None:
    """It may have taken data for commands: the connection is dropped, so that it is sent no more."""
    connections = 0
    inserts: set[bytes] = set()

    def answer(line: bytes) -> bytes:
        nonlocal connections
        words = line.split()
        match words[:1]:
            case [b"version"]:
                connections += 1
                return b"VERSION 1.6.40\r\n"
            case [b"stats"]:
                return b"END\r\n"
            case [b"mg"]:
                return b"VA 0 c5\r\n\r\n"
            case [b"md"]:
                return b"HD\r\n" if b"C5" in words else b"EX\r\n"
            case [b"ms"] if b"check" not in words[1]:
                return b"CLIENT_ERROR bad data chunk\r\n"
            case [b"ms"] if words[1] in inserts:
                return b"NS\r\n" if b"ME" in words else b"EX\r\n"
            case [b"ms"]:
                inserts.add(words[1])
                return b"HD c5\r\n"
        return b""

    async with scripted(answer) as (url, _):
        store = MemcachedStore.from_url(url)
        await store.open()
        for number in range(1, 4):
            with pytest.raises(StoreUnavailable, match="bad data chunk") as caught:
                await store.create(KEY, record(), in_an_hour(), deadline=soon())
            assert (caught.value.executed, caught.value.full) == (False, False)
            assert connections == number
        await store.close()


# Passwords.


@pytest.fixture(scope="module")
def locked() -> Iterator[MemcachedProcess]:
    """A server with a file of passwords."""
    # Not below pytest's directory, which is ours alone: it is read by the user that the server becomes.
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "passwords"
        file.write_text("ada:s3cret\nbob:other\n")
        for each in (file, file.parent):
            each.chmod(0o755)
        server = start_memcached("-Y", str(file))
        yield server
        server.stop()


async def test_a_password(locked: MemcachedProcess) -> None:
    """With the right one everything works."""
    where = f"{locked.host}:{locked.port}"
    await works(MemcachedStore.from_url(f"memcached://ada:s3cret@{where}"))
    await works(MemcachedStore([where], user="bob", password="other"))


async def test_a_wrong_password(locked: MemcachedProcess) -> None:
    """It is refused for good, without being shown."""
    text = await refused(f"memcached://ada:hunter2@{locked.host}:{locked.port}", "user or password is wrong")
    assert "hunter2" not in text
    assert "ada" not in text


async def test_a_password_that_is_missing(locked: MemcachedProcess) -> None:
    """The error says how to give it."""
    await refused(locked.url, "memcached://user:password@host")


async def test_a_password_that_nobody_asks_for(memcached: MemcachedProcess) -> None:
    """It is refused, and not sent: such a server would store it for anybody to read."""
    async with MemcachedProxy(memcached) as proxy:
        await refused(f"memcached://ada:hunter2@127.0.0.1:{proxy.port}", "asks for no password")
        assert set(proxy.commands) == {(b"version",)}
    assert memcached.raw(b"mg auth v\r\n") == b"EN\r\n"


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def encrypted(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MemcachedProcess]:
    """A server that speaks TLS."""
    directory = tmp_path_factory.mktemp("tls")
    for each in (directory, directory.parent, directory.parent.parent):
        each.chmod(0o755)
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    for each in (chain, key):
        each.chmod(0o644)
    server = start_memcached("-Z", "-o", f"ssl_chain_cert={chain},ssl_key={key}")
    yield server
    server.stop()


async def test_tls(encrypted: MemcachedProcess, authority: trustme.CA, tmp_path: Path) -> None:
    """With the CA's file in the URL, or with a context."""
    where = f"{encrypted.host}:{encrypted.port}"
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    await works(MemcachedStore.from_url(f"memcacheds://{where}?ca_file={tmp_path}/ca.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    await works(MemcachedStore.from_url(f"memcacheds://{where}", ssl_context=context))


async def test_a_certificate_that_is_not_trusted(encrypted: MemcachedProcess) -> None:
    """Certificates are verified by default."""
    await refused(f"memcacheds://{encrypted.host}:{encrypted.port}", "the certificate is not trusted")


async def test_tls_on_one_side_only(encrypted: MemcachedProcess, memcached: MemcachedProcess) -> None:
    """Either way it fails in time, with a hint."""
    await refused(encrypted.url, "memcacheds://|no connection within", StoreUnavailable, connect_timeout=0.1)
    await refused(
        memcached.url.replace("memcached", "memcacheds"), "TLS", StoreUnavailable, connect_timeout=0.1
    )

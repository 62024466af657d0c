"""URLs and client objects, turned into what to connect to; nothing is connected here."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import redis
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.credentials import UsernamePasswordCredentialProvider

from asgi_session.errors import ConfigurationError
from asgi_session.stores import store_from_url
from asgi_session.stores.memory import MemoryStore
from asgi_session.stores.redis import RedisStore
from asgi_session.stores.redis.clients import describe
from asgi_session.stores.redis.schemes import SCHEMES
from asgi_session.stores.redis.url import parse


def test_a_plain_url() -> None:
    """Host, port and database; the rest has its default."""
    target = parse("redis://example.com:7000/3")
    assert (target.mode, target.addresses) == ("single", (("example.com", 7000),))
    assert target.dialect.connection_class is Connection
    assert target.dialect.settings == {"db": 3}
    assert parse("redis://h").addresses == (("h", 6379),)
    assert parse("redis://h?db=4").dialect.settings["db"] == 4
    assert parse("redis://[::1]:7").addresses == (("::1", 7),)


def test_credentials_are_unquoted_once_and_never_shown() -> None:
    """Special characters arrive whole; repr and errors keep the secret."""
    url = "redis://us%40er:p%2Fa%3As%25s@h/0"
    target = parse(url)
    assert target.dialect.settings["username"] == "us@er"
    assert target.dialect.settings["password"] == "p/a:s%s"
    for text in (repr(target), repr(RedisStore.from_url(url)), repr(target.dialect)):
        assert "s%s" not in text
        assert "p%2F" not in text
    with pytest.raises(ConfigurationError) as caught:
        parse("redis://user:hush@h/abc")
    assert "hush" not in str(caught.value)


def test_tls_options() -> None:
    """`rediss://` takes redis-py's ssl_ options, as types of their own."""
    target = parse("rediss://h?ssl_check_hostname=false&ssl_ca_certs=%2Fca.pem&ssl_cert_reqs=none")
    assert target.dialect.connection_class is SSLConnection
    assert target.dialect.settings["ssl_check_hostname"] is False
    assert target.dialect.settings["ssl_ca_certs"] == "/ca.pem"


def test_a_unix_socket() -> None:
    """The path is the URL's, the database the query's."""
    target = parse("unix:///run/redis%20x.sock?db=2")
    assert target.addresses == (("/run/redis x.sock", 0),)
    assert target.dialect.connection_class is UnixDomainSocketConnection
    assert target.dialect.settings == {"db": 2}


def test_a_cluster_url() -> None:
    """Seeds share user and password; a comma in the password is none between hosts."""
    target = parse("rediss+cluster://u:p%2Cq@a:1,b,[::1]:3")
    assert (target.mode, target.addresses) == ("cluster", (("a", 1), ("b", 6379), ("::1", 3)))
    assert target.dialect.connection_class is SSLConnection
    assert target.dialect.settings["password"] == "p,q"
    assert parse("redis+cluster://h/0").dialect.settings["db"] == 0


def test_a_sentinel_url() -> None:
    """Service as the path; the sentinels have credentials of their own, or none."""
    url = "redis+sentinel://u:p@a,b:2/mymaster?db=3&sentinel_username=su&sentinel_password=sp"
    target = parse(url)
    assert (target.mode, target.addresses) == ("sentinel", (("a", 26379), ("b", 2)))
    assert target.service == "mymaster"
    assert target.dialect.settings == {"username": "u", "password": "p", "db": 3}
    assert target.sentinel_dialect is not None
    assert target.sentinel_dialect.settings == {"username": "su", "password": "sp"}
    plain = parse("redis+sentinel://u:p@a/mymaster").sentinel_dialect
    assert plain is not None
    assert plain.settings == {}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "unknown scheme 'http'"),
        ("redis", "unknown scheme in"),
        ("redis://", "host is missing"),
        ("redis:///0", "host is missing"),
        ("redis://:6379", "host is missing"),
        ("redis://h:port", "give host:port"),
        ("redis://h:99999", "port 0 to 65535"),
        ("redis://h/abc", "must be a number"),
        ("redis://h/-1", "must be a number"),
        ("redis://h/0/1", "must be a number"),
        ("redis://h?db=x", "must be a number"),
        ("redis://a,b", "redis+cluster://"),
        ("redis://h?colour=red", "unknown query parameter 'colour'"),
        ("redis://h?socket_timeout=3", "timeout="),
        ("redis://h?max_connections=3", "share one connection"),
        ("redis://h?ssl_ca_certs=x", "rediss://"),
        ("rediss://h?ssl_min_version=x", "ssl_min_version"),
        ("unix://", "path is missing"),
        ("unix://run/redis.sock", "unix:///run/redis.sock"),
        ("redis+cluster://h/1", "only database 0"),
        ("redis+cluster://h?db=1", "only database 0"),
        ("redis+cluster://a,,b", "host is missing"),
        ("redis+sentinel://h", "name the service"),
        ("redis+sentinel://h/a/b", "name the service"),
        ("redis+cluster://h?sentinel_password=x", "unknown query parameter"),
    ],
)
def test_wrong_urls_are_explained(url: str, said: str) -> None:
    """The message says what is wrong with which URL, and how to mend it."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore.from_url(url)
    assert said in str(caught.value)


VALKEY_NAMES = [
    ("valkey://h:7/3", "redis://h:7/3"),
    ("valkeys://u:p@h?ssl_ca_certs=%2Fca.pem", "rediss://u:p@h?ssl_ca_certs=%2Fca.pem"),
    ("valkey+cluster://a:1,b", "redis+cluster://a:1,b"),
    ("valkeys+cluster://u:p%2Cq@a:1,b", "rediss+cluster://u:p%2Cq@a:1,b"),
    ("valkey+sentinel://a,b:2/svc?db=3", "redis+sentinel://a,b:2/svc?db=3"),
    (
        "valkeys+sentinel://u:p@a/svc?sentinel_password=sp",
        "rediss+sentinel://u:p@a/svc?sentinel_password=sp",
    ),
]


@pytest.mark.parametrize(("written", "meant"), VALKEY_NAMES)
def test_valkeys_names_mean_the_same(written: str, meant: str) -> None:
    """Each scheme of Redis's has one of Valkey's, which differs in nothing but what errors call it."""
    assert replace(parse(written), scheme="") == replace(parse(meant), scheme="")
    assert parse(written).scheme == written.partition(":")[0]


@pytest.mark.parametrize(
    ("url", "said", "unsaid"),
    [
        ("valkey://a,b", "valkey+cluster:// or valkey+sentinel://", "redis"),
        ("valkeys://a,b", "valkeys+cluster:// or valkeys+sentinel://", "redis"),
        ("rediss://a,b", "rediss+cluster:// or rediss+sentinel://", "valkey"),
        ("valkey+cluster://h?ssl_ca_certs=x", "use valkeys+cluster://", "redis"),
        ("redis+sentinel://h/svc?ssl_ca_certs=x", "use rediss+sentinel://", "valkey"),
        ("valkey://:6379", "as in valkey://localhost:6379", "redis"),
        ("valkeys+sentinel://h", "as in valkeys+sentinel://host:26379/mymaster", "redis"),
    ],
)
def test_errors_show_the_scheme_that_was_written(url: str, said: str, unsaid: str) -> None:
    """Whoever writes valkey:// is told of valkey+cluster://."""
    for make in (RedisStore.from_url, store_from_url):
        with pytest.raises(ConfigurationError) as caught:
            make(url)
        assert said in str(caught.value)
        assert unsaid not in str(caught.value)


def test_every_scheme_makes_a_store() -> None:
    """There is one list, and what it has works everywhere."""
    for scheme in SCHEMES:
        tail = {"unix": "/run/x.sock"}.get(scheme, "h/svc" if "sentinel" in scheme else "h")
        assert isinstance(store_from_url(f"{scheme}://{tail}"), RedisStore)
        with pytest.raises(ConfigurationError, match=f"{re.escape(scheme)}://"):
            store_from_url("mongodb://h")


SECRET = "hunter2"


@pytest.mark.parametrize(
    "scheme", ["redis", "rediss", "redis+cluster", "redis+sentinel", "unix", "valkey", "valkeys+cluster"]
)
@pytest.mark.parametrize(
    "character", ["/", "#", "?", "[", "]", "\u2100", "\ud800", "/#", "?x=", "?xy@", "/@"]
)
def test_passwords_that_are_not_encoded_are_not_repeated(scheme: str, character: str) -> None:
    """Wherever urlsplit cuts such a password, the URL is refused without showing any part of it."""
    for user, first, tail in itertools.product(
        ("", "user"),
        (SECRET, "1234"),  # digits pass for a port
        ("", "/0", "/svc", "?db=0"),
    ):
        url = f"{scheme}://{user}:{first}{character}{SECRET}@example.com{tail}"
        for make in (RedisStore.from_url, store_from_url):
            with pytest.raises(ConfigurationError) as caught:
                make(url)
            assert SECRET not in str(caught.value)
            assert "1234" not in str(caught.value)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "url", [f"{SECRET}@h:6379", f"{SECRET}:x@h", f"user:{SECRET}@h", f":{SECRET}@h", f"x{SECRET}://h", SECRET]
)
def test_what_is_no_scheme_is_not_repeated(url: str) -> None:
    """A URL without its scheme may begin with a password."""
    for make in (RedisStore.from_url, store_from_url):
        with pytest.raises(ConfigurationError) as caught:
            make(url)
        assert SECRET not in str(caught.value)


def test_a_url_of_bytes_is_not_repeated() -> None:
    """A URL that is not text is named by its type."""
    url: Any = b"redis://:hunter2@h"
    for make in (RedisStore.from_url, store_from_url):
        with pytest.raises(ConfigurationError, match="not bytes") as caught:
            make(url)
        assert SECRET not in str(caught.value)


def test_stores_by_url() -> None:
    """The scheme picks the store; options are the store's own."""
    assert isinstance(store_from_url("memory://"), MemoryStore)
    assert isinstance(store_from_url("redis+cluster://h", prefix="p"), RedisStore)
    with pytest.raises(
        ConfigurationError, match=r"memory://, redis://.*rediss\+cluster://.*valkey\+sentinel://"
    ):
        store_from_url("mongodb://h")


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": "a{b"},
        {"prefix": None},
        {"prefix": b"a"},
        {"prefix": "\ud800"},
        {"timeout": 0},
        {"timeout": "abc"},
        {"timeout": None},
        {"timeout": True},
        {"timeout": float("nan")},
        {"timeout": timedelta.max},
        {"connect_timeout": -1},
        {"max_connection_age": timedelta(0)},
        {"max_connection_age": float("inf")},
        {"address_remap": "host"},
        {"tls_server_name": 5},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    """A prefix that would move all keys to one slot, and timeouts of nothing."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RedisStore.from_url("redis://h", **options)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tiemout", "did you mean 'timeout'?"),
        ("socket_timeout", "use timeout"),
        ("password", "the URL"),
        ("service_name", "the URL"),
        ("zzz", "It has: address_remap, connect_timeout"),
    ],
)
def test_unknown_options_are_refused(name: str, says: str) -> None:
    """A slip, or another library's option, gets ours named."""
    options: dict[str, Any] = {name: "x"}
    for make in (RedisStore.from_url, store_from_url):
        with pytest.raises(ConfigurationError, match=name) as caught:
            make("redis://h", **options)
        assert says in str(caught.value)


def test_unknown_options_of_memory_are_refused() -> None:
    """The other store's too."""
    with pytest.raises(ConfigurationError, match="did you mean 'max_records'"):
        store_from_url("memory://", max_record=1)


def test_a_redis_object() -> None:
    """What describes the connection is taken over; what describes pooling and decoding is not."""
    provider = UsernamePasswordCredentialProvider("u", "p")
    client: Any = Redis(
        host="h", port=7, db=2, credential_provider=provider, client_name="me", decode_responses=True
    )
    target = describe(client)
    assert (target.mode, target.addresses) == ("single", (("h", 7),))
    assert target.dialect.settings["credential_provider"] is provider
    assert target.dialect.settings["client_name"] == "me"
    assert target.dialect.settings["db"] == 2
    assert "decode_responses" not in target.dialect.settings
    secure: Any = Redis.from_url("rediss://u:p@h?ssl_ca_certs=/ca")
    assert describe(secure).dialect.connection_class is SSLConnection
    assert describe(secure).dialect.settings["ssl_ca_certs"] == "/ca"
    local: Any = Redis.from_url("unix:///s.sock")
    assert describe(local).addresses == (("/s.sock", 0),)


async def test_a_cluster_object() -> None:
    """Seeds, credentials and the address remap are taken over."""

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return address

    client: Any = RedisCluster(
        startup_nodes=[ClusterNode("a", 1), ClusterNode("b", 2)], password="p", ssl=True, address_remap=remap
    )
    target = describe(client)
    assert (target.mode, set(target.addresses)) == ("cluster", {("a", 1), ("b", 2)})
    assert target.dialect.connection_class is SSLConnection
    assert target.dialect.settings["password"] == "p"
    assert target.address_remap is remap
    await client.aclose()


def test_a_sentinel_object() -> None:
    """A Sentinel with the service's name, or what its `master_for` returns, come to the same."""
    sentinel = Sentinel([("a", 1), ("b", 2)], sentinel_kwargs={"password": "sp"}, password="p")
    for target in (describe(sentinel, "svc"), describe(sentinel.master_for("svc"))):
        assert (target.mode, target.addresses) == ("sentinel", (("a", 1), ("b", 2)))
        assert target.service == "svc"
        assert target.dialect.connection_class is Connection
        assert target.dialect.settings["password"] == "p"
        assert target.sentinel_dialect is not None
        assert target.sentinel_dialect.settings["password"] == "sp"


def test_objects_that_will_not_do() -> None:
    """Blocking clients, replicas and Sentinels without a service are refused with a reason."""
    sentinel = Sentinel([("a", 1)])
    with pytest.raises(ConfigurationError, match=r"redis\.asyncio"):
        RedisStore(5)  # type: ignore[arg-type]
    blocking: Any
    for blocking in (redis.Redis(), redis.Sentinel([("a", 1)])):
        with pytest.raises(ConfigurationError, match=r"blocking redis\..*make it from redis\.asyncio"):
            RedisStore(blocking)
    url: Any
    for url in ("redis://:hunter2@h", b"redis://:hunter2@h"):
        with pytest.raises(ConfigurationError, match=r"RedisStore\.from_url") as caught:
            RedisStore(url)
        assert SECRET not in str(caught.value)
    service: Any
    for service in (5, "\ud800"):
        with pytest.raises(ConfigurationError, match="service_name="):
            RedisStore(sentinel, service_name=service)
    with pytest.raises(ConfigurationError, match="service_name="):
        RedisStore(sentinel, service_name="")
    with pytest.raises(ConfigurationError, match="service_name="):
        RedisStore(sentinel)
    with pytest.raises(ConfigurationError, match="master_for"):
        RedisStore(sentinel.slave_for("svc"))
    with pytest.raises(ConfigurationError, match="Sentinel object only"):
        RedisStore(Redis(), service_name="svc")

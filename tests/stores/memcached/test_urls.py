"""URLs and arguments: what is understood, and what is refused before anything is sent."""

from __future__ import annotations

import ssl
import traceback
from pathlib import Path
from typing import Any

import pytest
import trustme
from starlette.datastructures import Secret

from asgi_session.errors import ConfigurationError
from asgi_session.store import Distrusts, Reports, WakesUp
from asgi_session.stores import store_from_url
from asgi_session.stores.memcached import MemcachedStore
from tests.stores.memcached.kit import KEY, in_an_hour, record, soon


def target(url: str, **options: Any) -> Any:
    return MemcachedStore.from_url(url, **options)._target


def test_hosts() -> None:
    """One or several, with and without ports, IPv6 in brackets."""
    assert target("memcached://h").addresses == (("h", 11211),)
    assert target("memcached://h:1,g,[::1]:2,[fe80::1]").addresses == (
        ("h", 1),
        ("g", 11211),
        ("::1", 2),
        ("fe80::1", 11211),
    )
    assert MemcachedStore(["h", "g:2"])._target.addresses == (("h", 11211), ("g", 2))


def test_the_prefix() -> None:
    """It is the URL's path, or an option."""
    assert target("memcached://h").prefix == "asgi_session"
    assert target("memcached://h/").prefix == "asgi_session"
    assert target("memcached://h/shop").prefix == "shop"
    assert target("memcached://h", prefix="shop.v2").prefix == "shop.v2"


def test_credentials() -> None:
    """User and password, percent-encoded or as arguments, and wrapped."""
    for store in (
        MemcachedStore.from_url("memcached://ada:p%2Fw%40%3A@h"),
        MemcachedStore.from_url(Secret("memcached://ada:p%2Fw%40%3A@h")),
        MemcachedStore(["h"], user="ada", password="p/w@:"),
        MemcachedStore(["h"], user="ada", password=Secret("p/w@:")),
    ):
        assert store._target.credentials is not None
        assert (store._target.credentials.user, store._target.credentials.password) == ("ada", "p/w@:")
        assert "p/w@:" not in repr(store) + repr(store._target)


def test_tls(tmp_path: Path) -> None:
    """It verifies certificates by default, also with a CA of one's own, and takes a context."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert target("memcached://h").tls is None
    for url in ("memcacheds://h", f"memcacheds://h?ca_file={tmp_path}/ca.pem"):
        context = target(url).tls
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
    context = ssl.create_default_context()
    assert target("memcacheds://h", ssl_context=context).tls is context
    assert MemcachedStore(["h"], ssl_context=context)._target.tls is context


def test_the_store_of_a_url() -> None:
    """Both schemes are known to `store_from_url`; the store reports, and does not wake up."""
    for url in ("memcached://h", "memcacheds://h"):
        store = store_from_url(url)
        assert isinstance(store, MemcachedStore)
        assert isinstance(store, Reports)
        assert isinstance(store, Distrusts)
        assert not isinstance(store, WakesUp)
    assert repr(MemcachedStore(["h", "g:2"])) == "<MemcachedStore h:11211, g:2>"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("memcached://", "host and port"),
        ("memcached://h:x", "host and port"),
        ("memcached://h:70000", "host and port"),
        ("memcached://h,,g", "host and port"),
        ("memcached://h g", "host and port"),
        ("memcached://h,h", "twice"),
        ("memcached://h,h:11211", "twice"),
        ("memcached://hunter2@h", "give user and password"),
        ("memcached://:hunter2@h", "give user and password"),
        ("memcached://ada:hun:ter2@h", "give user and password"),
        ("memcached://ada:hunter2/x@h", "percent-encode"),
        ("memcached://ada:hunter2?x@h", "percent-encode"),
        ("memcached://ada:hunter2#x@h", "percent-encode"),
        ("memcached://ada:hunter2%20@h", "without spaces"),
        ("memcached://ada:hunter2%0D%0Aflush_all@h", "without spaces"),
        ("memcached://a%3Ada:hunter2@h", "colon"),
        ("memcached://ada:hunter2\ud800@h", "cannot be read"),
        ("hunter2", "cannot be read"),
        ("redis://hunter2", "unknown scheme"),
        ("memcached://h?hunter2=1", "unknown query parameter"),
        ("memcached://h?ca_file=hunter2", "needs TLS"),
        ("memcacheds://h?ca_file=/hunter2", "no such file"),
        ("memcached://h/a%20x", "prefix"),
        ("memcached://h/a%0D%0Aflush_all", "prefix"),
        ("memcached://h/a/b", "prefix"),
        ("memcached://h/" + "x" * 201, "prefix"),
        ("memcacheds://x.cfg.use1.cache.amazonaws.com", "endpoint of each node"),
    ],
)
def test_wrong_urls(url: str, what: str) -> None:
    """Each is refused with a hint, and nothing of it that may be a password is shown, not even in frames."""
    with pytest.raises(ConfigurationError, match=what) as caught:
        MemcachedStore.from_url(url)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    frames = "".join(str(frame.locals) for frame in shown.stack if "test_urls" not in frame.filename)
    assert "hunter2" not in str(caught.value) + frames


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"prefix": "a b"}, "prefix"),
        ({"prefix": "a\r\nflush_all"}, "prefix"),
        ({"prefix": "a\n"}, "prefix"),
        ({"prefix": ""}, "prefix"),
        ({"prefix": "ä"}, "prefix"),
        ({"prefix": b"a"}, "prefix"),
        ({"timeout": 0}, "timeout"),
        ({"connect_timeout": "1"}, "connect_timeout"),
        ({"max_connection_age": -1}, "max_connection_age"),
        ({"clock": 1}, "clock"),
        ({"ssl_context": True}, "ssl_context"),
        ({"ssl_context": ssl.create_default_context()}, "needs TLS"),
        ({"password": "hunter2"}, "the URL: memcached://user:password@host"),
        ({"prefixx": "a"}, "did you mean 'prefix'"),
    ],
)
def test_wrong_options(options: dict[str, Any], what: str) -> None:
    """Each is refused, and named."""
    with pytest.raises(ConfigurationError, match=what):
        MemcachedStore.from_url("memcached://h", **options)


@pytest.mark.parametrize(
    "servers", ["memcached://ada:hunter2@h", "h", b"h", None, 1, [], ["h:x"], [b"h"], ["a b"]]
)
def test_wrong_servers(servers: Any) -> None:
    """They are a list of texts."""
    with pytest.raises(ConfigurationError) as caught:
        MemcachedStore(servers)
    assert "hunter2" not in str(caught.value)


def test_two_prefixes() -> None:
    """One of them would be ignored."""
    with pytest.raises(ConfigurationError, match="not both"):
        MemcachedStore.from_url("memcached://h/a", prefix="b")


@pytest.mark.parametrize("key", ["", "a b", "a\r\nflush_all\r\n", "a\n", "ä", "a" * 41, "a\x00"])
async def test_keys_cannot_end_a_command(key: str) -> None:
    """One that is no key is refused before anything is sent, whichever verb it is given to."""
    store = MemcachedStore(["127.0.0.1:1"])
    data = record()
    with pytest.raises(ValueError, match="22 characters"):
        await store.load(key, deadline=soon())
    with pytest.raises(ValueError, match="22 characters"):
        await store.create(key, data, in_an_hour(), deadline=soon())
    with pytest.raises(ValueError, match="22 characters"):
        await store.delete(key, deadline=soon())
    assert store._name(KEY) == b"asgi_session:" + KEY.encode()

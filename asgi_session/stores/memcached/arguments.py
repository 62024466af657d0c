"""The arguments of `MemcachedStore`, checked when they are given."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, TypedDict

from asgi_session._options import unknown
from asgi_session.clock import Clock
from asgi_session.errors import ConfigurationError
from asgi_session.stores._shared.addresses import Address
from asgi_session.stores.memcached.target import Credentials, Places
from asgi_session.stores.memcached.url import PORT, address


class MemcachedOptions(TypedDict, total=False):
    """The options of `MemcachedStore.from_url`."""

    prefix: str
    timeout: timedelta | float
    connect_timeout: timedelta | float
    max_connection_age: timedelta | float
    ssl_context: ssl.SSLContext | None
    clock: Clock


_ELSEWHERE: Final = {
    "key_prefix": "prefix",
    "namespace": "prefix",
    "password": "the URL: memcached://user:password@host",
    "username": "the URL: memcached://user:password@host",
    "user": "the URL: memcached://user:password@host",
    "ca_file": "the URL: memcacheds://host?ca_file=/path",
    "tls_context": "ssl_context",
}

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
"""What may stand in a command without ending it; with a key it is shorter than the 250 bytes allowed."""

_WORD: Final = re.compile(r"[^\s\x00-\x1f\x7f]+")


def no_such_options(names: Iterable[str]) -> ConfigurationError:
    """Return the error for options that do not exist, naming the ones that were meant."""
    return unknown("MemcachedStore.from_url", names, MemcachedOptions.__annotations__, _ELSEWHERE, "use")


def read_servers(servers: Any) -> Places:
    """Turn a list of servers into places; what a URL was turned into is let through."""
    if isinstance(servers, Places):
        return servers
    if isinstance(servers, (str, bytes)) or not isinstance(servers, Sequence):
        # It may be a URL, which may hold a password.
        raise ConfigurationError(
            'MemcachedStore takes a list of servers, as in ["host:11211"]; '
            "for a URL use MemcachedStore.from_url(url)"
        )
    addresses: list[Address] = []
    for each in servers:
        found = address(each) if isinstance(each, str) else None
        if found is None:
            raise ConfigurationError(f'servers: give each as "host:port", as in "localhost:{PORT}"')
        addresses.append(found)
    return Places(tuple(addresses))


def check_addresses(addresses: tuple[Address, ...]) -> None:
    """Refuse none, one that is named twice, and ElastiCache's configuration endpoint."""
    if not addresses:
        raise ConfigurationError("servers: give at least one")
    if len(set(addresses)) < len(addresses):
        raise ConfigurationError("servers: one of them is named twice; name each once")
    for host, _ in addresses:
        if ".cfg." in host and host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            raise ConfigurationError(
                "that is ElastiCache's configuration endpoint, which leads to any of the nodes: "
                "name the endpoint of each node, with commas between them"
            )


def read_credentials(user: Any, password: Any) -> Credentials | None:
    """Check user and password; neither is named in an error."""
    if user is None and password is None:
        return None
    for name, value in (("user", user), ("password", password)):
        if not isinstance(value, str) or not _WORD.fullmatch(value):
            raise ConfigurationError(
                f"{name}: give text without spaces and line breaks, which Memcached's file cannot hold"
            )
    if ":" in str(user):
        raise ConfigurationError("user: Memcached's file of passwords has none with a colon")
    return Credentials(str(user), str(password))


def read_prefix(given: Any, in_url: str | None) -> str:
    """Return what names in the server begin with."""
    if given is not None and in_url is not None:
        raise ConfigurationError("give the prefix in the URL or as prefix=, not both")
    prefix = in_url if given is None else given
    if prefix is None:
        return "asgi_session"
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        raise ConfigurationError("prefix: give 1 to 200 ASCII letters, digits, and _ . : -")
    return prefix


def read_context(context: Any) -> ssl.SSLContext | None:
    """Check that it is one, or None."""
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise ConfigurationError(f"ssl_context: give an ssl.SSLContext, not a {type(context).__name__}")
    return context

"""The stores. Each knows the contract and its own service, neither the core nor another store."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.errors import ConfigurationError

if TYPE_CHECKING:
    from asgi_session.store import Store
    from asgi_session.stores.dynamodb import DynamoDBStore
    from asgi_session.stores.memcached import MemcachedStore
    from asgi_session.stores.memory import MemoryStore
    from asgi_session.stores.moving import MovingStore
    from asgi_session.stores.redis import RedisStore
    from asgi_session.stores.s3 import S3Store
    from asgi_session.stores.simpledb import SimpleDBStore
    from asgi_session.stores.sql import SQLStore

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z+]{0,19}://")

_STORES: Final = {
    "DynamoDBStore": "asgi_session.stores.dynamodb",
    "MemcachedStore": "asgi_session.stores.memcached",
    "MemoryStore": "asgi_session.stores.memory",
    "MovingStore": "asgi_session.stores.moving",
    "RedisStore": "asgi_session.stores.redis",
    "S3Store": "asgi_session.stores.s3",
    "SimpleDBStore": "asgi_session.stores.simpledb",
    "SQLStore": "asgi_session.stores.sql",
}
"""The classes and their modules, which are imported when they are asked for: they need clients."""

_SCHEMES: Final = (
    {"memory": "MemoryStore"}
    | dict.fromkeys(
        (
            *("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"),
            *("valkey", "valkeys", "valkey+cluster", "valkeys+cluster", "valkey+sentinel"),
            *("valkeys+sentinel", "unix"),
        ),
        "RedisStore",
    )
    | dict.fromkeys(("postgresql", "postgres", "mysql", "mariadb", "sqlite"), "SQLStore")
    | {"dynamodb": "DynamoDBStore", "s3": "S3Store", "simpledb": "SimpleDBStore"}
    | {"memcached": "MemcachedStore", "memcacheds": "MemcachedStore"}
)
"""Whose URLs begin so. A scheme with another word behind a + is left to the store of the first word."""


def store_from_url(url: str | Wrapped, **options: Any) -> Store:
    """Make the store that a URL names.

    Args:
        url: ``memory://``, ``redis://host:port/db``, ``redis+cluster://host:port,host:port``,
            ``redis+sentinel://host:port,host:port/service``, each also as ``rediss...`` with TLS, and
            as ``valkey...`` or ``valkeys...``; ``unix:///path/to.sock``;
            ``postgresql://host:port/database``, ``mariadb://``, ``mysql://``, ``sqlite:///path``;
            ``dynamodb://table``, ``s3://bucket/prefix``, ``simpledb://domain``, each with ``?region=``;
            ``memcached://host:port,host:port``, ``memcacheds://`` with TLS. May be wrapped in
            Starlette's `Secret` or pydantic's `SecretStr`.
        **options: of the store's class.

    Raises:
        ConfigurationError: no such scheme, or the URL is wrong; says what to change.
    """
    url = hidden(url)
    given = hidden([options])  # an option that does not exist may be a password
    del options
    return with_revealed(_store_from_url, url, given)


def _store_from_url(url: Any, given: list[dict[str, Any]]) -> Store:
    (options,) = given
    if not isinstance(url, str):
        raise ConfigurationError(f"the store URL must be text (str), not {type(url).__name__}")
    scheme, separator, _ = url.partition("://")
    name = _SCHEMES.get(scheme.lower().partition("+")[0]) if separator else None
    if name is not None:
        made: Store = _store(name).from_url(url, **options)
        return made
    known = ", ".join(f"{each}://" for each in _SCHEMES)
    # What is no scheme may be a password.
    begin = f" that begin with {scheme!r}" if _SCHEME.match(url) else " of this form"
    raise ConfigurationError(f"no store has URLs{begin}. Known are {known}")


def _store(name: str) -> Any:
    return getattr(import_module(_STORES[name]), name)


def __getattr__(name: str) -> Any:
    # Not imported above: `import asgi_session` must not import redis.
    if name in _STORES:
        return _store(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "DynamoDBStore",
    "MemcachedStore",
    "MemoryStore",
    "MovingStore",
    "RedisStore",
    "S3Store",
    "SQLStore",
    "SimpleDBStore",
    "store_from_url",
]

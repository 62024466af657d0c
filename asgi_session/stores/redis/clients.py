"""`redis.asyncio` client objects to targets: their settings are read, the objects are left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import redis
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from asgi_session.errors import ConfigurationError
from asgi_session.stores._shared.addresses import Address
from asgi_session.stores.redis.arguments import text
from asgi_session.stores.redis.target import Dialect, Target

_TAKEN: Final = frozenset(
    {
        "username",
        "password",
        "credential_provider",
        "client_name",
        "driver_info",
        "lib_name",
        "lib_version",
        "db",
        "socket_keepalive_options",
        "socket_type",
    }
)
"""Settings that describe the connection. What describes redis-py's own reading, pooling and retrying
is not taken over."""


def describe(client: object, service_name: str | None = None) -> Target:
    """Read what a client would connect to.

    Raises:
        ConfigurationError: not such a client, or a Sentinel without the service's name.

    """
    if service_name is not None:
        text("service_name", service_name)
    if isinstance(client, Sentinel):
        if not service_name:
            raise ConfigurationError(
                "a Sentinel object needs the service: RedisStore(sentinel, service_name=...)"
            )
        kwargs: Mapping[str, Any] = client.connection_kwargs
        cls = SSLConnection if kwargs.get("ssl") else Connection
        return _sentinel(client, service_name, _dialect(cls, kwargs))
    if service_name:
        raise ConfigurationError("service_name goes with a Sentinel object only")
    if isinstance(client, RedisCluster):
        return _cluster(client)
    if isinstance(client, Redis):
        pool: Any = client.connection_pool
        if isinstance(pool, SentinelConnectionPool):
            if not pool.is_master:
                raise ConfigurationError("the client reads from replicas: use Sentinel.master_for")
            cls = SSLConnection if issubclass(pool.connection_class, SSLConnection) else Connection
            return _sentinel(pool.sentinel_manager, pool.service_name, _dialect(cls, pool.connection_kwargs))
        return _single(pool.connection_class, pool.connection_kwargs)
    if isinstance(client, (str, bytes)):
        # A URL, which may hold a password.
        raise ConfigurationError("RedisStore takes a client object; for a URL use RedisStore.from_url(url)")
    kind = type(client)
    if isinstance(client, (redis.Redis, redis.RedisCluster, redis.Sentinel)):
        raise ConfigurationError(
            f"RedisStore got a blocking {kind.__module__}.{kind.__name__}: make it from redis.asyncio"
        )
    raise ConfigurationError(
        f"RedisStore takes a redis.asyncio Redis, RedisCluster or Sentinel object, not {kind!r}"
    )


def _dialect(cls: type[Any], kwargs: Mapping[str, Any]) -> Dialect:
    settings = {
        name: value
        for name, value in kwargs.items()
        if (name in _TAKEN or name.startswith("ssl_")) and value is not None
    }
    if settings.get("driver_info") is not None:
        settings.pop("lib_name", None)
        settings.pop("lib_version", None)
    return Dialect(cls, settings)


def _address(kwargs: Mapping[str, Any]) -> Address:
    return str(kwargs.get("host", "localhost")), int(kwargs.get("port", 6379))


def _single(cls: type[Any], kwargs: Mapping[str, Any]) -> Target:
    address = (str(kwargs["path"]), 0) if issubclass(cls, UnixDomainSocketConnection) else _address(kwargs)
    return Target("single", (address,), _dialect(cls, kwargs))


def _sentinel(manager: Any, service: str, dialect: Dialect) -> Target:
    pools = [sentinel.connection_pool for sentinel in manager.sentinels]
    addresses = tuple(_address(pool.connection_kwargs) for pool in pools)
    return Target(
        "sentinel",
        addresses,
        dialect,
        service,
        _dialect(pools[0].connection_class, pools[0].connection_kwargs),
    )


def _cluster(client: Any) -> Target:
    kwargs: Mapping[str, Any] = client.connection_kwargs
    addresses = tuple((str(node.host), int(node.port)) for node in client.startup_nodes)
    remap = client.nodes_manager.address_remap
    return Target("cluster", addresses, _dialect(kwargs["connection_class"], kwargs), address_remap=remap)

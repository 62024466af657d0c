"""What to connect to and how: the one value that URLs and client objects are turned into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from redis.asyncio.connection import SSLConnection

from asgi_session.stores._shared.addresses import Address
from asgi_session.stores.redis.schemes import variant

AddressRemap: TypeAlias = Callable[[Address], Address]


def remapped(address: Address, remap: AddressRemap | None) -> Address:
    """Return the address to connect to; raises whatever the function raises."""
    if remap is None:
        return address
    host, port = remap(address)
    return str(host), int(port)


@dataclass(frozen=True, slots=True)
class Options:
    """How the store behaves towards any server. Seconds."""

    timeout: float = 1.0
    connect_timeout: float = 2.0
    max_age: float = 6 * 3600.0
    tls_server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """A redis-py connection class and the settings it gets. Holds credentials: never shown."""

    connection_class: type[Any]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """The servers of one store.

    `addresses` are those of the server, of cluster seeds or of sentinels; `scheme` is that of the URL,
    as the user wrote it.
    """

    mode: Literal["single", "cluster", "sentinel"]
    addresses: tuple[Address, ...]
    dialect: Dialect
    service: str = ""
    sentinel_dialect: Dialect | None = None
    address_remap: AddressRemap | None = None
    scheme: str = "redis"


def advice(target: Target, mode: str, *, tls: bool | None = None) -> str:
    """Say what to give the store instead, in the words of the URL that it was made from.

    Args:
        target: what it was given.
        mode: ``single``, ``cluster`` or ``sentinel``.
        tls: whether with TLS; None: as it was.
    """
    if tls is None:
        tls = issubclass(target.dialect.connection_class, SSLConnection)
    scheme = variant(target.scheme, mode="" if mode == "single" else mode, tls=tls)
    rest = "host:26379/service" if mode == "sentinel" else "host:port"
    client = {"cluster": "RedisCluster", "sentinel": "Sentinel"}.get(mode, "Redis")
    return f"use {scheme}://{rest} (or a {client} object{' with ssl=True' if tls else ''})"

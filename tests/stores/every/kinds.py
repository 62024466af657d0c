"""The table of stores: an entry each says how to start its server, and what it is expected to cost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import pytest

from asgi_session.store import Store
from asgi_session.stores import store_from_url
from tests.servers import start_memcached, start_ministack, start_moto, start_valkey
from tests.servers.aws import session
from tests.servers.files import SQLiteFile
from tests.servers.sql import start_mariadb, start_postgresql

CASES: Final = (
    "load",
    "load, missing",
    "create",
    "create, taken",
    "save",
    "save, touched",
    "save, conflict",
    "save, gone",
    "touch",
    "delete",
)
"""What round trips are counted of; see `trips.py`."""


class Machine(Protocol):
    """A server that a test may break."""

    @property
    def url(self) -> str: ...

    @property
    def port(self) -> int: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def kill(self) -> None: ...

    def restart(self) -> None: ...

    def stop(self) -> None: ...


async def nothing(store: Store) -> None:
    """A server that is ready as it is."""


def trips(*expected: int) -> Mapping[str, int]:
    """Return the round trips of each of `CASES`, in their order."""
    return dict(zip(CASES, expected, strict=True))


@dataclass(frozen=True)
class Kind:
    """A store on a server.

    Attributes:
        name: of the tests.
        title: of the store and its server, for the documentation.
        shared: the fixture with a server for the whole run, which has `url` and, on the wire, `port`;
            None where the records are in this process's memory.
        fresh: starts a server of a test's own, to freeze and to kill; None where neither can be done.
        make: makes a store of a URL and options.
        prepare: makes what the store needs on a server that is new: a table, a bucket.
        repeats: whether the client repeats what was not answered: by name, the options that say so.
        trips: round trips of each verb on a connection in use; None where there is no connection.
        dies: whether its server can be killed, too.
        keeps: whether the server has its records still after it was killed.
        emulator: the name of what stands in for the service; "" where it is the service's own software.
        binary: what is installed by Debian alone. Without it the store is left out, except in CI.
    """

    name: str
    title: str
    shared: str | None = None
    fresh: Callable[[], Machine] | None = None
    make: Callable[..., Store] = store_from_url
    prepare: Callable[[Store], Awaitable[None]] = nothing
    repeats: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"off": {}})
    trips: Mapping[str, int] | None = None
    dies: bool = True
    keeps: bool = False
    emulator: str = ""
    binary: str = ""

    @property
    def is_here(self) -> bool:
        """Whether its tests run on this machine. In CI they always do, and fail if they cannot."""
        path = f"{os.environ.get('PATH', '')}:/usr/sbin"
        return (
            not self.binary or bool(os.environ.get("CI")) or shutil.which(self.binary, path=path) is not None
        )


def memory(url: str, **options: Any) -> Store:
    """Make a store in this process's memory."""
    return store_from_url("memory://", **options)


async def create_schema(store: Store) -> None:
    """Make the table."""
    from asgi_session.stores.sql import SQLStore

    assert isinstance(store, SQLStore)
    await store.create_schema()


def durable_postgresql() -> Machine:
    """Start a PostgreSQL that keeps what it has acknowledged when it is killed."""
    return start_postgresql("synchronous_commit=on")


def durable_mariadb() -> Machine:
    """Start a MariaDB that keeps what it has acknowledged when it is killed."""
    return start_mariadb("--innodb-flush-log-at-trx-commit=2")


def dynamodb(url: str, **options: Any) -> Store:
    """Make a store of moto's address."""
    return store_from_url(f"dynamodb://sessions?endpoint_url={url}", session=session(), **options)


async def create_table(store: Store) -> None:
    """Make the table."""
    from asgi_session.stores.dynamodb import DynamoDBStore

    assert isinstance(store, DynamoDBStore)
    await store.create_table()


def s3(url: str, **options: Any) -> Store:
    """Make a store of ministack's address."""
    return store_from_url(f"s3://sessions/every?endpoint_url={url}", session=session(), **options)


async def create_bucket(store: Store) -> None:
    """Make the bucket."""
    from asgi_session.stores.s3 import S3Store

    assert isinstance(store, S3Store)
    await store.create_bucket()


def simpledb(url: str, **options: Any) -> Store:
    """Make a store of the stand-in's address."""
    return store_from_url(f"simpledb://sessions?endpoint_url={url}", session=session(), **options)


async def create_domain(store: Store) -> None:
    """Make the domain."""
    from asgi_session.stores.simpledb import SimpleDBStore

    assert isinstance(store, SimpleDBStore)
    await store.create_domain()


ALL: Final = (
    Kind("memory", "`MemoryStore`", make=memory),
    Kind(
        "redis",
        "`RedisStore`, Valkey 9",
        shared="shared_valkey",
        fresh=start_valkey,
        trips=trips(1, 1, 1, 1, 1, 2, 2, 2, 1, 1),
    ),
    Kind(
        "postgresql",
        "`SQLStore`, PostgreSQL 18",
        shared="postgresql",
        fresh=durable_postgresql,
        prepare=create_schema,
        trips=trips(1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
        keeps=True,
    ),
    Kind(
        "mariadb",
        "`SQLStore`, MariaDB 10.11",
        shared="mariadb",
        fresh=durable_mariadb,
        prepare=create_schema,
        trips=trips(1, 1, 1, 3, 1, 1, 2, 2, 1, 1),
        keeps=True,
        binary="mariadbd",
    ),
    Kind(
        "sqlite",
        "`SQLStore`, SQLite",
        shared="shared_sqlite",
        fresh=SQLiteFile,
        prepare=create_schema,
        dies=False,
    ),
    Kind(
        "memcached",
        "`MemcachedStore`",
        shared="shared_memcached",
        fresh=start_memcached,
        trips=trips(1, 1, 1, 2, 1, 3, 2, 2, 1, 2),
        binary="memcached",
    ),
    Kind(
        "dynamodb",
        "`DynamoDBStore`",
        shared="shared_moto",
        fresh=start_moto,
        make=dynamodb,
        prepare=create_table,
        trips=trips(1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
        emulator="moto",
    ),
    Kind(
        "s3",
        "`S3Store`",
        shared="shared_ministack",
        fresh=start_ministack,
        make=s3,
        prepare=create_bucket,
        repeats={"on": {}},
        trips=trips(1, 1, 1, 2, 1, 3, 2, 2, 1, 3),
        emulator="ministack",
    ),
    Kind(
        "simpledb",
        "`SimpleDBStore`",
        shared="shared_simpledb",
        make=simpledb,
        prepare=create_domain,
        trips=trips(1, 1, 1, 2, 1, 3, 2, 2, 1, 2),
        emulator="our stand-in",
    ),
)
"""Every store."""

KINDS: Final = tuple(kind for kind in ALL if kind.is_here)


def over(fits: Callable[[Kind], object] = lambda kind: True) -> pytest.MarkDecorator:
    """Run a test with each kind of store that fits."""
    return pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS if fits(kind)])


def in_a_server(kind: Kind) -> bool:
    """Whether several processes can share its records."""
    return kind.shared is not None


def on_the_wire(kind: Kind) -> bool:
    """Whether a proxy can stand before it."""
    return kind.trips is not None


def breakable(kind: Kind) -> bool:
    """Whether its server can be frozen, or killed as well."""
    return kind.fresh is not None


def named(name: str) -> Kind:
    """Return the kind of that name."""
    return next(kind for kind in ALL if kind.name == name)

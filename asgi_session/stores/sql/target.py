"""What a store connects to: an engine whose settings it borrows, and its own options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any, Final, TypedDict

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from asgi_session._options import duration, unknown
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError
from asgi_session.stores._shared.extras import need
from asgi_session.stores.sql.schema import split_name


class SQLOptions(TypedDict, total=False):
    """The options of `SQLStore.from_url`."""

    table: str
    pool_size: int
    connect_timeout: timedelta | float
    max_connection_age: timedelta | float
    unlogged: bool
    clock: Clock | None
    connect_args: Mapping[str, Any]


_DRIVERS: Final = {"postgresql": "asyncpg", "mysql": "asyncmy", "mariadb": "asyncmy", "sqlite": "aiosqlite"}
"""By SQLAlchemy's names of the servers."""

_SYNONYMS: Final = {"postgres": "postgresql"}

_ELSEWHERE: Final = {
    "name": "table",
    "tablename": "table",
    "prefix": "table",
    "max_overflow": "pool_size: it is the most connections of an event loop",
    "pool_recycle": "max_connection_age",
    "pool_pre_ping": "nothing: dead connections are noticed without it",
    "timeout": "the manager's deadline, and connect_timeout",
    "password": "the URL: postgresql://user:password@host/database",
    "username": "the URL: postgresql://user:password@host/database",
}


@dataclass(frozen=True)
class Target:
    """An engine, whose settings are used and nothing else, and options that were checked."""

    engine: AsyncEngine
    table: tuple[str | None, str]
    pool_size: int
    connect_timeout: float
    max_age: int
    unlogged: bool
    clock: Clock

    @property
    def kind(self) -> str:
        """Return postgresql, mysql (also for MariaDB) or sqlite."""
        return kind_of(self.engine)

    @property
    def where(self) -> str:
        """Return the server and database for messages: no user, no password."""
        url = self.engine.url
        host = "" if url.host is None else f"{url.host}:{url.port}" if url.port else url.host
        return f"{url.get_backend_name()}://{host}/{url.database or ''}"


def kind_of(engine: AsyncEngine) -> str:
    """Return the kind of server behind an engine, as in `Target`."""
    name = engine.url.get_backend_name()
    return "mysql" if name == "mariadb" else name


def no_such_options(names: list[str]) -> ConfigurationError:
    """Return the error for options that do not exist, naming the ones that were meant."""
    return unknown("SQLStore.from_url", names, SQLOptions.__annotations__, _ELSEWHERE, "use")


def read(
    engine: Any,
    *,
    table: Any,
    pool_size: Any,
    connect_timeout: Any,
    max_connection_age: Any,
    unlogged: Any,
    clock: Any,
) -> Target:
    """Check what `SQLStore` was given."""
    if not isinstance(engine, AsyncEngine):
        hint = ": make it with create_async_engine" if isinstance(engine, sa.Engine) else ""
        raise ConfigurationError(
            f"SQLStore takes an AsyncEngine of SQLAlchemy{hint}, or a URL by SQLStore.from_url; "
            f"not {type(engine).__name__}"
        )
    kind = kind_of(engine)
    _check_driver(engine.url)
    if kind == "sqlite":
        _check_file(engine.url)
    if isinstance(pool_size, bool) or not isinstance(pool_size, int) or not 1 <= pool_size <= 1000:
        raise ConfigurationError(f"pool_size={pool_size!r}: give a whole number from 1 to 1000")
    if not isinstance(unlogged, bool):
        raise ConfigurationError(f"unlogged={unlogged!r}: give True or False")
    if unlogged and kind != "postgresql":
        raise ConfigurationError("unlogged=True: only PostgreSQL has unlogged tables")
    if clock is not None and kind != "sqlite":
        raise ConfigurationError(f"clock={clock!r}: only on SQLite; expiry is judged by the database's clock")
    if clock is not None and not callable(clock):
        raise ConfigurationError(f"clock={clock!r}: give a function that returns milliseconds")
    now: Any = clock or system_clock
    return Target(
        engine=engine,
        table=split_name("table", table),
        pool_size=pool_size,
        connect_timeout=duration("connect_timeout", connect_timeout),
        max_age=max(1, round(duration("max_connection_age", max_connection_age))),
        unlogged=unlogged,
        clock=now,
    )


def engine_from_url(given: Any, connect_args: Any) -> AsyncEngine:
    """Make an engine, which is never connected: only its settings are used."""
    if not isinstance(given, (str, sa.URL)):
        raise ConfigurationError(f"the store URL must be text (str), not {type(given).__name__}")
    if connect_args is not None and not isinstance(connect_args, Mapping):
        raise ConfigurationError("connect_args: give a dict of what the driver's connect() takes")
    try:
        url = sa.make_url(given)
    except (SQLAlchemyError, ValueError):
        url = None
    if url is None:  # not raised above: the error's frames hold the URL
        raise ConfigurationError(
            "the store URL cannot be read: as in postgresql://user:password@host:5432/database, "
            "sqlite:////var/lib/app/sessions.db; percent-encode / # ? @ : in user and password"
        )
    url = _with_driver(url)
    given_args = dict(connect_args or {})
    try:
        engine = create_async_engine(url, connect_args=given_args)
        settings = engine.dialect.create_connect_args(url)[1]
    except (SQLAlchemyError, TypeError, ValueError) as error:
        problem = f"the options after the ? cannot be used ({type(error).__name__})"
    else:
        strange = _strange(engine, {**settings, **given_args})
        if not strange:
            return engine
        problem = f"{_DRIVERS[url.get_backend_name()]} has no option {', '.join(map(repr, strange))}"
    raise ConfigurationError(f"{url.get_backend_name()}:// URL: {problem}")


_ADAPTERS_OWN: Final = {"prepared_statement_cache_size", "prepared_statement_name_func", "async_creator_fn"}


def _strange(engine: AsyncEngine, settings: Mapping[str, Any]) -> list[str]:
    """Return the settings that the driver does not have, as far as it tells."""
    driver: Any = import_module(engine.dialect.driver)
    try:
        known = inspect.signature(driver.connect).parameters
    except ValueError:
        return []
    if any(each.kind is each.VAR_KEYWORD for each in known.values()):
        return []
    return [name for name in settings if name not in known and name not in _ADAPTERS_OWN]


def _with_driver(url: sa.URL) -> sa.URL:
    backend, _, driver = url.drivername.partition("+")
    backend = _SYNONYMS.get(backend, backend)
    if backend not in _DRIVERS:
        raise ConfigurationError(
            f"SQLStore does not know {backend}:// URLs; it knows postgresql, mysql, mariadb and sqlite"
        )
    url = url.set(drivername=f"{backend}+{driver or _DRIVERS[backend]}")
    _check_driver(url)
    if backend == "sqlite" and url.host:
        raise ConfigurationError(
            "sqlite:// URL: three slashes before a relative path, as in sqlite:///sessions.db; four before "
            "an absolute one, as in sqlite:////var/lib/app/sessions.db"
        )
    if "@" in f"{url.host}{url.database}":
        raise ConfigurationError(
            f"{backend}:// URL: percent-encode / # ? @ : in user and password (@ is %40)"
        )
    if backend == "postgresql" and "sslmode" in url.query:  # libpq's name for it, which many services give
        url = url.update_query_dict({"ssl": url.query["sslmode"]}).difference_update_query(["sslmode"])
    if backend != "sqlite" and not url.host and "host" not in url.query and "unix_socket" not in url.query:
        raise ConfigurationError(
            f"{backend}:// URL: the host is missing, as in {backend}://localhost/database"
        )
    return url


def _check_driver(url: sa.URL) -> None:
    """Refuse what was never tried, and say how to install what is missing."""
    backend, _, driver = url.drivername.partition("+")
    supported = _DRIVERS.get(backend)
    if supported is None:
        raise ConfigurationError(
            f"SQLStore does not know {backend}; it knows PostgreSQL, MySQL, MariaDB and SQLite"
        )
    if driver != supported:
        raise ConfigurationError(
            f"SQLStore uses {supported} for {backend}, not {driver or 'a driver that is not named'}: "
            f"give {backend}+{supported}:// or just {backend}://"
        )
    need(supported, store="SQLStore", extra="mysql" if supported == "asyncmy" else backend)


def _check_file(url: sa.URL) -> None:
    database = url.database or ""
    if not database or database == ":memory:" or "mode=memory" in database or "mode" in url.query:
        raise ConfigurationError(
            "SQLStore needs a file on SQLite, as in sqlite:////var/lib/app/sessions.db. "
            "For sessions in this process's memory, use memory://"
        )

"""URLs, engines and options; nothing is connected here."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import create_async_engine

from asgi_session.errors import ConfigurationError
from asgi_session.stores import store_from_url
from asgi_session.stores.sql import PostgreSQLStore, SQLStore
from tests.stores.sql.helpers import in_time, new_data, new_key

SECRET = "hunter2"
FILE = "sqlite:////tmp/never-made.db"


def url_of(store: Any) -> sa.URL:
    found: sa.URL = store._target.engine.url
    return found


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://u:p@h/db", "postgresql+asyncpg"),
        ("postgres://u:p@h/db", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u:p@h:6000/db", "postgresql+asyncpg"),
        ("mysql://u:p@h/db", "mysql+asyncmy"),
        ("mysql+asyncmy://u:p@h/db", "mysql+asyncmy"),
        ("mariadb://u:p@h/db", "mariadb+asyncmy"),
        ("sqlite:///relative.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:////tmp/absolute.db", "sqlite+aiosqlite"),
    ],
)
def test_urls(url: str, driver: str) -> None:
    """The usual ones and SQLAlchemy's own; each by the table of all stores, too, and wrapped."""
    for given in (url, SecretStr(url)):
        for store in (SQLStore.from_url(given), store_from_url(given)):
            assert isinstance(store, SQLStore)
            assert url_of(store).drivername == driver
            assert isinstance(store, PostgreSQLStore) is driver.startswith("postgresql")


def test_settings_in_a_url() -> None:
    """They reach the driver; libpq's name for TLS is translated, since many services give it."""
    assert url_of(SQLStore.from_url("postgresql://u@h/db?sslmode=require")).query == {"ssl": "require"}
    assert url_of(SQLStore.from_url("mysql://u@h/db?charset=utf8mb4")).query == {"charset": "utf8mb4"}
    assert url_of(SQLStore.from_url("postgresql:///db?host=/run/postgresql")).host is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SQLStore.from_url("postgresql+psycopg://u@h/db"), "uses asyncpg for postgresql"),
        (lambda: SQLStore.from_url("mysql+aiomysql://u@h/db"), "uses asyncmy for mysql"),
        (lambda: SQLStore.from_url("oracle://u@h/db"), "does not know oracle"),
        (lambda: SQLStore.from_url("postgresql://u@h/db?foo=1"), "asyncpg has no option 'foo'"),
        (lambda: SQLStore.from_url("mariadb://u@h/db?foo=1"), "asyncmy has no option 'foo'"),
        (lambda: SQLStore.from_url("postgresql://u@h/db", connect_args={"tls": 1}), "no option 'tls'"),
        (lambda: SQLStore.from_url("postgresql://u@h/db", connect_args=[1]), "connect_args"),  # type: ignore
        (lambda: SQLStore.from_url("postgresql:///db"), "the host is missing"),
        (lambda: SQLStore.from_url("postgresql://u@h:port/db"), "cannot be read"),
        (lambda: SQLStore.from_url("nonsense"), "cannot be read"),
        (lambda: SQLStore.from_url(None), "must be text"),  # type: ignore[arg-type]
        (lambda: SQLStore.from_url("sqlite://"), "needs a file"),
        (lambda: SQLStore.from_url("sqlite:///:memory:"), "needs a file"),
        (lambda: SQLStore.from_url("sqlite://sessions.db"), "three slashes"),
        (lambda: SQLStore.from_url(FILE, table="a-b"), "table='a-b'"),
        (lambda: SQLStore.from_url(FILE, table="a.b.c"), "table='a.b.c'"),
        (lambda: SQLStore.from_url(FILE, table="x" * 41), "at most 40"),
        (lambda: SQLStore.from_url(FILE, table=7), "table=7"),  # type: ignore[arg-type]
        (lambda: SQLStore.from_url(FILE, pool_size=0), "pool_size=0"),
        (lambda: SQLStore.from_url(FILE, pool_size=True), "pool_size=True"),
        (lambda: SQLStore.from_url(FILE, connect_timeout=0), "connect_timeout=0"),
        (lambda: SQLStore.from_url(FILE, max_connection_age=-1), "max_connection_age=-1"),
        (lambda: SQLStore.from_url(FILE, unlogged=True), "only PostgreSQL"),
        (lambda: SQLStore.from_url("postgresql://u@h/d", unlogged=1), "unlogged=1"),  # type: ignore[arg-type]
        (lambda: SQLStore.from_url("postgresql://u@h/d", clock=lambda: 1), "only on SQLite"),
        (lambda: SQLStore.from_url(FILE, clock=3), "clock=3"),  # type: ignore[arg-type]
        (lambda: SQLStore.from_url(FILE, pool_recycle=3), "use max_connection_age"),  # type: ignore
        (lambda: SQLStore.from_url(FILE, tabel="x"), "did you mean 'table'"),  # type: ignore[call-arg]
        (lambda: SQLStore("postgresql://u@h/db"), "not str"),  # type: ignore[arg-type]
        (lambda: SQLStore(sa.create_engine("sqlite://")), "create_async_engine"),  # type: ignore[arg-type]
        (lambda: SQLStore(create_async_engine("sqlite+aiosqlite://")), "needs a file"),
    ],
)
def test_what_cannot_work_is_refused_at_once(make: Callable[[], object], says: str) -> None:
    """By an error that names it."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@h:port/db",
        f"postgresql://u:{SECRET}@h/db?{SECRET}x=1&foo=2",
        f"postgresql://u:a@{SECRET}@h/db",
        f"postgresql://u:{SECRET}/x@y@h/db",
        f"mysql+aiomysql://u:{SECRET}@h/db",
        f"postgresql:{SECRET}",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    """Neither in a message nor in the local variables that error trackers record."""
    if "x=1" in url:
        url = url.replace(f"{SECRET}x", "x")
    for make in (SQLStore.from_url, store_from_url):
        with pytest.raises(ConfigurationError) as caught:
            make(url)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        lines = [line for line in shown.format() if "test_options.py" not in line]
        assert SECRET not in "".join(lines)
        assert SECRET not in str(caught.value)


def test_repr_names_the_server() -> None:
    """And nobody's name or password."""
    store = SQLStore.from_url(f"postgresql://user:{SECRET}@example.com:6000/shop")
    assert repr(store) == "<PostgreSQLStore postgresql://example.com:6000/shop>"
    assert repr(object.__new__(SQLStore)) == "<SQLStore>"


def test_durations_of_both_kinds() -> None:
    """Seconds, or a timedelta."""
    store = SQLStore.from_url(
        FILE, connect_timeout=timedelta(seconds=1.5), max_connection_age=timedelta(minutes=2)
    )
    assert (store._target.connect_timeout, store._target.max_age) == (1.5, 120)


def test_a_driver_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the command that installs it."""
    for url, name, extra in (
        ("postgresql://h/d", "asyncpg", "postgresql"),
        ("mariadb://h/d", "asyncmy", "mysql"),
        (FILE, "aiosqlite", "sqlite"),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigurationError, match=rf"pip install 'asgi-session\[{extra}\]'"):
            SQLStore.from_url(url)


async def test_an_engine_lends_its_settings(tmp_path: Path) -> None:
    """What its connections are made with is used, and its pool is not."""
    made: list[dict[str, Any]] = []
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    engine = create_async_engine(url, connect_args={"timeout": 7.5}, pool_size=1, max_overflow=0)

    @sa.event.listens_for(engine.sync_engine, "do_connect")
    def note(_dialect: Any, _record: Any, _args: Any, settings: dict[str, Any]) -> None:
        made.append(settings)

    async with engine.connect():  # which empties its pool
        store = SQLStore(engine, pool_size=3)
        await store.create_schema()
        key, data = new_key(), new_data()
        await store.create(key, data, 2**50, deadline=in_time())
        assert await store.load(key, deadline=in_time()) is not None
        await store.close()
    assert len(made) == 2
    assert made[1]["timeout"] == 7.5
    await engine.dispose()


async def test_two_tables_are_two_stores(tmp_path: Path) -> None:
    """A store sees the records of its own table alone."""
    url = f"sqlite:///{tmp_path}/a.db"
    one, two = SQLStore.from_url(url, table="one"), SQLStore.from_url(url, table="Order")
    key = new_key()
    for store in (one, two):
        await store.create_schema()
    await one.create(key, new_data(), 2**50, deadline=in_time())
    assert await two.load(key, deadline=in_time()) is None
    assert await one.load(key, deadline=in_time()) is not None
    for store in (one, two):
        await store.close()

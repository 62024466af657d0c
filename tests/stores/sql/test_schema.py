"""The table: how it is created, what `open` finds wrong with it, and a disk that is full."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from asgi_session.clock import system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import Saved, Stored
from asgi_session.stores.sql import SQLStore, sessions_table
from asgi_session.stores.sql.statements import statements
from tests.servers.sql import PASSWORD, SERVERS, PostgreSQL, SQLServer
from tests.servers.tcp_proxy import TcpProxy
from tests.stores.sql.helpers import in_time, new_data, new_key, new_table, through

FAR = system_clock() + 3_600_000


@pytest.fixture(params=[*SERVERS, "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    found: SQLServer = request.getfixturevalue(request.param)
    return found.url


@pytest.fixture
async def database(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection of somebody who may do everything."""
    engine: AsyncEngine = create_async_engine(SQLStore.from_url(url)._target.engine.url)
    async with engine.connect() as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT")
    await engine.dispose()


async def opening(url: str, **options: object) -> str:
    """Open a store that must refuse; return what it says."""
    store = SQLStore.from_url(url, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError) as caught:
        await store.open()
    await store.close()
    return str(caught.value)


async def test_create_and_open(url: str) -> None:
    """Twice is as good as once, and by several at once."""
    table = new_table()
    stores = [SQLStore.from_url(url, table=table) for _ in range(4)]
    await asyncio.gather(*(store.create_schema() for store in stores))
    await stores[0].create_schema()
    for store in stores:
        await store.open()
        await store.close()


async def test_a_table_that_is_missing(url: str) -> None:
    """The error says how to create it, and the SQL it shows does."""
    table = new_table()
    says = await opening(url, table=table)
    assert "await store.create_schema()" in says
    engine = create_async_engine(SQLStore.from_url(url)._target.engine.url)
    async with engine.begin() as connection:
        for statement in says.partition("\n\n")[2].split(";"):
            if statement.strip():
                await connection.execute(sa.text(statement))
    await engine.dispose()
    store = SQLStore.from_url(url, table=table)
    await store.open()
    await store.close()


async def test_verbs_without_a_table(url: str) -> None:
    """They fail at once, and certainly did nothing."""
    store = SQLStore.from_url(url, table=new_table())
    with pytest.raises(StoreUnavailable) as caught:
        await store.create(new_key(), new_data(), FAR, deadline=in_time())
    assert caught.value.executed is False
    assert caught.value.full is False
    await store.close()


async def test_a_table_of_another_shape(url: str, database: AsyncConnection) -> None:
    """Each column that does not fit is named."""
    table = new_table()
    await database.execute(
        sa.text(
            f"CREATE TABLE {table} (id VARCHAR(10), data VARCHAR(50), expires_at INTEGER, more INT NOT NULL)"
        )
    )
    says = await opening(url, table=table)
    for name in ("tag", "purge_day"):
        assert f"column {name} is missing" in says
    for name in ("id", "data", "expires_at"):
        assert f"column {name} is " in says
    assert "column more must have a default" in says
    assert "create_schema" not in says


async def test_keys_that_are_not_told_apart(url: str, database: AsyncConnection) -> None:
    """On MariaDB and MySQL a column compares without regard to case, unless it is told to."""
    if not url.startswith("mariadb"):
        return
    table = new_table()
    store = SQLStore.from_url(url, table=table)
    await store.create_schema()
    await database.execute(sa.text(f"ALTER TABLE {table} MODIFY id VARCHAR(22) NOT NULL"))
    assert "ascii_bin" in await opening(url, table=table)
    await store.close()


async def test_a_larger_blob_is_welcome(url: str, database: AsyncConnection) -> None:
    """What can hold more than is asked for fits; MariaDB's BLOB, of 65,535 bytes, does not."""
    if not url.startswith("mariadb"):
        return
    table = new_table()
    store = SQLStore.from_url(url, table=table)
    await store.create_schema()
    await database.execute(sa.text(f"ALTER TABLE {table} MODIFY data LONGBLOB NOT NULL"))
    await store.open()
    await database.execute(sa.text(f"ALTER TABLE {table} MODIFY data BLOB NOT NULL"))
    assert "column data is BLOB" in await opening(url, table=table)
    await store.close()


async def test_a_table_that_is_altered_meanwhile(url: str, database: AsyncConnection) -> None:
    """Statements that were prepared before are prepared anew, and no request fails."""
    if url.startswith("sqlite"):
        return
    table = new_table()
    store = SQLStore.from_url(url, table=table, pool_size=1)
    await store.create_schema()
    key, data = new_key(), new_data()
    await store.create(key, data, FAR, deadline=in_time())
    keys = [key, new_key()]
    for size in (30, 40):
        await asyncio.gather(*(store.load(each, deadline=in_time()) for each in keys))
        how = "ALTER COLUMN id TYPE" if url.startswith("postgresql") else "MODIFY id"
        kept = "" if url.startswith("postgresql") else " CHARACTER SET ascii COLLATE ascii_bin NOT NULL"
        await database.execute(sa.text(f"ALTER TABLE {table} {how} VARCHAR({size}){kept}"))
    found = await asyncio.gather(*(store.load(each, deadline=in_time()) for each in keys))
    assert found == [Stored(data, data[:16], FAR), None]
    await store.close()


async def test_refused_credentials(server: SQLServer, proxy: TcpProxy) -> None:
    """A wrong password and a database that is not there are errors of the set-up, and show no password."""
    user = "secured" if isinstance(server, PostgreSQL) else "sessions"
    for part, replacement in ((r"//[^@]*@", f"//{user}:wrong-{PASSWORD}@"), (r"/\w+$", "/nowhere")):
        says = await opening(re.sub(part, replacement, server.url))
        assert PASSWORD not in says
        store = SQLStore.from_url(re.sub(part, replacement, server.url))
        with pytest.raises(StoreUnavailable) as caught:
            await store.load(new_key(), deadline=in_time())
        assert PASSWORD not in str(caught.value)
        await store.close()


async def test_a_server_that_is_away(server: SQLServer, proxy: TcpProxy) -> None:
    """That may heal by itself."""
    proxy.refuse()
    store = SQLStore.from_url(through(proxy, server.url), connect_timeout=0.1)
    with pytest.raises(StoreUnavailable) as caught:
        await store.open()
    assert caught.value.executed is False
    await store.close()


async def test_rights_that_are_missing(postgresql: PostgreSQL) -> None:
    """`open` tries every one of them without changing anything."""
    table, role = new_table(), f"role_{new_table()}"
    store = SQLStore.from_url(postgresql.url, table=table)
    await store.create_schema()
    engine = create_async_engine(store._target.engine.url)
    limited = postgresql.url.replace("postgres@", f"{role}@")
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text(f"CREATE ROLE {role} LOGIN"))
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            assert f"DELETE on {table}" in await opening(limited, table=table), right
            await connection.execute(sa.text(f"GRANT {right} ON {table} TO {role}"))
    enough = SQLStore.from_url(limited, table=table)
    await enough.open()
    for each in (store, enough):
        await each.close()
    await engine.dispose()


async def test_a_server_that_takes_no_writes(postgresql: PostgreSQL) -> None:
    """As after a failover: writes try new connections, until one leads to a server that takes them."""
    table, role = new_table(), f"role_{new_table()}"
    owner = SQLStore.from_url(postgresql.url, table=table)
    await owner.create_schema()
    engine = create_async_engine(owner._target.engine.url)
    store = SQLStore.from_url(postgresql.url.replace("postgres@", f"{role}@"), table=table, pool_size=1)
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text(f"CREATE ROLE {role} LOGIN SUPERUSER"))
        await connection.execute(sa.text(f"ALTER ROLE {role} SET default_transaction_read_only = on"))
        with pytest.raises(StoreUnavailable):
            await store.create(new_key(), new_data(), FAR, deadline=in_time(0.3))
        creating = asyncio.create_task(store.create(new_key(), new_data(), FAR, deadline=in_time()))
        await asyncio.sleep(0.05)  # it is refused meanwhile
        assert not creating.done()
        await connection.execute(sa.text(f"ALTER ROLE {role} RESET default_transaction_read_only"))
        assert isinstance(await creating, Saved)
    for each in (owner, store):
        await each.close()
    await engine.dispose()


async def test_an_unlogged_table(postgresql: PostgreSQL) -> None:
    """It is made as such, with room in its pages and its index on the day."""
    table = new_table()
    store = SQLStore.from_url(postgresql.url, table=table, unlogged=True)
    await store.create_schema()
    engine = create_async_engine(store._target.engine.url)
    asked = "SELECT relpersistence::text, reloptions FROM pg_class WHERE relname = :name"
    async with engine.connect() as connection:
        row = (await connection.execute(sa.text(asked), {"name": table})).one()
    assert tuple(row) == ("u", ["fillfactor=60"])
    await engine.dispose()
    await store.close()


async def test_a_schema(postgresql: PostgreSQL) -> None:
    """The table may lie in one."""
    schema = new_table()
    engine = create_async_engine(SQLStore.from_url(postgresql.url)._target.engine.url)
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    store = SQLStore.from_url(postgresql.url, table=f"{schema}.sessions")
    assert "has no table" in await opening(postgresql.url, table=f"{schema}.sessions")
    await store.create_schema()
    await store.open()
    key, data = new_key(), new_data()
    assert isinstance(await store.create(key, data, FAR, deadline=in_time()), Saved)
    assert await store.load(key, deadline=in_time()) == Stored(data, data[:16], FAR)
    await engine.dispose()
    await store.close()


async def test_updates_need_no_new_entries_in_the_indexes(postgresql: PostgreSQL) -> None:
    """Most saves and touches are HOT: the expiry has no index, and the day changes once a day."""
    table = new_table()
    store = SQLStore.from_url(postgresql.url, table=table)
    await store.create_schema()
    keys = [new_key() for _ in range(200)]
    await asyncio.gather(*(store.create(key, new_data(b"x" * 600), FAR, deadline=in_time()) for key in keys))
    loaded = await asyncio.gather(*(store.load(key, deadline=in_time()) for key in keys))
    for turn in range(2):
        await asyncio.gather(
            *(
                store.touch(key, FAR + turn, expect=stored, deadline=in_time())
                for key, stored in zip(keys, loaded, strict=True)
                if stored is not None
            )
        )
    await store.close()  # what is counted is told when a connection ends
    engine = create_async_engine(store._target.engine.url)
    asked = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = :name"
    async with engine.connect() as connection, asyncio.timeout(10):
        connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
        while (row := (await connection.execute(sa.text(asked), {"name": table})).one())[0] < 400:
            await asyncio.sleep(0.02)  # the server tells nobody when it has counted
    assert row[1] > 300
    await engine.dispose()


async def test_a_full_sqlite(tmp_path: Path) -> None:
    """Writes say that there is no room; deleting works, so that people can log out."""
    path = tmp_path / "sessions.db"
    store = SQLStore.from_url(f"sqlite:///{path}", pool_size=1)
    await store.create_schema()
    key, data = new_key(), new_data()
    await store.create(key, data, FAR, deadline=in_time())

    def limit(connection: sa.Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    await store._do("limit", in_time(), limit)
    with pytest.raises(StoreUnavailable) as caught:
        await store.create(new_key(), new_data(b"x" * 66_000), FAR, deadline=in_time())
    assert (caught.value.executed, caught.value.full) == (False, True)
    assert await store.delete(key, expect=Stored(data, data[:16], FAR), deadline=in_time()) is True
    await store.close()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """And one that cannot be opened: errors of the set-up."""
    path = tmp_path / "text"
    path.write_text("no database " * 1000)
    assert "not a database" in await opening(f"sqlite:///{path}")
    assert "unable to open" in await opening(f"sqlite:///{tmp_path}/no/such/folder.db")
    async with asyncio.timeout(10):
        while any("_connection_worker" in thread.name for thread in threading.enumerate()):
            await asyncio.sleep(0)  # aiosqlite lets the thread of a failed connection end by itself


async def test_sqlite_is_used_as_it_should_be(tmp_path: Path) -> None:
    """Readers wait for no writer, and several processes may use one file."""
    store = SQLStore.from_url(f"sqlite:///{tmp_path}/sessions.db")
    await store.create_schema()
    await store.close()
    with sqlite3.connect(tmp_path / "sessions.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_table_of_yours() -> None:
    """It joins the metadata of an app, under the name that the store is given."""
    metadata = sa.MetaData()
    assert sessions_table(metadata).fullname == "asgi_sessions"
    assert sessions_table(metadata, name="web.logins").fullname == "web.logins"
    assert set(metadata.tables) == {"asgi_sessions", "web.logins"}
    with pytest.raises(ConfigurationError, match="name="):
        sessions_table(metadata, name="1; DROP TABLE users")


def test_mysql_is_asked_for_nothing_it_does_not_have() -> None:
    """No test runs on MySQL 8, which has neither RETURNING nor ON CONFLICT."""
    texts = [statement.text for statement in statements("mysql", "sessions") if statement is not None]
    assert len(texts) == 8
    for text in texts:
        assert not re.search(r"RETURNING|ON CONFLICT|::|\$\d|\?", text), text

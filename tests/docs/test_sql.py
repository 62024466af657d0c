"""The page on SQL: its examples run on PostgreSQL, and the tables it shows are those that are made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from asgi_session.stores.sql import sessions_table
from asgi_session.stores.sql.schema import ddl
from asgi_session.stores.sql.target import SQLOptions
from tests.docs.pages import ROOT, blocks, python, table
from tests.docs.test_examples import run
from tests.servers.sql import SERVERS, PostgreSQL, SQLServer

SQL = ROOT / "docs/sql.md"
SHOWN = "postgresql://shop:secret@localhost/shop"


DRIVERS = {"postgresql": "postgresql+asyncpg", "mariadb": "mysql+asyncmy", "sqlite": "sqlite+aiosqlite"}


def with_driver(url: str) -> str:
    """Return a store's URL as SQLAlchemy has it."""
    scheme, _, rest = url.partition("://")
    return f"{DRIVERS[scheme]}://{rest}"


@pytest.fixture
async def emptied(postgresql: PostgreSQL) -> AsyncIterator[str]:
    """PostgreSQL, without the table that other tests have made."""
    engine = create_async_engine(with_driver(postgresql.url))
    async with engine.begin() as connection:
        await connection.execute(sa.text("DROP TABLE IF EXISTS asgi_sessions"))
    yield postgresql.url
    await engine.dispose()


async def test_the_page_runs(emptied: str) -> None:
    """From top to bottom; its migration, which needs Alembic around it, has a test of its own."""
    names: dict[str, Any] = {"__name__": "sql"}
    for block in python(SQL):
        if "def upgrade" in block.text:
            continue
        text = block.text.replace(SHOWN.replace("://", "+asyncpg://"), emptied.replace("://", "+asyncpg://"))
        await run(SQL, block._replace(text=text), names, emptied, SHOWN)
    assert set(names["target_metadata"].tables) == {"asgi_sessions"}
    await names["store"].open()
    await names["store"].close()


def test_the_tables_are_shown_as_they_are_made() -> None:
    """Letter by letter, for each server."""
    shown = [block.text for block in blocks(SQL) if block.language == "sql"]
    dialects = [postgresql.dialect(), mysql.dialect(), sqlite.dialect()]
    made = [
        "".join(f"{text};\n" for text in ddl(sessions_table(sa.MetaData()), dialect)) for dialect in dialects
    ]
    assert shown == made


def test_the_page_names_every_option() -> None:
    """And no other."""
    assert [row[0].strip("`") for row in table(SQL, "option")] == list(SQLOptions.__annotations__)


@pytest.fixture(params=[*SERVERS, "sqlite"])
async def database(request: pytest.FixtureRequest, tmp_path: Any) -> AsyncIterator[AsyncConnection]:
    """A connection to each server, where the table is not there yet."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/a.db"
    else:
        server: SQLServer = request.getfixturevalue(request.param)
        url = server.url
    engine = create_async_engine(with_driver(url))
    async with engine.begin() as connection:
        await connection.execute(sa.text("DROP TABLE IF EXISTS asgi_sessions"))
        yield connection
    await engine.dispose()


async def test_alembic_sees_no_difference(database: AsyncConnection) -> None:
    """It would create the table, and nothing more once that is there."""

    def compare(connection: sa.Connection) -> None:
        metadata = sa.MetaData()
        sessions_table(metadata)
        only = {"include_name": lambda name, kind, _: kind != "table" or name == "asgi_sessions"}
        context = MigrationContext.configure(connection, opts=only)
        upgrade: Any = produce_migrations(context, metadata).upgrade_ops
        assert [type(each).__name__ for each in upgrade.ops] == [
            "CreateTableOp",
            "ModifyTableOps",
        ]  # and its index
        metadata.create_all(connection)
        assert compare_metadata(context, metadata) == []

    await database.run_sync(compare)


async def test_the_migration_runs(database: AsyncConnection) -> None:
    """Up and down."""
    (migration,) = [block for block in python(SQL) if "def upgrade" in block.text]

    def migrate(connection: sa.Connection) -> None:
        names: dict[str, Any] = {}
        with Operations.context(MigrationContext.configure(connection)):
            exec(compile(migration.text, "migration", "exec", dont_inherit=True), names)
            names["upgrade"]()
            assert sa.inspect(connection).has_table("asgi_sessions")
            names["downgrade"]()
            assert not sa.inspect(connection).has_table("asgi_sessions")

    await database.run_sync(migrate)

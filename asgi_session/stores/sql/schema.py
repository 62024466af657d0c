"""The table, as metadata: for `create_schema`, for Alembic, and for the page that shows it as SQL."""

from __future__ import annotations

import re
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import mysql, postgresql

from asgi_session.errors import ConfigurationError

KEY_SIZE: Final = 22
DEFAULT_NAME: Final = "asgi_sessions"

DAY: Final = 86_400_000
"""Milliseconds."""

_NAME: Final = re.compile(r"(?:([A-Za-z_][A-Za-z0-9_]{0,39})\.)?([A-Za-z_][A-Za-z0-9_]{0,39})")


def sessions_table(
    metadata: sa.MetaData, *, name: str = DEFAULT_NAME, unlogged: bool = False, schema: str | None = None
) -> sa.Table:
    """Add the table of sessions to a `MetaData`, as Alembic's ``target_metadata`` for example.

    Args:
        metadata: your app's.
        name: as the store's `table`, and like there perhaps ``schema.name``.
        unlogged: an UNLOGGED table, on PostgreSQL: see `SQLStore`.
        schema: the same, given by itself.

    Keys are told apart by case, so their column's collation is binary. The index for purging is on a day,
    not on `expires_at`: every request changes that, and an index on it would have to be changed as often.
    """
    given_schema, name = split_name("name", name)
    day = f"ix_{name}_purge_day"
    table = sa.Table(
        name,
        metadata,
        sa.Column("id", _KEY, primary_key=True),
        sa.Column("tag", _TAG, nullable=False),
        sa.Column("data", _DATA, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("purge_day", sa.Integer, nullable=False),
        sa.Index(day, "purge_day"),
        schema=schema or given_schema,
        prefixes=["UNLOGGED"] if unlogged else [],
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    event.listen(table, "after_create", _ROOM)
    return table


_fillfactor: Any = sa.DDL
_ROOM: Final = _fillfactor("ALTER TABLE %(fullname)s SET (fillfactor = 60)").execute_if(dialect="postgresql")
"""Room in each page for updates that need no new entry in the indexes. SQLAlchemy 2.0 has no such option."""


_KEY: Final = (
    sa.String(KEY_SIZE)
    .with_variant(postgresql.VARCHAR(KEY_SIZE, collation="C"), "postgresql")
    .with_variant(mysql.VARCHAR(KEY_SIZE, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
)
_TAG: Final = sa.LargeBinary(16).with_variant(mysql.BINARY(16), "mysql", "mariadb")
_DATA: Final = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


def split_name(option: str, name: Any) -> tuple[str | None, str]:
    """Return a table's schema, if it is given, and its name."""
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise ConfigurationError(
            f"{option}={name!r}: give a table's name of at most 40 letters, digits and _, as in "
            "'asgi_sessions' or 'web.asgi_sessions'"
        )
    return found[1], found[2]


def purge_day(expires_at: int) -> int:
    """Return the first day, counted from 1970, on which such a record has expired at all hours."""
    return max(0, min(expires_at // DAY + 1, 2**31 - 1))


def ddl(table: sa.Table, dialect: sa.Dialect) -> list[str]:
    """Return the statements that create the table, for people."""
    creating: list[Any] = [sa.schema.CreateTable(table), *map(sa.schema.CreateIndex, table.indexes)]
    if dialect.name == "postgresql":
        creating.insert(1, _ROOM.against(table))
    return [_tidied(str(each.compile(dialect=dialect))) for each in creating]


def _tidied(text: str) -> str:
    lines = [line.rstrip() for line in text.replace("\t", "    ").splitlines()]
    return re.sub(r"\n\)\s*(?=\w)", "\n) ", "\n".join(filter(None, lines)))


def problems(table: sa.Table, columns: list[Any], dialect: sa.Dialect) -> list[str]:
    """Return what is wrong with the columns of a table that is there."""
    found = {column["name"]: column["type"] for column in columns}
    wrong = [f"the column {column.name} is missing" for column in table.columns if column.name not in found]
    wrong += [
        f"the column {column['name']} must have a default or be nullable: the store does not know it"
        for column in columns
        if column["name"] not in table.columns
        and not column["nullable"]
        and column.get("default") is None
        and column.get("autoincrement") is not True
    ]
    for name, kind in found.items():
        if name not in table.columns:
            continue
        column = table.columns[name]
        if not _fits(name, kind, dialect.name):
            wrong.append(f"the column {name} is {kind.compile(dialect)}, not {column.type.compile(dialect)}")
        elif name == "id" and dialect.name in ("mysql", "mariadb") and not _by_case(kind):
            wrong.append("the column id compares keys without regard to case: give it COLLATE ascii_bin")
    return wrong


def _fits(name: str, kind: Any, server: str) -> bool:
    match name:
        case "id":
            return isinstance(kind, sa.String) and (kind.length is None or kind.length >= KEY_SIZE)
        case "expires_at":
            return isinstance(kind, sa.BigInteger)
        case "purge_day":
            return isinstance(kind, sa.Integer)
        case "data" if server in ("mysql", "mariadb"):
            return isinstance(kind, (mysql.MEDIUMBLOB, mysql.LONGBLOB))  # a BLOB holds 65,535 bytes
        case _:
            return isinstance(kind, (sa.LargeBinary, sa.BINARY, sa.VARBINARY))


def _by_case(kind: Any) -> bool:
    collation = getattr(kind, "collation", None) or ""
    return collation.endswith(("_bin", "_cs")) or collation == "binary"

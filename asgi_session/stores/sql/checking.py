"""What `open` finds out, and `create_schema`."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from asgi_session.errors import ConfigurationError
from asgi_session.stores.sql.errors import meaning
from asgi_session.stores.sql.schema import ddl, problems
from asgi_session.stores.sql.target import Target

_OLDEST_SQLITE: Final = (3, 35, 0)
"""The first that has RETURNING."""


def check(target: Target, table: sa.Table, connection: sa.Connection) -> None:
    """Look at the table, and write to it what changes nothing: that takes the same rights.

    Raises:
        ConfigurationError: the table is missing, or not as it must be; or a right is.
    """
    if target.kind == "sqlite" and sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise ConfigurationError(
            f"this Python has SQLite {sqlite3.sqlite_version}; the store needs 3.35 or later"
        )
    columns = _columns(table, connection)
    if columns is None:
        raise ConfigurationError(
            f"{target.where} has no table {table.fullname}. Create it by `await store.create_schema()`, in a "
            f"migration of yours, or by this SQL:\n\n{shown(table, connection)}"
        )
    wrong = problems(table, columns, connection.dialect)
    if wrong:
        raise ConfigurationError(
            f"{target.where}: the table {table.fullname} is not as the store needs it: {'; '.join(wrong)}. "
            f"As it must be:\n\n{shown(table, connection)}"
        )
    _try_to_write(target, table, connection)


def create(target: Target, table: sa.Table, connection: sa.Connection) -> None:
    """Create what is missing. Several processes may do so at once: whoever is late finds it there."""
    try:
        table.create(connection, checkfirst=True)
    except DBAPIError as error:
        known = meaning(error)
        if known is None or known.lost or known.again or _columns(table, connection) is None:
            raise
    for index in table.indexes:
        try:
            index.create(connection, checkfirst=True)
        except DBAPIError:
            names = [each["name"] for each in sa.inspect(connection).get_indexes(table.name, table.schema)]
            if index.name not in names:
                raise
    check(target, table, connection)


def shown(table: sa.Table, connection: sa.Connection) -> str:
    """Return the SQL that creates the table, for people."""
    return "\n".join(f"{text};" for text in ddl(table, connection.dialect))


def _columns(table: sa.Table, connection: sa.Connection) -> list[Any] | None:
    try:
        return list(sa.inspect(connection).get_columns(table.name, table.schema))
    except NoSuchTableError:
        return None


def _try_to_write(target: Target, table: sa.Table, connection: sa.Connection) -> None:
    nobody = table.c.id == ""
    columns = list(table.columns)
    nothing: list[Any] = [
        sa.insert(table).from_select(columns, sa.select(*columns).where(nobody)),
        sa.update(table).values(purge_day=0).where(nobody),
        sa.delete(table).where(nobody),
    ]
    try:
        for statement in nothing:
            connection.execute(statement)
    except DBAPIError as error:
        known = meaning(error)
        if known is None or not known.final:
            raise
        why = known.trouble.why
    else:
        return
    raise ConfigurationError(
        f"{target.where}: {why}. The store's user needs SELECT, INSERT, UPDATE and DELETE on {table.fullname}"
    )

"""The verbs as functions of a connection: which statements, and what their results mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from asgi_session.store import GONE, TAG_SIZE, TAKEN, Conflict, CreateResult, Saved, SaveResult, Stored
from asgi_session.stores.sql.errors import NothingWritten, is_duplicate, is_full_queue
from asgi_session.stores.sql.schema import purge_day
from asgi_session.stores.sql.statements import Statements

R = TypeVar("R")
Values: TypeAlias = dict[str, Any]
Executing: TypeAlias = Callable[[Statements, Values, sa.Connection], R]

_LAST_EXPIRY: Final = 2**63 - 1


def written(data: bytes, expires_at: int) -> Values:
    """Return what a write sets."""
    return {"tag": data[:TAG_SIZE], "data": data, **lasting(expires_at)}


def lasting(expires_at: int) -> Values:
    """Return what a touch sets."""
    expires_at = max(0, min(expires_at, _LAST_EXPIRY))
    return {"expires": expires_at, "day": purge_day(expires_at)}


def stored(data: bytes, expires_at: int) -> Stored:
    """Return a record."""
    return Stored(data, data[:TAG_SIZE], expires_at)


def load(sql: Statements, values: Values, connection: sa.Connection) -> Stored | None:
    """Read one record."""
    row: Any = sql.load(connection, values).first()
    return None if row is None else stored(row[0], row[1])


def load_many(sql: Statements, keys: Sequence[str], connection: sa.Connection) -> dict[str, Stored]:
    """Read several records; the missing ones are not in what is returned."""
    assert sql.load_many is not None
    rows: Any = sql.load_many(connection, {"keys": keys}).all()
    return {row[0]: stored(row[1], row[2]) for row in rows}


def create(sql: Statements, values: Values, connection: sa.Connection) -> CreateResult:
    """Write a record where there is none.

    MariaDB and MySQL take another statement when something lies there: what has expired is replaced by
    the second. It cannot vanish in between, but for a purge; then the key is free for a third.
    """
    if sql.retake is None:
        done = sql.create(connection, values).rowcount == 1
        return Saved(values["tag"]) if done else TAKEN
    while True:
        try:
            sql.create(connection, values)
            return Saved(values["tag"])
        except IntegrityError as error:
            if not is_duplicate(error):
                raise
        if sql.retake(connection, values).rowcount == 1:
            return Saved(values["tag"])
        if load(sql, values, connection) is not None:
            return TAKEN


def save(sql: Statements, values: Values, connection: sa.Connection) -> SaveResult:
    """Replace one version.

    Without RETURNING, a save that was not done needs another statement to say what is there instead.
    """
    result = sql.save(connection, values)
    if result.returns_rows:
        return saved(result.first(), values)
    while result.rowcount != 1:
        try:
            found = load(sql, values, connection)
        except DBAPIError as error:
            raise NothingWritten(error) from None
        if found is None:
            return GONE
        if found.data == values["data"]:
            return Saved(found.tag)
        if found.tag != values["expect"]:
            return Conflict(found)
        result = sql.save(connection, values)
    return Saved(values["tag"])


def saved(row: Any, values: Values) -> SaveResult:
    """Say what the row means that a save has returned."""
    if row is None:
        return GONE
    if row[0] is None:
        return Saved(values["tag"])
    return Conflict(stored(row[0], row[1]))


def save_and_wake(sql: Statements, values: Values, connection: sa.Connection) -> SaveResult:
    """Replace one version, and tell listeners.

    A queue of notifications that is full, since somebody who listens is in a long transaction, refuses the
    whole statement. A wake-up is a hint: the record is saved without.
    """
    assert sql.save_and_wake is not None
    try:
        row = sql.save_and_wake(connection, values).first()
    except DBAPIError as error:
        if not is_full_queue(error):
            raise
        return save(sql, values, connection)
    return saved(row, values)


def touch(sql: Statements, values: Values, connection: sa.Connection) -> bool:
    """Change one version's expiry."""
    return sql.touch(connection, values).rowcount == 1


def delete(sql: Statements, values: Values, connection: sa.Connection) -> bool:
    """Remove the record, or one version of it."""
    statement = sql.delete_version if "expect" in values else sql.delete
    return statement(connection, values).rowcount == 1


def purge(sql: Statements, values: Values, connection: sa.Connection) -> int:
    """Remove a batch of expired records."""
    return sql.purge(connection, values).rowcount

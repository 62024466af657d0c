"""The SQL of each verb, per kind of server. One statement each; where it takes two, `verbs` says why."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from asgi_session.stores.sql.schema import DAY

_PARAMETER: Final = re.compile(r"(?<!:):([a-z]+)\b")


class Statement:
    """A statement whose parameters are named, for drivers that number them."""

    __slots__ = ("_names", "text")

    def __init__(self, text: str, kind: str) -> None:
        names: list[str] = []

        def place(found: re.Match[str]) -> str:
            name = found[1]
            if kind == "mysql":
                names.append(name)
                return "%s"
            if name not in names:
                names.append(name)
            return f"{'$' if kind == 'postgresql' else '?'}{names.index(name) + 1}"

        self.text = _PARAMETER.sub(place, text)
        self._names = names

    def __call__(self, connection: sa.Connection, values: dict[str, Any]) -> sa.CursorResult[Any]:
        """Execute it; `values` may hold more than it needs."""
        return connection.exec_driver_sql(self.text, tuple([values[name] for name in self._names]))


class Statements(NamedTuple):
    """What a store sends."""

    load: Statement
    create: Statement
    save: Statement
    touch: Statement
    delete: Statement
    delete_version: Statement
    purge: Statement
    retake: Statement | None = None  # a create where an expired record lies, if that is another statement
    load_many: Statement | None = None
    save_and_wake: Statement | None = None


_NOW: Final = {
    # Read when the row is, so that a save which has waited for it goes by the time that it is then.
    "postgresql": "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    "mysql": "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)",
    "sqlite": ":now",
}

_WAITED: Final = "GREATEST(0, TIMESTAMPDIFF(MICROSECOND, NOW(3), SYSDATE(3)) DIV 1000)"
"""How long a save or touch has waited for its row, on MariaDB and MySQL. There the time is that of the
statement's beginning, but for SYSDATE, which knows no UTC. One that began in time could bring back a record
that has ended meanwhile."""

_COLUMNS: Final = "(id, tag, data, expires_at, purge_day) VALUES (:key, :tag, :data, :expires, :day)"
_SET: Final = "tag = :tag, data = :data, expires_at = :expires, purge_day = :day"


def statements(kind: str, table: str) -> Statements:
    """Return those for a kind of server: postgresql, mysql (which MariaDB is, too) or sqlite.

    Args:
        kind: of server.
        table: its name, quoted if need be.
    """
    now = _NOW[kind]
    then = f"{now} + {_WAITED}" if kind == "mysql" else now
    texts = {
        "load": f"SELECT data, expires_at FROM {table} WHERE id = :key AND expires_at > {now}",
        "touch": f"UPDATE {table} SET expires_at = :expires, purge_day = :day "
        f"WHERE id = :key AND tag = :expect AND expires_at > {then}",
        "delete": f"DELETE FROM {table} WHERE id = :key AND expires_at > {now}",
        "delete_version": f"DELETE FROM {table} WHERE id = :key AND tag = :expect AND expires_at > {now}",
    }
    texts |= _mysql(table, now, then) if kind == "mysql" else _with_returning(table, now)
    match kind:
        case "postgresql":
            texts |= _postgresql(table, now, texts["save"])
        case "sqlite":
            texts["purge"] = (
                f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} "
                f"WHERE purge_day <= {now} / {DAY} AND expires_at <= {now} LIMIT :limit)"
            )
        case _:
            pass
    return Statements(**{name: Statement(text, kind) for name, text in texts.items()})


def _with_returning(table: str, now: str) -> dict[str, str]:
    """Return those where one statement can write and tell what is there.

    A save that finds another version writes that version again: the UPDATE has to wait for whoever holds
    the row, and only the row that it then meets is the newest. A SELECT beside an UPDATE that has found
    nothing would answer from before the wait: the old version, and a version where there is none any more.
    """
    mine = "CASE WHEN tag = :expect THEN :{} ELSE {} END"
    changes = {"tag": "tag", "data": "data", "expires_at": "expires", "purge_day": "day"}
    case = ", ".join(f"{column} = {mine.format(value, column)}" for column, value in changes.items())
    return {
        "create": f"INSERT INTO {table} {_COLUMNS} ON CONFLICT (id) DO UPDATE SET tag = excluded.tag, "
        "data = excluded.data, expires_at = excluded.expires_at, purge_day = excluded.purge_day "
        f"WHERE {table}.expires_at <= {now}",
        "save": f"UPDATE {table} SET {case} WHERE id = :key AND expires_at > {now} "
        "RETURNING CASE WHEN tag = :tag THEN NULL ELSE data END AS data, expires_at",
    }


def _postgresql(table: str, now: str, save: str) -> dict[str, str]:
    # An index is of no use for a time that may change within the statement, as clock_timestamp() does.
    fixed = now.replace("clock_timestamp()", "now()")
    return {
        "load_many": f"SELECT id, data, expires_at FROM {table} WHERE id = ANY(:keys) AND expires_at > {now}",
        "save_and_wake": f"WITH saved AS ({save}) SELECT data, expires_at, (SELECT count(pg_notify(channel, "
        ":message)) FROM unnest(:channels::text[]) AS channel WHERE data IS NULL) FROM saved",
        "purge": f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} "
        f"WHERE purge_day <= {fixed} / {DAY} AND expires_at <= {fixed} LIMIT :limit FOR UPDATE SKIP LOCKED))"
        f" AND expires_at <= {fixed}",
    }


def _mysql(table: str, now: str, then: str) -> dict[str, str]:
    """Return those for MariaDB and MySQL: no RETURNING, which MySQL does not have."""
    return {
        "create": f"INSERT INTO {table} {_COLUMNS}",
        "retake": f"UPDATE {table} SET {_SET} WHERE id = :key AND expires_at <= {now}",
        "save": f"UPDATE {table} SET {_SET} WHERE id = :key AND tag = :expect AND expires_at > {then}",
        "purge": f"DELETE FROM {table} WHERE purge_day <= {now} DIV {DAY} AND expires_at <= {now} "
        "ORDER BY purge_day LIMIT :limit",
    }

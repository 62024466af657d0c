"""What the errors of SQLAlchemy and its drivers mean.

An error's text is the server's alone: SQLAlchemy's holds the statement, and a driver's may hold more.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from asgi_session.stores._shared.verbs import Trouble


class Meaning(NamedTuple):
    """What an error means for the verb that met it.

    Attributes:
        trouble: for whoever called the verb.
        again: the statement was not executed, and another try may well succeed.
        lost: the connection is lost.
        final: nothing heals by itself here: a password, a name, a right.
        elsewhere: this server takes no writes (any more); a new connection may lead to one that does.
    """

    trouble: Trouble
    again: bool = False
    lost: bool = False
    final: bool = False
    elsewhere: bool = False


class CannotConnect(Exception):
    """There is no connection, and `meaning` says why. Nothing was executed, whatever it was."""

    def __init__(self, meaning: Meaning) -> None:
        super().__init__(meaning.trouble.why)
        self.meaning = meaning


class NothingWritten(Exception):
    """An error that came after the server had said that it did not write."""

    def __init__(self, error: DBAPIError) -> None:
        super().__init__(_shortly(error.orig))
        self.error = error


def meaning(error: BaseException) -> Meaning | None:
    """Say what an error means; None for one that no server has caused."""
    if isinstance(error, CannotConnect):
        return error.meaning
    if isinstance(error, NothingWritten):
        known = meaning(error.error)
        assert known is not None
        trouble = known.trouble._replace(executed=False)
        return known._replace(trouble=trouble, again=known.again or known.lost)
    if isinstance(error, DBAPIError):
        assert error.orig is not None
        return _of_original(error.orig, lost=error.connection_invalidated)
    if isinstance(error, PoolTimeout):
        return Meaning(Trouble("no connection of the pool became free"))
    if isinstance(error, OSError):
        return Meaning(Trouble(_shortly(error)), lost=True)
    if isinstance(error, SQLAlchemyError):
        return Meaning(Trouble(_shortly(error)))
    return None


def refused_to_connect(error: Exception) -> Exception:
    """Return what to raise for an error that came while connecting: there, drivers raise their own."""
    if isinstance(error, TimeoutError):
        known: Meaning | None = Meaning(Trouble("connecting took too long"))
    elif type(error).__module__.partition(".")[0] in ("asyncpg", "asyncmy", "aiosqlite", "sqlite3"):
        known = _of_original(error, lost=False)
    elif isinstance(error, (TypeError, ValueError, LookupError, OverflowError)) and not isinstance(
        error, SQLAlchemyError
    ):
        known = Meaning(Trouble(f"the driver refuses the settings: {_shortly(error)}"), final=True)
    else:
        known = meaning(error)
    if known is None:
        return error
    return CannotConnect(known._replace(again=not known.final))


def explain(error: Exception) -> Trouble | None:
    """Say it to whoever called a verb."""
    known = meaning(error)
    return None if known is None else known.trouble


def _of_original(original: BaseException, *, lost: bool) -> Meaning:
    if original.args and isinstance(original.args[0], int):  # asyncmy's have an SQLSTATE as well
        return _mysql(original.args[0], original, lost=lost)
    if type(original).__name__ == "InvalidCachedStatementError":  # somebody has altered the table
        return Meaning(Trouble(_shortly(original), executed=False), again=True)
    state = getattr(original, "sqlstate", None)
    if isinstance(state, str):
        return _postgresql(state, original, lost=lost)
    code = getattr(original, "sqlite_errorcode", None)
    if isinstance(code, int):
        return _sqlite(code & 0xFF, original)
    return Meaning(Trouble(_shortly(original)), lost=lost)


def _postgresql(state: str, error: BaseException, *, lost: bool) -> Meaning:
    why = _shortly(error)
    if lost or state.startswith("08") or state in ("57P01", "57P02", "57P05"):
        return Meaning(Trouble(why), lost=True)
    if state == "40003":  # statement completion unknown
        return Meaning(Trouble(why))
    # Any other error has rolled the statement back.
    trouble = Trouble(why, executed=False, full=state == "53100")
    match state:
        case "40001" | "40P01" | "55P03" | "57P03" | "53300":  # races, starting up, too many connections
            return Meaning(trouble, again=True)
        case "25006":
            return Meaning(trouble, elsewhere=True)
        case "42P01" | "42703" | "42501" | "3D000" | "3F000":
            return Meaning(trouble, final=True)
        case _:
            return Meaning(trouble, final=state.startswith("28"))


_LOST: Final = {2003, 2006, 2013, 2014, 2055, 1053, 1927, 1077, 1079}


_UNKNOWN: Final = {1105, 1160, 1161, 1180}
"""No particular error, as proxies report what they can't explain; writing the reply failed; COMMIT failed."""


def _mysql(code: int, error: BaseException, *, lost: bool) -> Meaning:
    why = _shortly(error)
    if lost or code in _LOST:
        return Meaning(Trouble(why), lost=True)
    if code in _UNKNOWN:
        return Meaning(Trouble(why))
    trouble = Trouble(why, executed=False, full=code in (1021, 1114) or "No space left" in why)
    match code:
        case 1213 | 1205 | 1040 | 1203:  # a deadlock, a row held too long, too many connections
            return Meaning(trouble, again=True)
        case 1290 | 1836 | 1792:
            return Meaning(trouble, elsewhere=True)
        case 1044 | 1045 | 1049 | 1054 | 1142 | 1143 | 1146 | 1698:
            return Meaning(trouble, final=True)
        case _:
            return Meaning(trouble)


def _sqlite(code: int, error: BaseException) -> Meaning:
    trouble = Trouble(_shortly(error), executed=False, full=code == 13)
    # 5 and 6: another connection writes. 14 and 26: it cannot be opened, or is no database. 1: no such table.
    return Meaning(trouble, again=code in (5, 6), final=code in (1, 3, 14, 23, 26))


def is_duplicate(error: DBAPIError) -> bool:
    """Tell whether a record lies under the key already, on MariaDB and MySQL."""
    return error.orig is not None and error.orig.args[:1] == (1062,)


def is_full_queue(error: DBAPIError) -> bool:
    """Tell whether PostgreSQL has no room for notifications, and so has not executed the statement."""
    return getattr(error.orig, "sqlstate", None) == "54000" and not error.connection_invalidated


_WRAPPED: Final = re.compile(r"^<class '[^']*'>: ")


def _shortly(error: Any) -> str:
    """Return the first line of what an error says, and its class if it says nothing."""
    args = error.args
    text = str(args[1]) if len(args) == 2 and isinstance(args[0], int) else str(error)
    line = _WRAPPED.sub("", text.strip()).partition("\n")[0]
    return line[:200] or type(error).__name__

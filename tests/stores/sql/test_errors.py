"""What the servers' errors mean, one by one, and values that could break out of a statement."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import asyncmy.errors  # type: ignore[import-untyped]
import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from asgi_session.errors import ConfigurationError
from asgi_session.stores.sql import SQLStore
from asgi_session.stores.sql.errors import CannotConnect, explain, meaning, refused_to_connect
from tests.servers.sql import SERVERS, MariaDB
from tests.stores.sql.helpers import in_time, new_key


def wrapped(error: BaseException, *, lost: bool = False) -> DBAPIError:
    return DBAPIError("SELECT secret", {"data": "secret"}, error, connection_invalidated=lost)


def sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("text")
    error.sqlite_errorcode = code
    return error


def mysql(code: int) -> Exception:
    error: Exception = asyncmy.errors.OperationalError(code, "text")
    return error


@pytest.mark.parametrize(
    ("error", "executed", "says"),
    [
        (asyncpg.DiskFullError("text"), False, "full"),
        (asyncpg.DeadlockDetectedError("text"), False, "again"),
        (asyncpg.SerializationError("text"), False, "again"),
        (asyncpg.TooManyConnectionsError("text"), False, "again"),
        (asyncpg.CannotConnectNowError("text"), False, "again"),
        (asyncpg.ReadOnlySQLTransactionError("text"), False, "elsewhere"),
        (asyncpg.UndefinedTableError("text"), False, "final"),
        (asyncpg.InsufficientPrivilegeError("text"), False, "final"),
        (asyncpg.InvalidPasswordError("text"), False, "final"),
        (asyncpg.AdminShutdownError("text"), None, "lost"),
        (asyncpg.ConnectionDoesNotExistError("text"), None, "lost"),
        (asyncpg.StatementCompletionUnknownError("text"), None, ""),
        (asyncpg.DataError("text"), False, ""),
        (mysql(1114), False, "full"),
        (mysql(1021), False, "full"),
        (mysql(1213), False, "again"),
        (mysql(1205), False, "again"),
        (mysql(1040), False, "again"),
        (mysql(1290), False, "elsewhere"),
        (mysql(1045), False, "final"),
        (mysql(1146), False, "final"),
        (mysql(2013), None, "lost"),
        (mysql(1927), None, "lost"),
        (mysql(1105), None, ""),
        (mysql(1180), None, ""),
        (mysql(1406), False, ""),
        (sqlite(5), False, "again"),
        (sqlite(5 | 2 << 8), False, "again"),
        (sqlite(13), False, "full"),
        (sqlite(14), False, "final"),
        (sqlite(10), False, ""),
        (RuntimeError("text"), None, ""),
    ],
)
def test_meanings(error: Exception, executed: bool | None, says: str) -> None:
    """Whether it was executed, is worth another try, or never heals; never the statement or its values."""
    known = meaning(wrapped(error))
    assert known is not None
    assert known.trouble.executed is executed
    found = {name for name in ("again", "lost", "final", "elsewhere") if getattr(known, name)}
    found |= {"full"} if known.trouble.full else set()
    assert found == ({says} if says else set())
    assert known.trouble.why == "text"


def test_a_lost_connection_says_nothing_of_the_statement() -> None:
    """Whatever the error was: the answer did not come."""
    for error in (asyncpg.DiskFullError("text"), mysql(1213)):
        known = meaning(wrapped(error, lost=True))
        assert known is not None
        assert (known.lost, known.trouble.executed, known.again) == (True, None, False)


def test_errors_of_connecting() -> None:
    """Most may heal; settings that the driver refuses don't, and a mistake of ours stays one."""
    for error, final in (
        (OSError(111, "refused"), False),
        (TimeoutError(), False),
        (asyncpg.InvalidPasswordError("text"), True),
        (TypeError("connect() got an unexpected keyword argument 'x'"), True),
        (OverflowError("connect(): port must be 0-65535."), True),
        (LookupError("unknown encoding: binary"), True),
    ):
        refusal = refused_to_connect(error)
        assert isinstance(refusal, CannotConnect)
        assert (refusal.meaning.final, refusal.meaning.again) == (final, not final)
        assert explain(refusal) is refusal.meaning.trouble
    mistake = ZeroDivisionError()
    assert refused_to_connect(mistake) is mistake
    assert explain(mistake) is None


@pytest.mark.parametrize("server", SERVERS[1:])
async def test_a_server_that_takes_backslashes_literally(server: str, request: pytest.FixtureRequest) -> None:
    """No value gets out of its quotes: the store's own connections are told to escape."""
    mariadb: MariaDB = request.getfixturevalue(server)
    mode = {"init_command": "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'"}
    store = SQLStore.from_url(mariadb.url, connect_args=mode)
    await store.create_schema()
    for data in (b"'" * 40, b"\\'" * 40, b"\\" * 41, b"\\', 1, 1); -- " * 3, bytes(range(256))):
        key = new_key()
        await store.create(key, data, 2**50, deadline=in_time())
        loaded = await store.load(key, deadline=in_time())
        assert loaded is not None
        assert loaded.data == data
    await store.close()


@pytest.mark.parametrize("server", SERVERS[1:])
async def test_a_character_set_in_which_backslashes_are_part_of_characters(
    server: str, request: pytest.FixtureRequest
) -> None:
    """Escaping is of no use there, so it is refused."""
    mariadb: MariaDB = request.getfixturevalue(server)
    store = SQLStore.from_url(f"{mariadb.url}?charset=gbk")
    with pytest.raises(ConfigurationError, match="gbk"):
        await store.open()
    await store.close()


def test_without_sqlalchemy() -> None:
    """One error, with the command that installs it."""
    code = (
        "import sys; sys.modules['sqlalchemy'] = None\n"
        "from asgi_session import SessionManager\n"
        "try: SessionManager('mariadb://h/d')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("ConfigurationError SQLStore needs the package sqlalchemy")
    assert "pip install 'asgi-session[postgresql]' (or [mysql], [sqlite])" in run.stdout

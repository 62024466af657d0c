"""redis-py makes the connection, then its transport is ours.

URL options, TLS, AUTH, credential providers, HELLO 3, client name and SELECT are redis-py's work.
Its ``_reader``, ``_writer`` and ``_parser`` are private: `tests/stores/redis/test_redis_py.py`
stands guard.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, DataError, NoPermissionError, RedisError

from asgi_session.stores._shared.addresses import Address, show
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores.redis.connection import Connection
from asgi_session.stores.redis.target import Dialect, Options


def _make(dialect: Dialect, address: Address, options: Options) -> Any:
    host, port = address
    settings: dict[str, Any] = {
        **dialect.settings,
        "protocol": 3,
        "retry": Retry(NoBackoff(), 0),  # the store repeats only what certainly did not execute
        "socket_timeout": options.connect_timeout,
        "socket_connect_timeout": options.connect_timeout,
        "decode_responses": False,
    }
    cls = dialect.connection_class
    if issubclass(cls, UnixDomainSocketConnection):
        settings["path"] = host
    else:
        settings |= {"host": host, "port": port, "socket_keepalive": True}
    raw: Any = cls(**settings)
    if options.tls_server_name is not None and issubclass(cls, SSLConnection):
        arguments = {**raw._connection_arguments(), "server_hostname": options.tls_server_name}
        raw._connection_arguments = lambda: arguments
    return raw


async def dial(
    dialect: Dialect, address: Address, options: Options, on_close: Callable[[Connection], None]
) -> Connection | Failure:
    """Connect and log in. Any outcome but cancellation is an answer."""
    where = show(address)
    raw: Any = None
    try:
        async with asyncio.timeout(options.connect_timeout):
            raw = _make(dialect, address, options)
            await raw.connect()
            return _take_over(raw, Connection(where, options.timeout, on_close))
    except TimeoutError:
        return Failure(f"{where}: no connection within {options.connect_timeout:g} s", False)
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        return Failure(f"{where} refused the login: {_why_no_login(error)}", False, final=True)
    except (DataError, TypeError, ValueError) as error:
        return Failure(f"{where}: unusable connection settings: {error}", False, final=True)
    except (RedisError, OSError) as error:
        if "DB index is out of range" in str(error):
            return Failure(f"{where} has no such database: give a lower number, or none", False, final=True)
        return Failure(f"{where}: {error}", False)
    except Exception as error:
        # A credential provider's, say. Its text may hold secrets.
        return Failure(f"{where}: the connection could not be set up: {type(error).__name__}", False)
    finally:
        if raw is not None and raw._writer is not None:
            with contextlib.suppress(Exception):
                raw._writer.transport.abort()
            raw._reader = raw._writer = None


def _why_no_login(error: Exception) -> str:
    text = str(error)
    if text.startswith(("HELLO must be called", "Authentication required")):
        return "it asks for a password, and none was given (redis://user:password@host, or the client's own)"
    if text.startswith("invalid username-password pair"):
        return "user or password is wrong, or the user is off"
    return text


def _take_over(raw: Any, connection: Connection) -> Connection | Failure:
    reader, writer = raw._reader, raw._writer
    if reader.at_eof() or reader.exception() is not None or raw._parser._reader.has_data():
        return Failure(f"{connection.where}: the server closed the connection during the login", False)
    raw._reader = raw._writer = None  # or redis-py would warn of a connection left open
    received = bytes(reader._buffer)
    connection.take_over(writer.transport, received, writer)
    return connection

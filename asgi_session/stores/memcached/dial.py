"""Making a connection: TLS, login, and whether the server can do what the store needs.

The server is asked for its version before it is sent any data. One that does not know the commands takes
the data for commands, and a record may hold whatever a user has typed; and one without passwords stores
the login for anybody to read.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Callable
from math import inf
from typing import Any, Final

from asgi_session.stores._shared.addresses import Address, show
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores.memcached import protocol
from asgi_session.stores.memcached.connection import Connection
from asgi_session.stores.memcached.protocol import Reply
from asgi_session.stores.memcached.target import Target

_VERSION: Final = re.compile(r"VERSION (\d+)\.(\d+)\.(\d+)")

_OLDEST: Final = (1, 6, 13)
"""The first in which `ms` answers the new token (1.6.10) and `md` compares it as it should."""

_LOGIN: Final = "memcached://user:password@host"


class _Refused(Exception):
    """The server cannot be used."""

    def __init__(self, why: str, *, final: bool = True) -> None:
        super().__init__(why)
        self.final = final


class _Silent(Exception):
    """The server has not answered."""


async def dial(
    target: Target, address: Address, on_close: Callable[[Connection], None]
) -> Connection | Failure:
    """Connect and log in. Any outcome but cancellation is an answer."""
    where = show(address)
    connection = Connection(where, target.timeout, on_close)
    done = False
    try:
        async with asyncio.timeout(target.connect_timeout):
            await _connect(connection, target, address)
            await _greet(connection, target)
        done = True
    except TimeoutError:
        hint = " (does it speak TLS?)" if target.tls is not None else ""
        return Failure(f"{where}: no connection within {target.connect_timeout:g} s{hint}", False)
    except _Refused as refused:
        return Failure(f"{where} {refused}", False, final=refused.final)
    except _Silent as silent:
        hint = "" if target.tls is not None else "; if it speaks TLS, use memcacheds://"
        return Failure(f"{silent}{hint}", False)
    except ssl.SSLCertVerificationError as error:
        return Failure(f"{where}: the certificate is not trusted: {error.verify_message}", False, final=True)
    except ssl.SSLError as error:
        return Failure(f"{where}: TLS failed ({error.reason}); a server without it is memcached://", False)
    except (OSError, UnicodeError) as error:
        return Failure(f"{where}: {error or type(error).__name__}", False)
    finally:
        if not done:
            connection.abort("the connection was not completed")
    return connection


async def _connect(connection: Connection, target: Target, address: Address) -> None:
    host, port = address
    loop = asyncio.get_running_loop()
    made: Any = await loop.create_connection(lambda: connection, host, port, ssl=target.tls)
    connection.take_over(made[0], b"", None)


async def _greet(connection: Connection, target: Target) -> None:
    reply = await _ask(connection, protocol.VERSION)
    if reply.text == "CLIENT_ERROR unauthenticated":
        await _log_in(connection, target)
        reply = await _ask(connection, protocol.VERSION)
    elif target.credentials is not None and not reply.is_error:
        raise _Refused("asks for no password (it runs without -Y): leave user and password out of the URL")
    _check_version(reply)
    settings = (await _ask(connection, protocol.SETTINGS)).stats or {}
    if settings.get(b"item_size_max", b"").isdigit():
        connection.item_size = int(settings[b"item_size_max"])
    connection.evicts = settings.get(b"evictions") == b"on"
    await _try_out(connection, target.prefix)


async def _log_in(connection: Connection, target: Target) -> None:
    known = target.credentials
    if known is None:
        raise _Refused(f"asks for a password, and none was given ({_LOGIN})")
    if (await _ask(connection, protocol.login(known.user, known.password))).words[0] != b"STORED":
        raise _Refused("refused the login: user or password is wrong")


def _check_version(reply: Reply) -> None:
    if reply.is_error:  # "ERROR Too many open connections", say
        raise _Refused(f"answered: {reply.text}", final=False)
    found = _VERSION.match(reply.text)
    if found is None:
        raise _Refused("is no Memcached server")
    version = tuple(map(int, found.groups()))
    if version < _OLDEST:
        oldest, has = (".".join(map(str, each)) for each in (_OLDEST, version))
        raise _Refused(f"runs Memcached {has}; sessions need {oldest} or later")


async def _try_out(connection: Connection, prefix: str) -> None:
    """Write, replace, read and remove a value of our own."""
    name = f"{prefix}:check-{os.urandom(8).hex()}".encode()
    token = (await _ask(connection, protocol.insert(name, b"", 60_000, 0))).token
    if token == b"0":
        raise _Refused("runs without CAS (-C): sessions need it")
    steps = (
        (protocol.insert(name, b"", 60_000, 0), b"NS"),
        (protocol.replace(name, b"", 60_000, 0, token + b"1"), b"EX"),
        (protocol.remove(name, token + b"1"), b"EX"),
        (protocol.get(name), b"VA"),
        (protocol.remove(name, token), b"HD"),
    )
    replies = await asyncio.gather(*(_ask(connection, request) for request, _ in steps))
    for reply, (_, expected) in zip(replies, steps, strict=True):
        if reply.words[0] != expected:
            raise _Refused(f"does not do what Memcached does: it answered {reply.text!r}", final=False)


async def _ask(connection: Connection, request: bytes) -> Reply:
    reply: Any = await connection.request(request, inf)
    if isinstance(reply, Failure):
        raise _Silent(reply.why)
    found: Reply = reply
    return found

"""Why no server can be used, for `RedisStore.open`: each address is looked at by itself."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from time import monotonic
from typing import Any, Final, NamedTuple

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from asgi_session.stores._shared.addresses import Address, show
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores.redis.commands import pack
from asgi_session.stores.redis.connection import Connection
from asgi_session.stores.redis.dial import dial
from asgi_session.stores.redis.replies import is_denied
from asgi_session.stores.redis.target import Dialect, Options, Target, advice

_HELLO: Final = pack(b"HELLO")
_CLUSTER_SLOTS: Final = pack(b"CLUSTER", b"SLOTS")

_PATIENCE: Final = 0.5
"""Seconds in which a port answers to what it understands."""


class Hello(NamedTuple):
    """What a server says of itself; empty where it does not say it."""

    mode: str = ""
    role: str = ""


def _ignore(connection: Connection) -> None:
    pass


async def hello(connection: Connection, limit: float) -> Hello:
    """Ask a server what it is."""
    reply: Any = await connection.request(_HELLO, limit)
    if not isinstance(reply, dict):
        return Hello()
    found = [reply.get(name, b"") for name in (b"mode", b"role")]
    return Hello(*(each.decode(errors="replace") if isinstance(each, bytes) else "" for each in found))


async def diagnose(target: Target, options: Options) -> Failure | None:
    """Return what is wrong for good, if it is that with all that answer; None when it may be an outage."""
    dialect = target.dialect
    if target.mode == "sentinel":
        dialect = target.sentinel_dialect or Dialect(dialect.connection_class)
    found = await asyncio.gather(*(_examine(target, options, dialect, each) for each in target.addresses))
    if None in found:
        return None
    problems = dict.fromkeys(each.why for each in found if each is not None and each.final)
    return Failure("; ".join(problems), False, final=True) if problems else None


async def _examine(target: Target, options: Options, dialect: Dialect, address: Address) -> Failure | None:
    """Return what is wrong with one server, None if nothing is."""
    tls = issubclass(dialect.connection_class, SSLConnection)
    if not issubclass(dialect.connection_class, UnixDomainSocketConnection):
        if tls and await _speaks_plainly(address):
            use = advice(target, target.mode, tls=False)
            return Failure(f"{show(address)} speaks no TLS: {use}, or give its TLS port", False, final=True)
        if not tls and await _speaks_tls(address):
            use = advice(target, target.mode, tls=True)
            return Failure(f"{show(address)} speaks TLS only: {use}", False, final=True)
    connection = await dial(dialect, address, options, _ignore)
    if isinstance(connection, Failure):
        return connection
    try:
        told = await hello(connection, monotonic() + options.timeout)
        what = _mistaken(target, told.mode) or await _refused(
            target, connection, monotonic() + options.timeout
        )
        return Failure(f"{connection.where} {what}", False, final=True) if what else None
    finally:
        connection.close()


def _mistaken(target: Target, mode: str) -> str:
    """Return what a server is that is not what was expected."""
    match target.mode, mode:
        case "cluster" | "sentinel", "standalone":
            return f"is a single server: {advice(target, 'single')}"
        case "sentinel", "cluster":
            return f"is a node of a cluster: {advice(target, 'cluster')}"
        case "single" | "cluster", "sentinel":
            return f"is a Sentinel: {advice(target, 'sentinel')}"
        case _:
            return ""


async def _refused(target: Target, connection: Connection, limit: float) -> str:
    """Return what a node of a cluster, or a Sentinel, does not tell us."""
    if target.mode == "cluster":
        reply: Any = await connection.request(_CLUSTER_SLOTS, limit)
        if isinstance(reply, hiredis.ReplyError) and is_denied(reply):
            return "does not allow the store's user CLUSTER SLOTS: give it the right +cluster|slots"
    elif target.mode == "sentinel":
        ask = pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", target.service.encode())
        reply = await connection.request(ask, limit)
        if reply is None:
            return f"knows no service {target.service!r}: give the name under which it watches the primary"
        if isinstance(reply, hiredis.ReplyError) and is_denied(reply):
            right = "+sentinel|get-master-addr-by-name"
            return f"does not allow its user to ask for the primary: give it the right {right}"
    return ""


async def _speaks_plainly(address: Address) -> bool:
    """Whether a port that should speak TLS answers a PING without it; nothing secret is sent."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(b"PING\r\n")
                return await reader.read(1) in (b"+", b"-")
            finally:
                writer.transport.abort()
    return False


async def _speaks_tls(address: Address) -> bool:
    """Whether a port that should speak plainly completes a TLS handshake, or breaks one off as TLS does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=address[0])
            writer.transport.abort()
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except (OSError, TimeoutError, ValueError):
        return False

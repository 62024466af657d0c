"""Asking the sentinels for the primary, at every connect."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import hiredis

from asgi_session.stores._shared.addresses import Address, show
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores.redis.commands import pack
from asgi_session.stores.redis.connection import Connection
from asgi_session.stores.redis.dial import dial
from asgi_session.stores.redis.target import Dialect, Options, Target, remapped

_ROLE: Final = b"*1\r\n$4\r\nROLE\r\n"

_SENTINEL_TIMEOUT: Final = 0.5
"""Seconds one sentinel may take before the next is asked."""


def _ignore(connection: Connection) -> None:
    pass


async def _ask(dialect: Dialect, address: Address, options: Options, *command: bytes) -> Any:
    """Connect, ask one thing, close."""
    connection = await dial(dialect, address, options, _ignore)
    if isinstance(connection, Failure):
        return connection
    try:
        return await connection.request(pack(*command), monotonic() + options.timeout)
    finally:
        connection.close()


def _read_address(reply: Any) -> Address | None:
    """Read [host, port]; None for anything else."""
    if not isinstance(reply, list):
        return None
    try:
        host, port = reply
        return host.decode(), int(port)
    except (ValueError, TypeError, AttributeError):
        return None


class Sentinels:
    """Finds and dials the primary of a service."""

    __slots__ = ("_addresses", "_dialect", "_options", "_quick", "_service", "_target")

    def __init__(self, target: Target, options: Options) -> None:
        self._target = target
        self._options = options
        self._quick = Options(timeout=_SENTINEL_TIMEOUT, connect_timeout=_SENTINEL_TIMEOUT)
        self._dialect = target.sentinel_dialect or Dialect(target.dialect.connection_class)
        self._service = target.service.encode()
        self._addresses = list(target.addresses)

    async def dial(self, on_close: Callable[[Connection], None]) -> Connection | Failure:
        """Connect to the server that a sentinel names and that says itself that it is the primary."""
        found = await self._primary()
        if isinstance(found, Failure):
            return found
        try:
            address = remapped(found, self._target.address_remap)
        except Exception as error:
            return Failure(f"address_remap failed for {show(found)}: {type(error).__name__}: {error}", False)
        connection = await dial(self._target.dialect, address, self._options, on_close)
        if isinstance(connection, Failure):
            return connection
        try:
            role: Any = await connection.request(_ROLE, monotonic() + self._options.timeout)
        except BaseException:  # cancelled, and nobody else knows of this connection
            connection.abort("the store was closed")
            raise
        if isinstance(role, Failure):
            connection.abort("no answer to ROLE")
            return role
        # Without the right to ROLE the server is taken at its word; READONLY tells in the end.
        if isinstance(role, hiredis.ReplyError) or (isinstance(role, list) and role[:1] == [b"master"]):
            return connection
        connection.close()
        return Failure(f"{show(address)} is not the primary (any more)", False)

    async def _primary(self) -> Address | Failure:
        problems: list[str] = []
        for address in list(self._addresses):
            reply = await _ask(
                self._dialect, address, self._quick, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service
            )
            found = _read_address(reply)
            if found is not None:
                self._addresses.remove(address)
                self._addresses.insert(0, address)  # ask the one that works first next time
                return found
            if isinstance(reply, Failure):
                problems.append(reply.why)
            elif reply is None:
                problems.append(f"{show(address)} knows no service {self._target.service!r}")
            elif isinstance(reply, hiredis.ReplyError):
                problems.append(f"{show(address)} answered: {reply}")
            else:
                problems.append(f"{show(address)} answered with something that is no address")
        return Failure("no sentinel names a primary: " + "; ".join(problems), False)

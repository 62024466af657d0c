"""Carrying out a command with patience: ask a server, read its reply, and try again until the deadline.

What differs between one server and a cluster is the command's `Route`: which server is asked, how long a
connection may take, and what an error reply says about where to ask.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, NoReturn, Protocol

import hiredis

from asgi_session._backoff import pause
from asgi_session.errors import StoreUnavailable
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores._shared.health import Health
from asgi_session.stores.redis.commands import AGAIN, STEPS, Command
from asgi_session.stores.redis.connection import Connection
from asgi_session.stores.redis.node import Node
from asgi_session.stores.redis.replies import ReplyKind, is_down, is_full, kind, nameless


class Route(Protocol):
    """A command's way to a server."""

    @property
    def health(self) -> Health:
        """What is known of the server that is asked next."""
        ...

    async def reach(self, deadline: float) -> tuple[Node, Connection] | Failure | None:
        """Return the server to ask, and a connection to it; None to begin anew."""
        ...

    async def send(self, connection: Connection, data: bytes, limit: float) -> Any:
        """Return the reply, or why there is none."""
        ...

    def failed(self, node: Node, failure: Failure) -> None:
        """Take notice of a server that did not reply."""
        ...

    def heed(self, command: Command, node: Node, connection: Connection, error: hiredis.ReplyError) -> bool:
        """Do what an error reply asks for; True to try again without a pause."""
        ...


async def carry_out(command: Command, route: Route, deadline: float, one_try: float) -> Any:
    """Return the reply to a command, whatever it takes until the deadline.

    Args:
        command: what to send.
        route: where to.
        deadline: an instant of `time.monotonic`.
        one_try: seconds for one try.

    Raises:
        StoreUnavailable: it did not get through, or was refused.
    """
    probed: list[Health] = []
    try:
        return await _carry_out(command, route, deadline, one_try, probed)
    except StoreUnavailable:
        route.health.count()
        raise
    finally:
        for health in probed:
            health.probe = None


async def _carry_out(
    command: Command, route: Route, deadline: float, one_try: float, probed: list[Health]
) -> Any:
    """Try until there is an answer; `probed` gets whatever the command is the probe of."""
    began = monotonic()
    tries = steps = 0
    told = ""
    while True:
        health = route.health
        health.expect(deadline - began + one_try)  # that long it may have tried before it came here
        failure = health.refuses(command, began)
        if failure is not None:
            _unavailable(command, failure)
        if health.probe is command and health not in probed:
            probed.append(health)
        reached = await route.reach(deadline)
        if reached is None:
            continue
        if isinstance(reached, Failure):
            failure = reached
            if failure.final:
                _unavailable(command, failure)
        else:
            node, connection = reached
            reply = await _ask(command, route, node, connection, min(deadline, monotonic() + one_try))
            if isinstance(reply, Failure):
                failure = reply
                if failure.executed is None and not command.repeatable:
                    _unavailable(command, failure)
            elif isinstance(reply, hiredis.ReplyError):
                if kind(reply) is ReplyKind.REFUSED:
                    refused(command, connection.where, reply)
                told = f"{connection.where} answered: {reply}"
                failure = Failure(told, False)
                if route.heed(command, node, connection, reply) and monotonic() < deadline:
                    continue
            elif reply is AGAIN:
                steps += 1
                failure = Failure(f"{connection.where}: the record changes all the time", False)
                if steps <= STEPS and monotonic() < deadline:
                    continue
            else:
                return reply
        tries += 1
        if not await pause(tries, deadline):
            _unavailable(command, failure, told)


async def _ask(command: Command, route: Route, node: Node, connection: Connection, limit: float) -> Any:
    """Send what comes next; the reply as the command reads it, or why there is none."""
    able = connection.abilities
    reply = await route.send(connection, command.packed(able), limit)
    if isinstance(reply, Failure):
        route.failed(node, reply)
        return reply._replace(executed=False) if command.looks else reply
    reply = command.read(able, reply)
    if isinstance(reply, hiredis.ReplyError) and is_down(reply):
        node.failing(f"{connection.where} answered: {reply}")
    else:
        node.answered()
    return reply


def _unavailable(command: Command, why: Failure, told: str = "") -> NoReturn:
    """Raise for a command that did not get through; `told` is the last thing that a server said."""
    before = f" (before that: {told})" if told and told not in why.why else ""
    raise StoreUnavailable(f"{command.verb}: {why.why}{before}", executed=why.executed)


def refused(command: Command, where: str, error: hiredis.ReplyError, hint: str = "") -> NoReturn:
    """Raise for a command that the server refused."""
    raise StoreUnavailable(
        f"{command.verb}: {where} answered: {nameless(error)}{hint}", executed=False, full=is_full(error)
    )

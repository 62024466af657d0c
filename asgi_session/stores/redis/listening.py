"""Wake-ups: one connection per event loop that subscribes to the channels of all its listeners.

Never the multiplexed one: a SUBSCRIBE is answered by a push or by an error, and would put the replies
out of step. Therefore a PING goes with it here: its reply, or the error before it, is the answer.

Channels are left by not subscribing to them on the next connection, and the last one by closing it.
That needs no right to UNSUBSCRIBE.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final

import hiredis

from asgi_session._backoff import delay, pause
from asgi_session.errors import StoreUnavailable
from asgi_session.store import Heard
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores._shared.node import in_background
from asgi_session.stores.redis.commands import pack, wake_up
from asgi_session.stores.redis.connection import PING, Connection
from asgi_session.stores.redis.node import Dial, Node
from asgi_session.stores.redis.replies import ReplyKind, kind
from asgi_session.stores.redis.target import Options

_log = logging.getLogger("asgi_session")

_BEAT: Final = 5.0
"""Seconds between two signs of life that are asked for: nobody else's request would notice a silence."""

_LONGEST: Final = 2.0
"""Seconds between two tries to connect again, at most."""

_LONGEST_IF_REFUSED: Final = 60.0
"""The same, when the server refuses: somebody has to change its settings first."""

_CONNECTING: Final = 10.0
"""Seconds after which a try to connect again counts as failed; it goes on, and the next one joins it."""

_GRACE: Final = 0.25


class Listening:
    """Who listens in one event loop, and the connection that they share.

    Args:
        dial: makes a connection to a server that delivers what is published.
        channels: what every channel's name begins with; the listener's name follows.
        options: the store's.

    """

    __slots__ = (
        "_beating",
        "_channels",
        "_covered",
        "_dial",
        "_listeners",
        "_loop",
        "_node",
        "_restoring",
        "_strange_told",
        "_timeout",
    )

    def __init__(self, dial: Dial, channels: bytes, options: Options) -> None:
        self._dial = dial
        self._channels = channels
        self._timeout = options.timeout
        self._listeners: dict[bytes, dict[object, Heard]] = {}  # by channel; the keys tell equal ones apart
        self._covered: set[bytes] = set()  # the channels that the node's connection is subscribed to
        self._node = Node(("the connection for wake-ups", 0), self._subscribed, options.max_age)
        self._restoring: asyncio.Task[None] | None = None
        self._strange_told = False
        self._loop = asyncio.get_running_loop()
        self._beating = self._loop.call_later(_BEAT, self._beat)

    async def listen(self, listener: str, heard: Heard, deadline: float) -> Callable[[], None]:
        """Call `heard` with every wake-up from now on; it may come before this has returned."""
        channel = self._channels + listener.encode()
        mark = object()
        self._listeners.setdefault(channel, {})[mark] = heard
        try:
            await self._join(channel, deadline)
        except BaseException:
            self._end(channel, mark)
            raise
        return partial(self._end, channel, mark)

    def _end(self, channel: bytes, mark: object) -> None:
        hears = self._listeners.get(channel, {})
        hears.pop(mark, None)
        if not hears:
            self._listeners.pop(channel, None)
        connection = self._node.connection
        if not self._listeners and connection is not None and not self._loop.is_closed():
            self._node.reconnect(connection)  # which only happens when somebody listens again

    # subscribing

    async def _join(self, channel: bytes, deadline: float) -> None:
        """Return when the channel is subscribed to."""
        tries = 0
        while True:
            failure: Failure | None
            connection = await self._node.connect(deadline)
            if isinstance(connection, Failure):
                failure = connection
            elif channel in self._covered:
                return
            else:  # it is older than this listener
                failure = await self._subscribe(connection, [channel], deadline)
                if failure is None and self._node.connection is connection:
                    self._covered.add(channel)
                    return
                failure = failure or Failure(f"{connection.where}: the connection was lost", False)
            tries += 1
            if failure.final or self._node.closed or not await pause(tries, deadline):
                raise StoreUnavailable(f"listen: {failure.why}", executed=False)

    async def _subscribe(
        self, connection: Connection, channels: list[bytes], deadline: float = math.inf
    ) -> Failure | None:
        limit = min(deadline, monotonic() + self._timeout)
        reply = await connection.request(pack(b"SUBSCRIBE", *channels) + PING, limit)
        if isinstance(reply, Failure):
            return reply
        if not isinstance(reply, hiredis.ReplyError):
            return None
        connection.close()  # a PING's reply is still to come that no request waits for
        why = f"{connection.where} answered: {reply}"
        if str(reply).startswith("NOPERM"):
            why += f" (wake-ups need the rights +subscribe +publish &{self._channels.decode()}*)"
        return Failure(why, False, final=kind(reply) is ReplyKind.REFUSED)

    async def _subscribed(self, on_close: Callable[[Connection], None]) -> Connection | Failure:
        """Make a connection that is subscribed to everything: what the node dials."""

        def lost(connection: Connection) -> None:
            was_in_use = self._node.connection is connection
            on_close(connection)
            if was_in_use:
                self._restore()

        connection = await self._dial(lost)
        if isinstance(connection, Failure):
            return connection
        connection.on_push = self._pushed
        try:
            done = set[bytes]()
            while missing := self._listeners.keys() - done:  # more may come meanwhile
                failure = await self._subscribe(connection, list(missing))
                if failure is not None:
                    connection.close()
                    await connection.finish(_GRACE)
                    return failure
                done |= missing
        except BaseException:  # cancelled, and nobody else knows of this connection
            connection.abort("the store was closed")
            raise
        if not done:
            connection.close()
            await connection.finish(_GRACE)
            return Failure("nobody listens any more", False)
        if self._node.connection is not None:  # it is kept until this is answered, and what came before
            self._node.connection.request(PING, math.inf)
        self._covered = done  # nothing comes between this and the node's using the connection
        return connection

    # wake-ups

    def _pushed(self, push: list[Any]) -> None:
        match push:
            case [b"message", bytes() as channel, bytes() as message]:
                pass
            case _:  # that SUBSCRIBE was executed
                return
        if channel not in self._listeners:
            return
        key = wake_up(message)
        if key is not None:
            self._tell(self._listeners[channel], key)
        elif not self._strange_told:  # once: whoever publishes one may publish a flood
            self._strange_told = True
            _log.warning(
                "ignored a message on %s that is not a wake-up. Another user of this server can publish "
                "there; take that right away with resetchannels",
                channel.decode(errors="replace"),
            )

    def _tell(self, hears: dict[object, Heard], key: str | None) -> None:
        for heard in list(hears.values()):
            try:
                heard(key)
            except Exception:
                _log.exception("a listener raised an error during a wake-up")

    # keeping it up

    def _beat(self) -> None:
        if self._node.connection is not None:
            self._node.connection.request(PING, math.inf)
        self._beating = self._loop.call_later(_BEAT, self._beat)

    def _restore(self) -> None:
        if self._restoring is None and self._listeners and not self._node.closed:
            self._restoring = in_background(self._reconnect(), "asgi-session listens for wake-ups again")

    async def _reconnect(self) -> None:
        """Connect again, however long that takes, and tell everybody that something may be lost."""
        tries, told = 0, False
        try:
            while self._listeners and not self._node.closed:
                connection = await self._node.connect(monotonic() + _CONNECTING)
                if isinstance(connection, Connection):
                    if not connection.closed:
                        break
                    continue
                tries += 1
                if connection.final and not told:
                    told = True
                    _log.warning(
                        "wake-ups can no longer be received, so locks are polled: %s", connection.why
                    )
                longest = _LONGEST_IF_REFUSED if connection.final else _LONGEST
                await asyncio.sleep(delay(tries, first=0.01, longest=longest))
        finally:
            self._restoring = None
        for hears in list(self._listeners.values()):
            self._tell(hears, None)

    # the end

    async def close(self) -> None:
        """End all listening and close the connection."""
        self._listeners.clear()
        self._beating.cancel()
        restoring = self._restoring
        if restoring is not None:
            restoring.cancel()
        await self._node.aclose()
        if restoring is not None:
            await asyncio.wait([restoring])

    def abandon(self) -> None:
        """Free the socket."""
        self._listeners.clear()
        self._node.abandon()

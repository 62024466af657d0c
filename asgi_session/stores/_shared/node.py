"""A server as a place to send commands to, over whichever connection is the current one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from time import monotonic
from typing import Any, Final, Generic, TypeAlias, TypeVar

from asgi_session._backoff import delay, jittered
from asgi_session.stores._shared.addresses import Address, show
from asgi_session.stores._shared.connection import Failure, Multiplexed
from asgi_session.stores._shared.health import Health
from asgi_session.stores._shared.reporting import Reporter

T = TypeVar("T")
C = TypeVar("C", bound=Multiplexed)

Dial: TypeAlias = Callable[[Callable[[C], None]], Awaitable[C | Failure]]

_STABLE: Final = 1.0
"""Seconds a connection must have lived for the next dial to be free of a wait."""

_RETRY_RENEWAL: Final = 30.0

_TRUST: Final = 10.0
"""Seconds between two connections that are dropped for a record they delivered."""

_GRACE: Final = 0.25
"""Seconds that a closing socket may take."""


def in_background(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Run in a task that nobody needs to have waited for when the event loop is closed."""
    task: Any = asyncio.create_task(work, name=name)
    task._log_destroy_pending = False  # or asyncio would complain of it then
    return task  # type: ignore[no-any-return]


def _nothing(connection: Multiplexed) -> None:
    pass


class Node(Generic[C]):
    """Keeps one connection: single-flight and rate-limited connects, renewal before it is too old.

    Args:
        address: the server's; of a Sentinel group a description, for messages.
        dial: makes a connection.
        max_age: seconds after which the connection is replaced; the new one is made first.
        reporter: is told when a new connection replaces one that was lost.
        greet: called with each new connection, to send what nobody waits for.

    Attributes:
        connection: the current one.
        ready: the same, while the server answers: what needs no watching may be sent on it.
        health: whether the server answers.

    """

    __slots__ = (
        "__weakref__",
        "_broken",
        "_dialing",
        "_distrusted",
        "_failures",
        "_greet",
        "_max_age",
        "_not_before",
        "_old",
        "_renewal",
        "_reporter",
        "_since",
        "_trouble",
        "address",
        "closed",
        "connection",
        "dial",
        "health",
        "ready",
        "where",
    )

    def __init__(
        self,
        address: Address,
        dial: Dial[C],
        max_age: float,
        reporter: Reporter | None = None,
        greet: Callable[[C], None] = _nothing,
    ) -> None:
        self.address = address
        self.where = show(address)
        self.connection: C | None = None
        self.ready: C | None = None
        self.health = Health(self.where, reporter or Reporter())
        self._reporter = reporter
        self._greet = greet
        self._broken = False  # a connection was lost, and none has taken its place
        self.dial = dial
        self._max_age = max_age
        self._dialing: asyncio.Task[C | Failure] | None = None
        self._distrusted = -inf
        self._failures = 0
        self._trouble = ""  # why the last dial failed
        self._not_before = 0.0
        self._since = 0.0
        self._renewal: asyncio.TimerHandle | None = None
        self._old: set[C] = set()
        self.closed = False

    async def connect(self, deadline: float) -> C | Failure:
        """Return the connection, made now if there is none."""
        if self.connection is not None:
            return self.connection
        if self.closed:
            return Failure(f"{self.where} is no longer in use", False)
        task = self._start_dialing()
        await asyncio.wait([task], timeout=max(0.0, deadline - monotonic()))
        if not task.done():
            reason = f" (before that: {self._trouble})" if self._trouble else ""
            return Failure(f"{self.where}: no connection in time{reason}", False)
        if task.cancelled():
            return Failure(f"{self.where}: connecting was cancelled", False)
        return task.result()

    def failing(self, why: str) -> None:
        """Take notice of a try that has failed: until the next answer every request is watched."""
        self.health.failing(why)
        self.ready = None

    def answered(self) -> None:
        """Take notice of an answer."""
        if self.health.since is not None:
            self.health.answered()
            self.ready = self.connection

    def reconnect(self, bad: C) -> None:
        """Give up `bad` for new requests; those already made on it keep their chance."""
        if self.connection is bad:
            self.connection = self.ready = None
            self._broken = True
            self._old.add(bad)
            self._note_end()
            bad.retire()

    def distrust(self) -> None:
        """Drop a connection that delivered another key's record; requests on it fail.

        Not often: what looks like that may also be a record that somebody wrote under the wrong key,
        and then every load of it would take the other requests' connection away. For the same reason
        the next dial is not delayed.
        """
        connection, now = self.connection, monotonic()
        if connection is not None and now - self._distrusted >= _TRUST:
            self._distrusted = now
            self.connection = self.ready = None
            connection.abort("it delivered another key's record")

    @property
    def empty(self) -> bool:
        """Whether no connection is left, or being made."""
        return self.connection is None and not self._old and self._dialing is None

    async def settled(self) -> None:
        """Wait for the replies that are due."""
        connections = [*self._old, *([self.connection] if self.connection is not None else [])]
        await asyncio.gather(*(connection.settled() for connection in connections))

    async def aclose(self) -> None:
        """Close everything and wait until the sockets are closed."""
        dialing = self._dialing
        for connection in self.close():
            await connection.finish(_GRACE)
        if dialing is not None:
            await asyncio.wait([dialing], timeout=_GRACE)

    def close(self, *, gently: bool = False) -> list[C]:
        """Close everything, with `gently` only after the replies that are due have come."""
        self.closed = True
        self.health.close(replaced=gently)
        if self._renewal is not None:
            self._renewal.cancel()
        if self._dialing is not None:
            self._dialing.cancel()
        connections = [*self._old, *([self.connection] if self.connection is not None else [])]
        for connection in connections:
            if gently:
                connection.retire()
            else:
                connection.close()
        return connections

    def abandon(self) -> None:
        """Free what is held although the event loop is closed."""
        self.closed = True
        for connection in (*self._old, self.connection):
            if connection is not None:
                connection.abandon()
        self._old.clear()
        self.connection = self.ready = None
        self.health.close()

    def _start_dialing(self) -> asyncio.Task[C | Failure]:
        if self._dialing is None:
            self._dialing = in_background(self._connect(), f"asgi-session connects {self.where}")
        return self._dialing

    async def _connect(self) -> C | Failure:
        try:
            wait = self._not_before - monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            result = await self.dial(self._lost)
            if isinstance(result, Failure):
                self._trouble = result.why
                self._delay_next_dial()
                return result
            if result.closed:
                return Failure(f"{self.where}: the connection was lost at once", False)
            if self.closed:
                result.close()
                return Failure(f"{self.where}: the store was closed", False)
            self._adopt(result)
            return result
        finally:
            self._dialing = None

    def _adopt(self, connection: C) -> None:
        former, self.connection = self.connection, connection
        if self.health.since is None:
            self.ready = connection
        self._trouble = ""
        if self._broken:
            self._broken = False
            if self._reporter is not None:
                self._reporter.reconnected(self.where)
        self._since = monotonic()
        if former is not None:
            self._old.add(former)
            former.retire()
        self._greet(connection)
        self._schedule_renewal(jittered(self._max_age, 0.8))

    def _schedule_renewal(self, seconds: float) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = asyncio.get_running_loop().call_later(seconds, self._renew)

    def _renew(self) -> None:
        if self.connection is not None and not self.closed:
            self._schedule_renewal(_RETRY_RENEWAL)
            self._start_dialing()

    def _lost(self, connection: C) -> None:
        self._old.discard(connection)
        if self.connection is connection:
            self.connection = self.ready = None
            self._broken = True
            self._note_end()

    def _note_end(self) -> None:
        if monotonic() - self._since >= _STABLE:
            self._failures = 0
        else:
            self._delay_next_dial()

    def _delay_next_dial(self) -> None:
        self._failures += 1
        self._not_before = monotonic() + delay(self._failures, first=0.01, longest=0.5)

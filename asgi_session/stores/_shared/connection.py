"""One multiplexed connection: every command of a loop tick leaves in one write, replies come in order.

A request is a future; its result is the server's reply or a `Failure`. Failures are results and not
exceptions, because a future whose waiter was cancelled at the wrong moment would otherwise log an
exception that nobody retrieved.

What a reply looks like is the protocol's: each has a class of its own, with `data_received`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

_TICK: Final = 0.05
"""Seconds between two looks of the watchdog, which runs only while something is pending."""

_IDLE_PROBE: Final = 30.0
"""Seconds of silence after which an idle connection is asked for a sign of life."""

_MAX_IN_FLIGHT: Final = 1024 * 1024
"""Bytes of requests that may be written and unanswered; what comes on top waits its turn."""


class Failure(NamedTuple):
    """Why there is no reply. `executed` is False when the command never reached the socket."""

    why: str
    executed: bool | None
    final: bool = False
    """True when trying again cannot help (wrong credentials)."""
    full: bool = False
    """True when the server has no memory left for it."""


class _Dropped:
    """Takes the place of a future for a reply that nobody waits for."""

    def done(self) -> bool:
        return True


_Request: TypeAlias = tuple[Any, float, bytes, int]
"""Future (or `_Dropped`), deadline, bytes to send, replies to skip. A plain tuple: made per command."""

_SKIPPED: Final[_Request] = (_Dropped(), math.inf, b"", 0)


class Multiplexed(asyncio.Protocol):
    """A connection that many requests share.

    Args:
        where: host:port, for messages.
        timeout: seconds without a byte from the server, while a reply is due, after which it is
            probed; the connection is dropped when the probe too is met by that much silence.
        on_close: called once with the connection, when it can no longer be used.

    """

    __slots__ = (
        "__weakref__",
        "_create_future",
        "_flush_due",
        "_heard",
        "_idle",
        "_in_flight",
        "_keep",
        "_loop",
        "_next_deadline",
        "_on_close",
        "_paused",
        "_pending",
        "_probed",
        "_queue",
        "_quiet_since",
        "_retiring",
        "_swept",
        "_timeout",
        "_transport",
        "_watch",
        "closed",
        "gone",
        "where",
    )

    probe: ClassVar[bytes]
    """A request that a living server answers with one reply, whatever it is."""

    def __init__(self, where: str, timeout: float, on_close: Callable[[Any], None]) -> None:
        self.where = where
        self.closed = False
        self._loop = asyncio.get_running_loop()
        # In C; asyncio's own create_future is a Python function around it.
        self._create_future = partial(asyncio.Future, loop=self._loop)
        self.gone: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed, too."""
        self._timeout = timeout
        self._on_close = on_close
        self._queue: deque[_Request] = deque()  # not yet written
        self._pending: deque[_Request] = deque()  # written, a reply is due
        self._in_flight = 0
        self._flush_due = False
        self._paused = False
        self._retiring = False
        self._heard = False
        self._quiet_since = 0.0
        self._probed = 0.0
        self._next_deadline = math.inf
        self._swept = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._keep: object = None

    def take_over(self, transport: asyncio.Transport, received: bytes, keep: object) -> None:
        """Own an established transport; `received` is what its former owner has read but not used.

        `keep` is held while the transport lives: a StreamWriter closes its transport when collected.
        """
        self._transport = transport
        self._keep = keep
        transport.set_protocol(self)
        self._idle = self._loop.call_later(_IDLE_PROBE, self._probe_if_idle)
        if received:
            self.data_received(received)

    # requests

    def request(self, data: bytes, deadline: float, extra: int = 0) -> asyncio.Future[Any]:
        """Send `data`, which brings 1 + `extra` replies, of which the last one counts.

        `deadline` is an instant of `time.monotonic`. The future may be cancelled at any time.
        """
        future: asyncio.Future[Any] = self._create_future()
        if self.closed:
            future.set_result(Failure(f"{self.where}: the connection is closed", False))
            return future
        self._queue.append((future, deadline, data, extra))
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        if deadline < self._next_deadline:
            self._next_deadline = deadline
        if self._watch is None:
            self._start_watch()
        return future

    def _flush(self) -> None:
        self._flush_due = False
        if self._paused or self.closed:
            return
        queue, pending, in_flight = self._queue, self._pending, self._in_flight
        if not pending:
            self._quiet_since = monotonic()
        parts: list[bytes] = []
        while queue and in_flight < _MAX_IN_FLIGHT:
            entry = queue.popleft()
            if entry[0].done():  # cancelled or timed out: it never leaves
                continue
            if entry[3]:
                pending.extend([_SKIPPED] * entry[3])
            pending.append(entry)
            parts.append(entry[2])
            in_flight += len(entry[2])
        self._in_flight = in_flight
        if parts and self._transport is not None:
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    # asyncio.Protocol

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Match the replies in `data` to the requests that wait for them.

        For each reply: `answer`, or what it does, written out. At the end `flush_soon` if something
        is in the queue, since there may be room for it now.
        """

    def answer(self, reply: object) -> None:
        """Give a reply to the request that is due; IndexError when none is."""
        entry = self._pending.popleft()
        self._in_flight -= len(entry[2])
        if not entry[0].done():
            entry[0].set_result(reply)

    def out_of_step(self) -> None:
        """Drop the connection: whose reply is whose can no longer be known."""
        self.abort("the replies are out of step")

    def flush_soon(self) -> None:
        """Write what is in the queue, at the end of the loop's tick."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def pause_writing(self) -> None:
        """Let requests wait in the queue: the transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Write what has waited."""
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        if not self.gone.done():
            self.gone.set_result(None)
        self._end(f"connection lost ({exc})" if exc else "connection closed by the server")

    # the watchdog

    def _start_watch(self) -> None:
        self._swept = monotonic()
        if not self._pending:
            self._quiet_since = self._swept
        self._watch = self._loop.call_later(_TICK, self._sweep)

    def _sweep(self) -> None:
        now = monotonic()
        late = now - self._swept > 3 * _TICK
        self._swept = now
        if self._heard:
            self._heard = False
            self._quiet_since = now
            self._probed = 0.0
        if late:
            # The loop was held up: what the server sent meanwhile may still be unread. Read first.
            self._quiet_since = now
            self._probed = 0.0
            self._watch = self._loop.call_later(0.001, self._sweep)
            return
        if now >= self._next_deadline:
            self._expire(now)
        if not self._pending and not self._queue:
            self._watch = None
            if self._retiring:
                self.close()
            return
        if self._pending or self._paused:
            if self._probed:
                if now - self._probed >= self._timeout:
                    self.abort("no byte came in time, not even for a probe")
                    return
            elif now - self._quiet_since >= self._timeout:
                self._probed = now
                self.request(self.probe, math.inf)
        self._watch = self._loop.call_later(_TICK, self._sweep)

    def _expire(self, now: float) -> None:
        nearest = math.inf
        for entries, executed in ((self._pending, None), (self._queue, False)):
            for entry in entries:
                if entry[0].done():
                    continue
                if entry[1] <= now:
                    entry[0].set_result(Failure(f"{self.where} did not answer in time", executed))
                elif entry[1] < nearest:
                    nearest = entry[1]
        self._next_deadline = nearest
        self._queue = deque(entry for entry in self._queue if not entry[0].done())

    def _probe_if_idle(self) -> None:
        if not self._pending:
            self.request(self.probe, math.inf)
        self._idle = self._loop.call_later(_IDLE_PROBE, self._probe_if_idle)

    # the end

    def retire(self) -> None:
        """Close as soon as the requests that were made have their replies."""
        self._retiring = True
        if not self._pending and not self._queue:
            self.close()

    async def settled(self) -> None:
        """Wait for the replies that are due."""
        due = [entry[0] for entry in (*self._pending, *self._queue) if not entry[0].done()]
        if due:
            await asyncio.wait(due)

    def close(self) -> None:
        """Close now, after what was written has left; what waits for a reply fails."""
        if self._transport is not None and not self.closed:
            self._transport.close()
        self._end("the connection was closed")

    def abort(self, why: str) -> None:
        """Drop the connection at once."""
        if self._transport is not None and not self.closed:
            self._transport.abort()
        self._end(why)

    async def finish(self, grace: float) -> None:
        """Wait for the socket of a closed connection; TLS takes leave of its peer, which may be dead."""
        if self._transport is None:
            return
        await asyncio.wait([self.gone], timeout=grace)
        if not self.gone.done():
            self._transport.abort()
            await asyncio.wait([self.gone], timeout=grace)

    def abandon(self) -> None:
        """Free the socket of a connection whose event loop was closed under it."""
        self.closed = True
        transport: Any = self._transport
        self._transport = None
        # A closed loop runs no callback any more, so asyncio's transport is told directly, or its
        # finalizer would warn of an unclosed transport. uvloop has closed its own, and must be let be.
        raw: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
        lost = getattr(raw, "_call_connection_lost", None)
        if lost is not None and getattr(raw, "_sock", None) is not None:
            for step in (transport.abort, lambda: lost(None)):
                with contextlib.suppress(RuntimeError, AttributeError):
                    step()

    def _end(self, why: str) -> None:
        if self.closed:
            return
        self.closed = True
        for timer in (self._watch, self._idle):
            if timer is not None:
                timer.cancel()
        for entries, executed in ((self._pending, None), (self._queue, False)):
            for entry in entries:
                if not entry[0].done():
                    entry[0].set_result(Failure(f"{self.where}: {why}", executed))
            entries.clear()
        self._on_close(self)

"""Records in this process's memory."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import threading
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, Self

from asgi_session._options import unknown
from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import (
    GONE,
    TAG_SIZE,
    TAKEN,
    Conflict,
    CreateResult,
    Heard,
    Saved,
    SaveResult,
    Stored,
)

_log = logging.getLogger(__name__)

_SWEEP = 16
"""Queue entries that one write looks at: more than it adds, yet soon done."""


def _refuse_more(url: str) -> None:
    if url.lower() != "memory://":
        raise ConfigurationError("memory:// takes nothing after it; for options use MemoryStore(...)")


class _Listener:
    """Who hears wake-ups, and in which event loop."""

    __slots__ = ("_heard", "ended", "loop")

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self.loop = asyncio.get_running_loop()
        self.ended = False

    def tell(self, key: str) -> None:
        """Call the listener, from its loop."""
        if self.ended:
            return
        try:
            self._heard(key)
        except Exception:
            _log.exception("a listener raised an error during a wake-up")


class MemoryStore:
    """A store for tests, development and apps of one process; what it holds ends with the process.

    It is bounded. A write that would exceed a bound first removes the records that expire soonest,
    whoever they belong to: expired ones, then ended and unconfirmed sessions, then those idle
    longest. The first time a living record has to go is logged as a warning.

    Safe to use from several threads and event loops.

    Args:
        max_records: how many records are kept; 100,000.
        max_bytes: how many bytes of data are kept, Python's own overhead of some 400 bytes per record
            not counted; 256 MiB. A record that is larger all by itself is refused with
            `StoreUnavailable`.
        clock: tells the time in milliseconds; the system's.

    Raises:
        ConfigurationError: an argument that cannot work.

    """

    def __init__(
        self,
        *,
        max_records: int = 100_000,
        max_bytes: int = 256 * 1024 * 1024,
        clock: Clock = system_clock,
    ) -> None:
        for name, value in (("max_records", max_records), ("max_bytes", max_bytes)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name}={value!r}: must be a whole number of at least 1")
        if not callable(clock):
            raise ConfigurationError(f"clock={clock!r}: give a function that returns milliseconds")
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[str, Stored] = {}
        self._bytes = 0
        # A heap of (due, key), and each record's one valid `due`, never later than its expiry: a record
        # whose expiry moves back is only looked at, and queued anew, when its turn comes.
        self._queue: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}
        self._warned = False
        self._listeners: dict[str, list[_Listener]] = {}

    @classmethod
    def from_url(cls, store_url: str | Wrapped, **options: Any) -> Self:
        """Make a store from ``memory://``; `options` are those of the class.

        Raises:
            ConfigurationError: the URL holds more, or an option is wrong.
        """
        with_revealed(_refuse_more, hidden(store_url))
        own = signature(cls).parameters
        strange = [name for name in options if name not in own]
        if strange:
            options = {}  # one may be a password
            raise unknown("MemoryStore", strange, list(own))
        return cls(**options)

    def __len__(self) -> int:
        """Return the number of records that have not expired."""
        with self._lock:
            self._sweep(self._clock(), limit=None)
            return len(self._records)

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._records)} records, {self._bytes} bytes>"

    def clear(self) -> None:
        """Remove every record."""
        with self._lock:
            self._records.clear()
            self._queue.clear()
            self._due.clear()
            self._bytes = 0

    async def open(self) -> None:
        """Do nothing: there is nothing to connect to."""

    async def close(self) -> None:
        """End this event loop's listening; the records stay until the store itself is gone."""
        running = asyncio.get_running_loop()
        with self._lock:
            self._keep_listeners(lambda each: each.loop is not running)

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """Return the record, or None."""
        # No lock: the record is immutable, and a dict is safe to read.
        stored = self._records.get(key)
        if stored is None or stored.expires_at <= self._clock():
            return None
        return stored

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        """Write a new record; TAKEN when there is one."""
        if len(data) > self._max_bytes:
            raise self._oversize(data)
        with self._lock:
            now = self._clock()
            if self._living(key, now) is not None:
                return TAKEN
            stored = Stored(data, data[:TAG_SIZE], expires_at)
            self._put(key, stored, now)
        return Saved(stored.tag)

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        """Replace the version `expect`."""
        if len(data) > self._max_bytes:
            raise self._oversize(data)
        tag = data[:TAG_SIZE]
        with self._lock:
            now = self._clock()
            current = self._living(key, now)
            if current is None:
                return GONE
            if current.tag != expect.tag:
                return Conflict(current)
            self._put(key, Stored(data, tag, expires_at), now)
        return Saved(tag)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        """Change the expiry of the version `expect`."""
        with self._lock:
            now = self._clock()
            current = self._living(key, now)
            if current is None or current.tag != expect.tag:
                return False
            self._put(key, Stored(current.data, current.tag, expires_at), now)
            return True

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        """Remove the record, with `expect` only that version."""
        with self._lock:
            current = self._living(key, self._clock())
            if expect is not None and (current is None or current.tag != expect.tag):
                return False
            self._remove(key)
            return current is not None

    async def save_and_wake(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, wake: Sequence[str], deadline: float
    ) -> SaveResult:
        """Save, and wake up the listeners, whichever event loop they are in."""
        result = await self.save(key, data, expires_at, expect=expect, deadline=deadline)
        if isinstance(result, Saved):
            with self._lock:
                woken = [each for listener in wake for each in self._listeners.get(listener, ())]
            for each in woken:
                # Also in this very loop: whoever saves must not run what others do at a wake-up.
                with contextlib.suppress(RuntimeError):  # a loop that was closed in between
                    each.loop.call_soon_threadsafe(each.tell, key)
        return result

    async def listen(self, listener: str, heard: Heard, *, deadline: float) -> Callable[[], None]:
        """Call `heard` in this event loop with wake-ups for the listener."""
        own = _Listener(heard)
        with self._lock:
            self._keep_listeners(lambda each: not each.loop.is_closed())
            self._listeners.setdefault(listener, []).append(own)

        def end() -> None:
            with self._lock:
                self._keep_listeners(lambda each: each is not own)

        return end

    # Everything below is called with the lock held.

    def _keep_listeners(self, keep: Callable[[_Listener], bool]) -> None:
        for listener, all_ in list(self._listeners.items()):
            for each in all_:
                each.ended = each.ended or not keep(each)
            self._listeners[listener] = [each for each in all_ if not each.ended]
            if not self._listeners[listener]:
                del self._listeners[listener]

    def _living(self, key: str, now: int) -> Stored | None:
        stored = self._records.get(key)
        return stored if stored is not None and stored.expires_at > now else None

    def _put(self, key: str, stored: Stored, now: int) -> None:
        old = self._records.get(key)
        if stored.expires_at <= now:
            self._remove(key)
            return
        self._records[key] = stored
        self._bytes += len(stored.data) - (len(old.data) if old is not None else 0)
        due = self._due.get(key)
        if due is None or stored.expires_at < due:
            self._enqueue(key, stored.expires_at)
        if self._queue and self._queue[0][0] <= now:
            self._sweep(now, limit=_SWEEP)
        if self._bytes > self._max_bytes or len(self._records) > self._max_records:
            self._make_room(key, now)

    def _remove(self, key: str) -> None:
        stored = self._records.pop(key, None)
        if stored is not None:
            self._bytes -= len(stored.data)
            del self._due[key]

    def _enqueue(self, key: str, due: int) -> None:
        self._due[key] = due
        heapq.heappush(self._queue, (due, key))
        if len(self._queue) > 2 * len(self._due) + _SWEEP:  # mostly entries of records that are gone
            self._queue = [(due, key) for key, due in self._due.items()]
            heapq.heapify(self._queue)

    def _first(self) -> tuple[str, Stored] | None:
        """Take the record that expires soonest out of the queue, but leave it in the store."""
        while self._queue:
            due, key = self._queue[0]
            stored = self._records.get(key)
            if stored is None or self._due[key] != due:
                heapq.heappop(self._queue)
            elif stored.expires_at != due:
                self._due[key] = stored.expires_at
                heapq.heapreplace(self._queue, (stored.expires_at, key))
            else:
                heapq.heappop(self._queue)
                return key, stored
        return None

    def _sweep(self, now: int, *, limit: int | None) -> None:
        while self._queue and self._queue[0][0] <= now and limit != 0:
            due, key = self._queue[0]
            stored = self._records.get(key)
            if stored is not None and self._due[key] == due:
                if stored.expires_at > now:
                    self._due[key] = stored.expires_at
                    heapq.heapreplace(self._queue, (stored.expires_at, key))
                else:
                    heapq.heappop(self._queue)
                    self._remove(key)
            else:
                heapq.heappop(self._queue)
            if limit is not None:
                limit -= 1

    def _make_room(self, keep: str, now: int) -> None:
        kept: Stored | None = None
        while (self._bytes > self._max_bytes or len(self._records) > self._max_records) and (
            first := self._first()
        ):
            key, stored = first
            if key == keep:
                kept = stored
                continue
            if stored.expires_at > now and not self._warned:
                self._warned = True
                _log.warning(
                    "%r is full. From now on, the sessions that expire soonest are removed to make room. "
                    "Raise max_records or max_bytes, or use a store outside this process",
                    self,
                )
            self._remove(key)
        if kept is not None:
            heapq.heappush(self._queue, (kept.expires_at, keep))

    def _oversize(self, data: bytes) -> StoreUnavailable:
        return StoreUnavailable(
            f"a record of {len(data)} bytes exceeds the store's max_bytes={self._max_bytes}",
            executed=False,
            full=True,
        )

"""Wake-ups on PostgreSQL: one connection per event loop that listens for all its listeners.

It is a connection of asyncpg's own, made with the settings of the store's engine. A pooler such as
pgbouncer may hand LISTEN to one connection to the server and the next statement to another, and nobody
hears anything. So a new connection is tried out: a NOTIFY is sent through the store's pool, and must come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any, Final

from asgi_session._backoff import delay
from asgi_session.errors import StoreUnavailable
from asgi_session.store import Heard
from asgi_session.stores.sql.errors import refused_to_connect

_log = logging.getLogger("asgi_session")

CHANNELS: Final = "asgi_session:"
"""What a channel's name begins with; the listener's follows."""

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{22}")

_PROBE: Final = 1.0
"""Seconds within which the NOTIFY that tries a connection out must be heard."""

_DEAF: Final = 60.0
"""Seconds for which a connection that does not hear is taken for the rule; then one is tried again."""

_BEAT: Final = 5.0
_CONNECTING: Final = 10.0
_LONGEST: Final = 2.0
"""Seconds between two signs of life that are asked for, for one try to connect again, and between two."""

Dial = Callable[[], Awaitable[Any]]
Notify = Callable[[str, str, float], Awaitable[None]]


class Listening:
    """Who listens in one event loop, and the connection that they share.

    Args:
        dial: makes a connection.
        notify: sends something to a channel over another connection, by a deadline.
        tell_deaf: called when nothing is heard.
    """

    def __init__(self, dial: Dial, notify: Notify, tell_deaf: Callable[[], None]) -> None:
        self._dial = dial
        self._notify = notify
        self._tell_deaf = tell_deaf
        self._listeners: dict[str, dict[object, Heard]] = {}  # by channel; the keys tell equal ones apart
        self._connection: Any = None
        self._covered: set[str] = set()
        self._lock = asyncio.Lock()  # a connection does one thing at a time
        self._probes: dict[str, asyncio.Event] = {}
        self._deaf_until = 0.0
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._restoring: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._beating: asyncio.TimerHandle | None = None

    async def listen(self, listener: str, heard: Heard, deadline: float) -> Callable[[], None]:
        """Call `heard` with every wake-up from now on; it may come before this has returned."""
        channel = CHANNELS + listener
        mark = object()
        self._listeners.setdefault(channel, {})[mark] = heard
        why = "not within the deadline"
        try:
            async with asyncio.timeout(deadline - monotonic()), self._lock:
                await self._join(channel)
            return partial(self._end, channel, mark)
        except TimeoutError:
            pass
        except StoreUnavailable as error:
            why = str(error)
        except Exception as error:
            why = str(refused_to_connect(error))
        except BaseException:
            self._end(channel, mark)
            raise
        self._end(channel, mark)
        raise StoreUnavailable(f"listen: {why}", executed=False)

    def _end(self, channel: str, mark: object) -> None:
        hears = self._listeners.get(channel, {})
        hears.pop(mark, None)
        if not hears:
            self._listeners.pop(channel, None)
        if not self._listeners and not self._loop.is_closed():
            self._let_go()

    # The connection.

    async def _join(self, channel: str) -> None:
        """Return when the channel is listened to."""
        if monotonic() < self._deaf_until:
            raise StoreUnavailable("a wake-up that was sent was not heard, a moment ago")
        connection = self._connection
        if connection is not None and not connection.is_closed():
            if channel in self._covered:
                return
            try:
                await connection.add_listener(channel, self._pushed)
            except BaseException:  # nobody knows what it listens to
                connection.terminate()
                raise
            self._covered.add(channel)
            return
        connection = await self._dial()
        try:
            self._check_open()
            covered = set[str]()
            while missing := self._listeners.keys() - covered:  # more may come meanwhile
                for each in missing:
                    await connection.add_listener(each, self._pushed)
                covered |= missing
            await self._try_out(connection)
            self._check_open()
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(self._lost)
        self._connection, self._covered = connection, covered
        if self._beating is None:
            self._beating = self._loop.call_later(_BEAT, self._beat)

    def _check_open(self) -> None:
        if self._ended:  # while it connected: nobody would close this connection
            raise StoreUnavailable("the store was closed")

    async def _try_out(self, connection: Any) -> None:
        """Return when something has been heard that was sent over another connection."""
        channel = f"{CHANNELS}{secrets.token_hex(8)}"
        came = self._probes[channel] = asyncio.Event()
        try:
            await connection.add_listener(channel, self._pushed)
            await self._notify(channel, "", monotonic() + _CONNECTING)
            try:
                async with asyncio.timeout(_PROBE):
                    await came.wait()
            except TimeoutError:
                pass
            else:
                await connection.remove_listener(channel, self._pushed)
                return
        finally:
            del self._probes[channel]
        self._deaf_until = monotonic() + _DEAF
        self._tell_deaf()
        raise StoreUnavailable(
            "a wake-up that was sent is not heard: is a pooler between, such as pgbouncer?"
        )

    def _let_go(self) -> None:
        """Close the connection, and keep none."""
        connection, self._connection = self._connection, None
        self._covered = set()
        if connection is not None:
            self._in_background(_closed(connection))
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    def _lost(self, connection: Any) -> None:
        if connection is not self._connection:
            return
        self._connection, self._covered = None, set()
        if self._listeners and self._restoring is None:
            self._restoring = self._in_background(self._restore())

    async def _restore(self) -> None:
        """Connect again, however long that takes, and tell everybody that something may be lost."""
        tries = 0
        try:
            while self._listeners:
                try:
                    async with asyncio.timeout(_CONNECTING), self._lock:
                        await self._join(next(iter(self._listeners)))
                    break
                except Exception as error:
                    tries += 1
                    _log.debug("wake-ups are not heard yet: %s", type(error).__name__)
                await asyncio.sleep(delay(tries, first=0.01, longest=_LONGEST))
        finally:
            self._restoring = None
        for hears in list(self._listeners.values()):
            self._tell(hears, None)

    def _beat(self) -> None:
        self._beating = self._loop.call_later(_BEAT, self._beat)
        if self._connection is not None and not self._lock.locked():
            self._in_background(self._ask(self._connection))

    async def _ask(self, connection: Any) -> None:
        """Ask for a sign of life: nobody else's request would notice a silence."""
        async with self._lock:
            try:
                async with asyncio.timeout(_BEAT):
                    await connection.execute("SELECT 1")
            except Exception:
                connection.terminate()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Wake-ups.

    def _pushed(self, _connection: Any, _pid: int, channel: str, message: str) -> None:
        probe = self._probes.get(channel)
        if probe is not None:
            probe.set()
        elif _KEY.fullmatch(message):  # whoever may connect to the database may send anything
            self._tell(self._listeners.get(channel, {}), message)

    def _tell(self, hears: dict[object, Heard], key: str | None) -> None:
        for heard in list(hears.values()):
            try:
                heard(key)
            except Exception:
                _log.exception("a listener raised an error during a wake-up")

    # The end.

    async def close(self) -> None:
        """End all listening and close the connection."""
        self._ended = True
        self._listeners.clear()
        if self._restoring is not None:
            self._restoring.cancel()
        self._let_go()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def abandon(self) -> None:
        """Free the socket of an event loop that was closed."""
        self._listeners.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.terminate()


async def _closed(connection: Any) -> None:
    """Close a connection, at any price."""
    try:
        await connection.close(timeout=1)
    except Exception:
        connection.terminate()

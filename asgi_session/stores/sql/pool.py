"""An event loop's own connections: a pool of SQLAlchemy's, with the settings of the engine that was given.

Its rules, which an app's pool need not have:

* Every statement is executed in a task. Whoever waits for it may leave, at a deadline or cancelled; the
  connection is tidied up in the background. On SQLite the task is never cancelled, since its thread goes on
  anyway and the connection would be out of step with it.
* A connection that has been closed from the other side while it lay in the pool is noticed without asking
  the server, and replaced before anything is sent.
* Nothing is sent but the verb's own statement: no BEGIN, no ROLLBACK, no ping.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only, greenlet_spawn

from asgi_session.stores._shared.verbs import Trouble, Verb
from asgi_session.stores.sql.errors import CannotConnect, Meaning, meaning, refused_to_connect
from asgi_session.stores.sql.target import Target

R = TypeVar("R")

_BUSY_MS: Final = 50
"""How long SQLite itself waits for whoever writes. From then on the verb does, which knows its deadline."""

_SQLITE: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    f"PRAGMA busy_timeout = {_BUSY_MS}",
)

_NO_BACKSLASH_ESCAPES: Final = 0x200
_WITH_BACKSLASH_ESCAPES: Final = (
    "SET SESSION sql_mode = REPLACE(@@SESSION.sql_mode, 'NO_BACKSLASH_ESCAPES', '')",
)
"""asyncmy writes values into the statement, with backslashes. Where the server takes those literally, a value
could end the text that it is in: never that."""

_CHARSETS: Final = {"utf8mb4", "utf8mb3", "utf8", "latin1", "ascii", "binary"}
"""In others, such as gbk, a backslash may be the second byte of a character, and escapes nothing."""

_SILENCE: Final = 1.0
"""Seconds without any answer, of whoever gives up, from which on the connections in the pool are doubted."""

_TIDYING: Final = 3.0
_CLOSING: Final = 2.0
"""Seconds that `close` waits for statements that were given up, and for the server to say good-bye."""


class Pool:
    """The connections of one event loop."""

    def __init__(self, target: Target) -> None:
        self._kind = target.kind
        self._may_cancel = target.kind != "sqlite"
        self._connect_timeout = target.connect_timeout
        self._create: Any = target.engine.sync_engine.pool._creator
        self._engine = _engine(target, self._connect)
        self._sync = self._engine.sync_engine
        self._tasks: set[asyncio.Task[Any]] = set()
        self._open: set[Any] = set()
        self._busy: set[Any] = set()
        self._answered = 0.0  # when the server last said something, as `time.monotonic`
        self._ended = False
        self._new: dict[Any, asyncio.TimerHandle] = {}  # made, and not yet ready for use
        self.write = asyncio.Lock()
        """For SQLite, which has one writer at a time: those of one event loop line up here, in order."""
        event.listen(self._sync, "connect", self._connected)
        event.listen(self._sync, "checkout", self._checked_out)
        event.listen(self._sync, "close", self._closed)
        event.listen(self._sync, "close_detached", self._closed)

    async def run(self, verb: Verb[Pool], work: Callable[[sa.Connection], R]) -> R:
        """Execute something on a connection, for a verb."""
        job = _Job(verb, work)
        working: Any = greenlet_spawn(self.work, job.execute)
        task: asyncio.Task[R] = self.in_background(working)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:  # by the deadline, or by the caller
            job.given_up = True
            if job.began is not None:
                self._given_up(job.began)  # at once: a driver may take a while to be cancelled
            task.add_done_callback(_no_matter)
            if self._may_cancel:
                task.cancel()
            raise
        return task.result()

    def in_background(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Start something that `close` waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def work(self, execute: Callable[[sa.Connection], R]) -> R:
        """Do something with a connection. In a greenlet: there SQLAlchemy's drivers await."""
        with self._sync.connect() as connection:
            began, mine = monotonic(), connection.connection.driver_connection
            self._busy.add(mine)
            try:
                result = execute(connection)
            except DBAPIError as error:
                known = meaning(error)
                if known is not None and known.elsewhere:  # the next connection may lead to the new primary
                    connection.invalidate()
                raise
            except asyncio.CancelledError:
                self._given_up(began)
                raise
            else:
                self._answered = monotonic()
                return result
            finally:
                self._busy.discard(mine)

    def _given_up(self, began: float) -> None:
        """Part with the connections that lie in the pool, if nobody has heard anything since `began`.

        After a failover they may all lead to a machine that is gone. Each would cost one more request its
        whole deadline; a new connection leads to whoever is there now.
        """
        if not self._may_cancel or not self._answered < began <= monotonic() - _SILENCE:
            return
        for connection in self._open - self._busy:
            self._open.discard(connection)
            with contextlib.suppress(Exception):
                _cut_off(connection)

    # Connections.

    def _connect(self, connection_record: Any = None) -> Any:
        """Make a connection as the given engine makes its own."""
        return await_only(self._connect_in_time(connection_record))

    async def _connect_in_time(self, record: Any) -> Any:
        if self._ended:  # a verb that `close` has waited for in vain tries again
            raise CannotConnect(Meaning(Trouble("the store was closed", executed=False)))
        loop = asyncio.get_running_loop()
        latest = loop.time() + self._connect_timeout
        try:
            async with asyncio.timeout_at(latest):
                adapted: Any = await greenlet_spawn(self._create, record)
        except Exception as error:
            refusal = refused_to_connect(error)
        else:
            connection = adapted.driver_connection
            self._open.add(connection)
            self._new[connection] = loop.call_at(latest, self._too_slow, connection)
            return adapted
        # Not raised in there: a driver's error may hold the settings that it was given.
        raise refusal

    def _too_slow(self, connection: Any) -> None:
        """Give up a connection that SQLAlchemy has asked something, as it does at first, and got no answer.

        Whoever waits for it need not have a deadline: loads leave together, and new ones join them.
        """
        del self._new[connection]
        if self._may_cancel:
            self._open.discard(connection)
            _cut_off(connection)

    def _connected(self, adapted: Any, _record: Any) -> None:
        connection = adapted.driver_connection
        settings: tuple[str, ...] = ()
        if self._kind == "sqlite":
            settings = _SQLITE
        elif self._kind == "mysql":
            charset = connection.character_set_name()
            if charset not in _CHARSETS:
                why = f"the character set {charset} is not safe to use; leave charset out, or give utf8mb4"
                raise CannotConnect(Meaning(Trouble(why, executed=False), final=True))
            if connection.server_status & _NO_BACKSLASH_ESCAPES:
                settings = _WITH_BACKSLASH_ESCAPES
        if settings:
            cursor = adapted.cursor()
            for setting in settings:
                cursor.execute(setting)
            cursor.close()

    def _checked_out(self, adapted: Any, *_: Any) -> None:
        """Let a connection be used; replace one that was closed from the other side, and all as old."""
        connection = adapted.driver_connection
        limit = self._new.pop(connection, None)
        if limit is not None:
            limit.cancel()
        if connection not in self._open or is_closed(connection):
            raise InvalidatePoolError

    def _closed(self, adapted: Any, *_: Any) -> None:
        self._open.discard(adapted.driver_connection)

    async def close(self) -> None:
        """Close the connections, whether the server says good-bye or not."""
        self._ended = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_TIDYING)
            for task in late if self._may_cancel else ():
                task.cancel()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSING):
                await self._engine.dispose()
        ending = [end for end in map(_cut_off, self._left()) if isinstance(end, asyncio.Future)]
        if ending:
            await asyncio.wait(ending, timeout=_CLOSING)

    def abandon(self) -> None:
        """Free what is left, without its event loop's help."""
        for connection in self._left():
            with contextlib.suppress(Exception):
                _cut_off(connection)

    def _left(self) -> list[Any]:
        """Take out the connections that are still open."""
        left, self._open = list(self._open), set()
        return left


def is_closed(connection: Any) -> bool:
    """Tell whether a driver's connection is known to be closed, from whichever side."""
    for sign in ("is_closed", "_stream_broken"):  # asyncpg's, asyncmy's
        closed = getattr(connection, sign, False)
        if closed() if callable(closed) else closed:
            return True
    return False


def _cut_off(connection: Any) -> Any:
    """End a driver's connection without a good-bye; perhaps return a future of its thread's end."""
    if getattr(connection, "_running", None) is False:  # aiosqlite's, whose thread has ended: nobody answers
        return None
    for name in ("terminate", "stop", "close"):  # asyncpg's, aiosqlite's, asyncmy's
        end = getattr(connection, name, None)
        if end is not None:
            return end()
    return None


async def connect(target: Target) -> Any:
    """Make a connection of the driver's own, with the settings of the given engine."""
    create: Any = target.engine.sync_engine.pool._creator
    async with asyncio.timeout(target.connect_timeout):
        adapted: Any = await greenlet_spawn(create, None)
    return adapted.driver_connection


class _Job(Generic[R]):
    """What a verb does, unless nobody waits for it any more when its turn comes."""

    __slots__ = ("_verb", "_work", "began", "given_up")

    def __init__(self, verb: Verb[Pool], work: Callable[[sa.Connection], R]) -> None:
        self._verb = verb
        self._work = work
        self.began: float | None = None
        self.given_up = False

    def execute(self, connection: sa.Connection) -> R:
        if self.given_up:
            raise asyncio.CancelledError
        self.began = monotonic()
        self._verb.sending()
        return self._work(connection)


def _engine(target: Target, connect: Callable[[Any], Any]) -> AsyncEngine:
    return create_async_engine(
        target.engine.url,
        creator=connect,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_reset_on_return=None,
        poolclass=sa.AsyncAdaptedQueuePool,
        pool_size=target.pool_size,
        max_overflow=0,
        pool_timeout=3600,  # a verb's deadline comes first
        pool_recycle=target.max_age,
        pool_use_lifo=True,
        hide_parameters=True,
    )


def _no_matter(task: asyncio.Task[Any]) -> None:
    """Nobody waits for it any more: look at its error, or asyncio will."""
    if not task.cancelled():
        task.exception()

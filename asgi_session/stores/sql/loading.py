"""Loads of one tick of the event loop leave as one statement, and so do those that wait for a connection.

A load joins a statement until that leaves, never later: it must see every write that was answered before
it began.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.util import greenlet_spawn

from asgi_session.store import Stored
from asgi_session.stores._shared.verbs import Verb
from asgi_session.stores.sql import verbs
from asgi_session.stores.sql.pool import Pool
from asgi_session.stores.sql.statements import Statements
from asgi_session.stores.sql.target import Target

_MOST: Final = 50
"""Records of one statement: its reply should not keep a connection for long."""


class LoadingPool(Pool):
    """A pool whose loads travel together."""

    def __init__(self, target: Target, sql: Statements) -> None:
        super().__init__(target)
        self._sql = sql
        self._waiting: list[_Waiting] = []
        self._departing: asyncio.Task[None] | None = None

    async def load(self, key: str, verb: Verb[Pool]) -> Stored | None:
        """Read one record, perhaps together with others."""
        waiting = _Waiting(key, verb)
        self._waiting.append(waiting)
        if self._departing is None:
            self._departing = self.in_background(self._departure(verb.slots))
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if waiting.future.done() and not waiting.future.cancelled():
                waiting.future.exception()  # nobody else looks, and asyncio would complain of that
            if waiting.batch is None:
                self._leave_the_line(waiting)
            else:
                waiting.batch.leave()
            raise

    def _leave_the_line(self, waiting: _Waiting) -> None:
        self._waiting.remove(waiting)
        if not self._waiting and self._departing is not None:
            self._departing.cancel()  # it may be connecting to a server that does not answer

    async def _departure(self, slots: asyncio.Semaphore) -> None:
        """Send what waits as soon as there is a connection, and pass on what comes back."""
        task = asyncio.current_task()
        assert task is not None
        batch = _Batch(task)
        try:
            async with slots:
                if not self._waiting:
                    return
                leaving: Any = greenlet_spawn(self.work, partial(self._leave, batch, slots))
                found: dict[str, Stored] = await leaving
        except Exception as error:
            if not batch.members:  # there is no connection, for nobody
                batch.members, self._waiting = self._waiting, []
            for waiting in batch.members:
                waiting.batch = batch
                if not waiting.future.done():
                    waiting.future.set_exception(error)
        else:
            for waiting in batch.members:
                if not waiting.future.done():
                    waiting.future.set_result(found.get(waiting.key))
        finally:
            if self._departing is task:
                self._next(slots)

    def _leave(self, batch: _Batch, slots: asyncio.Semaphore, connection: sa.Connection) -> dict[str, Stored]:
        """Take along who waits by now, and read their records."""
        batch.members, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        self._next(slots)
        for waiting in batch.members:
            waiting.batch = batch
            waiting.verb.sending()
        keys = list({waiting.key for waiting in batch.members})
        if len(keys) > 1:
            return verbs.load_many(self._sql, keys, connection)
        stored = verbs.load(self._sql, {"key": keys[0]}, connection) if keys else None
        return {} if stored is None else {keys[0]: stored}

    def _next(self, slots: asyncio.Semaphore) -> None:
        """Let the next ones depart when their turn comes."""
        self._departing = self.in_background(self._departure(slots)) if self._waiting else None


class _Waiting:
    """A load, and what it waits for."""

    __slots__ = ("batch", "future", "key", "verb")

    def __init__(self, key: str, verb: Verb[Pool]) -> None:
        self.key = key
        self.verb = verb
        self.future: asyncio.Future[Stored | None] = asyncio.get_running_loop().create_future()
        self.batch: _Batch | None = None


class _Batch:
    """Loads that have left together."""

    __slots__ = ("_gone", "_task", "members")

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self._gone = 0
        self.members: list[_Waiting] = []

    def leave(self) -> None:
        """Count one that waits no longer; without the last of them nobody needs the answer."""
        self._gone += 1
        if self._gone == len(self.members):
            self._task.cancel()

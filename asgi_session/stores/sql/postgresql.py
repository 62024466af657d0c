"""`PostgreSQLStore`: what only PostgreSQL can."""

from __future__ import annotations

import logging
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from asgi_session.store import Heard, SaveResult, Stored
from asgi_session.stores._shared.per_loop import PerLoop
from asgi_session.stores._shared.verbs import Verb
from asgi_session.stores.sql import verbs
from asgi_session.stores.sql.listening import CHANNELS, Listening
from asgi_session.stores.sql.loading import LoadingPool
from asgi_session.stores.sql.pool import Pool, connect
from asgi_session.stores.sql.store import SQLStore

_log = logging.getLogger("asgi_session")


class PostgreSQLStore(SQLStore, kind="postgresql"):
    """An `SQLStore` on PostgreSQL, made as such: it can wake up other processes as well."""

    def __init__(self, engine: AsyncEngine, **options: Any) -> None:
        super().__init__(engine, **options)
        self._listenings = PerLoop(self._make_listening)
        self._deafness_told = False

    async def close(self) -> None:
        """Wait for the verbs on their way, no longer than 5 seconds; then close the connections."""
        await self._listenings.leave()
        await super().close()

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """Read the record, together with those that are to be read at the same moment."""

        async def attempt(pool: Pool, verb: Verb[Pool]) -> Stored | None:
            assert isinstance(pool, LoadingPool)
            return await pool.load(key, verb)

        return await self._attempt("load", deadline, attempt, repeatable=True, slot=False)

    async def save_and_wake(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, wake: Sequence[str], deadline: float
    ) -> SaveResult:
        """Replace that version of the record and tell the listeners its key, in one statement.

        PostgreSQL commits such statements one after another, in all databases of the server. Plain saves
        are not among them.
        """
        if not wake:
            return await self.save(key, data, expires_at, expect=expect, deadline=deadline)
        values = self._values(key, expect) | verbs.written(data, expires_at)
        values |= {"message": key, "channels": [CHANNELS + listener for listener in wake]}
        return await self._write(verbs.save_and_wake, "save", values, deadline)

    async def listen(self, listener: str, heard: Heard, *, deadline: float) -> Callable[[], None]:
        """Listen, on a connection that all listeners of this event loop share."""
        listening = self._listenings.backends.get(get_running_loop()) or self._listenings.enter()
        return await listening.listen(listener, heard, deadline)

    async def _make_pool(self) -> Pool:
        return LoadingPool(self._target, self._sql)

    def _make_listening(self) -> Listening:
        return Listening(partial(connect, self._target), self._notify, self._tell_deafness)

    async def _notify(self, channel: str, message: str, deadline: float) -> None:
        def notify(connection: sa.Connection) -> None:
            connection.exec_driver_sql("SELECT pg_notify($1, $2)", (channel, message))

        await self._do("listen", deadline, notify)

    def _tell_deafness(self) -> None:
        if not self._deafness_told:
            self._deafness_told = True
            _log.warning(
                "PostgreSQL's notifications do not arrive, so processes poll for locks. A pooler that "
                "shares connections between transactions, such as pgbouncer in transaction mode, does not "
                "pass them on"
            )

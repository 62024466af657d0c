"""`SQLStore`: the five verbs, opening and purging."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar, Unpack

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from asgi_session._backoff import pause
from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.clock import Clock
from asgi_session.errors import ConfigurationError
from asgi_session.store import CreateResult, SaveResult, Stored
from asgi_session.stores._shared.verbs import Clients, Verb
from asgi_session.stores.sql import checking, verbs
from asgi_session.stores.sql.errors import explain, meaning
from asgi_session.stores.sql.pool import Pool
from asgi_session.stores.sql.schema import DEFAULT_NAME, sessions_table
from asgi_session.stores.sql.statements import statements
from asgi_session.stores.sql.target import SQLOptions, engine_from_url, kind_of, no_such_options, read
from asgi_session.stores.sql.verbs import Values

R = TypeVar("R")

_OPENING: Final = 2
"""Connect timeouts that `open` takes at most."""


class SQLStore:
    """Sessions in a table of PostgreSQL, MariaDB, MySQL or SQLite.

    Args:
        engine: an `AsyncEngine` on asyncpg, asyncmy or aiosqlite. Its URL and the settings of its
            connections are used (``connect_args``, ``do_connect`` listeners). Its pool is not: a pool that
            an app's own requests have emptied would leave their sessions without a connection.
        table: the table's name, or ``schema.name``; ``asgi_sessions``.
        pool_size: the most connections of an event loop, 1 to 1000; 10. Further verbs wait for one.
        connect_timeout: `timedelta` or seconds for connecting, TLS and login together; 2.
        max_connection_age: `timedelta` or seconds after which a connection is replaced when it is next
            needed; an hour. Shorter than whatever lies between you and the server keeps idle connections.
        unlogged: on PostgreSQL, `create_schema` makes an UNLOGGED table. Writes are then several times
            cheaper, and a crash of the server, or a failover to a replica, empties the table: everybody is
            logged out.
        clock: on SQLite, tells the time in milliseconds. Elsewhere the database's clock does.

    Raises:
        ConfigurationError: from the constructors, for anything that cannot work.

    The object that is made for PostgreSQL is a `PostgreSQLStore`, which can wake up other processes as
    well. Nothing is contacted before `open` or the first verb. Errors of the verbs are `StoreUnavailable`
    and nothing else.
    """

    _for: ClassVar[dict[str, type[SQLStore]]] = {}
    """The classes that can more, by the kind of server."""

    def __init_subclass__(cls, *, kind: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if kind is not None:
            cls._for[kind] = cls

    if not TYPE_CHECKING:  # to a type checker it is what it is called

        def __new__(cls, engine: Any, **_: Any) -> Any:
            """Make the class that fits the server, as `pathlib.Path` does for the operating system."""
            if cls is SQLStore and isinstance(engine, AsyncEngine):
                cls = cls._for.get(kind_of(engine), cls)
            return super().__new__(cls)

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        table: str = DEFAULT_NAME,
        pool_size: int = 10,
        connect_timeout: timedelta | float = 2.0,
        max_connection_age: timedelta | float = 3600.0,
        unlogged: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._target = target = with_revealed(
            read,
            hidden(engine),  # a URL is refused, and may hold a password
            table=table,
            pool_size=pool_size,
            connect_timeout=connect_timeout,
            max_connection_age=max_connection_age,
            unlogged=unlogged,
            clock=clock,
        )
        schema, name = target.table
        self._table = sessions_table(sa.MetaData(), name=name, schema=schema, unlogged=unlogged)
        quoted = target.engine.dialect.identifier_preparer.format_table(self._table)
        self._sql = statements(target.kind, quoted)
        self._one_writer = target.kind == "sqlite"
        self._clients: Clients[Pool] = Clients(
            self._make_pool, Pool.close, explain, at_once=target.pool_size, abandon=Pool.abandon
        )

    @classmethod
    def from_url(cls, store_url: str | Wrapped, **options: Unpack[SQLOptions]) -> Self:
        """Make a store from a URL; `options` are those of the class, and `connect_args`.

        * ``postgresql://user:password@host:port/database``
        * ``mariadb://...``, ``mysql://...``
        * ``sqlite:///relative.db``, ``sqlite:////absolute.db``

        SQLAlchemy's own forms, as ``postgresql+asyncpg://``, mean the same. `connect_args` is a dict of
        what the driver's ``connect()`` takes, such as an `ssl` context.

        Raises:
            ConfigurationError: the URL or an option is wrong.
        """
        store_url = hidden(store_url)
        strange = [name for name in options if name not in SQLOptions.__annotations__]
        if strange:
            options = {}  # error trackers record the local variables, and one may be a password
            raise no_such_options(strange)
        of_class: Any = options
        given = hidden(of_class.pop("connect_args", None))
        engine: AsyncEngine = with_revealed(engine_from_url, store_url, given)
        return cls(engine, **of_class)

    def __repr__(self) -> str:
        target = getattr(self, "_target", None)
        if target is None:  # shown in a traceback of its own constructor
            return "<SQLStore>"
        return f"<{type(self).__name__} {target.where}>"

    async def _make_pool(self) -> Pool:
        return Pool(self._target)

    # Opening and closing.

    async def open(self) -> None:
        """Connect, and check that the table is as it must be and may be written.

        Raises:
            ConfigurationError: what never heals by itself: a password that is wrong, no such database or
                table, a column or a right that is missing.
            StoreUnavailable: the server is away, or takes no writes.
        """
        await self._do("open", self._opening_deadline(), partial(checking.check, self._target, self._table))

    async def create_schema(self) -> None:
        """Create the table and its index, unless they are there.

        Raises:
            ConfigurationError: the user may not create tables; another table of that name is there.
            StoreUnavailable: the server is away.
        """
        await self._do(
            "create_schema", self._opening_deadline(), partial(checking.create, self._target, self._table)
        )

    async def close(self) -> None:
        """Wait for the verbs on their way, no longer than 5 seconds; then close the connections."""
        await self._clients.close()

    # The verbs.

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """Read the record."""
        return await self._read(verbs.load, "load", self._values(key), deadline)

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        """Write a record where there is none, or one whose time has passed."""
        values = self._values(key) | verbs.written(data, expires_at)
        return await self._write(verbs.create, "create", values, deadline)

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        """Replace that version of the record."""
        values = self._values(key, expect) | verbs.written(data, expires_at)
        return await self._write(verbs.save, "save", values, deadline)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        """Change that version's expiry."""
        values = self._values(key, expect) | verbs.lasting(expires_at)
        return await self._write(verbs.touch, "touch", values, deadline)

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        """Remove the record, with `expect` only that version."""
        return await self._write(verbs.delete, "delete", self._values(key, expect), deadline)

    async def purge(self, *, limit: int = 1000, deadline: float) -> int:
        """Remove at most `limit` of the records whose last day, by UTC, is over; return how many.

        Raises:
            ConfigurationError: `limit` is no whole number of at least 1.
            StoreUnavailable: it was not done by the deadline, or the server is away.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ConfigurationError(f"limit={limit!r}: give a whole number of at least 1")
        return await self._write(verbs.purge, "purge", {"limit": limit}, deadline)

    # How.

    def _values(self, key: str, expect: Stored | None = None) -> Values:
        values: Values = {"key": key}
        if expect is not None:
            values["expect"] = expect.tag
        return values

    async def _read(self, verb: verbs.Executing[R], name: str, values: Values, deadline: float) -> R:
        return await self._do(name, deadline, self._work(verb, values), repeatable=True)

    async def _write(self, verb: verbs.Executing[R], name: str, values: Values, deadline: float) -> R:
        return await self._do(name, deadline, self._work(verb, values), writes=True)

    def _work(self, verb: verbs.Executing[R], values: Values) -> Callable[[sa.Connection], R]:
        if not self._one_writer:
            return partial(verb, self._sql, values)

        def by_our_clock(connection: sa.Connection) -> R:
            # Read at every try: a verb that has waited for the writer goes by the time that it is then.
            return verb(self._sql, values | {"now": self._target.clock()}, connection)

        return by_our_clock

    async def _do(
        self,
        name: str,
        deadline: float,
        work: Callable[[sa.Connection], R],
        *,
        repeatable: bool = False,
        writes: bool = False,
    ) -> R:
        """Execute a verb.

        Args:
            name: the verb's.
            deadline: its own.
            work: what it does with a connection.
            repeatable: whether twice is the same as once.
            writes: whether it waits in line for SQLite's one writer.
        """

        async def attempt(pool: Pool, verb: Verb[Pool]) -> R:
            if not (writes and self._one_writer):
                return await pool.run(verb, work)
            async with pool.write:
                return await pool.run(verb, work)

        return await self._attempt(name, deadline, attempt, repeatable=repeatable)

    async def _attempt(
        self,
        name: str,
        deadline: float,
        attempt: Callable[[Pool, Verb[Pool]], Awaitable[R]],
        *,
        repeatable: bool = False,
        slot: bool = True,
    ) -> R:
        """Try, and again if that is safe and of use."""
        async with self._clients.verb(name, deadline) as verb:
            pool = await verb.client(slot=slot)
            tries = 0
            while True:
                try:
                    return await attempt(pool, verb)
                except Exception as error:
                    known = meaning(error)
                    if known is None:
                        raise
                    if known.final and name in ("open", "create_schema"):
                        raise ConfigurationError(f"{self._target.where}: {known.trouble.why}") from None
                    if known.trouble.executed is False:
                        verb.refused()
                    tries += 1
                    lost = known.lost and (verb.executed is False or (repeatable and tries == 1))
                    again = known.again or known.elsewhere or lost
                    if not again or not await pause(tries, deadline):
                        raise

    def _opening_deadline(self) -> float:
        return monotonic() + _OPENING * self._target.connect_timeout

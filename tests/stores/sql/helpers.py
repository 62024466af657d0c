"""What the tests of `SQLStore` share."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from asgi_session.stores._shared.verbs import HeldClient
from asgi_session.stores.sql import SQLStore, sessions_table
from asgi_session.stores.sql.pool import Pool, is_closed
from tests.servers.tcp_proxy import TcpProxy

TABLE = sessions_table(sa.MetaData())


def in_time(seconds: float = 10.0) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds


def through(proxy: TcpProxy, url: str) -> str:
    """Return a server's URL by way of a proxy."""
    return re.sub(r":\d+/", f":{proxy.port}/", url)


def new_key() -> str:
    return secrets.token_urlsafe(16)


def new_data(body: bytes = b"body") -> bytes:
    return os.urandom(16) + body


def new_table() -> str:
    """Return the name of a table that no other test uses."""
    return f"sessions_{secrets.token_hex(6)}"


async def until(check: Callable[[], object]) -> None:
    """Poll until something is true."""
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0.005)  # what is looked at tells nobody


def held_by(store: SQLStore) -> HeldClient[Pool]:
    """Return what a store holds in this event loop."""
    return store._clients._held.backends[asyncio.get_running_loop()]


async def dropped(store: SQLStore) -> None:
    """Return when the event loop has heard that the store's connections are closed."""
    client = held_by(store)._client
    assert client is not None
    await until(lambda: all(map(is_closed, client._open)))


async def waits(connection: AsyncConnection) -> None:
    """Return when some statement waits for a row."""
    if connection.dialect.name == "postgresql":
        asked = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    else:
        asked = sa.text(
            "SELECT variable_value FROM information_schema.global_status "
            "WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'"
        )
    async with asyncio.timeout(10):
        while not int((await connection.execute(asked)).scalar_one()):
            await asyncio.sleep(0.01)  # a look at the server, which tells nobody by itself


@asynccontextmanager
async def held(
    url: str, key: str, data: bytes | None, expires_at: int
) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """Hold a record in somebody else's transaction, which then replaces it, or deletes it for no data."""
    engine = create_async_engine(SQLStore.from_url(url)._target.engine.url)
    row = TABLE.c.id == key
    write: sa.Delete | sa.Update = sa.delete(TABLE).where(row)
    if data is not None:
        write = sa.update(TABLE).where(row).values(tag=data[:16], data=data, expires_at=expires_at)
    try:
        async with engine.connect() as watching, engine.begin() as holding:
            await watching.execution_options(isolation_level="AUTOCOMMIT")
            await holding.execute(write)
            yield partial(waits, watching)
    finally:
        await engine.dispose()

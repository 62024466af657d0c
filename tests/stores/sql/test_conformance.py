"""The shipped suite on each server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from asgi_session.store import Store
from asgi_session.stores.sql import SQLStore
from asgi_session.testing import StoreConformance
from tests.servers.sql import WITH_MARIADB, MariaDB, PostgreSQL
from tests.stores.sql.helpers import held


class OnSQL(StoreConformance):
    url: str

    @asynccontextmanager
    async def opened(self, url: str) -> AsyncIterator[SQLStore]:
        self.url = url
        store = SQLStore.from_url(url)
        await store.create_schema()
        yield store
        await store.close()

    def another(self, store: Store) -> SQLStore:
        return SQLStore.from_url(self.url)


class OnAServer(OnSQL):
    def holding(
        self, store: Store, key: str, data: bytes | None, expires_at: int
    ) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        return held(self.url, key, data, expires_at)


class TestPostgreSQL(OnAServer):
    @pytest.fixture
    async def store(self, postgresql: PostgreSQL) -> AsyncIterator[SQLStore]:
        async with self.opened(postgresql.url) as store:
            yield store


class TestMariaDB(OnAServer):
    __test__ = WITH_MARIADB

    @pytest.fixture
    async def store(self, mariadb: MariaDB) -> AsyncIterator[SQLStore]:
        async with self.opened(mariadb.url) as store:
            yield store


class TestSQLite(OnSQL):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SQLStore]:
        async with self.opened(f"sqlite:///{tmp_path}/sessions.db") as store:
            yield store

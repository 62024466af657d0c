"""The shipped suite on each server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from asgi_session.store import Store
from asgi_session.stores.sql import SQLStore
from asgi_session.testing import StoreConformance
from tests.servers.sql import WITH_MARIADB, MariaDB, PostgreSQL
from tests.stores.sql.helpers import held


class TestPostgreSQL(StoreConformance):
    @pytest.fixture
    async def store(self, postgresql: PostgreSQL) -> AsyncIterator[SQLStore]:
        self.url = postgresql.url
        store = SQLStore.from_url(self.url)
        await store.create_schema()
        yield store
        await store.close()

    def another(self, store: Store) -> SQLStore:
        return SQLStore.from_url(self.url)

    def holding(
        self, store: Store, key: str, data: bytes | None, expires_at: int
    ) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        return held(self.url, key, data, expires_at)


class TestMariaDB(StoreConformance):
    __test__ = WITH_MARIADB

    @pytest.fixture
    async def store(self, mariadb: MariaDB) -> AsyncIterator[SQLStore]:
        self.url = mariadb.url
        store = SQLStore.from_url(self.url)
        await store.create_schema()
        yield store
        await store.close()

    def another(self, store: Store) -> SQLStore:
        return SQLStore.from_url(self.url)

    def holding(
        self, store: Store, key: str, data: bytes | None, expires_at: int
    ) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        return held(self.url, key, data, expires_at)


class TestSQLite(StoreConformance):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SQLStore]:
        self.url = f"sqlite:///{tmp_path}/sessions.db"
        store = SQLStore.from_url(self.url)
        await store.create_schema()
        yield store
        await store.close()

    def another(self, store: Store) -> SQLStore:
        return SQLStore.from_url(self.url)

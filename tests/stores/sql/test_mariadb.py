"""The shipped suite on MariaDB."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from asgi_session.store import Store
from asgi_session.stores.sql import SQLStore
from asgi_session.testing import StoreConformance
from tests.servers.sql import MariaDB


class TestMariaDB(StoreConformance):
    @pytest.fixture
    async def store(self, mariadb: MariaDB) -> AsyncIterator[SQLStore]:
        self.url = mariadb.url
        store = SQLStore.from_url(self.url)
        await store.create_schema()
        yield store
        await store.close()

    def another(self, store: Store) -> SQLStore:
        return SQLStore.from_url(self.url)

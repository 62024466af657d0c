"""`MemcachedStore` passes the suite, on one server and on three."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from asgi_session.store import Store
from asgi_session.stores.memcached import MemcachedStore
from asgi_session.testing import StoreConformance
from tests.servers import MemcachedProcess, start_memcached


class OnMemcached(StoreConformance):
    url: str

    def another(self, store: Store) -> MemcachedStore:
        return MemcachedStore.from_url(self.url)


class TestMemcachedStore(OnMemcached):
    @pytest.fixture
    async def store(self, memcached: MemcachedProcess) -> AsyncIterator[MemcachedStore]:
        self.url = memcached.url
        store = MemcachedStore.from_url(self.url)
        yield store
        await store.close()


@pytest.fixture(scope="module")
def two_more() -> Iterator[list[MemcachedProcess]]:
    servers = [start_memcached() for _ in range(2)]
    yield servers
    for server in servers:
        server.stop()


class TestMemcachedStoreOnThree(OnMemcached):
    @pytest.fixture
    async def store(
        self, memcached: MemcachedProcess, two_more: list[MemcachedProcess]
    ) -> AsyncIterator[MemcachedStore]:
        hosts = ",".join(f"{each.host}:{each.port}" for each in (memcached, *two_more))
        self.url = f"memcached://{hosts}"
        store = MemcachedStore.from_url(self.url)
        yield store
        await store.close()

"""A server of each kind, and a store on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from asgi_session.stores.sql import SQLStore
from tests.servers.sql import SERVERS, SQLServer
from tests.servers.tcp_proxy import TcpProxy
from tests.stores.sql.helpers import through


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> SQLServer:
    """Each server, shared."""
    found: SQLServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def proxy(server: SQLServer) -> Iterator[TcpProxy]:
    """What stands before the server."""
    with TcpProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def direct(server: SQLServer) -> AsyncIterator[SQLStore]:
    """A store that asks the server itself."""
    store = SQLStore.from_url(server.url)
    await store.create_schema()
    yield store
    await store.close()


@pytest.fixture
async def store(server: SQLServer, direct: SQLStore, proxy: TcpProxy) -> AsyncIterator[SQLStore]:
    """A store of one connection that asks through the proxy, with the same records as `direct`."""
    store = SQLStore.from_url(through(proxy, server.url), pool_size=1)
    yield store
    proxy.cut_no_more()
    proxy.thaw()
    await store.close()

"""Servers of the table's stores, for the tests over the table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.servers import TcpProxy
from tests.servers.files import SQLiteFile
from tests.stores.every.kinds import Kind, Machine
from tests.stores.every.site import Site

_prepared: set[str] = set()


@pytest.fixture
def machine(kind: Kind, request: pytest.FixtureRequest) -> Machine | None:
    """The kind's server, shared by all tests and made ready once."""
    if kind.shared is None:
        return None
    server: Machine = request.getfixturevalue(kind.shared)
    if server.url not in _prepared:
        _prepared.add(server.url)
        asyncio.run(_prepare(kind, server))
    return server


async def _prepare(kind: Kind, machine: Machine) -> None:
    store = kind.make(machine.url)
    await kind.prepare(store)
    await store.close()


@pytest.fixture
async def site(kind: Kind, machine: Machine | None) -> AsyncIterator[Site]:
    """The kind's stores, on the shared server."""
    made = Site(kind, machine)
    yield made
    await made.close()


@pytest.fixture
def fresh_machine(kind: Kind) -> Iterator[Machine]:
    """A server of the test's own, to break."""
    assert kind.fresh is not None
    server = kind.fresh()
    yield server
    server.stop()


@pytest.fixture
async def fresh_site(kind: Kind, fresh_machine: Machine) -> AsyncIterator[Site]:
    """The kind's stores, on a server of the test's own."""
    made = Site(kind, fresh_machine)
    await kind.prepare(made.store())
    yield made
    await made.close()


@pytest.fixture
def proxy(machine: Machine) -> Iterator[TcpProxy]:
    """A proxy before the shared server."""
    with TcpProxy(machine.port) as made:
        yield made


@pytest.fixture(scope="session")
def shared_sqlite() -> Iterator[SQLiteFile]:
    file = SQLiteFile()
    yield file
    file.stop()

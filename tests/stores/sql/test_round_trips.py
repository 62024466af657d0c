"""What each verb costs on the wire, and that the page says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from asgi_session.clock import system_clock
from asgi_session.store import GONE, TAKEN, Conflict, Saved, Stored
from asgi_session.stores.sql import PostgreSQLStore, SQLStore
from tests.docs.pages import ROOT, table
from tests.servers.sql import SQLServer
from tests.servers.tcp_proxy import TcpProxy
from tests.stores.sql.helpers import in_time, new_data, new_key

FAR = system_clock() + 3_600_000
STRANGE = Stored(new_data(), b"?" * 16, FAR)


class Counted:
    """A store whose verbs' round trips are counted, each from the second time on."""

    def __init__(self, store: SQLStore, proxy: TcpProxy) -> None:
        self.store = store
        self._proxy = proxy

    async def trips(self, verb: Callable[[], Awaitable[object]], expected: object) -> int:
        """Return how many it takes, when everything is prepared."""
        assert await verb() == expected
        before = self._proxy.trips
        assert await verb() == expected
        return self._proxy.trips - before


async def test_round_trips_per_verb(server: SQLServer, store: SQLStore, proxy: TcpProxy) -> None:
    """As many as the page says: one, but for what has failed on MariaDB and MySQL."""
    counted = Counted(store, proxy)

    async def created() -> object:
        return type(await store.create(new_key(), new_data(), FAR, deadline=in_time()))

    key, data = new_key(), new_data()
    current = Stored(data, data[:16], FAR)
    await store.create(key, data, FAR, deadline=in_time())

    async def saved() -> object:
        nonlocal current
        new = new_data()
        result = await store.save(key, new, FAR, expect=current, deadline=in_time())
        current = Stored(new, new[:16], FAR)
        return type(result)

    async def refused() -> object:
        result = await store.save(key, new_data(), FAR, expect=STRANGE, deadline=in_time())
        return isinstance(result, Conflict) and result.current == current

    async def deleted() -> object:
        key = new_key()
        await store.create(key, new_data(), FAR, deadline=in_time())
        return await store.delete(key, deadline=in_time())

    nobody = new_key()
    found = {
        "load": await counted.trips(lambda: _found(store, key), True),
        "create": await counted.trips(created, Saved),
        "create, and the key is taken": await counted.trips(
            lambda: store.create(key, new_data(), FAR, deadline=in_time()), TAKEN
        ),
        "save": await counted.trips(saved, Saved),
        "save, and another process was first": await counted.trips(refused, True),
        "save of a session that has ended": await counted.trips(
            lambda: store.save(nobody, new_data(), FAR, expect=STRANGE, deadline=in_time()), GONE
        ),
        "touch": await counted.trips(lambda: store.touch(key, FAR, expect=current, deadline=in_time()), True),
        "delete": await counted.trips(deleted, True) - 1,  # without the create
    }
    if isinstance(store, PostgreSQLStore):

        async def woken() -> object:
            nonlocal current
            new = new_data()
            result = await store.save_and_wake(
                key, new, FAR, expect=current, wake=["0" * 16, "1" * 16], deadline=in_time()
            )
            current = Stored(new, new[:16], FAR)
            return type(result)

        found["save that wakes up other processes"] = await counted.trips(woken, Saved)
    column = 1 if server.url.startswith("postgresql") else 2
    rows = {row[0]: row[column] for row in table(ROOT / "docs/sql.md", "round trips")}
    assert {name: count for name, count in rows.items() if count != "-"} == {
        name: str(count) for name, count in found.items()
    }


async def _found(store: SQLStore, key: str) -> bool:
    return await store.load(key, deadline=in_time()) is not None


async def test_loads_at_once_are_one_trip_on_postgresql(
    server: SQLServer, store: SQLStore, proxy: TcpProxy
) -> None:
    """Forty loads of a moment leave together; elsewhere each is a statement."""
    keys = [new_key() for _ in range(40)]
    data = {key: new_data() for key in keys}
    for key in keys:
        await store.create(key, data[key], FAR, deadline=in_time())

    async def load_all() -> None:
        loaded = await asyncio.gather(*(store.load(key, deadline=in_time()) for key in [*keys, keys[0]]))
        assert [each.data for each in loaded if each] == [data[key] for key in [*keys, keys[0]]]

    await load_all()
    before = proxy.trips
    await load_all()
    assert proxy.trips - before == (1 if isinstance(store, PostgreSQLStore) else 41)

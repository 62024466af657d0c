"""Verbs that have to wait for a row, or for SQLite's one writer: they answer what is there after the wait."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from asgi_session.clock import system_clock
from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Saved, Stored
from asgi_session.stores.sql import SQLStore
from asgi_session.testing import ManualClock
from tests.servers.sql import SQLServer
from tests.stores.sql.helpers import TABLE, in_time, new_data, new_key, waits

FAR = system_clock() + 3_600_000


@pytest.fixture
async def app(direct: SQLStore) -> AsyncIterator[AsyncEngine]:
    """Somebody else's connections, who holds rows in transactions."""
    engine = create_async_engine(direct._target.engine.url)
    yield engine
    await engine.dispose()


async def record(store: SQLStore) -> tuple[str, Stored]:
    key, data = new_key(), new_data()
    assert isinstance(await store.create(key, data, FAR, deadline=in_time()), Saved)
    return key, Stored(data, data[:16], FAR)


@pytest.fixture
async def watching(app: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to look at the server with, which needs rights that the store does not."""
    connection = await app.connect()
    yield await connection.execution_options(isolation_level="AUTOCOMMIT")
    await connection.close()


@pytest.mark.parametrize("meanwhile", ["replaced", "deleted", "expired"])
async def test_a_save_that_waited(
    direct: SQLStore, app: AsyncEngine, watching: AsyncConnection, server: SQLServer, meanwhile: str
) -> None:
    """It meets the newest version, and GONE when the record was deleted or has ended meanwhile."""
    key, stored = await record(direct)
    new = new_data()
    row = TABLE.c.id == key
    async with app.begin() as holding:
        match meanwhile:
            case "replaced":
                await holding.execute(sa.update(TABLE).where(row).values(tag=new[:16], data=new))
            case "deleted":
                await holding.execute(sa.delete(TABLE).where(row))
            case _:
                await holding.execute(sa.update(TABLE).where(row).values(expires_at=1))
        save = asyncio.create_task(direct.save(key, new_data(), FAR, expect=stored, deadline=in_time()))
        await waits(watching)
        assert not save.done()
    expected = Conflict(Stored(new, new[:16], FAR)) if meanwhile == "replaced" else GONE
    assert await save == expected


async def test_the_other_verbs_that_waited(
    direct: SQLStore, app: AsyncEngine, watching: AsyncConnection
) -> None:
    """A touch and a delete of a version that was replaced do nothing; a create finds the key taken."""
    for verb in ("touch", "delete", "create"):
        key, stored = await record(direct)
        new = new_data()
        async with app.begin() as holding:
            await holding.execute(sa.update(TABLE).where(TABLE.c.id == key).values(tag=new[:16], data=new))
            match verb:
                case "touch":
                    work = direct.touch(key, FAR + 1, expect=stored, deadline=in_time())
                case "delete":
                    work = direct.delete(key, expect=stored, deadline=in_time())
                case _:
                    work = direct.create(key, new_data(), FAR, deadline=in_time())  # type: ignore[assignment]
            task: asyncio.Task[object] = asyncio.create_task(work)  # type: ignore[arg-type]
            await waits(watching)
        assert await task == (TAKEN if verb == "create" else False)
        assert await direct.load(key, deadline=in_time()) == Stored(new, new[:16], FAR)


async def test_a_record_that_ends_while_its_writers_wait(
    direct: SQLStore, app: AsyncEngine, watching: AsyncConnection
) -> None:
    """It stays gone, as a load has told meanwhile: they go by the time at which they get the row."""
    for verb, answer in (("save", GONE), ("touch", False)):
        key, data = new_key(), new_data()
        stored = Stored(data, data[:16], system_clock() + 700)
        await direct.create(key, data, stored.expires_at, deadline=in_time())
        work = (
            direct.save(key, new_data(), FAR, expect=stored, deadline=in_time())
            if verb == "save"
            else direct.touch(key, FAR, expect=stored, deadline=in_time())
        )
        async with app.begin() as holding:
            await holding.execute(sa.update(TABLE).where(TABLE.c.id == key).values(purge_day=0))
            task: asyncio.Task[object] = asyncio.create_task(work)  # type: ignore[arg-type]
            await waits(watching)
            assert system_clock() < stored.expires_at, "it has begun too late to tell"
            while await direct.load(key, deadline=in_time()) is not None:
                await asyncio.sleep(0.01)  # the server's clock tells nobody when it is time
        assert await task == answer
        assert await direct.load(key, deadline=in_time()) is None


async def test_loads_do_not_wait(direct: SQLStore, app: AsyncEngine) -> None:
    """Whoever holds a row keeps nobody from reading it."""
    key, stored = await record(direct)
    async with app.begin() as holding:
        await holding.execute(sa.update(TABLE).where(TABLE.c.id == key).values(data=new_data()))
        assert await direct.load(key, deadline=in_time()) == stored


async def test_a_save_whose_row_stays_held(
    direct: SQLStore, app: AsyncEngine, watching: AsyncConnection
) -> None:
    """It fails by its deadline, holds nothing up, and the next one works."""
    key, stored = await record(direct)
    async with app.begin() as holding:
        await holding.execute(sa.update(TABLE).where(TABLE.c.id == key).values(purge_day=0))
        with pytest.raises(StoreUnavailable) as caught:
            await direct.save(key, new_data(), FAR, expect=stored, deadline=in_time(0.3))
        assert caught.value.executed is None
        assert await direct.load(key, deadline=in_time()) == stored
    result = await direct.save(key, new_data(), FAR, expect=stored, deadline=in_time())
    assert isinstance(result, Saved | Conflict)  # the one that was given up may have been carried out


async def test_a_held_file(tmp_path: Path) -> None:
    """On SQLite a writer holds them all up. Verbs wait for it, until their deadline; loads don't."""
    path = tmp_path / "sessions.db"
    store = SQLStore.from_url(f"sqlite:///{path}")
    await store.create_schema()
    key, stored = await record(store)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert await store.load(key, deadline=in_time()) == stored
    with pytest.raises(StoreUnavailable):
        await store.save(key, new_data(), FAR, expect=stored, deadline=in_time(0.3))
    save = asyncio.create_task(store.save(key, new_data(), FAR, expect=stored, deadline=in_time()))
    await asyncio.sleep(0.1)  # so that it meets the writer, most likely
    other.execute("COMMIT")
    assert isinstance(await save, Saved)
    other.close()
    await store.close()


async def test_a_record_that_ends_while_its_save_waits_for_the_file(tmp_path: Path) -> None:
    """The clock is read when its turn has come: it is gone."""
    path, clock = tmp_path / "sessions.db", ManualClock()
    store = SQLStore.from_url(f"sqlite:///{path}", clock=clock)
    await store.create_schema()
    key, data = new_key(), new_data()
    await store.create(key, data, clock.ms + 10, deadline=in_time())
    stored = await store.load(key, deadline=in_time())
    assert stored is not None
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    save = asyncio.create_task(
        store.save(key, new_data(), clock.ms + 1000, expect=stored, deadline=in_time())
    )
    await asyncio.sleep(0.1)  # it waits meanwhile
    clock.ms += 20
    await asyncio.sleep(0.2)  # a try that has begun before is over by then: SQLite itself waits 50 ms
    other.execute("COMMIT")
    assert await save is GONE
    other.close()
    await store.close()

"""Expired records are removed in batches, by the store and by `python -m asgi_session purge`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from asgi_session.__main__ import main
from asgi_session.clock import system_clock
from asgi_session.errors import ConfigurationError
from asgi_session.store import Purges, Saved, Stored
from asgi_session.stores.memory import MemoryStore
from asgi_session.stores.sql import SQLStore
from asgi_session.stores.sql.schema import DAY, purge_day
from tests.servers import ServerProcess
from tests.servers.sql import SERVERS, PostgreSQL
from tests.stores.sql.helpers import in_time, new_data, new_key, new_table

FAR = system_clock() + 30 * DAY


@pytest.fixture(params=[*SERVERS, "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SQLStore]:
    """An empty table."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/sessions.db"
    else:
        url = request.getfixturevalue(request.param).url
    store = SQLStore.from_url(url, table=new_table())
    await store.create_schema()
    yield store
    await store.close()


async def put(store: SQLStore, *expiries: int) -> list[str]:
    """Create records; their keys."""
    keys = [new_key() for _ in expiries]
    for key, expires_at in zip(keys, expiries, strict=True):
        assert isinstance(await store.create(key, new_data(), expires_at, deadline=in_time()), Saved)
    return keys


async def test_expired_records_are_removed_in_batches(store: SQLStore) -> None:
    """No more than the limit at once, until none is left, and no living one."""
    assert isinstance(store, Purges)
    (alive,) = await put(store, FAR)
    await put(store, *([1] * 5))
    assert [await store.purge(limit=2, deadline=in_time()) for _ in range(4)] == [2, 2, 1, 0]
    assert await store.load(alive, deadline=in_time()) is not None


async def test_a_record_that_has_just_expired_may_stay(store: SQLStore) -> None:
    """It is removed when its day is over, and is a missing record until then, too."""
    (key,) = await put(store, system_clock() - 1)
    assert await store.load(key, deadline=in_time()) is None
    assert await store.purge(deadline=in_time()) == 0


async def test_purges_at_once_share_the_work(store: SQLStore) -> None:
    """Each record is counted by one of them, and none waits for another's rows."""
    await put(store, *([1] * 30))
    counts = await asyncio.gather(*(store.purge(limit=10, deadline=in_time()) for _ in range(5)))
    counts.append(await store.purge(deadline=in_time()))
    assert sum(counts) == 30


async def test_a_touched_record_is_not_purged_on_its_old_day(store: SQLStore) -> None:
    """A touch and a save move the day with the expiry."""
    (key,) = await put(store, FAR)
    loaded = await store.load(key, deadline=in_time())
    assert loaded is not None
    assert await store.touch(key, 1, expect=loaded, deadline=in_time())
    assert await store.purge(deadline=in_time()) == 1
    (key,) = await put(store, FAR)
    data = new_data()
    loaded = await store.load(key, deadline=in_time())
    assert loaded is not None
    assert isinstance(await store.save(key, data, FAR + DAY, expect=loaded, deadline=in_time()), Saved)
    assert await store.purge(deadline=in_time()) == 0
    assert await store.load(key, deadline=in_time()) == Stored(data, data[:16], FAR + DAY)


def test_the_day_is_the_first_that_is_expired_all_over() -> None:
    """One millisecond of a day is enough to keep a record until its end."""
    assert [purge_day(each) for each in (0, 1, DAY - 1, DAY, DAY + 1)] == [1, 1, 1, 2, 2]
    assert purge_day(-5) == 0
    assert purge_day(2**62) == 2**31 - 1


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "1"])
async def test_a_limit_that_is_none_is_refused(store: SQLStore, limit: object) -> None:
    """Before anything is asked of the server."""
    with pytest.raises(ConfigurationError, match="limit="):
        await store.purge(limit=limit, deadline=in_time())  # type: ignore[arg-type]


async def test_a_store_that_needs_no_purge_has_none() -> None:
    """The capability is what tells."""
    assert not isinstance(MemoryStore(), Purges)


def command(*arguments: str, variable: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "SESSION_STORE"}
    environment["PYTHONPATH"] = os.getcwd()
    if variable is not None:
        environment["SESSION_STORE"] = variable
    return subprocess.run(
        [sys.executable, "-m", "asgi_session", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_the_command_removes_and_counts(postgresql: PostgreSQL) -> None:
    """Batch after batch; the URL comes from the environment, where no `ps` shows it."""
    table = new_table()
    store = SQLStore.from_url(postgresql.url, table=table)
    await store.create_schema()
    await put(store, FAR, *([1] * 5))
    await store.close()
    run = await asyncio.to_thread(command, "purge", "--batch", "2", "--table", table, variable=postgresql.url)
    assert (run.stdout, run.stderr, run.returncode) == ("removed 5 expired sessions\n", "", 0)
    run = await asyncio.to_thread(command, "purge", postgresql.url, "--table", table)
    assert (run.stdout, run.returncode) == ("removed 0 expired sessions\n", 0)


def test_the_command_says_what_is_wrong(
    valkey: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, without a traceback or a password, and by its exit status."""
    monkeypatch.delenv("SESSION_STORE", raising=False)
    for arguments, status, says in (
        (["purge"], 2, "SESSION_STORE"),
        (["purge", "nonsense://user:hunter2@host"], 1, "no store has URLs"),
        (["purge", valkey.url], 1, "a RedisStore drops expired sessions by itself"),
        (["purge", "--batch", "0", valkey.url], 2, "whole number"),
        (["purge", "--seconds", "0", valkey.url], 2, "more than zero"),
        (["purge", f"sqlite:///{tmp_path}/none.db"], 1, "no such table"),
        (["purge", f"sqlite:///{tmp_path}/none.db", "--table", "a-b"], 1, "table="),
        (["purge", "--seconds", "0.2", "postgresql://u:hunter2@127.0.0.1:1/x"], 1, "Connect call failed"),
    ):
        try:
            answered = main(arguments)
        except SystemExit as leaving:
            answered = int(str(leaving.code))
        written = capsys.readouterr()
        assert (answered, written.out) == (status, ""), arguments
        assert says in written.err, written
        assert "hunter2" not in written.err
        if status == 1:
            assert written.err.count("\n") == 1


def test_the_command_stops_in_time(
    postgresql: PostgreSQL, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that there is more, and the next run goes on."""
    table = new_table()

    async def fill() -> None:
        store = SQLStore.from_url(postgresql.url, table=table)
        await store.create_schema()
        await put(store, *([1] * 5))
        await store.close()

    asyncio.run(fill())
    options = ["purge", postgresql.url, "--table", table]
    looks = count()
    with monkeypatch.context() as patch:
        patch.setattr("asgi_session.__main__.monotonic", lambda: time.monotonic() + 40 * next(looks))
        assert main([*options, "--batch", "1", "--seconds", "100"]) == 0
    stopped = "removed 2 expired sessions; stopped after 100 s, and there are more\n"
    assert capsys.readouterr().out == stopped
    assert main(options) == 0
    assert capsys.readouterr().out == "removed 3 expired sessions\n"

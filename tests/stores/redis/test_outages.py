"""A server that is away: requests wait for it, then fail at once, and one line tells of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from typing import Any

import pytest

from asgi_session import SessionManager
from asgi_session.errors import StoreUnavailable
from asgi_session.store import Back, Lost, Reconnected, Report, Reports
from asgi_session.stores._shared import health as health_module
from asgi_session.stores._shared.health import Health
from asgi_session.stores._shared.reporting import Reporter
from asgi_session.stores.memory import MemoryStore
from asgi_session.stores.redis import RedisStore
from asgi_session.testing import FaultStore
from tests.servers import Cluster, SentinelSetup, ServerProcess, slot_of
from tests.stores.redis.load import in_an_hour, record, soon, version
from tests.stores.redis.scripted import scripted

KEY = "k" * 22
DEADLINE = 1.0
TIMEOUT = 0.2
LOST_AFTER = DEADLINE + TIMEOUT
AT_ONCE = 0.1


def quick(url: str) -> RedisStore:
    return RedisStore.from_url(url, timeout=TIMEOUT, connect_timeout=0.3)


async def attempt(store: RedisStore, key: str = KEY, seconds: float = DEADLINE) -> tuple[bool, float]:
    """Load, and return whether that was possible, and for how long it took."""
    began = time.monotonic()
    try:
        await store.load(key, deadline=began + seconds)
    except StoreUnavailable as error:
        took = time.monotonic() - began
        at_once = error.executed is False and "only one request at a time tries" in str(error)
        if (took < AT_ONCE) is not at_once:
            raise
        return False, took
    return True, time.monotonic() - began


async def lose(store: RedisStore, key: str = KEY) -> None:
    """Send requests, one beside the other, until they fail at once."""
    end = soon(10)
    probing = asyncio.create_task(attempt(store, key))
    try:
        while True:
            assert time.monotonic() < end, "it is never lost"
            if probing.done():
                probing = asyncio.create_task(attempt(store, key))
                await asyncio.sleep(0.01)
            done, took = await attempt(store, key)
            assert not done
            if took < AT_ONCE:
                return
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(each.levelname, each.getMessage()) for each in caplog.records if each.name == "asgi_session"]


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_lost_and_back(fresh_valkey: ServerProcess, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Promise 18: first requests wait, then they fail at once but for one; one line for each end."""
    store = quick(fresh_valkey.url)
    reports: list[Report] = []
    assert isinstance(store, Reports)
    end = store.report_to(reports.append)
    assert (await attempt(store))[0]
    getattr(fresh_valkey, how)()
    first = await asyncio.gather(*(attempt(store) for _ in range(3)))
    assert all(not done and took > DEADLINE / 2 for done, took in first), "they have tried"
    await lose(store)
    probe = asyncio.create_task(attempt(store))
    await asyncio.sleep(0)
    outcomes = await asyncio.gather(*(attempt(store) for _ in range(50)))
    assert all(not done and took < AT_ONCE for done, took in outcomes)
    done, took = await probe
    assert not done
    assert took > DEADLINE / 2
    for verb in (
        store.create(KEY, record(), in_an_hour(), deadline=soon()),
        store.touch(KEY, in_an_hour(), expect=version(b"x" * 16), deadline=soon()),
        store.save(KEY, record(), in_an_hour(), expect=version(b"x" * 16), deadline=soon()),
    ):
        probe = asyncio.create_task(attempt(store))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="only one request at a time tries"):
            await verb
        probe.cancel()  # whoever comes next is the next probe
        await asyncio.gather(probe, return_exceptions=True)
    if how == "kill":
        fresh_valkey.restart()
    else:
        fresh_valkey.thaw()
    assert (await attempt(store, seconds=10))[0], "the next request is the probe"
    assert all(done for done, _ in await asyncio.gather(*(attempt(store) for _ in range(50))))
    assert lines(caplog) == [], "who is told does the logging"
    server = f"{fresh_valkey.host}:{fresh_valkey.port}"
    assert [type(each) for each in reports if not isinstance(each, Reconnected)] == [Lost, Back]
    (told,) = [each for each in reports if isinstance(each, Back)]
    assert told.server == server
    assert told.seconds > LOST_AFTER
    assert told.failed >= 3 + 50 + 3
    assert Reconnected(server) in reports
    end()
    end()
    await store.close()


async def test_an_outage_shorter_than_the_deadline_is_ridden_out(
    fresh_valkey: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 13: whenever in it a request comes, it waits, and gets its answer."""
    store = quick(fresh_valkey.url)
    deadline = 3.0
    assert (await attempt(store))[0]
    fresh_valkey.kill()
    began = time.monotonic()
    waiting: list[asyncio.Task[tuple[bool, float]]] = []
    while time.monotonic() - began < 0.8 * deadline:
        waiting.append(asyncio.create_task(attempt(store, seconds=deadline)))
        await asyncio.sleep(0.05)
    await asyncio.to_thread(fresh_valkey.restart)
    assert all(done for done, _ in await asyncio.gather(*waiting))
    assert lines(caplog) == []
    await store.close()


async def test_a_server_that_loads_for_long() -> None:
    """One that answers, but serves nobody, is lost, too, and back with the first real answer."""
    loading = True

    def answer(connection: int, command: tuple[bytes, ...]) -> bytes:
        return b"-LOADING Redis is loading the dataset in memory\r\n" if loading else b"_\r\n"

    async with scripted(answer) as server:
        store = quick(server.url)
        await lose(store)
        loading = False
        assert (await attempt(store))[0]
        assert (await attempt(store))[0]
        await store.close()


async def test_refusals_are_answers(fresh_valkey: ServerProcess) -> None:
    """A server that refuses (full, no rights, read-only) is not lost: reads go on."""
    store = quick(fresh_valkey.url)
    fresh_valkey.command("REPLICAOF", "127.0.0.1", "1")
    end = time.monotonic() + 2 * LOST_AFTER
    while time.monotonic() < end:
        with pytest.raises(StoreUnavailable, match="READONLY"):
            await store.create(KEY, record(), in_an_hour(), deadline=soon(DEADLINE))
    assert (await attempt(store))[0]
    await store.close()


def test_failures_with_answers_in_between() -> None:
    """They are no outage, however many there are."""
    health = Health("h:1", Reporter())
    for _ in range(100):
        health.failing("why")
        health.answered()
    assert health.refuses(object(), time.monotonic() + 100) is None


@pytest.mark.parametrize(
    ("failures", "lost"),
    [
        ([0.0], False),
        ([0.0, 4.9], False),
        ([0.0, 2.5, 5.1], True),
        ([0.0, 10.5, 11.0], False),  # a silence of twice the deadline: nobody knows what was in it
        ([0.0, 10.5, 13.0, 15.6], True),
    ],
)
def test_when_a_server_is_lost(monkeypatch: pytest.MonkeyPatch, failures: list[float], lost: bool) -> None:
    """After nothing but failures for the longest deadline seen, without a long silence in between."""
    now = 0.0
    monkeypatch.setattr(health_module, "monotonic", lambda: 1000.0 + now)
    reports: list[Report] = []
    reporter = Reporter()
    reporter.report_to(reports.append)
    health = Health("h:1", reporter)
    health.expect(5.0)
    health.expect(0.5)
    for each in failures:
        now = each
        health.failing("why")
    assert [type(report) for report in reports] == ([Lost] if lost else [])
    assert all("(why)" in report.error for report in reports if isinstance(report, Lost))
    before, first, second = object(), object(), object()
    assert health.refuses(before, 1000.0 + now) is None, "one that came before goes on"
    now += 1
    assert health.refuses(first, 1000.0 + now) is None, "the probe"
    assert (health.refuses(second, 1000.0 + now) is not None) is lost
    assert health.refuses(first, 1000.0 + now) is None, "the probe goes on"
    health.answered()
    assert health.refuses(second, 1000.0 + now) is None
    assert len(reports) == 2 * lost


async def test_the_other_shards_are_not_concerned(
    fresh_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A shard without a primary fails at once, the others answer, and a new owner begins with trust."""
    for node in fresh_cluster.nodes:
        node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
        node.command("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    primary, other = fresh_cluster.primaries[:2]
    keys = [f"{number:022d}" for number in range(200)]
    mine = next(key for key in keys if fresh_cluster.owner_of(slot_of(key)) is primary)
    theirs = next(key for key in keys if fresh_cluster.owner_of(slot_of(key)) is other)
    replica = fresh_cluster.replica_of(primary)
    store = quick(fresh_cluster.url)
    for key in (mine, theirs):
        assert (await attempt(store, key))[0]
    primary.kill()
    await lose(store, mine)
    done, took = await attempt(store, theirs)
    assert done
    assert took < DEADLINE / 2
    # That now takes its slots over.
    replica.command("CLUSTER", "FAILOVER", "TAKEOVER")
    end = soon(20)
    while not (await attempt(store, mine))[0]:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    assert all(done for done, _ in await asyncio.gather(*(attempt(store, mine) for _ in range(20))))
    lost, back = [line for line in lines(caplog) if "server" in line[1]]
    where = f"{primary.host}:{primary.port}"
    assert f"{where} is lost" in lost[1]
    assert f"{where} has been replaced after" in back[1]
    await store.close()


async def test_a_cluster_that_was_never_there(caplog: pytest.LogCaptureFixture) -> None:
    """Where no node is known at all, requests do not wait for ever either."""
    store = quick("redis+cluster://127.0.0.1:1")
    await lose(store)
    ((_, line),) = lines(caplog)
    assert "cluster" in line
    await store.close()


async def test_sentinels_that_name_nobody(sentinel: SentinelSetup) -> None:
    """A group without a primary is one server that is lost."""
    store = quick(sentinel.url.replace("/mymaster", "/other"))
    await lose(store)
    await store.close()


def test_several_event_loops_are_one_outage(
    fresh_valkey: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Each finds out for itself, but there is one line when the server is lost, and one when it is back."""
    store = quick(fresh_valkey.url)
    lost, mended = threading.Barrier(3), threading.Event()

    async def live() -> None:
        assert (await attempt(store))[0]
        await asyncio.to_thread(lost.wait, 10)
        await asyncio.to_thread(lost.wait, 10)  # by now it has been killed
        await lose(store)
        await asyncio.to_thread(lost.wait, 20)
        await asyncio.to_thread(mended.wait, 20)
        assert (await attempt(store, seconds=10))[0]
        await store.close()

    threads = [threading.Thread(target=asyncio.run, args=(live(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    lost.wait(10)
    fresh_valkey.kill()
    lost.wait(10)
    lost.wait(20)
    fresh_valkey.restart()
    mended.set()
    for thread in threads:
        thread.join(20)
    assert [level for level, _ in lines(caplog)] == ["ERROR", "WARNING"]


async def test_a_store_that_is_closed_while_a_server_is_lost(
    fresh_valkey: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Opened again it begins with trust, and the next outage is told again."""
    store = quick(fresh_valkey.url)
    fresh_valkey.kill()
    await lose(store)
    await store.close()
    done, took = await attempt(store)
    assert not done
    assert took > DEADLINE / 2
    await lose(store)
    assert [level for level, _ in lines(caplog)] == ["ERROR", "ERROR"]
    await store.close()


async def test_events(fresh_valkey: ServerProcess) -> None:
    """The manager makes events of the store's reports, through a FaultStore as well."""
    events: list[tuple[str, str | None, dict[str, Any]]] = []

    def on_event(name: str, session_id: str | None, **info: Any) -> None:
        events.append((name, session_id, info))

    store = quick(fresh_valkey.url)
    manager = SessionManager(FaultStore(store), on_event=on_event, deadline=DEADLINE)
    await manager.ping()
    fresh_valkey.kill()
    await lose(store)
    fresh_valkey.restart()
    assert (await attempt(store, seconds=10))[0]
    server = f"{fresh_valkey.host}:{fresh_valkey.port}"
    assert [(name, session_id) for name, session_id, _ in events] == [
        ("store_lost", None),
        ("store_reconnected", None),
        ("store_back", None),
    ]
    assert all(info["server"] == server and info["connection"] is None for _, _, info in events)
    assert server in events[0][2]["error"]
    assert events[2][2]["seconds"] > LOST_AFTER
    assert events[2][2]["failed"] >= 1
    await store.close()


def test_managers_come_and_go() -> None:
    """A store does not keep alive the managers that it reports to, and forgets them."""
    store = RedisStore.from_url("redis://h")
    kept = SessionManager(store)
    for _ in range(10):
        SessionManager(store)
    gc.collect()
    assert len(store._reporter._tell) == 1
    del kept
    gc.collect()
    assert store._reporter._tell == {}


def test_who_is_told_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """An error of one function keeps nobody else from being told."""
    reporter = Reporter()
    told: list[Report] = []

    def fails(report: Report) -> None:
        raise RuntimeError("no")

    reporter.report_to(fails)
    reporter.report_to(told.append)
    with caplog.at_level(logging.ERROR):
        reporter.reconnected("h:1")
    assert told == [Reconnected("h:1")]
    assert "has failed" in caplog.text


def test_a_store_without_reports() -> None:
    """A FaultStore has the capability exactly when its store has it."""
    assert not isinstance(FaultStore(MemoryStore()), Reports)
    assert isinstance(FaultStore(RedisStore.from_url("redis://h")), Reports)

"""Promise 13, with a real cluster that is moved, failed over, killed and frozen under load."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from asgi_session.errors import StoreUnavailable
from asgi_session.store import TAKEN, Conflict, Saved, Stored
from asgi_session.stores.redis import RedisStore
from tests.servers import Cluster, LossyProxy, ServerProcess, named, saves, slot_of, start_cluster
from tests.stores.redis.load import Load, in_an_hour, record, soon, version

BOUND = 1.5
"""Seconds that nothing may take on a shard that is not concerned."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster for this file, whole again before each test."""
    cluster = start_cluster()
    yield cluster
    cluster.stop()


@pytest.fixture
async def store(nodes: Cluster) -> AsyncIterator[RedisStore]:
    for node in nodes.nodes:
        if node.frozen:
            node.thaw()
        elif not node.alive:
            node.restart()
    await asyncio.to_thread(nodes.wait_ok)
    nodes.flush()
    store = RedisStore.from_url(nodes.url)
    yield store
    await store.close()


def keys_of(nodes: Cluster, each: int = 4) -> dict[ServerProcess, list[str]]:
    """Return some keys of every primary."""
    ranges = {primary: nodes.myself(primary).slots for primary in nodes.primaries}
    found: dict[ServerProcess, list[str]] = {primary: [] for primary in ranges}
    for number in itertools.count():
        if all(len(keys) == each for keys in found.values()):
            return found
        key = f"{number:022d}"
        owner = next(p for p, slots in ranges.items() if any(slot_of(key) in s for s in slots))
        if len(found[owner]) < each:
            found[owner].append(key)
    raise AssertionError


def widest(nodes: Cluster, primary: ServerProcess) -> range:
    """Return the primary's longest run of slots."""
    return max(nodes.myself(primary).slots, key=len)


def keys_in(slot: int, count: int) -> list[str]:
    """Return keys of one slot."""
    numbers = (f"{n:022d}" for n in itertools.count())
    return list(itertools.islice((key for key in numbers if slot_of(key) == slot), count))


async def in_step(primary: ServerProcess, replica: ServerProcess) -> None:
    """Wait until the replica has all that the primary had when this was called."""
    goal = int((await asyncio.to_thread(primary.info, "replication"))["master_repl_offset"])
    for _ in range(1000):
        if int((await asyncio.to_thread(replica.info, "replication"))["slave_repl_offset"]) >= goal:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the replica does not follow")


async def test_every_verb_in_a_slot_that_is_half_moved(nodes: Cluster, store: RedisStore) -> None:
    """Promise 13: keys answered with ASK, and absent keys of such a slot, work like any other."""
    source = nodes.primaries[0]
    target = next(p for p in nodes.primaries if p is not source)
    slot = widest(nodes, source)[7]
    moved, fresh = keys_in(slot, 2)
    first = record("first")
    assert await store.create(moved, first, in_an_hour(), deadline=soon()) is not TAKEN
    for node in nodes.nodes:
        node.command("SCRIPT", "FLUSH")
    nodes.move_slot(slot, target, finish=False)
    try:
        expires_at = in_an_hour()
        assert await store.load(moved, deadline=soon()) is not None
        second = record("second")
        saved = await store.save(moved, second, expires_at, expect=version(first), deadline=soon())
        assert saved == Saved(second[:16])
        conflict = await store.save(moved, first, expires_at, expect=version(first), deadline=soon())
        assert conflict == Conflict(Stored(second, second[:16], expires_at))
        heard: asyncio.Queue[tuple[str | None, ...]] = asyncio.Queue()
        end = await store.listen("e" * 16, lambda *each: heard.put_nowait(each), deadline=soon())
        former, second = second, record("third")
        saved = await store.save_and_wake(
            moved, second, expires_at, expect=version(former), wake=["e" * 16], deadline=soon()
        )
        assert saved == Saved(second[:16])
        woken = await asyncio.wait_for(heard.get(), 10)
        assert woken == (moved,)
        end()
        assert await store.touch(moved, expires_at + 1, expect=version(second), deadline=soon())
        assert await store.load(fresh, deadline=soon()) is None
        assert await store.create(fresh, first, expires_at, deadline=soon()) is not TAKEN
        assert await store.create(fresh, first, expires_at, deadline=soon()) is TAKEN
        assert await store.delete(fresh, deadline=soon())
    finally:
        nodes.assign_slot(slot, target)
    assert await store.load(moved, deadline=soon()) == Stored(second, second[:16], expires_at + 1)


async def test_a_slot_moved_by_hand_under_load(nodes: Cluster, store: RedisStore) -> None:
    """Promise 13: a slot that moves key by key, with ASK and MOVED, surfaces nothing."""
    by_shard = keys_of(nodes)
    source, target, bystander = by_shard
    slot = widest(nodes, source)[11]
    moving = keys_in(slot, 5)
    load = Load(store, [*moving, *itertools.chain.from_iterable(by_shard.values())])
    async with load.running():
        await asyncio.to_thread(nodes.open_slot, slot, target)
        await load.progress()
        await asyncio.to_thread(nodes.move_keys, slot, target)
        await load.progress()
        await asyncio.to_thread(nodes.assign_slot, slot, target)
        await load.progress()
    assert target.command("CLUSTER", "COUNTKEYSINSLOT", slot) == len(moving)
    assert load.worst(by_shard[bystander]) < BOUND
    assert load.worst(moving) < BOUND


async def test_slots_moved_atomically_under_load(nodes: Cluster, store: RedisStore) -> None:
    """Promise 13: Valkey 9's CLUSTER MIGRATESLOTS surfaces nothing."""
    by_shard = keys_of(nodes)
    source, target, bystander = by_shard
    slots = widest(nodes, source)
    load = Load(store, itertools.chain.from_iterable(by_shard.values()))
    async with load.running():
        await asyncio.to_thread(nodes.migrate_slots_atomically, slots[0], slots[len(slots) // 2], target)
        await load.progress()
    assert load.worst(by_shard[bystander]) < BOUND


async def test_a_failover_by_agreement_under_load(nodes: Cluster, store: RedisStore) -> None:
    """Promise 13: CLUSTER FAILOVER surfaces nothing and loses nothing."""
    by_shard = keys_of(nodes)
    primary, *others = by_shard
    replica = nodes.replica_of(primary)
    load = Load(store, itertools.chain.from_iterable(by_shard.values()))
    async with load.running():
        await asyncio.to_thread(nodes.failover, replica)
        await load.progress()
    assert load.rollbacks() == 0
    assert load.worst(itertools.chain.from_iterable(by_shard[other] for other in others)) < BOUND


@pytest.mark.parametrize(("how", "full_coverage"), [("kill", "yes"), ("freeze", "no")])
async def test_a_primary_is_lost_under_load(
    nodes: Cluster, store: RedisStore, how: str, full_coverage: str
) -> None:
    """Promise 13: a primary killed or frozen surfaces nothing, loses only what it had not passed on,
    and holds up no other shard."""
    by_shard = keys_of(nodes)
    primary, *others = by_shard
    replica = nodes.replica_of(primary)
    for node in nodes.nodes:
        # With "yes" the other nodes refuse, too, between noticing the loss and the election.
        node.command("CONFIG", "SET", "cluster-require-full-coverage", full_coverage)
    load = Load(store, itertools.chain.from_iterable(by_shard.values()))
    async with load.running():
        floors = load.mark(by_shard[primary])
        await in_step(primary, replica)
        load.allow_rollback(floors)
        getattr(primary, how)()
        await asyncio.to_thread(nodes.wait_primary, replica)
        await load.progress()
    assert load.worst(itertools.chain.from_iterable(by_shard[other] for other in others)) < BOUND
    assert load.worst(by_shard[primary]) < 10


async def test_dead_and_frozen_seeds_are_passed_over(nodes: Cluster) -> None:
    """One living seed is enough, wherever it stands; a frozen one costs a moment, not a timeout."""
    replica = nodes.replica_of(nodes.primaries[0])
    replica.freeze()
    try:
        alive = nodes.primaries[1]
        url = f"redis+cluster://127.0.0.1:1,{replica.host}:{replica.port},{alive.host}:{alive.port}"
        for _ in range(8):  # they are asked in random order
            store = RedisStore.from_url(url)
            began = time.monotonic()
            await store.load("k" * 22, deadline=soon())
            assert time.monotonic() - began < BOUND
            await store.close()
    finally:
        replica.thaw()
        await asyncio.to_thread(nodes.wait_ok)


async def test_no_node_at_all() -> None:
    """Promise 11: with the whole cluster gone the error comes by the deadline and says what was tried."""
    store = RedisStore.from_url("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:[12]") as caught:
        await store.load("k" * 22, deadline=soon(0.5))
    assert caught.value.executed is False
    assert time.monotonic() - began < 1
    await store.close()


async def test_a_server_that_is_no_cluster(valkey: ServerProcess) -> None:
    """The server's own words tell that the URL has the wrong scheme, and the other way round."""
    store = RedisStore.from_url(f"redis+cluster://{valkey.host}:{valkey.port}")
    with pytest.raises(StoreUnavailable, match="cluster support disabled"):
        await store.load("k" * 22, deadline=soon(0.3))
    await store.close()


async def test_a_cluster_taken_for_a_single_server(nodes: Cluster) -> None:
    """A redirection where none is followed is reported with what to change."""
    store = RedisStore.from_url(nodes.primaries[0].url)
    results = [store.load(f"{n:022d}", deadline=soon()) for n in range(30)]
    found = await asyncio.gather(*results, return_exceptions=True)
    errors = [each for each in found if isinstance(each, StoreUnavailable)]
    assert errors
    assert all("redis+cluster://" in str(error) for error in errors)
    await store.close()


async def test_announced_addresses_may_need_translation(nodes: Cluster) -> None:
    """Every node is reached by the address that the remap gives, and by no other."""
    asked: list[tuple[str, int]] = []

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        asked.append(address)
        return "localhost", address[1]

    seed = nodes.primaries[0]
    store = RedisStore.from_url(f"redis+cluster://localhost:{seed.port}", address_remap=remap)
    for number in range(30):
        await store.load(f"{number:022d}", deadline=soon())
    assert {port for _, port in asked} >= {primary.port for primary in nodes.primaries}
    backend = store._loops.backends[asyncio.get_running_loop()]
    assert {address[0] for address in backend._map.nodes} == {"localhost"}  # type: ignore[attr-defined]
    await store.close()


async def test_a_frozen_node_does_not_hold_up_the_refresh(nodes: Cluster, store: RedisStore) -> None:
    """While one primary is frozen, what was moved between the others is found at once."""
    frozen, source, target = nodes.primaries
    slot = widest(nodes, source)[3]
    (key,) = keys_in(slot, 1)
    assert await store.create(key, record(), in_an_hour(), deadline=soon()) is not TAKEN
    lost = keys_of(nodes)[frozen][0]
    assert await store.load(lost, deadline=soon()) is None
    frozen.freeze()
    try:
        waiting = asyncio.create_task(store.load(lost, deadline=soon()))
        nodes_but_frozen = [source, target]
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", nodes.ids[source])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", nodes.ids[target])
        source.command("MIGRATE", target.host, target.port, f"asgi_session:{{{key}}}", 0, 5000)
        for node in reversed(nodes_but_frozen):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", nodes.ids[target])
        began = time.monotonic()
        for _ in range(20):
            assert await store.load(key, deadline=soon()) is not None
        assert time.monotonic() - began < BOUND
    finally:
        frozen.thaw()
    assert await waiting is None


async def test_losing_the_connection_to_one_node(nodes: Cluster, store: RedisStore) -> None:
    """`distrust` drops the connection of that key's node alone."""
    by_shard = keys_of(nodes)
    keys = [keys[0] for keys in by_shard.values()]
    for key in keys:
        assert await store.load(key, deadline=soon()) is None
    backend = store._loops.backends[asyncio.get_running_loop()]
    before = {address: node.connection for address, node in backend._map.nodes.items()}  # type: ignore[attr-defined]
    store.distrust(keys[0])
    assert [c.closed for c in before.values() if c is not None].count(True) == 1
    for key in keys:
        assert await store.load(key, deadline=soon()) is None


async def test_a_lost_reply_is_told(nodes: Cluster) -> None:
    """Promise 7: a save whose reply was lost is not repeated; a load is, on a new connection."""
    key = "k" * 22
    node = nodes.primary_of(key)
    async with LossyProxy(node) as proxy:

        def remap(address: tuple[str, int]) -> tuple[str, int]:
            return (address[0], proxy.port if address[1] == node.port else address[1])

        store = RedisStore.from_url(nodes.url, address_remap=remap)
        await store.delete(key, deadline=soon())
        first, second = record("1"), record("2")
        assert await store.create(key, first, in_an_hour(), deadline=soon()) is not TAKEN
        proxy.cut_after(saves)
        with pytest.raises(StoreUnavailable) as caught:
            await store.save(key, second, in_an_hour(), expect=version(first), deadline=soon())
        assert caught.value.executed is None
        proxy.cut_after(named("get"))
        assert await store.load(key, deadline=soon()) is not None
        assert proxy.connections >= 3
        await store.close()

"""Promise 13, with a real cluster that is moved, failed over, killed and frozen under load."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from asgi_session.store import Stored
from asgi_session.stores.redis import RedisStore
from tests.servers import Cluster, ServerProcess, slot_of, start_cluster
from tests.stores.redis.load import Load, in_an_hour, record, soon

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
    assert await store.create(moved, first, in_an_hour(), deadline=soon())
    for node in nodes.nodes:
        node.command("SCRIPT", "FLUSH")
    nodes.move_slot(slot, target, finish=False)
    try:
        expires_at = in_an_hour()
        assert await store.load(moved, deadline=soon()) is not None
        second = record("second")
        saved = await store.save(moved, second, expires_at, expect=first[:16], deadline=soon())
        assert saved == (second[:16],)
        conflict = await store.save(moved, first, expires_at, expect=first[:16], deadline=soon())
        assert conflict == (Stored(second, second[:16], expires_at),)
        assert await store.touch(moved, expires_at + 1, expect=second[:16], deadline=soon())
        assert await store.load(fresh, deadline=soon()) is None
        assert await store.create(fresh, first, expires_at, deadline=soon())
        assert not await store.create(fresh, first, expires_at, deadline=soon())
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


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_primary_is_lost_under_load(nodes: Cluster, store: RedisStore, how: str) -> None:
    """Promise 13: a primary killed or frozen surfaces nothing, loses only what it had not passed on,
    and holds up no other shard."""
    by_shard = keys_of(nodes)
    primary, *others = by_shard
    replica = nodes.replica_of(primary)
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

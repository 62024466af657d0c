"""Wake-ups for who waits for a lock: early, late, lost, or none at all."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from asgi_session.errors import SessionCorrupt, StoreUnavailable
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import FaultStore
from tests.inside import (
    end_turn,
    holds_lock,
    is_granted,
    is_listening,
    listen,
    looks_under_way,
    rewrite,
    wake_up,
    with_spoilt_lease,
)
from tests.manager.kit import World, settle, start, until
from tests.manager.lock_kit import Line, held_by_somebody, self_increment


async def test_a_wake_up_that_overtakes_the_reply_to_the_exit(world: World) -> None:
    """It tells of a newer version than that reply; both come on connections of their own."""
    token = await world.new(n=0)
    a, b = world.process(), world.process()
    line, gate = Line(world, token), asyncio.Event()
    tasks = [start(line.client("a", a, gate))]
    await until(lambda: line.inside == 1)
    tasks += [await line.queue("b", b)]
    await until(lambda: is_listening(b))
    # a waits in line again behind b, so that it listens and is told of b's exit.
    listen(a)
    await until(lambda: is_listening(a))
    tasks += [await line.queue("a", a)]
    end_turn(a, token)
    reply = world.store.pause("save", when="after")
    gate.set()
    await reply.reached()
    await until(lambda: line.entered == ["a", "b"] and line.inside == 0)
    await until(lambda: is_granted(a, token))  # again, and it has heard of it
    reply.release()
    async with asyncio.timeout(1):
        await asyncio.gather(*tasks)
    assert line.entered == ["a", "b", "a"]


async def test_a_wake_up_that_overtakes_the_reply_to_another_commit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was granted the lock since that conflict is not refused on what it brings."""
    token = await world.new(n=0)
    process = world.process()
    holder = await world.load(token)
    waiter, writer = await world.load(token, process), await world.load(token, process)
    answered, delivered = asyncio.Event(), asyncio.Event()
    save = world.store.save

    async def save_with_a_slow_reply(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(world.store, "save", save)
        answer = await save(*arguments, **options)
        answered.set()
        await delivered.wait()
        return answer

    async def locked() -> None:
        async with waiter.lock():
            waiter["n"] += 1

    async with holder.lock():
        waiting = start(locked())
        await settle()
        holder["newer"] = 1
        await holder.commit()
        monkeypatch.setattr(world.store, "save", save_with_a_slow_reply)
        writer["note"] = 1
        writing = start(writer.commit())
        await answered.wait()
    await settle()
    assert not holds_lock(waiter), "it has left, and its commit queues behind the other one"
    delivered.set()
    await asyncio.gather(waiting, writing)
    assert await world.read(token) == {"n": 1, "newer": 1, "note": 1}


@pytest.mark.usefixtures("eager")
async def test_a_wake_up_that_was_lost(world: World) -> None:
    """A timed look finds the grant."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    other = world.process()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    second = await line.queue("b", other)
    await until(lambda: is_listening(other))
    world.store.lose_wakeups()
    gate.set()
    await asyncio.gather(first, second)
    assert world.store.wakeups_lost >= 1
    assert await world.read(token) == {"n": 2}


async def test_wake_ups_may_have_been_lost(world: World) -> None:
    """A store that says so has everybody look at once."""
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    other = world.process()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    second = await line.queue("b", other)
    await until(lambda: is_listening(other))
    await settle()
    world.store.lose_wakeups()
    gate.set()
    await first
    await settle()
    assert line.entered == ["a"]
    world.store.interrupt_wakeups()
    await second


class Silent:
    """A store without wake-ups."""

    def __init__(self, memory: MemoryStore) -> None:
        self.open, self.close = memory.open, memory.close
        self.load, self.create, self.save = memory.load, memory.create, memory.save
        self.touch, self.delete = memory.touch, memory.delete


async def test_a_store_without_wake_ups_is_looked_at_again(caplog: pytest.LogCaptureFixture) -> None:
    """With jitter, and it says so; the order is kept all the same."""
    caplog.set_level(logging.INFO, "asgi_session")
    world = World(Silent)
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    tasks = [first, *[start(line.client(name, world.process())) for name in "bc"]]
    await until(lambda: world.store.counts().get("save", 0) >= 3)
    gate.set()
    await asyncio.gather(*tasks)
    assert await world.read(token) == {"n": 3}
    assert "has no wake-ups" in caplog.text


async def test_a_store_that_refuses_to_wake_up(caplog: pytest.LogCaptureFixture) -> None:
    """As one without, with a warning that says why."""

    class Refusing(FaultStore):
        async def _listen(self, *args: Any, **options: Any) -> Any:
            raise StoreUnavailable("NOPERM, say")

    world = World()
    world.store = Refusing(world.memory)
    world.manager = world.process()
    token = await world.new(n=0)
    line, gate = Line(world, token), asyncio.Event()
    first = start(line.client("a", world.manager, gate))
    await until(lambda: line.inside == 1)
    second = start(line.client("b", world.process()))
    await until(lambda: "NOPERM" in caplog.text)
    gate.set()
    await asyncio.gather(first, second)
    assert await world.read(token) == {"n": 2}


async def test_a_malformed_lock_fails_who_waits(world: World) -> None:
    """Whoever can write to the store can spoil the field: that is SessionCorrupt, and nobody hangs."""
    token = await world.new(n=1)
    await held_by_somebody(world, token)
    waiting = start(self_increment(await world.load(token)))
    await until(lambda: is_listening(world.manager))
    await settle()
    await rewrite(world.memory, token[:22], with_spoilt_lease, world.clock())
    world.store.interrupt_wakeups()
    with pytest.raises(SessionCorrupt, match="lock"):
        async with asyncio.timeout(5):
            await waiting


async def test_a_wake_up_whose_load_fails_while_the_lock_is_held(world: World) -> None:
    """It costs the holder nothing: its own save will meet what there is."""
    token = await world.new(n=1)
    session = await world.load(token)
    async with session.lock():
        world.store.fail("load")
        wake_up(world.manager, token[:22])
        await until(lambda: looks_under_way(world.manager) == 0)
        session["n"] = 2
    assert world.named("released")[-1]["committed"]
    assert await world.read(token) == {"n": 2}

"""Sealed records under races, with keys that change meanwhile; and what a store in memory gets to see.

That everything else is as without seals is shown by the other modules, which run once more with them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import SessionCorrupt, SessionManager, SessionTooLarge
from asgi_session.merging import counter
from tests.inside import credential, is_committing, keys_in, new_session, seal_everything
from tests.manager.kit import World, soon, start, take_one, until

OLD, NEW = "the old key, which has at least 32 bytes", "the new key, which has at least 32 bytes"
STEPS = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
SECRETS: dict[str, Any] = {"card_number": "4111-1111-1111-1111", "note": b"raw bytes of a note"}
WORDS = [b"card_number", b"4111-1111", b"raw bytes", b"note", b"visits_so_far"]


async def use(manager: SessionManager) -> list[str]:
    """Do all that writes a record, with secrets in it; return the cookies."""
    session = await new_session(manager).load()
    session.update(SECRETS, visits_so_far=1)
    await session.commit()
    tokens = [credential(session)]
    session = await new_session(manager, tokens[0]).load()
    session["visits_so_far"] += 1
    await session.commit()
    await session.transact(lambda draft: draft.update(SECRETS, visits_so_far=3))
    async with session.lock():
        session["visits_so_far"] += 1
    session.rotate()
    await session.commit()
    tokens.append(credential(session))
    session.clear()
    session.update(SECRETS)
    await session.commit()
    tokens.append(credential(session))
    await manager.drain()
    return tokens


async def test_a_dump_of_a_store_in_memory() -> None:
    """Neither a value nor a key of a session is in anything that was sent to the store, or stays in it."""
    seen: dict[str, bytes] = {}
    tokens: list[str] = []
    for name, options in (("plain", {}), ("sealed", {"encryption_key": NEW})):
        world = World(**options)
        tokens = await use(world.manager)
        kept = [await world.memory.load(key, deadline=soon()) for key in keys_in(world.memory)]
        sent = [call.data for call in world.store.calls if call.data]
        assert len(sent) >= 6
        seen[name] = b"\n".join([*sent, *(one.data for one in kept if one is not None)])
    assert all(word in seen["plain"] for word in WORDS), "else this would show nothing"
    for word in [*WORDS, NEW.encode(), *(token[22:44].encode() for token in tokens)]:
        assert word not in seen["sealed"]


@pytest.mark.parametrize("step", range(3))
async def test_keys_change_under_races(step: int, no_jitter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promises 4 and 12: two processes at one step and the next race for a session, and nothing is lost."""
    sealed = seal_everything(monkeypatch)
    world = World(encryption_key=STEPS[step], merge={"visits": counter})
    here, there = world.manager, world.process(encryption_key=STEPS[step + 1])
    token = await world.new(visits=0, stock=20, held=0)

    async def transacts(manager: SessionManager) -> bool:
        session = await world.load(token, manager)
        return bool(await session.transact(take_one))

    async def holds(manager: SessionManager) -> None:
        session = await world.load(token, manager)
        async with session.lock(wait=20):
            held = session["held"]
            await asyncio.sleep(0)
            session["held"] = held + 1

    work = [
        each
        for manager in (here, there)
        for each in (
            *(bump(world, token, manager) for _ in range(5)),
            *(transacts(manager) for _ in range(15)),
            *(holds(manager) for _ in range(3)),
        )
    ]
    done = await asyncio.gather(*work)
    session = await world.load(token, there)
    assert session["visits"] == 10
    assert session["stock"] == 0
    assert session["held"] == 6
    assert done.count(True) == 20
    assert "corrupt" not in [name for name, _, _ in world.events]
    sealed.check()


async def bump(world: World, token: str, manager: SessionManager) -> None:
    session = await world.load(token, manager)
    session["visits"] += 1
    await session.commit()


@pytest.mark.parametrize("fault", ["lost reply", "lost request"])
async def test_what_is_sent_again_is_not_sealed_again(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 7: after a lost reply the same sealed bytes leave once more."""
    sealed = seal_everything(monkeypatch)
    world = World(encryption_key=NEW)
    token = await world.new(n=0)
    session = await world.load(token)
    before = len(sealed.plain)
    session["n"] = 1
    world.store.fail("save", fault)  # type: ignore[arg-type]
    await session.commit()
    sent = [call.data for call in world.store.calls if call.verb == "save"]
    assert len(sent) == 2
    assert len(set(sent)) == 1
    assert len(sealed.plain) == before + 1
    again = await world.load(token)
    assert again["n"] == 1


@pytest.mark.parametrize("how", ["conflict", "refresh", "transact", "lock", "outside"])
@pytest.mark.parametrize(
    ("here", "there"),
    [
        ({}, {"encryption_key": NEW, "unsealed": "accept"}),
        ({"encryption_key": OLD}, {"encryption_key": [NEW, OLD]}),
    ],
    ids=["no key", "another key"],
)
async def test_a_wrong_key_meanwhile(how: str, here: dict[str, Any], there: dict[str, Any]) -> None:
    """Promise 10: what another process has sealed with a key that is not here fails whoever meets it."""
    world = World(on_corrupt="new", **here)
    token = await world.new(n=0)
    session = await world.load(token)
    theirs = await world.load(token, world.process(**there))
    theirs["n"] = 5
    await theirs.commit()
    data = [call.data for call in world.store.calls if call.verb == "save"][-1]
    session["mine"] = 1
    with pytest.raises(SessionCorrupt, match=token[:22]) as caught:
        match how:
            case "conflict":
                await session.commit()
            case "refresh":
                await session.refresh()
            case "transact":
                session.discard()
                await session.transact(lambda draft: draft.update(n=6))
            case "lock":
                session.discard()
                async with session.lock(wait=1):
                    raise AssertionError("entered")
            case "outside":
                async with world.manager.lock(token[:22]):
                    raise AssertionError("entered")
    assert caught.value.by_seal
    assert not is_committing(session)
    stored = await world.memory.load(token[:22], deadline=soon())
    assert stored is not None
    assert stored.data == data, "it stays as it is"


async def test_a_store_cannot_lengthen_the_absolute_timeout() -> None:
    """The store may keep a record for longer, but not for longer than its seal says."""
    world = World(encryption_key=NEW, idle_timeout=60, absolute_timeout=100)
    token = await world.new(n=1)
    found = await world.memory.load(token[:22], deadline=soon())
    assert found is not None
    assert await world.memory.touch(
        token[:22], found.expires_at + 1_000_000_000, expect=found, deadline=soon()
    )
    world.clock.advance(90)
    assert dict(await world.load(token)) == {"n": 1}, "the limit that the page on sealing names"
    world.clock.advance(11)
    assert dict(await world.load(token)) == {}


@pytest.mark.parametrize("how", ["create", "save"])
async def test_max_size_is_what_the_store_gets(how: str) -> None:
    """A session that just fits is stored with its seal, and one byte more is refused."""
    world = World(encryption_key=NEW, max_size=400)
    sizes: list[int] = []
    session = await world.load(await world.new())
    with pytest.raises(SessionTooLarge) as caught:
        for length in range(200, 400):
            if how == "create":
                session = await world.session().load()
            session["x"] = "y" * length
            await session.commit()
            stored = await world.memory.load(session.id or "", deadline=soon())
            assert stored is not None
            sizes.append(len(stored.data))
    assert caught.value.size == 401
    assert max(sizes) == 400


async def test_a_lock_passes_between_keys() -> None:
    """Promise 12: a process that seals with another key waits for the lock, and gets the newest data."""
    world = World(encryption_key=[OLD, NEW])
    other = world.process(encryption_key=[NEW, OLD])
    token = await world.new(n=0)
    entered = asyncio.Event()

    async def waits() -> int:
        session = await world.load(token, other)
        async with session.lock(wait=10):
            entered.set()
            session["n"] += 1
        return int(session["n"])

    session = await world.load(token)
    async with session.lock():
        waiting = start(waits())
        await until(lambda: sum(call.verb == "save" for call in world.store.calls) >= 2)
        assert not entered.is_set()
        session["n"] = 10
    assert await waiting == 11

"""What `Session.discard` takes back, and what a second `destroy` does not do again."""

from __future__ import annotations

from tests.manager.kit import World


async def test_discard(world: World) -> None:
    """What was changed since the last commit is as it was; a destroy() is not taken back."""
    token = await world.new(n=1, cart=[1])
    session = await world.load(token)
    session["n"] = 2
    session["cart"].append(2)
    session["more"] = 3
    session.rotate()
    session.discard()
    assert not session.modified
    assert dict(session) == {"n": 1, "cart": [1]}
    session.clear()
    session["new"] = 1
    session.discard()
    assert dict(session) == {"n": 1, "cart": [1]}
    session["n"] = 5
    await session.commit()
    session.discard()
    assert session["n"] == 5
    session.destroy()
    session.discard()
    await session.commit()
    assert await world.read(token) is None
    new = world.session()
    await new.load()
    new["n"] = 1
    new.discard()
    assert dict(new) == {}
    await new.commit()
    assert new.is_new


async def test_discard_of_a_session_that_could_not_be_loaded() -> None:
    """What cannot be saved is taken back, so that the request need not fail for it."""
    world = World(on_unavailable="anonymous")
    token = await world.new(n=1)
    world.store.fail("load", "refused")
    session = await world.load(token)
    session["n"] = 2
    session.discard()
    assert not session.modified
    assert dict(session) == {}
    await session.commit()
    assert await world.read(token) == {"n": 1}


async def test_discard_of_a_session_that_has_moved_on(world: World) -> None:
    """Nor is it reported as dropped when it was taken back before."""
    token = await world.new(n=1)
    other = await world.load(token)
    other.rotate()
    await other.commit()
    session = await world.load(token)
    session["n"] = 2
    session.discard()
    assert not session.modified
    assert dict(session) == {}


async def test_destroying_twice_is_destroying_once() -> None:
    """A second destroy() after the commit asks for nothing."""
    world = World()
    session = await world.load(await world.new())
    session.destroy()
    await session.commit()
    session.destroy()
    assert session.modified is False

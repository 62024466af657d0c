"""rotate, clear and destroy: what they allow, what they leave, which cookie they owe."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from asgi_session import Session, SessionError, SessionGone, SessionNotLoaded
from tests.unit.world import START, World


@pytest.fixture
async def world() -> World:
    return World()


async def test_rotate(world: World) -> None:
    """Promise 8: a new cookie, the same id, age and data; the old cookie is dead at once."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    before = session.id, session.created_at
    session.rotate()
    assert session.modified
    await world.respond(session)
    assert (session.id, session.created_at) == before
    assert (session == {"a": 1}, session.modified, world.owed(session)) == (True, False, "cookie")
    new = world.cookie(session)
    assert new != cookie
    assert await world.stored(new) == {"a": 1}
    assert await world.stored(cookie) == {}


async def test_rotate_saves_changes_too(world: World) -> None:
    """A login that rotates and sets values is one save."""
    session = await world.load(await world.create(a=1, b=2))
    session.rotate()
    session["user"] = "ada"
    del session["b"]
    await world.respond(session)
    assert world.store.counts() == {"load": 1, "save": 1}
    assert await world.stored(world.cookie(session)) == {"a": 1, "user": "ada"}


async def test_rotate_of_a_new_session_costs_nothing(world: World) -> None:
    """Promise 1: without data there is nothing to rotate; with data the session is new anyway."""
    session = await world.load()
    session.rotate()
    await world.respond(session)
    assert (world.store.calls, world.owed(session), session.modified) == ([], "nothing", False)
    session = await world.load()
    session.rotate()
    session["a"] = 1
    await world.respond(session)
    assert world.store.counts() == {"create": 1}
    assert await world.stored(world.cookie(session)) == {"a": 1}


@pytest.mark.parametrize("grace", [15, 15.0, timedelta(seconds=15)])
async def test_rotate_with_grace(grace: Any, world: World) -> None:
    """Promise 8: with a grace the old cookie is good until the new one has come back, and so long after."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    session.rotate(grace=grace)
    await world.respond(session)
    new = world.cookie(session)
    world.clock.advance(86400)
    assert await world.stored(cookie) == {"a": 1}
    assert await world.stored(new) == {"a": 1}
    await world.manager.drain()
    world.clock.advance(14.999)
    assert await world.stored(cookie) == {"a": 1}
    world.clock.advance(0.001)
    assert await world.stored(cookie) == {}
    assert await world.stored(new) == {"a": 1}


@pytest.mark.parametrize("grace", [0, -1, 3601, float("nan"), timedelta(0), timedelta(days=1)])
async def test_bad_graces(grace: Any, world: World) -> None:
    """A grace that is none, or longer than an hour, is refused and leaves no mark."""
    session = await world.load(await world.create(a=1))
    with pytest.raises(ValueError, match=r"rotate\(grace=.*at most an hour"):
        session.rotate(grace=grace)
    assert not session.modified


async def test_the_stronger_rotation_wins(world: World) -> None:
    """Promise 8: a login's rotate() is not weakened by a periodic one before or after it."""
    for graces in ([None, 15], [15, None]):
        cookie = await world.create(a=1)
        session = await world.load(cookie)
        for grace in graces:
            session.rotate(grace=grace)
        await world.respond(session)
        assert await world.stored(cookie) == {}
        assert await world.stored(world.cookie(session)) == {"a": 1}


async def test_two_grace_rotations_at_once_hand_out_one_cookie(world: World) -> None:
    """Promise 14: of parallel periodic rotations one sets a cookie; both keep their data."""
    cookie = await world.create(a=1)
    one, other = await world.load(cookie), await world.load(cookie)
    one.rotate(grace=15)
    other.rotate(grace=15)
    other["b"] = 2
    await world.respond(one)
    await world.respond(other)
    assert (world.owed(one), world.owed(other)) == ("cookie", "nothing")
    assert await world.stored(world.cookie(one)) == {"a": 1, "b": 2}
    assert "dropped" in world.names()


async def test_rotate_needs_the_headers(world: World) -> None:
    """A rotation whose cookie could not reach the client is refused; the session stays as it is."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    world.seal(session)
    with pytest.raises(SessionError, match="Call it before you return the response"):
        session.rotate()
    await session.commit()
    assert await world.stored(cookie) == {"a": 1}


@pytest.mark.parametrize("loaded", [True, False])
async def test_destroy(loaded: bool, world: World) -> None:
    """Promise 5: the session ends for every cookie; this one is deleted; the record goes in a minute."""
    cookie = await world.create(a=1)
    session = world.request(cookie)
    if loaded:
        await session.load()
    session.destroy()
    assert (session.loaded, session.modified, dict(session)) == (True, True, {})
    await world.respond(session)
    assert (world.owed(session), session.modified, session.id) == ("deletion", False, None)
    assert await world.stored(cookie) == {}
    assert len(world.memory) == 1
    world.clock.advance(60)
    assert len(world.memory) == 0


@pytest.mark.parametrize("committed", [True, False])
async def test_after_destroy_writing_raises(committed: bool, world: World) -> None:
    """Writing after destroy() is a mistake in the app and says so; reading reads empty."""
    session = await world.load(await world.create(a=[1]))
    held = session["a"]
    session.destroy()
    if committed:
        await world.respond(session)
    for write in (
        lambda: session.__setitem__("a", 1),
        lambda: session.update(a=1),
        lambda: session.update(),
        lambda: session.setdefault("a", 1),
        lambda: session.pop("a", None),
        lambda: session.popitem(),
        lambda: session.__delitem__("a"),
        lambda: session.rotate(),
        lambda: session.clear(),
    ):
        with pytest.raises(SessionGone, match=r"use clear\(\)"):
            write()
    held.append(2)
    assert session == {}
    await world.respond(session)
    assert (session.get("a"), world.owed(session)) == (None, "deletion")


async def test_destroy_of_nothing(world: World) -> None:
    """Promise 1: without a cookie, destroying costs no command and sets no cookie."""
    for session in (world.request(), await world.load()):
        session.destroy()
        await world.respond(session)
        assert world.owed(session) == "nothing"
        with pytest.raises(SessionGone):
            session["a"] = 1
    assert world.store.calls == []


async def test_clear_and_set(world: World) -> None:
    """Promise 8: what is set after clear() begins a new identity, with its own age and cookie."""
    cookie = await world.create(a=1, cart=[1])
    session = await world.load(cookie)
    cart = session["cart"]
    world.clock.advance(100)
    session.clear()
    session["user"] = "ada"
    cart.append(2)
    await world.respond(session)
    assert (world.owed(session), session) == ("cookie", {"user": "ada"})
    later = await world.load(world.cookie(session))
    assert later == {"user": "ada"}
    assert later.created_at is not None
    assert later.created_at.timestamp() * 1000 == START + 100_000
    assert await world.stored(cookie) == {}


async def test_clear_keeps_what_is_set_again(world: World) -> None:
    """A value carried over a clear() is stored in the new identity, though its bytes are the same."""
    session = await world.load(await world.create(a=1, b=[2]))
    kept = session["b"]
    session.clear()
    session["b"] = kept
    await world.respond(session)
    assert await world.stored(world.cookie(session)) == {"b": [2]}


@pytest.mark.parametrize("loaded", [True, False])
async def test_clear_alone_ends_the_session(loaded: bool, world: World) -> None:
    """Promise 5: clear() with nothing set afterwards is Starlette's logout."""
    cookie = await world.create(a=1)
    session = world.request(cookie)
    if loaded:
        await session.load()
    session.clear()
    await world.respond(session)
    assert world.owed(session) == "deletion"
    assert await world.stored(cookie) == {}


async def test_clear_then_set_after_the_commit(world: World) -> None:
    """After a committed logout the same request may begin a new session, under a new id."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    old = session.id
    session.clear()
    await session.commit()
    session["b"] = 2
    await session.commit()
    assert session.id not in (old, None)
    assert await world.stored(world.cookie(session)) == {"b": 2}
    assert await world.stored(cookie) == {}


async def test_an_unloaded_clear_and_set_is_not_loaded_by_the_handler(world: World) -> None:
    """A login that clears first needs no load; the commit looks at the cookie by itself."""
    cookie = await world.create(a=1)
    session = world.request(cookie)
    session.clear()
    session["user"] = "ada"
    assert session == {"user": "ada"}
    assert world.store.calls == []
    await world.respond(session)
    assert await world.stored(world.cookie(session)) == {"user": "ada"}
    assert await world.stored(cookie) == {}
    assert session.id not in (None, cookie[:22])


async def test_set_clear_set(world: World) -> None:
    """Only what was set after the last clear() counts."""
    for cookie in (await world.create(a=1), None):
        session = await world.load(cookie)
        session["x"] = 1
        session.clear()
        session["y"] = 1
        session.clear()
        session["z"] = 1
        await world.respond(session)
        assert await world.stored(world.cookie(session)) == {"z": 1}


async def test_a_rotation_after_clear_changes_nothing(world: World) -> None:
    """clear() gives a new identity already; rotate() after it neither weakens it nor brings data back."""
    session = await world.load(await world.create(a=1))
    session.clear()
    session.rotate(grace=15)
    session["b"] = 1
    await world.respond(session)
    assert await world.stored(world.cookie(session)) == {"b": 1}


@pytest.mark.parametrize("mark", ["clear", "destroy"])
async def test_ending_while_a_commit_is_on_its_way(mark: str, world: World) -> None:
    """Promise 5: an end that comes during a save follows it, and what that save wrote ends too."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    session["a"] = 2
    gate = world.store.pause("save")
    saving = asyncio.create_task(session.commit())
    await gate.reached()
    getattr(session, mark)()
    assert session == {}
    gate.release()
    await saving
    assert session == {}
    assert session.modified
    await session.commit()
    assert world.owed(session) == "deletion"
    assert await world.stored(cookie) == {}


async def test_rotating_while_a_commit_is_on_its_way(world: World) -> None:
    """A mark set during a commit is carried out by the next one, not swallowed by the first."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    session["a"] = 2
    gate = world.store.pause("save")
    saving = asyncio.create_task(session.commit())
    await gate.reached()
    session.rotate()
    gate.release()
    await saving
    assert world.owed(session) == "nothing"
    assert session.modified
    await session.commit()
    assert world.owed(session) == "cookie"
    assert await world.stored(cookie) == {}
    assert await world.stored(world.cookie(session)) == {"a": 2}


async def test_clearing_while_the_session_is_created(world: World) -> None:
    """A session that is cleared during its own creation ends again: no record outlives it."""
    session = await world.load()
    session["a"] = 1
    gate = world.store.pause("create")
    saving = asyncio.create_task(session.commit())
    await gate.reached()
    session.clear()
    gate.release()
    await saving
    await session.commit()
    assert (session, world.owed(session)) == ({}, "nothing")  # its cookie has never left
    world.clock.advance(60)
    assert len(world.memory) == 0


async def test_a_failed_mark_is_kept(world: World) -> None:
    """Promise 11: a logout that the store did not take is not forgotten; the next commit does it."""
    cookie = await world.create(a=1)
    session = await world.load(cookie)
    session.destroy()
    world.store.fail("save")
    with pytest.raises(SessionError):
        await session.commit()
    assert (session.modified, world.owed(session)) == (True, "nothing")
    await session.commit()
    assert await world.stored(cookie) == {}


async def test_a_detached_session(world: World) -> None:
    """Promise 8: a cookie rotated away a moment ago reads empty, writes nowhere, and sets no cookie."""
    cookie = await world.create(a=1)
    login = await world.load(cookie)
    login.rotate()
    await world.respond(login)
    late = await world.load(cookie)
    assert (late, late.is_new, late.id) == ({}, False, None)
    late["b"] = 1
    await world.respond(late)
    assert (late, world.owed(late)) == ({}, "nothing")
    for wish in (late.commit, late.refresh):
        with pytest.raises(SessionGone):
            await wish()
    again = await world.load(cookie)
    again["c"] = 1
    with pytest.raises(SessionGone):
        await again.commit()
    assert await world.stored(world.cookie(login)) == {"a": 1}


@pytest.mark.parametrize("mark", ["rotate", "clear"])
@pytest.mark.parametrize("overtaken", [True, False])
async def test_a_login_from_a_detached_session_is_not_lost(mark: str, overtaken: bool, world: World) -> None:
    """Promise 8: it becomes a new session under a new id, with its own keys and nobody else's."""
    cookie = await world.create(a=1)
    early = await world.load(cookie)
    other = await world.load(cookie)
    other.rotate()
    await world.respond(other)
    session = early if overtaken else await world.load(cookie)
    getattr(session, mark)()
    session["user"] = "ada"
    await world.respond(session)
    assert (session, world.owed(session)) == ({"user": "ada"}, "cookie")
    assert session.id not in (other.id, None)
    assert await world.stored(world.cookie(session)) == {"user": "ada"}
    assert await world.stored(world.cookie(other)) == {"a": 1}


async def test_after_a_minute_a_retired_cookie_is_just_unknown(world: World) -> None:
    """Promise 8: it then gets a new session, whose id is not the old one."""
    cookie = await world.create(a=1)
    login = await world.load(cookie)
    login.rotate()
    await world.respond(login)
    world.clock.advance(60)
    session = await world.load(cookie)
    assert session.is_new
    session["b"] = 1
    await world.respond(session)
    assert session.id not in (login.id, None)
    assert world.owed(session) == "cookie"


@pytest.mark.parametrize("mark", ["rotate", "clear", "destroy"])
async def test_what_came_too_late_to_be_marked(mark: str, world: World) -> None:
    """After the headers only ending is possible: a rotation needs a cookie, an end does not."""
    cookie = await world.create(a=1)
    session: Session = await world.load(cookie)
    world.seal(session)
    if mark == "rotate":
        with pytest.raises(SessionError):
            session.rotate()
        return
    getattr(session, mark)()
    await world.respond(session)
    assert await world.stored(cookie) == {}


async def test_marks_and_the_unloaded(world: World) -> None:
    """rotate() needs a loaded session; clear() and destroy() do not."""
    session = world.request(await world.create(a=1))
    with pytest.raises(SessionNotLoaded):
        session.rotate()
    session.clear()
    session.destroy()
    assert await session.load() == {}


async def test_the_same_value_set_again_after_a_clear_during_a_commit(world: World) -> None:
    """Promise 8: what a commit on its way has saved does not count for the identity begun meanwhile."""
    session = await world.load(await world.create(a=1))
    session["a"] = 2
    gate = world.store.pause("save")
    saving = asyncio.create_task(session.commit())
    await gate.reached()
    session.clear()
    session["a"] = 2
    gate.release()
    await saving
    await session.commit()
    assert world.owed(session) == "cookie"
    assert await world.stored(world.cookie(session)) == {"a": 2}

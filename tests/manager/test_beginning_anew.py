"""What begins anew, by clear() or in a new record, knows nothing of what was before, and loses nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import SessionGone, StoreUnavailable
from asgi_session.merging import counter
from tests.inside import credential, owed_by, status_of
from tests.manager.kit import World, settle, start


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("options", [{"on_conflict": "raise"}, {}, {"merge": {"user": counter}}])
async def test_clear_and_set_compares_with_nothing(options: dict[str, Any], loaded: bool) -> None:
    """Promise 8: no conflict with the identity that it ends, no rule that sees its values, no event."""
    world = World(**options)
    token = await world.new(user="text of A", cart=[1])
    session = world.session(token)
    if loaded:
        await session.load()
        assert session["user"] == "text of A"
    session.clear()
    session["user"] = 5
    await session.commit()
    assert await world.read(credential(session)) == {"user": 5}
    assert world.named("overwritten") == []


async def test_discard_while_a_new_record_is_made() -> None:
    """Promise 8: what is in hand afterwards is what is stored, and nothing of the identity before."""
    world = World()
    session = await world.load(await world.new(secret=["of A"], user="A"))
    await world.manager.revoke(session.id or "")
    session.rotate()
    session["user"] = "B"
    gate = world.store.pause("create")
    task = start(session.commit())
    await gate.reached()
    session.discard()
    gate.release()
    await task
    assert dict(session) == {"user": "B"}
    session["more"] = 1
    await session.commit()
    assert await world.read(credential(session)) == {"user": "B", "more": 1}


async def test_what_is_set_while_a_new_record_is_made() -> None:
    """Promise 8: a login that is set in that moment is not lost, though the old record had the key."""
    world = World()
    session = await world.load(await world.new(user="guest", other=1))
    await world.manager.revoke(session.id or "")
    session.rotate()
    session["cart"] = 1
    gate = world.store.pause("create")
    task = start(session.commit())
    await gate.reached()
    session["user"] = "B"
    gate.release()
    await task
    await session.commit()
    assert await world.read(credential(session)) == {"cart": 1, "user": "B"}


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_what_a_transaction_has_set_goes_along(asynchronous: bool) -> None:
    """Promise 8: as what a commit has saved does."""
    world = World()
    session = await world.load(await world.new(a=1))

    async def later(draft: Any) -> None:
        draft["user"] = "me"

    await session.transact(later if asynchronous else lambda draft: draft.update(user="me"))
    await world.manager.revoke(session.id or "")
    session.rotate()
    session["fresh"] = 1
    await session.commit()
    assert await world.read(credential(session)) == {"user": "me", "fresh": 1}


async def test_ending_what_one_created_deletes_nobodys_cookie() -> None:
    """Promise 14: a detached request that creates and destroys leaves the newer cookie alone."""
    world = World()
    token = await world.new(user="alice")
    login = await world.load(token)
    login.rotate()
    await login.commit()
    late = await world.load(token)
    assert status_of(late) == "detached"
    late.clear()
    late["tmp"] = 1
    await late.commit()
    assert owed_by(late) == "cookie"
    late.destroy()
    await late.commit()
    assert owed_by(late) == "nothing"


async def test_clear_and_commit_while_a_load_is_on_its_way() -> None:
    """What is set after clear() stays, though a load that began before ends after it."""
    world = World()
    token = await world.new()
    session = world.session(token)
    slow = world.store.pause("load")
    loading = start(session.load())
    await slow.reached()
    session.clear()
    session["user"] = "bob"
    committing = start(session.commit())
    await settle()
    slow.release()
    await asyncio.gather(loading, committing)
    assert dict(session) == {"user": "bob"}
    assert await world.read(credential(session)) == {"user": "bob"}
    assert not session.modified


async def test_a_login_while_a_commit_finds_the_session_gone() -> None:
    """clear() and what follows are not lost with a commit on its way that turns out to be too late."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    await world.manager.revoke(token[:22])
    saving = world.store.pause("save")
    session["late"] = 1
    committing = start(session.commit())
    await saving.reached()
    session.clear()
    session["user"] = "bob"
    saving.release()
    with pytest.raises(SessionGone):
        await committing
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}


async def test_a_login_that_fails_to_begin_anew_can_be_tried_again() -> None:
    """Promise 5: a login whose session ended, and whose new one could not be stored, is not half done."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    await world.manager.revoke(token[:22])
    session.rotate()
    session["user"] = "bob"
    world.store.fail("create")
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert owed_by(session) == "nothing"
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}
    assert dict(session) == {"user": "bob"}, "nothing of the identity that has ended"


@pytest.mark.parametrize("change", ["clear", "destroy"])
async def test_an_ending_before_the_load_that_fails(change: str) -> None:
    """The load that its commit needs fails the commit; the ending is carried out by the next one."""
    world = World()
    token = await world.new(user="alice")
    session = world.session(token)
    getattr(session, change)()
    world.store.fail("load")
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert await world.read(token) == {"user": "alice"}
    await session.commit()
    assert await world.read(token) is None

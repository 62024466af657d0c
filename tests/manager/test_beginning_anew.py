"""What begins anew, by clear() or in a new record, knows nothing of what was before, and loses nothing."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_session.merging import counter
from tests.manager.kit import World, credential, start


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

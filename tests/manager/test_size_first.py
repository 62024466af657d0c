"""Promise 15: what is too large is refused by its size, before anybody walks through it."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_session import SessionTooLarge
from tests.inside import note_checks
from tests.manager.kit import World


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys whose values were walked."""
    return note_checks(monkeypatch)


SHAPES: list[Any] = ["x" * 5000, [""] * 5000, {"k": {f"{n}": [n] for n in range(1000)}}, list(range(3000))]


@pytest.mark.parametrize("value", SHAPES, ids=["text", "list", "nested", "numbers"])
@pytest.mark.parametrize("new", [True, False], ids=["new session", "stored session"])
async def test_a_large_change(value: Any, new: bool, walked: list[str]) -> None:
    """One key, or all keys together: nothing is written, nothing walked, and the event tells."""
    world = World(max_size=2000)
    for values in ({"big": value}, {f"k{n}": "x" * 300 for n in range(10)}):
        session = await world.session().load() if new else await world.load(await world.new(n=1))
        world.store.calls.clear()
        world.events.clear()
        walked.clear()
        session.update(values)
        with pytest.raises(SessionTooLarge) as caught:
            await session.commit()
        assert caught.value.size > 2000
        assert caught.value.max_size == 2000
        assert walked == []
        assert world.store.calls == []
        assert [name for name, _, _ in world.events] == ["failed"]


async def test_a_session_that_shrinks(walked: list[str]) -> None:
    """Above the limit, since that was lowered, only growth is refused."""
    world = World()
    token = await world.new(a="x" * 5000, b=1)
    small = world.process(max_size=2000)
    session = await world.load(token, small)
    session["a"] = "y" * 4999
    await session.commit()
    assert await world.read(token) == {"a": "y" * 4999, "b": 1}
    session["a"] = "z" * 5001
    with pytest.raises(SessionTooLarge):
        await session.commit()
    session.discard()
    session["b"] = 3
    await session.commit()


async def test_transactions(walked: list[str]) -> None:
    """The same for what a transaction's function has made."""
    world = World(max_size=2000)
    session = await world.load(await world.new(n=1))
    walked.clear()

    async def later(draft: Any) -> None:
        draft["big"] = [""] * 5000

    for function in (lambda draft: draft.update(big=[""] * 5000), later):
        with pytest.raises(SessionTooLarge):
            await session.transact(function)
    assert walked == []


async def test_a_refresh_looks_at_no_size() -> None:
    """It writes nothing: whoever was refused can take over what others have saved."""
    world = World(max_size=2000)
    session = await world.load(await world.new(n=1))
    session["big"] = "x" * 5000
    with pytest.raises(SessionTooLarge):
        await session.commit()
    await session.refresh()
    session["big"] = "small"
    await session.commit()


async def test_a_new_record_that_is_too_large_as_a_whole() -> None:
    """Values that would fit do not with what the record needs besides: nothing is written."""
    world = World(max_size=400)
    session = await world.session().load()
    session["a"] = "x" * 380
    with pytest.raises(SessionTooLarge):
        await session.commit()
    assert world.store.counts() == {}
    session["a"] = "x" * 200
    await session.commit()
    assert world.store.counts() == {"create": 1}

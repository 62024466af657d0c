"""What `Session.transact` may be given to run, and what that may do with its draft."""

from __future__ import annotations

import asyncio
import copy
import functools
from typing import Any

import pytest

from asgi_session import Session
from asgi_session.errors import SessionError, SessionSerializationError, SessionTooLarge
from tests.manager.kit import World, settle, start, take_one, take_one_slowly
from tests.manager.lock_kit import Gate


@pytest.mark.parametrize(
    ("value", "error"), [("x" * 90_000, SessionTooLarge), (object(), SessionSerializationError)]
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_what_cannot_be_stored(
    world: World, value: Any, error: type[Exception], asynchronous: bool
) -> None:
    """An error, nothing written, and the session is as it was."""

    def spoil(draft: Session) -> None:
        draft["stock"] = value

    async def spoil_slowly(draft: Session) -> None:
        spoil(draft)

    token = await world.new(stock=1)
    session = await world.load(token)
    with pytest.raises(error):
        await session.transact(spoil_slowly if asynchronous else spoil)
    assert session["stock"] == 1
    assert not session.modified
    assert await world.read(token) == {"stock": 1}


@pytest.mark.parametrize("name", ["rotate", "clear", "destroy", "commit", "refresh", "lock", "transact"])
async def test_a_draft_is_only_data(world: World, name: str) -> None:
    """What would be done more than once, or wait for itself, is refused by name."""

    def misuse(draft: Session) -> Any:
        return getattr(draft, name)(*([len] if name == "transact" else []))

    async def misuse_slowly(draft: Session) -> Any:
        return await misuse(draft)

    token = await world.new(stock=1)
    session = await world.load(token)
    awaited = name in ("commit", "refresh", "transact")
    with pytest.raises(SessionError, match=rf"Call {name}\(\) on the session itself"):
        await session.transact(misuse_slowly if awaited else misuse)
    assert await world.read(token) == {"stock": 1}


async def test_functions_of_other_kinds(world: World) -> None:
    """Partials, methods, callable objects, async ones too; one that returns an awaitable is refused."""

    class Takes:
        def plain(self, draft: Session) -> bool:
            return take_one(draft)

        async def __call__(self, draft: Session) -> bool:
            return await take_one_slowly(draft)

    async def with_amount(amount: int, draft: Session) -> bool:
        draft["stock"] -= amount
        return True

    token = await world.new(stock=9)
    session = await world.load(token)
    for function in (
        Takes().plain,
        Takes(),
        functools.partial(with_amount, 1),
        lambda draft: take_one(draft),
    ):
        assert await session.transact(function) is True
    assert await world.read(token) == {"stock": 5}
    with pytest.raises(TypeError, match="async def"):
        await session.transact(lambda draft: take_one_slowly(draft))
    with pytest.raises(TypeError, match="takes a function"):
        await session.transact(3)  # type: ignore[call-overload]
    assert await world.read(token) == {"stock": 5}


async def test_an_awaitable_from_a_plain_function_of_a_new_session(world: World) -> None:
    """As for one that is stored."""
    session = world.session()

    async def late() -> None: ...

    with pytest.raises(TypeError, match="async def"):
        await session.transact(lambda draft: late())


async def test_a_function_that_is_cancelled_cancels_nobody_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs in the task of whoever saves."""
    token = await world.new(n=0)
    one, two = await world.load(token), await world.load(token)
    newer = await world.load(token, world.process())
    newer["newer"] = 1
    await newer.commit()
    gate = Gate(world, monkeypatch)
    one["one"] = 1
    leader = start(one.commit())
    await settle()
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    follower = start(two.transact(lambda draft: cancelled.result()))
    await settle()
    gate.opened.set()
    await leader
    with pytest.raises(RuntimeError, match="CancelledError"):
        await follower
    assert await world.read(token) == {"n": 0, "newer": 1, "one": 1}


async def test_a_copy_of_a_draft_is_a_dict(world: World) -> None:
    """As one of a session is."""
    session = await world.load(await world.new(n=[1]))
    copied = await session.transact(copy.copy)
    assert type(copied) is dict
    assert copied == {"n": [1]}

"""Errors of a foreign store: whatever it raises is the app's to see, and nothing is left behind."""

from __future__ import annotations

import asyncio
import logging

import pytest

from asgi_session.errors import StoreUnavailable
from tests.inside import saves_under_way
from tests.manager.kit import World, credential


class Refused(Exception):
    """One that `copy.copy` cannot make again, as httpx's HTTPStatusError."""

    def __init__(self, message: str, *, request: object) -> None:
        super().__init__(message)
        self.request = request


class Away(StoreUnavailable):
    def __init__(self, message: str, *, host: str) -> None:
        super().__init__(message, executed=False)
        self.host = host


@pytest.mark.parametrize("error", [Refused("503", request=object()), Away("503", host="store")])
async def test_an_error_that_cannot_be_copied(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 11: the app sees it at once, and the next commit of the session works."""
    world = World(deadline=5)
    token = await world.new()
    session = await world.load(token)

    async def fail(*args: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "save", fail)
        session["a"] = 1
        with pytest.raises(type(error)):
            await asyncio.wait_for(session.commit(), 3)
    assert not saves_under_way(world.manager)
    await asyncio.wait_for(session.commit(), 3)
    assert dict(await world.load(token))["a"] == 1
    await asyncio.wait_for(world.manager.drain(), 3)


async def test_a_touch_that_a_foreign_store_breaks(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a touch raises is an event: no request fails, no task ends with an error nobody saw."""
    world = World()
    session = await world.session().load()
    session["a"] = 1
    await session.commit()

    async def broken(*args: object, **options: object) -> bool:
        raise ConnectionResetError("foreign")

    world.memory.touch = broken  # type: ignore[method-assign, assignment]
    with caplog.at_level(logging.ERROR):
        await world.load(credential(session))
        await world.manager.drain()
    assert isinstance(world.named("touch_failed")[0]["error"], ConnectionResetError)
    assert not caplog.records


@pytest.mark.parametrize("verb", ["save", "create"])
async def test_what_a_foreign_store_raises_reaches_the_commit(verb: str) -> None:
    """An exception that is none of ours fails the commit; the next one works."""
    world = World()
    token = await world.new()
    session = await (world.load(token) if verb == "save" else world.session().load())

    async def broken(*args: object, **options: object) -> None:
        raise ConnectionResetError("foreign")

    right = getattr(world.memory, verb)
    setattr(world.memory, verb, broken)
    session["mine"] = 1
    with pytest.raises(ConnectionResetError):
        await session.commit()
    await world.manager.drain()
    setattr(world.memory, verb, right)
    await session.commit()
    assert (await world.read(credential(session)) or {})["mine"] == 1

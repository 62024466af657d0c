"""Errors of a foreign store: whatever it raises is the app's to see, and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from asgi_session.errors import StoreUnavailable
from tests.inside import saves_under_way
from tests.manager.kit import World


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

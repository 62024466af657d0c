"""A change that needs a cookie, after the headers have left."""

from __future__ import annotations

import pytest

from asgi_session import SessionError, SessionGone
from tests.inside import commit, seal
from tests.manager.kit import World


async def test_commit_of_a_new_session_after_the_headers() -> None:
    """The error says what to do, not that a session had ended which never was."""
    world = World()
    session = await world.session().load()
    seal(session)
    session["a"] = 1
    with pytest.raises(SessionError, match="needs a new cookie") as caught:
        await session.commit()
    assert not isinstance(caught.value, SessionGone)


async def test_a_rotation_whose_response_will_never_leave() -> None:
    """Promise 14: a rotation is not carried out when its cookie can no longer reach the client."""
    world = World(save_on_error=True)
    token = await world.new()
    session = await world.load(token)
    session.rotate()
    session["user"] = "bob"
    seal(session)  # as when the request was cancelled before its response started
    await commit(world.manager, session, explicit=False)
    assert await world.read(token) == {"old": 1}
    assert world.named("dropped")[-1]["reason"] == "late"
    await commit(world.manager, session, explicit=False)
    assert await world.read(token) == {"old": 1}

"""Replies lost between a real server and the manager, with others saving before the retry gets through."""

from __future__ import annotations

import asyncio

import pytest

from asgi_session import Session, SessionConflict, SessionManager
from asgi_session.stores import RedisStore
from tests.inside import new_session
from tests.manager.kit import credential
from tests.servers import LossyProxy, ServerProcess, saves


async def request(manager: SessionManager, token: str) -> Session:
    return await new_session(manager, token).load()


@pytest.mark.parametrize(("others", "known"), [(0, True), (1, True), (7, True), (8, False), (20, False)])
async def test_a_lost_reply_with_others_before_the_retry(
    valkey: ServerProcess, others: int, known: bool
) -> None:
    """Promise 7: executed once, and reported as saved or as of unknown outcome; never twice."""
    released = False
    async with LossyProxy(valkey) as proxy:
        near = SessionManager(RedisStore.from_url(valkey.url))
        far = SessionManager(RedisStore.from_url(proxy.url), deadline=20)
        session = await new_session(near).load()
        for value in (None, 0):  # the second is a save: the server knows the script from now on
            session["mine"] = value
            await session.commit()
        token = credential(session)
        slow = await request(far, token)
        slow["mine"] = 1
        await far.drain()  # its touch
        # The first save is executed and its reply lost; no retry reaches the server before the release.
        lost = proxy.cut_after(saves)
        for _ in range(500):
            proxy.cut_before(lambda command: lost.is_set() and not released and saves(command))
        saving = asyncio.create_task(slow.commit())
        await lost.wait()
        for number in range(others):
            other = await request(near, token)
            assert other["mine"] == (1 if number == 0 else number + 1), "applied before the others"
            other["mine"] = number + 2
            await other.commit()
        released = True
        if known:
            await saving
        else:
            with pytest.raises(SessionConflict) as caught:
                await saving
            assert caught.value.outcome_unknown
        assert (await request(near, token))["mine"] == others + 1, "applied once"
        for manager in (near, far):
            await manager.drain()
            await manager.store.close()

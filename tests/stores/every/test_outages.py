"""A server that freezes, and one that is killed and comes back."""

from __future__ import annotations

import asyncio

from asgi_session import SessionMiddleware
from tests.inside import new_session
from tests.stores.every.kinds import Kind, breakable, over
from tests.stores.every.site import Answered, Site, ask, count_app

DEADLINE = 0.7
GRACE = 0.5


@over(breakable)
async def test_frozen_and_killed(kind: Kind, fresh_site: Site) -> None:
    """Promise 11: meanwhile all requests are answered with 503 within the deadline; the first one
    afterwards is served, with its session where the server keeps what it has."""
    machine = fresh_site.machine
    assert machine is not None
    store = fresh_site.store()
    app = SessionMiddleware(count_app, store=store, deadline=DEADLINE)
    cookie = (await ask(app, "first")).cookie
    await serves(app, "confirmed", cookie)

    machine.freeze()
    await answers_503(app, cookie)
    machine.thaw()
    await serves(app, "thawed", cookie)
    assert {"first", "confirmed", "thawed"} <= await keys(app, cookie)

    if not kind.dies:
        await app.manager.drain()
        return
    machine.kill()
    await answers_503(app, cookie)
    await asyncio.to_thread(machine.restart)
    await kind.prepare(fresh_site.store())
    answer = await serves(app, "restarted", cookie)
    assert await keys(app, answer.cookie) >= {"restarted"} | ({"first", "thawed"} if kind.keeps else set())
    await app.manager.drain()


async def serves(app: SessionMiddleware, key: str, cookie: str) -> Answered:
    """Make a request that is served."""
    answer = await ask(app, key, cookie)
    assert answer.status == 200
    assert answer.seconds < DEADLINE + GRACE
    return answer


async def answers_503(app: SessionMiddleware, cookie: str) -> None:
    """Make requests, some with a session and some without, one wave after the other."""
    for _ in range(2):
        wave = [ask(app, f"never {number}", cookie if number % 2 else "") for number in range(20)]
        answers = await asyncio.gather(*wave)
        assert {answer.status for answer in answers} == {503}
        assert max(answer.seconds for answer in answers) < DEADLINE + GRACE


async def keys(app: SessionMiddleware, cookie: str) -> set[str]:
    """Return the keys of a cookie's session."""
    return set(await new_session(app.manager, cookie).load())

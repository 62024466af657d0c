"""Many requests at once, and several event loops and threads with one store."""

from __future__ import annotations

import asyncio

from asgi_session import SessionManager, SessionMiddleware
from tests.inside import new_session
from tests.manager.kit import credential
from tests.stores.every.kinds import Kind, over
from tests.stores.every.site import Site, ask, count_app

DEADLINE = 10.0
GRACE = 1.0
"""By how much an answer may be late where 500 requests share a processor."""


@over()
async def test_five_hundred_requests(kind: Kind, site: Site) -> None:
    """Promise 11: of 500 requests at once each is answered within the deadline, with 200 or 503; then all
    is well, and what was answered with 200 is there."""
    store = site.store()
    app = SessionMiddleware(count_app, store=store, deadline=DEADLINE)
    cookies = [(await ask(app, "first")).cookie for _ in range(50)]
    crowd = [(cookies[number % 50], str(number)) for number in range(500)]
    answers = await asyncio.gather(*(ask(app, key, cookie) for cookie, key in crowd))
    assert {answer.status for answer in answers} <= {200, 503}
    assert max(answer.seconds for answer in answers) < DEADLINE + GRACE
    assert sum(answer.status == 200 for answer in answers) > 250, "most of them are served"
    async with asyncio.timeout(DEADLINE):
        after = await asyncio.gather(*(ask(app, "last", cookie) for cookie in cookies))
    assert {answer.status for answer in after} == {200}
    for index, cookie in enumerate(cookies):
        known = {key for number, key in crowd_of(crowd, index) if answers[number].status == 200}
        assert known | {"first", "last"} <= set(await new_session(app.manager, cookie).load())
    await app.manager.drain()


def crowd_of(crowd: list[tuple[str, str]], index: int) -> list[tuple[int, str]]:
    """Return the numbers and keys of the requests of one of the 50 sessions."""
    return [(number, key) for number, (_, key) in enumerate(crowd) if number % 50 == index]


@over()
async def test_threads_with_a_loop_each(kind: Kind, site: Site) -> None:
    """Threads whose loops share a manager lose none of the writes to one session, closed or not closed."""
    store = site.store()
    manager = SessionManager(store, deadline=30)
    session = await new_session(manager).load()
    session["old"] = True
    await session.commit()
    token = credential(session)

    async def write(thread: int, *, close: bool) -> None:
        async def client(number: int) -> None:
            mine = await new_session(manager, token).load()
            mine[f"{thread}.{number}"] = True
            await mine.commit()

        await asyncio.gather(*(client(number) for number in range(20)))
        await manager.drain()
        if close:
            await store.close()

    def run(thread: int) -> None:
        asyncio.run(write(thread, close=thread % 2 == 0))

    await asyncio.gather(*(asyncio.to_thread(run, thread) for thread in range(4)), write(4, close=False))
    found = await new_session(manager, token).load()
    assert set(found) == {"old"} | {f"{thread}.{number}" for thread in range(5) for number in range(20)}
    await manager.drain()

"""Handlers that race each other, and what holds in whatever order their steps come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from asgi_session import Session
from tests.manager.explorer import Explorer, Handler, Run
from tests.manager.kit import World

PROCESSES = pytest.mark.parametrize("one_process", [True, False], ids=["one process", "two processes"])


async def prepare(world: World) -> str:
    return await world.new(old=1)


def handler(change: Callable[[Session], Any], *, load: bool = True) -> Handler:
    async def run(session: Session) -> None:
        if load:
            await session.load()
        change(session)

    return run


def write(key: str) -> Handler:
    return handler(lambda session: session.__setitem__(key, key))


def _rotate_and_set(session: Session) -> None:
    session.rotate()
    session["user"] = "bob"


def _clear_and_set(session: Session) -> None:
    session.clear()
    session["user"] = "bob"


def _rotate(session: Session) -> None:
    session.rotate()


def _rotate_with_grace(session: Session) -> None:
    session.rotate(grace=15)
    session["seen"] = 1


LOGIN_BY_ROTATION = handler(_rotate_and_set)
LOGIN_BY_CLEAR = handler(_clear_and_set)
LOGIN_UNLOADED = handler(_clear_and_set, load=False)
LOGOUTS = {
    "destroy": handler(lambda session: session.destroy()),
    "destroy unloaded": handler(lambda session: session.destroy(), load=False),
    "clear": handler(lambda session: session.clear()),
    "clear unloaded": handler(lambda session: session.clear(), load=False),
}
PLAIN = handler(_rotate)
GRACE = handler(_rotate_with_grace)


async def check_answers(run: Run) -> None:
    """What holds in every order: no request failed, no cookie undid one that is still good."""
    assert set(run.status.values()) == {200}
    living = await run.living()
    if living:
        assert run.jar == living[-1], "a response's cookie undid a newer one"


async def explore(requests: dict[str, Handler], one_process: bool, **options: Any) -> AsyncIterator[Run]:
    orders = 0
    async for run in Explorer(prepare, requests, one_process=one_process, **options).runs():
        orders += 1
        yield run
    assert orders > 10

"""A change that is lost because another request changed the same key is told, and nothing else is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import Session
from asgi_session.merging import counter
from tests.inside import credential, forget_told
from tests.manager.kit import World, start


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_told(monkeypatch)


async def two(world: World, **values: Any) -> tuple[Session, Session]:
    """Return a session as two processes have loaded it."""
    token = await world.new(**values)
    pair = await world.load(token), await world.load(token, world.process())
    world.events.clear()
    return pair


def overwritten(world: World) -> list[list[str]]:
    return [info["keys"] for info in world.named("overwritten")]


@pytest.mark.parametrize(
    ("theirs", "mine", "lost"),
    [
        ({"a": 2}, {"a": 3}, ["a"]),
        ({"a": 2, "b": 2}, {"a": 3, "b": 3}, ["a", "b"]),
        ({"a": 2}, {"a": 2}, []),
        ({"a": 2}, {"b": 3}, []),
        ({"a": None}, {"a": 3}, ["a"]),
        ({"a": 2}, {"a": None}, ["a"]),
        ({"a": None}, {"a": None}, []),
        ({"new": 1}, {"new": 2}, ["new"]),
        ({"new": 1}, {"new": 1}, []),
    ],
)
@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "in one batch"])
async def test_what_is_lost(
    theirs: dict[str, Any], mine: dict[str, Any], lost: list[str], together: bool
) -> None:
    """Keys that both have changed to different values, deletions included; equal values are no loss."""
    world = World()
    first, second = await two(world, a=1, b=1)
    if together:
        token = credential(first)  # type: ignore[arg-type]
        second = await world.load(token)
        blocker = await world.load(token)
        gate = world.store.pause("save")
        blocker["blocker"] = 1
        waiting = start(blocker.commit())
        await gate.reached()
    for session, values in ((first, theirs), (second, mine)):
        for key, value in values.items():
            if value is None:
                del session[key]
            else:
                session[key] = value
    if together:
        commits = [start(first.commit())]
        await asyncio.sleep(0)
        commits.append(start(second.commit()))
        await asyncio.sleep(0)
        gate.release()
        await asyncio.gather(waiting, *commits)
    else:
        await first.commit()
        await second.commit()
    assert overwritten(world) == ([lost] if lost else [])


async def test_a_value_has_its_own_origin() -> None:
    """What was seen is not overwritten: a refresh, one's own commits, a value read after a merge."""
    world = World()
    first, second = await two(world, a=1, b=1)
    first["a"] = 2
    await first.commit()
    await second.refresh()
    second["a"] = 3
    await second.commit()
    second["a"] = 4
    await second.commit()
    first["b"] = 5
    await first.commit()
    assert overwritten(world) == []
    first["a"] = 6
    await first.commit()
    assert overwritten(world) == [["a"]], "the 4 was never seen by the first"


async def test_transactions_and_rules_lose_nothing() -> None:
    """They work on the newest value."""
    world = World(merge={"n": counter})
    first, second = await two(world, n=1, m=1)
    for session in (first, second):
        session["n"] += 1
        await session.commit()
        await session.transact(lambda draft: draft.update(m=draft["m"] + 1))
    assert overwritten(world) == []
    for session in (first, second):
        await session.refresh()
    first["m"], second["m"] = 8, 9
    await first.commit()
    await second.commit()
    assert overwritten(world) == [["m"]], "a key without a rule, beside one that has one"


async def test_the_log_names_the_remedy_once_per_key(caplog: pytest.LogCaptureFixture) -> None:
    """And no more than a hundred keys per process, since names may be without bound."""
    world = World()
    first, second = await two(world, a=1)
    for number in range(3):
        for session in (first, second):
            session["a"] = f"{number} {id(session)}"
            await session.commit()
    assert len(world.named("overwritten")) >= 3
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "merge={'a': ...}" in lines[0]
    for session in (first, second):
        session.update({f"cart:{number}": id(session) for number in range(150)})
        await session.commit()
    assert len(caplog.records) == 100


async def test_it_costs_no_command() -> None:
    """Promise 2: it is found in what the conflict brings."""
    world = World()
    first, second = await two(world, a=1)
    world.store.calls.clear()
    first["a"], second["a"] = 2, 3
    await first.commit()
    await second.commit()
    assert world.store.counts() == {"save": 3}

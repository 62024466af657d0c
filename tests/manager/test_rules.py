"""Merge rules and `on_conflict`: what becomes of a key that two requests change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session import Session, SessionManager, merging
from asgi_session.errors import ConfigurationError, SessionConflict, SessionSerializationError
from asgi_session.stores.memory import MemoryStore
from tests.inside import commits_queued
from tests.manager.kit import World, start, until


async def two(world: World, token: str) -> tuple[Session, Session]:
    """Return the session as two requests in two processes have loaded it."""
    return await world.load(token), await world.load(token, world.process())


def sorts(base: Any, mine: Any, theirs: Any) -> Any:
    """Tell what it was called with."""
    return [base, mine, theirs]


async def test_a_rule_is_asked_when_both_have_changed_the_key() -> None:
    """It gets what the value was decoded from, mine and theirs; other keys merge as ever."""
    world = World(merge={"key": sorts})
    token = await world.new(key=0, other=0)
    mine, theirs = await two(world, token)
    theirs["key"], theirs["other"] = "theirs", 1
    await theirs.commit()
    mine["key"] = "mine"
    await mine.commit()
    assert await world.read(token) == {"key": [0, "mine", "theirs"], "other": 1}


@pytest.mark.parametrize("change", ["mine", "theirs"])
async def test_a_rule_is_not_asked_when_one_has_changed_it(change: str) -> None:
    """One side's change needs no merging."""

    def never(base: Any, mine: Any, theirs: Any) -> Any:
        raise AssertionError

    world = World(merge={"key": never})
    token = await world.new(key=0, other=0)
    mine, theirs = await two(world, token)
    theirs["other"] = 1
    if change == "theirs":
        theirs["key"] = "changed"
    else:
        mine["key"] = "changed"
    await theirs.commit()
    mine["third"] = 3
    await mine.commit()
    assert await world.read(token) == {"key": "changed", "other": 1, "third": 3}


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "seen"),
    [
        (None, 1, 2, [None, 1, 2]),
        (0, None, 2, [0, None, 2]),
        (0, 1, None, [0, 1, None]),
    ],
)
async def test_a_key_that_is_not_there_is_none(base: Any, mine: Any, theirs: Any, seen: list[Any]) -> None:
    """Created by both, deleted by me, deleted by them."""
    world = World(merge={"key": sorts})
    token = await world.new(**({"key": base} if base is not None else {"old": 1}))
    one, other = await two(world, token)
    for session, value in ((one, mine), (other, theirs)):
        if value is None:
            del session["key"]
        else:
            session["key"] = value
    await other.commit()
    await one.commit()
    read = await world.read(token)
    assert read is not None
    assert read["key"] == seen


async def test_a_rule_that_returns_none_removes_the_key() -> None:
    """So a rule can delete."""
    world = World(merge={"key": lambda base, mine, theirs: None})
    token = await world.new(key=0, old=1)
    mine, theirs = await two(world, token)
    theirs["key"], mine["key"] = 1, 2
    await theirs.commit()
    await mine.commit()
    assert await world.read(token) == {"old": 1}


async def test_counts_of_many_requests_are_all_there() -> None:
    """In one process and in several, whatever is saved together; equal values are two changes."""
    world = World(merge={"n": merging.counter})
    token = await world.new(n=0)
    managers = [world.process() for _ in range(3)]
    sessions = [await world.load(token, manager) for manager in managers for _ in range(20)]
    for session in sessions:
        session["n"] += 1
    await asyncio.gather(*(session.commit() for session in sessions))
    assert await world.read(token) == {"n": 60}


async def test_the_next_commit_of_a_merged_session_counts_from_its_own_value() -> None:
    """A session keeps the value it has seen after a merge; what it adds next is added to the store's."""
    world = World(merge={"n": merging.counter})
    token = await world.new(n=0)
    mine, theirs = await two(world, token)
    theirs["n"] += 10
    await theirs.commit()
    mine["n"] += 1
    await mine.commit()
    assert mine["n"] == 1
    mine["n"] += 1
    await mine.commit()
    assert await world.read(token) == {"n": 12}
    await mine.refresh()
    assert mine["n"] == 12
    mine["n"] += 1
    await mine.commit()
    assert await world.read(token) == {"n": 13}


async def test_a_refresh_keeps_my_change_a_change_of_what_it_was_made_on() -> None:
    """Or the others' increments would be undone by it."""
    world = World(merge={"n": merging.counter})
    token = await world.new(n=0)
    mine, theirs = await two(world, token)
    mine["n"] += 1
    theirs["n"] += 10
    await theirs.commit()
    await mine.refresh()
    await mine.commit()
    assert await world.read(token) == {"n": 11}


async def test_a_lost_reply_does_not_merge_twice() -> None:
    """Promise 7: the identical bytes are sent again, not the rule's next result."""
    world = World(merge={"n": merging.counter})
    token = await world.new(n=0)
    mine, theirs = await two(world, token)
    theirs["n"] += 10
    await theirs.commit()
    mine["n"] += 1
    world.store.fail("save", "lost reply", nth=2)
    await mine.commit()
    assert await world.read(token) == {"n": 11}


async def test_a_rule_that_fails_fails_its_commit_alone() -> None:
    """Others that were to be saved with it are saved."""

    def picky(base: Any, mine: Any, theirs: Any) -> Any:
        raise ZeroDivisionError("in the rule")

    world = World(merge={"key": picky})
    token = await world.new(key=0)
    first, second = [await world.load(token) for _ in range(2)]
    blocker, theirs = [await world.load(token) for _ in range(2)]
    gate = world.store.pause("save")
    blocker["b"] = 1
    tasks = [start(blocker.commit())]
    await gate.reached()
    theirs["key"], first["key"], second["c"] = 1, 2, 3
    tasks += [start(session.commit()) for session in (theirs, first, second)]
    await until(lambda: commits_queued(world.manager, token) == 3)
    gate.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), type(None), ZeroDivisionError, type(None)]
    assert await world.read(token) == {"key": 1, "b": 1, "c": 3}
    assert first.modified, "its change is still there to be committed"


async def test_a_rule_that_returns_what_cannot_be_stored() -> None:
    """The error names the key, as for any other value."""
    world = World(merge={"key": lambda base, mine, theirs: object()})
    token = await world.new(key=0)
    mine, theirs = await two(world, token)
    theirs["key"], mine["key"] = 1, 2
    await theirs.commit()
    with pytest.raises(SessionSerializationError, match="'key'"):
        await mine.commit()


async def test_without_a_rule_mine_wins() -> None:
    """The default, and the documented one."""
    world = World(merge={"else": merging.counter})
    token = await world.new(key=0)
    mine, theirs = await two(world, token)
    theirs["key"], mine["key"] = 1, 2
    await theirs.commit()
    await mine.commit()
    assert await world.read(token) == {"key": 2}


async def test_on_conflict_raise() -> None:
    """Both values are in the error, nothing of the commit is written; after a refresh mine wins."""
    world = World(on_conflict="raise", merge={"n": merging.counter})
    token = await world.new(key=0, n=0)
    mine, theirs = await two(world, token)
    theirs["key"], theirs["n"] = 1, 1
    await theirs.commit()
    mine["key"], mine["n"], mine["more"] = 2, 1, 3
    with pytest.raises(SessionConflict, match="'key'") as caught:
        await mine.commit()
    assert (caught.value.key, caught.value.mine, caught.value.theirs) == ("key", 2, 1)
    assert not caught.value.outcome_unknown
    assert await world.read(token) == {"key": 1, "n": 1}
    with pytest.raises(SessionConflict):
        await mine.commit()
    await mine.refresh()
    await mine.commit()
    assert await world.read(token) == {"key": 2, "n": 2, "more": 3}


async def test_on_conflict_raise_is_no_matter_when_both_wrote_the_same() -> None:
    """Equal values conflict with nothing; nor does a key that I left alone."""
    world = World(on_conflict="raise")
    token = await world.new(key=0, other=0)
    mine, theirs = await two(world, token)
    theirs["key"] = mine["key"] = 1
    theirs["other"] = 1
    await theirs.commit()
    await mine.commit()
    assert await world.read(token) == {"key": 1, "other": 1}


async def test_on_conflict_raise_with_deletions() -> None:
    """A deletion is a change: None in the error."""
    world = World(on_conflict="raise")
    token = await world.new(key=0, old=1)
    mine, theirs = await two(world, token)
    del theirs["key"]
    await theirs.commit()
    mine["key"] = 2
    with pytest.raises(SessionConflict) as caught:
        await mine.commit()
    assert (caught.value.mine, caught.value.theirs) == (2, None)


async def two_args(base: Any, mine: Any) -> Any:
    return mine


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"merge": merging.counter}, "merge="),
        ({"merge": {1: merging.counter}}, "merge: session keys are str"),
        ({"merge": {"n": "counter"}}, r"merge\['n'\]"),
        ({"merge": {"n": two_args}}, r"merge\['n'\]"),
        ({"merge": {"n": merging.by_key}}, "has to be called"),
        ({"merge": {"n": lambda base, mine: mine}}, r"rule\(base, mine, theirs\)"),
        ({"on_conflict": "theirs"}, "on_conflict"),
    ],
)
def test_options_are_checked_when_they_are_given(options: dict[str, Any], named: str) -> None:
    """By name, with what to give instead."""
    with pytest.raises(ConfigurationError, match=named):
        SessionManager(MemoryStore(), **options)


@pytest.mark.parametrize("rule", [merging.by_key, 3, two_args, lambda base, mine: mine])
def test_so_is_the_rule_within_a_rule(rule: Any) -> None:
    """As above."""
    with pytest.raises(ConfigurationError, match=r"by_key\("):
        merging.by_key(rule)


async def test_an_error_in_a_rule_names_the_key() -> None:
    """A rule may serve several keys."""
    world = World(merge={"n": merging.counter})
    token = await world.new(n=0)
    mine, theirs = await two(world, token)
    theirs["n"], mine["n"] = 1, "one"
    await theirs.commit()
    with pytest.raises(TypeError) as caught:
        await mine.commit()
    assert caught.value.__notes__ == ["in the merge rule of session['n']"]


async def test_a_rule_that_asks_a_cancelled_future() -> None:
    """The commit fails with an error of its own: nobody was cancelled, it runs in anybody's task."""

    def asks(base: Any, mine: Any, theirs: Any) -> Any:
        raise asyncio.CancelledError

    world = World(merge={"key": asks})
    token = await world.new(key=0)
    mine, theirs = await world.load(token), await world.load(token, world.process())
    mine["key"], theirs["key"] = 1, 2
    await theirs.commit()
    with pytest.raises(RuntimeError, match=r"rule of session\['key'\] raised CancelledError"):
        await mine.commit()
    assert await world.read(token) == {"key": 2}


async def test_a_builtin_as_a_rule() -> None:
    """`max` does not tell its parameters, and is a rule."""
    world = World(merge={"all": max})
    token = await world.new(all=1)
    mine, theirs = await world.load(token), await world.load(token, world.process())
    mine["all"], theirs["all"] = 2, 3
    await theirs.commit()
    await mine.commit()
    assert await world.read(token) == {"all": 3}

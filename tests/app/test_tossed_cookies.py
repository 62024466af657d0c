"""Several cookies of our name: what others planted neither signs the user out nor costs much."""

from __future__ import annotations

from itertools import permutations

import pytest

from asgi_session import Session, SessionCorrupt
from tests.inside import MAX_CANDIDATES, credential, fresh_token, new_session, rewrite, status_of
from tests.manager.kit import World, soon, start


def carrying(world: World, *tokens: str) -> Session:
    return new_session(world.manager, *tokens)


async def ended(world: World) -> str:
    token = await world.new(dead=True)
    session = await world.load(token)
    session.destroy()
    await session.commit()
    world.events.clear()
    world.store.calls.clear()
    return token


@pytest.mark.parametrize("place", range(4))
async def test_ended_sessions_around_the_users_own(place: int) -> None:
    """Three ended sessions were planted: the user's own opens, wherever it stands, and a login works."""
    world = World()
    planted = [await ended(world) for _ in range(3)]
    own = await world.new(user="ada")
    tokens = [*planted[:place], own, *planted[place:]]
    session = carrying(world, *tokens)
    assert await session.load() == {"user": "ada"}
    assert world.named("ambiguous") == [{"count": 4}]
    session.rotate()
    session["user"] = "bob"
    await session.commit()
    assert await world.read(credential(session)) == {"user": "bob"}


async def test_every_order_of_four() -> None:
    """What opens wins over what is retired, unknown or no token at all."""
    world = World()
    own, retired = await world.new(user="ada"), await ended(world)
    unknown = fresh_token(world.manager)
    for tokens in permutations([own, retired, unknown, "junk"]):
        session = carrying(world, *tokens)
        assert await session.load() == {"user": "ada"}


async def test_no_more_than_four_are_looked_up() -> None:
    """Promise 15: however many cookies come, the store is asked for two from either end, each once."""
    world = World()
    tokens = [fresh_token(world.manager) for _ in range(500)]
    session = carrying(world, *tokens, *tokens)
    await session.load()
    assert status_of(session) == "new"
    assert [call.key for call in world.store.calls] == [token[:22] for token in [*tokens[:2], *tokens[-2:]]]
    assert MAX_CANDIDATES == 4


async def test_one_token_twice_is_one() -> None:
    """A browser that has the same cookie under two paths costs no second lookup."""
    world = World()
    token = await world.new(user="ada")
    world.store.calls.clear()
    assert await carrying(world, token, token).load() == {"user": "ada"}
    assert world.store.counts() == {"load": 1}


async def test_a_flood_of_malformed_cookies_is_one_event() -> None:
    """With the count; and one more if there were several, whatever they were."""
    world = World()
    await carrying(world, *["junk"] * 4000).load()
    assert world.events == [
        ("malformed", None, {"count": 4000}),
        ("ambiguous", None, {"count": 4000}),
    ]
    assert world.store.calls == []


async def test_one_cookie_is_not_ambiguous() -> None:
    """The ordinary request tells of nothing but its load."""
    world = World()
    token = await world.new(user="ada")
    task = start(carrying(world, token).load())
    await task
    assert world.events == []
    assert world.loaded[-1] == token[:22]


async def test_a_corrupt_cookie_beside_a_good_one() -> None:
    """Of duplicate cookies the first that verifies counts, whatever the one before it led to."""
    world = World()
    bad, good = await world.new(a=1), await world.new(b=2)
    selector = bad[:22]
    stored = await world.memory.load(selector, deadline=soon())
    assert stored is not None
    await rewrite(world.memory, selector, stored.data[:16] + b"\xff" + stored.data[17:])
    assert await new_session(world.manager, bad, good).load() == {"b": 2}
    with pytest.raises(SessionCorrupt):
        await world.load(bad)


async def test_malformed_cookies_do_not_hide_the_good_one() -> None:
    """Three planted cookies that are none cost nothing, so the fourth is still looked at."""
    world = World()
    token = await world.new(a=1)
    assert await new_session(world.manager, "junk", "junk", "junk", token).load() == {"a": 1}

"""A user's sessions: listed, ended one by one, all but one, at the cap, by another key; what that costs."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_session import SessionError, SessionInfo
from asgi_session.errors import SignInRefused
from tests.inside import commit, credential, fresh_id, introduce, keys_in, new_session, owed_by
from tests.manager.kit import World, soon


def world(**options: Any) -> World:
    return World(**{"identity": "user", **options})


async def sign_in(of: World, user: Any = "ada", **more: Any) -> str:
    """Sign somebody in, and come back once; return the token."""
    of.clock.advance(1)
    return await of.new(user=user, **more)


async def listed(of: World, user: Any = "ada", **more: Any) -> list[SessionInfo]:
    """Return what a process of its own tells of a user's sessions."""
    return [info async for info in of.process().sessions_of(user, **more)]


async def living(of: World, tokens: list[str]) -> list[str]:
    """Return those of the tokens that open a session."""
    return [token for token in tokens if await of.read(token) is not None]


async def test_what_is_told() -> None:
    """Id, times, description, and which one is asking; the oldest first."""
    of = world(idle_timeout=1000)
    began = of.clock()
    tokens = [await sign_in(of), await sign_in(of), await sign_in(of, "bob")]
    of.clock.advance(400)
    await of.load(tokens[1])
    await of.manager.drain()
    of.clock.advance(10)
    first, second = await listed(of, current=tokens[1][:22])
    assert [first.id, second.id] == [token[:22] for token in tokens[:2]]
    assert [first.current, second.current] == [False, True]
    assert [round(one.created_at.timestamp() * 1000) - began for one in (first, second)] == [1000, 2000]
    assert [round(one.last_seen.timestamp() * 1000) - began for one in (first, second)] == [1000, 403_000]
    assert round(first.expires_at.timestamp() * 1000) - began == 1_001_000


async def test_listing_costs_one_load_each() -> None:
    """n sessions cost n + 1 loads, and the n leave together."""
    of = world()
    for _ in range(5):
        await sign_in(of)
    of.store.calls.clear()
    assert len(await listed(of)) == 5
    assert [call.verb for call in of.store.calls] == ["load"] * 6


async def test_a_sign_in_costs_three_more() -> None:
    """From nobody: the index's load and save, and one more look, beside the record's own create."""
    of = world()
    await sign_in(of)
    session = await of.session().load()
    session["user"] = "ada"
    of.store.calls.clear()
    await session.commit()
    assert [call.verb for call in of.store.calls] == ["load", "save", "create", "load"]


async def test_one_signed_in_costs_what_one_of_nobodys_does() -> None:
    """Promise 2: reads and writes of somebody who is signed in cost no more than others'."""
    of = world()
    for token in (await of.new(x=1), await sign_in(of, x=1)):
        of.store.calls.clear()
        session = await of.load(token)
        session["x"] = 2
        await session.commit()
        assert [call.verb for call in of.store.calls] == ["load", "save"]


async def test_revoke_one() -> None:
    """A stranger's id does nothing; one's own ends; the next request of the revoked one reads empty."""
    of = world()
    adas, bobs = await sign_in(of), await sign_in(of, "bob")
    assert await of.manager.revoke(bobs[:22], principal="ada") is False
    assert await of.manager.revoke(fresh_id(), principal="ada") is False
    assert await living(of, [adas, bobs]) == [adas, bobs]
    assert await of.manager.revoke(adas[:22], principal="ada") is True
    await of.manager.drain()
    assert await living(of, [adas, bobs]) == [bobs]
    assert await listed(of) == []
    assert await of.manager.revoke(adas[:22], principal="ada") is False


async def test_revoke_all_but_one() -> None:
    """`except_` stays; what ended is told in number and events; other users are untouched."""
    of = world()
    tokens = [await sign_in(of) for _ in range(4)]
    bobs = await sign_in(of, "bob")
    assert await of.manager.revoke_user("ada", except_=tokens[2][:22]) == 3
    assert await living(of, tokens) == [tokens[2]]
    assert await living(of, [bobs]) == [bobs]
    assert [info.id for info in await listed(of)] == [tokens[2][:22]]
    assert len(of.named("revoked")) == 3
    assert await of.manager.revoke_user("ada") == 1
    assert await of.manager.revoke_user("ada") == 0
    assert await listed(of) == []


async def test_revoked_requests_in_flight_save_nothing() -> None:
    """Promise 5: what a revoked session still wants to write is dropped."""
    of = world()
    token = await sign_in(of)
    session = await of.load(token)
    await of.manager.revoke_user("ada")
    session["late"] = 1
    await commit(of.manager, session, explicit=False)
    assert await living(of, [token]) == []
    assert owed_by(session) == "nothing"


async def test_a_sign_in_that_began_before_is_refused() -> None:
    """Its request may have checked the old password; one that begins later is let in."""
    of = world()
    request = new_session(of.manager)
    introduce(request, of.clock())
    await request.load()
    of.clock.advance(5)
    assert await of.manager.revoke_user("ada") == 0
    request["user"] = "ada"
    with pytest.raises(SignInRefused, match="revoked"):
        await request.commit()
    await of.manager.drain()
    assert await listed(of) == []
    token = await sign_in(of)
    assert await living(of, [token]) == [token]
    of.clock.advance(61)
    request = new_session(of.manager)
    introduce(request, of.clock() - 120_000)
    await request.load()
    request["user"] = "ada"
    await request.commit()  # remembered for a minute


async def test_at_the_cap_the_oldest_ends() -> None:
    """One more ends the sign-in that is oldest; an event tells; never more than the cap live."""
    of = world(max_sessions_per_user=3)
    tokens = [await sign_in(of) for _ in range(4)]
    of.clock.advance(1)
    session = await of.session().load()
    session["user"] = "ada"
    await session.commit()
    await of.manager.drain()
    assert [session_id for name, session_id, _ in of.events if name == "evicted"] == [tokens[1][:22]]
    tokens.append(credential(session))
    assert await living(of, tokens) == tokens[2:]
    assert [info.id for info in await listed(of)] == [token[:22] for token in tokens[2:]]


async def test_at_the_cap_one_more_is_refused() -> None:
    """With "refuse" the others stay, and the session that wanted to sign in is as it was."""
    of = world(max_sessions_per_user=2, on_max_sessions="refuse")
    tokens = [await sign_in(of) for _ in range(2)]
    old = await of.new(cart=1)
    session = await of.load(old)
    session["user"] = "ada"
    with pytest.raises(SignInRefused, match="max_sessions_per_user"):
        await session.commit()
    await of.manager.drain()
    assert await living(of, [*tokens, old]) == [*tokens, old]
    assert await of.read(old) == {"cart": 1}


async def test_what_is_dead_takes_up_no_place() -> None:
    """Sessions that have expired do not keep their user out."""
    of = world(max_sessions_per_user=2, on_max_sessions="refuse", idle_timeout=100)
    for _ in range(2):
        await sign_in(of)
    of.clock.advance(200)
    token = await sign_in(of)
    assert await living(of, [token]) == [token]
    assert [info.id for info in await listed(of)] == [token[:22]]


async def test_dead_entries_disappear() -> None:
    """What has expired is not listed, and its entry is removed; an empty index expires."""
    of = world(idle_timeout=100)
    await sign_in(of)
    of.clock.advance(200)
    assert await listed(of) == []
    before = len(of.store.calls)
    assert await listed(of) == []
    assert len(of.store.calls) == before + 1  # nothing to look up any more
    (key,) = [key for key in keys_in(of.memory) if key[-1] not in "AQgw"]
    of.clock.advance(61)
    assert await of.memory.load(key, deadline=soon()) is None


async def test_description_and_moved() -> None:
    """It is that of the sign-in, at most 256 bytes; another one later is an event."""
    words = ["phone" + "é" * 200]
    of = world(describe=lambda connection: words[0])
    session = new_session(of.manager)
    introduce(session, of.clock(), object())
    await session.load()
    session["user"] = "ada"
    await session.commit()
    token = credential(session)
    (info,) = await listed(of)
    assert info.description == "phone" + "é" * 125
    words[0] = "desktop"
    later = new_session(of.manager, token)
    introduce(later, of.clock(), object())
    await later.load()
    assert of.named("moved") == [{"was": info.description, "now": "desktop"}]


async def test_revoke_where() -> None:
    """Sessions are found by a further key, at the sign-in or set later; each ends."""
    of = world(index=("sid",))
    first, second = await sign_in(of, sid="s1"), await sign_in(of)
    other = await sign_in(of, "bob", sid="s2")
    session = await of.load(second)
    session["sid"] = "s1"
    await session.commit()
    assert await of.manager.revoke_where(sid="s1") == 2
    assert await living(of, [first, second, other]) == [other]
    session = await of.load(other)
    session["sid"] = "s3"
    await session.commit()
    await of.manager.drain()
    assert await of.manager.revoke_where(sid="s2") == 0
    assert await of.manager.revoke_where(sid="s3") == 1
    assert await living(of, [other]) == []


async def test_a_further_index_without_identity() -> None:
    """It needs no `identity`."""
    of = World(index=("sid",))
    token = await of.new(sid="s1", x=1)
    assert await of.manager.revoke_where(sid="s1") == 1
    assert await living(of, [token]) == []


async def test_get_and_session() -> None:
    """`get` reads with one load; `session` saves what its block changes, and nothing of one that fails."""
    of = world()
    token = await sign_in(of, cart=1)
    of.store.calls.clear()
    found = await of.manager.get(token[:22])
    assert found is not None
    assert dict(found) == {"user": "ada", "cart": 1}
    assert [call.verb for call in of.store.calls] == ["load"]
    async with of.manager.session(token[:22]) as session:
        session["cart"] = 2
    with pytest.raises(KeyError):
        async with of.manager.session(token[:22]) as session:
            session["cart"] = 3
            session["nothing"]
    assert await of.read(token) == {"user": "ada", "cart": 2}
    expires = await of.expiry(token)
    assert expires <= of.clock() + 14 * 24 * 3600_000
    assert await of.manager.get(fresh_id()) is None
    with pytest.raises(SessionError):
        async with of.manager.session(fresh_id()):
            pass
    with pytest.raises(ValueError, match="session id"):
        await of.manager.get(token)


async def test_an_index_is_no_session() -> None:
    """Promise 8: nobody gets at an index by its key, neither by a cookie nor from outside."""
    of = world()
    await sign_in(of)
    (key,) = [key for key in keys_in(of.memory) if key[-1] not in "AQgw"]
    for ask in (of.manager.get(key), of.manager.revoke(key), of.manager.revoke(key, principal="ada")):
        with pytest.raises(ValueError, match="session id"):
            await ask
    assert await of.read(key + key) is None
    assert len(await listed(of)) == 1


async def test_a_longer_lifetime_stays_listed() -> None:
    """A session that is given a later end is in the index until then: the index is written first."""
    of = world(index=("sid",), absolute_timeout=1000, idle_timeout=1000)
    token = await sign_in(of, sid="s1")
    session = await of.load(token)
    session.set_lifetime(idle=10_000, absolute=10_000)
    of.store.calls.clear()
    await session.commit()
    assert [call.verb for call in of.store.calls] == ["load", "save", "load", "save", "save"]
    await of.load(token)
    await of.manager.drain()
    of.clock.advance(2000)
    assert [info.id for info in await listed(of)] == [token[:22]]
    assert await of.manager.revoke_where(sid="s1") == 1
    assert await living(of, [token]) == []

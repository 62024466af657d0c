"""Indexes that somebody has forged, copied or spoilt; and sign-ins that meet what they did not expect."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from asgi_session import SessionManager
from asgi_session.errors import (
    LockLost,
    SessionCorrupt,
    SessionError,
    SessionGone,
    SessionTooLarge,
    SignInRefused,
    StoreUnavailable,
)
from tests.inside import (
    changed,
    credential,
    decoded,
    encoded,
    entries_in_index,
    fresh_id,
    index_key_of,
    introduce,
    keys_in,
    new_session,
    owed_by,
    record_of,
    rewrite,
    seal,
    status_of,
)
from tests.manager.kit import World, soon


def world(**options: Any) -> World:
    return World(**{"identity": "user", **options})


async def sign_in(of: World, user: Any = "ada", **more: Any) -> str:
    """Sign somebody in, and come back once; return the token."""
    of.clock.advance(1)
    return await of.new(user=user, **more)


async def listed(of: World, user: Any = "ada") -> list[str]:
    return [info.id async for info in of.process().sessions_of(user)]


async def data_of(of: World, key: str) -> bytes:
    stored = await of.memory.load(key, deadline=soon())
    assert stored is not None
    return stored.data


# ---------------------------------------------------------------- what is not what it should be


async def test_an_index_under_a_sessions_key() -> None:
    """An index that is copied to a session's key opens nothing, and no session either is made of it."""
    of = world()
    token = await sign_in(of)
    index = await data_of(of, index_key_of(of.manager, "ada"))
    await rewrite(of.memory, token[:22], index)
    with pytest.raises(SessionCorrupt):
        await of.load(token)
    with pytest.raises(SessionCorrupt):
        await of.manager.get(token[:22])
    assert await listed(of) == []
    assert [one.id for one in await entries_in_index(of.manager, "ada")] == [token[:22]]


async def test_a_session_under_an_indexs_key() -> None:
    """A session's record that is copied to an index's key is an error for whoever asks for that index."""
    of = world()
    token = await sign_in(of)
    key = index_key_of(of.manager, "ada")
    await rewrite(of.memory, key, await data_of(of, token[:22]))
    for ask in (listed(of), of.manager.revoke_user("ada"), sign_in(of)):
        with pytest.raises(SessionCorrupt):
            await ask
    assert await of.read(token) == {"user": "ada"}


async def test_another_users_index() -> None:
    """Bob's index under Ada's key lists and ends nobody: it is an error."""
    of = world()
    await sign_in(of)
    bobs = await sign_in(of, "bob")
    await rewrite(
        of.memory, index_key_of(of.manager, "ada"), await data_of(of, index_key_of(of.manager, "bob"))
    )
    for ask in (listed(of), of.manager.revoke_user("ada")):
        with pytest.raises(SessionCorrupt):
            await ask
    assert await of.read(bobs) == {"user": "bob"}


async def forge(of: World, entries: dict[str, bytes], **fields: Any) -> None:
    """Write what somebody may write who can write to the store and knows the format."""
    key = index_key_of(of.manager, "ada")
    record = decoded(await data_of(of, key))
    await rewrite(of.memory, key, encoded(changed(record, entries={**record.entries, **entries}, **fields)))


def entry(of: World) -> bytes:
    return of.clock().to_bytes(6, "big") + (of.clock() + 10**8).to_bytes(6, "big")


async def test_a_forged_index_signs_nobody_in(request: pytest.FixtureRequest) -> None:
    """Another's session in one's index is neither listed nor ended; sealed, it is an error."""
    of = world()
    await sign_in(of)
    bobs, nobodys = await sign_in(of, "bob"), await of.new(x=1)
    await forge(of, {bobs[:22]: entry(of), nobodys[:22]: entry(of), fresh_id(): entry(of)})
    if "sealed" in request.node.name:
        for ask in (listed(of), of.manager.revoke_user("ada")):
            with pytest.raises(SessionCorrupt):
                await ask
    else:
        assert len(await listed(of)) == 1
        assert await of.manager.revoke_user("ada") == 1
    assert await of.read(bobs) == {"user": "bob"}
    assert await of.read(nobodys) == {"x": 1}


async def test_an_index_with_a_sessions_digest() -> None:
    """A record under an index's key that says it is a session is none that the index's functions touch."""
    of = world()
    await sign_in(of)
    await forge(of, {}, digest=b"x" * 16)
    for ask in (listed(of), of.manager.revoke_user("ada"), sign_in(of)):
        with pytest.raises(SessionCorrupt):
            await ask


@pytest.mark.parametrize(
    "entries",
    [
        {"no id": b"x" * 12},
        {"../../etc": b""},
        {"x" * 5000: b"x" * 12},
        {"A" * 22: b"short"},
        {"A" * 22: b"x" * 12 + b"?"},
        {"A" * 22: b"x" * 12 + b"s123"},
    ],
    ids=["no id", "a path", "long", "short bytes", "no state", "a short mark"],
)
async def test_entries_that_are_none(entries: dict[str, bytes]) -> None:
    """Every call that needs the index says so; nothing is deleted, and all works when it is mended."""
    of = world()
    token = await sign_in(of)
    key = index_key_of(of.manager, "ada")
    good = await data_of(of, key)
    await forge(of, entries)
    bad = await data_of(of, key)
    for _ in range(2):
        for ask in (listed(of), of.manager.revoke_user("ada"), sign_in(of)):
            with pytest.raises(SessionCorrupt, match="index"):
                await ask
    assert await data_of(of, key) == bad
    assert await of.read(token) == {"user": "ada"}
    await rewrite(of.memory, key, good)
    assert await listed(of) == [token[:22]]


async def test_a_huge_index(request: pytest.FixtureRequest) -> None:
    """One of ten thousand entries of nothing is listed, and cleaned by that."""
    of = world()
    token = await sign_in(of)
    of.clock.advance(1)
    raw = entry(of)
    await forge(of, {fresh_id(): raw for _ in range(10_000)})
    if "sealed" in request.node.name:
        with pytest.raises(SessionCorrupt):
            await listed(of)
        return
    of.clock.advance(10)
    assert await listed(of) == [token[:22]]
    assert len(await entries_in_index(of.manager, "ada")) == 1


# ---------------------------------------------------------------- what cannot be read


async def test_unreadable_is_not_dead() -> None:
    """A record that this process cannot read stays in the index: another process may serve it."""
    of = world()
    token, spoilt = await sign_in(of), await sign_in(of)
    good = await data_of(of, spoilt[:22])
    await break_it(of, spoilt[:22])
    of.clock.advance(60)
    for _ in range(2):
        assert await listed(of) == [token[:22]]
    await rewrite(of.memory, spoilt[:22], good)
    assert await listed(of) == [token[:22], spoilt[:22]]
    assert await of.manager.revoke_user("ada") == 2
    assert await of.read(spoilt) is None


async def test_revoking_what_is_unreadable() -> None:
    """`revoke_user` ends the others and then says that one may live; the next call ends it, mended."""
    of = world()
    tokens = [await sign_in(of) for _ in range(3)]
    good = await data_of(of, tokens[1][:22])
    await break_it(of, tokens[1][:22])
    with pytest.raises(SessionCorrupt):
        await of.manager.revoke_user("ada")
    assert [await of.read(token) for token in tokens[::2]] == [None, None]
    assert await listed(of) == []
    await rewrite(of.memory, tokens[1][:22], good)
    assert await of.manager.revoke_user("ada") == 1
    assert await of.read(tokens[1]) is None
    assert await entries_in_index(of.manager, "ada") == []


async def test_evicting_what_is_unreadable() -> None:
    """A record that cannot be read keeps nobody from signing in; it stays doomed until it is ended."""
    of = world(max_sessions_per_user=1)
    old = await sign_in(of)
    good = await data_of(of, old[:22])
    await break_it(of, old[:22])
    new = await sign_in(of)
    assert await of.read(new) == {"user": "ada"}
    await rewrite(of.memory, old[:22], good)
    assert await listed(of) == [new[:22]]
    assert await of.read(old) is None


async def break_it(of: World, key: str) -> None:
    """Spoil a record so that its own check, or its seal, is not right."""
    await rewrite(of.memory, key, (await data_of(of, key))[:-1])


# ---------------------------------------------------------------- sign-ins that meet others


async def test_what_goes_along_names_its_indexes() -> None:
    """A key of `index` that another request has set meanwhile goes along; the new session is found by it."""
    of = world(index=("sid",))
    token = await of.new(cart=1)
    session = await of.load(token)
    async with of.process().session(token[:22]) as other:
        other["sid"] = "s1"
    session["user"] = "ada"
    await session.commit()
    await of.manager.drain()
    assert dict(session) == {"cart": 1, "sid": "s1", "user": "ada"}
    assert session.id in [one.id for one in await entries_in_index(of.manager, "s1", "sid")]
    assert await of.manager.revoke_where(sid="s1") == 1
    assert await of.read(credential(session)) is None


async def test_what_does_not_go_along_leaves_its_indexes() -> None:
    """A sign-in that was overtaken begins anew without the data of before: it is in no index of that."""
    of = world(index=("sid",))
    token = await of.new(sid="s1")
    one, other = await of.load(token), await of.load(token, of.process())
    one["user"], other["user"] = "ada", "bob"
    await one.commit()
    await other.commit()
    await of.manager.drain()
    assert dict(other) == {"user": "bob"}
    assert [each.id for each in await entries_in_index(of.manager, "s1", "sid")] == [one.id]
    assert await listed(of, "bob") == [other.id]


async def test_rules_merge_what_goes_along() -> None:
    """Promise 4: what another request has added to a key with a rule goes along into the new session."""

    def add(base: Any, mine: Any, theirs: Any) -> Any:
        return (mine or 0) + (theirs or 0) - (base or 0)

    of = world(merge={"count": add})
    token = await of.new(count=1)
    session = await of.load(token)
    other = await of.load(token, of.process())
    other["count"] += 10
    await other.commit()
    session["count"] += 100
    session["user"] = "ada"
    await session.commit()
    assert await of.read(credential(session)) == {"count": 111, "user": "ada"}


async def test_too_large_to_go_along() -> None:
    """If another request's data makes it too large, that is an error before anything has ended."""
    of = world(max_size=4096)
    token = await of.new(cart=1)
    session = await of.load(token)
    other = await of.load(token, of.process())
    other["theirs"] = "x" * 2500
    await other.commit()
    session["user"], session["mine"] = "ada", "y" * 2500
    with pytest.raises(SessionTooLarge):
        await session.commit()
    await of.manager.drain()
    assert await of.read(token) == {"cart": 1, "theirs": "x" * 2500}
    assert await listed(of) == []
    assert await entries_in_index(of.manager, "ada") == []


async def test_a_full_session_signs_in() -> None:
    """Data that another request has grown to just below the limit goes along, header or not."""
    of = world(max_size=4096)
    token = await of.new(cart=1, user_name="")
    session = await of.load(token)
    other = await of.load(token, of.process())
    room = 4096 - len(await data_of(of, token[:22])) - 60
    other["theirs"] = "x" * room
    await other.commit()
    session["user"] = "ada"
    await session.commit()
    assert await of.read(credential(session)) == {
        "cart": 1, "user_name": "", "theirs": "x" * room, "user": "ada",
    }  # fmt: skip


async def test_a_lifetime_that_the_old_session_had_already() -> None:
    """`set_lifetime` at a sign-in counts for the new record, whatever the one that ends had."""
    of = world(anonymous_idle_timeout=timedelta(days=1))
    session = await of.load(await of.new(cart=1))
    session["user"] = "ada"
    session.set_lifetime(idle=timedelta(days=1))
    await session.commit()
    record = record_of(session)
    assert record is not None
    assert record.idle == 86_400_000


async def test_a_create_whose_reply_is_lost_at_the_cap() -> None:
    """With "refuse" a sign-in does not take its own user's last place with an id that nobody has."""
    of = world(max_sessions_per_user=1, on_max_sessions="refuse")
    session = await of.session().load()
    session["user"] = "ada"
    of.store.fail("create", "lost reply", match=lambda call: call.key[-1] in "AQgw")
    await session.commit()
    assert await listed(of) == [session.id]


async def test_an_index_that_has_expired_for_this_machine() -> None:
    """A clock that is ahead of the store's keeps nobody from signing in."""
    of = world()
    await of.manager.revoke_user("ada")
    ahead = SessionManager(of.store, identity="user", clock=lambda: of.clock() + 120_000, deadline=1)
    session = await of.session(manager=ahead).load()
    session["user"] = "ada"
    await session.commit()
    assert len(await entries_in_index(of.manager, "ada")) == 1


# ---------------------------------------------------------------- keys of `index`, moved


async def test_a_move_is_answered_when_it_is_certain() -> None:
    """A session that has got a key of `index` is found by it from the answer on, also if that was doomed."""
    of = world(index=("sid",))
    token = await sign_in(of)
    session = await of.load(token)
    session["sid"] = "s1"
    gate = of.store.pause("save", match=lambda call: call.key == token[:22])
    moving = asyncio.ensure_future(session.commit())
    await gate.reached()
    assert await of.process().revoke_where(sid="s1") == 0
    gate.release()
    with pytest.raises(SessionGone):
        await moving
    assert await of.read(token) is None


async def test_a_move_whose_last_look_fails() -> None:
    """It is an error, and done again it is certain."""
    of = world(index=("sid",))
    token = await sign_in(of)
    session = await of.load(token)
    session["sid"] = "s1"
    key = index_key_of(of.manager, "s1", "sid")
    of.store.fail("load", nth=2, match=lambda call: call.key == key)
    with pytest.raises(StoreUnavailable):
        await session.commit()
    session["sid"] = "s1"
    await session.commit()
    assert await of.manager.revoke_where(sid="s1") == 1


async def test_to_and_fro() -> None:
    """One that leaves an index and is back before that is carried out is found there."""
    of = world(index=("sid",))
    token = await sign_in(of, sid="s1")
    there, back = await of.load(token), None
    key = index_key_of(of.manager, "s1", "sid")
    there["sid"] = "s2"
    gate = of.store.pause("load", match=lambda call: call.key == key)  # of its leaving
    await there.commit()
    await gate.reached()
    back = await of.load(token, of.process())
    back["sid"] = "s1"
    await back.commit()
    gate.release()
    await of.manager.drain()
    assert await of.process().revoke_where(sid="s1") == 1
    assert await of.read(token) is None


# ---------------------------------------------------------------- locks, transactions, ends


async def test_a_holder_that_is_revoked() -> None:
    """Promise 5: a block under the lock of a session that was revoked saves nothing, and says so."""
    of = world()
    token = await sign_in(of, n=1)
    session = await of.load(token)
    with pytest.raises((LockLost, SessionGone)):
        async with session.lock():
            assert await of.process().revoke_user("ada") == 1
            session["n"] = 2
    assert await of.read(token) is None
    assert len(keys_in(of.memory)) == 1  # the index


async def test_a_sign_in_under_a_lock_whose_user_is_revoked() -> None:
    """A revocation during the block ends the new session, and what is set after that is not saved."""
    of = world()
    token = await of.new(cart=1)
    session = await of.load(token)
    introduce(session, of.clock())
    with pytest.raises((LockLost, SessionGone)):
        async with session.lock():
            session["user"] = "ada"
            await session.commit()
            of.clock.advance(1)
            assert await of.process().revoke_user("ada") == 1
            session["n"] = 2
    assert await listed(of) == []
    assert len(keys_in(of.memory)) == 2  # the index, and what tells that the old one has ended


async def test_a_sign_in_at_the_end_of_a_block() -> None:
    """The block's own commit signs in, releases the lock, and the session goes on under its new id."""
    of = world()
    session = await of.load(await of.new(cart=1))
    async with session.lock():
        session["user"] = "ada"
    assert await listed(of) == [session.id]
    async with of.process().lock(session.id or "", wait=0):
        pass


async def test_a_transaction_of_one_that_is_revoked() -> None:
    """Promise 5: nor does a transaction save, whatever it has decided."""
    of = world()
    token = await sign_in(of, n=1)
    session = await of.load(token)

    async def add(draft: Any) -> None:
        await of.process().revoke_user("ada")
        draft["n"] += 1

    with pytest.raises(SessionGone):
        await session.transact(add)
    assert await of.read(token) is None


async def test_clear_and_sign_in_beside_a_revocation() -> None:
    """A request of before the revocation that begins anew as the same user is refused."""
    of = world()
    session = new_session(of.manager, await sign_in(of))
    introduce(session, of.clock())
    await session.load()
    of.clock.advance(1)
    await of.process().revoke_user("ada")
    session.clear()
    session["user"] = "ada"
    with pytest.raises(SignInRefused):
        await session.commit()
    await of.manager.drain()
    assert await listed(of) == []
    assert await entries_in_index(of.manager, "ada") == []


async def test_another_user_whose_record_cannot_be_created() -> None:
    """Bob's sign-in in Ada's session fails half way: nothing of hers is saved under his name afterwards."""
    of = world()
    token = await sign_in(of, secret="ada's", nested={"a": 1})
    session = await of.load(token)
    session["nested"]["a"] = 2
    session["user"], session["own"] = "bob", 1
    of.store.fail("create", match=lambda call: call.key[-1] in "AQgw")
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert "secret" not in session
    await session.commit()
    await of.manager.drain()
    assert await of.read(credential(session)) == {"user": "bob", "own": 1}
    assert await listed(of) == []
    assert await listed(of, "bob") == [session.id]


async def test_what_another_task_sets_meanwhile() -> None:
    """A key that is set while the same request's sign-in is on its way is saved by the next commit."""
    of = world()
    token = await of.new(cart=[1], gone=1)
    session = await of.load(token)
    cart = session["cart"]
    session["user"] = "ada"
    gate = of.store.pause("create", match=lambda call: call.key[-1] in "AQgw")
    signing_in = asyncio.ensure_future(session.commit())
    await gate.reached()
    cart.append(2)
    session["late"] = 1
    del session["gone"]
    gate.release()
    await signing_in
    await session.commit()
    assert await of.read(credential(session)) == {"cart": [1, 2], "user": "ada", "late": 1}
    assert await of.read(token) is None


async def test_sealed_while_it_is_on_its_way() -> None:
    """A sign-in whose response leaves first is an error, signs nobody in, and leaves no entry."""
    of = world()
    token = await of.new(cart=1)
    session = await of.load(token)
    session["user"] = "ada"
    gate = of.store.pause("save", match=lambda call: call.key == token[:22])
    signing_in = asyncio.ensure_future(session.commit())
    await gate.reached()
    seal(session)
    gate.release()
    with pytest.raises(SessionError):
        await signing_in
    await of.manager.drain()
    assert owed_by(session) != "cookie"
    assert status_of(session) == "new"
    assert await listed(of) == []
    assert await entries_in_index(of.manager, "ada") == []


async def test_a_part_of_anothers_value() -> None:
    """What this request has changed inside a value of Ada's does not go on in Bob's session."""
    of = world()
    session = await of.load(await sign_in(of, cart=["ada's"], same=1))
    session["cart"].append("mine")
    session["same"] = 1
    session["user"] = "bob"
    await session.commit()
    assert dict(session) == {"user": "bob", "same": 1}
    assert await of.read(credential(session)) == {"user": "bob", "same": 1}


async def test_values_that_nobody_has_looked_at() -> None:
    """A key that was set, saved and not decoded since is kept when a sign-in fails half way."""
    of = world()
    session = await of.load(await sign_in(of))
    session["mine"] = [1]
    await session.commit()
    session.discard()
    session["user"] = "bob"
    of.store.fail("create", match=lambda call: call.key[-1] in "AQgw")
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert dict(session) == {"user": "bob", "mine": [1]}
    await session.commit()
    assert await of.read(credential(session)) == {"user": "bob", "mine": [1]}

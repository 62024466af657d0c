"""`Session.set_lifetime`: what is stored of it, and what becomes of it among others' requests."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asgi_session import Session, SessionError, SessionGone, SessionNotLoaded, StoreUnavailable
from asgi_session.errors import LockLost, SessionTooLarge
from tests.inside import commit, credential, owed_by, seal, status_of, use_up
from tests.manager.kit import World, settle, start, until

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
IDLE = 14 * DAY
ABSOLUTE = 90 * DAY


async def lasts(world: World, token: str) -> tuple[int, int, int]:
    """Return idle timeout, and how long from now on until the deadline and the stored expiry; ms."""
    record = await world.record(token)
    assert record is not None
    return record.idle, record.deadline - world.clock(), await world.expiry(token) - world.clock()


async def visit(world: World, token: str) -> str:
    """Make a request that only reads; return what the session is to it."""
    session = await world.load(token)
    await world.manager.drain()
    return status_of(session)


@pytest.mark.parametrize(
    ("idle", "absolute"),
    [(timedelta(days=60), timedelta(days=365)), (timedelta(minutes=10), timedelta(hours=1))],
)
async def test_longer_or_shorter_than_the_options(idle: timedelta, absolute: timedelta) -> None:
    """What is set takes the options' place: in the record, in the store's expiry, and for each touch."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.set_lifetime(idle=idle, absolute=absolute)
    assert session.modified
    await session.commit()
    assert not session.modified
    assert world.store.counts() == {"load": 1, "save": 1}
    ms, most = idle // timedelta(milliseconds=1), absolute // timedelta(milliseconds=1)
    assert await lasts(world, token) == (ms, most, ms)
    assert session.absolute_expires_at == datetime.fromtimestamp((world.clock() + most) / 1000, UTC)
    assert session.idle_expires_at == datetime.fromtimestamp((world.clock() + ms) / 1000, UTC)
    end = world.clock() + most
    while world.clock() < end - ms / 2:
        world.clock.advance(idle / 2)
        assert await visit(world, token) == "live"
        assert await world.expiry(token) == min(world.clock() + ms, end)
    world.clock.ms = end
    assert await visit(world, token) == "new"


async def test_an_end_on_the_clock() -> None:
    """A datetime is that very moment, and the idle timeout stays what it was."""
    world = World()
    token = await world.new()
    end = datetime.fromtimestamp(world.clock() / 1000, UTC).replace(microsecond=0) + timedelta(hours=8)
    session = await world.load(token)
    session.set_lifetime(absolute=end)
    await session.commit()
    assert session.absolute_expires_at == session.idle_expires_at == end
    record = await world.record(token)
    assert record is not None
    assert (record.idle, record.deadline) == (IDLE, int(end.timestamp() * 1000))


async def test_unused_it_ends_when_it_should() -> None:
    """Promise 5: what was given a quarter of an hour is gone after one, and others' saves keep to that."""
    world = World()
    token = await world.new()
    slow = await world.load(token, world.process())  # as it was before
    session = await world.load(token)
    session.set_lifetime(idle=timedelta(minutes=15))
    await session.commit()
    slow["slow"] = 1
    await slow.commit()
    assert await lasts(world, token) == (15 * MINUTE, ABSOLUTE, 15 * MINUTE)
    world.clock.advance(timedelta(minutes=15))
    assert len(world.memory) == 0
    assert await visit(world, token) == "new"


async def test_a_touch_on_its_way_does_not_undo_a_shortening() -> None:
    """Promise 5: the store refuses what a request has found due before: another version is there."""
    world = World()
    token = await world.new()
    world.clock.advance(timedelta(days=3))
    gate = world.store.pause("touch")
    slow = await world.load(token, world.process())
    await gate.reached()
    session = await world.load(token)
    session.set_lifetime(idle=600)
    await session.commit()
    gate.release()
    await world.manager.drain()
    await settle()
    assert await world.expiry(token) == world.clock() + 10 * MINUTE
    assert status_of(slow) == "live"


async def test_a_new_session_is_created_with_it() -> None:
    """One command as ever; alone it creates nothing, and unconfirmed the session lasts its hour at most."""
    world = World()
    session = await world.session().load()
    session.set_lifetime(idle=timedelta(days=30), absolute=timedelta(days=365), persistent=False)
    await session.commit()
    assert world.store.counts() == {}
    assert session.is_new
    session["user"] = "ada"
    await session.commit()
    assert world.store.counts() == {"create": 1}
    token = credential(session)
    assert await lasts(world, token) == (30 * DAY, 365 * DAY, HOUR)
    assert await visit(world, token) == "live"
    assert await lasts(world, token) == (30 * DAY, 365 * DAY, 30 * DAY)


async def test_a_new_session_with_less_than_the_unconfirmed_timeout() -> None:
    """The idle timeout counts from the beginning where it is the shorter, and so does the deadline."""
    world = World()
    for wanted, length in (({"idle": 600}, 10 * MINUTE), ({"absolute": 300}, 5 * MINUTE)):
        session = await world.session().load()
        session["a"] = 1
        session.set_lifetime(**wanted)
        await session.commit()
        assert await world.expiry(credential(session)) == world.clock() + length


async def test_a_session_stays_unconfirmed_whatever_is_set() -> None:
    """The request that created it can make it longer, but not confirm it."""
    world = World()
    session = await world.session().load()
    session["a"] = 1
    await session.commit()
    session.set_lifetime(idle=timedelta(days=60))
    await session.commit()
    assert await lasts(world, credential(session)) == (60 * DAY, ABSOLUTE, HOUR)
    session.set_lifetime(idle=timedelta(minutes=5))
    await session.commit()
    assert await lasts(world, credential(session)) == (5 * MINUTE, ABSOLUTE, 5 * MINUTE)


async def test_what_a_session_has_already_is_no_change() -> None:
    """Promise 2: setting the idle timeout and the end that it has writes nothing, and sends no cookie."""
    world = World()
    token = await world.new()
    end = datetime.fromtimestamp(world.clock() / 1000, UTC).replace(microsecond=0) + timedelta(hours=8)
    for expected in ({"load": 1, "save": 1}, {"load": 1}):
        world.store.calls.clear()
        session = await world.load(token)
        session.set_lifetime(idle=600, absolute=end, persistent=True)
        await world_responds(world, session)
        assert world.store.counts() == expected
        assert owed_by(session) == ("cookie" if "save" in expected else "nothing")


async def world_responds(world: World, session: Session) -> None:
    await commit(world.manager, session, explicit=False)


async def test_concurrent_ones_merge_field_by_field() -> None:
    """Promise 4: of two requests each keeps what it alone has set, and what both have set is the later's."""
    world = World()
    token = await world.new()
    one, other = await world.load(token), await world.load(token, world.process())
    one.set_lifetime(idle=3600, persistent=True)
    one["one"] = 1
    other.set_lifetime(idle=7200, absolute=timedelta(days=2))
    other["other"] = 2
    await one.commit()
    await other.commit()
    assert await lasts(world, token) == (2 * HOUR, 2 * DAY, 2 * HOUR)
    assert await world.read(token) == {"old": 1, "one": 1, "other": 2}
    found = await world.load(token)
    found.set_lifetime(persistent=True)
    await world_responds(world, found)
    assert owed_by(found) == "nothing", "it is persistent already"


async def test_a_crowd_in_one_process_shares_saves() -> None:
    """Promise 4: those that leave together merge as those do that leave one after the other."""
    world = World()
    token = await world.new()
    gate = world.store.pause("save")
    sessions = [await world.load(token) for _ in range(8)]
    for number, session in enumerate(sessions):
        session.set_lifetime(idle=timedelta(minutes=number + 1))
        session[f"k{number}"] = number
    commits = [start(session.commit()) for session in sessions]
    await gate.reached()
    await settle()
    gate.release()
    await asyncio.gather(*commits)
    assert world.store.counts()["save"] == 2
    assert await lasts(world, token) == (8 * MINUTE, ABSOLUTE, 8 * MINUTE)
    assert len(await world.read(token) or ()) == 9


@pytest.mark.parametrize("fault", ["lost reply", "lost request"])
async def test_a_lost_reply(fault: Any) -> None:
    """Promise 7: it is applied once: what another request sets before the retry is not undone."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.set_lifetime(idle=600)
    world.store.fail("save", fault)
    retry = world.store.pause("save", nth=2)
    committing = start(session.commit())
    await retry.reached()
    other = await world.load(token, world.process())
    other.set_lifetime(idle=1200)
    await other.commit()
    retry.release()
    await committing
    record = await world.record(token)
    assert record is not None
    assert record.idle == (20 * MINUTE if fault == "lost reply" else 10 * MINUTE)


async def test_what_failed_can_be_committed_again() -> None:
    """A commit that the store refuses hands back what it has taken, under what was set since."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.set_lifetime(idle=600, absolute=timedelta(days=1))
    world.store.fail("save", "refused")
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert session.modified
    session.set_lifetime(idle=1200)
    await session.commit()
    assert await lasts(world, token) == (20 * MINUTE, DAY, 20 * MINUTE)


async def test_what_is_set_while_a_commit_fails() -> None:
    """The later counts, also where the earlier comes back."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.set_lifetime(idle=600, absolute=timedelta(days=1))
    world.store.fail("save", "refused")
    gate = world.store.pause("save")
    committing = start(session.commit())
    await gate.reached()
    session.set_lifetime(idle=1200)
    gate.release()
    with pytest.raises(StoreUnavailable):
        await committing
    await session.commit()
    assert await lasts(world, token) == (20 * MINUTE, DAY, 20 * MINUTE)


async def test_discard_forgets_it() -> None:
    """As what was set in the session."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.set_lifetime(idle=600)
    session.discard()
    assert not session.modified
    await session.commit()
    assert world.store.counts() == {"load": 1}


async def test_a_failed_request_saves_none_of_it() -> None:
    """With a response of 500 it is dropped like all the rest."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.set_lifetime(idle=600)
    await commit(world.manager, session, explicit=False, only_destroy=True)
    await session.commit()
    assert world.store.counts() == {"load": 1}
    assert world.named("dropped") == [{"reason": "error", "keys": []}]


async def test_clear_begins_with_the_options_again() -> None:
    """What was set before `clear` ends with the old session; what is set after it is the new one's."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.set_lifetime(idle=600, absolute=timedelta(days=1))
    await session.commit()
    session.set_lifetime(idle=1200)
    session.clear()
    session["user"] = "ada"
    await session.commit()
    assert await lasts(world, credential(session)) == (IDLE, ABSOLUTE, HOUR)
    session.clear()
    session["user"] = "eve"
    session.set_lifetime(idle=1800)
    await session.commit()
    assert await lasts(world, credential(session)) == (30 * MINUTE, ABSOLUTE, 30 * MINUTE)


async def test_clear_without_a_load() -> None:
    """Login code that never reads the session can say how long the new one lasts."""
    world = World()
    token = await world.new()
    session = world.session(token)
    session.clear()
    session.set_lifetime(idle=1800)
    session["user"] = "ada"
    await session.commit()
    assert await world.read(token) is None
    assert await lasts(world, credential(session)) == (30 * MINUTE, ABSOLUTE, 30 * MINUTE)


async def test_cleared_it_waits_for_values() -> None:
    """What is set after `clear` is kept, over a commit, until there is something to create."""
    world = World()
    session = await world.load(await world.new())
    session.clear()
    session.set_lifetime(idle=1800)
    await session.commit()
    session["user"] = "ada"
    await session.commit()
    assert await lasts(world, credential(session)) == (30 * MINUTE, ABSOLUTE, 30 * MINUTE)


async def test_a_rotation_keeps_it() -> None:
    """`rotate` gives a new credential; how long the session lasts is as before."""
    world = World()
    session = await world.load(await world.new())
    session.set_lifetime(idle=600, absolute=timedelta(days=1), persistent=False)
    session.rotate()
    await session.commit()
    token = credential(session)
    session = await world.load(token)
    session.rotate()
    await session.commit()
    assert await lasts(world, credential(session)) == (10 * MINUTE, DAY, 10 * MINUTE)


async def test_a_login_that_is_overtaken_takes_it_along() -> None:
    """Promise 8: a rotation that has to go on under a new id does so with the lifetime that it asked for."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    other = await world.load(token, world.process())
    other.rotate()
    await other.commit()
    session.rotate()
    session["user"] = "ada"
    session.set_lifetime(idle=600)
    await session.commit()
    assert session.id not in (None, other.id)
    assert await lasts(world, credential(session)) == (10 * MINUTE, ABSOLUTE, 10 * MINUTE)
    assert await lasts(world, credential(other)) == (IDLE, ABSOLUTE, IDLE)


async def test_a_login_that_is_overtaken_takes_along_what_it_has_set_again() -> None:
    """As with keys: all that was set goes along, whether or not the old record had it already."""
    world = World()
    token = await world.new()
    await world_sets(world, token, idle=600)
    session = await world.load(token)
    other = await world.load(token, world.process())
    other.rotate()
    await other.commit()
    session.rotate()
    session["user"] = "ada"
    session.set_lifetime(idle=600)
    await session.commit()
    assert (await lasts(world, credential(session)))[0] == 10 * MINUTE


async def world_sets(world: World, token: str, **lifetime: Any) -> None:
    session = await world.load(token)
    session.set_lifetime(**lifetime)
    await session.commit()


async def test_of_a_session_that_is_gone() -> None:
    """Promise 5: it brings nothing back; whoever asked is told."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.set_lifetime(idle=600)
    assert await world.manager.revoke(token[:22])
    with pytest.raises(SessionGone):
        await session.commit()
    assert len(world.memory) == 0


async def test_after_destroy() -> None:
    """Like every change."""
    world = World()
    session = await world.load(await world.new())
    session.set_lifetime(idle=600)
    session.destroy()
    with pytest.raises(SessionGone):
        session.set_lifetime(idle=600)
    await session.commit()
    with pytest.raises(SessionGone):
        session.set_lifetime(idle=600)
    assert len(world.memory) == 1  # which tells for a minute that it has ended
    world.clock.advance(60)
    assert len(world.memory) == 0


async def test_of_a_session_that_could_not_be_loaded() -> None:
    """Promise 11: it is a change, so with the store away it is an error, and not dropped without a word."""
    world = World(on_unavailable="anonymous", deadline=0.05)
    token = await world.new()
    world.store.fail("load", "refused", times=50)
    session = await world.load(token)
    session.set_lifetime(idle=600)
    with pytest.raises(StoreUnavailable):
        await commit(world.manager, session, explicit=False)


async def test_it_needs_a_load() -> None:
    """Like every change; and what it refuses changes nothing."""
    world = World()
    session = world.session(await world.new())
    with pytest.raises(SessionNotLoaded):
        session.set_lifetime(idle=600)
    await session.load()
    with pytest.raises(ValueError, match="set_lifetime"):
        session.set_lifetime(idle=600, absolute=300)
    assert not session.modified


async def test_a_full_session_can_be_given_one() -> None:
    """Growth of the header is no growth: a session at its size limit can be remembered."""
    world = World(max_size=400)
    token = await world.new(data="x" * 250)
    session = await world.load(token)
    with pytest.raises(SessionTooLarge):
        session["more"] = "x" * 100
        await session.commit()
    session.discard()
    for _ in range(8):
        session["data"] = "y" * 250
        await session.commit()  # the ring is full
    session.set_lifetime(persistent=True)
    await session.commit()


# ---------------------------------------------------------------- in a lock, in a transaction


async def test_in_a_lock() -> None:
    """It is saved with what releases the lock; an exception that leaves the block forgets it."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    async with session.lock():
        session.set_lifetime(idle=600)
    assert await lasts(world, token) == (10 * MINUTE, ABSOLUTE, 10 * MINUTE)
    with pytest.raises(RuntimeError):
        async with session.lock():
            session.set_lifetime(idle=1200)
            raise RuntimeError
    await session.commit()
    assert (await lasts(world, token))[0] == 10 * MINUTE


async def test_in_a_lock_that_is_lost() -> None:
    """Promise 12: it is not saved under it."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    with pytest.raises(LockLost):
        async with session.lock(lease=0.1, max_hold=0.1):
            await until(lambda: bool(world.named("lock_lost")))
            session.set_lifetime(idle=600)
    assert (await lasts(world, token))[0] == IDLE


async def test_not_in_a_transaction() -> None:
    """A transaction's draft is about data; on the session it is committed before the transaction."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    with pytest.raises(SessionError, match=r"set_lifetime\(\) on the session itself"):
        await session.transact(lambda draft: draft.set_lifetime(idle=600))
    session.set_lifetime(idle=600)
    await session.transact(lambda draft: draft.update(a=1))
    assert (await lasts(world, token))[0] == 10 * MINUTE
    new = await world.session().load()
    new.set_lifetime(idle=600)
    await new.transact(lambda draft: draft.update(a=1))
    assert (await lasts(world, credential(new)))[0] == 10 * MINUTE


# ---------------------------------------------------------------- from outside a request


async def test_shortened_from_outside() -> None:
    """Promise 5: it counts from that save on, although that is no use of the session."""
    world = World()
    token = await world.new()
    world.clock.advance(timedelta(days=1))
    async with world.manager.lock(token[:22]) as session:
        session.set_lifetime(idle=timedelta(minutes=15))
    assert await lasts(world, token) == (15 * MINUTE, ABSOLUTE - DAY, 15 * MINUTE)
    async with world.manager.lock(token[:22]) as session:
        session.set_lifetime(absolute=timedelta(minutes=5))
    assert await lasts(world, token) == (15 * MINUTE, 5 * MINUTE, 5 * MINUTE)
    world.clock.advance(timedelta(minutes=5))
    assert len(world.memory) == 0


async def test_lengthened_from_outside() -> None:
    """A longer idle timeout counts from the next use on: what is done outside is no use."""
    world = World()
    token = await world.new()
    world.clock.advance(timedelta(days=1))
    async with world.manager.lock(token[:22]) as session:
        session.set_lifetime(idle=timedelta(days=60))
    assert await lasts(world, token) == (60 * DAY, ABSOLUTE - DAY, IDLE - DAY)
    assert await visit(world, token) == "live"
    assert await world.expiry(token) == world.clock() + 60 * DAY


async def test_a_later_end_from_outside() -> None:
    """A session that nothing but its end had cut short goes on, without a visit in between."""
    world = World(idle_timeout=timedelta(hours=1), absolute_timeout=timedelta(hours=8))
    token = await world.new()
    for _ in range(15):
        world.clock.advance(timedelta(minutes=30))
        assert await visit(world, token) == "live"
    assert await lasts(world, token) == (HOUR, 30 * MINUTE, 30 * MINUTE)
    async with world.manager.lock(token[:22]) as session:
        session.set_lifetime(absolute=timedelta(hours=4))
    assert await lasts(world, token) == (HOUR, 4 * HOUR, HOUR)


async def test_persistence_needs_a_response() -> None:
    """It is about the cookie alone, which cannot be sent from outside a request, nor after the headers."""
    world = World()
    token = await world.new()
    async with world.manager.lock(token[:22]) as session:
        with pytest.raises(SessionError, match="outside a request"):
            session.set_lifetime(idle=600, persistent=True)
    assert (await lasts(world, token))[0] == IDLE
    late = await world.load(token)
    seal(late)
    with pytest.raises(SessionError, match="response has started"):
        late.set_lifetime(persistent=False)


async def test_after_the_headers() -> None:
    """The record gets it, and counts; the cookie stays as it is."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    seal(session)
    session.set_lifetime(idle=600, absolute=1200)
    await session.commit()
    assert await lasts(world, token) == (10 * MINUTE, 20 * MINUTE, 10 * MINUTE)
    assert owed_by(session) == "nothing"


# ---------------------------------------------------------------- the cookie


@pytest.mark.parametrize(
    ("wanted", "owed"),
    [
        ({"idle": 600}, "nothing"),
        ({"absolute": 1200}, "cookie"),
        ({"persistent": False}, "cookie"),
        ({"persistent": True}, "cookie"),
    ],
)
async def test_when_the_cookie_is_sent_again(wanted: dict[str, Any], owed: str) -> None:
    """With the same credential, when its Max-Age changes; an idle timeout does not show in it."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.set_lifetime(**wanted)
    await world_responds(world, session)
    assert owed_by(session) == owed
    assert credential(session) == token


@pytest.mark.parametrize("grace", [None, 15])
@pytest.mark.parametrize("together", [True, False])
async def test_a_cookie_that_another_has_rotated_away_is_not_sent_again(
    grace: int | None, together: bool
) -> None:
    """Promise 14: it would undo the newer one; whether they meet in one save or in two."""
    world = World()
    token = await world.new()
    slow = await world.load(token)
    other = await world.load(token)
    slow.set_lifetime(absolute=timedelta(days=365))
    other.rotate(grace=grace)
    if together:
        third = await world.load(token)
        third["third"] = 1
        gate = world.store.pause("save")
        commits = [start(world_responds(world, one)) for one in (third, slow, other)]
        await gate.reached()
        gate.release()
        await asyncio.gather(*commits)
    else:
        await world_responds(world, other)
        await world_responds(world, slow)
    assert owed_by(other) == "cookie"
    assert owed_by(slow) == "nothing"
    if grace is not None or together:
        assert (await lasts(world, credential(other)))[1] == 365 * DAY
    else:
        assert (await lasts(world, credential(other)))[1] == ABSOLUTE


async def test_a_cookie_in_its_grace_is_not_sent_again() -> None:
    """Promise 14: a request that came with the old one leaves the newer one alone."""
    world = World()
    token = await world.new()
    first = await world.load(token)
    first.rotate(grace=60)
    await first.commit()
    session = await world.load(token)
    session.set_lifetime(absolute=timedelta(days=365))
    await world_responds(world, session)
    assert owed_by(session) == "nothing"
    assert (await lasts(world, token))[1] == 365 * DAY


async def test_the_same_request_rotates() -> None:
    """One cookie: the new credential, for the new time."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session.rotate()
    session.set_lifetime(absolute=timedelta(days=365), persistent=True)
    await world_responds(world, session)
    assert owed_by(session) == "cookie"
    assert credential(session) != token
    assert session.absolute_expires_at is not None


async def test_nothing_is_owed_for_what_has_timed_out() -> None:
    """A commit that fails sends no cookie."""
    world = World()
    session = await world.load(await world.new())
    session.set_lifetime(absolute=1200)
    use_up(session, 10)
    world.store.fail("save", "lost request", times=20)
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert owed_by(session) == "nothing"

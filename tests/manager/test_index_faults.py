"""Sign-ins, sign-outs, revocations and listings that go wrong at every step: what is left is still true.

A verb that is refused, or whose request or reply is lost; a request that is cancelled; a process that is
killed. Afterwards the session object still answers, and two listings find nothing that should not be there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal, TypeAlias, TypeVar

import pytest

from asgi_session import Session, SessionManager
from asgi_session.errors import SessionError, StoreUnavailable
from asgi_session.store import Store
from tests.inside import commit, entries_in_index, index_key_of, new_session, serve_from, tasks_of
from tests.manager.index_races import MARGIN, Book, signed_in
from tests.manager.kit import World, settle, start

T = TypeVar("T")
Work: TypeAlias = Callable[[Book, SessionManager], Awaitable[Session | None]]
pytestmark = pytest.mark.usefixtures("no_jitter")
MOST_STEPS = 40


async def sign_in(book: Book, manager: SessionManager) -> Session | None:
    return await book.sign_in(manager, "ada")


async def sign_in_with_a_cart(book: Book, manager: SessionManager) -> Session | None:
    return await book.sign_in(manager, "ada", book.tokens["nobodys"])


async def sign_in_another(book: Book, manager: SessionManager) -> Session | None:
    return await book.sign_in(manager, "bob", book.tokens["adas"])


async def sign_out(book: Book, manager: SessionManager) -> Session | None:
    session = new_session(manager, book.tokens["adas"])
    try:
        await session.load()
        session.destroy()
        await session.commit()
    except SessionError:
        return session
    assert await book.record(book.tokens["adas"][:22]) is None, "it lives after the sign-out"
    return session


async def revoke(book: Book, manager: SessionManager) -> Session | None:
    with suppress(StoreUnavailable):
        await book.revoke_user(manager, "ada")
    return None


async def revoke_others(book: Book, manager: SessionManager) -> Session | None:
    with suppress(StoreUnavailable):
        await book.revoke_user(manager, "ada", book.tokens["adas"][:22])
    assert await book.record(book.tokens["adas"][:22]) is not None
    return None


async def listing(book: Book, manager: SessionManager) -> Session | None:
    with suppress(StoreUnavailable):
        await book.listed(manager, "ada")
    return None


WORK: dict[str, Work] = {
    "sign in": sign_in,
    "sign in with a cart": sign_in_with_a_cart,
    "sign in another": sign_in_another,
    "sign out": sign_out,
    "revoke": revoke,
    "revoke others": revoke_others,
    "list": listing,
}
EACH = pytest.mark.parametrize("work", WORK.values(), ids=WORK.keys())


async def prepared(cap: int = 2) -> Book:
    """Return a world in which Ada has two sessions, one more that has died, and nobody has one."""
    world = World(identity="user", max_sessions_per_user=cap)
    book = Book(world, cap)
    if cap > 2:
        dead = await signed_in(book)
        await world.memory.delete(dead[:22], deadline=float("inf"))
    book.tokens = {
        "other": await signed_in(book),
        "adas": await signed_in(book),
        "nobodys": await world.new(cart=1),
    }
    world.clock.advance(MARGIN)
    world.store.calls.clear()
    return book


async def check(book: Book, session: Session | None) -> None:
    """Commit once more, which must work or say why not; then look at what is left."""
    if session is not None:
        async with asyncio.timeout(8):
            try:
                await session.load()
                await session.commit()
            except SessionError:
                pass
            else:
                record = await book.record(session.id) if session.id is not None else None
                if record is not None and "user" in record.entries:
                    await book.answered(session, record.entries["user"][1:].decode())
    await book.world.manager.drain()
    await book.check_rest("ada", "bob")


@pytest.mark.parametrize("cap", [2, 100])
@pytest.mark.parametrize("fault", ["refused", "lost request", "lost reply"])
@EACH
async def test_a_verb_that_fails(
    work: Work, fault: Literal["refused", "lost request", "lost reply"], cap: int
) -> None:
    """Each verb in turn fails, once: it works all the same, or it is an error; either way all is true."""
    for step in range(1, MOST_STEPS):
        book = await prepared(cap)
        book.world.store.fail(None, fault, nth=step)
        async with asyncio.timeout(8):
            session = await work(book, book.world.manager)
        await book.world.manager.drain()
        reached = len(book.world.store.calls) >= step
        book.world.store.heal()
        await check(book, session)
        if not reached:
            return
    raise AssertionError("it does not come to an end")


@EACH
async def test_a_store_that_goes_away(work: Work) -> None:
    """From each verb on everything is refused: an error, and nothing that hangs or is half done for ever."""
    for step in range(1, MOST_STEPS):
        book = await prepared()
        book.world.store.fail(None, "refused", nth=step, times=None)
        async with asyncio.timeout(8):
            session = await work(book, book.world.manager)
        await book.world.manager.drain()
        reached = len(book.world.store.calls) >= step
        book.world.store.heal()
        await check(book, session)
        if not reached:
            return
    raise AssertionError("it does not come to an end")


@pytest.mark.parametrize("when", ["before", "after"])
@EACH
async def test_cancelled_at_every_step(work: Work, when: Literal["before", "after"]) -> None:
    """A request that is cancelled leaves no session that hangs, and no entry that stays."""
    for step in range(1, MOST_STEPS):
        book = await prepared()
        made: list[Session] = []
        gate = book.world.store.pause(None, when=when, nth=step)
        task = asyncio.ensure_future(_noting(made, work, book))
        await asyncio.wait([task, asyncio.ensure_future(_arrival(gate, task))], return_when="FIRST_COMPLETED")
        reached = bool(gate.arrived)
        task.cancel()
        await asyncio.wait([task])
        await settle()
        book.world.store.heal()
        await check(book, made[0] if made else None)
        if not reached:
            return
    raise AssertionError("it does not come to an end")


async def _arrival(gate: Any, task: asyncio.Future[None]) -> None:
    while not gate.arrived and not task.done():
        await asyncio.sleep(0)


async def _noting(made: list[Session], work: Work, book: Book) -> None:
    manager = book.world.manager
    real = Session.load

    async def load(session: Session) -> Session:
        if not made:
            made.append(session)
        return await real(session)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "load", load)
        await work(book, manager)


class Killed:
    """A store whose process is killed at a verb: that one is carried out or not, and no other."""

    def __init__(self, store: Store, step: int, *, after: bool) -> None:
        self.store, self.left, self.after = store, step, after
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.store, name)
        if name not in ("load", "create", "save", "touch", "delete"):
            return real

        async def verb(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left > 0:
                return await real(*args, **options)
            if self.left == 0 and self.after:
                await real(*args, **options)
            self.dead = True
            return await asyncio.get_running_loop().create_future()

        return verb


@pytest.mark.parametrize("cap", [2, 100])
@pytest.mark.parametrize("after", [False, True], ids=["before the verb", "after the verb"])
@EACH
async def test_killed_between_every_two_steps(work: Work, after: bool, cap: int) -> None:
    """A process dies at each verb of its work: two listings by others clean up what it has left."""
    for step in range(1, MOST_STEPS):
        book = await prepared(cap)
        manager = book.world.process()
        killed = serve_from(manager, lambda store, step=step: Killed(store, step, after=after))
        task = asyncio.ensure_future(work(book, manager))
        while not (task.done() or killed.dead):
            await asyncio.sleep(0)
        await settle()
        task.cancel()
        await asyncio.wait([task])
        for _ in range(3):  # what goes on in tasks when a request is cancelled dies, too
            for left in tasks_of(manager):
                left.cancel()
            await settle(5)
        await book.check_rest("ada", "bob")
        if not killed.dead:
            return
    raise AssertionError("it does not come to an end")


async def test_an_ending_that_fails_takes_up_no_place() -> None:
    """The new id was entered, and the session to be left could not be ended: the entry goes at once."""
    book = await prepared(100)
    world = book.world
    before = [one.id for one in await entries_in_index(world.manager, "ada")]
    world.store.fail("save", match=lambda call: call.key == book.tokens["nobodys"][:22], times=None)
    session = await world.load(book.tokens["nobodys"])
    session["user"] = "ada"
    with pytest.raises(StoreUnavailable):
        await session.commit()
    await world.manager.drain()
    assert [one.id for one in await entries_in_index(world.manager, "ada")] == before
    world.store.heal()
    await session.commit()
    assert session.id is not None
    assert await commit(world.manager, session) is None


@pytest.mark.parametrize("revoked", [False, True])
async def test_an_id_that_was_doomed_and_removed_does_not_come_in_again(revoked: bool) -> None:
    """Where nobody can tell whether an id was added, it comes in once at most.

    Else whoever has doomed it the first time may be about to remove it, and would undo a second revocation.
    """
    of = World(identity="user")
    session = await of.session().load()
    session["user"] = "ada"
    index = index_key_of(of.manager, "ada")
    of.store.fail("create", "lost reply", match=lambda call: call.key == index)
    gate = of.store.pause("load", nth=2, match=lambda call: call.key == index)
    committing = start(session.commit())
    await gate.reached()
    if revoked:
        assert await SessionManager(of.memory, clock=of.clock, identity="user").revoke_user("ada") == 0
    gate.release()
    if revoked:
        with pytest.raises(StoreUnavailable, match="nobody can tell"):
            await committing
    else:
        await committing
    await of.manager.drain()
    entries = await entries_in_index(of.manager, "ada")
    assert [entry.id for entry in entries] == ([] if revoked else [session.id])

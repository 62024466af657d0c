"""Sign-ins, sign-outs, listings and revocations that race each other, and what holds in every order.

Each *act* is one process's: it works with a manager of its own, and stops before each verb of the store.
`Book` is the witness: it notes who was told what, and when, and looks into the store behind the library.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from asgi_session import Session, SessionManager
from asgi_session.errors import SessionError, StoreUnavailable
from tests.inside import Record, credential, entries_in_index, index_key_of, introduce, keys_in, new_session
from tests.manager.kit import World
from tests.manager.stepping import Chance, Orders, Pruned, Step, Stepper, SteppingStore

EVERY_ORDER = "EVERY_ORDER" in os.environ
MARGIN = 6
"""Seconds: a little more than the managers' deadline, after which a listing takes what is dead for dead."""


@dataclass
class Issued:
    """A session whose sign-in was answered.

    Attributes:
        user: whose.
        at: the moment of the answer; of later ones the number is greater.
        left: the moment at which its user was told that it has ended; None: not yet.
    """

    user: str
    at: int
    left: int | None = None


@dataclass
class Book:
    """What the clients were told, and what must be true of it."""

    world: World
    cap: int
    issued: dict[str, Issued] = field(default_factory=dict)
    refused: list[Exception] = field(default_factory=list)
    listings: int = 0
    moment: int = 0
    tokens: dict[str, str] = field(default_factory=dict)
    """Of sessions that were there before, by a name."""
    moved: dict[str, int] = field(default_factory=dict)
    """The moments at which a session was said to be found by another value."""
    at_the_end: dict[str, str | None] = field(default_factory=dict)
    """The sessions that live when all is done, by their ids; whose each is."""

    def now(self) -> int:
        self.moment += 1
        return self.moment

    async def record(self, session_id: str) -> Record | None:
        """Return the record of a session that lives."""
        record = await self.world.record(session_id)
        return None if record is None or record.ended else record

    async def living(self, user: str) -> list[str]:
        """Return the answered sessions of a user that live."""
        return [one for one, issued in self.issued.items() if issued.user == user and await self.record(one)]

    async def sign_in(
        self, manager: SessionManager, user: str, token: str | None = None, **values: Any
    ) -> Session:
        """Have a request sign somebody in; note how that was answered."""
        session = new_session(manager, *([] if token is None else [token]))
        introduce(session, self.world.clock())
        try:
            await session.load()
            session["user"], session["of"] = user, user
            session.update(values)
            await session.commit()
        except SessionError as error:
            self.refused.append(error)
        else:
            await self.answered(session, user)
        return session

    async def answered(self, session: Session, user: str) -> None:
        """Note a sign-in that has been answered."""
        assert session.id is not None
        self.issued[session.id] = Issued(user, self.now())
        living = await self.living(user)
        assert len(living) <= self.cap, f"{len(living)} living sessions, more than {self.cap}"

    async def revoke_user(self, manager: SessionManager, user: str, except_: str | None = None) -> None:
        """Revoke a user's sessions; those that were answered before do not survive that."""
        called = self.now()
        before = [one for one in await self.living(user) if one != except_]
        await manager.revoke_user(user, except_=except_)
        survive = [one for one in before if self.issued[one].at < called and await self.record(one)]
        assert not survive, f"sessions survive the revocation: {survive}"

    async def listed(self, manager: SessionManager, user: str) -> list[str]:
        """List a user's sessions; whatever lives and was answered before is there, once."""
        before = await self.living(user)
        ids = [info.id async for info in manager.sessions_of(user)]
        self.listings += 1
        assert len(set(ids)) == len(ids), "a session is listed twice"
        for one in before:
            if await self.record(one):
                assert one in ids, f"{one} lives and is not listed"
        for one in ids:
            record = await self.record(one)
            if record is not None:
                assert record.entries["of"] == record.entries["user"], "a value under another's name"
        others = [one for one in ids if one in self.issued and self.issued[one].user != user]
        assert not others, "another user's session is listed"
        return ids

    async def look_around(self, users: Sequence[str]) -> None:
        """Note what lives."""
        indexes = {index_key_of(self.world.manager, user) for user in users}
        for key in keys_in(self.world.memory):
            record = await self.record(key)
            if record is not None and key not in indexes:
                user = record.entries.get("user")
                self.at_the_end[key] = None if user is None else user[1:].decode()

    async def check_rest(self, *users: str) -> None:
        """Check what is left when all is done: every entry has a living record, after two listings."""
        world = self.world
        for one in self.issued:
            record = await self.record(one)
            if record is not None:
                assert record.entries["of"] == record.entries["user"], "a value under another's name"
        for pause in (MARGIN, 3600 + MARGIN):  # then nothing is left whose cookie has never come back
            world.clock.advance(pause)
            for user in users:
                assert len(await self.living(user)) <= self.cap
                manager = world.process()
                await self.listed(manager, user)
                await manager.drain()
                found = await self.listed(world.process(), user)
                entries = await entries_in_index(world.manager, user)
                assert sorted(one.id for one in entries) == sorted(found), "an entry without a session"
                assert not any(one.doomed for one in entries)


Act: TypeAlias = Callable[[Book, SessionManager], Awaitable[object]]
Prepare: TypeAlias = Callable[[Book], Awaitable[None]]


@dataclass
class Race:
    """Acts that race each other.

    Attributes:
        acts: name to act.
        prepare: is done before, without a stop.
        cap: of sessions for each user.
        one_process: they share a manager.
        users: who is looked at in the end.
        ticks: the clock goes on with every step, so that no two things happen at once.
        trouble: the store fails now and then.
        rest: checks what is left, before time goes on.
        options: of the managers.
    """

    acts: dict[str, Act]
    prepare: Prepare | None = None
    cap: int = 100
    one_process: bool = False
    users: tuple[str, ...] = ("ada",)
    ticks: bool = False
    trouble: bool = False
    rest: Prepare | None = None
    options: dict[str, Any] = field(default_factory=dict)

    async def run(self, choose: Callable[[Sequence[Step]], Step], *, replies: bool, seed: str = "") -> Book:
        """Run it once, and check."""
        stepper = Stepper(choose)
        world = World(
            lambda memory: SteppingStore(memory, stepper, replies=replies),
            identity="user",
            max_sessions_per_user=self.cap,
            **self.options,
        )
        stepping = world.store.store
        assert isinstance(stepping, SteppingStore)
        book = Book(world, self.cap)
        if self.prepare is not None:
            await self.prepare(book)
            await world.manager.drain()
            world.clock.advance(1)
        if self.ticks:
            stepping.tick = lambda: world.clock.advance(0.001)
        managers = [world.manager]
        acts = {}
        for name, act in self.acts.items():
            manager = world.manager if self.one_process else world.process()
            managers.append(manager)
            acts[name] = _act(act, book, manager, troubled=self.trouble)
        if self.trouble:
            stepping.trouble = random.Random(seed)
        try:
            await stepper.walk(acts)
            for manager in managers:
                await manager.drain()
            await book.look_around(self.users)
            if self.rest is not None:
                await self.rest(book)
            await book.check_rest(*self.users)
        except Exception as error:
            error.add_note(f"steps: {', '.join(map(str, stepper.trace))}")
            raise
        return book

    async def every_order(self, most: int) -> list[Book]:
        """Run it in every order that makes a difference; there are `most` of them at most."""
        books: list[Book] = []
        orders, more = Orders(), True
        while more:
            orders.begin()
            with suppress(Pruned):
                books.append(await self.run(orders.choose, replies=False))
            more = orders.next()
            assert len(books) <= most, "too many orders: draw some at random"
        return books

    async def orders(self, walks: int) -> list[Book]:
        """Run it in so many orders drawn at random; in every order if the environment asks for them all."""
        return await (self.every_order(100_000) if EVERY_ORDER else self.at_random(walks))

    async def at_random(self, walks: int, seed: int = 1) -> list[Book]:
        """Run it so often, in orders drawn at random."""
        seeds = [f"{seed} {walk}" for walk in range(walks)]
        return [await self.run(Chance(one).choose, replies=True, seed=one) for one in seeds]


async def _act(act: Act, book: Book, manager: SessionManager, *, troubled: bool) -> None:
    try:
        await act(book, manager)
    except StoreUnavailable:
        if not troubled:
            raise


async def signed_in(book: Book, user: str = "ada", token: str | None = None) -> str:
    """Have somebody signed in who has come back once; return the token."""
    book.world.clock.advance(1)
    session = await book.sign_in(book.world.manager, user, token)
    await book.world.load(credential(session))
    await book.world.manager.drain()
    return credential(session)

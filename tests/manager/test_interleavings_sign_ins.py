"""Sign-ins beside revocations, listings, sign-outs and each other, in every order of their steps.

A step is a verb of the store. Where there are too many orders, so many are drawn at random; then a verb's
reply is a step of its own, too. With EVERY_ORDER in the environment those are run in every order as well that
takes minutes at most.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from asgi_session import SessionManager
from asgi_session.errors import SessionError, SessionGone, SignInRefused
from tests.inside import credential, entries_in_index, introduce, new_session
from tests.manager.index_races import Act, Book, Race, signed_in
from tests.manager.kit import World

pytestmark = pytest.mark.usefixtures("no_jitter")
TICKS = pytest.mark.parametrize("ticks", [False, True], ids=["at one time", "as time goes"])


def sign_in(user: str = "ada", **values: Any) -> Act:
    return lambda book, manager: book.sign_in(manager, user, **values)


def revoke_user(user: str = "ada") -> Act:
    return lambda book, manager: book.revoke_user(manager, user)


def listing(user: str = "ada") -> Act:
    return lambda book, manager: book.listed(manager, user)


class Tokens:
    """Sessions that are there before a race begins: name to token."""

    def __init__(self, **users: str | None) -> None:
        self.users = users

    async def prepare(self, book: Book) -> None:
        for name, user in self.users.items():
            book.tokens[name] = await (book.world.new(cart=name) if user is None else signed_in(book, user))

    def sign_in(self, name: str, user: str = "ada") -> Act:
        return lambda book, manager: book.sign_in(manager, user, book.tokens[name])

    def sign_out(self, name: str) -> Act:
        async def act(book: Book, manager: SessionManager) -> None:
            session = await new_session(manager, book.tokens[name]).load()
            session.destroy()
            with suppress(SessionGone):
                await session.commit()
            assert await book.record(book.tokens[name][:22]) is None, "it lives after the sign-out"

        return act

    def rotate(self, name: str) -> Act:
        async def act(book: Book, manager: SessionManager) -> None:
            session = new_session(manager, book.tokens[name])
            introduce(session, book.world.clock())
            await session.load()
            session.rotate()
            session["seen"] = 1
            try:
                await session.commit()
            except SessionGone:
                return
            assert "user" in session or session.id != book.tokens[name][:22]

        return act

    def save(self, name: str) -> Act:
        async def act(book: Book, manager: SessionManager) -> None:
            session = await new_session(manager, book.tokens[name]).load()
            session["seen"] = 1
            try:
                await session.commit()
            except SessionGone:
                return

        return act


@TICKS
@pytest.mark.parametrize("before", [0, 1])
async def test_beside_a_revocation(before: int, ticks: bool) -> None:
    """What was answered before `revoke_user` was called does not survive its return, whatever runs beside."""
    tokens = Tokens(**{f"s{number}": "ada" for number in range(before)})
    race = Race({"in": sign_in(), "revoke": revoke_user()}, tokens.prepare, ticks=ticks)
    books = await (race.orders(250) if before else race.every_order(8_000))
    assert len(books) > 50
    assert any(book.refused for book in books)
    assert any(len(book.issued) > before for book in books)


async def test_beside_a_listing() -> None:
    """A reader never removes a session that is about to be created, or a session answered is not there."""

    async def prepare(book: Book) -> None:
        await signed_in(book)
        book.world.clock.advance(1)

    async def impatient(book: Book, manager: SessionManager) -> None:
        book.world.clock.advance(10)  # what has no record yet is taken for dead
        await book.listed(manager, "ada")

    books = await Race({"in": sign_in(), "list": impatient}, prepare).every_order(8_000)
    assert len(books) > 50
    assert any(book.refused for book in books), "no sign-in was overtaken by a reader"


async def test_beside_two_listings() -> None:
    """Two readers who find the same entry dead do not remove what the other's look has found alive."""

    async def impatient(book: Book, manager: SessionManager) -> None:
        book.world.clock.advance(10)
        await book.listed(manager, "ada")

    async def prepare(book: Book) -> None:
        await signed_in(book)

    race = Race({"in": sign_in(), "list": impatient, "look": impatient}, prepare)
    await race.at_random(250)


async def test_beside_a_sign_out() -> None:
    """Another session of the same user that signs out takes nothing but itself along."""
    tokens = Tokens(old="ada")
    race = Race({"in": sign_in(), "out": tokens.sign_out("old")}, tokens.prepare)
    books = await race.every_order(8_000)
    assert len(books) > 50
    assert all(len(book.issued) == 2 and not book.refused for book in books)


@TICKS
@pytest.mark.parametrize("before", [0, 1])
async def test_two_at_a_cap_of_one(before: int, ticks: bool) -> None:
    """Of two that sign in at once one lives at most, and one is answered at least."""
    tokens = Tokens(**{f"s{number}": "ada" for number in range(before)})
    race = Race({"a": sign_in(), "b": sign_in()}, tokens.prepare, cap=1, ticks=ticks)
    if before:
        books = await race.at_random(300)
    else:
        books = await (race.orders(300) if ticks else race.every_order(8_000))
    assert len(books) > 50
    assert all(len(book.issued) > before for book in books)


async def test_two_at_a_cap_of_one_that_refuses() -> None:
    """With ``on_max_sessions="refuse"`` one of them is refused, and the other lives."""
    race = Race({"a": sign_in(), "b": sign_in()}, cap=1, options={"on_max_sessions": "refuse"})
    for book in await race.every_order(8_000):
        assert len(book.issued) == 1
        assert [type(one) for one in book.refused] == [SignInRefused]


@pytest.mark.parametrize("users", [("ada", "ada"), ("ada", "bob")], ids=["one user", "two users"])
@pytest.mark.parametrize("one_process", [True, False], ids=["one process", "two processes"])
async def test_two_tabs(users: tuple[str, str], one_process: bool) -> None:
    """Two tabs that sign in on one session of nobody's get two sessions, or one and an error."""
    tokens = Tokens(tab=None)
    acts = {name: tokens.sign_in("tab", user) for name, user in zip("xy", users, strict=True)}
    race = Race(acts, tokens.prepare, users=("ada", "bob"), one_process=one_process)
    books = await race.at_random(250)
    for book in books:
        assert book.tokens["tab"][:22] not in book.at_the_end
        assert all(isinstance(one, SessionError) for one in book.refused)
        assert len(book.issued) >= 1


async def test_another_user_beside_revocation_and_listing() -> None:
    """A session of Ada's in which Bob signs in, while Ada's are revoked and listed, is Bob's alone."""
    tokens = Tokens(old="ada")
    acts = {"in": tokens.sign_in("old", "bob"), "revoke": revoke_user(), "list": listing()}
    books = await Race(acts, tokens.prepare, users=("ada", "bob")).at_random(250)
    assert any(book.issued for book in books)


async def test_another_user_beside_revocation() -> None:
    """The same without the listing, in every order."""
    tokens = Tokens(old="ada")
    acts = {"in": tokens.sign_in("old", "bob"), "revoke": revoke_user()}
    books = await Race(acts, tokens.prepare, users=("ada", "bob")).orders(250)
    assert len(books) > 100


async def test_a_strangers_id() -> None:
    """`revoke` with the id of another user's session does nothing, in whatever state that is."""
    tokens = Tokens(old="bob", nobodys=None)

    async def strange(book: Book, manager: SessionManager) -> None:
        for name in ("old", "nobodys"):
            assert not await manager.revoke(book.tokens[name][:22], principal="ada")

    acts = {"in": tokens.sign_in("nobodys", "bob"), "strange": strange, "save": tokens.save("old")}
    books = await Race(acts, tokens.prepare, users=("ada", "bob")).orders(250)
    for book in books:
        assert len(book.at_the_end) == 2


@TICKS
async def test_all_but_one(ticks: bool) -> None:
    """`except_` stays beside a sign-in and its own rotation; the others end."""
    tokens = Tokens(mine="ada", other="ada")

    async def revoke(book: Book, manager: SessionManager) -> None:
        await book.revoke_user(manager, "ada", book.tokens["mine"][:22])

    acts = {"in": sign_in(), "revoke": revoke, "rotate": tokens.rotate("mine")}
    race = Race(acts, tokens.prepare, ticks=ticks)
    for book in await race.at_random(300):
        assert book.tokens["mine"][:22] in book.at_the_end


@pytest.mark.parametrize("other", ["sign_in", "rotate", "save", "sign_out"])
async def test_eviction(other: str) -> None:
    """The sign-in that ends the oldest races what that one does: it stays dead, and nothing is lost."""
    tokens = Tokens(oldest="ada", newer="ada")
    rival = sign_in() if other == "sign_in" else getattr(tokens, other)("oldest")
    race = Race({"in": sign_in(), "rival": rival}, tokens.prepare, cap=2)
    books = await (race.at_random(250) if other == "sign_in" else race.every_order(8_000))
    for book in books:
        if not book.refused:
            assert book.tokens["oldest"][:22] not in book.at_the_end


async def test_everything_at_once() -> None:
    """Three sign-ins at a cap of two, a revocation, a listing and a sign-out, in orders drawn at random."""
    tokens = Tokens(one="ada", two="ada", nobodys=None)
    acts = {
        "a": sign_in(),
        "b": tokens.sign_in("nobodys"),
        "c": tokens.sign_in("one", "bob"),
        "list": listing(),
        "out": tokens.sign_out("two"),
        "revoke": revoke_user(),
    }
    for ticks in (False, True):
        await Race(acts, tokens.prepare, cap=2, users=("ada", "bob"), ticks=ticks).at_random(60)
        await Race(acts, tokens.prepare, cap=2, users=("ada", "bob"), one_process=True).at_random(60)


@pytest.mark.parametrize("one_process", [True, False], ids=["one process", "several"])
async def test_everything_at_once_in_trouble(one_process: bool) -> None:
    """The same while verbs are refused, and requests and replies are lost: it is true all the same."""
    tokens = Tokens(one="ada", two="ada", nobodys=None)
    acts = {
        "a": sign_in(),
        "b": tokens.sign_in("nobodys"),
        "c": tokens.sign_in("one", "bob"),
        "list": listing(),
        "out": tokens.sign_out("two"),
        "revoke": revoke_user(),
    }
    race = Race(
        acts, tokens.prepare, cap=2, users=("ada", "bob"), one_process=one_process, ticks=True, trouble=True
    )
    await race.at_random(150)


async def test_requests_in_flight() -> None:
    """A request in flight of a session that was revoked saves nothing there, nor begins one of its user."""
    tokens = Tokens(old="ada")

    async def revoke_one(book: Book, manager: SessionManager) -> None:
        await manager.revoke(book.tokens["old"][:22], principal="ada")

    for rival in (tokens.rotate("old"), tokens.save("old")):
        for book in await Race({"in": rival, "revoke": revoke_one}, tokens.prepare).every_order(8_000):
            assert set(book.at_the_end.values()) <= {None}


def world(**options: Any) -> World:
    return World(**{"identity": "user", **options})


async def test_two_users_in_one_request() -> None:
    """Two commits of one request sign in two users: the first's session ends, the cookie is the second's."""
    of = world()
    session = await of.session().load()
    session["user"] = "ada"
    await session.commit()
    first = credential(session)
    session["user"] = "bob"
    await session.commit()
    await of.manager.drain()
    assert await of.read(first) is None
    assert await of.read(credential(session)) == {"user": "bob"}
    assert [info.id async for info in of.manager.sessions_of("ada")] == []
    assert [info.id async for info in of.manager.sessions_of("bob")] == [session.id]


class Moves:
    """One session that is found by a further key, which requests change."""

    def __init__(self, sid: str | None) -> None:
        self.sid = sid

    async def prepare(self, book: Book) -> None:
        token = await signed_in(book)
        if self.sid is not None:
            session = await book.world.load(token)
            session["sid"] = self.sid
            await session.commit()
        book.tokens["old"] = token

    def move(self, sid: str) -> Act:
        async def act(book: Book, manager: SessionManager) -> None:
            session = await new_session(manager, book.tokens["old"]).load()
            session["sid"] = sid
            with suppress(SessionError):
                await session.commit()
                book.moved[sid] = book.now()

        return act

    def revoke_where(self, sid: str) -> Act:
        async def act(book: Book, manager: SessionManager) -> None:
            called = book.now()
            found = await book.record(book.tokens["old"][:22])
            await manager.revoke_where(sid=sid)
            if book.moved.get(sid, called) < called and found and found.entries["sid"][1:] == sid.encode():
                left = await book.record(book.tokens["old"][:22])  # unless it has moved on meanwhile
                assert left is None or left.entries["sid"] != found.entries["sid"], "it survives"

        return act

    async def find(self, book: Book) -> None:
        """Check that a session that lives is found by its key."""
        record = await book.record(book.tokens["old"][:22])
        if record is not None and "sid" in record.entries:
            sid = record.entries["sid"][1:].decode()
            entries = await entries_in_index(book.world.manager, sid, "sid")
            assert book.tokens["old"][:22] in [one.id for one in entries], f"{sid} does not find it"


@pytest.mark.parametrize(
    ("sid", "names"),
    [(None, "1 revoke"), ("s2", "1 revoke"), ("s1", "2 1"), ("s2", "1 2"), ("s1", "2 1 revoke")],
)
async def test_moves_between_further_indexes(sid: str | None, names: str) -> None:
    """A session that lives is found by the value it has of a key of `index`, whatever moved it there."""
    moves = Moves(sid)
    acts = {
        name: moves.revoke_where("s1") if name == "revoke" else moves.move(f"s{name}")
        for name in names.split()
    }
    race = Race(acts, moves.prepare, options={"index": ("sid",)}, rest=moves.find)
    await race.at_random(150)

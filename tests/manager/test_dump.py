"""What a store gets to see, and what somebody can do with it: sign in, forge, swap. With seals and without.

While users sign in, list and end their sessions, wait for locks and sign out, every command that the server
executes is noted: the keys, all values they ever had, the wake-ups on its channels.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations, islice
from typing import Any

import pytest

from asgi_session import Session, SessionCorrupt, SessionManager
from asgi_session.clock import system_clock
from asgi_session.store import TAKEN
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import FaultStore
from tests.inside import (
    MAX_CANDIDATES,
    credential,
    introduce,
    is_busy_with,
    key_of,
    new_session,
    rewrite,
    waiters_for,
)
from tests.manager.kit import soon, start, until
from tests.servers import ServerProcess
from tests.servers.server import MonitoredCommand

SIGNING, SEALING = "the key that signs the cookies", "the key that seals, which has at least 32 bytes"
ADA, MALLORY = "ada.lovelace@example.org", "mallory@example.org"
DEVICE, SID = "a phone at 203.0.113.7", "the provider's sid"
SECRETS: dict[str, Any] = {"card_number": "4111-1111-1111-1111", "note": b"raw bytes of a note"}
WORDS = [b"card_number", b"4111-1111", b"raw bytes", b"note", b"visits_so_far"]
WORDS += [ADA.encode(), MALLORY.encode(), DEVICE.encode(), SID.encode()]
PLAIN: dict[str, Any] = {}
SEALED: dict[str, Any] = {"encryption_key": SEALING}
EACH = pytest.mark.parametrize("options", [PLAIN, SEALED], ids=["plain", "sealed"])


def manager_on(store: Any, **options: Any) -> SessionManager:
    return SessionManager(
        store,
        identity=("user", "role"),
        index=("oidc_sid",),
        describe=lambda connection: DEVICE,
        max_sessions_per_user=3,
        **options,
    )


class Users:
    """What some users do, in two processes.

    Attributes:
        ada: the cookie of a session of Ada's that lives.
        mallory: that of one of Mallory's, who has got hold of the dump.
        nobody: that of a session in which nobody is signed in.
        cookies: all that were ever given out, those three included.
    """

    def __init__(self, here: SessionManager, there: SessionManager) -> None:
        self._here, self._there = here, there
        self.cookies: list[str] = []
        self.ada = self.mallory = self.nobody = ""

    async def _request(self, cookie: str | None = None, manager: SessionManager | None = None) -> Session:
        session = new_session(manager or self._here, *([] if cookie is None else [cookie]))
        introduce(session, system_clock(), object())
        return await session.load()

    async def _commit(self, session: Session) -> str:
        await session.commit()
        self.cookies.append(credential(session))
        return self.cookies[-1]

    async def _begin(self, cookie: str | None = None, **values: Any) -> str:
        """Set values in a session, a new one without a cookie, and come back; return the cookie."""
        session = await self._request(cookie)
        session.update(SECRETS, visits_so_far=1, **values)
        cookie = await self._commit(session)
        await self._request(cookie, self._there)
        return cookie

    async def _hand_over_the_lock(self, cookie: str) -> None:
        """Have the lock pass from one process to the other, by a wake-up."""
        holder, waiter = await self._request(cookie), await self._request(cookie, self._there)

        async def waits() -> None:
            async with waiter.lock(wait=20):
                waiter["visits_so_far"] += 1

        async with holder.lock():
            waiting = start(waits())
            await until(lambda: waiters_for(self._there, cookie) == 1)
            await until(lambda: not is_busy_with(self._there, cookie))
            holder["visits_so_far"] += 1
        await waiting

    async def live(self) -> None:
        """Do all that writes a record or an index."""
        await self._there.revoke_all()
        ended = system_clock()
        await until(lambda: system_clock() > ended)  # what is created later is good

        self.nobody = await self._begin()
        session = await self._request(self.nobody)
        await session.transact(lambda draft: draft.update(SECRETS, visits_so_far=3))
        session.rotate()
        session = await self._request(await self._commit(session))
        session.clear()
        session.update(SECRETS)
        self.nobody = await self._commit(session)

        self.ada = await self._begin(await self._begin(), user=ADA, role="staff")
        self.mallory = await self._begin(user=MALLORY, role="staff", oidc_sid=SID)
        await self._hand_over_the_lock(self.ada)
        session = await self._request(self.ada)
        session["role"] = "admin"
        self.ada = await self._commit(session)
        session = await self._request(self.ada)
        await session.reauthenticated()
        self.ada = await self._commit(session)

        for _ in range(3):  # the third one ends the oldest: the cap is three
            await self._begin(user=ADA, oidc_sid=SID + "2")
        last = self.cookies[-1][:22]
        others = [one.id async for one in self._there.sessions_of(ADA) if one.id != last]
        assert len(others) == 2
        assert await self._there.revoke(others[0], principal=ADA)
        assert await self._here.revoke_user(ADA, except_=last) == 1
        assert await self._there.revoke_where(oidc_sid=SID + "2") == 1
        switched = await self._begin(await self._begin(user=ADA), user=MALLORY)
        session = await self._request(switched)
        session.destroy()
        await session.commit()
        self.ada = await self._begin(user=ADA, role="admin")
        for manager in (self._here, self._there):
            await manager.drain()


class Dump:
    """All that a server got to see.

    Attributes:
        users: those who left it there.
        blobs: keys, arguments and messages.
        versions: of each key the values it had, without what the store itself puts before a record.
        kept: the keys that were there in the end.
        wake_ups: how many messages were sent.
    """

    def __init__(self, users: Users, commands: Iterable[MonitoredCommand], server: ServerProcess) -> None:
        self.users = users
        self.blobs: set[bytes] = set()
        self.versions: defaultdict[str, list[bytes]] = defaultdict(list)
        self.kept: set[str] = set()
        self.wake_ups = 0
        for one in commands:
            self.blobs.update(one.args)
            self.wake_ups += one.name == "publish"
            if one.name == "set" and b"check-" not in one.args[1]:  # what `open` tries the permissions with
                self.versions[_key_in(one.args[1])].append(one.args[2][8:])
        for name in server.command("KEYS", "*"):
            value = server.command("GET", name)
            self.blobs.update((name, value))
            self.versions[_key_in(name)].append(value[8:])
            self.kept.add(_key_in(name))

    async def replayed(self) -> MemoryStore:
        """Return a store that holds what the server has in the end."""
        store = MemoryStore()
        for key in self.kept:
            expires_at = system_clock() + 3_600_000
            assert await store.create(key, self.versions[key][-1], expires_at, deadline=soon()) is not TAKEN
        return store


def _key_in(name: bytes) -> str:
    found = re.search(rb"\{([A-Za-z0-9_-]{22})\}", name)
    assert found is not None, name
    return found[1].decode()


async def dumped(server: ServerProcess, **options: Any) -> Dump:
    with server.monitor() as commands:
        async with manager_on(server.url, **options) as here, manager_on(server.url, **options) as there:
            users = Users(here, there)
            await users.live()
    return Dump(users, commands, server)


def texts(blobs: Iterable[bytes], length: int) -> set[str]:
    """Return every run of so many characters of a cookie's alphabet."""
    pattern = re.compile(rb"(?=([A-Za-z0-9_-]{%d}))" % length)
    return {found[1].decode() for blob in blobs for found in pattern.finditer(blob)}


def encoded(blobs: Iterable[bytes]) -> set[str]:
    """Return every 16 bytes, whatever they are, as the half of a cookie."""
    runs = {blob[at : at + 16] for blob in blobs for at in range(len(blob) - 15)}
    return {base64.urlsafe_b64encode(run).decode()[:22] for run in runs}


def fours(cookies: Iterable[str]) -> Iterator[list[str]]:
    """Return as many at a time as a request may carry."""
    each = iter(cookies)
    while some := list(islice(each, MAX_CANDIDATES)):
        yield some


async def opened(manager: SessionManager, cookies: Iterable[str]) -> list[str]:
    """Return the ids of the sessions that some of the cookies open."""
    found: list[str] = []
    for some in fours(cookies):
        session = await new_session(manager, *some).load()
        if session.id is not None:
            found.append(session.id)
    return found


@EACH
async def test_nothing_in_a_dump_signs_in(valkey: ServerProcess, options: dict[str, Any]) -> None:
    """Promise 9: no part of it is a cookie, a verifier beside any id, or a session's id."""
    dump = await dumped(valkey, **options)
    assert dump.wake_ups > 0, "or the channels were not looked at"
    living = [dump.users.ada, dump.users.mallory, dump.users.nobody]
    manager = manager_on(await dump.replayed(), **options)
    for place in range(MAX_CANDIDATES):  # the control: one of the many that does is found
        others = [f"{living[0][:22]}{'A' * 22}"] * (MAX_CANDIDATES - 1)
        assert await opened(manager, [*others[:place], living[0], *others[place:]]) == [living[0][:22]]
    halves = texts(dump.blobs, 22) | encoded(dump.blobs)
    assert len(halves) > 5_000
    assert {cookie[:22] for cookie in living} <= halves, "the ids are public"
    assert not {cookie[22:44] for cookie in dump.users.cookies} & halves, "the verifiers are not"
    guesses = texts(dump.blobs, 44)
    guesses |= {cookie[:22] + half for cookie in living for half in halves if half[-1] in "AQgw"}
    guesses |= {key + half for key in dump.kept for half in dump.kept}
    guesses |= {half + half for half in halves}
    assert await opened(manager, guesses) == []


@EACH
async def test_nothing_in_a_dump_signs_a_cookie(valkey: ServerProcess, options: dict[str, Any]) -> None:
    """Promises 1 and 9: with `secret_key`, what is made of a dump is refused before the store is asked."""
    dump = await dumped(valkey, secret_key=SIGNING, **options)
    store = FaultStore(await dump.replayed())
    manager = manager_on(store, secret_key=SIGNING, **options)
    ada, mallory = dump.users.ada, dump.users.mallory
    assert await opened(manager, [ada]) == [ada[:22]]
    store.calls.clear()
    halves = texts(dump.blobs, 22) | encoded(dump.blobs)
    assert not {cookie[45:] for cookie in dump.users.cookies} & halves, "signatures never reach the store"
    # Mallory's own signature, and whatever else there is, beside what it was not made for. Even somebody who
    # has put a record of their own under Ada's id, with a verifier that they know, has no cookie for it.
    forged = [ada[:22] + mallory[22:], mallory[:22] + ada[22:44] + mallory[44:], ada[:44] + mallory[44:]]
    forged += [f"{cookie[:44]}.{half}" for cookie in (ada, mallory) for half in halves]
    forged += [cookie[:44] for cookie in dump.users.cookies]
    assert await opened(manager, forged) == []
    assert store.counts() == {}


async def test_what_seals_hide(valkey: ServerProcess) -> None:
    """Neither a key nor a value, who is signed in or where, in any command, wake-up or value."""
    seen: dict[str, bytes] = {}
    for name, options in (("plain", PLAIN), ("sealed", SEALED)):
        valkey.flush()
        dump = await dumped(valkey, **options)
        seen[name] = b"\n".join([*dump.blobs, SEALING.encode() if name == "plain" else b""])
        assert not any(cookie[22:44].encode() in seen[name] for cookie in dump.users.cookies)
    assert [word for word in WORDS if word not in seen["plain"]] == [], "else this would show nothing"
    assert [word for word in [*WORDS, SEALING.encode()] if word in seen["sealed"]] == []


async def read(manager: SessionManager, cookie: str) -> dict[str, Any] | None:
    """Return what a cookie opens; None where that is an error."""
    try:
        return dict(await new_session(manager, cookie).load())
    except SessionCorrupt:
        return None


async def ids_of(manager: SessionManager, user: str) -> list[str] | None:
    """Return the ids of a user's sessions; None where that is an error."""
    try:
        return [one.id async for one in manager.sessions_of(user)]
    except SessionCorrupt:
        return None


@EACH
async def test_no_record_stands_for_another(valkey: ServerProcess, options: dict[str, Any]) -> None:
    """Promise 10: under another's key any value is an error, a session's and an index's alike."""
    dump = await dumped(valkey, **options)
    ada, mallory = dump.users.ada, dump.users.mallory
    store = await dump.replayed()
    manager = manager_on(store, **options)
    assert await ids_of(manager, ADA) == [ada[:22]]
    tried = 0
    for key in dump.kept:
        for other, versions in dump.versions.items():
            if other == key:
                continue
            for data in set(versions):
                await rewrite(store, key, data)
                tried += 1
                for cookie, user in ((ada, ADA), (mallory, MALLORY)):
                    if cookie[:22] == key:
                        assert await read(manager, cookie) is None
                    else:
                        assert (await read(manager, cookie) or {}).get("user") == user
                assert await ids_of(manager, ADA) in ([ada[:22]], [], None)
                assert await ids_of(manager, MALLORY) in ([mallory[:22]], [], None)
        await rewrite(store, key, dump.versions[key][-1])
    assert tried > 100
    assert await ids_of(manager, ADA) == [ada[:22]]


def mixtures(own: bytes, other: bytes) -> set[bytes]:
    """Return what can be put together of two records: one's start, or what lies between two fields."""
    made = {one[:at] + two[at:] for one, two in ((own, other), (other, own)) for at in range(len(own))}
    fields = [0, 4, 8, 16, 17, 25, 31, 37, 43, 59, 63, 64]
    fields += [len(own) - each for each in (0, 16, 20, 40)]
    made |= {own[:at] + other[at:end] + own[end:] for at, end in combinations(sorted(fields), 2)}
    end = len(other) - len(own)  # the same places counted from the end
    made |= {own[:at] + other[max(at + end, 0) :] for at in range(len(own))}
    return made - {own}


async def test_no_part_of_a_record_stands_for_another(valkey: ServerProcess) -> None:
    """Sealed, no mixture of two records or two versions is read; not sealed, one makes Mallory Ada."""
    for options, opens in ((PLAIN, True), (SEALED, False)):
        valkey.flush()
        dump = await dumped(valkey, **options)
        ada, mallory = dump.users.ada, dump.users.mallory
        store = await dump.replayed()
        manager = manager_on(store, **options)
        key = key_of(manager, mallory[:22])
        own = dump.versions[key][-1]
        sources = {dump.versions[other][-1] for other in dump.kept} | set(dump.versions[key])
        sources |= {dump.versions[key_of(manager, ada[:22])][0]}
        whole = {*dump.versions[key]}  # an older version of the same record, put back as it was, is valid
        found = []
        for data in {made for source in sources - {own} for made in mixtures(own, source)} - whole:
            await rewrite(store, key, data)
            found.append(await read(manager, mallory))
        assert len(found) > 2_000
        assert ADA in [(one or {}).get("user") for one in found] or not opens
        assert opens or found == [None] * len(found)

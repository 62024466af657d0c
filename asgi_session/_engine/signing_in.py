"""Signing in: the index's part in a new session's creation.

A session that belongs to somebody is created in three steps: (1) its id is added to the index, and what
that dooms is ended; (2) its record is created; (3) the index is looked at again. Only what is still there
then, and not doomed, has been signed in: whoever revokes the principal's sessions meanwhile either finds the
id in the index, or has left a mark that one of the steps meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from asgi_session._data import index as indexes
from asgi_session._data.index import Addition, Entry
from asgi_session._data.record import Record
from asgi_session._engine.deciding import Decider, Moving, Place
from asgi_session._engine.indexing import Indexes
from asgi_session._engine.loops import Loops
from asgi_session._engine.members import Members
from asgi_session._policy import Policy
from asgi_session.errors import SessionCorrupt, SignInRefused

_NO_CAP: Final = 1 << 30


class SignIns(Decider):
    """The sign-ins of one manager."""

    __slots__ = ("_indexes", "_loops", "_members")

    def __init__(self, policy: Policy, loops: Loops, indexes_: Indexes, members: Members) -> None:
        super().__init__(policy)
        self._loops = loops
        self._indexes = indexes_
        self._members = members

    # ---------------------------------------------------------------- the steps

    async def enter(self, place: Place, deadline: float) -> None:
        """Step 1: add a new session to the indexes, and end what that dooms. Can be done again.

        Whoever calls this has the session leave them if it does not come to be.

        Raises:
            SignInRefused, StoreUnavailable.
        """
        policy = self._policy
        for at, name in enumerate(place.names):
            if at < place.entered:
                continue
            cap = policy.max_sessions if name == place.principal else _NO_CAP
            addition = await self._add(name, place, cap, deadline)
            if addition.added == "full":
                await self._members.members(name, deadline)  # what is dead takes up no place
                addition = await self._add(name, place, cap, deadline)
            if addition.added != "in":
                raise full() if addition.added == "full" else revoked_meanwhile()
            ended: list[str] = []
            for session_id in addition.doomed:
                with suppress(SessionCorrupt):  # reported; it stays doomed
                    gone = await self._members.end(name, session_id, deadline)
                    if gone and session_id in addition.evicted:
                        policy.emit("evicted", session_id)
                    ended.append(session_id)
            if ended:
                place.doomed[name] = ended
            place.entered = at + 1

    async def _add(self, name: bytes, place: Place, cap: int, deadline: float) -> Addition:
        addition = Addition()
        entry = Entry(place.session_id, place.created, place.until)
        evict = self._policy.evicts

        def add(record: Record, now: int) -> Record:
            return indexes.add(record, entry, addition, cap=cap, evict=evict, began=place.began, now=now)

        def seen(record: Record) -> bool:
            return indexes.find(record, place.session_id) is not None

        uncertain, place.uncertain = place.uncertain, True
        await self._indexes.change(name, add, deadline, seen=seen, uncertain=uncertain)
        place.uncertain = False
        return addition

    async def prolong(self, moving: Moving, deadline: float) -> None:
        """Have the indexes keep a session until its new, later deadline: before the record has it."""
        place = moving.place

        def prolong(record: Record, now: int) -> Record:
            return indexes.prolong(record, place.session_id, place.until, now)

        for name in moving.prolonged:
            await self._indexes.change(name, prolong, deadline)

    async def confirm(self, place: Place, deadline: float) -> bool:
        """Step 3: look whether a new session may stay; if not, its record is deleted."""
        for name in place.names:
            version = await self._indexes.load(name, deadline)
            entry = indexes.find(version.record if version is not None else None, place.session_id)
            if entry is not None and entry.suspect:
                found: list[Entry | None] = []

                def clear(record: Record, now: int, found: list[Entry | None] = found) -> Record:
                    made = indexes.clear(record, place.session_id, now)
                    found[:] = [indexes.find(made, place.session_id)]
                    return made

                await self._indexes.change(name, clear, deadline)
                entry = found[0] if found else None
            if entry is None or entry.doomed:
                await self._members.delete(place.session_id, deadline)
                return False
        for name, ids in place.doomed.items():
            self._loops.current().tasks.spawn(self._quietly(self._members.forget(name, ids, deadline)))
        return True

    def give_up(self, place: Place) -> None:
        """Have a session that does not come to be leave its place, unless it has done so."""
        if not place.given_up:
            place.given_up = True
            self.leave(place.session_id, place.names)

    async def give_up_now(self, place: Place, deadline: float) -> None:
        """Have a session that does not come to be leave its place, if that can be, before something else."""
        place.given_up = True
        for name in place.names:
            await self._remove(name, place.session_id, deadline)

    def leave(self, session_id: str, names: Sequence[bytes]) -> None:
        """Remove a session that has ended from its indexes, in a task: a reader would, too."""
        for name in names:
            self._loops.current().tasks.spawn(self._remove(name, session_id, self._policy.wait_until()))

    def leave_behind(self, session_id: str, names: Sequence[bytes]) -> None:
        """Remove a session that lives from indexes that it has left, in a task, unless it comes back."""
        deadline = self._policy.wait_until()
        for name in names:
            work = self._members.remove_dead(name, [session_id], deadline)
            self._loops.current().tasks.spawn(self._quietly(work))

    async def _remove(self, name: bytes, session_id: str, deadline: float) -> None:
        await self._quietly(
            self._indexes.change(name, lambda record, now: indexes.remove(record, session_id, now), deadline)
        )

    async def _quietly(self, work: Any) -> None:
        try:
            await work
        except Exception as error:  # nobody waits for it, and readers of the index do the same
            self._policy.emit("failed", None, error=error)


def full() -> SignInRefused:
    """Return the error for a sign-in of a user who has as many sessions as are allowed."""
    return SignInRefused(
        "this user has as many sessions as max_sessions_per_user allows, and on_max_sessions='refuse' keeps "
        "the others. Nobody was signed in"
    )


def revoked_meanwhile() -> SignInRefused:
    """Return the error for a sign-in that a revocation of the user's sessions has met."""
    return SignInRefused(
        "the user's sessions were revoked while this sign-in was on its way. Nobody was signed in: the user "
        "has to sign in again"
    )

"""Commits that go on in a new record, or that move a session from one index to another."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from asgi_session._data import record as records
from asgi_session._data.change import Kind
from asgi_session._data.rules import merge
from asgi_session._engine.creating import Creator, New
from asgi_session._engine.deciding import Moving, Place
from asgi_session._engine.hold import hold_of
from asgi_session._engine.loops import Loops
from asgi_session._engine.save_request import LeftOut, SavedAs, shutting_down
from asgi_session._engine.settling import Commit, Settler
from asgi_session._engine.signing_in import SignIns
from asgi_session._policy import Policy


class Beginner:
    """Has the commits of one manager go on in new records.

    Attributes:
        settler: is told what becomes of them.
    """

    __slots__ = ("_creator", "_loops", "_policy", "_sign_ins", "settler")

    settler: Settler

    def __init__(self, policy: Policy, loops: Loops, creator: Creator, sign_ins: SignIns) -> None:
        self._policy = policy
        self._loops = loops
        self._creator = creator
        self._sign_ins = sign_ins

    def prepare(self, commit: Commit) -> Place | None:
        """Draw the id of the record in which a commit goes on that is to end another.

        Before anything is ended that it is to take the place of; returns its place in the indexes, which it
        has to enter first.

        Raises:
            SessionTooLarge, SessionSerializationError.
        """
        own = commit.own
        if commit.mark is not None and commit.mark.kind is Kind.SIGN_IN and commit.standing is not None:
            forget = self._policy.forget_at_login - commit.taken.keys()
            known = merge(dict(commit.standing.origin), commit.taken)
            own = {key: value for key, value in known.items() if key not in forget}
        commit.new = new = self._new(commit, own)
        new.room = records.body_size(commit.base.record)
        self._creator.prepare(new)
        return new.place

    def enter_then_save(self, commit: Commit, place: Place) -> Coroutine[Any, Any, None]:
        """Enter a new session into its indexes, then end the one whose place it takes; await the result.

        In a task, so that being cancelled does not leave the session with a commit that never ends.
        """
        self._loops.current().tasks.spawn(self._enter_then_save(commit, place))
        return commit.outcome()

    def move(self, commit: Commit, moving: Moving) -> Coroutine[Any, Any, None]:
        """Save to a record that moves between further indexes, or is to last longer; await the result."""
        self._loops.current().tasks.spawn(self._move(commit, moving))
        return commit.outcome()

    def begin_anew(self, commit: Commit) -> None:
        """Have a commit's own keys go on in a new record, in a task."""
        new = commit.new or self._new(commit, commit.own)
        new.change(commit.own, self._lock_for(commit))
        if commit.carried is not None:
            new.room = self._policy.max_size  # looked at when it was carried over
        self._loops.current().tasks.spawn(self._create_in_task(commit, new))

    async def create_here(self, commit: Commit) -> None:
        """Create a new session in the request's own task; one that is cancelled leaves that to another."""
        new = self._new(commit, commit.own)
        new.lock_for = self._lock_for(commit)
        try:
            await self._create(commit, new)
        except asyncio.CancelledError:
            self._loops.current().tasks.spawn(self._create_in_task(commit, new))
            raise
        except BaseException:
            self.settler.fail(commit, shutting_down())
            raise
        if commit.error is not None:
            raise commit.error

    # ---------------------------------------------------------------- how

    def _new(self, commit: Commit, own: dict[str, bytes]) -> New:
        """Return the record that a commit's own keys are to make."""
        if commit.standing is None:  # nobody asks whose it is
            return New(own, None, commit.lifetime)
        description = self._policy.description_of(commit.session)
        return New(own, None, commit.lifetime, commit.standing.began, description)

    def _lock_for(self, commit: Commit) -> bytes | None:
        """Return who is to have a new record's lock from the beginning: who has made the commit under one."""
        hold = hold_of(commit.session)
        if hold is None or hold.queue is not None:
            return None
        commit.adopting = hold
        return self._loops.current().tasks.name

    async def _create_in_task(self, commit: Commit, new: New) -> None:
        try:
            await self._create(commit, new)
        except BaseException:
            self.settler.fail(commit, shutting_down())
            raise

    async def _create(self, commit: Commit, new: New) -> None:
        """Create a new session of the commit's own keys, under a new id."""
        session, loop = commit.session, self._loops.current()
        loop.creating.add(commit)
        try:
            token, version = await self._creator.create(new, commit.deadline)
        except Exception as error:
            if new.place is not None:
                self._sign_ins.give_up(new.place)
            self.settler.fail(commit, error)
        else:
            session._created(token, version, commit.era, commit.taken)
            self._policy.emit("created", token.selector, session)
            if commit.adopting is not None:
                loop.locks.adopt(commit.adopting, token.selector, version)
            self.settler.finish(commit)
        finally:
            loop.creating.discard(commit)

    async def _enter_then_save(self, commit: Commit, place: Place) -> None:
        try:
            await self._sign_ins.enter(place, commit.deadline)
            await self._save(commit)
            if commit.left_out is not None:  # no cookie can follow any more
                self._sign_ins.give_up(place)
        except Exception as error:  # perhaps the commit's own, which is told to who waits for that
            self._sign_ins.give_up(place)
            self.settler.fail(commit, error)
        except BaseException:
            self.settler.fail(commit, shutting_down())
            raise

    async def _move(self, commit: Commit, moving: Moving) -> None:
        place, session_id = moving.place, moving.place.session_id
        try:
            await self._sign_ins.prolong(moving, commit.deadline)
            await self._sign_ins.enter(place, commit.deadline)
            note, saved = commit.then, asyncio.Event()
            commit.then = lambda _: saved.set()
            self._loops.current().tasks.spawn(self._save_unwatched(commit))
            await saved.wait()
            if isinstance(commit.result, SavedAs):
                self._sign_ins.leave_behind(session_id, moving.left)
                # Before anybody is told: who revokes by the new index has to find it there from then on.
                if not await self._sign_ins.confirm(place, commit.deadline):
                    commit.result = LeftOut("gone")
            if isinstance(commit.result, LeftOut) and commit.result.version is None:
                self._sign_ins.give_up(place)
            note(commit)
        except Exception as error:  # perhaps the commit's own, which is told to who waits for that
            self.settler.fail(commit, error)
        except BaseException:
            self.settler.fail(commit, shutting_down())
            raise

    async def _save_unwatched(self, commit: Commit) -> None:
        with suppress(Exception):  # the commit's own, which is told to who waits for that
            await self._save(commit)

    def _save(self, commit: Commit) -> Coroutine[Any, Any, None]:
        assert commit.id is not None, "a session that has a record has one"
        return self._loops.current().saves.save(self._policy.tokens.key(commit.id), commit)

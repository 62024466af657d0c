"""Committing: from a session's changes to a save, and from its result back to the session."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from asgi_session._data.change import NO_CHANGES, Kind, gone, lock_lost, own_keys
from asgi_session._data.identity import LOOKS_LIKE_ONE
from asgi_session._data.token import new_token
from asgi_session._engine.beginning import Beginner
from asgi_session._engine.hold import Hold, hold_of
from asgi_session._engine.loading import Loader
from asgi_session._engine.loops import Loops
from asgi_session._engine.refreshing import report_stale
from asgi_session._engine.save_request import shutting_down
from asgi_session._engine.settling import Commit, Settler, refuse_left_out
from asgi_session._engine.signing_in import SignIns
from asgi_session._policy import Policy
from asgi_session._session.session import Session
from asgi_session.errors import SessionError, StoreUnavailable

_NOTHING: Final[dict[str, bytes]] = {}  # shared: nobody changes it


class Committer:
    """Commits the sessions of one manager."""

    __slots__ = ("_beginner", "_loader", "_loops", "_note", "_policy", "_settler", "_sign_ins")

    def __init__(
        self, policy: Policy, loader: Loader, beginner: Beginner, sign_ins: SignIns, loops: Loops
    ) -> None:
        self._policy = policy
        self._loader = loader
        self._beginner = beginner
        self._loops = loops
        self._sign_ins = sign_ins
        self._settler = beginner.settler = Settler(policy, beginner.begin_anew, sign_ins.leave)
        self._note = self._settler.note  # bound once

    # ---------------------------------------------------------------- what is asked

    def commit(
        self, session: Session, *, explicit: bool, only_destroy: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Commit what was changed, if anything; await the result.

        No coroutine function, because the ordinary commit at a response's start then needs one less.

        Args:
            session: whose.
            explicit: the app asked and wants to know: a session that is gone is an error.
            only_destroy: the request has failed: drop the changes, end the session if it was to end.
        """
        if explicit or session._commit is not None:
            return self._commit_in_turn(session, explicit=explicit, only_destroy=only_destroy)
        commit = self._take(session, only_destroy=only_destroy)
        if commit is None:
            return session._settled()
        if commit.mark is None and session._status == "live":  # nearly always
            return self._save(commit)
        return self._carry_out(commit)

    async def _commit_in_turn(self, session: Session, *, explicit: bool, only_destroy: bool) -> None:
        """Commit after the commit that is on its way, and tell who asked what became of it."""
        await session._settled()
        commit = self._take(session, only_destroy=only_destroy)
        if commit is not None:
            await self._carry_out(commit)
            if explicit:
                refuse_left_out(commit)
        elif explicit:
            session._refuse_if_ended()
            _refuse_if_detached(session)
            self._loader.touch_if_due(session, self._policy.clock())

    async def commit_and_release(self, session: Session, hold: Hold) -> None:
        """Commit what was changed under a lock and release it, in one save.

        If that fails, what was changed is forgotten: it must not be merged later without the lock.
        """
        try:
            if hold.queue is not None:
                await hold.queue.catch_up()
            await session._settled()
            lost = session._hold is not hold  # and given to another task of the request by now
            commit = None if lost else self._take(session, leave=hold)
        except BaseException:
            hold.end()
            raise
        if commit is None:  # it has ended, or nothing was ever stored
            hold.end()
            if lost:
                raise lock_lost()
            _refuse_if_detached(session)
            return
        session._lock_with(None)
        await self._carry_out(commit)
        refuse_left_out(commit)

    def _take(
        self, session: Session, *, only_destroy: bool = False, leave: Hold | None = None
    ) -> Commit | None:
        """Take the session's changes for a commit; None when there is nothing to do.

        With `leave` the commit releases that lock, too.
        """
        policy = self._policy
        status = session._status
        if status == "unloaded" or status == "ended":
            return None
        if session._replaced:
            report_stale(policy, session)
        mark, lifetime, whole = session._mark, None, session._lifetime
        if only_destroy:
            if mark is None or mark.kind is not Kind.DESTROY:
                if session.modified:
                    keys = session._drop_changes()
                    policy.emit("dropped", session.id, session, reason="error", keys=keys)
                return None
            taken = NO_CHANGES
        else:
            try:
                taken = session._changes(policy.max_size, take=True)
            except SessionError as error:  # too large, or not to be stored
                policy.emit("failed", session.id, session, error=error)
                raise
            if policy.may_warn and not LOOKS_LIKE_ONE.isdisjoint(taken):
                policy.warn_of_fixation(session.id, taken, mark)
            if whole is not None:
                lifetime = session._take_lifetime(alone=not taken)
            if not taken and mark is None and lifetime is None and (leave is None or status != "live"):
                return None
        commit = Commit(
            taken,
            mark=mark,
            asked=mark,
            origins=session._origin,
            lifetime=lifetime,
            then=self._note,
            session=session,
            taken=taken,
            era=session._era,
        )
        commit.standing = session._commit_begins(commit, policy.deadline, asks=policy.has_indexes)
        if commit.standing is not None:
            try:
                self._sign_ins.decide(commit, commit.standing)
            except SessionError as error:
                self._settler.fail(commit, error)
                raise
            if commit.mark is not None and commit.mark is not mark and commit.mark.ends:
                commit.lifetime = whole  # not only what the record that ends has not already
            mark = commit.mark
        commit.hold = leave
        if mark is not None:
            if mark.begins_anew:
                # Of another user's value only a part may have been changed.
                commit.own = session._own_values(taken, only_set=mark is not commit.asked)
            if mark.ends and mark.kind is not Kind.SIGN_IN:
                commit.changes = NO_CHANGES
        if session._hold is not None:
            hold = hold_of(session)
            assert hold is not None, "just looked"
            hold.cover(commit, leaving=leave is not None)
        return commit

    # ---------------------------------------------------------------- which way it goes

    def _carry_out(self, commit: Commit) -> Coroutine[Any, Any, None]:
        """Send a commit the way that the session's status asks for; await its result."""
        session, mark = commit.session, commit.mark
        status = session._status
        if status == "live" and mark is None:  # nearly always
            return self._save(commit)
        if status == "blank":
            self._loops.current().tasks.spawn(self._load_then_carry_out(commit))
            return commit.outcome()
        begins_anew = mark is not None and mark.begins_anew
        own = commit.own if begins_anew else own_keys(commit.changes)
        if status == "detached" and not begins_anew:
            self._settler.leave_out(commit, "detached")
        elif session._sealed and mark is not None and not mark.ends:
            # Carried out, it would leave the client with a dead credential; its data without it would
            # be the next identity's under the old one.
            self._settler.refuse_late(commit)
            session._drop_late()
            self._settler.finish(commit)
        else:
            if session._sealed and own:
                self._settler.refuse_late(commit)
                own = commit.own = _NOTHING
            if status == "live":
                return self._save(commit)
            if status == "anonymous":
                message = (
                    "the session could not be loaded because the store was unavailable, so it cannot be "
                    "changed"
                )
                self._settler.fail(commit, StoreUnavailable(message, executed=False))
            elif own and (status == "new" or begins_anew):
                commit.own = own
                return self._beginner.create_here(commit)
            elif status == "detached":
                self._settler.leave_out(commit, "detached")
            else:
                if mark is not None and mark.kind is Kind.DESTROY:
                    session._ended(mark.kind)
                self._settler.finish(commit)
        return commit.outcome()

    async def _load_then_carry_out(self, commit: Commit) -> None:
        """Commit a session that was cleared or destroyed before it was loaded."""
        try:
            await self._loader.load(commit.session)
            await self._carry_out(commit)
        except Exception as error:  # perhaps the commit's own, which is told to who waits for that
            self._settler.fail(commit, error)
        except BaseException:
            self._settler.fail(commit, shutting_down())
            raise

    def _save(self, commit: Commit) -> Coroutine[Any, Any, None]:
        """Save to the session's record; await the result."""
        session, mark, tokens = commit.session, commit.mark, self._policy.tokens
        version, token = session._version, session._token
        assert version is not None and token is not None, "a live session has both"
        commit.base, commit.epoch = version, version.record.epoch
        commit.id = token.selector
        if commit.lifetime is not None:
            commit.digest = tokens.digest(token)
        if mark is not None:
            if not mark.ends:
                commit.token = new_token(token.selector)
                commit.digest = tokens.digest(token)
                commit.new_digest = tokens.digest(commit.token)
            elif commit.own:
                try:
                    place = self._beginner.prepare(commit)
                except SessionError as error:
                    self._settler.fail(commit, error)
                    return commit.outcome()
                if place is not None:
                    return self._beginner.enter_then_save(commit, place)
        if commit.moving is not None:
            return self._beginner.move(commit, commit.moving)
        return self._loops.current().saves.save(tokens.key(token.selector), commit)


def _refuse_if_detached(session: Session) -> None:
    if session._status == "detached":
        raise gone()

"""Committing: from a session's changes to a save, and from its result back to the session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from asgi_session._data import codec
from asgi_session._data.change import NO_CHANGES, Changes, Kind, Mark, Reason, gone, lock_lost, own_keys
from asgi_session._data.token import Token, new_token
from asgi_session._engine.creating import Creator, New
from asgi_session._engine.hold import Hold, hold_of
from asgi_session._engine.loading import Loader
from asgi_session._engine.loops import Loops
from asgi_session._engine.refreshing import part, report_stale
from asgi_session._engine.save_request import Failed, LeftOut, SavedAs, SaveRequest, shutting_down
from asgi_session._policy import Policy
from asgi_session._session.session import Session
from asgi_session.errors import SessionError, StoreUnavailable

logger: Final = logging.getLogger("asgi_session")

_told_of: Final[set[str]] = set()  # keys of which the log has said that a change was lost
_MOST_TOLD_OF: Final = 100
"""How many keys are logged per process: names like ``cart:{sku}`` are without bound."""
_LATE: Final = (
    "they were set after the response had started (or the WebSocket was accepted), and the session needs a "
    "new cookie, which can no longer be sent. Set a key or call commit() before the response starts"
)
_NOTHING: Final[dict[str, bytes]] = {}  # shared: nobody changes it


class Commit(SaveRequest, kw_only=True, eq=False):
    """One commit of a session, from when its changes were taken until all that it asked is done.

    Attributes:
        session: whose.
        taken: the changes, as the session had them; `changes` are those that its record gets.
        era: of the session when they were taken.
        own: what goes on in a new record, if it comes to that.
        token: the new credential, if its record gets one.
        hold: of the lock that it releases.
        adopting: of the lock that its new record is created with.
        left_out: why nothing was written, if so.
    """

    session: Session
    taken: Changes
    era: int
    own: dict[str, bytes] = _NOTHING
    token: Token | None = None
    hold: Hold | None = None
    adopting: Hold | None = None
    left_out: Reason | None = None


class Committer:
    """Commits the sessions of one manager."""

    __slots__ = ("_answered", "_creator", "_loader", "_loops", "_policy")

    def __init__(self, policy: Policy, loader: Loader, creator: Creator, loops: Loops) -> None:
        self._policy = policy
        self._loader = loader
        self._creator = creator
        self._loops = loops
        self._answered = self._note  # bound once

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
        return session._settled() if commit is None else self._carry_out(commit)

    async def _commit_in_turn(self, session: Session, *, explicit: bool, only_destroy: bool) -> None:
        """Commit after the commit that is on its way, and tell who asked what became of it."""
        await session._settled()
        commit = self._take(session, only_destroy=only_destroy)
        if commit is not None:
            await self._carry_out(commit)
            if explicit:
                _refuse_left_out(commit)
        elif explicit:
            session._refuse_if_ended()
            if session._status == "detached":
                raise gone()
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
            if session._status == "detached":
                raise gone()
            return
        session._lock_with(None)
        await self._carry_out(commit)
        _refuse_left_out(commit)

    def _take(
        self, session: Session, *, only_destroy: bool = False, leave: Hold | None = None
    ) -> Commit | None:
        """Take the session's changes for a commit; None when there is nothing to do.

        With `leave` the commit releases that lock, too.
        """
        policy = self._policy
        if session._status == "unloaded" or session._status == "ended":
            return None
        if session._replaced:
            report_stale(policy, session)
        mark = session._mark
        if only_destroy:
            if mark is None or mark.kind is not Kind.DESTROY:
                if session.modified:
                    keys = session._drop_changes()
                    policy.emit("dropped", session.id, session._connection, reason="error", keys=keys)
                return None
            taken = NO_CHANGES
        else:
            try:
                taken = session._take(policy.max_size)
            except SessionError as error:  # too large, or not to be stored
                policy.emit("failed", session.id, session._connection, error=error)
                raise
            if not taken and mark is None and (leave is None or session._status != "live"):
                return None
        commit = Commit(
            taken,
            mark=mark,
            origins=session._origin,
            then=self._answered,
            deadline=session._wait_begins(policy.deadline),
            session=session,
            taken=taken,
            era=session._era,
            hold=leave,
        )
        if mark is not None:
            if mark.begins_anew:
                commit.own = session._own_values(taken)
            if mark.ends:
                commit.changes = NO_CHANGES
        hold = hold_of(session)
        if hold is not None:
            hold.cover(commit, leaving=leave is not None)
        session._commit_begins(commit)
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
            self._leave_out(commit, "detached")
        elif session._sealed and mark is not None and not mark.ends:
            # Carried out, it would leave the client with a dead credential; its data without it would
            # be the next identity's under the old one.
            self._refuse_late(commit)
            session._drop_late()
            self._finish(commit)
        else:
            if session._sealed and own:
                self._refuse_late(commit)
                own = commit.own = _NOTHING
            if status == "live":
                return self._save(commit)
            if status == "anonymous":
                message = (
                    "the session could not be loaded because the store was unavailable, so it cannot be "
                    "changed"
                )
                self._fail(commit, StoreUnavailable(message, executed=False))
            elif own and (status == "new" or begins_anew):
                commit.own = own
                return self._create_here(commit)
            elif status == "detached":
                self._leave_out(commit, "detached")
            else:
                if mark is not None and mark.kind is Kind.DESTROY:
                    session._ended(mark.kind)
                self._finish(commit)
        return commit.outcome()

    async def _load_then_carry_out(self, commit: Commit) -> None:
        """Commit a session that was cleared or destroyed before it was loaded."""
        try:
            await self._loader.load(commit.session)
            await self._carry_out(commit)
        except Exception as error:  # perhaps the commit's own, which is told to who waits for that
            self._fail(commit, error)
        except BaseException:
            self._fail(commit, shutting_down())
            raise

    def _save(self, commit: Commit) -> Coroutine[Any, Any, None]:
        """Save to the session's record; await the result."""
        session, mark, tokens = commit.session, commit.mark, self._policy.tokens
        version, token = session._version, session._token
        assert version is not None and token is not None, "a live session has both"
        commit.base, commit.epoch = version, version.record.epoch
        commit.use = session._use_of()
        commit.id = token.selector
        if mark is not None:
            if not mark.ends:
                commit.token = new_token(token.selector)
                commit.digest = tokens.digest(token)
                commit.new_digest = tokens.digest(commit.token)
            elif commit.own:  # before anything is ended that it is to take the place of
                try:
                    self._creator.refuse_too_large(commit.own)
                except SessionError as error:
                    self._fail(commit, error)
                    return commit.outcome()
        return self._loops.current().saves.save(tokens.key(token.selector), commit)

    # ---------------------------------------------------------------- a new record

    def _new(self, commit: Commit) -> New:
        """Return the record that a commit's own keys are to make; locked, if it was made under a lock."""
        hold = hold_of(commit.session)
        if hold is None or hold.queue is not None:
            return New(commit.own, None)
        commit.adopting = hold
        return New(commit.own, self._loops.current().tasks.name)

    async def _create_here(self, commit: Commit) -> None:
        """Create a new session in the request's own task; one that is cancelled leaves that to another."""
        new = self._new(commit)
        try:
            await self._create(commit, new)
        except asyncio.CancelledError:
            self._loops.current().tasks.spawn(self._create_in_task(commit, new))
            raise
        except BaseException:
            self._fail(commit, shutting_down())
            raise
        if commit.error is not None:
            raise commit.error

    async def _create_in_task(self, commit: Commit, new: New) -> None:
        try:
            await self._create(commit, new)
        except BaseException:
            self._fail(commit, shutting_down())
            raise

    async def _create(self, commit: Commit, new: New) -> None:
        """Create a new session of the commit's own keys, under a new id."""
        session, loop = commit.session, self._loops.current()
        loop.creating.add(commit)
        try:
            token, version = await self._creator.create(new, commit.deadline)
        except Exception as error:
            self._fail(commit, error)
        else:
            session._created(token, version, commit.era)
            self._policy.emit("created", token.selector, session._connection)
            if commit.adopting is not None:
                loop.locks.adopt(commit.adopting, token.selector, version)
            self._finish(commit)
        finally:
            loop.creating.discard(commit)

    # ---------------------------------------------------------------- what became of it

    def _note(self, commit: Commit) -> None:
        """Note in the session what became of a commit that went to its record."""
        result = commit.result
        if isinstance(result, SavedAs):
            self._saved(commit, result)
        elif isinstance(result, LeftOut):
            if commit.own and not commit.session._sealed:
                # A login must not be lost because the session it began on has ended meanwhile.
                self._begin_anew(commit, result)
            else:
                self._leave_out(commit, result.reason)
        elif isinstance(result, Failed):
            self._fail(commit, result.error)

    def _saved(self, commit: Commit, result: SavedAs) -> None:
        session, mark, policy = commit.session, commit.mark, self._policy
        token = session._token
        assert token is not None, "what was saved has a credential"
        if mark is not None and mark.ends:
            session._ended(mark.kind)
            policy.emit("ended", token.selector, session._connection)
            if commit.own and not session._sealed:
                self._begin_anew(commit, result)
                return
            hold = hold_of(session)
            if hold is not None:
                hold.part(result.version)
            if commit.own:
                self._refuse_late(commit)
            self._finish(commit)
            return
        session._saved(commit.changes, commit.era, result.version, merged=result.merged)
        if policy.on_event is not None:  # every save comes here
            policy.emit(
                "saved", token.selector, session._connection, keys=list(commit.changes), tries=result.tries
            )
        if commit.overwritten:
            self._tell_of_overwritten(commit, token.selector)
        if result.merged:
            policy.emit("merged", token.selector, session._connection, tries=result.tries)
        if commit.token is not None:
            if result.left_behind or result.rotated_already:
                reason: Reason = "overtaken" if result.left_behind else "rotated already"
                policy.emit("dropped", token.selector, session._connection, reason=reason, keys=[])
            else:
                session._rotated(commit.token)
                policy.emit("rotated", token.selector, session._connection)
        self._finish(commit)

    def _begin_anew(self, commit: Commit, result: SavedAs | LeftOut) -> None:
        """Go on under a new id: the record that the session came with has ended, or moved on."""
        hold = hold_of(commit.session)
        if hold is not None:
            hold.part(result.version)
        self._loops.current().tasks.spawn(self._create_in_task(commit, self._new(commit)))

    def _tell_of_overwritten(self, commit: Commit, session_id: str) -> None:
        """Report changes of others that are lost, since this commit has changed the same keys."""
        keys = list(commit.overwritten)
        self._policy.emit("overwritten", session_id, commit.session._connection, keys=keys)
        for key in keys:
            if key not in _told_of and len(_told_of) < _MOST_TOLD_OF:
                _told_of.add(key)
                logger.warning(
                    "session[%s] was changed by two requests at once, and one of the changes is lost. Give "
                    "the key a merge rule: merge={%s: ...}, with one from asgi_session.merging (counter, "
                    "append, by_key, ...); or change it in session.transact(). This is logged once per key",
                    codec.shown(key),
                    codec.shown(key),
                )

    def _fail(self, commit: Commit, error: Exception) -> None:
        """Note that a commit failed; does nothing for one that is done."""
        if not commit.done:
            session = commit.session
            commit.error = error
            self._policy.emit("failed", session.id, session._connection, error=error)
            session._hand_back(commit.taken, commit.era)
            self._end(commit, None)

    def _leave_out(self, commit: Commit, reason: Reason) -> None:
        """Part the session from its record, since nothing was written."""
        session = commit.session
        commit.left_out = reason
        cleared = session._era != commit.era and session._mark is not None and session._mark.begins_anew
        part(self._policy, session, reason, commit.taken, keep=cleared)
        self._finish(commit)

    def _refuse_late(self, commit: Commit) -> None:
        """Report data that cannot be kept: its cookie can no longer reach the client."""
        keys = list(commit.taken)
        shown = ", ".join(map(codec.shown, keys[:20])) + (
            f" and {len(keys) - 20} more" if len(keys) > 20 else ""
        )
        logger.error("session keys %s are lost: %s", shown, _LATE)
        session = commit.session
        self._policy.emit("dropped", session.id, session._connection, reason="late", keys=keys)
        commit.changes = {}
        commit.left_out = "late"

    def _finish(self, commit: Commit) -> None:
        """Let go of a commit of which everything was carried out that can be."""
        self._end(commit, commit.mark)

    def _end(self, commit: Commit, consumed: Mark | None) -> None:
        session = commit.session
        session._commit_ends(consumed)
        session._wait_ends(commit.deadline, self._policy.deadline)
        if commit.hold is not None:
            done = commit.error is None and commit.left_out is None
            commit.hold.left(commit, done=done)
        commit.end()


def _refuse_left_out(commit: Commit) -> None:
    """Raise the error for a commit that has written nothing, or not all."""
    if commit.left_out == "late":
        raise SessionError(_LATE)
    if commit.left_out is not None:
        raise gone()

"""Committing: from a session's changes to a save, and from its result back to the session."""

from __future__ import annotations

import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from asgi_session._data import codec, lease
from asgi_session._data import record as records
from asgi_session._data.expiry import expires_at
from asgi_session._data.fold import Changes, Kind, Mark, Verdict, lock_lost, own_keys, too_large
from asgi_session._data.token import Token, new_token
from asgi_session._engine.loading import (
    Loader,
    begin_wait,
    drop,
    end_wait,
    report_stale,
    settled,
    use_of,
)
from asgi_session._engine.loops import Loops
from asgi_session._engine.save_request import Backoff, Base, Pending, Settled, gone, shutting_down
from asgi_session._session.session import Owed, Session, Status
from asgi_session.errors import SessionError, StoreUnavailable
from asgi_session.store import TAG_SIZE

if TYPE_CHECKING:
    from asgi_session._engine.lock_queue import Hold
    from asgi_session._engine.manager import SessionManager

_ROTATIONS: Final = (Kind.ROTATE, Kind.ROTATE_WITH_GRACE)

logger: Final = logging.getLogger("asgi_session")
# Names of their own, since looking a member up on its enum takes 0.1 µs on Python 3.11.
_UNLOADED: Final = Status.UNLOADED
_ENDED: Final = Status.ENDED
_LIVE: Final = Status.LIVE
_BLANK: Final = Status.BLANK
_OVERTAKEN: Final = Verdict.OVERTAKEN
_APPLIED_WITHOUT_ROTATION: Final = Verdict.APPLIED_WITHOUT_ROTATION


_told_of: Final[set[str]] = set()  # keys of which the log has said that a change was lost
_MOST_TOLD_OF: Final = 100
"""How many keys are logged per process: names like ``cart:{sku}`` are without bound."""
_LATE: Final = (
    "they were set after the response had started (or the WebSocket was accepted), and the session needs a "
    "new cookie, which can no longer be sent. Set a key or call commit() before the response starts"
)


class Committer:
    """Commits the sessions of one manager."""

    def __init__(self, policy: SessionManager, loader: Loader, loops: Loops) -> None:
        self._policy = policy
        self._loader = loader
        self._loops = loops

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
        if explicit or session._pending is not None:
            return self._commit_in_turn(session, explicit=explicit, only_destroy=only_destroy)
        pending = self._take(session, only_destroy=only_destroy)
        return settled(session) if pending is None else self._carry_out(pending)

    async def _commit_in_turn(self, session: Session, *, explicit: bool, only_destroy: bool) -> None:
        """Commit after the commit that is on its way, and tell who asked what became of it."""
        await settled(session)
        pending = self._take(session, only_destroy=only_destroy)
        if pending is not None:
            await self._carry_out(pending)
            if explicit and pending.dropped == "late":
                raise SessionError(_LATE)
            if explicit and pending.dropped:
                raise gone()
        elif explicit:
            session._refuse_if_ended()
            if session._status is Status.DETACHED:
                raise gone()
            self._loader.touch_if_due(session, self._policy.clock())

    async def commit_and_release(self, session: Session, hold: Hold) -> None:
        """Commit what was changed under a lock and release it, in one save.

        If that fails, what was changed is forgotten: it must not be merged later without the lock.
        """
        try:
            await hold.catch_up()
            await settled(session)
            lost = session._hold is not hold  # and given to another task of the request by now
            pending = None if lost else self._take(session, leave=hold)
        except BaseException:
            hold.end()
            raise
        if pending is None:  # it has ended, or nothing was ever stored
            hold.end()
            if lost:
                raise lock_lost()
            if session._status is Status.DETACHED:
                raise gone()
            return
        session._hold = None
        await self._carry_out(pending)
        if pending.dropped == "late":
            raise SessionError(_LATE)
        if pending.dropped:
            raise gone()

    def _carry_out(self, pending: Pending) -> Coroutine[Any, Any, None]:
        """Send a commit on its way; await its result."""
        key = self._dispatch(pending)
        return pending.result() if key is None else self._loops.current().lanes.save(key, pending)

    def _take(
        self, session: Session, *, only_destroy: bool = False, leave: Hold | None = None
    ) -> Pending | None:
        """Take the session's changes for a commit; None when there is nothing to do.

        With `leave` the commit releases that lock, too.
        """
        if session._status is _UNLOADED or session._status is _ENDED:
            return None
        if session._replaced:
            report_stale(self._policy, session)
        mark = session._mark
        if only_destroy:
            if mark is None or mark.kind is not Kind.DESTROY:
                if session.modified:
                    self._policy.emit(
                        "dropped", session.id, session=session, reason="error", keys=list(session._watched)
                    )
                    session._watched, session._mark = {}, None
                return None
            changes: Changes = {}
        else:
            try:
                changes = session._take()
            except SessionError as error:  # too large, or not to be stored
                self._policy.emit("failed", session.id, session=session, error=error)
                raise
            if not changes and mark is None and (leave is None or session._status is not _LIVE):
                return None
        pending = Pending(self, changes, mark, session._era, begin_wait(session, self._policy.deadline))
        pending.session = session
        if mark is not None and begins_anew(mark):
            pending.own = session._own_values(changes)
        pending.origins = session._origin
        if session._hold is not None:
            session._hold.cover(pending, leaving=leave is not None)
        session._pending = pending
        return pending

    def _dispatch(self, pending: Pending) -> str | None:
        """Send a commit the way that the session's status asks for.

        One to an existing record is only made ready: returns the key under which to save it.
        """
        session = pending.session
        status = session._status
        if status is _LIVE and pending.mark is None:
            return self._make_ready(pending)
        if status is _BLANK:
            self._loops.current().spawn(self._load_then_carry_out(pending))
            return None
        if status is Status.DETACHED and not begins_anew(pending.mark):
            self._drop(pending, "detached")
            self._finish(pending)
            return None
        own = pending.own if begins_anew(pending.mark) else own_keys(pending.changes)
        if session._sealed and pending.mark is not None and pending.mark.kind in _ROTATIONS:
            # Carried out, it would leave the client with a dead credential; its data without it would
            # be the next identity's under the old one.
            self._refuse_late(pending)
            session._watched = {}
            self._finish(pending)
            return None
        if session._sealed and own:
            self._refuse_late(pending)
            own = {}
        if status is _LIVE:
            return self._make_ready(pending)
        if status is Status.ANONYMOUS:
            message = (
                "the session could not be loaded because the store was unavailable, so it cannot be changed"
            )
            self.fail(pending, StoreUnavailable(message, executed=False))
        elif own and (status is Status.NEW or begins_anew(pending.mark)):
            self._loops.current().spawn(self._create(pending, own))
        else:
            if status is Status.DETACHED:
                self._drop(pending, "detached")
            elif pending.mark is not None and pending.mark.kind is Kind.DESTROY:
                session._status = _ENDED
            self._finish(pending)
        return None

    async def _load_then_carry_out(self, pending: Pending) -> None:
        """Commit a session that was cleared or destroyed before it was loaded."""
        try:
            await self._loader.load(pending.session)
        except BaseException as error:
            self.fail(pending, error if isinstance(error, Exception) else shutting_down())
            if not isinstance(error, Exception):
                raise
        else:
            try:
                await self._carry_out(pending)
            except Exception as error:  # the commit's own, and told to who waits for that
                self.fail(pending, error)

    def _make_ready(self, pending: Pending) -> str:
        """Set what the merge needs to know of the session's record; return that record's key."""
        session, mark = pending.session, pending.mark
        base, token = session._base, session._token
        assert base is not None and token is not None, "a live session has both"
        pending.base, pending.epoch = base, base.record.epoch
        pending.use = use_of(session)
        pending.id = token.selector
        if mark is not None and not ends(pending):
            pending.token = new_token(token.selector)
            pending.digest = self._policy.tokens.digest(token)
            pending.new_digest = self._policy.tokens.digest(pending.token)
        return self._policy.tokens.key(token.selector)

    async def _create(self, pending: Pending, own: dict[str, bytes]) -> None:
        """Create a new session of `own`, under a new selector."""
        session = pending.session
        hold = session._hold if session._hold is not None and session._hold.room is None else None
        try:
            token, base = await self._store_new(own, pending.deadline, locked=hold is not None)
        except Exception as error:
            self.fail(pending, error)
        except BaseException:
            self.fail(pending, shutting_down())
            raise
        else:
            pending.token = token
            session._reborn(token, base, pending)
            self._policy.emit("created", token.selector, session=session)
            if hold is not None:
                hold.adopt(self._loops.current().rooms, token.selector, base)
            self._finish(pending)

    async def _store_new(self, own: dict[str, bytes], deadline: float, *, locked: bool) -> tuple[Token, Base]:
        policy = self._policy
        backoff = Backoff()
        while True:
            token = new_token()
            key = policy.tokens.key(token.selector)
            now = policy.clock()
            record = records.new_record(
                now=now,
                idle=policy.idle,
                absolute=policy.absolute,
                digest=policy.tokens.digest(token),
                check=policy.tokens.check(key),
                entries=own,
            )
            if locked:
                name = self._loops.current().name()
                record = lease.write(record, lease.new(name, record.version, now))
            data = records.encode(record)
            if len(data) > policy.max_size:
                raise too_large(len(data), policy.max_size)
            expires = expires_at(now, policy.unconfirmed, record.deadline)
            try:
                if await policy.store.create(key, data, expires, deadline=deadline):
                    return token, Base(record, data[:TAG_SIZE], expires)
                # 128 random bits are not taken twice: something is wrong with this store.
                problem = StoreUnavailable(
                    "the store reports every new session key as already in use", executed=False
                )
            except StoreUnavailable as error:
                # Whether it was executed does not matter: the cookie has not left, so nobody knows
                # that selector, and the next try takes another.
                if error.executed is False:
                    raise
                problem = error
            if time.monotonic() >= deadline:
                raise problem
            await backoff.pause(deadline)

    def settle(self, pending: Pending, settled: Settled) -> None:
        """Note in the session what became of a commit that reached the store."""
        session, mark = pending.session, pending.mark
        pending.settled = settled
        if settled.verdict is None or settled.verdict is _OVERTAKEN:
            if pending.own and not session._sealed:
                # A login must not be lost because the session it began on has ended meanwhile.
                if session._hold is not None:
                    session._hold.part(settled.base)
                self._loops.current().spawn(self._create(pending, pending.own))
                return
            self._drop(pending, "gone" if settled.verdict is None else "overtaken")
            self._finish(pending)
            return
        base, token = settled.base, session._token
        assert base is not None and token is not None, "an applied commit has a record"
        if mark is not None and ends(pending):
            session._status = _ENDED if mark.kind is Kind.DESTROY else Status.NEW
            session._base = session._token = None
            # A session that this request has created itself never had a cookie; the client's own may be
            # another one by now.
            session._owed = Owed.DELETION if session._confirmed else Owed.NOTHING
            if session._hold is not None:
                session._hold.part(base)
            self._policy.emit("ended", token.selector, session=session)
        else:
            session._committed(pending.changes, pending.era, base, merged=settled.merged)
            if self._policy.on_event is not None:  # every save comes here
                self._policy.emit(
                    "saved",
                    token.selector,
                    session=session,
                    keys=list(pending.changes),
                    tries=settled.tries,
                )
            if pending.overwritten:
                self._tell_of_overwritten(pending, token.selector)
            if settled.merged:
                self._policy.emit("merged", token.selector, session=session, tries=settled.tries)
            if settled.left_behind and pending.token is not None:
                self._policy.emit("dropped", token.selector, session=session, reason="overtaken", keys=[])
            elif settled.verdict is _APPLIED_WITHOUT_ROTATION:
                self._policy.emit(
                    "dropped", token.selector, session=session, reason="rotated already", keys=[]
                )
            elif pending.token is not None:
                session._token = pending.token
                session._owed = Owed.COOKIE
                self._policy.emit("rotated", token.selector, session=session)
        self._finish(pending)

    def _tell_of_overwritten(self, pending: Pending, session_id: str) -> None:
        """Report changes of others that are lost, since this commit has changed the same keys."""
        keys = list(pending.overwritten)
        self._policy.emit("overwritten", session_id, session=pending.session, keys=keys)
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

    def fail(self, pending: Pending, error: Exception) -> None:
        """Note that a commit failed; does nothing for one that has a result."""
        if not pending.done:
            session = pending.session
            self._policy.emit("failed", session.id, session=session, error=error)
            session._hand_back(pending.changes, pending.era)
            session._pending = None
            end_wait(session, pending.deadline, self._policy.deadline)
            pending.finish(error)

    def _finish(self, pending: Pending) -> None:
        session = pending.session
        if session._mark is pending.mark:
            session._mark = None
        session._pending = None
        end_wait(session, pending.deadline, self._policy.deadline)
        pending.finish(pending.refused)

    def _drop(self, pending: Pending, reason: str) -> None:
        pending.dropped = reason
        session = pending.session
        cleared = session._era != pending.era and begins_anew(session._mark)
        drop(self._policy, session, reason, list(pending.changes), keep=cleared)

    def _refuse_late(self, pending: Pending) -> None:
        """Report data that cannot be kept: its cookie can no longer reach the client."""
        keys = list(pending.changes)
        shown = ", ".join(map(codec.shown, keys[:20])) + (
            f" and {len(keys) - 20} more" if len(keys) > 20 else ""
        )
        logger.error("session keys %s are lost: %s", shown, _LATE)
        self._policy.emit("dropped", pending.session.id, session=pending.session, reason="late", keys=keys)
        pending.changes = {}
        pending.dropped = "late"


def begins_anew(mark: Mark | None) -> bool:
    """Whether a commit may go on under a new selector when its record is gone or has moved on."""
    return mark is not None and mark.kind in (Kind.ROTATE, Kind.CLEAR)


def ends(pending: Pending) -> bool:
    """Whether a commit leaves an ended session behind."""
    mark = pending.mark
    return mark is not None and (
        mark.kind is Kind.DESTROY or (mark.kind is Kind.CLEAR and not pending.changes)
    )

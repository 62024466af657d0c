"""``async with session.lock():``, and the same from outside a request."""

from __future__ import annotations

import asyncio
from types import TracebackType

from asgi_session._data import record as records
from asgi_session._data.change import gone, lock_lost
from asgi_session._data.record import Applied, Version
from asgi_session._engine.committing import Committer
from asgi_session._engine.hold import Hold, Terms, hold_of
from asgi_session._engine.loading import Loader
from asgi_session._engine.loops import Loops
from asgi_session._engine.refreshing import part, take_over
from asgi_session._policy import Policy
from asgi_session._session.outside import OutsideSession
from asgi_session._session.session import Session
from asgi_session.errors import SessionGone, StoreUnavailable


class SessionLock:
    """``async with session.lock():``; see `Session.lock`."""

    __slots__ = ("_committer", "_hold", "_loops", "_policy", "_session", "_terms")

    def __init__(
        self, policy: Policy, committer: Committer, loops: Loops, session: Session, terms: Terms
    ) -> None:
        self._policy = policy
        self._committer = committer
        self._loops = loops
        self._session = session
        self._terms = terms
        self._hold: Hold | None = None

    async def __aenter__(self) -> Session:
        """Commit what is pending, wait for the lock, and return the session with the newest data."""
        session = self._session
        hold = hold_of(session)
        if hold is not None and hold.lost:
            raise lock_lost()
        if hold is not None and hold.depth and not hold.leaving:
            hold.depth += 1
            if hold.task is not asyncio.current_task():
                hold.task = None  # it is not over with the one that entered first
        else:
            hold = await self._enter(session)
            hold.task = asyncio.current_task()
            session._lock_with(hold)
        self._hold = hold
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit and release in one save; after an error forget what was changed, and release."""
        hold = self._hold
        assert hold is not None, "it was entered"
        hold.depth -= 1
        if hold.depth == 0:
            if error is None:
                await self._committer.commit_and_release(self._session, hold)
            else:
                hold.end()

    async def _enter(self, session: Session) -> Hold:
        await session.load()
        await self._committer.commit(session, explicit=True)
        if session._status == "anonymous":
            raise StoreUnavailable(
                "the session could not be loaded because the store was unavailable, so it cannot be locked",
                executed=False,
            )
        if session._status == "new":
            return Hold(session, self._terms, None, 0, None)
        token, version = session._token, session._version
        if token is None or version is None:
            raise gone()
        queue = self._loops.current().locks.queue(token.selector, version)
        try:
            hold = await queue.enter(session, self._terms)
        except SessionGone:
            if session._status == "live":
                part(self._policy, session, "gone")
            raise
        try:
            await session._settled()
            self._bring_up_to_date(session, hold.version)
        except BaseException:
            hold.end()
            raise
        return hold

    def _bring_up_to_date(self, session: Session, newest: Version | None) -> None:
        version = session._version
        if version is None or newest is None:
            raise gone()
        made = newest.record
        if records.was_applied(version.record, made.version, made.nonce) is Applied.NO:
            # Not by the version alone: after a failover that lost some, the record has a lower one.
            take_over(self._policy, session, newest)


class OutsideLock(SessionLock):
    """``async with manager.lock(session_id):``; see `SessionManager.lock`."""

    __slots__ = ("_id", "_loader", "_outside")

    def __init__(
        self,
        policy: Policy,
        committer: Committer,
        loops: Loops,
        loader: Loader,
        session: OutsideSession,
        session_id: str,
        terms: Terms,
    ) -> None:
        super().__init__(policy, committer, loops, session, terms)
        self._outside = session
        self._loader = loader
        self._id = session_id

    async def __aenter__(self) -> Session:
        """Load the session, then lock it."""
        await self._loader.load_outside(self._outside, self._id)
        return await super().__aenter__()

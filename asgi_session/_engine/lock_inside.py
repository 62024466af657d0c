"""The one of this process that is inside a session's lock: its saves, its renewals, its end."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from time import monotonic
from typing import Final

from asgi_session._data import lease as leases
from asgi_session._data.lease import GRANT
from asgi_session._data.record import Version
from asgi_session._engine.hold import Hold
from asgi_session._engine.lock_record import LockParts, LockRecord
from asgi_session._engine.save_request import SavedAs, SaveRequest
from asgi_session.errors import LockLost

logger: Final = logging.getLogger("asgi_session")

_CATCH_UP: Final = 0.1
"""Seconds for which a save waits for a load that would spare it a conflict: a conflict costs no more."""
_FIRST_RENEWAL: Final = GRANT / 1000 / 3


class LockInside(LockRecord):
    """The lock of one session, and who is inside.

    Attributes:
        hold: of the one that is inside, if any.
    """

    def __init__(self, parts: LockParts, key: str, session_id: str | None) -> None:
        super().__init__(parts, key, session_id)
        self.hold: Hold | None = None
        self._due = 0.0  # when the hold is to be renewed
        self._catching_up: asyncio.Future[None] | None = None  # done when that load ends; None: there is none

    def _waiting(self) -> bool:
        """Whether somebody waits for it to end."""
        raise NotImplementedError

    def adopt(self, hold: Hold) -> None:
        """Take in the hold of a session that has just been created with the lock taken."""
        self.state.spent = hold.fence
        self.state.answered()
        self._hold_for(hold)

    def _hold_for(self, hold: Hold) -> None:
        self.hold = hold
        self._due = monotonic() + min(_FIRST_RENEWAL, hold.terms.max_hold)
        self._set_timer(self._due - monotonic(), self._renew)

    def cover(self, hold: Hold, request: SaveRequest) -> None:
        """Have a save count only while the lock is held; with ``hold.leaving`` it releases the lock, too."""
        # No record has a fence of 0.
        request.holder = (self.state.name, 0 if hold.lost else hold.fence)
        request.known = self.latest
        if hold.leaving:
            request.step = self.state.release(request.holder[1], waiting=self._waiting())

    def left(self, hold: Hold, request: SaveRequest, *, done: bool) -> None:
        """Note what became of the commit with which a hold was to end."""
        if self.hold is hold:
            self.hold = None
            session = hold.session
            if isinstance(request.error, LockLost):
                self.policy.emit("lock_lost", self.id, session, fence=hold.fence)
            else:
                self.policy.emit("released", self.id, session, fence=hold.fence, committed=done)
            result = request.result
            if done and isinstance(result, SavedAs) and not result.left_behind:
                self._note_unless_older(result.version, request.known)
                if result.tries > 1:
                    self._parts.listens()  # to learn of others' saves before its own meet them
            self.go_on()

    def end(self, hold: Hold) -> None:
        """End a hold without a commit."""
        if self.hold is hold:
            self.hold = None
            self.policy.emit("released", self.id, hold.session, fence=hold.fence, committed=False)
            self.go_on()

    async def catch_up(self) -> None:
        """Wait for the load that a wake-up has caused, so that the next save need not meet its news."""
        if self._catching_up is not None:
            await asyncio.wait([self._catching_up], timeout=_CATCH_UP)

    async def _load_for(self, hold: Hold) -> None:
        """Load what others have made of the record of a lock that is held here."""
        before, deadline = self.latest, monotonic() + self.policy.deadline
        self._catching_up = asyncio.get_running_loop().create_future()
        newest: Version | None = None
        try:
            newest = self._read(await self.policy.store.load(self.key, deadline=deadline))
        except Exception:  # the holder's own saves will meet it
            return
        finally:
            done, self._catching_up = self._catching_up, None
            done.set_result(None)
        self._check_hold(hold, newest)
        self._learn(newest, before)

    def _renew(self) -> None:
        """Renew the hold, unless it has to end."""
        hold, now = self.hold, monotonic()
        assert hold is not None, "or there is no timer"
        if now >= hold.ends or (hold.task is not None and hold.task.done()):
            self._lose(hold)
            self.go_on()
            return
        length = min(hold.terms.lease, hold.ends - now)
        self._due = now + min(hold.terms.lease / 3, hold.ends - now)
        self.tasks.spawn(self._change(self.state.renew(hold.fence, length), partial(self._renewed, hold)))

    def _renewed(self, hold: Hold, error: Exception | None, newest: Version | None, before: Version) -> None:
        self._done()
        if error is not None:
            logger.warning("session %s: the lock could not be renewed: %s", self.id, error)
            self._due = min(self._due, monotonic() + _FIRST_RENEWAL)
            self.go_on()
            return
        self._check_hold(hold, newest)
        self._learn(newest, before)

    def _check_hold(self, hold: Hold, newest: Version | None) -> None:
        """End a hold that the record, as it is now, knows nothing of."""
        if self.hold is hold and not hold.leaving:
            if newest is None or newest.record.ended:
                self._lose(hold, ended=True)
            elif not leases.held_by(newest.record, (self.state.name, hold.fence)):
                self._lose(hold)

    def _lose(self, hold: Hold, *, ended: bool = False) -> None:
        """End a hold under its holder, who learns of it at the next commit; or the session has `ended`."""
        hold.lost = True
        self.hold = None
        session = hold.session
        if ended:
            self.policy.emit("released", self.id, session, fence=hold.fence, committed=False)
        else:
            self.policy.emit("lock_lost", self.id, session, fence=hold.fence)
            logger.warning("session %s: the lock was lost while its block was still running", self.id)

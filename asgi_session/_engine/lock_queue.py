"""Who of this process waits for a session's lock, and who is inside.

Waiters are let in one after another, in order of arrival. The queue takes the lock for them with saves of
the record, waits in the record's own queue among those of other processes, and looks again by itself from
time to time, and when a lease should have ended: a wake-up can get lost, and a holder can die.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Final

from asgi_session._backoff import delay, jittered
from asgi_session._data.change import gone
from asgi_session._data.record import Version
from asgi_session._engine.hold import Hold, Terms
from asgi_session._engine.lock_inside import LockInside
from asgi_session._engine.lock_record import LockParts
from asgi_session._engine.lock_state import Change, Close, LetIn, Wait
from asgi_session._engine.save_request import own_copy, shutting_down
from asgi_session._session.session import Session
from asgi_session.errors import LockTimeout

_LOOK_AGAIN: Final = 5.0
"""Seconds after which a queue that waits looks at the record even if it heard nothing."""
_FIRST_POLL: Final = 0.01
LONGEST_POLL: Final = 0.2


class Waiter:
    """One who waits for the lock."""

    __slots__ = ("arrived", "let_in", "overdue", "session", "terms", "timer")

    def __init__(self, session: Session, terms: Terms) -> None:
        self.session = session
        self.terms = terms
        self.arrived = monotonic()
        self.let_in: asyncio.Future[Hold] = asyncio.get_running_loop().create_future()
        self.overdue = False
        self.timer: asyncio.TimerHandle | None = None


class LockQueue(LockInside):
    """The lock of one session, as one event loop sees it.

    Attributes:
        waiters: in order of arrival.
    """

    def __init__(self, parts: LockParts, key: str, session_id: str | None) -> None:
        super().__init__(parts, key, session_id)
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._overdue: list[Waiter] = []

    def believe_in(self, version: Version) -> None:
        """Begin with a version that a session has, though what it says of this process may be past."""
        self._note(version)
        self.state.disbelieve()

    # ---------------------------------------------------------------- waiting

    async def enter(self, session: Session, terms: Terms) -> Hold:
        """Wait in line, and return the hold.

        Raises:
            LockTimeout, SessionGone, StoreUnavailable.
        """
        waiter = Waiter(session, terms)
        self._use = min(self._use, session._use_of())
        self.waiters[waiter] = None
        try:
            # In the request's own task, since one made for it costs as much as the rest. If it is
            # cancelled here, the save goes on without it, and its result is the queue's.
            first = self._next()
            if first is not None:
                await first
            if not waiter.let_in.done():
                left = max(waiter.arrived + terms.wait - monotonic(), 0.0)
                waiter.timer = asyncio.get_running_loop().call_later(left, self._time_out, waiter)
            return await waiter.let_in
        except asyncio.CancelledError:
            if waiter in self.waiters:
                del self.waiters[waiter]
                self.go_on()
            elif not waiter.let_in.cancelled() and waiter.let_in.exception() is None:
                waiter.let_in.result().end()  # let in, and cancelled before it could know
            raise
        finally:
            if waiter.timer is not None:
                waiter.timer.cancel()

    def _waiting(self) -> bool:
        return bool(self.waiters)

    def _time_out_all(self, overdue: list[Waiter]) -> None:
        for waiter in overdue:
            self._time_out(waiter)

    def _time_out(self, waiter: Waiter) -> None:
        if self._busy and not waiter.overdue:
            waiter.overdue = True  # what is on its way may let it in: even a wait of 0 is one attempt
            self._overdue.append(waiter)
        elif waiter in self.waiters and not waiter.let_in.done():
            del self.waiters[waiter]
            self.policy.emit("lock_timeout", self.id, waiter.session)
            waiter.let_in.set_exception(
                LockTimeout(
                    f"session {self.id}: could not acquire the lock within {waiter.terms.wait:g} s. Another "
                    "request or manager.lock() holds it; inside manager.lock(), the same session's lock "
                    "waits for itself. The lock of a crashed holder is released when its lease has ended"
                )
            )
            self.go_on()

    def _done(self) -> None:
        """Be done with the store, and have those time out who should have meanwhile."""
        super()._done()
        if self._overdue:
            overdue, self._overdue = self._overdue, []
            asyncio.get_running_loop().call_soon(self._time_out_all, overdue)

    def _refuse_all(self, error: Callable[[], Exception]) -> None:
        """Fail everybody who waits, and close: nothing more can be done here."""
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if not waiter.let_in.done():
                waiter.let_in.set_exception(error())
        self._parts.closed(self)

    def _gone(self) -> None:
        self._refuse_all(gone)

    def _give_up(self, error: Exception) -> None:
        self._refuse_all(partial(own_copy, error))

    def _closing(self) -> None:
        self._refuse_all(shutting_down)

    # ---------------------------------------------------------------- what to do next

    def go_on(self) -> None:
        """Do what is next, as the newest version of the record says."""
        change = self._next()
        if change is not None:
            self.tasks.spawn(change)

    def _next(self) -> Coroutine[None, None, None] | None:
        """Do what is next, as the newest version of the record says; return the save that it takes."""
        if self._busy:
            return None
        self._set_timer(None)
        if self.hold is not None:
            if not self.hold.leaving:
                self._set_timer(self._due - monotonic(), self._renew)
            return None
        if self.latest is None:
            self._look()
            return None
        if self.latest.record.ended:
            self._gone()
            return None
        while True:
            next_one = self.state.next(self._waiting(), monotonic(), self.policy.clock())
            match next_one:
                case LetIn():
                    if self._let_in_next(self.latest):
                        return None
                case Change():
                    return self._change(next_one.step, self._changed)
                case Wait():
                    self._wait(next_one.seconds)
                    return None
                case Close():
                    self._parts.closed(self)
                    return None

    def _changed(self, error: Exception | None, newest: Version | None, before: Version) -> None:
        self._done()
        if error is not None:
            self._give_up(error)
        else:
            self._learn(newest, before)

    def _let_in_next(self, version: Version) -> bool:
        """Let in the first waiter whose session is the one that the record holds; whether there was one."""
        newest = version.record
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if waiter.let_in.done():  # cancelled this very moment
                continue
            session = waiter.session
            held = session._version.record if session._version is not None else None
            if held is None or (held.epoch != newest.epoch and held.version < newest.version):
                waiter.let_in.set_exception(gone())
                continue
            fence = self.state.let_in()
            hold = Hold(session, waiter.terms, self, fence, version)
            self._hold_for(hold)
            waited = monotonic() - waiter.arrived
            self.policy.emit("locked", self.id, session, fence=fence, waited=waited)
            waiter.let_in.set_result(hold)
            return True
        return False

    def _wait(self, left: float) -> None:
        """Wait to be woken up, and look again when the lease should be over."""
        if self._parts.listens():
            seconds = jittered(min(left, _LOOK_AGAIN) * 1.1, 1 / 1.1)
        else:
            self._polls += 1
            seconds = delay(self._polls, first=_FIRST_POLL, longest=LONGEST_POLL)
        self._set_timer(seconds + 0.001, self._wait_no_longer)

    def _wait_no_longer(self) -> None:
        if self.state.has_run_out(monotonic(), self.policy.clock()):
            self.go_on()
        else:
            self.look_again()

    # ---------------------------------------------------------------- for wake-ups

    async def check(self) -> bool:
        """Load the record because of a wake-up; False if there was nothing new in it for this process.

        Whatever the record shows is done as if it had been looked at for any other reason.
        """
        if self._busy:
            self._missed = True
            return True
        before = self.latest
        if self.hold is not None:
            await self._load_for(self.hold)
        else:
            self._be_busy()
            await self._load()
        if before is None:
            return self.state.is_ours
        return self.latest is None or self.latest.record.version != before.record.version

    def look_again(self) -> None:
        """Look at the record: something may have happened unheard."""
        if self._busy:
            self._missed = True
        elif self.hold is None:
            self._look()

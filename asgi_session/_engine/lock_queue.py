"""The lock: who of this process waits for which session, and what it does to the record's lock field.

Each session that is locked or waited for in an event loop has a *room*. Its waiters are let in one
after another, in order of arrival. The room takes the lock for them with saves of the record
(`lease`), waits in the record's queue among the rooms of other processes, loads the record when it is
woken up, and looks again by itself when a lease should have ended, since a wake-up can get lost and a
holder can die. What the record says decides, never a wake-up (`hints`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from asgi_session._data import lease as leases
from asgi_session._data import record as records
from asgi_session._data.fold import lock_lost
from asgi_session._data.lease import GRANT, Lease, Step
from asgi_session._data.record import NOBODY, Applied
from asgi_session._data.token import Token
from asgi_session._engine.hints import Hints
from asgi_session._engine.loading import drop, report_stale, settled, use_of
from asgi_session._engine.save_request import NOT_USED, Base, Pending, Settled, gone, shutting_down
from asgi_session._session.session import Session, Status
from asgi_session.errors import LockLost, LockTimeout, SessionGone, StoreUnavailable
from asgi_session.store import Stored, WakesUp

if TYPE_CHECKING:
    from asgi_session._engine.loops import LoopState
    from asgi_session._engine.manager import SessionManager

logger: Final = logging.getLogger("asgi_session")

_CATCH_UP: Final = 0.1
"""Seconds for which a save waits for a load that would spare it a conflict: a conflict costs no more."""
_FIRST_RENEWAL: Final = GRANT / 1000 / 3
_LOOK_AGAIN: Final = 5.0
"""Seconds after which a room that waits looks at the record even if it heard nothing."""
_LISTEN_AGAIN: Final = 30.0
_FIRST_POLL: Final = 0.01
_LONGEST_POLL: Final = 0.2


class Terms:
    """For how long a lock is waited for and held; seconds."""

    __slots__ = ("lease", "max_hold", "wait")

    def __init__(self, wait: float, lease: float, max_hold: float) -> None:
        self.wait = wait
        self.lease = lease
        self.max_hold = max_hold


class Hold:
    """A session's lock, held by one request.

    Attributes:
        session: whose lock.
        room: of the session; None while nothing of it is stored, so that nobody else can know it.
        fence: the version of the record at the grant.
        base: the newest version of the record when it was granted.
        terms: as asked for.
        ends: when `max_hold` is over, as `time.monotonic`.
        depth: how often the request has entered.
        leaving: the commit that releases it is on its way.
        lost: it has ended otherwise; what is still saved under it is refused.
    """

    __slots__ = (
        "base", "depth", "ends", "fence", "leaving", "lost", "room", "session", "task", "terms",
    )  # fmt: skip

    def __init__(
        self, session: Session, terms: Terms, room: Room | None, fence: int, base: Base | None
    ) -> None:
        self.session = session
        self.terms = terms
        self.room = room
        self.fence = fence
        self.base = base
        self.ends = monotonic() + terms.max_hold
        self.depth = 1
        self.leaving = False
        self.lost = False
        self.task: asyncio.Task[Any] | None = None

    def cover(self, pending: Pending, *, leaving: bool) -> None:
        """Have a commit count only while the lock is held; with `leaving` it releases the lock, too."""
        self.leaving = leaving
        room = self.room
        if room is None:
            if leaving:
                pending.then = self._forget_if_failed
            return
        # No record has a fence of 0.
        pending.holder = holder = (room.rooms.name, 0 if self.lost else self.fence)
        pending.known = room.latest
        if leaving:
            pending.step = partial(leases.release, holder=holder, waiting=bool(room.waiters), turn=room.turn)
            pending.then = partial(room.left, self)

    def _forget_if_failed(self, pending: Pending) -> None:
        if pending.error is not None:
            self.session.discard()

    async def catch_up(self) -> None:
        """Wait for the load that a wake-up has caused, so that the next save need not meet its news."""
        if self.room is not None and self.room.catching_up is not None:
            await asyncio.wait([self.room.catching_up], timeout=_CATCH_UP)

    def adopt(self, rooms: Rooms, session_id: str, base: Base) -> None:
        """Hold the lock of a session that has just been created with it taken."""
        if self.session._hold is not self:  # the block is over
            rooms.room(session_id, base).pass_on()
            return
        self.room = room = rooms.room(session_id, base)
        self.fence = base.record.version
        room.adopt(self)

    def part(self, ended: Base | None) -> None:
        """Leave the lock of a record that has ended in the block: what is set now is for another one."""
        room, self.room = self.room, None
        if room is not None:
            if ended is not None:
                room.learn(ended)
            room.end(self)

    def end(self) -> None:
        """Forget what was changed under the lock, and release it without waiting for that."""
        if self.session._hold is None or self.session._hold is self:
            self.session.discard()  # else that is by now the work of another task, which has the lock
            self.session._hold = None
        if self.room is not None:
            self.room.end(self)


class _Waiter:
    __slots__ = ("arrived", "let_in", "overdue", "session", "terms", "timer")

    def __init__(self, session: Session, terms: Terms) -> None:
        self.session = session
        self.terms = terms
        self.arrived = monotonic()
        self.let_in: asyncio.Future[Hold] = asyncio.get_running_loop().create_future()
        self.overdue = False
        self.timer: asyncio.TimerHandle | None = None


class Room:
    """The lock of one session, as one event loop sees it.

    Attributes:
        rooms: those of its loop.
        key: of the record in the store.
        id: the session's; None while nobody is here who has the session, only its key.
        waiters: in order of arrival.
        hold: of the one that is inside, if any.
        turn: how many waiters were let in since another process had its turn.
        latest: the newest version of the record that was seen here; None: none yet.
        catching_up: done when the load ends that goes on while the lock is held; None: there is none.
    """

    def __init__(self, rooms: Rooms, key: str, session_id: str | None, latest: Base | None) -> None:
        self.rooms = rooms
        self.key = key
        self.id = session_id
        self.waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._overdue: list[_Waiter] = []
        self.hold: Hold | None = None
        self.turn = 0
        self.latest: Base | None = None
        self.catching_up: asyncio.Future[None] | None = None
        self._lease: Lease | None = None
        self._since = 0.0  # when the lease was first seen in its present term
        self._spent = 0  # the fence of the last waiter that was let in
        self._asked: tuple[bytes, int, int] | None = None  # the term under which it last tried to queue
        self._busy = False  # with the store, and goes on when that is done
        self._missed = False  # a wake-up, perhaps, while it was busy
        self._polls = 0
        self._use = NOT_USED
        self._due = 0.0  # when the hold is to be renewed
        self._timer: asyncio.TimerHandle | None = None
        if latest is not None:
            self._note(latest)
            self._disbelieve()

    def _disbelieve(self) -> None:
        """Take what a session has read or saved, long ago perhaps, for no evidence.

        It may not be true any more that this process holds the lock, or stands in line.
        """
        lease, name = self._lease, self.rooms.name
        if lease is not None:
            if lease.process == name:
                self._spent = lease.fence
            self._lease = replace(lease, queue=tuple(one for one in lease.queue if one != name))

    # ---------------------------------------------------------------- for the request

    async def enter(self, session: Session, terms: Terms) -> Hold:
        """Wait in line, and return the hold.

        Raises:
            LockTimeout, SessionGone, StoreUnavailable.
        """
        waiter = _Waiter(session, terms)
        self._use = min(self._use, use_of(session))
        self.waiters[waiter] = None
        try:
            # In the request's own task, since one made for it costs as much as the rest. If it is
            # cancelled here, the save goes on without it, and its result is the room's.
            first = self._go_on(spawn=False)
            if first is not None:
                await first
            if not waiter.let_in.done():
                left = max(waiter.arrived + terms.wait - monotonic(), 0.0)
                waiter.timer = asyncio.get_running_loop().call_later(left, self._time_out, waiter)
            return await waiter.let_in
        except asyncio.CancelledError:
            if waiter in self.waiters:
                del self.waiters[waiter]
                self._go_on()
            elif not waiter.let_in.cancelled() and waiter.let_in.exception() is None:
                waiter.let_in.result().end()  # let in, and cancelled before it could know
            raise
        finally:
            if waiter.timer is not None:
                waiter.timer.cancel()

    def left(self, hold: Hold, pending: Pending) -> None:
        """Note what became of the commit with which a hold was to end."""
        if pending.error is not None:
            hold.session.discard()
        saved = pending.settled
        if self.hold is hold:
            self.hold = None
            done = pending.error is None and not pending.dropped
            if isinstance(pending.error, LockLost):
                self.rooms.policy.emit("lock_lost", self.id, session=hold.session, fence=hold.fence)
            else:
                self.rooms.policy.emit(
                    "released", self.id, session=hold.session, fence=hold.fence, committed=done
                )
            if done and saved is not None and saved.base is not None and not saved.left_behind:
                self._note_unless_older(saved.base, pending.known)
                if saved.tries > 1:
                    self.rooms.listens()  # to learn of others' saves before its own meet them
            self._go_on()

    def end(self, hold: Hold) -> None:
        """End a hold without a commit."""
        if self.hold is hold:
            self.hold = None
            self.rooms.policy.emit(
                "released", self.id, session=hold.session, fence=hold.fence, committed=False
            )
            self._go_on()

    def pass_on(self) -> None:
        """Do with the lock, if this process was granted it, what is next."""
        self._go_on()

    def adopt(self, hold: Hold) -> None:
        """Take in the hold of a session that has just been created with the lock taken."""
        self.hold = hold
        self._spent = hold.fence
        self._renew_first(hold)

    # ---------------------------------------------------------------- for the other processes

    async def check(self) -> bool:
        """Load the record because of a wake-up; False if there was nothing new in it for this process.

        Whatever the record shows is done as if it had been looked at for any other reason.
        """
        if self._busy:
            self._missed = True
            return True
        before = self.latest
        if self.hold is not None:
            await self._catch_up(self.hold)
        else:
            self._be_busy()
            await self._load()
        if before is None:
            return self._is_ours()
        return self.latest is None or self.latest.record.version != before.record.version

    def learn(self, base: Base) -> None:
        """Take notice of a version, if it is newer than what is known."""
        if self.latest is None or base.record.version > self.latest.record.version:
            self._note(base)
            self._go_on()

    def look_again(self) -> None:
        """Look at the record: something may have happened unheard."""
        if self._busy:
            self._missed = True
        elif self.hold is None:
            self._look()

    # ---------------------------------------------------------------- what to do next

    def _go_on(self, *, spawn: bool = True) -> Coroutine[Any, Any, None] | None:
        """Do what is next, as the newest version of the record says.

        Without `spawn` the save that it takes is not sent in a task, but returned to be awaited.
        """
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
        if self.latest.record.digest == NOBODY:
            self._refuse_all(gone)
            return None
        step = self._next_step()
        if step is None:
            return None
        change = self._change(step, self._changed)
        if not spawn:
            return change
        self.rooms.state.spawn(change)
        return None

    def _next_step(self) -> Step | None:
        """Return how the lock is to be changed; None when there is nothing to do but wait."""
        lease, name = self._lease, self.rooms.name
        if lease is not None and lease.process == name:
            if lease.fence != self._spent and self._let_in_next(lease):
                return None
            # With nobody to let in, or after a hold that has ended without a commit.
            holder = (name, lease.fence)
            return partial(leases.release, holder=holder, waiting=bool(self.waiters), turn=self.turn)
        if not self.waiters:
            if lease is not None and name in lease.queue:
                self._asked = None  # who comes while it leaves has to ask again
                return partial(leases.leave, process=name)
            self.rooms.forget(self)
            return None
        if lease is None:
            return partial(leases.take, process=name)
        if self._has_run_out(lease):
            return partial(leases.take, process=name, over=lease.term)
        if name in lease.queue or self._asked == lease.term:
            self._wait(lease)
            return None
        self._asked = lease.term
        return partial(leases.take, process=name)

    def _let_in_next(self, lease: Lease) -> bool:
        """Let in the first waiter whose session is the one that the record holds."""
        assert self.latest is not None, "it holds the lease"
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if waiter.let_in.done():  # cancelled this very moment
                continue
            session = waiter.session
            base, newest = session._base, self.latest.record
            if base is None or (base.record.epoch != newest.epoch and base.record.version < newest.version):
                waiter.let_in.set_exception(gone())
                continue
            self.hold = hold = Hold(session, waiter.terms, self, lease.fence, self.latest)
            self._spent = lease.fence
            self.turn += 1
            self._renew_first(hold)
            waited = monotonic() - waiter.arrived
            self.rooms.policy.emit("locked", self.id, session=session, fence=lease.fence, waited=waited)
            waiter.let_in.set_result(hold)
            return True
        return False

    def _has_run_out(self, lease: Lease) -> bool:
        """Whether the holder's lease is over: seen to be unchanged for its length, by our own clock.

        One that ended long ago by its writer's clock need not be watched for that long.
        """
        if monotonic() - self._since >= lease.length / 1000:
            return True
        return self.rooms.policy.clock() > lease.until + leases.MAX_SKEW

    def _wait(self, lease: Lease) -> None:
        """Wait to be woken up, and look again when the lease should be over."""
        left = max(self._since + lease.length / 1000 - monotonic(), 0.0)
        if self.rooms.listens():
            delay = min(left, _LOOK_AGAIN) * random.uniform(1.0, 1.1)  # noqa: S311  (jitter, no secret)
        else:
            self._polls += 1
            longest = min(_LONGEST_POLL, _FIRST_POLL * 2 ** min(self._polls, 10))
            delay = random.uniform(longest / 2, longest)  # noqa: S311
        self._set_timer(delay + 0.001, self._wait_no_longer)

    def _wait_no_longer(self) -> None:
        if self._lease is not None and self._has_run_out(self._lease):
            self._go_on()
        else:
            self.look_again()

    def _time_out_all(self, overdue: list[_Waiter]) -> None:
        for waiter in overdue:
            self._time_out(waiter)

    def _time_out(self, waiter: _Waiter) -> None:
        if self._busy and not waiter.overdue:
            waiter.overdue = True  # what is on its way may let it in: even a wait of 0 is one attempt
            self._overdue.append(waiter)
        elif waiter in self.waiters and not waiter.let_in.done():
            del self.waiters[waiter]
            self.rooms.policy.emit("lock_timeout", self.id, session=waiter.session)
            waiter.let_in.set_exception(
                LockTimeout(
                    f"session {self.id}: could not acquire the lock within {waiter.terms.wait:g} s. Another "
                    "request or manager.lock() holds it; inside manager.lock(), the same session's lock "
                    "waits for itself. The lock of a crashed holder is released when its lease has ended"
                )
            )
            self._go_on()

    def _refuse_all(self, error: Callable[[], Exception]) -> None:
        """Fail everybody who waits, and close the room: nothing more can be done here."""
        while self.waiters:
            waiter, _ = self.waiters.popitem(last=False)
            if not waiter.let_in.done():
                waiter.let_in.set_exception(error())
        self.rooms.forget(self)

    def _note_unless_older(self, newest: Base, before: Base | None) -> None:
        """Take notice of what the store has answered, unless a wake-up has brought a newer version.

        A version that is lower than `before`, the latest when the store was asked, is no older: a
        failover has lost that one.
        """
        latest = self.latest
        if latest is None or latest is before or newest.record.version > latest.record.version:
            self._note(newest)

    def _note(self, base: Base) -> None:
        """Take notice of a newer version of the record."""
        lease = leases.read(base.record)
        if self._lease is None or lease is None or lease.term != self._lease.term:
            self._since = monotonic()
            self._polls = 0
        if lease is None or lease.process != self.rooms.name:
            self.turn = 0
        self.latest, self._lease = base, lease

    # ---------------------------------------------------------------- what it does in the store

    def _look(self) -> None:
        self._be_busy()
        self.rooms.state.spawn(self._load())

    def _be_busy(self) -> None:
        self._busy = True
        self._set_timer(None)

    async def _load(self) -> None:
        """Load the record, take notice of it, and go on."""
        before, deadline = self.latest, monotonic() + self.rooms.policy.deadline
        try:
            stored = await self.rooms.policy.store.load(self.key, deadline=deadline)
            newest = None if stored is None else self._decoded(stored)
        except Exception as error:
            self._done()
            if self._is_granted():  # a wake-up has told so meanwhile
                self._go_on()
            else:
                self._give_up(error)
        except BaseException:
            self._refuse_all(shutting_down)
            raise
        else:
            self._done()
            self._learn(newest, before)

    async def _catch_up(self, hold: Hold) -> None:
        """Load what others have made of the record of a lock that is held here."""
        before, deadline = self.latest, monotonic() + self.rooms.policy.deadline
        self.catching_up = asyncio.get_running_loop().create_future()
        try:
            stored = await self.rooms.policy.store.load(self.key, deadline=deadline)
            newest = None if stored is None else self._decoded(stored)
        except Exception:  # the holder's own saves will meet it
            return
        finally:
            done, self.catching_up = self.catching_up, None
            done.set_result(None)
        self._check_hold(hold, newest)
        self._learn(newest, before)

    def _is_ours(self) -> bool:
        return self._lease is not None and self._lease.process == self.rooms.name

    def _is_granted(self) -> bool:
        return self._lease is not None and self._is_ours() and self._lease.fence != self._spent

    def _decoded(self, stored: Stored) -> Base:
        record = self.rooms.policy.decode(self.key, stored.data, self.id)
        leases.read(record)  # SessionCorrupt here, where it is met, and not where the lock is looked at
        return Base(record, stored.tag, stored.expires_at)

    def _change(self, step: Step, then: Callable[[Pending, Base], None]) -> Coroutine[Any, Any, None]:
        """Change the lock; `then` is called with the result, whoever awaits what is returned."""
        assert self.latest is not None, "there is something to change"
        self._be_busy()
        pending = Pending(self, {}, None, 0, monotonic() + self.rooms.policy.deadline)
        pending.id = self.id
        pending.base = before = self.latest
        pending.step = step
        pending.use = self._use
        pending.then = lambda pending: then(pending, before)
        return self._send(pending)

    async def _send(self, pending: Pending) -> None:
        with contextlib.suppress(Exception):  # it is told to `pending.then`
            await self.rooms.state.lanes.save(self.key, pending)

    def settle(self, pending: Pending, settled: Settled) -> None:
        """Note the result of a change of the lock."""
        pending.settled = settled
        pending.finish()

    def fail(self, pending: Pending, error: Exception) -> None:
        """Note that it failed."""
        pending.finish(error)

    def _changed(self, pending: Pending, before: Base) -> None:
        self._done()
        if pending.error is not None:
            self._give_up(pending.error)
        else:
            self._learn(_newest(pending), before)

    def _done(self) -> None:
        """Be done with the store, and have those time out who should have meanwhile."""
        self._busy = False
        if self._overdue:
            overdue, self._overdue = self._overdue, []
            asyncio.get_running_loop().call_soon(self._time_out_all, overdue)

    def _learn(self, newest: Base | None, before: Base | None) -> None:
        """Take notice of what the store has answered, and go on."""
        if newest is None:
            self._refuse_all(gone)
            return
        self._note_unless_older(newest, before)
        missed, self._missed = self._missed, False
        if not (missed and self.rooms.hints.take(self.key, needed=True)):
            self._go_on()

    def _give_up(self, error: Exception) -> None:
        """Tell whoever waits; a lease that is left behind ends by itself."""
        self._refuse_all(partial(_again, error))

    def _renew_first(self, hold: Hold) -> None:
        self._due = monotonic() + min(_FIRST_RENEWAL, hold.terms.max_hold)
        self._set_timer(self._due - monotonic(), self._renew)

    def _renew(self) -> None:
        """Renew the hold, unless it has to end."""
        hold, now = self.hold, monotonic()
        assert hold is not None, "or there is no timer"
        if now >= hold.ends or (hold.task is not None and hold.task.done()):
            self._lose(hold)
            self._go_on()
            return
        length = min(hold.terms.lease, hold.ends - now)
        self._due = now + min(hold.terms.lease / 3, hold.ends - now)
        step = partial(
            leases.renew, holder=(self.rooms.name, hold.fence), length=max(round(length * 1000), 1)
        )
        self.rooms.state.spawn(self._change(step, partial(self._renewed, hold)))

    def _renewed(self, hold: Hold, pending: Pending, before: Base) -> None:
        self._done()
        if pending.error is not None:
            logger.warning("session %s: the lock could not be renewed: %s", self.id, pending.error)
            self._due = min(self._due, monotonic() + _FIRST_RENEWAL)
            self._go_on()
            return
        newest = _newest(pending)
        self._check_hold(hold, newest)
        self._learn(newest, before)

    def _check_hold(self, hold: Hold, newest: Base | None) -> None:
        """End a hold that the record, as it is now, knows nothing of."""
        if self.hold is hold and not hold.leaving:
            if newest is None or newest.record.digest == NOBODY:
                self._lose(hold, ended=True)
            elif not leases.held_by(newest.record, (self.rooms.name, hold.fence)):
                self._lose(hold)

    def _lose(self, hold: Hold, *, ended: bool = False) -> None:
        """End a hold under its holder, who learns of it at the next commit; or the session has `ended`."""
        hold.lost = True
        self.hold = None
        if ended:
            self.rooms.policy.emit(
                "released", self.id, session=hold.session, fence=hold.fence, committed=False
            )
        else:
            self.rooms.policy.emit("lock_lost", self.id, session=hold.session, fence=hold.fence)
            logger.warning("session %s: the lock was lost while its block was still running", self.id)

    def _set_timer(self, delay: float | None, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay is not None and then is not None:
            self._timer = asyncio.get_running_loop().call_later(max(delay, 0.0), then)


def _newest(pending: Pending) -> Base | None:
    """Return the version that a change has brought to light; None when the record is gone."""
    settled = pending.settled
    assert settled is not None, "it has not failed"
    return settled.base if settled.verdict is not None else None


def _again(error: Exception) -> Exception:
    """Return an error like `error`: a traceback belongs to one request."""
    if isinstance(error, StoreUnavailable):
        return StoreUnavailable(str(error), executed=error.executed)
    return error


class Rooms:
    """The rooms of one event loop, and its ear for wake-ups.

    Attributes:
        policy: the manager.
        state: of the loop.
        hints: the loads that wake-ups cause.
    """

    def __init__(self, policy: SessionManager, state: LoopState) -> None:
        self.policy = policy
        self.state = state
        self.hints = Hints(self._check)
        self._rooms: dict[str, Room] = {}  # by key
        self._stop: Callable[[], None] | None = None
        self._starting = False
        self._not_before = 0.0

    @property
    def name(self) -> bytes:
        """The name under which this loop holds locks, and listens."""
        return self.state.name()

    def room(self, session_id: str, latest: Base) -> Room:
        """Return the room of a session; it is closed when nobody is in it.

        One that is opened begins with `latest`, a version that the session has.
        """
        key = self.policy.tokens.key(session_id)
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = Room(self, key, session_id, latest)
        room.id = session_id
        return room

    def told(self, key: str, saved: Base) -> None:
        """Take notice of a version that another commit of this process has saved."""
        room = self._rooms.get(key)
        if room is not None:
            room.learn(saved)

    def look_again(self, key: str) -> None:
        """Have the room of a session, if there is one, look at the record."""
        room = self._rooms.get(key)
        if room is not None:
            room.look_again()

    def forget(self, room: Room) -> None:
        """Close a room."""
        if self._rooms.get(room.key) is room:
            del self._rooms[room.key]

    def listens(self) -> bool:
        """Whether wake-ups are heard; makes sure that they will be, where that is possible."""
        if self._stop is not None:
            return True
        if not self._starting and monotonic() >= self._not_before:
            self._starting = True
            if isinstance(self.policy.store, WakesUp):
                self.state.spawn(self._listen(self.policy.store))
            else:
                logger.info(
                    "%s has no wake-ups, so waiting for a session's lock polls up to %d times a second",
                    type(self.policy.store).__name__,
                    1 / _LONGEST_POLL,
                )
        return False

    async def _listen(self, store: WakesUp) -> None:
        deadline = monotonic() + self.policy.deadline
        try:
            self._stop = await store.listen(self.name.hex(), self._heard, deadline=deadline)
        except StoreUnavailable as error:
            logger.warning("wake-ups for locks cannot be received, so locks are polled: %s", error)
            self._not_before = monotonic() + _LISTEN_AGAIN
            self._starting = False
        else:
            self._heard(None)  # what was published before

    def _heard(self, key: str | None) -> None:
        for one in list(self._rooms) if key is None else (key,):
            self.hints.take(one, needed=one in self._rooms)

    async def _check(self, key: str) -> bool:
        room = self._rooms.get(key)
        if room is None:  # nobody is here any more: one that was granted the lock passes it on
            room = self._rooms[key] = Room(self, key, None, None)
        return await room.check()

    def close(self) -> None:
        """Listen no longer."""
        self.hints.close()
        if self._stop is not None:
            self._stop()
            self._stop = None
        self._starting = False


class SessionLock:
    """``async with session.lock():``; see `Session.lock`."""

    __slots__ = ("_hold", "_policy", "_session", "_terms")

    def __init__(self, policy: SessionManager, session: Session, terms: Terms) -> None:
        self._policy = policy
        self._session = session
        self._terms = terms
        self._hold: Hold | None = None

    async def __aenter__(self) -> Session:
        """Commit what is pending, wait for the lock, and return the session with the newest data."""
        session = self._session
        hold = session._hold
        if hold is not None and hold.lost:
            raise lock_lost()
        if hold is not None and hold.depth and not hold.leaving:
            hold.depth += 1
            if hold.task is not asyncio.current_task():
                hold.task = None  # it is not over with the one that entered first
        else:
            hold = await self._enter(session)
            hold.task = asyncio.current_task()
            session._hold = hold
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
                await self._policy._commit_and_release(self._session, hold)
            else:
                hold.end()

    async def _enter(self, session: Session) -> Hold:
        policy = self._policy
        await session.load()
        await policy._commit(session, explicit=True)
        if session._status is Status.ANONYMOUS:
            raise StoreUnavailable(
                "the session could not be loaded because the store was unavailable, so it cannot be locked",
                executed=False,
            )
        if session._status is Status.NEW:
            return Hold(session, self._terms, None, 0, None)
        if session._token is None:
            raise gone()
        assert session._base is not None, "a session with a token and a record"
        room = policy._loops.current().rooms.room(session._token.selector, session._base)
        try:
            hold = await room.enter(session, self._terms)
        except SessionGone:
            if session._status is Status.LIVE:
                drop(policy, session, "gone")
            raise
        try:
            await settled(session)
            self._bring_up_to_date(session, hold.base)
        except BaseException:
            hold.end()
            raise
        return hold

    def _bring_up_to_date(self, session: Session, newest: Base | None) -> None:
        if session._base is None or newest is None:
            raise gone()
        made = newest.record
        if records.was_applied(session._base.record, made.version, made.nonce) is Applied.NO:
            # Not by the version alone: after a failover that lost some, the record has a lower one.
            report_stale(self._policy, session)
            session._refreshed(newest)


class OutsideLock(SessionLock):
    """``async with manager.lock(session_id):``; see `SessionManager.lock`."""

    __slots__ = ("_id",)

    def __init__(self, policy: SessionManager, session_id: str, terms: Terms) -> None:
        super().__init__(policy, Session(policy), terms)
        self._id = session_id

    async def __aenter__(self) -> Session:
        """Load the session, then lock it."""
        session, policy = self._session, self._policy
        key = policy.tokens.key(self._id)
        stored = await policy.store.load(key, deadline=monotonic() + policy.deadline)
        if stored is None or stored.expires_at <= policy.clock():
            raise gone()
        record = policy.decode(key, stored.data, self._id)
        if record.digest == NOBODY:
            raise gone()
        session._outside = session._sealed = True
        session._attach(Status.LIVE, Token(self._id, ""), Base(record, stored.tag, stored.expires_at))
        return await super().__aenter__()

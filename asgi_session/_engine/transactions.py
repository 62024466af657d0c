"""`Session.transact`: a function on the newest data, saved only if nothing changed meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, NoReturn

from asgi_session._data.fold import Changes, Moved
from asgi_session._data.record import Record
from asgi_session._engine.loading import begin_wait, drop, end_wait, report_stale, settled
from asgi_session._engine.loops import Loops
from asgi_session._engine.save_request import Backoff, Base, Pending, Settled, gone
from asgi_session._session.session import Session, Status
from asgi_session.errors import SessionConflict, SessionError, StoreUnavailable

if TYPE_CHECKING:
    from asgi_session._engine.committing import Committer
    from asgi_session._engine.loading import Loader
    from asgi_session._engine.manager import SessionManager

_NOT_HERE: Final = (
    "a transaction's function may only read and change the data of the draft it is given. Call {name}() on "
    "the session itself, outside transact()"
)


class Draft(Session):
    """The session that a transaction's function is given: the newest data, for one run."""

    def __init__(self, session: Session, base: Base | None) -> None:
        super().__init__(session._manager)
        status = Status.NEW if base is None else Status.LIVE
        self._attach(status, session._token, base)
        self._opened = True

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def _not_here(self, name: str) -> NoReturn:
        raise SessionError(_NOT_HERE.format(name=name))

    async def commit(self) -> None:
        """Refuse: `transact` does it."""
        self._not_here("commit")

    async def refresh(self) -> Session:
        """Refuse: the data is the newest already."""
        self._not_here("refresh")

    def rotate(self, **_: Any) -> None:
        """Refuse: a transaction may run more than once."""
        self._not_here("rotate")

    def clear(self) -> None:
        """Refuse: it would end the session."""
        self._not_here("clear")

    def destroy(self) -> None:
        """Refuse: a transaction may run more than once."""
        self._not_here("destroy")

    def lock(self, **_: Any) -> NoReturn:
        """Refuse: it would wait for itself."""
        self._not_here("lock")

    async def transact(self, function: Callable[[Session], Any], /) -> NoReturn:
        """Refuse: it is one already."""
        self._not_here("transact")


class Transaction(Pending):
    """A transaction on its way.

    Attributes:
        assigned: the keys that the last run has set.
        function: computes the changes; None when they were computed before.
        value: what the last run returned.
        raised: what it raised.
    """

    __slots__ = ("assigned", "function", "raised", "value")

    assigned: Iterable[str]
    function: Callable[[Session], Any] | None
    value: Any
    raised: Exception | None

    def run(self, record: Record) -> Changes:
        """Run the function on `record`; what it raises is its result, once that is known to be the newest."""
        assert self.function is not None, "or nobody would ask"
        draft = Draft(self.session, Base(record, b"", self.base.expires_at))
        self.raised = self.value = None
        try:
            self.value = self.function(draft)
            _refuse_awaitable(self.value)
            self.assigned = draft._assigned
            return draft._changes(draft._manager.max_size)
        except asyncio.CancelledError as error:
            # Of something that it asked. It runs in anybody's task, who was not cancelled.
            self.raised = RuntimeError("transact(fn): fn raised CancelledError")
            self.raised.__cause__ = error
        except Exception as error:
            self.raised = error
        return {}


class Transactor:
    """Runs the transactions of one manager."""

    def __init__(self, policy: SessionManager, loader: Loader, committer: Committer, loops: Loops) -> None:
        self._policy = policy
        self._loader = loader
        self._committer = committer
        self._loops = loops

    async def transact(self, session: Session, function: Callable[[Session], Any]) -> Any:
        """Run `function` on the newest data, and save what it changes; see `Session.transact`."""
        await session.load()
        await self._committer.commit(session, explicit=True)
        await settled(session)
        if session._status is Status.ANONYMOUS:
            raise StoreUnavailable(
                "the session could not be loaded because the store was unavailable", executed=False
            )
        asynchronous = _is_async(function)
        if session._status is Status.NEW:  # nobody else has it
            return await self._begin(session, function, asynchronous)
        if asynchronous:
            return await self._optimistically(session, function)
        pending = self._new(session, {})
        pending.function, pending.compute = function, pending.run
        return await self._save(session, pending)

    async def _begin(self, session: Session, function: Callable[[Session], Any], asynchronous: bool) -> Any:
        draft = Draft(session, None)
        value = function(draft)
        if asynchronous:
            value = await value
        else:
            _refuse_awaitable(value)
        session.update(draft.copy())
        try:
            await self._committer.commit(session, explicit=True)
        except Exception:
            session.discard()
            raise
        return value

    async def _optimistically(self, session: Session, function: Callable[[Session], Any]) -> Any:
        """Load, run, and save unless something has changed meanwhile; then again."""
        until = time.monotonic() + self._policy.deadline
        backoff = Backoff()
        while True:
            await self._loader.refresh(session)
            await settled(session)
            base = session._base
            if base is None:
                raise gone()
            draft = Draft(session, base)
            value = await function(draft)
            changes = draft._changes(draft._manager.max_size)
            if not changes:
                return value
            pending = self._new(session, changes)
            pending.only_on = base.record.entries
            pending.assigned = draft._assigned
            try:
                await self._save(session, pending)
            except Moved:
                if time.monotonic() >= until:
                    raise SessionConflict(
                        "other requests changed the session during every run of the transaction, until the "
                        "deadline. Pass transact() a plain function, or take the lock"
                    ) from None
                await backoff.pause(until)
            else:
                return value

    def _new(self, session: Session, changes: Changes) -> Transaction:
        pending = Transaction(self, changes, None, session._era, begin_wait(session, self._policy.deadline))
        pending.session = session
        pending.function = pending.value = pending.raised = None
        pending.assigned = ()
        return pending

    async def _save(self, session: Session, pending: Transaction) -> Any:
        while session._pending is not None:
            await session._pending.wait()
        if session._base is None:
            raise gone()
        if session._hold is not None:
            session._hold.cover(pending, leaving=False)
        session._pending = pending
        key = self._committer._make_ready(pending)
        await self._loops.current().lanes.save(key, pending)
        return pending.value

    def settle(self, pending: Pending, settled: Settled) -> None:
        """Bring the session up to date with what was saved, and hand over the result."""
        assert isinstance(pending, Transaction), "nothing else has its results here"
        session, policy = pending.session, self._policy
        error: Exception | None = pending.raised
        if settled.verdict is None or settled.base is None or settled.base.record.epoch != pending.epoch:
            drop(policy, session, "gone" if settled.verdict is None else "overtaken", list(pending.changes))
            error = gone()
        else:
            if pending.changes:
                policy.emit(
                    "saved", session.id, session=session, keys=list(pending.changes), tries=settled.tries
                )
            try:
                report_stale(policy, session)
                session._refreshed(settled.base)
                if error is None:
                    session._note_assigned(pending.assigned)
            except SessionError as problem:  # something else in it that cannot be stored
                error = error or problem
        self._finish(pending, error)

    def fail(self, pending: Pending, error: Exception) -> None:
        """Hand over the error; the session is as it was."""
        if not pending.done:
            if not isinstance(error, Moved):
                self._policy.emit("failed", pending.session.id, session=pending.session, error=error)
            self._finish(pending, error)

    def _finish(self, pending: Pending, error: Exception | None) -> None:
        session = pending.session
        session._pending = None
        end_wait(session, pending.deadline, self._policy.deadline)
        pending.finish(error)


def _refuse_awaitable(value: Any) -> None:
    if isawaitable(value):
        if iscoroutine(value):
            value.close()
        raise TypeError("transact(fn): fn returned an awaitable. Make it an `async def` function")


def _is_async(function: Callable[[Session], Any]) -> bool:
    if not callable(function):
        raise TypeError(f"transact() takes a function of the session, not {type(function).__name__}")
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004

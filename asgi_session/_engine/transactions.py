"""`Session.transact`: a function on the newest data, saved only if nothing changed meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import Any, Final, NoReturn

from asgi_session._backoff import Backoff
from asgi_session._data.change import Changes, Moved, Reason, gone
from asgi_session._data.record import Record, Version
from asgi_session._engine.committing import Committer
from asgi_session._engine.hold import hold_of
from asgi_session._engine.loops import Loops
from asgi_session._engine.refreshing import Refresher, part, take_over
from asgi_session._engine.save_request import Failed, LeftOut, SavedAs, SaveRequest
from asgi_session._engine.signing_in import SignIns
from asgi_session._policy import Policy
from asgi_session._session.session import Session
from asgi_session.errors import SessionConflict, SessionError, StoreUnavailable

_NOT_HERE: Final = (
    "a transaction's function may only read and change the data of the draft it is given. Call {name}() on "
    "the session itself, outside transact()"
)


class Draft(Session):
    """The session that a transaction's function is given: the newest data, for one run."""

    __slots__ = ()

    def __init__(self, session: Session, version: Version | None) -> None:
        super().__init__(session._engine)
        self._attach("new" if version is None else "live", session._token, version)
        self._opened = True

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

    def set_lifetime(self, **_: Any) -> None:
        """Refuse: a transaction is about the data alone."""
        self._not_here("set_lifetime")

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


class Transaction(SaveRequest, kw_only=True, eq=False):
    """A transaction on its way.

    Attributes:
        session: whose.
        max_size: bytes.
        function: computes the changes; None when they were computed before.
        refuse: refuses changes that no transaction may make.
        assigned: the keys that the last run has set.
        value: what the last run returned.
        raised: what it raised.
    """

    session: Session
    max_size: int
    function: Callable[[Session], Any] | None = None
    refuse: Callable[[Mapping[str, bytes], Changes], None]
    assigned: Iterable[str] = ()
    value: Any = None
    raised: Exception | None = None

    def run(self, record: Record) -> Changes:
        """Run the function on `record`; what it raises is its result, once that is known to be the newest."""
        assert self.function is not None, "or nobody would ask"
        draft = Draft(self.session, Version(record, self.base.stored))
        self.raised = self.value = None
        try:
            self.value = self.function(draft)
            _refuse_awaitable(self.value)
            self.assigned = draft._assigned
            changes = _changes(draft, record.entries, self.max_size, self.refuse)
        except asyncio.CancelledError as error:
            # Of something that it asked. It runs in anybody's task, who was not cancelled.
            self.raised = RuntimeError("transact(fn): fn raised CancelledError")
            self.raised.__cause__ = error
        except Exception as error:
            self.raised = error
        else:
            return changes
        return {}


class Transactor:
    """Runs the transactions of one manager."""

    __slots__ = ("_committer", "_loops", "_policy", "_refresher", "_sign_ins")

    def __init__(
        self,
        policy: Policy,
        refresher: Refresher,
        committer: Committer,
        sign_ins: SignIns,
        loops: Loops,
    ) -> None:
        self._policy = policy
        self._refresher = refresher
        self._committer = committer
        self._sign_ins = sign_ins
        self._loops = loops

    async def transact(self, session: Session, function: Callable[[Session], Any]) -> Any:
        """Run `function` on the newest data, and save what it changes; see `Session.transact`."""
        await session.load()
        await self._committer.commit(session, explicit=True)
        await session._settled()
        if session._status == "anonymous":
            raise StoreUnavailable(
                "the session could not be loaded because the store was unavailable", executed=False
            )
        asynchronous = _is_async(function)
        if session._status == "new":  # nobody else has it
            return await self._begin(session, function, asynchronous)
        if asynchronous:
            return await self._optimistically(session, function)
        transaction = self._new(session, session._version, {})
        transaction.function, transaction.compute = function, transaction.run
        return await self._save(session, transaction)

    async def _begin(self, session: Session, function: Callable[[Session], Any], asynchronous: bool) -> Any:
        draft, era = Draft(session, None), session._era
        value = function(draft)
        if asynchronous:
            value = await value
        else:
            _refuse_awaitable(value)
        if session._began_anew_since(era):
            raise gone()  # another task has begun another session meanwhile
        _changes(draft, {}, self._policy.max_size, self._sign_ins.refuse_in_transaction)
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
            await self._refresher.refresh(session)
            await session._settled()
            version = session._version
            if version is None:
                raise gone()
            draft = Draft(session, version)
            value = await function(draft)
            refuse = self._sign_ins.refuse_in_transaction
            changes = _changes(draft, version.record.entries, self._policy.max_size, refuse)
            if not changes:
                return value
            transaction = self._new(session, version, changes)
            transaction.only_on = version.record.entries
            transaction.assigned = draft._assigned
            try:
                await self._save(session, transaction)
            except Moved:
                if time.monotonic() >= until:
                    raise SessionConflict(
                        "other requests changed the session during every run of the transaction, until the "
                        "deadline. Pass transact() a plain function, or take the lock"
                    ) from None
                await backoff.pause(until)
            else:
                return value

    def _new(self, session: Session, version: Version | None, changes: Changes) -> Transaction:
        if version is None:
            raise gone()
        return Transaction(
            changes,
            then=self._note,
            base=version,
            session=session,
            max_size=self._policy.max_size,
            refuse=self._sign_ins.refuse_in_transaction,
        )

    async def _save(self, session: Session, transaction: Transaction) -> Any:
        await session._settled()
        version, token = session._version, session._token
        if version is None or token is None or session._is_to_end():
            raise gone()
        if version.record.epoch != transaction.base.record.epoch:
            raise gone()  # it was computed for another identity
        transaction.base, transaction.epoch = version, version.record.epoch
        transaction.id = token.selector
        hold = hold_of(session)
        if hold is not None:
            hold.cover(transaction, leaving=False)
        session._commit_begins(transaction, self._policy.deadline)
        key = self._policy.tokens.key(token.selector)
        await self._loops.current().saves.save(key, transaction)
        return transaction.value

    def _note(self, transaction: Transaction) -> None:
        """Bring the session up to date with what was saved, and hand over the result."""
        session, policy, result = transaction.session, self._policy, transaction.result
        if isinstance(result, Failed):
            if not isinstance(result.error, Moved):
                policy.emit("failed", session.id, session, error=result.error)
        elif isinstance(result, SavedAs) and result.version.record.epoch == transaction.epoch:
            transaction.error = transaction.raised
            if transaction.changes:
                policy.emit(
                    "saved",
                    session.id,
                    session,
                    keys=list(transaction.changes),
                    tries=result.tries,
                )
            try:
                if take_over(policy, session, result.version) and transaction.error is None:
                    session._note_assigned(transaction.assigned)
            except SessionError as problem:  # something else in it that cannot be stored
                transaction.error = transaction.error or problem
        else:
            reason: Reason = result.reason if isinstance(result, LeftOut) else "overtaken"
            part(policy, session, reason, list(transaction.changes))
            transaction.error = gone()
        session._commit_ends(None, policy.deadline)
        transaction.end()


def _changes(
    draft: Draft,
    entries: Mapping[str, bytes],
    max_size: int,
    refuse: Callable[[Mapping[str, bytes], Changes], None],
) -> Changes:
    """Return what a run has changed of the `entries` that it was given; refuse what no transaction may."""
    changes = draft._changes(max_size)
    refuse(entries, changes)
    return changes


def _refuse_awaitable(value: Any) -> None:
    if isawaitable(value):
        if iscoroutine(value):
            value.close()
        raise TypeError("transact(fn): fn returned an awaitable. Make it an `async def` function")


def _is_async(function: Callable[[Session], Any]) -> bool:
    if not callable(function):
        raise TypeError(f"transact() takes a function of the session, not {type(function).__name__}")
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004

"""`SessionManager`: where policy meets I/O. Loading, committing, ending."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Literal, Self
from weakref import WeakKeyDictionary

from asgi_session import record as records
from asgi_session import stores
from asgi_session.changes import Changes, Intent, Kind, Mark, Verdict, own_keys
from asgi_session.clock import Clock, system_clock
from asgi_session.commits import Backoff, Base, Lanes, Pending, Settled, too_large
from asgi_session.credentials import Fit, judge
from asgi_session.errors import (
    ConfigurationError,
    SessionCorrupt,
    SessionError,
    SessionGone,
    StoreUnavailable,
)
from asgi_session.expiry import expires_at, touch_due
from asgi_session.options import choice, milliseconds
from asgi_session.record import Record
from asgi_session.session import Owed, Session, Status
from asgi_session.store import TAG_SIZE, Distrusts, Store
from asgi_session.token import Token, Tokens, is_selector, new_token

logger: Final = logging.getLogger("asgi_session")

OnEvent = Callable[..., None]
"""Called as ``on_event(name, session_id, **info)``; it must return quickly and not raise."""

MAX_CANDIDATES: Final = 3
"""How many cookies of our name one request may make us look at."""


class SessionManager:
    """Holds the policy and does the I/O; one per app, usable outside requests too.

    Args:
        store: a `Store`, or a URL: ``memory://``, ``redis://``, ``redis+cluster://``,
            ``redis+sentinel://``, ... A store made from a URL is closed by `close`.
        secret_key: one key or several, each at least 16 bytes. With keys, cookies are signed with
            the first and accepted with any; a forged cookie then costs the store nothing. Default
            None: not signed, which is as safe (the verifier has 128 random bits), but a forged
            cookie costs one read. Setting keys ends all sessions whose cookies were not signed.
        idle_timeout: how long a session lasts unused. timedelta or seconds; default 14 days.
        absolute_timeout: how long it lasts at most. timedelta or seconds; default 90 days. (OWASP
            Session Management Cheat Sheet, "Session Expiration", asks for both.)
        unconfirmed_timeout: how long a new session lasts until its cookie has come back once.
            timedelta or seconds; default 1 hour. Keeps clients without cookies from filling the store.
        max_size: of one session in the store, bytes; default 65,536.
        deadline: for everything that one request may wait on the store. timedelta or seconds;
            default 5 seconds.
        namespace: cookies of one namespace are worth nothing in another; default ``"default"``.
        on_unavailable: ``"fail"`` (default): an error, which the middleware answers with 503.
            ``"anonymous"``: a session that cannot be loaded reads as empty; changing it is an error.
        on_corrupt: ``"raise"`` (default) `SessionCorrupt`, or ``"new"``: go on with a new session
            under a new id. The unreadable bytes stay in the store either way.
        save_on_error: commit also when the response is >= 500 or an exception escapes; default False.
        on_event: called as ``on_event(name, session_id, **info)`` for everything that happens; see
            the documentation for the names. Must be quick; what it raises is logged.
        clock: tells the time in ms since the Unix epoch; for tests.

    Raises:
        ConfigurationError: an option, or a combination, that cannot work; says what to change.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        secret_key: str | bytes | Sequence[str | bytes] | None = None,
        idle_timeout: float | timedelta = timedelta(days=14),
        absolute_timeout: float | timedelta = timedelta(days=90),
        unconfirmed_timeout: float | timedelta = timedelta(hours=1),
        max_size: int = 64 * 1024,
        deadline: float | timedelta = 5.0,
        namespace: str = "default",
        on_unavailable: Literal["fail", "anonymous"] = "fail",
        on_corrupt: Literal["raise", "new"] = "raise",
        save_on_error: bool = False,
        on_event: OnEvent | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self.idle = milliseconds("idle_timeout", idle_timeout)
        self.absolute = milliseconds("absolute_timeout", absolute_timeout)
        self.unconfirmed = min(milliseconds("unconfirmed_timeout", unconfirmed_timeout), self.idle)
        self.deadline = milliseconds("deadline", deadline) / 1000
        if self.idle > self.absolute:
            raise ConfigurationError(
                f"idle_timeout={idle_timeout!r} is longer than absolute_timeout={absolute_timeout!r}: no session "
                "could ever expire by being idle. Lower idle_timeout or raise absolute_timeout"
            )
        if not isinstance(max_size, int) or max_size < 256:
            raise ConfigurationError(f"max_size={max_size!r}: give bytes, at least 256")
        if not isinstance(namespace, str) or not namespace or "\0" in namespace:
            raise ConfigurationError(f"namespace={namespace!r}: give a name that is not empty")
        choice("on_unavailable", on_unavailable, ("fail", "anonymous"))
        choice("on_corrupt", on_corrupt, ("raise", "new"))
        if on_event is not None and not callable(on_event):
            raise ConfigurationError(f"on_event={on_event!r}: give a function")
        self.max_size = max_size
        self.on_unavailable = on_unavailable
        self.on_corrupt = on_corrupt
        self.save_on_error = save_on_error
        self.clock = clock
        self._tokens = Tokens(namespace, _keys(secret_key))
        self._on_event = on_event
        self._owns_store = isinstance(store, str)
        self.store: Store = stores.store_from_url(store) if isinstance(store, str) else _checked(store)
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()
        self._recent: _Loop | None = None

    # ---------------------------------------------------------------- life

    async def open(self) -> None:
        """Connect and check the set-up. Optional: the first use does what is necessary."""
        await self.store.open()

    async def close(self) -> None:
        """Wait for the saves on their way, then close the store if it was made from a URL."""
        await self.drain()
        if self._owns_store:
            await self.store.close()

    async def drain(self) -> None:
        """Wait for the saves on their way in this event loop; they end with their deadlines."""
        tasks = self._loop().tasks
        while tasks:
            await asyncio.wait(list(tasks))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---------------------------------------------------------------- from outside a request

    async def revoke(self, session_id: str) -> bool:
        """End a session from outside, by its public id (`Session.id`); whether there was one.

        Its record is deleted: requests in flight can no longer save to it.

        Raises:
            ValueError: this is not a session id.
            StoreUnavailable: the store did not answer within the deadline.
        """
        if not is_selector(session_id):
            raise ValueError("not a session id: give Session.id, the 22 characters, not the cookie's value")
        deadline = time.monotonic() + self.deadline
        backoff = Backoff()
        while True:
            try:
                deleted = await self.store.delete(session_id, deadline=deadline)
            except StoreUnavailable as error:
                # Deleting twice is the same as once, so a lost reply is no reason to give up.
                if error.executed is False or time.monotonic() >= deadline:
                    raise
                await backoff.pause(deadline)
            else:
                if deleted:
                    self._emit("revoked", session_id)
                return deleted

    # ---------------------------------------------------------------- loading

    async def _load(self, session: Session) -> None:
        """Find the record of the session's cookie and attach it."""
        credentials = session._cookie.read(session._headers) if session._cookie is not None else ()
        if not credentials:
            session._attach(Status.NEW, None, None)
            return
        deadline = self._begin(session)
        try:
            found = await self._find(credentials, deadline)
        except StoreUnavailable as error:
            self._emit("unavailable", None, error=error)
            if self.on_unavailable == "fail":
                raise
            session._attach(Status.ANONYMOUS, None, None)
            return
        finally:
            self._end(session, deadline)
        if isinstance(found, Status):
            session._attach(found, None, None)
            return
        token, base = found
        session._attach(Status.LIVE, token, base.record)
        session._tag, session._expires_at = base.tag, base.expires_at
        self._touch_if_due(session)

    async def _find(self, credentials: Sequence[str], deadline: float) -> tuple[Token, Base] | Status:
        """Return the first credential that verifies and its record, else NEW or DETACHED."""
        status = Status.NEW
        for text in credentials[:MAX_CANDIDATES]:
            token = self._tokens.read(text)
            if token is None:
                self._emit("malformed", None)
                continue
            stored = await self.store.load(token.selector, deadline=deadline)
            if stored is None:
                self._emit("unknown", token.selector)
                continue
            try:
                record = self.decode(token.selector, stored.data)
                fit = self._judge(record, token, stored.expires_at)
            except SessionCorrupt:
                if self.on_corrupt == "raise":
                    raise
                continue
            if fit is Fit.OPENS:
                return token, Base(record, stored.tag, stored.expires_at)
            if fit is Fit.RETIRED:
                status = Status.DETACHED
        return status

    def _judge(self, record: Record, token: Token, expires: int) -> Fit:
        """Tell how `token` fits `record`, and report what is odd about it."""
        fit = judge(record, token, expires, self.clock(), self._tokens)
        if fit is Fit.OPENS_IN_GRACE:
            self._emit("retired", token.selector, opens=True)
            return Fit.OPENS
        if fit is Fit.RETIRED:
            self._emit("retired", token.selector, opens=False)
        elif fit is Fit.UNKNOWN:
            self._emit("unknown", token.selector)
        elif fit is Fit.ANOTHERS:
            self._emit("corrupt", token.selector)
            if isinstance(self.store, Distrusts):
                self.store.distrust(token.selector)
            raise SessionCorrupt(
                f"session {token.selector}: the store answered with the record of another session"
            )
        return fit

    def decode(self, key: str, data: bytes) -> Record:
        """Read a record; `SessionCorrupt` names the session, and its bytes stay in the store."""
        try:
            return records.decode(data)
        except SessionCorrupt as error:
            self._emit("corrupt", key)
            raise SessionCorrupt(f"session {key}: {error}") from error.__cause__

    async def _refresh(self, session: Session) -> None:
        """Take over the newest record under the session's uncommitted changes."""
        await self._settled(session)
        record, token = session._record, session._token
        if record is None or token is None:
            if session._status is Status.NEW:
                return
            raise _gone()
        deadline = self._begin(session)
        try:
            stored = await self.store.load(token.selector, deadline=deadline)
        finally:
            self._end(session, deadline)
        newest = None
        if stored is not None and stored.expires_at > self.clock():
            newest = self.decode(token.selector, stored.data)
        if newest is None or stored is None or newest.epoch != record.epoch:
            self._drop(session, "gone" if newest is None else "overtaken")
            raise _gone()
        if session._record is record:  # else a commit has overtaken this load
            session._refreshed(newest)
            session._tag, session._expires_at = stored.tag, stored.expires_at
        self._touch_if_due(session)

    # ---------------------------------------------------------------- touching

    def _touch_if_due(self, session: Session) -> None:
        """Send a touch if one is due. Nobody waits for it and its failure is only an event."""
        record, token = session._record, session._token
        if record is None or token is None:
            return
        due = touch_due(session._expires_at, self.clock(), record.idle, record.deadline)
        loop = self._loop()
        if due is not None and token.selector not in loop.touching:
            loop.touching.add(token.selector)
            loop.spawn(self._touch(loop, token.selector, due, session._tag))
            session._expires_at = due

    async def _touch(self, loop: _Loop, key: str, expires: int, tag: bytes) -> None:
        try:
            done = await self.store.touch(key, expires, expect=tag, deadline=time.monotonic() + self.deadline)
        except SessionError as error:
            self._emit("touch_failed", key, error=error)
        else:
            if done:
                self._emit("touched", key, expires_at=expires)
        finally:
            loop.touching.discard(key)

    # ---------------------------------------------------------------- committing

    async def _commit(self, session: Session, *, explicit: bool, only_destroy: bool = False) -> None:
        """Commit what was changed, if anything.

        Args:
            session: whose.
            explicit: the app asked and wants to know: a session that is gone is an error.
            only_destroy: the request has failed: drop the changes, end the session if it was to end.
        """
        await self._settled(session)
        pending = self._start_commit(session, only_destroy=only_destroy)
        if pending is None:
            if explicit:
                if session._status in (Status.DETACHED, Status.ENDED):
                    raise _gone()
                self._touch_if_due(session)
            return
        try:
            await pending.wait()
        finally:
            self._end(session, pending.deadline)
        if pending.error is not None:
            raise pending.error
        if explicit and pending.dropped:
            raise _gone()

    async def _settled(self, session: Session) -> None:
        """Wait for the commit of this session that is on its way, if there is one."""
        while session._pending is not None:
            await session._pending.wait()

    def _start_commit(self, session: Session, *, only_destroy: bool = False) -> Pending | None:
        """Take the session's changes and set their commit going; None when there is nothing to do."""
        if session._status in (Status.UNLOADED, Status.ENDED):
            return None
        if session._replaced:
            for key in session._stale_values():
                self._emit("stale_value", session.id, key=key)
                logger.warning(
                    "session[%r]: a value that refresh() had replaced was changed; that is lost", key
                )
        mark = session._mark
        if only_destroy:
            if mark is None or mark.kind is not Kind.DESTROY:
                if session.modified:
                    self._emit("dropped", session.id, reason="error", keys=list(session._watched))
                return None
            changes: Changes = {}
        else:
            changes = session._changes()
            if not changes and mark is None:
                return None
        pending = Pending(session, changes, mark, session._era, self._begin(session))
        session._pending = pending
        self._dispatch(pending)
        return pending

    def _dispatch(self, pending: Pending) -> None:
        """Send a commit the way that the session's status asks for."""
        session = pending.session
        status = session._status
        if status is Status.BLANK:
            self._loop().spawn(self._load_then_dispatch(pending))
            return
        own = own_keys(pending.changes)
        if session._sealed and own and (status is not Status.LIVE or pending.mark is not None):
            self._refuse_late(pending)
            own = {}
        if status is Status.LIVE:
            self._submit(pending)
        elif status is Status.ANONYMOUS:
            message = (
                "the session could not be loaded, since the store was away, so it cannot be changed either"
            )
            self.fail(pending, StoreUnavailable(message, executed=False))
        elif own and (status is Status.NEW or begins_anew(pending.mark)):
            self._loop().spawn(self._create(pending, own))
        else:
            if status is Status.DETACHED:
                self._drop(session, "detached", pending)
            elif pending.mark is not None and pending.mark.kind is Kind.DESTROY:
                session._status = Status.ENDED
            self._finish(pending)

    async def _load_then_dispatch(self, pending: Pending) -> None:
        """Commit a session that was cleared or destroyed before it was loaded."""
        try:
            await self._load(pending.session)
        except Exception as error:
            self.fail(pending, error)
        else:
            self._dispatch(pending)

    def _submit(self, pending: Pending) -> None:
        """Queue the commit for the session's record."""
        session, mark = pending.session, pending.mark
        record, token = session._record, session._token
        assert record is not None and token is not None, "a live session has both"
        digest = new_digest = b""
        if mark is not None and not ends(pending):
            pending.token = new_token(token.selector)
            digest, new_digest = self._tokens.digest(token), self._tokens.digest(pending.token)
        pending.base = Base(record, session._tag, session._expires_at)
        pending.intent = Intent(pending.changes, record.epoch, mark, digest, new_digest)
        self._loop().lanes.submit(token.selector, pending)

    async def _create(self, pending: Pending, own: dict[str, bytes]) -> None:
        """Create a new session of `own`, under a new selector."""
        backoff = Backoff()
        while True:
            token = new_token()
            now = self.clock()
            record = records.new_record(
                now=now,
                idle=self.idle,
                absolute=self.absolute,
                digest=self._tokens.digest(token),
                check=self._tokens.check(token.selector),
                entries=own,
            )
            data = records.encode(record)
            if len(data) > self.max_size:
                self.fail(pending, too_large(len(data), self.max_size))
                return
            expires = expires_at(now, self.unconfirmed, record.deadline)
            try:
                created = await self.store.create(token.selector, data, expires, deadline=pending.deadline)
            except StoreUnavailable as error:
                # Whether it was executed does not matter: the cookie has not left, so nobody knows
                # that selector, and the next try takes another.
                if error.executed is False or time.monotonic() >= pending.deadline:
                    self.fail(pending, error)
                    return
                await backoff.pause(pending.deadline)
            except BaseException as error:
                self.fail(
                    pending, error if isinstance(error, Exception) else StoreUnavailable("shutting down")
                )
                raise
            else:
                if created:
                    break
        session = pending.session
        pending.token = token
        session._reborn(token, Base(record, data[:TAG_SIZE], expires), pending)
        self._emit("created", token.selector)
        self._finish(pending)

    # ---------------------------------------------------------------- results

    def settle(self, pending: Pending, settled: Settled) -> None:
        """Note in the session what became of a commit that reached the store."""
        session, mark = pending.session, pending.mark
        if settled.verdict is None or settled.verdict is Verdict.OVERTAKEN:
            own = own_keys(pending.changes)
            if own and begins_anew(mark) and not session._sealed:
                # A login must not be lost because the session it began on has ended meanwhile.
                self._loop().spawn(self._create(pending, own))
                return
            self._drop(session, "gone" if settled.verdict is None else "overtaken", pending)
            self._finish(pending)
            return
        base, token = settled.base, session._token
        assert base is not None and token is not None, "an applied commit has a record"
        if ends(pending):
            session._status = Status.ENDED if mark is not None and mark.kind is Kind.DESTROY else Status.NEW
            session._record = session._token = None
            session._owed = Owed.DELETION
            self._emit("ended", token.selector)
        else:
            session._committed(pending.changes, pending.era, base.record, merged=settled.merged)
            session._tag, session._expires_at = base.tag, base.expires_at
            self._emit("saved", token.selector, keys=list(pending.changes), tries=settled.tries)
            if settled.merged:
                self._emit("merged", token.selector, tries=settled.tries)
            if settled.verdict is Verdict.APPLIED_WITHOUT_ROTATION:
                self._emit("dropped", token.selector, reason="rotated already", keys=[])
            elif pending.token is not None:
                session._token = pending.token
                session._owed = Owed.COOKIE
                self._emit("rotated", token.selector)
        self._finish(pending)

    def fail(self, pending: Pending, error: Exception) -> None:
        """Note that a commit failed; does nothing for one that has a result."""
        if not pending.done:
            self._emit("failed", pending.session.id, error=error)
            pending.session._pending = None
            pending.finish(error)

    def _finish(self, pending: Pending) -> None:
        session = pending.session
        if session._mark is pending.mark:
            session._mark = None
        session._pending = None
        pending.finish()

    def _drop(self, session: Session, reason: str, pending: Pending | None = None) -> None:
        """Detach a session whose record is gone or has moved on, and tell what was dropped with it."""
        keys = list(pending.changes) if pending is not None else []
        self._emit("dropped", session.id, reason=reason, keys=keys)
        session._detach()
        if pending is not None:
            pending.dropped = True

    def _refuse_late(self, pending: Pending) -> None:
        """Report data that cannot be kept: its cookie can no longer reach the client."""
        keys = list(pending.changes)
        logger.error(
            "session keys %s were set after the response had started, in a session that needs a new cookie for "
            "them: they are lost. Set something in the session, or commit it, before the response starts",
            keys,
        )
        self._emit("dropped", pending.session.id, reason="late", keys=keys)
        pending.changes = {}
        pending.dropped = True

    def _emit(self, name: str, session_id: str | None, **info: Any) -> None:
        if self._on_event is not None:
            try:
                self._on_event(name, session_id, **info)
            except Exception:
                logger.exception("on_event failed for %r", name)

    # ---------------------------------------------------------------- time and loops

    def _begin(self, session: Session) -> float:
        """Begin to wait on the store; return by when that must end, as `time.monotonic`."""
        if session._sealed:
            session._waited = 0.0  # no response waits any more; every operation has the whole deadline
        return time.monotonic() + self.deadline - session._waited

    def _end(self, session: Session, deadline: float) -> None:
        """Note how much of the request's deadline is used up."""
        session._waited = max(session._waited, self.deadline - (deadline - time.monotonic()))

    def _loop(self) -> _Loop:
        running = asyncio.get_running_loop()
        if self._recent is not None and self._recent.loop is running:
            return self._recent
        state = self._loops.get(running)
        if state is None:
            state = self._loops[running] = _Loop(running, self)
        self._recent = state
        return state


class _Loop:
    """What belongs to one event loop: its lanes, and the tasks that the manager owns in it."""

    __slots__ = ("__weakref__", "lanes", "loop", "tasks", "touching")

    def __init__(self, loop: asyncio.AbstractEventLoop, manager: SessionManager) -> None:
        self.loop = loop
        self.lanes = Lanes(manager, self.spawn)
        self.tasks: set[asyncio.Task[None]] = set()
        self.touching: set[str] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in a task that no request can cancel and that `drain` waits for."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def begins_anew(mark: Mark | None) -> bool:
    """Whether a commit may go on under a new selector when its record is gone or has moved on."""
    return mark is not None and mark.kind in (Kind.ROTATE, Kind.CLEAR)


def ends(pending: Pending) -> bool:
    """Whether a commit leaves an ended session behind."""
    mark = pending.mark
    return mark is not None and (
        mark.kind is Kind.DESTROY or (mark.kind is Kind.CLEAR and not pending.changes)
    )


def _gone() -> SessionGone:
    return SessionGone(
        "this session has ended, was revoked, has expired or has moved on to another credential"
    )


def _keys(secret_key: str | bytes | Sequence[str | bytes] | None) -> Sequence[str | bytes]:
    if secret_key is None:
        return ()
    keys = [secret_key] if isinstance(secret_key, (str, bytes)) else list(secret_key)
    if not keys or not all(isinstance(key, (str, bytes)) for key in keys):
        raise ConfigurationError("secret_key: give text or bytes, a list of them (the first signs), or None")
    return keys


def _checked(store: Store) -> Store:
    missing = [
        name
        for name in ("load", "create", "save", "touch", "delete", "open", "close")
        if not callable(getattr(store, name, None))
    ]
    if missing:
        raise ConfigurationError(
            f"store={store!r} is no store: it lacks {', '.join(missing)}. Give a URL such as "
            "'redis://localhost:6379', or a Store such as RedisStore(client) or MemoryStore()"
        )
    return store

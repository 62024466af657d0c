"""Loading: from a request's cookies to a session's record; refreshing, touching."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from asgi_session._data import codec
from asgi_session._data import record as records
from asgi_session._data.expiry import touch_due
from asgi_session._data.fold import Kind
from asgi_session._data.record import Record
from asgi_session._data.token import Token
from asgi_session._data.token_check import Fit, judge
from asgi_session._engine.loops import Loops, LoopState
from asgi_session._engine.save_request import NOT_USED, UNCONFIRMED, USED, Base, gone
from asgi_session._session.session import Session, Status
from asgi_session.errors import SessionCorrupt, StoreUnavailable
from asgi_session.store import Distrusts

if TYPE_CHECKING:
    from asgi_session._engine.manager import SessionManager

logger: Final = logging.getLogger("asgi_session")

MAX_CANDIDATES: Final = 4
"""How many cookies of our name one request may make us look up: half of them from either end.

Somebody who can plant cookies, from a subdomain say, can put some of them before the client's own, or
behind it, depending on their paths and ages (RFC 6265 section 5.4); not in general both.
"""
# Names of their own, since looking a member up on its enum takes 0.1 µs on Python 3.11.
_NEW: Final = Status.NEW
_LIVE: Final = Status.LIVE
_OPENS: Final = Fit.OPENS


class Loader:
    """Loads the sessions of one manager."""

    def __init__(self, policy: SessionManager, loops: Loops) -> None:
        self._policy = policy
        self._loops = loops

    async def load(self, session: Session, *, required: bool = False) -> None:
        """Find the record of the session's cookie and attach it.

        Of several cookies the first that opens a session counts. With `required` a store that is away is
        an error, whatever `on_unavailable` says.
        """
        candidates = self._candidates(session)
        if not candidates:
            session._attach(_NEW)
            return
        policy = self._policy
        tokens = policy.tokens
        status, corrupt = _NEW, None
        deadline = begin_wait(session, policy.deadline)
        try:
            for token in candidates:
                key = tokens.key(token.selector)
                stored = await policy.store.load(key, deadline=deadline)
                if stored is None:
                    policy.emit("unknown", token.selector, session=session)
                    continue
                try:
                    record = self._decode(stored.data, token.selector, session)
                    now = policy.clock()
                    fit = judge(record, token, stored.expires_at, now, tokens)
                    if fit is not _OPENS:
                        fit = self._report(fit, token, session)
                except SessionCorrupt as error:
                    corrupt = error
                    continue
                if fit is _OPENS:
                    base = Base(record, stored.tag, stored.expires_at)
                    session._attach(_LIVE, token, base)
                    if policy.on_event is not None:  # every load comes here
                        policy.emit("loaded", token.selector, session=session)
                    if session._mark is None:  # else it is about to be ended or to begin anew
                        self.touch_if_due(session, now)
                    return
                if fit is Fit.RETIRED:
                    status = Status.DETACHED
            if corrupt is not None and policy.on_corrupt == "raise":
                raise corrupt
        except StoreUnavailable as error:
            policy.emit("unavailable", None, session=session, error=error)
            if policy.on_unavailable == "fail" or required:
                raise
            policy.failures.log(error)
            status = Status.ANONYMOUS
        finally:
            end_wait(session, deadline, policy.deadline)
        session._attach(status)

    def _candidates(self, session: Session) -> list[Token]:
        """Return the tokens among the session's cookies that are to be tried.

        The cookies' values live in here and nowhere else: error trackers record the local variables of
        every function that an error passes through.
        """
        texts = session._cookie.read(session._headers) if session._cookie is not None else ()
        if not texts:
            return []
        read = self._policy.tokens.read
        if len(texts) == 1 and (token := read(texts[0])) is not None:  # nearly every request
            return [token]
        found = [token for text in texts if (token := read(text)) is not None]
        if len(found) < len(texts):
            self._policy.emit("malformed", None, session=session, count=len(texts) - len(found))
        if len(texts) == 1:
            return []
        self._policy.emit("ambiguous", None, session=session, count=len(texts))
        found = list(dict.fromkeys(found))
        half = MAX_CANDIDATES // 2
        return found if len(found) <= MAX_CANDIDATES else found[:half] + found[-half:]

    def _report(self, fit: Fit, token: Token, session: Session) -> Fit:
        """Report a token that does not simply open its record; SessionCorrupt for another's record."""
        policy = self._policy
        if fit is Fit.OPENS_IN_GRACE:
            policy.emit("retired", token.selector, session=session, opens=True)
            return _OPENS
        if fit is Fit.RETIRED:
            policy.emit("retired", token.selector, session=session, opens=False)
        elif fit is Fit.UNKNOWN:
            policy.emit("unknown", token.selector, session=session)
        else:
            raise self._anothers(policy.tokens.key(token.selector), token.selector, session)
        return fit

    def decode(self, key: str, data: bytes, session_id: str | None, session: Session | None = None) -> Record:
        """Read the record of `key`; `SessionCorrupt` names the session, and its bytes stay in the store."""
        record = self._decode(data, session_id, session)
        if record.check != self._policy.tokens.check(key):
            raise self._anothers(key, session_id, session)
        return record

    def _anothers(self, key: str, session_id: str | None, session: Session | None) -> SessionCorrupt:
        """Report that the store has answered with another session's record; return the error."""
        self._policy.emit("corrupt", session_id, session=session)
        if isinstance(self._policy.store, Distrusts):
            self._policy.store.distrust(key)
        return SessionCorrupt(f"session {session_id}: the store returned the record of another session")

    def _decode(self, data: bytes, session_id: str | None, session: Session | None) -> Record:
        """Read what may be another session's record; its digest or check is yet to be looked at."""
        try:
            return records.decode(data)
        except SessionCorrupt as error:
            self._policy.emit("corrupt", session_id, session=session)
            raise SessionCorrupt(f"session {session_id}: {error}") from error.__cause__

    async def refresh(self, session: Session) -> None:
        """Take over the newest record under the session's uncommitted changes."""
        if session._status is Status.ANONYMOUS:
            await self._load_again(session)
            return
        report_stale(self._policy, session)
        while True:
            await settled(session)
            base, token = session._base, session._token
            if _about_to_end(session):
                return
            if base is None or token is None:
                if session._status is _NEW:
                    return
                raise gone()
            deadline = begin_wait(session, self._policy.deadline)
            try:
                stored = await self._policy.store.load(
                    self._policy.tokens.key(token.selector), deadline=deadline
                )
            finally:
                end_wait(session, deadline, self._policy.deadline)
            await settled(session)
            if _about_to_end(session):
                return
            if session._base is base:  # else a commit has overtaken this load
                break
        newest = None
        if stored is not None and stored.expires_at > self._policy.clock():
            newest = self.decode(
                self._policy.tokens.key(token.selector), stored.data, token.selector, session
            )
        if newest is None or stored is None or newest.epoch != base.record.epoch:
            drop(self._policy, session, "gone" if newest is None else "overtaken")
            raise gone()
        session._refreshed(Base(newest, stored.tag, stored.expires_at))
        self.touch_if_due(session, self._policy.clock())

    async def _load_again(self, session: Session) -> None:
        """Load a session that was anonymous, since the store was away; what was set since stays."""
        own = {key: session[key] for key in session._watched if key in session}
        session._status = Status.UNLOADED
        try:
            await self.load(session, required=True)
        except BaseException:
            session._status = Status.ANONYMOUS
            raise
        session.update(own)

    def touch_if_due(self, session: Session, now: int) -> None:
        """Send a touch if one is due at `now` (ms). No response waits for it, and its failure is an event."""
        base, token = session._base, session._token
        if base is None or token is None or use_of(session) != USED:
            return
        record = base.record
        due = touch_due(session._expires_at, now, record.idle, record.deadline)
        if due is None:
            return
        loop = self._loops.current()
        if token.selector not in loop.touching:
            loop.touching.add(token.selector)
            session._touch = loop.spawn(self._touch(loop, session, token.selector, due, base.tag))
            session._expires_at = due

    async def _touch(
        self, loop: LoopState, session: Session, session_id: str, expires: int, tag: bytes
    ) -> None:
        key = self._policy.tokens.key(session_id)
        try:
            done = await self._policy.store.touch(
                key, expires, expect=tag, deadline=monotonic() + self._policy.deadline
            )
        except Exception as error:  # a foreign store's too: nobody waits for this task
            self._policy.emit("touch_failed", session_id, session=session, error=error)
        else:
            if done:
                self._policy.emit("touched", session_id, session=session, expires_at=expires)
        finally:
            loop.touching.discard(session_id)


async def settled(session: Session) -> None:
    """Wait for the commit of this session that is on its way, if there is one."""
    while session._pending is not None:
        await session._pending.wait()


def use_of(session: Session) -> int:
    """Return what a save of this session says about its use: USED, UNCONFIRMED or NOT_USED.

    It is unconfirmed while its cookie has not come back yet, and may be on its way to a client that
    never returns it. Once the headers have left that can no longer be known: another request may have
    come with it.
    """
    if session._outside:
        return NOT_USED
    return USED if session._confirmed or session._sealed else UNCONFIRMED


def report_stale(policy: SessionManager, session: Session) -> None:
    """Report values that a refresh had replaced and that were changed all the same; forget the others."""
    for key in session._stale_values():
        policy.emit("stale_value", session.id, session=session, key=key)
        logger.warning(
            "session[%s]: the change to an old value is lost, because refresh(), transact() or entering a "
            "lock had replaced that value. Read it from the session again after those calls",
            codec.shown(key),
        )


def _about_to_end(session: Session) -> bool:
    """Whether nothing of its record may come back into it: it was cleared; SessionGone if destroyed."""
    mark = session._mark
    if session._status is Status.ENDED or (mark is not None and mark.kind is Kind.DESTROY):
        raise gone()
    return mark is not None and mark.kind is Kind.CLEAR


def begin_wait(session: Session, whole: float) -> float:
    """Begin to wait on the store; return by when that must end, as `time.monotonic`.

    Args:
        session: whose request waits.
        whole: seconds that one request may wait in all.
    """
    if session._sealed:
        session._waited = 0.0  # no response waits any more: every operation has the whole of it
    return monotonic() + whole - session._waited


def end_wait(session: Session, deadline: float, whole: float) -> None:
    """Note how much of what one request may wait is used up."""
    waited = whole - deadline + monotonic()
    if waited > session._waited:
        session._waited = waited


def drop(
    policy: SessionManager, session: Session, reason: str, keys: Sequence[str] = (), *, keep: bool = False
) -> None:
    """Detach a session whose record is gone or has moved on, and tell what was dropped with it.

    Args:
        policy: whose `on_event` is told.
        session: it was loaded from that record.
        reason: "gone", "overtaken" or "detached".
        keys: what the commit wanted to change.
        keep: it was cleared meanwhile: what it holds begins anew, and stays.
    """
    policy.emit("dropped", session.id, session=session, reason=reason, keys=list(keys))
    if keep:
        session._status, session._base = Status.DETACHED, None
    else:
        session._detach()

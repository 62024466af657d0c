"""Loading: from a request's cookies to a session's record; and the touch that follows, where one is due."""

from __future__ import annotations

from time import monotonic
from typing import Final

from asgi_session._data import record as records
from asgi_session._data.change import gone
from asgi_session._data.claim import OldCookies
from asgi_session._data.expiry import USED, touch_due
from asgi_session._data.record import Record, Version
from asgi_session._data.token import Token
from asgi_session._data.token_check import OPENING, Fit, fit_of
from asgi_session._engine.cutoff import Cutoff
from asgi_session._engine.loops import Loops, LoopState
from asgi_session._engine.moving_in import MovingIn
from asgi_session._engine.reading import Reader
from asgi_session._engine.rotating import Rotator
from asgi_session._policy import Policy
from asgi_session._session.outside import OutsideSession
from asgi_session._session.serving import CookieReader
from asgi_session._session.session import Session
from asgi_session._session.versioned import Status
from asgi_session.errors import SessionCorrupt, StoreUnavailable

MAX_CANDIDATES: Final = 4
"""How many cookies of our name one request may make us look up: half of them from either end.

Somebody who can plant cookies, from a subdomain say, can put some of them before the client's own, or
behind it, depending on their paths and ages (RFC 6265 section 5.4); not in general both.
"""


class Loader:
    """Loads the sessions of one manager."""

    __slots__ = ("_cutoff", "_loops", "_moving_in", "_policy", "_reader", "_rotator")

    def __init__(
        self, policy: Policy, reader: Reader, loops: Loops, cutoff: Cutoff, moving_in: MovingIn
    ) -> None:
        self._policy = policy
        self._cutoff = cutoff
        self._reader = reader
        self._loops = loops
        self._rotator = Rotator(policy, loops)
        self._moving_in = moving_in

    async def load(self, session: Session, *, required: bool = False) -> None:
        """Find the record of the session's cookie and attach it.

        Of several cookies the first that opens a session counts. With `required` a store that is away is
        an error, whatever `on_unavailable` says.
        """
        cookie = session._cookie
        candidates = self._candidates(session, cookie)
        if not candidates and (cookie is None or cookie.old is None):
            session._attach("new")
            return
        policy = self._policy
        if monotonic() >= self._cutoff.due:
            self._cutoff.look_in_a_task()
        status: Status = "new"
        corrupt: SessionCorrupt | None = None
        deadline = session._wait_begins(policy.deadline)
        try:
            for token in candidates:
                key = policy.tokens.key(token.selector)
                stored = await policy.store.load(key, deadline=deadline)
                if stored is None:
                    policy.emit("unknown", token.selector, session)
                    continue
                try:
                    record = (
                        records.decode(stored.data)
                        if policy.sealer is None
                        else self._reader.opened(key, stored, token.selector, session)
                    )
                    now = policy.clock()
                    found = fit = fit_of(record, token, stored.expires_at, now, policy.tokens)
                    if fit != "opens":
                        fit = self._report(fit, token, session, Version(record, stored), now)
                    if fit == "another's":
                        corrupt = corrupt or self._reader.anothers(key, token.selector, session)
                        continue
                except SessionCorrupt as error:
                    spoilt = self._reader.corrupt(error, token.selector, session)
                    if corrupt is None or not corrupt.by_seal:
                        corrupt = spoilt
                    continue
                if fit == "opens" and record.created <= self._cutoff.at:
                    policy.emit("unknown", token.selector, session)
                    continue
                if fit == "opens":
                    version = Version(record, stored)
                    session._attach("live", token, version)
                    if policy.describe is not None:
                        self._look_for_move(session, token, record)
                    if policy.on_event is not None:  # every load comes here
                        policy.emit("loaded", token.selector, session)
                    due = touch_due(
                        stored.expires_at, now, record.idle, record.deadline, policy.touch_fraction
                    )
                    if (
                        (found != "opens" or policy.rotate_every)
                        and session._use_of() == USED
                        and self._rotator.go_on(session, found, token, version, now)
                    ):
                        return
                    if due is not None and session._mark is None:  # else it is to end, or to begin anew
                        self.touch_if_due(session, now)
                    return
                if fit == "retired":
                    status = "detached"
            if corrupt is not None and (policy.on_corrupt == "raise" or corrupt.by_seal):
                raise corrupt
            if status == "new" and corrupt is None and cookie is not None and cookie.old is not None:
                status = await self._move_in(session, cookie.old, deadline)
                if status == "live":
                    return
        except StoreUnavailable as error:
            policy.emit("unavailable", None, session, error=error)
            if policy.on_unavailable == "fail" or required:
                raise
            policy.failures.log(error)
            status = "anonymous"
        finally:
            session._wait_ends(deadline, policy.deadline)
        session._attach(status)

    async def _move_in(self, session: Session, old: OldCookies, deadline: float) -> Status:
        """Attach the session that goes on from the request's old cookie; return "live" if there is one."""
        policy = self._policy
        good = old.read(session._headers, policy.clock())
        if good is None:
            return "new"
        try:
            status, token, version = await self._moving_in.find(session, good, deadline)
        except SessionCorrupt as error:
            if policy.on_corrupt == "raise" or error.by_seal:
                raise
            return "new"
        if token is not None and version is not None:
            session._move_in(token, version)
            # Also where the request is passive: the old cookie would last longer than an unconfirmed session.
            self.touch_if_due(session, policy.clock(), moved_in=True)
        return status

    async def load_again(self, session: Session) -> None:
        """Load a session that was anonymous, since the store was away; what was set since stays."""
        own = session._unload()
        try:
            await self.load(session, required=True)
        except BaseException:
            session._stay_anonymous()
            raise
        session.update(own)

    async def load_outside(self, session: OutsideSession, session_id: str) -> None:
        """Load a session outside a request, by its public id.

        Raises:
            SessionGone: there is none.
        """
        policy = self._policy
        key = policy.tokens.key(session_id)
        stored = await policy.store.load(key, deadline=monotonic() + policy.deadline)
        if stored is None or stored.expires_at <= policy.clock():
            raise gone()
        version = self._reader.version(key, stored, session_id)
        record = version.record
        if record.ended or record.is_index or record.created <= self._cutoff.at:
            raise gone()
        session._attach("live", Token(session_id, ""), version)

    def _candidates(self, session: Session, cookie: CookieReader | None) -> list[Token]:
        """Return the tokens among the session's cookies that are to be tried.

        The cookies' values live in here and nowhere else: error trackers record the local variables of
        every function that an error passes through.
        """
        texts = cookie.read(session._headers) if cookie is not None else ()
        if not texts:
            return []
        read = self._policy.tokens.read
        if len(texts) == 1 and (token := read(texts[0])) is not None:  # nearly every request
            return [token]
        found = [token for text in texts if (token := read(text)) is not None]
        if len(found) < len(texts):
            self._policy.emit("malformed", None, session, count=len(texts) - len(found))
        if len(texts) == 1:
            return []
        self._policy.emit("ambiguous", None, session, count=len(texts))
        found = list(dict.fromkeys(found))
        half = MAX_CANDIDATES // 2
        return found if len(found) <= MAX_CANDIDATES else found[:half] + found[-half:]

    def _report(self, fit: Fit, token: Token, session: Session, version: Version, now: int) -> Fit:
        """Report a token that does not simply open its record, if it is that one's at all."""
        policy = self._policy
        if fit in OPENING:
            if fit != "is new":
                policy.emit("retired", token.selector, session, opens=True)
            return "opens"
        if fit == "replayed":
            return self._rotator.replayed(session, token, version, now)
        if fit == "retired":
            policy.emit("retired", token.selector, session, opens=False)
        elif fit == "unknown":
            policy.emit("unknown", token.selector, session)
        return fit

    def _look_for_move(self, session: Session, token: Token, record: Record) -> None:
        """Tell of a client that is described in other words than the one that the session began with."""
        was = record.parts.get(records.DESCRIPTION)
        now = self._policy.description_of(session)
        if was and now and was != now:
            self._policy.emit("moved", token.selector, session, was=was.decode(), now=now.decode())

    def touch_if_due(self, session: Session, now: int, *, moved_in: bool = False) -> None:
        """Send a touch if one is due at `now` (ms). No response waits for it, and its failure is an event."""
        version, token = session._version, session._token
        if version is None or token is None or (session._use_of() != USED and not moved_in):
            return
        record = version.record
        due = touch_due(session._expires_at, now, record.idle, record.deadline, self._policy.touch_fraction)
        if due is None:
            return
        loop = self._loops.current()
        if token.selector not in loop.touching:
            loop.touching.add(token.selector)
            touch = loop.tasks.spawn(self._touch(loop, session, token.selector, due, version))
            session._touch_begins(touch, due)

    async def _touch(
        self, loop: LoopState, session: Session, session_id: str, expires: int, version: Version
    ) -> None:
        policy = self._policy
        key = policy.tokens.key(session_id)
        deadline = monotonic() + policy.deadline
        try:
            done = await policy.store.touch(key, expires, expect=version.stored, deadline=deadline)
        except Exception as error:  # a foreign store's too: nobody waits for this task
            policy.emit("touch_failed", session_id, session, error=error)
        else:
            if done:
                session._touched(version, expires)
                policy.emit("touched", session_id, session, expires_at=expires)
        finally:
            loop.touching.discard(session_id)

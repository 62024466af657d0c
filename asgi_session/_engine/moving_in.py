"""Moving in: the session that goes on from an old cookie, the same one for all who bring that cookie.

Parallel first requests carry the same old cookie; so does a copy that somebody has kept. What is settled
between them is in one record, the *claim* (see `_data.claim`):

1. Look at the claim. Settled: go on in that session; where that has ended, in none. Open, and somebody else
   is at it: wait, and look again. Else make it one's own: create it, or take over one whose owner has had
   half a request's time (it died, or is too slow) or has given up.
2. Create the session, under an id that this attempt alone has drawn, indexes and all.
3. Settle the claim on that id, if it still is one's own. If it is not, delete what was created and go to 1.

Nobody is told of a session before step 3. So a session that is not there although the claim is settled on it
has ended, and stays so: there is no way back from settled, and no id is created twice. Whoever dies before
step 3 leaves an open claim, which the next one takes over, and at worst a session whose credential nobody can
make; it expires as one whose cookie never comes back. After step 3, the next request finds all of it.

No clock decides anything but how long to wait: two that both take a claim for their own both create a
session, and the store's comparison lets one of them settle.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeAlias

from asgi_session._backoff import pause
from asgi_session._data import claim as claims
from asgi_session._data import record as records
from asgi_session._data.claim import Claim, Old
from asgi_session._data.record import Record, Version
from asgi_session._data.token import Token, index_key, new_token
from asgi_session._data.token_check import OPENING, fit_of
from asgi_session._engine.creating import Creator, New
from asgi_session._engine.cutoff import Cutoff
from asgi_session._engine.loops import Loops
from asgi_session._engine.members import Members
from asgi_session._engine.reading import Reader
from asgi_session._engine.signing_in import SignIns
from asgi_session._policy import Policy
from asgi_session._session.session import Session
from asgi_session._session.versioned import Status
from asgi_session.errors import (
    SessionSerializationError,
    SessionTooLarge,
    SignInRefused,
    StoreUnavailable,
)
from asgi_session.store import TAG_SIZE, Saved, Stored

_OWN_PART: Final = 0.4
"""How much of what a request may wait its owner has for creating the session of a claim."""
_PATIENCE: Final = 0.5
"""After how much of it others take the claim over."""
_KEPT_LONGER: Final = 3_600_000
"""How long a claim outlives its old cookie, ms: where a clock is behind, that is good for longer."""

Found: TypeAlias = tuple[Status, Token | None, Version | None]


class _Attempt:
    """One request's attempt to move in.

    Attributes:
        old: the old cookie.
        by: who makes it.
        key: of the claim in the store.
        new: the session that it creates.
        salt: of that session's credential.
        version: of that session; None: it is not created.
    """

    __slots__ = ("by", "key", "new", "old", "salt", "version")

    def __init__(self, old: Old, key: str, new: New) -> None:
        self.old = old
        self.by = os.urandom(claims.BY_SIZE)
        self.key = key
        self.new = new
        self.salt = os.urandom(claims.SALT_SIZE)
        self.version: Version | None = None
        new.draw = self._draw

    def again(self) -> None:
        """Have the next try create another session, under another id."""
        self.new.token = self.new.version = self.new.place = self.version = None
        self.new.sent = False
        self.salt = os.urandom(claims.SALT_SIZE)

    def _draw(self) -> Token:
        return self.old.token(new_token().selector, self.salt)


class MovingIn:
    """Has old cookies go on in the sessions of one manager."""

    __slots__ = ("_creator", "_cutoff", "_loops", "_members", "_policy", "_reader", "_sign_ins")

    def __init__(
        self,
        policy: Policy,
        reader: Reader,
        loops: Loops,
        creator: Creator,
        members: Members,
        sign_ins: SignIns,
        cutoff: Cutoff,
    ) -> None:
        self._cutoff = cutoff
        self._policy = policy
        self._reader = reader
        self._loops = loops
        self._creator = creator
        self._members = members
        self._sign_ins = sign_ins

    async def find(self, session: Session, old: Old, deadline: float) -> Found:
        """Return what a request with an old cookie goes on in: its status, credential and version.

        Raises:
            StoreUnavailable, SessionCorrupt.
        """
        try:
            attempt = self._attempt(session, old)
            claim = await self._settled(attempt, deadline)
        except (SessionTooLarge, SessionSerializationError, SignInRefused) as error:
            # Each later request would fail as well, until the old cookie expires.
            self._policy.emit("not_moved_in", None, session, error=error)
            return "new", None, None
        token = old.token(claim.session_id, claim.salt)
        if attempt.version is None or attempt.new.token != token:
            return await self._follow(session, token, deadline)
        self._policy.emit("moved_in", token.selector, session)
        return "live", token, attempt.version

    def _attempt(self, session: Session, old: Old) -> _Attempt:
        """Return an attempt with its session encoded, so that nothing is written of one that cannot be."""
        policy = self._policy
        new = New(old.entries(), None, None, policy.clock(), policy.description_of(session))
        new.proved = False
        attempt = _Attempt(old, index_key(policy.tokens.claim(old.signed)), new)
        self._creator.prepare(new)
        return attempt

    async def _follow(self, session: Session, token: Token, deadline: float) -> Found:
        """Return the session that an old cookie has gone on in before, if its credential still opens it."""
        policy, key = self._policy, self._policy.tokens.key(token.selector)
        stored = await policy.store.load(key, deadline=deadline)
        if stored is None:
            return "new", None, None
        version = self._reader.version(key, stored, token.selector, session)
        fit = fit_of(version.record, token, stored.expires_at, policy.clock(), policy.tokens)
        if fit in OPENING and version.record.created > self._cutoff.at:
            policy.emit("loaded", token.selector, session)
            return "live", token, version
        if fit == "retired":
            policy.emit("retired", token.selector, session, opens=False)
            return "detached", None, None
        return "new", None, None

    # ---------------------------------------------------------------- the steps

    async def _settled(self, attempt: _Attempt, deadline: float) -> Claim:
        """Return the claim once it is settled, by this attempt or by another.

        In a task: a request that is cancelled in between would have the others wait for nobody.
        """
        done: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        self._loops.current().tasks.spawn(self._settle_in_task(attempt, deadline, done))
        return await done

    async def _settle_in_task(self, attempt: _Attempt, deadline: float, done: asyncio.Future[Claim]) -> None:
        try:
            claim = await self._settle(attempt, deadline)
        except Exception as error:
            if not done.done():
                done.set_exception(error)
        except BaseException:
            done.cancel()
            raise
        else:
            if not done.done():
                done.set_result(claim)

    async def _settle(self, attempt: _Attempt, deadline: float) -> Claim:
        """Do the steps until the claim is settled."""
        policy, own, watch = self._policy, None, _Watch(self._policy)
        while True:
            if own is None:
                version = await self._load(attempt.key, deadline)
                if version is None:
                    own = await self._open(attempt, deadline)
                else:
                    claim = claims.claim_of(version.record)
                    if claim.session_id:
                        return claim
                    if claim.by == attempt.by:  # a reply was lost
                        own = version
                    elif watch.is_abandoned(claim, version.record):
                        mine = claims.reopened(version.record, attempt.by, policy.clock())
                        own = await self._write(attempt.key, version, mine, deadline)
                    elif not await watch.wait(deadline):
                        raise StoreUnavailable("another request has not moved the old session in, in time")
            if own is not None:
                settled = await self._create_and_settle(attempt, own, deadline)
                if settled is not None:
                    return settled
                own = None
            if time.monotonic() >= deadline:
                raise StoreUnavailable("the old session was not moved in, in time")

    async def _create_and_settle(self, attempt: _Attempt, own: Version, deadline: float) -> Claim | None:
        """Create the session, if that is not done, and settle the claim on it; None: look at that again."""
        policy = self._policy
        if attempt.version is None:
            # Given up before others take over: a sign-in that is late could end one that was settled on.
            soon = min(deadline, time.monotonic() + policy.deadline * _OWN_PART)
            try:
                _, attempt.version = await self._creator.create(attempt.new, soon)
            except SignInRefused:
                await self._quietly(
                    self._write(attempt.key, own, claims.reopened(own.record, b"", policy.clock()), deadline)
                )
                raise
        token = attempt.new.token
        assert token is not None, "it was created under one"
        record = claims.settled(own.record, token.selector, attempt.salt, policy.clock())
        if await self._write(attempt.key, own, record, deadline) is not None:
            return claims.claim_of(record)
        version = await self._load(attempt.key, deadline)
        claim = claims.claim_of(version.record) if version is not None else None
        if claim is not None and claim.session_id == token.selector:  # a reply was lost
            return claim
        if claim is None or claim.by != attempt.by:  # taken over meanwhile
            await self._undo(attempt)
        return None

    async def _undo(self, attempt: _Attempt) -> None:
        """End a session that nobody was told of."""
        new, version = attempt.new, attempt.version
        if version is not None:
            deadline = self._policy.wait_until()
            await self._quietly(self._policy.store.delete(new.key, deadline=deadline))
            if new.place is not None:
                self._sign_ins.leave(new.place.session_id, new.place.names)
        attempt.again()

    async def _quietly(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except StoreUnavailable as error:  # what stays of it expires soon, and nobody has its credential
            self._policy.emit("failed", None, error=error)

    # ---------------------------------------------------------------- the claim in the store

    async def _load(self, key: str, deadline: float) -> Version | None:
        stored = await self._policy.store.load(key, deadline=deadline)
        return None if stored is None else self._reader.version(key, stored, None)

    async def _open(self, attempt: _Attempt, deadline: float) -> Version | None:
        """Create a claim; None: look whose it is."""
        policy, key, until = self._policy, attempt.key, attempt.old.until + _KEPT_LONGER
        record = claims.opened(attempt.by, policy.clock(), until, policy.tokens.check(key))
        stored = self._stored(key, record)
        try:
            answer = await policy.store.create(key, stored.data, stored.expires_at, deadline=deadline)
        except StoreUnavailable as error:
            if error.executed is False or time.monotonic() >= deadline:
                raise
            return None
        return Version(record, stored).tagged(answer.tag) if isinstance(answer, Saved) else None

    async def _write(self, key: str, was: Version, record: Record, deadline: float) -> Version | None:
        """Save the next version of a claim; None: look what became of it."""
        stored = self._stored(key, record)
        try:
            answer = await self._policy.store.save(
                key, stored.data, stored.expires_at, expect=was.stored, deadline=deadline
            )
        except StoreUnavailable as error:
            if error.executed is False or time.monotonic() >= deadline:
                raise
            return None
        return Version(record, stored).tagged(answer.tag) if isinstance(answer, Saved) else None

    def _stored(self, key: str, record: Record) -> Stored:
        data = records.encode(record)
        if self._policy.sealer is not None:
            data = self._policy.sealer.seal(data, key)
        return Stored(data, data[:TAG_SIZE], record.deadline)


class _Watch:
    """Watches a claim that is another's, as long as somebody may be at it."""

    __slots__ = ("_by", "_patience", "_policy", "_since", "_tries")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._patience = policy.deadline * _PATIENCE
        self._by = b""
        self._since = 0.0
        self._tries = 0

    def is_abandoned(self, claim: Claim, record: Record) -> bool:
        """Tell whether a claim may be taken over: it was given up, or was its owner's for long enough."""
        if claim.by != self._by:
            self._by, self._since = claim.by, time.monotonic()
        past = max(time.monotonic() - self._since, (self._policy.clock() - record.created) / 1000)
        return not claim.by or past >= self._patience

    async def wait(self, deadline: float) -> bool:
        """Wait a while; False: there is no time left."""
        waited = await pause(self._tries, deadline)
        self._tries += 1
        return waited

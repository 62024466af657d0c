"""The engine: the parts that load, commit, refresh, lock and transact, put together."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from asgi_session._engine.beginning import Beginner
from asgi_session._engine.committing import Committer
from asgi_session._engine.creating import Creator
from asgi_session._engine.cutoff import Cutoff
from asgi_session._engine.hold import Terms
from asgi_session._engine.indexing import Indexes
from asgi_session._engine.loading import Loader
from asgi_session._engine.loops import Loops
from asgi_session._engine.members import Members
from asgi_session._engine.moving_in import MovingIn
from asgi_session._engine.reading import Reader
from asgi_session._engine.refreshing import Refresher
from asgi_session._engine.session_lock import OutsideLock, SessionLock
from asgi_session._engine.signing_in import SignIns
from asgi_session._engine.transactions import Transactor
from asgi_session._options import seconds
from asgi_session._policy import Policy
from asgi_session._session.outside import OutsideSession
from asgi_session._session.session import Commits, Does, Session, Transacts
from asgi_session.errors import ConfigurationError


class Engine:
    """What the sessions of one manager need done, as the session's own `Engine` names it.

    Attributes:
        policy: how it is to be done.
        loops: what there is per event loop.
        cutoff: up to when the sessions that were created have ended.
        members: the sessions of each user.
        sign_ins: what a sign-in needs done in the indexes.
        load, commit, refresh, transact: the parts' own, so that nothing is in between.
    """

    __slots__ = (
        "_committer", "_loader", "commit", "cutoff", "load", "loops", "members", "policy", "refresh",
        "sign_ins", "transact",
    )  # fmt: skip

    def __init__(self, policy: Policy) -> None:
        reader = Reader(policy)
        self.policy = policy
        self.loops = Loops(policy, reader)
        indexes = Indexes(policy, reader, self.loops)
        self.cutoff = cutoff = Cutoff(policy, self.loops, indexes)
        self.members = members = Members(policy, reader, self.loops, indexes, cutoff)
        self.sign_ins = sign_ins = SignIns(policy, self.loops, indexes, members)
        creator = Creator(policy, sign_ins)
        moving_in = MovingIn(policy, reader, self.loops, creator, members, sign_ins, cutoff)
        self._loader = loader = Loader(policy, reader, self.loops, cutoff, moving_in)
        beginner = Beginner(policy, self.loops, creator, sign_ins)
        self._committer = committer = Committer(policy, loader, beginner, sign_ins, self.loops)
        refresher = Refresher(policy, reader, loader)
        self.load: Does = loader.load
        self.commit: Commits = committer.commit
        self.refresh: Does = refresher.refresh
        transactor = Transactor(policy, refresher, committer, sign_ins, self.loops)
        self.transact: Transacts = transactor.transact

    def now(self) -> int:
        """Return the time, ms since the Unix epoch."""
        return self.policy.clock()

    def principal_of(self, entries: Mapping[str, bytes]) -> str | None:
        """Return who encoded values say is signed in.

        Raises:
            ConfigurationError: no `identity` is configured.
        """
        identity = self.policy.identity
        if identity is None:
            raise ConfigurationError(
                "who is signed in is not known: give SessionManager or SessionMiddleware identity=, the key "
                "that says so, for instance identity='user_id'"
            )
        return identity.principal(entries)

    def touch(self, session: Session) -> None:
        """Have a use of the session extend its expiry, if that is due."""
        self._loader.touch_if_due(session, self.policy.clock())

    def lock(
        self,
        session: Session,
        wait: float | timedelta,
        lease: float | timedelta,
        max_hold: float | timedelta,
    ) -> SessionLock:
        """Return the lock of a request's session."""
        return SessionLock(self.policy, self._committer, self.loops, session, _terms(wait, lease, max_hold))

    async def outside(self, session_id: str) -> OutsideSession:
        """Load a session outside a request, by its public id; SessionGone when there is none."""
        session = OutsideSession(self)
        await self._loader.load_outside(session, session_id)
        session.mark_accessed()
        return session

    def lock_outside(
        self,
        session_id: str,
        wait: float | timedelta,
        lease: float | timedelta,
        max_hold: float | timedelta,
    ) -> OutsideLock:
        """Return the lock of a session outside a request, by its public id."""
        return OutsideLock(
            self.policy,
            self._committer,
            self.loops,
            self._loader,
            OutsideSession(self),
            session_id,
            _terms(wait, lease, max_hold),
        )


def _terms(wait: float | timedelta, lease: float | timedelta, max_hold: float | timedelta) -> Terms:
    return Terms(
        seconds("wait", wait, least=0.0, most=3600.0),
        seconds("lease", lease, least=0.1, most=3600.0),
        seconds("max_hold", max_hold, least=0.1, most=86400.0),
    )

"""Rotating: what follows from a credential that is new, too old, or was replaced for good."""

from __future__ import annotations

from time import monotonic

from asgi_session._data import rotation
from asgi_session._data.change import NO_CHANGES, Kind, Mark
from asgi_session._data.expiry import NOT_USED, expires_at
from asgi_session._data.record import Version
from asgi_session._data.token import Token
from asgi_session._data.token_check import Fit
from asgi_session._engine.loops import Loops, LoopState
from asgi_session._engine.save_request import SavedAs, SaveRequest
from asgi_session._policy import Policy
from asgi_session._session.session import Session


class Rotator:
    """Has credentials replaced that are too old; notes that new ones have come back. Of one manager."""

    __slots__ = ("_loops", "_policy")

    def __init__(self, policy: Policy, loops: Loops) -> None:
        self._policy = policy
        self._loops = loops

    def go_on(self, session: Session, found: Fit, token: Token, version: Version, now: int) -> bool:
        """Do what follows from how old a session's credential is, and whether it has just come back.

        Returns whether that saves the session, so that no touch is necessary.
        """
        record, every = version.record, self._policy.rotate_every
        if rotation.due(record, found, every, now):
            mark = Mark(Kind.ROTATE_WITH_GRACE, rotation.GRACE, every or rotation.PARALLEL_FOR)
            if session._rotation_is_due(mark):
                return True
        if found != "is new":
            return False
        loop = self._loops.current()
        if token.selector not in loop.touching:
            loop.touching.add(token.selector)
            noting = loop.tasks.spawn(self._note_that_it_came_back(loop, session, token, version))
            session._touch_begins(noting, expires_at(now, record.idle, record.deadline))
        return True

    async def _note_that_it_came_back(
        self, loop: LoopState, session: Session, token: Token, version: Version
    ) -> None:
        """Save that a new credential has come back, as a touch: no response waits for it.

        If it fails, or never arrives, the previous one stays good, and the next request tries again.
        """
        policy = self._policy
        epoch = version.record.epoch
        if session._version is not None and session.id == token.selector:
            version = session._version  # its request may have saved something before this task began
        noted = SaveRequest(
            NO_CHANGES,
            epoch,
            came_back=policy.tokens.digest(token),
            then=SaveRequest.end,
            base=version,
            deadline=monotonic() + policy.deadline,
            id=token.selector,
        )
        try:
            await loop.saves.save(policy.tokens.key(token.selector), noted)
        except Exception as error:  # a foreign store's too: nobody waits for this task
            policy.emit("touch_failed", token.selector, session, error=error)
        else:
            if isinstance(noted.result, SavedAs):
                saved = noted.result.version
                session._came_back(version, saved)
                policy.emit("touched", token.selector, session, expires_at=saved.stored.expires_at)
        finally:
            loop.touching.discard(token.selector)

    def replayed(self, session: Session, token: Token, version: Version, now: int) -> Fit:
        """Report a credential that was replaced for good; return how it is to be treated."""
        policy = self._policy
        policy.emit("replayed", token.selector, session)
        if policy.on_replay == "end":
            loop = self._loops.current()
            loop.tasks.spawn(self._end_replayed(loop, token.selector, version))
        return "retired" if rotation.lately(version.record, now) else "unknown"

    async def _end_replayed(self, loop: LoopState, session_id: str, version: Version) -> None:
        """End a session of which somebody has presented a credential that was replaced for good."""
        policy = self._policy
        ending = SaveRequest(
            NO_CHANGES,
            version.record.epoch,
            Mark(Kind.DESTROY),
            then=SaveRequest.end,
            base=version,
            deadline=monotonic() + policy.deadline,
            id=session_id,
            use=NOT_USED,
        )
        try:
            await loop.saves.save(policy.tokens.key(session_id), ending)
        except Exception as error:  # a foreign store's too: nobody waits for this task
            policy.emit("failed", session_id, None, error=error)
        else:
            if isinstance(ending.result, SavedAs):
                policy.emit("ended", session_id)

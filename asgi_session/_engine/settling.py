"""Settling: what became of a commit, noted in its session."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from asgi_session._data.change import Changes, Mark, Reason, gone
from asgi_session._data.identity import names_of
from asgi_session._data.lifetime import Lifetime
from asgi_session._data.record import Record
from asgi_session._data.token import Token
from asgi_session._data.values import shown
from asgi_session._engine.creating import New
from asgi_session._engine.deciding import Moving
from asgi_session._engine.hold import Hold, hold_of
from asgi_session._engine.refreshing import part
from asgi_session._engine.save_request import Failed, LeftOut, SavedAs, SaveRequest
from asgi_session._policy import Policy
from asgi_session._session.serving import Standing
from asgi_session._session.session import Session
from asgi_session.errors import SessionError

logger: Final = logging.getLogger("asgi_session")

_told_of: Final[set[str]] = set()  # keys of which the log has said that a change was lost
_MOST_TOLD_OF: Final = 100
"""How many keys are logged per process: names like ``cart:{sku}`` are without bound."""
_LATE: Final = (
    "they were set after the response had started (or the WebSocket was accepted), and the session needs a "
    "new cookie, which can no longer be sent. Set a key or call commit() before the response starts"
)
_NOTHING: Final[dict[str, bytes]] = {}  # shared: nobody changes it


class Commit(SaveRequest, kw_only=True, eq=False):
    """One commit of a session, from when its changes were taken until all that it asked is done.

    Attributes:
        session: whose.
        taken: the changes, as the session had them; `changes` are those that its record gets.
        era: of the session when they were taken.
        asked: the mark that the session had when they were taken; `mark` may be one that follows from them.
        own: what goes on in a new record, if it comes to that.
        new: that record, when its id is drawn.
        standing: where the session stood; None: nobody asks who is signed in.
        moving: the further indexes that its record enters and leaves, if any.
        token: the new credential, if its record gets one.
        hold: of the lock that it releases.
        adopting: of the lock that its new record is created with.
        left_out: why nothing was written, if so.
    """

    session: Session
    taken: Changes
    era: int
    asked: Mark | None = None
    new: New | None = None
    standing: Standing | None = None
    moving: Moving | None = None
    own: dict[str, bytes] = _NOTHING
    token: Token | None = None
    hold: Hold | None = None
    adopting: Hold | None = None
    left_out: Reason | None = None


class Settler:
    """Settles the commits of one manager.

    Args:
        policy: whose events are told.
        begin_anew: has a commit's own keys go on in a new record.
        leave: removes a session that has ended from its indexes.
    """

    __slots__ = ("_begin_anew", "_leave", "_policy")

    def __init__(
        self,
        policy: Policy,
        begin_anew: Callable[[Commit], None],
        leave: Callable[[str, list[bytes]], None],
    ) -> None:
        self._policy = policy
        self._begin_anew = begin_anew
        self._leave = leave

    def note(self, commit: Commit) -> None:
        """Note in the session what became of a commit that went to its record."""
        result, session, mark, policy = commit.result, commit.session, commit.mark, self._policy
        if not isinstance(result, SavedAs):
            self._not_saved(commit)
            return
        if mark is not None and mark.ends:
            self._ended(commit, mark, result)
            return
        session._saved(commit.changes, commit.era, result.version, merged=result.merged)
        if policy.on_event is not None:  # every save comes here
            policy.emit("saved", commit.id, session, keys=list(commit.changes), tries=result.tries)
        if commit.overwritten:
            self._tell_of_overwritten(commit)
        if result.merged:
            policy.emit("merged", commit.id, session, tries=result.tries)
        if commit.token is not None:
            if result.left_behind or result.rotated_already:
                if mark is None or not mark.by_itself:
                    reason: Reason = "overtaken" if result.left_behind else "rotated already"
                    policy.emit("dropped", commit.id, session, reason=reason, keys=[])
            else:
                session._rotated(commit.token)
                policy.emit("rotated", commit.id, session)
        elif commit.lifetime is not None and not result.left_behind:
            self._send_again(commit, commit.lifetime, result.version.record)
        self._end(commit, commit.asked)

    def _send_again(self, commit: Commit, lifetime: Lifetime, record: Record) -> None:
        """Have the response carry the cookie again if it is to last longer or shorter than before.

        Not if another request has rotated the token since: its cookie is newer than this one.
        """
        if lifetime.shows_in_cookie and record.digest == commit.digest:
            commit.session._owe_cookie()

    def _not_saved(self, commit: Commit) -> None:
        result = commit.result
        if isinstance(result, Failed):
            self.fail(commit, result.error)
        elif isinstance(result, LeftOut):
            if commit.own and not commit.session._sealed:
                # A login must not be lost because the session it began on has ended meanwhile.
                self._go_on_anew(commit, result)
            else:
                self.leave_out(commit, result.reason)

    def _ended(self, commit: Commit, mark: Mark, result: SavedAs) -> None:
        session, policy = commit.session, self._policy
        policy.emit("ended", commit.id, session)
        if policy.has_indexes and commit.id is not None:
            self._leave(commit.id, names_of(commit.base.record))
        if commit.carried is not None:
            forget = policy.forget_at_login - commit.taken.keys()
            commit.own = {key: value for key, value in commit.carried.items() if key not in forget}
        leaves = mark is not commit.asked and commit.carried is None  # who is signed in now is another
        session._ended(mark.kind, keep=commit.own if leaves else None)
        if commit.own and not session._sealed:
            self._go_on_anew(commit, result)
            return
        hold = hold_of(session)
        if hold is not None:
            hold.part(result.version)
        if commit.own:
            self.refuse_late(commit)
        self.finish(commit)

    def _go_on_anew(self, commit: Commit, result: SavedAs | LeftOut) -> None:
        """Go on under a new id: the record that the session came with has ended, or moved on."""
        hold = hold_of(commit.session)
        if hold is not None:
            hold.part(result.version)
        self._begin_anew(commit)

    def _tell_of_overwritten(self, commit: Commit) -> None:
        """Report changes of others that are lost, since this commit has changed the same keys."""
        keys = list(commit.overwritten)
        self._policy.emit("overwritten", commit.id, commit.session, keys=keys)
        for key in keys:
            if key not in _told_of and len(_told_of) < _MOST_TOLD_OF:
                _told_of.add(key)
                logger.warning(
                    "session[%s] was changed by two requests at once, and one of the changes is lost. Give "
                    "the key a merge rule: merge={%s: ...}, with one from asgi_session.merging (counter, "
                    "append, by_key, ...); or change it in session.transact(). This is logged once per key",
                    shown(key),
                    shown(key),
                )

    def fail(self, commit: Commit, error: Exception) -> None:
        """Note that a commit failed; does nothing for one that is done."""
        if not commit.done:
            session = commit.session
            commit.error = error
            self._policy.emit("failed", session.id, session, error=error)
            session._hand_back(commit.taken, commit.era, commit.lifetime)
            self._end(commit, None)

    def leave_out(self, commit: Commit, reason: Reason) -> None:
        """Part the session from its record, since nothing was written."""
        session = commit.session
        commit.left_out = reason
        part(self._policy, session, reason, commit.taken, carried=commit.asked)
        self.finish(commit)

    def refuse_late(self, commit: Commit) -> None:
        """Report data that cannot be kept: its cookie can no longer reach the client."""
        keys = list(commit.taken)
        named = ", ".join(map(shown, keys[:20])) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "")
        logger.error("session keys %s are lost: %s", named, _LATE)
        session = commit.session
        self._policy.emit("dropped", session.id, session, reason="late", keys=keys)
        commit.changes = {}
        commit.left_out = "late"

    def finish(self, commit: Commit) -> None:
        """Let go of a commit of which everything was carried out that can be."""
        self._end(commit, commit.asked)

    def _end(self, commit: Commit, consumed: Mark | None) -> None:
        commit.session._commit_ends(consumed, self._policy.deadline)
        if commit.hold is not None:
            done = commit.error is None and commit.left_out is None
            commit.hold.left(commit, done=done)
        commit.end()


def refuse_left_out(commit: Commit) -> None:
    """Raise the error for a commit that has written nothing, or not all."""
    if commit.left_out == "late":
        raise SessionError(_LATE)
    if commit.left_out is not None:
        raise gone()

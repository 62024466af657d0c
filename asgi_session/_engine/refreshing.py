"""Refreshing: the newest record under what the request has changed; and parting from one that is gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from asgi_session._data.change import Mark, Reason, gone
from asgi_session._data.record import Version
from asgi_session._data.values import shown
from asgi_session._engine.loading import Loader
from asgi_session._engine.reading import Reader
from asgi_session._policy import Policy
from asgi_session._session.session import Session

logger: Final = logging.getLogger("asgi_session")


class Refresher:
    """Refreshes the sessions of one manager."""

    __slots__ = ("_loader", "_policy", "_reader")

    def __init__(self, policy: Policy, reader: Reader, loader: Loader) -> None:
        self._policy = policy
        self._reader = reader
        self._loader = loader

    async def refresh(self, session: Session) -> None:
        """Take over the newest record under the session's uncommitted changes."""
        if session._status == "anonymous":
            await self._loader.load_again(session)
            return
        policy = self._policy
        report_stale(policy, session)
        while True:
            await session._settled()
            version, token = session._version, session._token
            if session._is_to_end():
                return
            if version is None or token is None:
                if session._status == "new":
                    return
                raise gone()
            key = policy.tokens.key(token.selector)
            deadline = session._wait_begins(policy.deadline)
            try:
                stored = await policy.store.load(key, deadline=deadline)
            finally:
                session._wait_ends(deadline, policy.deadline)
            await session._settled()
            if session._is_to_end():
                return
            if session._version is not None and session._version.record is version.record:
                break  # else a commit has overtaken this load
        if stored is None or stored.expires_at <= policy.clock():
            part(policy, session, "gone")
            raise gone()
        newest = self._reader.version(key, stored, token.selector, session)
        if newest.record.epoch != version.record.epoch:
            part(policy, session, "overtaken")
            raise gone()
        take_over(policy, session, newest)
        self._loader.touch_if_due(session, policy.clock())


def report_stale(policy: Policy, session: Session) -> None:
    """Report values that a refresh had replaced and that were changed all the same; forget the others."""
    for key in session._stale_values():
        policy.emit("stale_value", session.id, session, key=key)
        logger.warning(
            "session[%s]: the change to an old value is lost, because refresh(), transact() or entering a "
            "lock had replaced that value. Read it from the session again after those calls",
            shown(key),
        )


def take_over(policy: Policy, session: Session, newest: Version) -> bool:
    """Bring a session up to date with `newest`, under its uncommitted changes; whether that was done.

    It is not for a session that is to end, or to begin anew.
    """
    report_stale(policy, session)
    return session._refreshed(newest, policy.rules.by_key)


def part(
    policy: Policy,
    session: Session,
    reason: Reason,
    keys: Iterable[str] = (),
    *,
    carried: Mark | None = None,
) -> None:
    """Part a session from its record, which is gone or has moved on; tell what was dropped with it.

    Args:
        policy: whose `on_event` is told.
        session: it was loaded from that record.
        reason: why.
        keys: what the commit wanted to change.
        carried: the mark that this commit was to carry out, and that is done with.
    """
    policy.emit("dropped", session.id, session, reason=reason, keys=list(keys))
    session._detach(carried)

"""`SessionInfo`: one of a user's sessions, as a page shows it that lists their devices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from asgi_session._data.identity import signed_of
from asgi_session._data.record import DESCRIPTION, MAX_TIME, Version


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One of a user's sessions.

    Attributes:
        id: its public id; safe to show, and what `SessionManager.revoke` takes.
        created_at: when the user signed in, in UTC.
        last_seen: when it was last used, in UTC; up to 5 % of the idle timeout too early.
        expires_at: when it expires if it is not used again, in UTC.
        description: of the client, as `describe` told when the user signed in; empty without one.
        current: whether it is the one that was given as `current`.
    """

    id: str
    created_at: datetime
    last_seen: datetime
    expires_at: datetime
    description: str
    current: bool


def info_of(session_id: str, version: Version, *, current: bool) -> SessionInfo:
    """Return what there is to show of a session."""
    record, expires_at = version.record, version.stored.expires_at
    signed_in = signed_of(record).since or record.created
    return SessionInfo(
        id=session_id,
        created_at=_utc(record.created),
        last_seen=_utc(max(expires_at - record.idle, signed_in, record.created)),
        expires_at=_utc(expires_at),
        description=record.parts.get(DESCRIPTION, b"").decode(errors="replace"),
        current=current,
    )


def _utc(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(min(milliseconds, MAX_TIME) / 1000, UTC)

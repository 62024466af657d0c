"""Reading what the store holds: from its bytes to a version that is known to be the key's own."""

from __future__ import annotations

from asgi_session._data import record as records
from asgi_session._data.record import Version
from asgi_session._policy import HasConnection, Policy
from asgi_session.errors import SessionCorrupt
from asgi_session.store import Distrusts, Stored


class Reader:
    """Reads versions; tells of those that cannot be read, or are another session's."""

    __slots__ = ("_policy",)

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def version(
        self, key: str, stored: Stored, session_id: str | None, session: HasConnection | None = None
    ) -> Version:
        """Read what the store holds under `key`.

        Raises:
            SessionCorrupt: it cannot be read, or belongs to another key. Its bytes stay in the store.
        """
        try:
            record = records.decode(stored.data)
        except SessionCorrupt as error:
            raise self.corrupt(error, session_id, session) from error.__cause__
        if record.check != self._policy.tokens.check(key):
            raise self.anothers(key, session_id, session)
        return Version(record, stored)

    def corrupt(
        self, error: SessionCorrupt, session_id: str | None, session: HasConnection | None = None
    ) -> SessionCorrupt:
        """Report what cannot be read; return the error that names the session."""
        self._policy.emit("corrupt", session_id, session)
        named = SessionCorrupt(f"session {session_id}: {error}")
        named.__cause__ = error.__cause__
        return named

    def anothers(
        self, key: str, session_id: str | None, session: HasConnection | None = None
    ) -> SessionCorrupt:
        """Report that the store has answered with another session's record; return the error."""
        self._policy.emit("corrupt", session_id, session)
        if isinstance(self._policy.store, Distrusts):
            self._policy.store.distrust(key)
        return SessionCorrupt(f"session {session_id}: the store returned the record of another session")

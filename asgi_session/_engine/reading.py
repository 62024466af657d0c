"""Reading what the store holds: from its bytes to a version that is known to be the key's own."""

from __future__ import annotations

from asgi_session._data import record as records
from asgi_session._data.record import Record, Version
from asgi_session._policy import Policy
from asgi_session.errors import SessionCorrupt
from asgi_session.store import Distrusts, Stored


class Reader:
    """Reads versions; tells of those that cannot be read, or are another session's."""

    __slots__ = ("_policy",)

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def version(self, key: str, stored: Stored, session_id: str | None, connection: object = None) -> Version:
        """Read what the store holds under `key`.

        Raises:
            SessionCorrupt: it cannot be read, or belongs to another key. Its bytes stay in the store.
        """
        record = self.record(stored.data, session_id, connection)
        if record.check != self._policy.tokens.check(key):
            raise self.anothers(key, session_id, connection)
        return Version(record, stored)

    def record(self, data: bytes, session_id: str | None, connection: object = None) -> Record:
        """Read what may be another session's record; its digest or check is yet to be looked at."""
        try:
            return records.decode(data)
        except SessionCorrupt as error:
            self._policy.emit("corrupt", session_id, connection)
            raise SessionCorrupt(f"session {session_id}: {error}") from error.__cause__

    def anothers(self, key: str, session_id: str | None, connection: object = None) -> SessionCorrupt:
        """Report that the store has answered with another session's record; return the error."""
        self._policy.emit("corrupt", session_id, connection)
        if isinstance(self._policy.store, Distrusts):
            self._policy.store.distrust(key)
        return SessionCorrupt(f"session {session_id}: the store returned the record of another session")

"""Reading what the store holds: from its bytes to a version that is known to be the key's own."""

from __future__ import annotations

from typing import Final

from asgi_session._data import record as records
from asgi_session._data.record import Record, Version
from asgi_session._data.sealing import is_unsealed
from asgi_session._policy import HasConnection, Policy
from asgi_session.errors import SessionCorrupt
from asgi_session.store import Distrusts, Stored

_ANOTHERS: Final = "the store returned the record of another session"


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
            record = (
                records.decode(stored.data)
                if self._policy.sealer is None
                else self.opened(key, stored, session_id, session)
            )
        except SessionCorrupt as error:
            raise self.corrupt(error, session_id, session) from error.__cause__
        if record.check != self._policy.tokens.check(key):
            raise self.anothers(key, session_id, session)
        return Version(record, stored)

    def opened(
        self, key: str, stored: Stored, session_id: str | None, session: HasConnection | None = None
    ) -> Record:
        """Read the record under `key` where records are sealed.

        Raises:
            SessionCorrupt: it cannot be read, or its seal is not right.
        """
        policy = self._policy
        assert policy.sealer is not None, "or there is nothing to open"
        try:
            record = policy.sealer.decode(stored.data, key)
        except SessionCorrupt as error:
            check = records.check_in(stored.data)
            if error.by_seal and check and check != policy.tokens.check(key):
                self._distrust(key)
                raise SessionCorrupt(_ANOTHERS, by_seal=True) from None
            raise
        if is_unsealed(stored.data):
            policy.emit("unsealed", session_id, session)
        return record

    def corrupt(
        self, error: SessionCorrupt, session_id: str | None, session: HasConnection | None = None
    ) -> SessionCorrupt:
        """Report what cannot be read; return the error that names the session."""
        self._policy.emit("corrupt", session_id, session)
        named = SessionCorrupt(f"{_named(session_id)}: {error}", by_seal=error.by_seal)
        named.__cause__ = error.__cause__
        return named

    def anothers(
        self, key: str, session_id: str | None, session: HasConnection | None = None
    ) -> SessionCorrupt:
        """Report that the store has answered with another session's record; return the error."""
        self._policy.emit("corrupt", session_id, session)
        self._distrust(key)
        return SessionCorrupt(f"{_named(session_id)}: {_ANOTHERS}")

    def _distrust(self, key: str) -> None:
        if isinstance(self._policy.store, Distrusts):
            self._policy.store.distrust(key)


def _named(session_id: str | None) -> str:
    return "an index of sessions" if session_id is None else f"session {session_id}"

"""Every error this library raises.

::

    SessionError
    ├── ConfigurationError          the app is set up wrong; raised when it is built, or started
    ├── SessionNotLoaded            the session was used before it was loaded
    ├── SessionGone                 the session has ended, expired, or was never there
    ├── SessionConflict             a write could not be merged, or its outcome is not known
    ├── SessionTooLarge             the session would exceed `max_size`
    ├── SessionSerializationError   a value of a type that cannot be stored
    ├── SessionCorrupt              stored bytes that cannot be read
    ├── SignInRefused               the user's sessions were revoked meanwhile, or are too many
    ├── StoreUnavailable            the store did not answer in time, or refused
    ├── LockTimeout                 the lock was not free in time
    └── LockLost                    the lock has passed to somebody else

None derives from `OSError`: Starlette takes an `OSError` raised inside `send` for a client that
has disconnected, and would hide the failure.
"""

from __future__ import annotations

from typing import Final

REFUSED: Final = "asgi_session.refused"
"""A key in an ASGI scope, for test clients: a list there takes the errors that were answered with 5xx."""


class SessionError(Exception):
    """Base of all errors of this library."""


class ConfigurationError(SessionError, ValueError):
    """An option, a URL or a combination of options is wrong; the message says what to change."""


class SessionNotLoaded(SessionError, RuntimeError):
    """The session was read or changed before it was loaded, where loading would need an await."""


class SessionGone(SessionError):
    """The session has ended, was revoked or has expired: there is nothing left to work on."""


class SignInRefused(SessionError):
    """Nobody was signed in: the user's sessions were revoked meanwhile, or are as many as is allowed."""


class SessionConflict(SessionError):
    """A write that could not be merged.

    Attributes:
        outcome_unknown: True when the store's reply was lost and it can no longer be told whether
            the write was applied.
        key: which both sides have changed (``on_conflict="raise"``), else None.
        mine: the value that was to be written under `key`; None for a deletion.
        theirs: the value that is there by now; None when it was deleted.
    """

    def __init__(
        self,
        message: str,
        *,
        outcome_unknown: bool = False,
        key: str | None = None,
        mine: object = None,
        theirs: object = None,
    ) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
        self.key = key
        self.mine = mine
        self.theirs = theirs


class SessionTooLarge(SessionError):
    """The write would make the session larger than `max_size`; nothing was written.

    Attributes:
        size: what the record would have had, in bytes.
        max_size: the limit, in bytes.
    """

    def __init__(self, message: str, *, size: int = 0, max_size: int = 0) -> None:
        super().__init__(message)
        self.size = size
        self.max_size = max_size


class SessionSerializationError(SessionError, TypeError):
    """A value that cannot be stored; nothing was written.

    Attributes:
        key: the session key whose value it is, or None when that is not known.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class SessionCorrupt(SessionError):
    """Stored bytes that cannot be read. They were left in the store as they are.

    Attributes:
        by_seal: True when that is for their seal: it is broken, or of a key that is not there, or missing
            where `encryption_key` asks for one. ``on_corrupt="new"`` is then no way out, or a key that was
            mistyped would sign everybody out.
    """

    def __init__(self, message: str, *, by_seal: bool = False) -> None:
        super().__init__(message)
        self.by_seal = by_seal


class StoreUnavailable(SessionError):
    """The store did not answer in time, could not be reached, or refused the command.

    Attributes:
        executed: False when the command certainly was not executed, None when that is unknown.
        full: True when the store refused because it has no room left; deleting may still work.
    """

    def __init__(self, message: str, *, executed: bool | None = None, full: bool = False) -> None:
        super().__init__(message)
        self.executed = executed
        self.full = full


class LockTimeout(SessionError):
    """The lock was not free within the time given."""


class LockLost(SessionError):
    """The lock has passed to another holder, so nothing may be saved under it; nothing was."""

"""What one commit asks of a record: values, and nothing that is done to them.

A commit is a set of *changes* (key to new bytes, or None for a deletion) and perhaps a *mark* (rotate,
clear, destroy). Changes do not name what they replace, so they apply to any later version of the record
as well as to the one they were made on.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from asgi_session._data.lease import Holder, Step
from asgi_session._data.lifetime import Lifetime
from asgi_session._data.record import Record
from asgi_session.errors import LockLost, SessionError, SessionGone, SessionTooLarge

Changes: TypeAlias = dict[str, bytes | None]

Reason: TypeAlias = Literal["gone", "overtaken", "detached", "late", "error", "rotated already"]
"""Why something was left out; the event ``dropped`` gives the same word.

``gone``: there is no such record any more. ``overtaken``: it has got another identity since. ``detached``:
that was known before. ``late``: a new cookie would be needed, and the headers have left. ``error``: the
request has failed. ``rotated already``: by another request; the data was saved.
"""


class Kind(enum.Enum):
    """What a mark asks for."""

    ROTATE = "rotate"
    ROTATE_WITH_GRACE = "rotate with grace"
    CLEAR = "clear"
    SIGN_IN = "sign in"
    """Somebody signs in where nobody was: the data goes along into a new record."""
    REAUTHENTICATE = "reauthenticate"
    """Who is signed in has proved it again: as PROMOTE, and noted with the time."""
    PROMOTE = "rotate in place"
    """A further identity key has changed: as ROTATE, but it never begins anew."""
    DESTROY = "destroy"


_ENDS: Final = (Kind.CLEAR, Kind.DESTROY, Kind.SIGN_IN)
_BEGINS_ANEW: Final = (Kind.CLEAR, Kind.ROTATE, Kind.SIGN_IN)


class Mark:
    """One call of `rotate`, `clear` or `destroy`; consumed, as an object, by the commit that does it."""

    __slots__ = ("every", "grace", "kind")

    def __init__(self, kind: Kind, grace: int = 0, every: int = 0) -> None:
        self.kind = kind
        self.grace = grace  # ms
        self.every = every  # ms; not 0 where nobody has asked for it: a credential has got that old

    @property
    def by_itself(self) -> bool:
        """Whether nobody has asked for it."""
        return self.every != 0

    @property
    def ends(self) -> bool:
        """Whether the record has ended when it is carried out."""
        return self.kind in _ENDS

    @property
    def begins_anew(self) -> bool:
        """Whether the session may go on under a new id when its record is gone, or has moved on."""
        return self.kind in _BEGINS_ANEW


class Change(msgspec.Struct, eq=False):
    """What one commit, or a change of the lock, asks of the newest version of a record.

    Attributes:
        changes: key to new bytes, or None for a deletion.
        epoch: of the record that the changes were made on; empty when that does not matter.
        mark: what is carried out besides; one that ends the record takes no changes.
        digest: of the token that the session was loaded with, for a rotation or a lifetime.
        came_back: the digest of a token that a rotation has handed out, and that was presented now.
        new_digest: of the token that a rotation hands out.
        origins: the bytes from which each key's value was decoded, or to which it was last encoded; None
            when it does not matter on what the changes were made.
        holder: who must hold the lock for it to count; None: it is not made under a lock.
        step: what it does to the lock.
        lifetime: what it changes of the session's lifetime.
        compute: makes the changes, from the record it is applied to; called once per attempt.
        rewrite: what it does to the record besides, given the newest and the time, ms; gives back the very
            record when that is nothing.
        only_on: the entries that the changes were made on, if they must not be applied to any others.
        carried: set by a fold: the entries of a record that it ends, its own changes applied.
        overwritten: set by a fold: keys that others have changed as well, and whose change is lost.
    """

    changes: Changes
    epoch: bytes = b""
    mark: Mark | None = None
    digest: bytes = b""
    new_digest: bytes = b""
    origins: Mapping[str, bytes] | None = None
    holder: Holder | None = None
    step: Step | None = None
    lifetime: Lifetime | None = None
    compute: Callable[[Record], Changes] | None = None
    rewrite: Callable[[Record, int], Record] | None = None
    only_on: Mapping[str, bytes] | None = None
    carried: dict[str, bytes] | None = None
    overwritten: Sequence[str] = ()
    came_back: bytes = b""


class Moved(SessionError):
    """A change's `only_on` is not what the record holds. Internal: who made the change tries again."""


def own_keys(changes: Changes) -> dict[str, bytes]:
    """Return what a commit set itself: all that may go on under a new identity."""
    return {key: value for key, value in changes.items() if value is not None}


def too_large(size: int, max_size: int) -> SessionTooLarge:
    """Return the error for a session that would take `size` bytes."""
    return SessionTooLarge(
        f"the session would take {size} bytes, more than max_size={max_size}. Keep large data elsewhere and "
        "store its key in the session, or raise max_size",
        size=size,
        max_size=max_size,
    )


def gone() -> SessionGone:
    """Return the error for a session that can no longer be saved to."""
    return SessionGone("this session has ended, was revoked, has expired, or has a new credential")


def lock_lost() -> LockLost:
    """Return the error for a save under a lock that is held no longer."""
    return LockLost(
        "the lock ended or passed to another holder before this was saved, so nothing was written. Keep "
        "blocks under the lock short, do not block the event loop, and make lease and max_hold long enough"
    )


NO_CHANGES: Final[Changes] = {}  # shared: nobody changes it

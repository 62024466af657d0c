"""How long one session lasts, where that is not what the manager's options say.

Idle timeout and deadline are in every record's header, so they are simply written there. Whether the
cookie outlives the browser has a part of its own, which most records don't have: one byte, 1 or 0. What
a later version adds behind it is kept.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

from asgi_session._data.record import LIFETIME, MAX_TIME, Record
from asgi_session._options import as_seconds

_NOT_KNOWN: Final = b"\0"
_LONGEST: Final = 100 * 366 * 86400


class Lifetime(msgspec.Struct, frozen=True, gc=False):
    """What is to change of a session's lifetime; None: stays as it is.

    Attributes:
        idle: idle timeout, ms.
        deadline: ms since the Unix epoch.
        persistent: whether the cookie outlives the browser.
    """

    idle: int | None = None
    deadline: int | None = None
    persistent: bool | None = None

    @property
    def shows_in_cookie(self) -> bool:
        """Whether the client's cookie must be another one than before."""
        return self.deadline is not None or self.persistent is not None

    def then(self, later: Lifetime | None) -> Lifetime:
        """Return both as one; where both say something, the later counts."""
        if later is None:
            return self
        return Lifetime(
            self.idle if later.idle is None else later.idle,
            self.deadline if later.deadline is None else later.deadline,
            self.persistent if later.persistent is None else later.persistent,
        )

    def differing(self, record: Record) -> Lifetime | None:
        """Return what of it `record` does not have already; None if it has all."""
        idle = None if self.idle == record.idle else self.idle
        deadline = None if self.deadline == record.deadline else self.deadline
        persistent = None if self.persistent == is_persistent(record) else self.persistent
        if idle is None and deadline is None and persistent is None:
            return None
        return Lifetime(idle, deadline, persistent)

    def of(self, record: Record) -> Record:
        """Return `record` with this lifetime; the same object if it has it already."""
        change = self.differing(record)
        if change is None:
            return record
        parts = record.parts
        if change.persistent is not None:
            rest = parts.get(LIFETIME, _NOT_KNOWN)[1:]
            parts = {**parts, LIFETIME: bytes((change.persistent,)) + rest}
        return replace(
            record,
            idle=record.idle if change.idle is None else change.idle,
            deadline=record.deadline if change.deadline is None else change.deadline,
            parts=parts,
        )


def is_persistent(record: Record) -> bool | None:
    """Tell whether the session's cookie outlives the browser; None: as the middleware's option says."""
    part = record.parts.get(LIFETIME)
    return {0: False, 1: True}.get(part[0]) if part else None


def asked(
    now: int,
    idle: float | timedelta | None,
    absolute: float | timedelta | datetime | None,
    persistent: bool | None,
) -> Lifetime:
    """Return what `Session.set_lifetime` was given, checked; `now` in ms.

    Raises:
        ValueError: nothing was given, or what makes no sense.
    """
    if idle is None and absolute is None and persistent is None:
        raise ValueError("set_lifetime() changes nothing: give idle=, absolute= or persistent=")
    if persistent is not None and not isinstance(persistent, bool):
        raise ValueError(f"set_lifetime(persistent={persistent!r}): give True or False")
    idle_ms = None if idle is None else _milliseconds("idle", idle)
    if absolute is None:
        return Lifetime(idle_ms, None, persistent)
    if isinstance(absolute, datetime):
        return Lifetime(idle_ms, _deadline(absolute, now), persistent)
    length = _milliseconds("absolute", absolute)
    if idle_ms is not None and idle_ms > length:
        # Not with a datetime: the end that an identity provider names may be nearer.
        raise ValueError(
            f"set_lifetime(idle={idle!r}, absolute={absolute!r}): idle is longer than absolute, so the "
            "session could never expire by being idle. Lower idle or raise absolute"
        )
    return Lifetime(idle_ms, min(now + length, MAX_TIME), persistent)


def _milliseconds(name: str, value: float | timedelta) -> int:
    number = as_seconds(value)
    if number is None or not 0.001 <= number <= _LONGEST:  # nor is NaN
        kinds = "a timedelta, seconds or a datetime" if name == "absolute" else "a timedelta or seconds"
        raise ValueError(
            f"set_lifetime({name}={value!r}): give {kinds}, of at least 1 ms and at most 100 years"
        )
    return round(number * 1000)


def _deadline(end: datetime, now: int) -> int:
    if end.utcoffset() is None:
        raise ValueError(
            f"set_lifetime(absolute={end!r}): a datetime without a time zone could mean several times. "
            "Give one with tzinfo, such as datetime.fromtimestamp(seconds, UTC)"
        )
    deadline = int(end.timestamp() * 1000)
    if deadline <= now:
        raise ValueError(
            f"set_lifetime(absolute={end!r}): this has passed. To end the session call destroy()"
        )
    return min(deadline, MAX_TIME)

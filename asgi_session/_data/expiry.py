"""When a session expires, and when a touch is due. All times in whole milliseconds."""

from __future__ import annotations

from typing import Final

ENDED_FOR: Final = 60_000
"""How long an ended record stays, and a retired token is known as one."""

TOUCH_FRACTION: Final = 0.05
"""Of the idle timeout: what a touch must gain, unless the store asks for fewer touches."""


def expires_at(now: int, idle: int, deadline: int) -> int:
    """Return when a session used `now` expires: after its idle timeout, at latest at its deadline."""
    expiry = now + idle
    return expiry if expiry < deadline else deadline  # min() takes three times as long


def expires_unused(stored: int, now: int, idle: int, deadline: int, was_deadline: int) -> int:
    """Return when a session expires whose lifetime was changed by what is no use of it.

    What is shorter counts from now on; what is longer counts from the next use on. But a deadline that
    was put off lets go of an expiry that it alone had cut short: when the session was last used can then
    no longer be told, and is taken to be now.
    """
    expiry = expires_at(now, idle, deadline)
    return expiry if stored >= was_deadline < deadline or expiry < stored else stored


def touch_due(stored: int, now: int, idle: int, deadline: int, fraction: float) -> int | None:
    """Return the expiry that a touch should store, or None while the `stored` one is near enough.

    Near enough is within a fraction of the idle timeout, say 5 %: then idle expiry may come up to 5 %
    early, and a session that is used all the time is touched at most once per 5 %.
    """
    right = now + idle
    if right > deadline:
        right = deadline
    return right if right - stored > idle * fraction else None


# What a save says about the use of a session; of several in one save the least counts.
USED: Final = 0
UNCONFIRMED: Final = 1
"""Used, by a request whose cookie has not come back yet."""
NOT_USED: Final = 2
"""Worked on from outside a request, which is no use by its client."""

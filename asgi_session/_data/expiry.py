"""When a session expires, and when a touch is due. All times in whole milliseconds."""

from __future__ import annotations

from typing import Final

ENDED_FOR: Final = 60_000
"""How long an ended record stays, and a retired token is known as one."""

_TOUCH_FRACTION: Final = 20  # 5 %


def expires_at(now: int, idle: int, deadline: int) -> int:
    """Return when a session used `now` expires: after its idle timeout, at latest at its deadline."""
    expiry = now + idle
    return expiry if expiry < deadline else deadline  # min() takes three times as long


def touch_due(stored: int, now: int, idle: int, deadline: int) -> int | None:
    """Return the expiry that a touch should store, or None while the `stored` one is near enough.

    Near enough is within 5 % of the idle timeout: idle expiry may so come up to 5 % early, and a
    session that is used all the time is touched at most once per 5 %.
    """
    right = now + idle
    if right > deadline:
        right = deadline
    return right if (right - stored) * _TOUCH_FRACTION > idle else None


# What a save says about the use of a session; of several in one save the least counts.
USED: Final = 0
UNCONFIRMED: Final = 1
"""Used, by a request whose cookie has not come back yet."""
NOT_USED: Final = 2
"""Worked on from outside a request, which is no use by its client."""

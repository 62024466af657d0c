"""A clock that stands still until told."""

from __future__ import annotations

from datetime import timedelta

from asgi_session.clock import system_clock


class ManualClock:
    """A `Clock` for tests: ``MemoryStore(clock=clock)``, then ``clock.advance(timedelta(hours=1))``.

    Args:
        start_ms: the first time it tells, in milliseconds since the Unix epoch. By default the present,
            so that records written by it are not already expired for a server that has its own clock.

    """

    def __init__(self, start_ms: int | None = None) -> None:
        self.ms: int = system_clock() if start_ms is None else start_ms

    def __call__(self) -> int:
        """Return the time in milliseconds."""
        return self.ms

    def __repr__(self) -> str:
        return f"ManualClock({self.ms})"

    def advance(self, by: timedelta | float) -> int:
        """Move by a `timedelta` or by seconds, rounded to milliseconds; return the new time.

        A negative step is allowed: machines' clocks make them, too.
        """
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        self.ms += round(step / timedelta(milliseconds=1))
        return self.ms

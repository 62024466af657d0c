"""Whether a server answers: a circuit breaker per server and event loop.

While a server fails, every request still tries until its own deadline: that is what rides out a
failover. A server that has failed for longer than any request waits is *lost*. From then on new requests
to it fail at once, but for one at a time, the probe, which tries as before. Any answer brings the server
back.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from asgi_session.stores._shared.connection import Failure
from asgi_session.stores._shared.reporting import Reporter

_DEFAULT: Final = 5.0
_LEAST: Final = 1.0
_MOST: Final = 3600.0
"""Bounds in seconds of what counts as a whole deadline; the first while none has been seen."""


class Health:
    """What is known of one server.

    Args:
        where: names the server.
        reporter: is told when it is lost, and when it is back.

    Attributes:
        since: since when every try has failed, as `time.monotonic`; None: the last one has not.
        probe: the request that tries while the server is lost.
    """

    __slots__ = ("_failed", "_last", "_longest", "_lost", "_reporter", "_where", "probe", "since")

    def __init__(self, where: str, reporter: Reporter) -> None:
        self._where = where
        self._reporter = reporter
        self.since: float | None = None
        self.probe: object | None = None
        self._last = 0.0
        self._lost: float | None = None
        self._failed = 0
        self._longest = 0.0

    @property
    def _patience(self) -> float:
        return min(max(self._longest, _LEAST), _MOST) if self._longest else _DEFAULT

    def expect(self, seconds: float) -> None:
        """Take notice of the time that a request has."""
        if seconds > self._longest:
            self._longest = seconds

    def failing(self, why: str) -> None:
        """Take notice of a try that has failed."""
        now = monotonic()
        # After a long silence nobody can tell for how long it has been so.
        if self.since is None or (self._lost is None and now - self._last > 2 * self._patience):
            self.since, self._failed = now, 0
        self._last = now
        if self._lost is None and now - self.since >= self._patience:
            self._lost = now
            self._reporter.lost(self._where, now - self.since, why)

    def answered(self) -> None:
        """Take notice of an answer."""
        if self.since is None:
            return
        if self._lost is not None:
            self._reporter.back(self._where, monotonic() - self.since, self._failed)
        self.since = self._lost = None

    def count(self) -> None:
        """Count a request that has failed for good."""
        self._failed += 1

    def refuses(self, request: object, began: float) -> Failure | None:
        """Return why a request that began at `began` must not try; without one it is the probe, perhaps."""
        if self._lost is None or began <= self._lost:
            return None
        if self.probe is None:
            self.probe = request
        if self.probe is request:
            return None
        assert self.since is not None, "it is lost"
        why = f"{self._where} has not answered for {monotonic() - self.since:.0f} s"
        return Failure(f"{why}, so only one request at a time tries", False, final=True)

    def close(self, *, replaced: bool = False) -> None:
        """Forget the server; or it is `replaced`, so that what failed because of it works again."""
        if self._lost is not None and self.since is not None:
            if replaced:
                self._reporter.back(self._where, monotonic() - self.since, self._failed, replaced=True)
            else:
                self._reporter.forget(self._where)
        self.since = self._lost = None

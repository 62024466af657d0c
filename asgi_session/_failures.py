"""What a failure is to a client, and what the log says of it: a line for each, but two for an outage.

An outage begins with the first request that the store fails, or with a server that the store reports as
lost, whichever comes first; it ends with the report that the server is back, or, for a store that reports
nothing, with an answer after some seconds without a failure. What fails in between is counted.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Final

from asgi_session.errors import (
    LockLost,
    LockTimeout,
    SessionConflict,
    SessionGone,
    SessionSerializationError,
    SessionTooLarge,
    SignInRefused,
    StoreUnavailable,
)
from asgi_session.store import Back, Lost

logger: Final = logging.getLogger("asgi_session")

_CALM: Final = 5.0
"""Seconds without a failure after which an outage is over; less, and one of three shards would be many."""


def status_of(error: Exception) -> int:
    """Return the status of the response that tells a client about `error`."""
    if isinstance(error, (StoreUnavailable, LockTimeout)):
        return 503
    if isinstance(error, (SessionConflict, SessionGone, LockLost, SignInRefused)):
        return 409
    return 500


def close_code(error: Exception) -> int:
    """Return the code with which a WebSocket is closed because of `error` (RFC 6455 section 7.4.1)."""
    if isinstance(error, SessionGone):
        return 1008  # policy violation: who it was opened for is signed out
    return 1013 if status_of(error) == 503 else 1011  # try again later; internal error


class Failures:
    """The log of what the requests of one manager have failed with.

    Attributes:
        outage: whether the store has failed, and is not known to be back.
    """

    __slots__ = ("_last", "_lost", "_since", "_unlogged", "outage")

    def __init__(self) -> None:
        self.outage = False
        self._since = 0.0  # when the outage began, as `time.monotonic`
        self._last = 0.0
        self._unlogged = 0
        self._lost: set[str] = set()  # servers that the store has reported as lost

    def log(self, error: Exception, what: str = "session error") -> None:
        """Log why something failed; with a traceback only what the app's developer can mend there."""
        if isinstance(error, StoreUnavailable):
            self._log_outage(error, what)
        elif isinstance(error, (SessionTooLarge, SessionSerializationError)):  # a client may cause many
            logger.error("%s: %s: %s", what, type(error).__name__, error)
        elif status_of(error) == 500:
            logger.error("%s: %s", what, error, exc_info=error)
        else:
            logger.warning("%s: %s: %s", what, type(error).__name__, error)

    def _log_outage(self, error: StoreUnavailable, what: str) -> None:
        now = monotonic()
        if self.outage and not self._lost and now - self._last >= _CALM:
            self._end(self._last)
        self._last = now
        if self.outage:
            self._unlogged += 1
        else:
            self.outage, self._since = True, now
            logger.warning(
                "%s: the session store failed: %s. Further failures are counted, not logged", what, error
            )

    def lost(self, report: Lost) -> None:
        """Take notice of a server that the store has lost."""
        if not self.outage or self._lost:  # else a request's failure has begun this outage
            logger.error(
                "the session store's server %s is lost: %s. Requests that need it fail at once, but for "
                "one at a time that goes on trying",
                report.server,
                report.error,
            )
        if not self.outage:
            self.outage, self._since, self._last = True, monotonic(), monotonic()
        self._lost.add(report.server)

    def back(self, report: Back) -> None:
        """Take notice of a server that answers again, or whose records another one has."""
        self._lost.discard(report.server)
        logger.warning(
            "the session store's server %s is back after %.0f s. %d requests have failed",
            report.server,
            report.seconds,
            report.failed,
        )
        if not self._lost:
            self.outage, self._unlogged = False, 0

    def succeeded(self) -> None:
        """Take notice that the store has answered."""
        if not self._lost and monotonic() - self._last >= _CALM:
            self._end(monotonic())

    def _end(self, now: float) -> None:
        logger.warning(
            "the session store is back. It failed %d requests in %.0f s",
            self._unlogged + 1,
            now - self._since,
        )
        self.outage, self._unlogged = False, 0

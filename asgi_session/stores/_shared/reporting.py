"""Who is told when a server is lost or back: whoever has asked (`Reports`); if nobody has, the log.

One for a store, whichever event loops and threads use it: several that lose one server are one outage.
Nothing here takes a lock, since single operations on a dict are atomic, and a fork could inherit one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from asgi_session.store import Back, Lost, Reconnected, Report

_log = logging.getLogger("asgi_session")


class Reporter:
    """Passes reports on."""

    __slots__ = ("_lost", "_tell")

    def __init__(self) -> None:
        self._lost: dict[str, object] = {}
        self._tell: dict[object, Callable[[Report], None]] = {}

    def report_to(self, tell: Callable[[Report], None]) -> Callable[[], None]:
        """Call `tell` with every report, until the function that is returned is called."""
        mark = object()
        self._tell[mark] = tell

        def end() -> None:
            self._tell.pop(mark, None)

        return end

    def lost(self, server: str, seconds: float, why: str) -> None:
        """Report a server that has failed for that long."""
        mark = object()
        if self._lost.setdefault(server, mark) is mark:
            if not self._tell:
                _log.error(
                    "the session store's server %s is lost: no answer for %.0f s (%s). New requests that "
                    "need it fail at once, while one at a time goes on trying",
                    server,
                    seconds,
                    why,
                )
            self._report(Lost(server, f"no answer for {seconds:.0f} s ({why})"))

    def back(self, server: str, seconds: float, failed: int, *, replaced: bool = False) -> None:
        """Report a server that answers again, or whose sessions another one has taken over."""
        if self._lost.pop(server, None) is not None:
            if not self._tell:
                _log.warning(
                    "the session store's server %s %s after %.0f s; %d requests have failed",
                    server,
                    "has been replaced" if replaced else "is back",
                    seconds,
                    failed,
                )
            self._report(Back(server, seconds, failed))

    def reconnected(self, server: str) -> None:
        """Report a connection that takes the place of one that was lost."""
        self._report(Reconnected(server))

    def forget(self, server: str) -> None:
        """Forget a server that is no longer used."""
        self._lost.pop(server, None)

    def _report(self, report: Report) -> None:
        for tell in list(self._tell.values()):
            try:
                tell(report)
            except Exception:
                _log.exception("a function that was to be told of %r has failed", report)

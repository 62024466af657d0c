"""A warning when this machine's clock and a server's differ."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from time import monotonic, time
from typing import Any, Final
from weakref import ref

import hiredis

from asgi_session.stores.redis.connection import Connection

_log = logging.getLogger("asgi_session")

_TIME: Final = b"*1\r\n$4\r\nTIME\r\n"

_AGAIN: Final = 3600.0
"""Seconds between two comparisons on one connection, and between two warnings of a store."""

_BEARABLE: Final = 1.0
"""Seconds; what NTP keeps with ease."""


class ClockCheck:
    """Compares on each new connection, and once an hour. Nobody waits for it."""

    __slots__ = ("_forbidden", "_warned")

    def __init__(self) -> None:
        self._forbidden = False
        self._warned = -inf

    def start(self, connection: Connection) -> None:
        """Ask a server for its time now, and again from time to time while the connection lasts."""
        if self._forbidden or connection.closed:
            return
        asked = time()

        def read(future: asyncio.Future[Any]) -> None:
            reply = None if future.cancelled() else future.result()
            if isinstance(reply, hiredis.ReplyError):
                self._forbidden = True
            else:
                self._compare(reply, asked, time(), connection.where)

        connection.request(_TIME, monotonic() + 5.0).add_done_callback(read)
        kept = ref(connection)  # or the timer would keep it for an hour after its end

        def again() -> None:
            same = kept()
            if same is not None:
                self.start(same)

        asyncio.get_running_loop().call_later(_AGAIN, again)

    def _compare(self, reply: Any, asked: float, answered: float, where: str) -> None:
        match reply:
            case [bytes() as seconds, bytes() as micros] if seconds.isdigit() and micros.isdigit():
                pass
            case _:
                return
        theirs = int(seconds) + int(micros) / 1e6
        ahead = (asked + answered) / 2 - theirs
        if abs(ahead) - (answered - asked) / 2 <= _BEARABLE or monotonic() - self._warned < _AGAIN:
            return
        self._warned = monotonic()
        _log.warning(
            "this machine's clock is %.1f s %s that of %s: let NTP (chrony, systemd-timesyncd) set both. "
            "Sessions expire by these clocks, locks bear 30 s between two app servers, and a "
            "rotate(grace=...) shorter than the difference has no effect",
            abs(ahead),
            "ahead of" if ahead > 0 else "behind",
            where,
        )

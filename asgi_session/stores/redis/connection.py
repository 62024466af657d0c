"""The multiplexed connection of Redis: RESP3, read by hiredis, with its pushes.

A reply is whatever hiredis makes of it, a `hiredis.ReplyError` included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

import hiredis

from asgi_session.stores._shared.connection import Multiplexed
from asgi_session.stores.redis.commands import Abilities

_FEED: Final = 16 * 1024
"""Bytes given to the parser at a time. It moves what is left to the front after every few replies,
which is quadratic in what it was given."""

PING: Final = b"*1\r\n$4\r\nPING\r\n"
_NOTHING_YET: Final = object()
_Push: Final = hiredis.PushNotification


class Connection(Multiplexed):
    """A connection to a Redis server."""

    __slots__ = ("_gets", "_reader", "abilities", "on_push")

    probe: ClassVar[bytes] = PING

    def __init__(self, where: str, timeout: float, on_close: Callable[[Connection], None]) -> None:
        super().__init__(where, timeout, on_close)
        self.abilities = Abilities()
        self.on_push: Callable[[list[Any]], None] | None = None
        """Called with every push. On a connection that has it an ordinary array is one, too: fakeredis
        has no others. It must not raise."""
        self._reader = hiredis.Reader(notEnoughData=_NOTHING_YET, errors="replace")
        self._gets = self._reader.gets

    def data_received(self, data: bytes) -> None:
        """Match the replies in `data` to the requests that wait for them.

        Written out here, without a call per reply: this is the hottest loop of the library.
        """
        self._heard = True
        pending, gets, in_flight, on_push = self._pending, self._gets, self._in_flight, self.on_push
        try:
            for start in range(0, len(data), _FEED):
                self._reader.feed(data, start, min(_FEED, len(data) - start))
                while (reply := gets()) is not _NOTHING_YET:
                    if type(reply) is _Push or (on_push is not None and type(reply) is list):
                        if on_push is not None:
                            on_push(reply)
                        continue
                    entry = pending.popleft()
                    in_flight -= len(entry[2])
                    future = entry[0]
                    if not future.done():
                        future.set_result(reply)
        except (hiredis.HiredisError, IndexError):
            # Not RESP, or a reply to nothing.
            self.out_of_step()
            return
        self._in_flight = in_flight
        if self._queue and not self._flush_due:
            self.flush_soon()

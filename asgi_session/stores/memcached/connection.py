"""The multiplexed connection of Memcached."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import ClassVar, Final

from asgi_session.stores._shared.connection import Multiplexed
from asgi_session.stores.memcached.protocol import NOOP, Garbled, Reader

_numbers: Final = count(1)

_ITEM_SIZE: Final = 1024 * 1024
_OVERHEAD: Final = 80
"""What the server needs for a value beside the value and its name, and a little more."""


class Connection(Multiplexed):
    """A connection to a Memcached server. A reply is a `Reply`.

    Attributes:
        number: its own in this process. A server that has restarted counts its tokens from 1 again, so a
            token means something on the connection only on which it was learned.
        evicts: whether it makes room by throwing items away.
    """

    __slots__ = ("_read", "_reader", "evicts", "number")

    probe: ClassVar[bytes] = NOOP

    def __init__(self, where: str, timeout: float, on_close: Callable[[Connection], None]) -> None:
        super().__init__(where, timeout, on_close)
        self.number = next(_numbers)
        self.evicts = False
        self._reader = Reader(_ITEM_SIZE)
        self._read = self._reader.read

    def data_received(self, data: bytes) -> None:
        """Match the replies in `data` to the requests that wait for them."""
        self._heard = True
        try:
            for reply in self._read(data):
                self.answer(reply)
        except (Garbled, IndexError):
            # Not Memcached, or a reply to nothing.
            self.out_of_step()
            return
        if self._queue:
            self.flush_soon()

    @property
    def item_size(self) -> int:
        """The largest item that the server takes, in bytes."""
        return self._reader.largest

    @item_size.setter
    def item_size(self, size: int) -> None:
        self._reader.largest = size

    @property
    def largest(self) -> int:
        """The most bytes that a value and its name may have together."""
        return self.item_size - _OVERHEAD

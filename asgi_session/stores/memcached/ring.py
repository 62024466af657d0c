"""Which of several servers a key belongs to. No I/O.

Every server has points on a ring of 2**32 places, and a key belongs to the next point. So a server that
comes or goes moves its own share of the keys and no others. Where the points lie follows from the
servers' names alone: it is the same in every process, for every order of the names, on every version of
Python.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Generic, TypeVar
from zlib import crc32

T = TypeVar("T")

_DIGESTS: Final = 40
_PER_DIGEST: Final = 8
"""320 points for each server: the shares of three differ by a few percent."""


class Ring(Generic[T]):
    """Servers, by name.

    Args:
        servers: names and what they stand for; at least one.
    """

    __slots__ = ("_owners", "_points")

    def __init__(self, servers: Sequence[tuple[str, T]]) -> None:
        placed = sorted(
            (point, name, index) for index, (name, _) in enumerate(servers) for point in _points(name)
        )
        self._points = [point for point, _, _ in placed]
        self._owners = [servers[index][1] for _, _, index in placed]

    def owner(self, key: str) -> T:
        """Return what the key belongs to."""
        # Keys are random, or digests: CRC-32 spreads them evenly enough, and is the fastest there is.
        place = bisect_left(self._points, crc32(key.encode()))
        return self._owners[place if place < len(self._points) else 0]


def _points(name: str) -> list[int]:
    found: list[int] = []
    for number in range(_DIGESTS):
        digest = sha256(f"{name}-{number}".encode()).digest()
        found += [int.from_bytes(digest[4 * at : 4 * at + 4], "big") for at in range(_PER_DIGEST)]
    return found

"""Memcached's text protocol with its meta commands: requests to bytes, bytes to replies. No I/O."""

from __future__ import annotations

from typing import Final, NamedTuple

VERSION: Final = b"version\r\n"
SETTINGS: Final = b"stats settings\r\n"
NOOP: Final = b"mn\r\n"

_DAY: Final = 86_400
_LONGEST_RELATIVE: Final = 30 * _DAY
_FOR_EVER: Final = 0
_AT_ONCE: Final = -1
_LAST_INSTANT: Final = 2**31 - 1

_LONGEST_LINE: Final = 8192
_DIGITS: Final = 10

FOUND: Final = frozenset({b"VA", b"EN"})
"""What a request for a value may be answered: it, or that there is none."""

DONE: Final = frozenset({b"HD", b"NS", b"EX", b"NF"})
"""What a write may be answered: that it was done, or which condition was not met."""


class Reply(NamedTuple):
    """A reply: its first line as words, the data block, and for statistics all of them."""

    words: list[bytes]
    value: bytes | None = None
    stats: dict[bytes, bytes] | None = None

    @property
    def text(self) -> str:
        """Return the line, for people."""
        return b" ".join(self.words).decode("ascii", "replace")

    @property
    def token(self) -> bytes:
        """Return the CAS token; empty where there is none."""
        for word in reversed(self.words):
            if word[:1] == b"c":
                return word[1:]
        return b""

    @property
    def is_error(self) -> bool:
        """Whether the server has refused, or failed."""
        return self.words[0] in (b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")

    @property
    def is_garbled(self) -> bool:
        """Whether the server has not understood: what followed may have been taken for a command."""
        return self.words[0] in (b"ERROR", b"CLIENT_ERROR")

    @property
    def is_full(self) -> bool:
        """Whether there was no room for what was to be written."""
        return self.words[0] == b"SERVER_ERROR" and (b"memory" in self.words or b"large" in self.words)


class Garbled(Exception):
    """What came is not Memcached's protocol."""


class Reader:
    """Cuts what comes into replies, in whatever pieces it comes.

    Attributes:
        largest: the most bytes that a value can have: to wait for more would be to wait for ever.
    """

    __slots__ = ("_enough", "_have", "_parts", "_stats", "largest")

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self._parts: list[bytes] = []  # joined once there is enough: a big value comes in many pieces
        self._have = 0
        self._enough = 0
        self._stats: dict[bytes, bytes] = {}

    def read(self, data: bytes) -> list[Reply]:
        """Return the replies that are complete now.

        Raises:
            Garbled: it is none.
        """
        self._parts.append(data)
        self._have += len(data)
        if self._have < self._enough:
            return []
        buffer = b"".join(self._parts) if len(self._parts) > 1 else self._parts[0]
        replies: list[Reply] = []
        at, self._enough = 0, 0
        while True:
            end = buffer.find(b"\r\n", at)
            if end < 0:
                if len(buffer) - at > _LONGEST_LINE:
                    raise Garbled
                break
            words = buffer[at:end].split()
            end += 2
            if not words:
                raise Garbled
            if words[0] == b"VA":
                begin, end = end, end + self._size(words) + 2
                if end > len(buffer):
                    self._enough = end - at
                    break
                if buffer[end - 2 : end] != b"\r\n":
                    raise Garbled
                replies.append(Reply(words, buffer[begin : end - 2]))
            elif words[0] == b"STAT":
                self._stats[words[1] if len(words) > 1 else b""] = b" ".join(words[2:])
            elif words[0] == b"END":
                replies.append(Reply(words, None, self._stats))
                self._stats = {}
            else:
                replies.append(Reply(words))
            at = end
        self._parts = [buffer[at:]]
        self._have = len(buffer) - at
        return replies

    def _size(self, words: list[bytes]) -> int:
        if len(words) < 2 or not words[1].isdigit() or len(words[1]) > _DIGITS:
            raise Garbled
        size = int(words[1])
        if size > self.largest:
            raise Garbled
        return size


def get(name: bytes) -> bytes:
    """Return the request for a value and its token."""
    return b"mg %b v c\r\n" % name


def insert(name: bytes, value: bytes, expires_at: int, now: int) -> bytes:
    """Return the request that writes a value where there is none; the new token is answered."""
    return b"ms %b %d c ME T%d\r\n%b\r\n" % (name, len(value), lifetime(expires_at, now), value)


def replace(name: bytes, value: bytes, expires_at: int, now: int, token: bytes) -> bytes:
    """Return the request that replaces the value of that token; the new one is answered."""
    return b"ms %b %d c C%b T%d\r\n%b\r\n" % (name, len(value), token, lifetime(expires_at, now), value)


def remove(name: bytes, token: bytes) -> bytes:
    """Return the request that removes the value of that token."""
    return b"md %b C%b\r\n" % (name, token)


def login(user: str, password: str) -> bytes:
    """Return the request that logs in where the server has a file of passwords (`-Y`)."""
    words = f"{user} {password}".encode()
    return b"set auth 0 0 %d\r\n%b\r\n" % (len(words), words)


def lifetime(expires_at: int, now: int) -> int:
    """Return what the server is told of an expiry, so that it never drops a record too early.

    The record holds its own expiry, which decides; the server only frees the memory. It counts whole
    seconds and takes up to 30 days as relative to now, which does not depend on its clock. What is longer
    it takes as an instant, by its clock, which may be wrong: so a day more. Instants from 2038 on it
    would take for the past: those values never expire in the server.
    """
    left = -(-(expires_at - now) // 1000)
    if left <= 0:
        return _AT_ONCE
    if left < _LONGEST_RELATIVE:
        return left + 1
    instant = expires_at // 1000 + _DAY
    return instant if instant <= _LAST_INSTANT else _FOR_EVER

"""Markers: what `MovingStore` writes in place of a record, so that a move is safe wherever it stops.

A marker is a record like any other, as far as the two stores are concerned: 16 bytes that never repeat,
then `_MAGIC`, which no session's record begins with, then what kind it is.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Final, NamedTuple

from asgi_session.store import TAG_SIZE, Stored

_MAGIC: Final = b"\xc1asgi-session: moving\r\n\x00"
"""0xC1 is the one byte that msgpack never writes."""

_KIND: Final = TAG_SIZE + len(_MAGIC)
_EXPIRY: Final = Struct(">q")
_LAST: Final = 2**63 - 1

_PLACE, _TRANSIT, _FORWARD = b"P", b"T", b"F"


class Place(NamedTuple):
    """In the new store: the place that is kept for a record which is about to come.

    The record comes by a save that expects this very marker. A save never creates, so a process that was
    held up, and brings a record when it has come already and ended since, brings nothing back.
    """

    id: bytes


class Transit(NamedTuple):
    """In the old store: the record that is on its way, and to which place. Nobody can write to it here."""

    place: bytes
    expires_at: int
    data: bytes


class Forward(NamedTuple):
    """In the old store: the record, if there is one, is in the new store, and nobody creates one here."""


def read(stored: Stored | None) -> Place | Transit | Forward | None:
    """Return what a marker says; None for a record, or for nothing."""
    if stored is None:
        return None
    data = stored.data
    if data[TAG_SIZE:_KIND] != _MAGIC:
        return None
    kind, rest = data[_KIND : _KIND + 1], data[_KIND + 1 :]
    if kind == _PLACE:
        return Place(data[:TAG_SIZE])
    if kind == _TRANSIT:
        begin = TAG_SIZE + _EXPIRY.size
        (expires_at,) = _EXPIRY.unpack(rest[TAG_SIZE:begin])
        return Transit(rest[:TAG_SIZE], expires_at, rest[begin:])
    return Forward()


def place() -> bytes:
    """Return the data of a new `Place`."""
    return _marker(_PLACE)


def transit(place: bytes, stored: Stored) -> bytes:
    """Return the data of a `Transit` of a record to a place."""
    expiry = _EXPIRY.pack(max(0, min(stored.expires_at, _LAST)))
    return _marker(_TRANSIT, place + expiry + stored.data)


def forward() -> bytes:
    """Return the data of a new `Forward`."""
    return _marker(_FORWARD)


def _marker(kind: bytes, rest: bytes = b"") -> bytes:
    return os.urandom(TAG_SIZE) + _MAGIC + kind + rest

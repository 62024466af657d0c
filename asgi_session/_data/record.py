"""The record: the bytes that a store keeps for one session.

Format 1, all numbers big-endian::

    offset  bytes
    0       8     version: 1 when created, +1 with every save             } the tag
    8       8     nonce: random, new with every save                      }
    16      1     format: 1
    17      8     epoch: counter (4), salt (4, random): the identity of the data
    25      6     created, ms since the Unix epoch; of this identity
    31      6     idle timeout, ms
    37      6     absolute deadline, ms since the Unix epoch
    43      16    digest of (namespace, selector, verifier); zeros: nobody's
    59      4     check: hash of the key, which is derived from (namespace, selector)
    63      1     n, the length of the ring: 0 to 7
    64      4n    ring: the first 4 bytes of the nonces of the n versions before, newest first
    64+4n   1     m, how many optional parts follow
            ...   parts: type (1), length (2), that many bytes
            ...   msgpack map: key (str) to the encoded value (bin)

An ordinary session's header has 93 bytes with a full ring. Optional parts of a type that this
version does not know are kept byte for byte.

====  ===========  =================================================================
part  name         bytes
====  ===========  =================================================================
2     MOVED        until when in ms (6) a wrong verifier is taken for one that was
                   rotated away or ended, and gets a detached session
3     LOCK         who holds the session's lock and who waits for it, see `lease`
4     PRINCIPAL    who is signed in, see `identity`
5     LIFETIME     whether the cookie outlives the browser (1), see `lifetime`
6     ROTATION     flags (1): 1 the digest was seen, 2 and 4 the digests below are
                   there; when it was issued in ms (6); the grace, or once it was
                   seen until when those are good, in ms (6); the previous digest
                   (16); one that was never seen (16); the first 4 bytes of up to
                   4 retired ones; see `rotation`
7     DESCRIPTION  of the client that signed in, as the app describes it, UTF-8
8     INDEXED      the further indexes that the session is in: of each 4 bytes that tell
                   the session's key, and 16 that name the index
====  ===========  =================================================================

A record of another *kind* than a session's has a digest that no token has, see `INDEX`
and `CLAIM`.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from asgi_session.errors import SessionCorrupt
from asgi_session.store import Stored

FORMAT: Final = 1
SEALED: Final = 0x80 | FORMAT
"""The format of a record that is sealed; see `sealing`."""
NOBODY: Final = bytes(16)
"""The digest of a record that no token opens: an ended session."""
INDEX: Final = b"an index".ljust(16)
"""The digest of a record that is no session's, but an index of a user's sessions; no token opens it."""
CLAIM: Final = b"a claim".ljust(16)
"""The digest of a record that settles where an old cookie goes on, see `claim`; no token opens it."""
RING_LENGTH: Final = 7

MAX_TIME: Final = 253_402_300_799_999
"""The last millisecond that a datetime can hold, at the end of the year 9999."""
_MAX_VERSION: Final = (1 << 63) - 1

MOVED: Final = 2
LOCK: Final = 3
PRINCIPAL: Final = 4
LIFETIME: Final = 5
ROTATION: Final = 6
DESCRIPTION: Final = 7
INDEXED: Final = 8

_HEADER: Final = struct.Struct(">Q8sB8sHIHIHI16s4sB")
# Not msgpack, as for the values: it takes twice as long for these, and does not look at their types.
_pack: Final[Callable[[dict[str, bytes]], bytes]] = msgspec.msgpack.Encoder().encode
_unpack: Final[Callable[[bytes], dict[str, bytes]]] = msgspec.msgpack.Decoder(dict[str, bytes]).decode
_U48: Final = struct.Struct(">HI")
_FIRST_EPOCH: Final = (1).to_bytes(4, "big")
_NO_PARTS: Final[dict[int, bytes]] = {}


class Record(msgspec.Struct, frozen=True, gc=False):
    """One version of a session's stored state. Treat the dicts in it as immutable."""

    version: int
    nonce: bytes
    epoch: bytes
    created: int
    idle: int
    deadline: int
    digest: bytes
    check: bytes
    ring: bytes
    parts: dict[int, bytes]
    entries: dict[str, bytes]

    @property
    def ended(self) -> bool:
        """Whether the session has ended, and the record stays only to tell so."""
        return self.digest == NOBODY

    @property
    def is_index(self) -> bool:
        """Whether it is no session's, but an index of sessions."""
        return self.digest == INDEX


class Version(msgspec.Struct, frozen=True, gc=False):
    """A version of a record as the store has it; it keeps the bytes, which the next save may have to show."""

    record: Record
    stored: Stored

    def expiring(self, expires_at: int) -> Version:
        """Return the same version as the store has it after a touch; ms."""
        return Version(self.record, replace(self.stored, expires_at=expires_at))

    def tagged(self, tag: bytes) -> Version:
        """Return the same version under the tag that the store has given it."""
        return self if tag == self.stored.tag else Version(self.record, replace(self.stored, tag=tag))


class Applied(enum.Enum):
    """What a later version of a record tells about an earlier write."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


def new_record(
    *,
    now: int,
    idle: int,
    absolute: int,
    digest: bytes,
    check: bytes,
    entries: dict[str, bytes],
    parts: dict[int, bytes] = _NO_PARTS,
) -> Record:
    """Return the first version of a new session's record; times in ms."""
    random = os.urandom(12)  # drawn at once: each draw costs as much as a digest
    return Record(
        version=1,
        nonce=random[:8],
        epoch=_FIRST_EPOCH + random[8:],
        created=now,
        idle=idle,
        deadline=now + absolute,
        digest=digest,
        check=check,
        ring=b"",
        parts=parts,
        entries=entries,
    )


def next_epoch(epoch: bytes) -> bytes:
    """Return the epoch after `epoch`: its counter and a new salt.

    The salt tells apart two endings that carry the same number because a failover lost one.
    """
    counter = int.from_bytes(epoch[:4], "big") + 1
    return (counter & 0xFFFFFFFF).to_bytes(4, "big") + os.urandom(4)


def next_version(record: Record, now: int, entries: dict[str, bytes] | None = None) -> Record:
    """Return `record` as the next save writes it: version, nonce and ring moved on, past parts gone.

    With `entries` those take the place of the record's.
    """
    parts = record.parts
    return Record(
        record.version + 1,
        # From the system each time, since two processes must never draw the same: a generator in this
        # one would go on alike in both copies of a fork, or of a memory snapshot that is restored twice.
        os.urandom(8),
        record.epoch,
        record.created,
        record.idle,
        record.deadline,
        record.digest,
        record.check,
        (record.nonce[:4] + record.ring)[: 4 * RING_LENGTH],
        {kind: part for kind, part in parts.items() if not _is_past(kind, part, now)} if parts else parts,
        record.entries if entries is None else entries,
    )


def was_applied(current: Record, version: int, nonce: bytes) -> Applied:
    """Tell from the `current` record whether the save that would have made `version` was applied."""
    behind = current.version - version
    if behind < 0:
        return Applied.NO
    if behind == 0:
        return Applied.YES if current.nonce == nonce else Applied.NO
    start = 4 * (behind - 1)
    entry = current.ring[start : start + 4]
    if len(entry) < 4:
        return Applied.UNKNOWN
    return Applied.YES if entry == nonce[:4] else Applied.NO


def until(time: int) -> bytes:
    """Return a part's 6 bytes for a time in ms."""
    return _U48.pack(time >> 32, time & 0xFFFFFFFF)


def moved_until(record: Record) -> int:
    """Return until when (ms) a wrong verifier gets a detached session; 0 if never."""
    part = record.parts.get(MOVED)
    return time_of(part) if part is not None else 0


def encode(record: Record) -> bytes:
    """Return the record's bytes."""
    created, idle, deadline, ring, parts = (
        record.created,
        record.idle,
        record.deadline,
        record.ring,
        record.parts,
    )
    header = _HEADER.pack(
        record.version,
        record.nonce,
        FORMAT,
        record.epoch,
        created >> 32,
        created & 0xFFFFFFFF,
        idle >> 32,
        idle & 0xFFFFFFFF,
        deadline >> 32,
        deadline & 0xFFFFFFFF,
        record.digest,
        record.check,
        len(ring) // 4,
    )
    body = _pack(record.entries)
    if not parts:
        return b"".join((header, ring, b"\0", body))
    encoded = b"".join(bytes((kind,)) + len(part).to_bytes(2, "big") + part for kind, part in parts.items())
    return b"".join((header, ring, bytes((len(parts),)), encoded, body))


def body_size(record: Record) -> int:
    """Return how many bytes of the record are the session's data."""
    return len(_pack(record.entries))


def parts_start(data: bytes) -> int:
    """Return where the header ends, and optional parts and data begin; IndexError if it is incomplete."""
    return 64 + 4 * data[63]


def check_in(data: bytes) -> bytes:
    """Return the check of a record that cannot be read otherwise; nothing if it is too short for one."""
    return data[59:63] if len(data) > 63 else b""


def decode(data: bytes) -> Record:
    """Read a record's bytes.

    Raises:
        SessionCorrupt: they are not a record, or one of a format that this version does not know.
    """
    if len(data) > 16 and data[16] != FORMAT:
        if data[16] == SEALED:
            raise SessionCorrupt(
                "the record is sealed, and this manager has no encryption_key: give it the key that the "
                "other managers of this store have",
                by_seal=True,
            )
        raise SessionCorrupt(
            f"the record has format {data[16]}, this version of asgi-session reads format {FORMAT}: it was "
            "written by a later version or by something else"
        )
    try:
        (
            version, nonce, _, epoch, created_high, created, idle_high, idle, deadline_high, deadline,
            digest, check, count,
        ) = _HEADER.unpack_from(data)  # fmt: skip
        end = 64 + 4 * count
        ring = data[64:end]
        parts, start = (_NO_PARTS, end + 1) if data[end] == 0 else _decode_parts(data, end)
        entries = _unpack(data[start:])
    except Exception as error:  # whatever struct or msgspec find wrong
        # Not the error's text: that of a UnicodeDecodeError is the session's content.
        raise SessionCorrupt(f"the record cannot be read ({type(error).__name__})") from error
    created |= created_high << 32
    deadline |= deadline_high << 32
    if count > RING_LENGTH:
        raise SessionCorrupt("the record cannot be read: it has not the form of format 1")
    if version > _MAX_VERSION or created > MAX_TIME or deadline > MAX_TIME:
        raise SessionCorrupt("the record cannot be read: a number in it is out of range")
    return Record(
        version,
        nonce,
        epoch,
        created,
        idle_high << 32 | idle,
        deadline,
        digest,
        check,
        ring,
        parts,
        entries,
    )


def _decode_parts(data: bytes, offset: int) -> tuple[dict[int, bytes], int]:
    parts: dict[int, bytes] = {}
    count = data[offset]
    offset += 1
    for _ in range(count):
        kind = data[offset]
        length = int.from_bytes(data[offset + 1 : offset + 3], "big")
        part = data[offset + 3 : offset + 3 + length]
        offset += 3 + length
        if len(part) != length or kind in parts or not _is_well_formed(kind, part):
            raise ValueError(f"optional part of type {kind} is malformed")
        parts[kind] = part
    return parts, offset


def _is_past(kind: int, part: bytes, now: int) -> bool:
    return kind == MOVED and time_of(part) <= now


def _is_well_formed(kind: int, part: bytes) -> bool:
    if kind == MOVED:
        return len(part) == 6
    if kind == ROTATION:
        ring = len(part) - 13 - 16 * (part[0] >> 1).bit_count() if part else -1
        return part[:1] < b"\x08" and ring in (0, 4, 8, 12, 16)
    return True


def time_of(raw: bytes) -> int:
    """Return the time in ms that a part's 6 bytes hold."""
    high, low = _U48.unpack(raw)
    return int(high << 32 | low)

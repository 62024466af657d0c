"""The record's bytes: layout, damage, and what the ring of nonces tells."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data.record import MOVED, PRINCIPAL, RING_LENGTH, ROTATION, Applied, Record
from asgi_session.errors import SessionCorrupt

NOW = 1_790_000_000_000
U48 = st.integers(0, 2**48 - 1)
TIME = st.integers(0, records.MAX_TIME)
_entries = st.dictionaries(st.text(max_size=8), st.binary(max_size=12), max_size=5)
_unknown = st.dictionaries(st.sampled_from([3, *range(9, 256)]), st.binary(max_size=30), max_size=3)


def raw(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@st.composite
def _parts(draw: st.DrawFn) -> dict[int, bytes]:
    parts = draw(_unknown)
    if draw(st.booleans()):
        flags = draw(st.integers(0, 7))
        digests = 16 * (flags >> 1).bit_count()
        parts[ROTATION] = bytes((flags,)) + draw(raw(12 + digests + 4 * draw(st.integers(0, 4))))
    if draw(st.booleans()):
        parts[MOVED] = draw(raw(6))
    if draw(st.booleans()):
        parts[PRINCIPAL] = draw(raw(30))
    return parts


any_record = st.builds(
    Record,
    version=st.integers(1, 2**62),
    nonce=raw(8),
    epoch=raw(8),
    created=TIME,
    idle=U48,
    deadline=TIME,
    digest=raw(16),
    check=raw(4),
    ring=st.integers(0, RING_LENGTH).flatmap(lambda length: raw(4 * length)),
    parts=_parts(),
    entries=_entries,
)


def fresh(entries: dict[str, bytes] | None = None) -> Record:
    return records.new_record(
        now=NOW, idle=1000, absolute=9000, digest=b"d" * 16, check=b"c" * 4, entries=entries or {}
    )


def versions(count: int) -> list[Record]:
    made = [fresh()]
    while len(made) < count:
        made.append(records.next_version(made[-1], NOW))
    return made


@given(any_record)
def test_round_trip(record: Record) -> None:
    """A record is read as it was written."""
    assert records.decode(records.encode(record)) == record


@given(any_record)
def test_the_layout_is_the_documented_one(record: Record) -> None:
    """Promise 10: every field stands at the offset that the module's text names."""
    data = records.encode(record)
    n = len(record.ring) // 4
    assert struct.unpack_from(">Q", data, 0) == (record.version,)
    assert data[8:16] == record.nonce
    assert data[16] == 1
    assert data[17:25] == record.epoch
    assert int.from_bytes(data[25:31], "big") == record.created
    assert int.from_bytes(data[31:37], "big") == record.idle
    assert int.from_bytes(data[37:43], "big") == record.deadline
    assert data[43:59] == record.digest
    assert data[59:63] == record.check
    assert data[63] == n
    assert data[64 : 64 + 4 * n] == record.ring
    offset = 64 + 4 * n
    assert data[offset] == len(record.parts)
    offset += 1
    for kind, part in record.parts.items():
        assert data[offset : offset + 3] == bytes((kind, 0, len(part)))
        assert data[offset + 3 : offset + 3 + len(part)] == part
        offset += 3 + len(part)
    assert data[offset:] == msgpack.packb(record.entries)


def test_the_header_is_small() -> None:
    """An ordinary session's header takes 93 bytes at most, and a new one's 65."""
    body = len(msgpack.packb({}))
    sizes = [len(records.encode(record)) - body for record in versions(20)]
    assert sizes[0] == 65
    assert sizes[7:] == [93] * 13
    assert max(sizes) <= 96


def test_a_new_record() -> None:
    """Version 1, epoch 1, nothing in the ring, and times that follow from the options."""
    record = fresh({"a": b"\x01"})
    assert (record.version, record.epoch[:4], record.ring, record.parts) == (1, b"\0\0\0\1", b"", {})
    assert (record.created, record.idle, record.deadline) == (NOW, 1000, NOW + 9000)
    assert fresh().nonce != record.nonce
    assert fresh().epoch != record.epoch


@given(any_record, U48)
def test_the_next_version_changes_only_the_tag(record: Record, now: int) -> None:
    """Version and nonce move on, the old nonce enters the ring, unknown parts stay byte for byte."""
    following = records.next_version(record, now)
    assert following.version == record.version + 1
    assert following.nonce != record.nonce
    assert following.ring == (record.nonce[:4] + record.ring)[:28]
    assert {kind: part for kind, part in following.parts.items() if kind != MOVED} == {
        kind: part for kind, part in record.parts.items() if kind != MOVED
    }
    kept = MOVED in record.parts and int.from_bytes(record.parts[MOVED], "big") > now
    assert (MOVED in following.parts) == kept
    same = ("epoch", "created", "idle", "deadline", "digest", "check", "entries")
    assert [getattr(following, name) for name in same] == [getattr(record, name) for name in same]


@given(any_record)
def test_unknown_parts_are_written_again(record: Record) -> None:
    """Promise 10: what a later version has added survives a save by this one."""
    again = records.decode(records.encode(records.next_version(records.decode(records.encode(record)), 0)))
    for kind, part in record.parts.items():
        if kind != MOVED:
            assert again.parts[kind] == part


@given(st.binary(min_size=8, max_size=8))
def test_the_next_epoch(epoch: bytes) -> None:
    """The counter goes up by one and wraps; the salt is new, so that two endings never look alike."""
    one, other = records.next_epoch(epoch), records.next_epoch(epoch)
    assert int.from_bytes(one[:4], "big") == (int.from_bytes(epoch[:4], "big") + 1) % 2**32
    assert one[:4] == other[:4]
    assert one != other
    assert len(one) == 8


@pytest.mark.parametrize("behind", range(12))
def test_was_applied(behind: int) -> None:
    """Promise 7: the last 8 versions tell whether a save was theirs; before that nobody can."""
    made = versions(15)
    current, mine = made[-1], made[-1 - behind]
    known = behind <= RING_LENGTH
    assert records.was_applied(current, mine.version, mine.nonce) is (
        Applied.YES if known else Applied.UNKNOWN
    )
    foreign = os.urandom(8)
    assert records.was_applied(current, mine.version, foreign) is (Applied.NO if known else Applied.UNKNOWN)


def test_was_applied_in_a_lineage_that_went_back() -> None:
    """Promise 7: after a failover that lost versions, a version number alone proves nothing."""
    made = versions(6)
    mine = made[-1]
    other = records.next_version(made[2], NOW)  # version 4 of another lineage
    assert records.was_applied(made[2], mine.version, mine.nonce) is Applied.NO
    assert records.was_applied(other, made[3].version, made[3].nonce) is Applied.NO
    for _ in range(4):
        other = records.next_version(other, NOW)
    assert other.version == 8
    assert records.was_applied(other, mine.version, mine.nonce) is Applied.NO
    assert records.was_applied(other, made[2].version, made[2].nonce) is Applied.YES


def test_was_applied_with_a_short_ring() -> None:
    """Promise 7: a version that the ring should know but does not is unknown, not refused."""
    current = replace(fresh(), version=5, ring=b"aaaa")
    assert records.was_applied(current, 4, b"aaaabbbb") is Applied.YES
    assert records.was_applied(current, 3, b"aaaabbbb") is Applied.UNKNOWN


@given(any_record, st.data())
def test_truncated_and_longer_records_are_corrupt(record: Record, data: st.DataObject) -> None:
    """Promise 10: cut off anywhere, or with bytes after it, a record is SessionCorrupt."""
    encoded = records.encode(record)
    for length in range(len(encoded)):
        with pytest.raises(SessionCorrupt):
            records.decode(encoded[:length])
    with pytest.raises(SessionCorrupt):
        records.decode(encoded + data.draw(st.binary(min_size=1, max_size=40)))


@given(any_record)
def test_flipped_bits_never_raise_anything_else(record: Record) -> None:
    """Promise 10: whichever bit is wrong, the record is read or SessionCorrupt."""
    encoded = bytearray(records.encode(record))
    for place in range(len(encoded)):
        bit = 1 << place % 8
        encoded[place] ^= bit
        try:
            records.decode(bytes(encoded))
        except SessionCorrupt:
            pass
        else:
            assert place != 16
        encoded[place] ^= bit


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: bytes(16) + b"\x01" + tail))
def test_any_bytes_are_a_record_or_corrupt(data: bytes) -> None:
    """Promise 10: nothing but SessionCorrupt comes of foreign bytes."""
    try:
        record = records.decode(data)
    except SessionCorrupt:
        return
    assert isinstance(record, Record)


@pytest.mark.parametrize("number", [0, 2, 255])
def test_another_format(number: int) -> None:
    """Promise 10: a record of a later format is SessionCorrupt and says which one it has."""
    data = bytearray(records.encode(fresh()))
    data[16] = number
    with pytest.raises(SessionCorrupt, match=f"format {number}, .* reads format 1"):
        records.decode(bytes(data))


def with_body(body: bytes, *, ring: int = 0, parts: bytes = b"\0") -> bytes:
    return records.encode(fresh())[:63] + bytes((ring,)) + bytes(4 * ring) + parts + body


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_body(b"\x90"), id="a list"),
        pytest.param(with_body(b"\xc0"), id="nothing"),
        pytest.param(with_body(b"\x81\x01\xc4\x00"), id="a number as key"),
        pytest.param(with_body(b"\x81\xc4\x01k\xc4\x00"), id="bytes as key"),
        pytest.param(with_body(b"\x81\xa1k\x01"), id="a value that is no bytes"),
        pytest.param(with_body(b"\x81\xa1k\xa1v"), id="text for bytes"),
        pytest.param(with_body(b"\x81\xa1\xff\xc4\x00"), id="a key that is no UTF-8"),
        pytest.param(with_body(b"\xdf\xff\xff\xff\xff"), id="4 billion entries"),
        pytest.param(with_body(b"\x80", ring=8), id="a ring that is too long"),
        pytest.param(with_body(b"\x80", parts=b"\x01\x06\x00\x00"), id="an empty ROTATION"),
        pytest.param(with_body(b"\x80", parts=b"\x01\x06\x00\x0c" + bytes(12)), id="a short ROTATION"),
        pytest.param(
            with_body(b"\x80", parts=b"\x01\x06\x00\x0d\x02" + bytes(12)), id="a ROTATION without its digest"
        ),
        pytest.param(
            with_body(b"\x80", parts=b"\x01\x06\x00\x0d\x08" + bytes(12)), id="a ROTATION with other flags"
        ),
        pytest.param(with_body(b"\x80", parts=b"\x01\x06\x00\x0f" + bytes(15)), id="half a retired digest"),
        pytest.param(with_body(b"\x80", parts=b"\x01\x06\x00\x21" + bytes(33)), id="five retired digests"),
        pytest.param(with_body(b"\x80", parts=b"\x01\x02\x00\x07moredat"), id="a long MOVED"),
        pytest.param(with_body(b"\x80", parts=b"\x02\x09\x00\x00\x09\x00\x00"), id="a part twice"),
        pytest.param(with_body(b"\x80", parts=b"\xff"), id="255 parts that are not there"),
        pytest.param(with_body(b"\x80", parts=b"\x01\x09\xff\xff"), id="a part longer than the record"),
    ],
)
def test_malformed_records_are_corrupt(data: bytes) -> None:
    """Promise 10: what has not the form of format 1 is SessionCorrupt, never an empty session."""
    assert records.decode(with_body(b"\x80")).entries == {}
    with pytest.raises(SessionCorrupt):
        records.decode(data)


@given(st.dictionaries(st.text(max_size=300), st.binary(max_size=300), max_size=20))
def test_the_body_is_plain_msgpack(entries: dict[str, bytes]) -> None:
    """Whoever reads msgpack reads the body: a map of text to bytes; and what he writes is read."""
    record = fresh(entries)
    data = records.encode(record)
    assert msgpack.unpackb(data[65:]) == entries
    assert records.decode(data[:65] + msgpack.packb(entries)) == record


@given(U48)
def test_times_in_parts(time: int) -> None:
    """A part's 6 bytes give the time back."""
    record = replace(fresh(), parts={MOVED: records.until(time)})
    assert records.moved_until(record) == time
    assert records.moved_until(fresh()) == 0


_FORKS = """
import os, random, sys
from asgi_session._data import record as records

def nonce():
    random.seed(1)
    return records.new_record(now=0, idle=0, absolute=0, digest=b"", check=b"", entries={}).nonce.hex()

def tell():
    os.write(sys.stdout.fileno(), f"{nonce()}\\n".encode())  # at once: `print` may write a line in two parts

nonce()
child = os.fork()
tell()
if child:
    os.waitpid(child, 0)
    tell()
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nonces_are_their_own(unbuffered: str) -> None:
    """Neither a forked child nor an app that seeds `random` repeats the nonces of another's saves."""
    printed = subprocess.run(
        [sys.executable, "-c", _FORKS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    nonces = printed.stdout.split()
    assert len(nonces) == len(set(nonces)) == 3

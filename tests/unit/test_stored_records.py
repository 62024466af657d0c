"""Records as they lie in stores: bytes checked in, made by hand from the documented layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data.record import LIFETIME, MOVED, NOBODY, ROTATION, Record

CREATED = 1_790_000_000_000
PLAIN = Record(
    version=1,
    nonce=bytes.fromhex("a0a1a2a3a4a5a6a7"),
    epoch=b"\0\0\0\1salt",
    created=CREATED,
    idle=1_209_600_000,
    deadline=CREATED + 7_776_000_000,
    digest=bytes(range(0x10, 0x20)),
    check=bytes.fromhex("c1c2c3c4"),
    ring=b"",
    parts={},
    entries={"user": b"\x2a", "cart": b"\x92\x01\xa1x"},
)


def ring(length: int) -> bytes:
    return b"".join(bytes((0xB0 + index,)) * 4 for index in range(length))


EXPECTED = {
    "plain": PLAIN,
    "full_ring": replace(PLAIN, version=2**40 + 9, epoch=b"\0\0\0\2tlas", ring=ring(7)),
    "rotation_and_moved": replace(
        PLAIN,
        version=5,
        ring=ring(4),
        parts={
            ROTATION: b"\x02"  # not seen; there is a previous one
            + (CREATED + 3_600_000).to_bytes(6, "big")
            + (15_000).to_bytes(6, "big")
            + b"\x55" * 16
            + b"\x66\x66\x66\x66\x77\x77\x77\x77",
            MOVED: (CREATED + 75_000).to_bytes(6, "big"),
        },
    ),
    "unknown_part": replace(
        PLAIN,
        version=3,
        ring=ring(2),
        parts={77: b"from the future", MOVED: (CREATED + 60_000).to_bytes(6, "big"), 200: b""},
    ),
    "lifetime": replace(
        PLAIN,
        version=3,
        idle=900_000,
        deadline=CREATED + 14_400_000,
        ring=ring(2),
        parts={LIFETIME: b"\0"},
    ),
    "empty": replace(PLAIN, version=2, ring=ring(1), entries={}),
    "ended": replace(
        PLAIN,
        version=4,
        epoch=b"\0\0\0\3ends",
        deadline=CREATED + 60_000,
        digest=NOBODY,
        ring=ring(3),
        parts={MOVED: (CREATED + 60_000).to_bytes(6, "big")},
        entries={},
    ),
}
FOLDER = Path(__file__).parent / "records"


def stored(name: str) -> bytes:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_stored_records_stay_readable(name: str) -> None:
    """Promise 10: these bytes are read as they always were, and written the same."""
    data = stored(name)
    record = records.decode(data)
    assert record == EXPECTED[name]
    assert records.encode(record) == data


def test_every_example_is_tested() -> None:
    """No stored example lies there unread."""
    assert {path.stem for path in FOLDER.iterdir()} == set(EXPECTED)


def test_unknown_parts_stay_in_place() -> None:
    """Promise 10: a save keeps a later version's parts byte for byte."""
    data = records.encode(records.next_version(records.decode(stored("unknown_part")), CREATED + 60_000))
    assert b"\x02" + b"\x4d\x00\x0ffrom the future" + b"\xc8\x00\x00" in data

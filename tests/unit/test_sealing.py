"""Sealed records: what comes back, what is refused, and that no nonce serves twice."""

from __future__ import annotations

import subprocess
import sys
from typing import ClassVar

import msgpack
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import aead
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data.change import Change
from asgi_session._data.fold import fold
from asgi_session._data.record import LOCK, MOVED, SEALED, Record
from asgi_session._data.rules import Rules
from asgi_session._data.sealing import OVERHEAD, Sealer
from asgi_session._data.token import Tokens, new_token
from asgi_session.errors import ConfigurationError, SessionCorrupt
from tests.unit.test_record import NOW, any_record, fresh

ONE, TWO = "the first key, which has 32 bytes", b"the second key, which has them too"
KEY, OTHER_KEY = "A" * 22, "B" * 21 + "A"
INDEX_KEY = "A" * 21 + "B"
WITH_PARTS = {LOCK: b"g" * 22, MOVED: b"\0" * 5 + b"m", 200: b"of a later release"}

keys = st.sampled_from([KEY, OTHER_KEY, INDEX_KEY])


def sealed(record: Record, key: str = KEY, sealer: Sealer | None = None) -> bytes:
    return (sealer or Sealer("default", [ONE])).seal(records.encode(record), key)


@given(any_record, keys, st.sampled_from(["default", "shop", "läden"]))
def test_round_trip(record: Record, key: str, namespace: str) -> None:
    """A sealed record is read as it was written; its header is in the clear, 20 bytes are added."""
    sealer = Sealer(namespace, [ONE, TWO])
    plain = records.encode(record)
    data = sealer.seal(plain, key)
    start = records.parts_start(plain)
    assert sealer.decode(data, key) == record
    assert len(data) == len(plain) + OVERHEAD
    assert data[:16] + plain[16:17] + data[17:start] == plain[:start]
    assert data[16] == SEALED


@given(any_record)
def test_any_wrong_bit_is_refused(record: Record) -> None:
    """Header, parts, key id, data, GCM's tag: whichever bit is wrong, nothing is read."""
    sealer = Sealer("default", [ONE])
    data = bytearray(sealed(record))
    for place in range(len(data)):
        bit = 1 << place % 8
        data[place] ^= bit
        with pytest.raises(SessionCorrupt):
            sealer.decode(bytes(data), KEY)
        data[place] ^= bit


def test_every_wrong_bit_is_refused() -> None:
    """The same with each of a record's bits."""
    sealer = Sealer("default", [ONE])
    record = replace(records.next_version(fresh({"n": b"\1"}), NOW), parts=WITH_PARTS)
    data = bytearray(sealed(record))
    for place in range(8 * len(data)):
        data[place // 8] ^= 1 << place % 8
        with pytest.raises(SessionCorrupt) as caught:
            sealer.decode(bytes(data), KEY)
        assert caught.value.by_seal or place // 8 == 16, "but for a format that is none"
        data[place // 8] ^= 1 << place % 8
    assert sealer.decode(bytes(data), KEY) == record


@given(any_record, st.data())
def test_truncated_and_longer_records_are_refused(record: Record, data: st.DataObject) -> None:
    """Cut off anywhere, or with bytes after it, nothing is read."""
    sealer, whole = Sealer("default", [ONE]), sealed(record)
    for length in range(len(whole)):
        with pytest.raises(SessionCorrupt):
            sealer.decode(whole[:length], KEY)
    with pytest.raises(SessionCorrupt):
        sealer.decode(whole + data.draw(st.binary(min_size=1, max_size=40)), KEY)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: bytes(16) + b"\x81" + tail))
def test_foreign_bytes_are_corrupt(data: bytes) -> None:
    """Promise 10: nothing but SessionCorrupt comes of foreign bytes."""
    with pytest.raises(SessionCorrupt):
        Sealer("default", [ONE]).decode(data, KEY)


def split(data: bytes) -> tuple[bytes, bytes]:
    start = records.parts_start(data)
    return data[:start], data[start:]


def test_nothing_of_two_records_can_be_exchanged() -> None:
    """Headers and data of two sessions, two versions, two sealings: only what belongs together is read."""
    sealer = Sealer("default", [ONE])
    first = fresh({"role": b"\xa5guest"})
    later = records.next_version(first, NOW, {"role": b"\xa5admin"})
    twin = replace(first, nonce=b"another!")
    made = [(sealed(record), KEY) for record in (first, later, twin)]
    made.append((sealed(first, OTHER_KEY), OTHER_KEY))
    made.append((sealed(first, INDEX_KEY), INDEX_KEY))
    for number, (data, key) in enumerate(made):
        for other_number, (other, _) in enumerate(made):
            mixed = split(data)[0] + split(other)[1]
            if number == other_number:
                assert sealer.decode(mixed, key).epoch == first.epoch
            else:
                with pytest.raises(SessionCorrupt, match="seal of the record is broken"):
                    sealer.decode(mixed, key)
            for elsewhere in {KEY, OTHER_KEY, INDEX_KEY} - {key}:
                with pytest.raises(SessionCorrupt, match="seal of the record is broken"):
                    sealer.decode(data, elsewhere)


def test_parts_are_sealed() -> None:
    """A lock, a description, a part of a later release: none is shown, and none can be put in front."""
    sealer = Sealer("default", [ONE])
    record = replace(fresh({"n": b"\1"}), parts=WITH_PARTS)
    data = sealed(record)
    assert not [part for part in WITH_PARTS.values() if part in data]
    header, body = split(data)
    assert sealer.decode(header + body, KEY).parts == WITH_PARTS
    for parts in ({}, {LOCK: WITH_PARTS[LOCK]}, {200: b"of a LATER release"}):
        _, plain = split(records.encode(replace(record, parts=parts, entries={})))
        with pytest.raises(SessionCorrupt):
            sealer.decode(header + plain[:-1] + body, KEY)


def test_namespaces_and_keys_are_apart() -> None:
    """Promise 17: what one namespace or key has sealed, another cannot open, under the same store key."""
    data = sealed(fresh())
    with pytest.raises(SessionCorrupt, match="seal of the record is broken"):
        Sealer("staging", [ONE]).decode(data, KEY)
    with pytest.raises(SessionCorrupt, match="whose id is"):
        Sealer("default", [TWO]).decode(data, KEY)


def test_an_unknown_key_is_named() -> None:
    """The id of a key that is missing is named, and those that are there; no key is."""
    one, two = Sealer("default", [ONE]), Sealer("default", [TWO])
    data = sealed(fresh(), sealer=one)
    key_id, theirs = split(data)[1][:4].hex(), split(sealed(fresh(), sealer=two))[1][:4].hex()
    with pytest.raises(SessionCorrupt) as caught:
        two.decode(data, KEY)
    assert key_id in str(caught.value)
    assert theirs in str(caught.value)
    assert ONE not in str(caught.value)
    assert caught.value.by_seal


def test_the_first_key_seals_and_all_open() -> None:
    """Each of the keys opens what was sealed with it, wherever it stands."""
    both, turned = Sealer("default", [ONE, TWO]), Sealer("default", [TWO, ONE])
    record = fresh({"n": b"\1"})
    for sealer, opener in ((both, ONE), (turned, TWO)):
        data = sealed(record, sealer=sealer)
        for reader in (both, turned, Sealer("default", [opener])):
            assert reader.decode(data, KEY) == record


def test_an_unsealed_record_is_refused() -> None:
    """Unsealed, or made to look so: it is refused, unless it was said otherwise."""
    record = fresh({"role": b"\xa5admin"})
    plain = records.encode(record)
    with pytest.raises(SessionCorrupt, match=r"is not sealed, .* unsealed='accept'") as caught:
        Sealer("default", [ONE]).decode(plain, KEY)
    assert caught.value.by_seal
    stripped = bytearray(sealed(record))
    stripped[16] = 1
    with pytest.raises(SessionCorrupt, match="not sealed"):
        Sealer("default", [ONE]).decode(bytes(stripped), KEY)
    accepting, writing = Sealer("default", [ONE], "accept"), Sealer("default", [ONE], "write")
    assert accepting.decode(plain, KEY) == writing.decode(plain, KEY) == record
    assert accepting.seal(plain, KEY)[16] == SEALED
    assert writing.decode(sealed(record), KEY) == record
    assert writing.seal(plain, KEY) == plain
    assert (accepting.overhead, writing.overhead) == (20, 0)


def test_without_a_key_a_sealed_record_says_so() -> None:
    """Whoever has no keys learns that this is what is missing."""
    with pytest.raises(SessionCorrupt, match="sealed, and this manager has no encryption_key") as caught:
        records.decode(sealed(fresh()))
    assert caught.value.by_seal


def test_a_format_that_nobody_knows_is_not_a_matter_of_the_seal() -> None:
    """Promise 10: a record of a later format is named as such, with keys too."""
    data = bytearray(sealed(fresh()))
    data[16] = 0x82
    with pytest.raises(SessionCorrupt, match="format 130") as caught:
        Sealer("default", [ONE]).decode(bytes(data), KEY)
    assert not caught.value.by_seal


@pytest.mark.parametrize(("key", "kind"), [(KEY, b"session"), (INDEX_KEY, b"index")])
def test_the_format_by_hand(key: str, kind: bytes) -> None:
    """What the page on the record's bytes says, done with another implementation of HKDF."""
    record = fresh({"n": b"\1"})
    data = Sealer("shop", [ONE]).seal(records.encode(record), key)
    context = kind + b"\0shop\0" + key.encode()

    def derived(info: bytes) -> bytes:
        salt = b"asgi-session sealed record"
        return HKDF(hashes.SHA256(), 32, salt, info).derive(ONE.encode())

    end = records.parts_start(data) + 4
    assert data[end - 4 : end] == derived(b"key id")[:4]
    opened = AESGCM(derived(context)).decrypt(data[4:16], data[end:], data[:end] + context)
    assert opened[0] == 0, "no optional parts"
    assert msgpack.unpackb(opened[1:]) == {"n": b"\1"}


class Spy:
    """A cipher that notes what it is given."""

    used: ClassVar[list[tuple[bytes, bytes, bytes, bytes]]]

    def __init__(self, key: bytes) -> None:
        self.key = key

    def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
        self.used.append((self.key, nonce, data, associated))
        return AESGCM(self.key).encrypt(nonce, data, associated)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> type[Spy]:
    monkeypatch.setattr(aead, "AESGCM", Spy)
    Spy.used = []
    return Spy


def test_each_session_has_a_key_of_its_own(spy: type[Spy]) -> None:
    """Two sessions, two kinds, two namespaces: as many keys."""
    for namespace in ("default", "shop"):
        for key in (KEY, OTHER_KEY, INDEX_KEY):
            sealed(fresh(), key, Sealer(namespace, [ONE]))
    used = {key for key, *_ in spy.used}
    assert len(used) == 6
    assert all(len(key) == 32 for key in used)


def test_every_session_is_of_the_kind_session(spy: type[Spy]) -> None:
    """The last character of a key tells its kind, in every namespace."""
    sealer = Sealer("n", [ONE])
    for tokens in (Tokens("default"), Tokens("shop")):
        for _ in range(100):
            key = tokens.key(new_token().selector)
            sealed(fresh(), key, sealer)
            assert spy.used.pop()[3].endswith(b"session\0n\0" + key.encode())


one_change = st.builds(
    Change,
    st.dictionaries(st.sampled_from("abc"), st.binary(max_size=60) | st.none(), min_size=1, max_size=3),
    st.just(b""),
)


@settings(max_examples=200)
@given(st.lists(st.lists(one_change, min_size=1, max_size=4), min_size=1, max_size=6), st.integers(120, 400))
def test_no_nonce_serves_twice(batches: list[list[Change]], max_size: int) -> None:
    """Whatever is folded, also what is too large and so folded again: a new nonce for each that is sealed."""
    sealer, record = Sealer("default", [ONE]), fresh()
    used = {bytes(records.encode(record)[4:16])}
    for changes in batches:
        for _ in range(2):  # the second as after a conflict
            made = fold(record, changes, Rules(), max_size, NOW, OVERHEAD)
            if made.data:
                data = sealer.seal(made.data, KEY)
                assert data[4:16] not in used
                used.add(data[4:16])
                assert sealer.decode(data, KEY) == made.record
        record = made.record


def test_the_seal_counts() -> None:
    """`max_size` is that of what the store gets: with the seal."""
    record = fresh()
    change = Change({"a": b"x" * 50}, b"")
    size = len(records.encode(fold(record, [change], Rules(), 1000, NOW).record))
    assert fold(record, [change], Rules(), size + OVERHEAD, NOW, OVERHEAD).outcomes == ["in"]
    (refused,) = fold(record, [change], Rules(), size + OVERHEAD - 1, NOW, OVERHEAD).outcomes
    assert f"would take {size + OVERHEAD} bytes" in str(refused)


@pytest.mark.parametrize("key", ["short", b"k" * 31, "ü" * 15])
def test_a_short_key_is_refused(key: str | bytes) -> None:
    """A key has at least 32 bytes."""
    with pytest.raises(ConfigurationError, match="at least 32 random ones"):
        Sealer("default", [ONE, key])


def test_a_key_is_given_once() -> None:
    """Two keys whose ids are the same could not be told apart."""
    with pytest.raises(ConfigurationError, match="Give each key once"):
        Sealer("default", [ONE, TWO, ONE.encode()])


def test_the_extra_is_named() -> None:
    """Without the package, the error says what to install; without keys, nobody needs it."""
    code = """
import sys
sys.modules["cryptography"] = None
from asgi_session import ConfigurationError, SessionManager
SessionManager("memory://")
try:
    SessionManager("memory://", encryption_key="k" * 32)
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "pip install 'asgi-session[encryption]'" in done.stdout

"""What needs no server: the ring, the protocol, lifetimes."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_session.stores.memcached import protocol
from asgi_session.stores.memcached.protocol import Garbled, Reader, Reply
from asgi_session.stores.memcached.ring import Ring

NAMES = [f"10.0.0.{number}:11211" for number in range(1, 9)]
KEYS = [secrets.token_urlsafe(16) for _ in range(20_000)]


def ring(names: list[str]) -> Ring[str]:
    return Ring([(name, name) for name in names])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_shares_are_even(count: int) -> None:
    """No server of several has a fifth more or less than its share."""
    names = NAMES[:count]
    shares = Counter(map(ring(names).owner, KEYS))
    assert set(shares) == set(names)
    for share in shares.values():
        assert 0.8 < share * count / len(KEYS) < 1.2


@pytest.mark.parametrize("gone", NAMES[:4])
def test_a_server_that_goes_moves_its_own_keys_alone(gone: str) -> None:
    """The others' keys stay where they are, and its own are spread over all that are left."""
    before, after = ring(NAMES[:4]), ring([name for name in NAMES[:4] if name != gone])
    taken = Counter[str]()
    for key in KEYS:
        if before.owner(key) != gone:
            assert after.owner(key) == before.owner(key)
        else:
            taken[after.owner(key)] += 1
    assert len(taken) == 3
    assert min(taken.values()) > sum(taken.values()) / 6


def test_the_order_of_the_servers_does_not_matter() -> None:
    """Two processes may name them in different orders."""
    shuffled = NAMES.copy()
    random.Random(1).shuffle(shuffled)
    one, other = ring(NAMES), ring(shuffled)
    assert [one.owner(key) for key in KEYS] == [other.owner(key) for key in KEYS]


def test_the_mapping_is_fixed() -> None:
    """It is the same in every process, on every version of Python, in every release."""
    three = ring(["a:11211", "b:11211", "c:11211"])
    keys = [f"{number:022d}" for number in range(40)]
    assert "".join(three.owner(key)[0] for key in keys) == "bacbcbbcacbcbacabbbacbaccaabbbcbbccaacbb"


REPLIES = (
    b"HD c12\r\nEN\r\nVA 5 c7\r\na\r\nb\n\r\nVA 0 c9\r\n\r\nNS\r\nEX c0\r\nMN\r\n"
    b"STAT a b c\r\nSTAT d\r\nEND\r\n"
    b"SERVER_ERROR out of memory storing object\r\nVERSION 1.6.18\r\n"
)


@given(st.lists(st.integers(0, len(REPLIES)), max_size=12))
def test_replies_in_any_pieces(cuts: list[int]) -> None:
    """However the bytes are cut, the replies are the same."""
    reader, found = Reader(1000), list[Reply]()
    places = [0, *sorted(cuts), len(REPLIES)]
    for begin, end in pairwise(places):
        found += reader.read(REPLIES[begin:end])
    assert [(each.text, each.value) for each in found] == [
        ("HD c12", None),
        ("EN", None),
        ("VA 5 c7", b"a\r\nb\n"),
        ("VA 0 c9", b""),
        ("NS", None),
        ("EX c0", None),
        ("MN", None),
        ("END", None),
        ("SERVER_ERROR out of memory storing object", None),
        ("VERSION 1.6.18", None),
    ]
    assert [each.token for each in found[:4]] == [b"12", b"", b"7", b"9"]
    assert found[7].stats == {b"a": b"b c", b"d": b""}
    assert found[8].is_full
    assert found[8].is_error
    assert not found[8].is_garbled


@pytest.mark.parametrize(
    "noise",
    [
        b"\r\n",
        b"VA x c1\r\n",
        b"VA\r\n",
        b"VA 1 c1\r\nabc",
        b"x" * 9000,
        b"VA 1001 c1\r\n",
        b"VA " + b"9" * 5000 + b"\r\n",
    ],
)
def test_noise(noise: bytes) -> None:
    """What is no reply is found out."""
    with pytest.raises(Garbled):
        Reader(1000).read(noise)


NOW = 1_800_000_000_000
DAY = 86_400_000


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (-5, -1),
        (0, -1),
        (1, 2),
        (999, 2),
        (1000, 2),
        (1001, 3),
        (30 * DAY - 1000, 30 * 86_400),
        (30 * DAY, (NOW + 31 * DAY) // 1000),
        (90 * DAY, (NOW + 91 * DAY) // 1000),
        (2**31 * 1000 - NOW, 0),
        (2**63, 0),
    ],
)
def test_lifetimes(left: int, told: int) -> None:
    """The server is never told too short a time, nor one that it takes for the past."""
    assert protocol.lifetime(NOW + left, NOW) == told

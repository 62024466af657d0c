"""What servers' words mean: decisions without I/O."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_session.store import Stored
from asgi_session.stores.redis import commands
from asgi_session.stores.redis.replies import ReplyKind, kind
from asgi_session.stores.redis.topology import read_redirect, read_slots

ASKED = ("10.0.0.1", 6379)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LOADING Redis is loading the dataset in memory", ReplyKind.RETRY),
        ("TRYAGAIN Multiple keys request during rehashing of slot", ReplyKind.RETRY),
        ("CLUSTERDOWN The cluster is down", ReplyKind.RETRY),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", ReplyKind.RETRY),
        ("BUSY Redis is busy running a script.", ReplyKind.RETRY),
        ("ERR max number of clients reached", ReplyKind.RETRY),
        ("READONLY You can't write against a read only replica.", ReplyKind.RECONNECT),
        ("NOAUTH Authentication required.", ReplyKind.RECONNECT),
        (
            "ERR Error running script (call to f_0123): @user_script:3: @user_script: 3: "
            "-READONLY You can't write against a read only replica.",
            ReplyKind.RECONNECT,
        ),
        ("MOVED 1 10.0.0.2:6379", ReplyKind.MOVED),
        ("ASK 1 10.0.0.2:6379", ReplyKind.ASK),
        ("NOSCRIPT No matching script.", ReplyKind.NOSCRIPT),
        ("OOM command not allowed when used memory > 'maxmemory'.", ReplyKind.REFUSED),
        ("NOPERM User x has no permissions to run the 'get' command", ReplyKind.REFUSED),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ReplyKind.REFUSED),
        ("ERR something new", ReplyKind.REFUSED),
        ("", ReplyKind.REFUSED),
    ],
)
def test_error_replies_are_told_apart(text: str, expected: ReplyKind) -> None:
    """Every error reply asks for exactly one thing."""
    assert kind(hiredis.ReplyError(text)) is expected


def test_topology() -> None:
    """Ranges with their primaries, the others as replicas; no host means the node that was asked."""
    reply = [
        [0, 99, [b"10.0.0.2", 1, b"id", []], [b"10.0.0.3", 2, b"id"]],
        [100, 16383, [b"", 3, b"id"], [None, 4, b"id"], [b"?", 5, b"id"], [b"10.0.0.3", 2, b"id"]],
    ]
    topology = read_slots(reply, ASKED, None)
    assert topology is not None
    assert topology.ranges == ((0, 99, ("10.0.0.2", 1)), (100, 16383, ("10.0.0.1", 3)))
    assert topology.replicas == (("10.0.0.3", 2), ("10.0.0.1", 4), ("10.0.0.1", 5))


def test_announced_addresses_are_remapped() -> None:
    """The remap sees every announced address, in topologies and in redirections."""

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return "outside", address[1] + 1

    topology = read_slots([[0, 1, [b"10.0.0.2", 1]]], ASKED, remap)
    assert topology is not None
    assert topology.ranges == ((0, 1, ("outside", 2)),)
    assert read_redirect("ASK 7 10.0.0.2:8", ASKED, remap) == (7, ("outside", 9))


@pytest.mark.parametrize("reply", [[], None, hiredis.ReplyError("ERR cluster support disabled")])
def test_a_node_that_knows_nothing(reply: object) -> None:
    """An error, or a node outside of any cluster, is no topology."""
    assert read_slots(reply, ASKED, None) is None


@pytest.mark.parametrize(
    "reply",
    [
        [5],
        [[]],
        [[0, 16384, [b"h", 1]]],
        [[-1, 5, [b"h", 1]]],
        [[0, 1, []]],
        [[0, 1, [b"\xff", 1]]],
        [[0, 1, 5]],
    ],
)
def test_a_topology_that_makes_no_sense(reply: object) -> None:
    """It raises rather than being half believed; the router makes a failure of it."""
    with pytest.raises((ValueError, TypeError, IndexError)):
        read_slots(reply, ASKED, None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("MOVED 7 10.0.0.2:8", (7, ("10.0.0.2", 8))),
        ("MOVED 7 :8", (7, ("10.0.0.1", 8))),
        ("MOVED 7 ?:8", (7, ("10.0.0.1", 8))),
        ("ASK 7 2001:db8::1:8", (7, ("2001:db8::1", 8))),
        ("ASK 7 node.example.com:8", (7, ("node.example.com", 8))),
        ("MOVED 16384 h:8", None),
        ("MOVED 7", None),
        ("MOVED x h:8", None),
        ("MOVED 7 h:x", None),
    ],
)
def test_redirections(error: str, expected: object) -> None:
    """Slot and address are read; what makes no sense is no redirection."""
    assert read_redirect(error, ASKED, None) == expected


@given(
    st.binary(max_size=60),
    st.binary(max_size=200),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=200),
    st.integers(-(2**63), 2**63 - 1),
)
def test_what_is_packed_by_hand(name: bytes, data: bytes, expires_at: int, old: bytes, before: int) -> None:
    """The frequent commands are what hiredis would make of them."""
    assert commands.get(name) == commands.pack(b"GET", name)
    expect, at = Stored(old, old[:16], before), commands.instant(expires_at)
    value = commands.header(expires_at) + data
    by_script = commands.SAVE.by_name(name, expect.tag, value, at)
    assert commands.save_by_script(name, data, expires_at, expect.tag) == by_script
    was = commands.header(before) + old
    by_comparing = commands.pack(b"SET", name, value, b"IFEQ", was, b"PXAT", at)
    assert commands.compare_and_set(name, data, expires_at, expect) == by_comparing


@given(st.from_regex(rb"[A-Za-z0-9_-]{22}", fullmatch=True), st.binary(min_size=24, max_size=200))
def test_wake_ups(key: bytes, value: bytes) -> None:
    """A key and nothing else is a wake-up: whatever came along would not be believed."""
    assert commands.wake_up(key) == key.decode()
    assert commands.wake_up(key + value) is None
    assert commands.wake_up(key[:21] + b"\n" + value) is None
    assert commands.wake_up(key[:21]) is None

"""Promise 15: the steps that a value costs grow with its bytes, whatever its shape.

Counted are calls of functions, those in C included, lines of Python, and the characters and bytes that
functions are called with, since a text that grows with each of them is a copy each time. Besides, the most
memory that is in use at a time. No time is measured.
"""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from asgi_session import Session, SessionSerializationError
from asgi_session._data import codec
from asgi_session._data.token import Tokens, new_token
from asgi_session._web.cookie import Cookie
from tests.inside import changes_of
from tests.unit.world import World


def nest(depth: int, width: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = ["x"] * width
    for _ in range(depth):
        value = wrap(value)
    return value


SHAPES: dict[str, Callable[[int], Any]] = {
    "control characters": lambda n: {"\x7f" * n: [""] * n},
    "text": lambda n: "x" * n,
    "bytes": lambda n: b"x" * n,
    "empty texts": lambda n: [""] * n,
    "numbers": lambda n: list(range(n)),
    "long keys": lambda n: {"\x7f" * 1000 + str(index): [""] for index in range(n // 1000)},
    "many keys": lambda n: {f"k{index}": index for index in range(n)},
    "keys of equal hash": lambda n: {f"{index}": {} for index in range(n)},
    "lists in lists": lambda n: [[[[]]] for _ in range(n)],
    "as deep as it goes": lambda n: nest(60, n, lambda inner: [inner]),
    "deep dicts": lambda n: nest(60, n, lambda inner: {"\x7f" * 100: inner}),
    "dicts of dicts": lambda n: {f"k{index}": {"a": {"b": [1]}} for index in range(n // 4)},
    "a long integer": lambda n: 1 << 8 * n,
    "integers as keys": lambda n: {10**30 + index: index for index in range(n)},
    "datetimes": lambda n: [datetime(2026, 1, 1, tzinfo=UTC)] * n,
    "decimals": lambda n: [Decimal("1.5")] * n,
    "a set": lambda n: {str(index) for index in range(n)},
    "tuples": lambda n: [(index,) for index in range(n)],
}


def steps(work: Callable[[], object]) -> int:
    """Return how many calls and lines `work` takes, and how much text it hands around."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += 1
        if event == "call":
            count += sum(len(each) for each in frame.f_locals.values() if isinstance(each, (str, bytes)))

    before = sys.gettrace()  # of who measures coverage
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        sys.settrace(before)
    return count


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that `work` has in use at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def is_linear(costs: list[int], sizes: list[int]) -> bool:
    """Tell whether the second half of the bytes costs, byte for byte, no more than the first."""
    first, second = sizes[1] - sizes[0], sizes[2] - sizes[1]
    if not second:
        return costs[2] <= costs[0] * 1.1 + 200
    return (costs[2] - costs[1]) / second <= (costs[1] - costs[0]) / max(first, 1) * 1.25 + 1


@pytest.fixture
def session() -> Session:
    return asyncio.run(World(max_size=100_000_000).load())


@pytest.mark.parametrize("measure", [steps, peak])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_commit_does_with_a_value(
    shape: str, measure: Callable[[Callable[[], object]], int], session: Session
) -> None:
    """Encoding, looking for changes and checking, of values of n, 2n and 4n: no more than in proportion."""
    costs, sizes = [], []
    for number in (2000, 4000, 8000):
        value = SHAPES[shape](number)
        sizes.append(len(codec.encode(value, "k")))

        def commit(value: Any = value) -> None:
            session["draft"] = value
            assert changes_of(session, 100_000_000)

        commit()
        costs.append(measure(commit))
    assert is_linear(costs, sizes), (costs, sizes)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_read_does_with_a_value(shape: str) -> None:
    """Decoding, too."""
    costs, sizes = [], []
    for number in (2000, 4000, 8000):
        data = codec.encode(SHAPES[shape](number), "k")
        sizes.append(len(data))
        costs.append(steps(lambda data=data: codec.decode(data)))  # type: ignore[misc]
    assert is_linear(costs, sizes), (costs, sizes)


def test_the_path_is_made_where_it_is_needed(session: Session) -> None:
    """A value that is wrong at its very end costs no more than one that is right."""
    right = {"\x7f" * 4000: [""] * 4000}
    wrong = {"\x7f" * 4000: [*[""] * 3999, object()]}
    has_bytes = b"\xc4"  # so it has to be walked
    least = peak(lambda: codec.check(right, "k", has_bytes))

    def refused() -> None:
        with pytest.raises(SessionSerializationError, match=r"session\['k'\]\[\.\.\.\]\[3999\]"):
            codec.check(wrong, "k", has_bytes)

    assert peak(refused) < least + 50_000


@pytest.mark.parametrize("line", ["{name}=junk", "other=x", "{name}", "{name}=" + "A" * 44, ";"])
def test_cookies(line: str) -> None:
    """Reading the cookies of a request, and the tokens in them."""
    cookie, tokens = Cookie(), Tokens("n", ["k" * 16])
    pair = line.format(name=cookie.name)
    costs = []
    for number in (500, 1000, 2000):
        header = [(b"cookie", "; ".join([pair] * number).encode())]
        costs.append(steps(lambda header=header: [tokens.read(text) for text in cookie.read(header)]))  # type: ignore[misc]
    assert costs[2] <= 4 * costs[0] * 1.1


def test_one_token_however_long() -> None:
    """One that is too long is none, at once."""
    tokens = Tokens("n", ["k" * 16])
    text = tokens.write(new_token())
    long = text + "A" * 1_000_000
    assert steps(lambda: tokens.read(long)) <= 2 * len(long) + 200 + steps(lambda: tokens.read("A"))

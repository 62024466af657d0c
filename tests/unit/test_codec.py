"""The codec: what goes in comes out, in one spelling; what would come out otherwise is refused."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from authlib.integrations.base_client.sync_openid import UserInfo  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749 import OAuth2Token  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup

from asgi_session._data import codec
from asgi_session.errors import SessionCorrupt, SessionSerializationError
from tests.unit.values import Values, shape, values


@given(values)
@example(datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1))
@example(datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=-1))))
@example(datetime.min)
@example(date.max)
@example((1, [2, (3, {4})], {"a": ()}))
@example({(1, 2): {frozenset({1}): [Decimal("sNaN")]}})
@example(-(2**63) - 1)
@example(-(2**71))
def test_round_trip(value: Any) -> None:
    """What goes in comes out equal and of the same type, and its bytes are the same again."""
    data = codec.encode(value, "k")
    codec.check(value, "k", codec.encode(value, "k"))
    decoded = codec.decode(data)
    assert shape(decoded) == shape(value)
    assert codec.encode(decoded, "k") == data
    codec.check(decoded, "k", codec.encode(decoded, "k"))


SETS = """
from asgi_session._data import codec
from datetime import date
from decimal import Decimal
from uuid import UUID
words = [f"word {number}" for number in range(200)]
value = {
    "set": set(words),
    "frozenset": frozenset(map(str.encode, words)),
    "nested": {frozenset(words[n : n + 5]) for n in range(100)},
    "mixed": {None, True, 2, 2.5, "x", Decimal("1.0e7"), UUID(int=5), date(2026, 1, 2), ("a", 1), 2**70},
    "tuple": tuple({word, word * 2} for word in words),
}
data = codec.encode(value, "k")
assert codec.encode(codec.decode(data), "k") == data
print(data.hex())
"""


def test_encoding_is_canonical_across_processes() -> None:
    """Sets have the same bytes in every process, whatever its hash seed."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SETS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4711", "random")
    }
    assert len(outputs) == 1


@given(st.lists(st.text(max_size=8) | st.integers(), unique=True, max_size=20), st.randoms())
def test_the_order_of_insertion_into_a_set_does_not_count(elements: list[Any], random: Any) -> None:
    """Equal sets are the same bytes, however they came to be."""
    data = codec.encode(set(elements), "k")
    random.shuffle(elements)
    assert codec.encode(set(elements), "k") == data


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, "c0"),
        ({"a": [1, True]}, "81a1619201c3"),
        (2**64, "c70901010000000000000000"),
        (-(2**63) - 1, "c70901ff7fffffffffffffff"),
        (Decimal("1.50"), "d602312e3530"),
        (UUID(int=1), "d80300000000000000000000000000000001"),
        (date(2026, 1, 2), "c70a04323032362d30312d3032"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "c71905" + b"2026-01-02T03:00:00+00:00".hex()),
        (
            datetime(2026, 10, 25, 2, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
            "c72405" + b"2026-10-25T02:00:00[Europe/Berlin]/1".hex(),
        ),
        ((1, 2), "c70306920102"),
        (frozenset({2, 1}), "c70307920102"),
        ({2, 1}, "c70308920102"),
    ],
)
def test_stored_bytes_stay_readable(value: Any, data: str) -> None:
    """Promise 10: these very bytes lie in stores; they must be written and read so for ever."""
    assert codec.encode(value, "k").hex() == data
    assert shape(codec.decode(bytes.fromhex(data))) == shape(value)


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    ADA = "ada"


class Text(str):
    __slots__ = ()


class Other(str):
    """Text that is equal to nothing but itself."""

    def __new__(cls, value: str, number: int = 1) -> Other:
        self = super().__new__(cls, value)
        self.number = number
        return self

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return self.number


class Whole(int):
    pass


class Listing(list[Any]):
    pass


class Moment(datetime):
    pass


class Nanos(datetime):
    """What would lose precision, as a pandas Timestamp."""

    nanosecond = 5


class Day(date):
    pass


class Money(Decimal):
    pass


class Key(UUID):
    pass


class Bag(set[Any]):
    pass


class Frozen(frozenset[Any]):
    pass


class Blob(bytes):
    pass


class Real(float):
    pass


class Elsewhere(dict[str, Any]):
    """One that keeps its values elsewhere, as a lazy one does; authlib's have a hook of their own."""

    def items(self) -> Any:
        return {"a": 1}.items()


class Broken(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")


class Zone(tzinfo):
    def utcoffset(self, moment: datetime | None, /) -> timedelta:
        return timedelta(0)

    dst = utcoffset

    def tzname(self, moment: datetime | None, /) -> str:
        return "Zone"


Point = namedtuple("Point", "x y")
_FOREIGN: list[tuple[Any, str]] = [
    (Color.RED, "Color"),
    (bytearray(b"x"), "bytearray"),
    (memoryview(b"x"), "memoryview"),
    (deque([1]), "deque"),
    (Nanos(2026, 1, 1), "nanoseconds"),
    (datetime(2026, 1, 1, tzinfo=Zone()), "Zone"),
    (datetime(2026, 1, 1, tzinfo=timezone(timedelta(microseconds=1))), "fraction of a second"),
    (msgpack.ExtType(6, b"\x90"), "ExtType"),
    (msgpack.Timestamp(1), "Timestamp"),
    (timedelta(1), "timedelta"),
    (1j, "complex"),
    (object(), "object"),
    (range(3), "range"),
    (len, "builtin_function_or_method"),
    (float, "type"),
]
FOREIGN = [pytest.param(value, name, id=name) for value, name in _FOREIGN]

_PLACES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda value: value, ""),
    (lambda value: [1, value], "[1]"),
    (lambda value: {"a@example.org": {"b": (value,)}}, "[...][...][0]"),
]


def store(value: Any) -> None:
    codec.encode(value, "cart")
    codec.check(value, "cart", codec.encode(value, "cart"))


@pytest.mark.parametrize(("place", "path"), _PLACES, ids=["top", "list", "nested"])
@pytest.mark.parametrize(("value", "name"), FOREIGN)
def test_foreign_types_are_refused(value: Any, name: str, place: Callable[[Any], Any], path: str) -> None:
    """What cannot be stored is refused; the error names key, place and type, and no key inside the value."""
    with pytest.raises(SessionSerializationError) as caught:
        store(place(value))
    assert caught.value.key == "cart"
    assert name in str(caught.value)
    assert f"session['cart']{path} " in str(caught.value)
    assert "example.org" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [{Color.RED}, frozenset({1j}), {(1, Color.RED)}, {Color.RED: 1}, {(1, object()): 1}]
)
def test_foreign_elements_and_keys_are_refused(value: Any) -> None:
    """Set elements and dict keys are held to the same rule as values."""
    with pytest.raises(SessionSerializationError, match=r"session\['cart'\].*\((an element|a key)"):
        store(value)


SUBCLASSES: list[tuple[Any, Any]] = [
    (Level.LOW, 1),
    (HTTPStatus.NOT_FOUND, 404),
    (Name.ADA, "ada"),
    (Text("x"), "x"),
    (Markup("<b>"), "<b>"),
    (Whole(5), 5),
    (Whole(2**90), 2**90),
    (Real(1.5), 1.5),
    (Blob(b"x"), b"x"),
    (Listing([1, Text("x")]), [1, "x"]),
    (Point(1, [Level.LOW]), (1, [1])),
    (OrderedDict(b=1, a=Level.LOW), {"b": 1, "a": 1}),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (UserInfo({"sub": "7", "email": "a@example.org"}), {"sub": "7", "email": "a@example.org"}),
    (
        OAuth2Token({"access_token": "t", "userinfo": UserInfo(sub="7")}),
        {"access_token": "t", "userinfo": {"sub": "7"}},
    ),
    (Elsewhere(), {"a": 1}),
    (Bag({1, Text("x")}), {1, "x"}),
    (Frozen({1}), frozenset({1})),
    (Moment(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
    (Moment(2026, 10, 25, 2, 30, fold=1), datetime(2026, 10, 25, 2, 30, fold=1)),
    (Day(2026, 1, 1), date(2026, 1, 1)),
    (Money("1.10"), Decimal("1.10")),
    (Key(int=5), UUID(int=5)),
    ({Name.ADA: 1, Level.LOW: 2, (Whole(1),): 3}, {"ada": 1, 1: 2, (1,): 3}),
    ({Text("b"), Text("a")}, {"a", "b"}),
]


@pytest.mark.parametrize(
    ("value", "plain"), SUBCLASSES, ids=[type(value).__name__ for value, _ in SUBCLASSES]
)
def test_subclasses_are_stored_as_their_plain_value(value: Any, plain: Any) -> None:
    """As JSON does: in hand it stays what it was, and what comes back is the plain type, at any depth."""
    for wrap in (lambda one: one, lambda one: [one], lambda one: {"k": (one,)}):
        store(wrap(value))
        data = codec.encode(wrap(value), "k")
        assert data == codec.encode(wrap(plain), "k"), "the same bytes, so that it is no change"
        assert shape(codec.decode(data)) == shape(wrap(plain))


@pytest.mark.parametrize(
    "value", [Broken(), [Broken(a=1)], {Text("a"): 1, Other("a"): 2}, {Other("a"), Other("a", 2)}]
)
def test_subclasses_without_a_plain_value_are_refused(value: Any) -> None:
    """One that cannot be read; and keys or elements that would become equal, so that one would be lost."""
    with pytest.raises(SessionSerializationError, match="session\\['cart'\\]"):
        store(value)


plain_subclasses: Values = st.recursive(
    st.one_of(
        st.integers(-(2**70), 2**70).map(Whole),
        st.text(max_size=5).map(Text),
        st.binary(max_size=5).map(Blob),
        st.floats(allow_nan=False).map(Real),
        st.sampled_from([Level.LOW, Name.ADA, Money("1.0"), Day(2026, 1, 2), Moment(2026, 1, 2), Key(int=3)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(Listing),
        st.dictionaries(st.text(max_size=3).map(Text), inner, max_size=3).map(OrderedDict),
        st.tuples(inner, inner).map(lambda pair: Point(*pair)),
    ),
    max_leaves=8,
)


@given(plain_subclasses)
def test_subclasses_keep_the_encoding_canonical(value: Any) -> None:
    """What was decoded is plain, and has the same bytes again."""
    data = codec.encode(value, "k")
    codec.check(value, "k", codec.encode(value, "k"))
    decoded = codec.decode(data)
    assert codec.encode(decoded, "k") == data
    codec.check(decoded, "k", codec.encode(decoded, "k"))
    shape(decoded)  # of plain types all through


@pytest.mark.parametrize("value", ["\ud800", ["a\udfff"], {"\ud800": 1}, {"a": {"\ud800"}}])
def test_lone_surrogates_are_refused(value: Any) -> None:
    """Text that has no UTF-8 form is refused by name, not by a codec's error."""
    with pytest.raises(SessionSerializationError, match=r"session\['cart'\].*surrogates"):
        store(value)


def test_a_key_must_be_encodable_too() -> None:
    """A key that has no UTF-8 form would make the whole record unwritable."""
    with pytest.raises(SessionSerializationError, match="surrogates"):
        codec.check(1, "\ud800", b"\x01")


def test_what_an_element_is_stays_out_of_the_error() -> None:
    """Errors end up in logs: they show where a value stands, not the values around it."""
    with pytest.raises(SessionSerializationError) as caught:
        store([{"the password", 1j}, {"the secret": 1}])
    assert "the password" not in str(caught.value)
    assert "the secret" not in str(caught.value)


def nested(depth: int, leaf: Any, wrap: Callable[[Any], Any]) -> Any:
    value = leaf
    for _ in range(depth):
        value = wrap(value)
    return value


_WRAPS: list[Callable[[Any], Any]] = [
    lambda inner: [inner],
    lambda inner: (inner,),
    lambda inner: {"k": inner},
]


@pytest.mark.parametrize("wrap", _WRAPS, ids=["list", "tuple", "dict"])
@pytest.mark.parametrize("leaf", [1, "text", datetime(2026, 1, 1, tzinfo=UTC)])
def test_depth(leaf: Any, wrap: Callable[[Any], Any]) -> None:
    """Containers nest as deep as MAX_DEPTH and come back; one more is refused; a leaf is no level."""
    deepest = nested(codec.MAX_DEPTH, leaf, wrap)
    store(deepest)
    assert shape(codec.decode(codec.encode(deepest, "k"))) == shape(deepest)
    for depth in (codec.MAX_DEPTH + 1, 600, 3000):
        with pytest.raises(SessionSerializationError, match="deeper than 64"):
            store(nested(depth, leaf, wrap))


def test_values_that_contain_themselves_are_refused() -> None:
    """Lists, dicts and tuples that hold themselves are an error, not an endless loop."""
    loop: list[Any] = []
    loop.append(loop)
    ring: dict[str, Any] = {}
    ring["a"] = [ring]
    through: list[Any] = []
    through.append((through,))
    for value in (loop, ring, through):
        with pytest.raises(SessionSerializationError, match="contains itself"):
            store(value)


def decodes_or_corrupt(data: bytes) -> None:
    try:
        value = codec.decode(data)
    except SessionCorrupt:
        return
    codec.is_mutable(value)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_corrupt(data: bytes) -> None:
    """Promise 10: bytes that cannot be read are SessionCorrupt, never another error."""
    decodes_or_corrupt(data)


@given(values, st.data())
def test_damaged_values_decode_or_are_corrupt(value: Any, data: st.DataObject) -> None:
    """Promise 10: nor are valid encodings with bytes changed, cut off or added."""
    encoded = bytearray(codec.encode(value, "k"))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        encoded[place] = data.draw(st.integers(0, 255))
    decodes_or_corrupt(bytes(encoded))
    cut = data.draw(st.integers(0, len(encoded)))
    decodes_or_corrupt(bytes(encoded[:cut]))
    with pytest.raises(SessionCorrupt):
        codec.decode(codec.encode(value, "k") + b"\0")
    with pytest.raises(SessionCorrupt):
        codec.decode(codec.encode(value, "k")[:-1])


def extension(code: int, payload: bytes) -> bytes:
    return bytes(msgpack.packb(msgpack.ExtType(code, payload)))


def tuple_bomb(depth: int) -> bytes:
    data = b"\x90"
    for _ in range(depth):
        data = b"\x91" + extension(6, data)
    return data


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="array of 4 billion"),
        pytest.param(b"\xdf\xff\xff\xff\xff", id="map of 4 billion"),
        pytest.param(b"\xdb\xff\xff\xff\xff", id="text of 4 GB"),
        pytest.param(b"\xc6\xff\xff\xff\xff", id="bytes of 4 GB"),
        pytest.param(b"\xc9\xff\xff\xff\xff\x06", id="extension of 4 GB"),
        pytest.param(b"\x91" * 60_000, id="lists without end"),
        pytest.param(b"\x91" * 60_000 + b"\xc0", id="60,000 lists"),
        pytest.param(b"\xdd\x7f\xff\xff\xff" * 10_000, id="arrays of 2 billion in each other"),
        pytest.param(tuple_bomb(200), id="200 tuples"),
        pytest.param(extension(6, b"\xc0"), id="tuple of no array"),
        pytest.param(extension(8, b"\x91\x90"), id="set of a list"),
        pytest.param(b"\x81\x90\x01", id="list as key"),
        pytest.param(extension(2, b"one"), id="no Decimal"),
        pytest.param(extension(3, b"short"), id="no UUID"),
        pytest.param(extension(4, b"2026-13-01"), id="no date"),
        pytest.param(extension(5, b"2026-01-01T00:00:00[../../etc/passwd]"), id="zone out of its folder"),
        pytest.param(extension(5, b"2026-01-01T00:00:00[Nowhere/Atlantis]"), id="unknown zone"),
        pytest.param(extension(5, b"[UTC]"), id="zone alone"),
        pytest.param(extension(9, b""), id="unknown extension"),
        pytest.param(extension(127, b"abc"), id="last extension"),
        pytest.param(b"\xc1", id="unused code"),
        pytest.param(b"\xa1\xff", id="no UTF-8"),
        pytest.param(b"\xa3\xed\xa0\x80", id="a lone surrogate"),
        pytest.param(b"\xc0\xc0", id="two values"),
        pytest.param(b"\xd6\xff" + bytes(4), id="msgpack's timestamp, short"),
        pytest.param(b"\x91\xd7\xff" + bytes(8), id="msgpack's timestamp, in a list"),
        pytest.param(b"\x81\xa1k\xc7\x0c\xff" + bytes(12), id="msgpack's timestamp, long"),
        pytest.param(b"\x92\xc5\x04\x00" + b"x" * 1024 + b"\xd6\xff" + bytes(4), id="one behind many bytes"),
        pytest.param(b"\x91" * 65 + b"\xc0", id="65 lists"),
        pytest.param(b"\x91" * 1024 + b"\xc0", id="1,024 lists"),
        pytest.param(b"\x81\xc0" * 65 + b"\xc0", id="65 dicts"),
        pytest.param(b"\x92\xc5\x04\x00" + b"x" * 1024 + b"\x91" * 64 + b"\xc0", id="65 behind many bytes"),
    ],
)
def test_bombs_and_nonsense_are_corrupt(data: bytes) -> None:
    """Promise 10: lengths and depths that lie cost neither memory nor the process."""
    tracemalloc.start()
    try:
        with pytest.raises(SessionCorrupt):
            codec.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("value", "mutable"),
    [
        (None, False),
        (1, False),
        ("x", False),
        (b"x", False),
        (Decimal(1), False),
        (UUID(int=1), False),
        (date(2026, 1, 1), False),
        (datetime(2026, 1, 1), False),
        (frozenset({1, (2,)}), False),
        ((), False),
        ((1, ("a", frozenset({2}))), False),
        ([], True),
        ({}, True),
        (set(), True),
        ((1, [2]), True),
        ((1, (2, ({3},))), True),
        (({},), True),
    ],
)
def test_is_mutable(value: Any, mutable: bool) -> None:
    """Promise 3: what can be changed in place is looked at again at commit, tuples with lists too."""
    assert codec.is_mutable(value) is mutable

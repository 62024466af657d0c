"""Subclasses are stored as their plain value: what libraries and apps put into sessions as it is."""

from __future__ import annotations

import collections
import datetime as dates
import decimal
import enum
import http
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from authlib.oauth2.rfc6749 import OAuth2Token
from authlib.oidc.core import UserInfo
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from asgi_session._data import codec
from asgi_session.errors import SessionSerializationError
from tests.inside import credential
from tests.manager.kit import World
from tests.unit.values import Values, shape, values

UTC = dates.UTC
BERLIN = ZoneInfo("Europe/Berlin")


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.IntFlag):
    READ = 1
    WRITE = 2


class Name(enum.StrEnum):
    ADA = "ada"


class Kind(str, enum.Enum):  # noqa: UP042  (what apps wrote before StrEnum; its str() is a name)
    GUEST = "guest"


class Weight(float, enum.Enum):
    HEAVY = 2.5


class Point(NamedTuple):
    x: Any
    y: Any


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Octets(bytes):
    def __bytes__(self) -> bytes:
        return b"something else"


class Whole(int):
    def __index__(self) -> int:
        return -1

    __int__ = __index__


class Real(float):
    def __float__(self) -> float:
        return -1.0


class Strange:
    """Overrides what a plain list, tuple or set is read with."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("read by its own __iter__")

    def __len__(self) -> int:
        return 1 << 40


class Listing(Strange, list[Any]):
    pass


class Row(Strange, tuple[Any, ...]):
    __slots__ = ()


class Bag(Strange, set[Any]):
    pass


class Frozen(Strange, frozenset[Any]):
    pass


class Lazy(dict[str, Any]):
    """Keeps its values elsewhere, as authlib's do in part, and gives them by items()."""

    def __init__(self, source: Callable[[], dict[str, Any]]) -> None:
        self.source = source

    def items(self) -> Any:
        return self.source().items()


class Amount(decimal.Decimal):
    def __str__(self) -> str:
        return "an amount"


class Id(uuid.UUID):
    def __str__(self) -> str:
        return "an id"


class Day(dates.date):
    def isoformat(self) -> str:
        return "a day"


class Moment(dates.datetime):
    """One like pendulum's or arrow's, with texts of its own."""

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return "a moment"

    def replace(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("replaced")


class Stamp(dates.datetime):
    """One like pandas' Timestamp."""

    nanosecond: float = 0


class Zone(ZoneInfo):
    """One like pendulum's Timezone."""


def stamp(nanosecond: float) -> Stamp:
    made = Stamp(2026, 1, 2, 3, 4, 5, 6)
    made.nanosecond = nanosecond
    return made


NOW = dates.datetime(2026, 10, 25, 2, 30, 1, 5, tzinfo=BERLIN, fold=1)
CASES: list[tuple[Any, Any]] = [
    (Level.LOW, 1),
    (Right.READ | Right.WRITE, 3),
    (http.HTTPStatus.NOT_FOUND, 404),
    (signal.SIGTERM, 15),
    (Name.ADA, "ada"),
    (Kind.GUEST, "guest"),
    (Weight.HEAVY, 2.5),
    (Text("text"), "text"),
    (Text("tëxt"), "tëxt"),
    (Markup("<b>x</b>"), "<b>x</b>"),
    (Octets(b"octets"), b"octets"),
    (Whole(5), 5),
    (Whole(-(2**63)), -(2**63)),
    (Whole(2**64 - 1), 2**64 - 1),
    (Whole(2**64), 2**64),
    (Whole(-(2**63) - 1), -(2**63) - 1),
    (Real(0.5), 0.5),
    (Point(1, (2,)), (1, (2,))),
    (Row((1, 2)), (1, 2)),
    (Listing([1, [2]]), [1, [2]]),
    (Bag({"b", "a"}), {"a", "b"}),
    (Frozen({"b", "a"}), frozenset({"a", "b"})),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (Lazy(lambda: {"a": Lazy(lambda: {"b": Level.LOW})}), {"a": {"b": 1}}),
    (UserInfo({"sub": "1", "email": "ada@example.org"}), {"sub": "1", "email": "ada@example.org"}),
    (Amount("1.50"), decimal.Decimal("1.50")),
    (Id(int=1), uuid.UUID(int=1)),
    (Day(2026, 1, 2), dates.date(2026, 1, 2)),
    (Moment(2026, 1, 2, 3), dates.datetime(2026, 1, 2, 3)),
    (Moment(2026, 1, 2, 3, 4, 5, 6, UTC), dates.datetime(2026, 1, 2, 3, 4, 5, 6, UTC)),
    (Moment(2026, 10, 25, 2, 30, 1, 5, tzinfo=BERLIN, fold=1), NOW),
    (dates.datetime(2026, 1, 2, tzinfo=Zone("Europe/Berlin")), dates.datetime(2026, 1, 2, tzinfo=BERLIN)),
    (stamp(0), dates.datetime(2026, 1, 2, 3, 4, 5, 6)),
    ({Name.ADA: 1, Level.LOW: {Point(1, 2)}}, {"ada": 1, 1: {(1, 2)}}),
    ({Name.ADA, Kind.GUEST, Level.LOW}, {"ada", "guest", 1}),
]


def store(value: Any) -> bytes:
    data = codec.encode(value, "cart")
    codec.check(value, "cart", codec.encode(value, "cart"))
    return data


@pytest.mark.parametrize(("value", "plain"), CASES, ids=[repr(type(value).__name__) for value, _ in CASES])
@pytest.mark.parametrize(
    "place", [lambda value: value, lambda value: [1, {"a": (value,)}]], ids=["", "inside"]
)
def test_subclasses_are_stored_as_their_plain_value(
    value: Any, plain: Any, place: Callable[[Any], Any]
) -> None:
    """The bytes are the plain value's, by which the subclass is read and nothing that it overrides."""
    data = store(place(value))
    assert data == store(place(plain))
    assert shape(codec.decode(data)) == shape(place(plain))


def test_tokens() -> None:
    """The line of countless apps: authlib's token, whole, and what it has about the user."""
    user = UserInfo({"sub": "1", "name": "Ada"})
    token = OAuth2Token.from_dict({"access_token": "x", "expires_in": 60, "userinfo": user})
    loaded = codec.decode(store(token))
    assert type(loaded) is dict
    assert type(loaded["userinfo"]) is dict
    assert loaded == {
        "access_token": "x",
        "expires_in": 60,
        "expires_at": token["expires_at"],
        "userinfo": user,
    }


async def test_in_a_session() -> None:
    """Promise 3: in hand it stays what it was, and changes in it are found; loaded is the plain type."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    session["user"] = user = UserInfo({"sub": "1", "roles": ["a"]})
    session["counts"] = collections.Counter("a")
    session["point"] = Point(1, [2])
    session["name"] = Text("ada")
    await session.commit()
    assert session["user"] is user
    assert await world.read(token) == {
        "old": 1, "user": {"sub": "1", "roles": ["a"]}, "counts": {"a": 1}, "point": (1, [2]), "name": "ada",
    }  # fmt: skip
    world.store.calls.clear()
    await session.commit()
    assert world.store.calls == []
    user["roles"].append("b")
    session["counts"]["a"] += 1
    session["point"].y.append(3)
    await session.commit()
    stored = await world.read(token) or {}
    assert stored == {
        "old": 1, "user": {"sub": "1", "roles": ["a", "b"]}, "counts": {"a": 2}, "point": (1, [2, 3]),
        "name": "ada",
    }  # fmt: skip
    assert [type(stored[key]) for key in ("user", "counts", "point", "name")] == [dict, dict, tuple, str]


@pytest.mark.parametrize(
    ("value", "mutable"),
    [
        (Level.LOW, False),
        (Text("x"), False),
        (Amount(1), False),
        (Moment(2026, 1, 1), False),
        (Frozen({1}), False),
        (Point(1, "a"), False),
        (Point(1, Row((Name.ADA,))), False),
        (Point(1, [2]), True),
        (Point(1, Row((Listing(),))), True),
        (Listing(), True),
        (Bag(), True),
        (UserInfo(), True),
        (collections.OrderedDict(), True),
    ],
)
def test_is_mutable(value: Any, mutable: bool) -> None:
    """Promise 3: what is looked at again at commit is decided by the plain type."""
    assert codec.is_mutable(value) is mutable


@pytest.mark.parametrize("nanosecond", [1, 999, float("nan")])
def test_nanoseconds_are_refused(nanosecond: float) -> None:
    """What would lose precision is refused, and so is pandas' NaT, a datetime that is none."""
    with pytest.raises(SessionSerializationError, match=r"session\['cart'\]\[0\] .*nanoseconds.*round it"):
        store([stamp(nanosecond)])


class Odd(str):
    """Different from all others in Python, although it may have the same text."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class OddNumber(int):
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class Keyable(list[Any]):
    def __hash__(self) -> int:  # type: ignore[override]
        return 1


@pytest.mark.parametrize(
    "value",
    [
        {Odd("a"): 1, Odd("a"): 2},
        {Odd("a"): 1, "a": 2},
        {Odd("a"), "a"},
        frozenset({(1, Odd("a")), (1, "a")}),
        {OddNumber(1), True},
        {OddNumber(1): 1, 1.0: 2},
        {Keyable([1]): 1},
        {Keyable([1])},
    ],
)
def test_keys_that_would_not_stay_apart_are_refused(value: Any) -> None:
    """What would come back with fewer elements, or not at all, is refused."""
    with pytest.raises(SessionSerializationError, match=r"session\['cart'\] has dict keys or set elements"):
        store({"a": [value]})
    store({"a": [{Odd("a"): 1, Odd("b"): 2, OddNumber(1): 3}]})


class Endless(dict[str, Any]):
    def items(self) -> Any:
        return {"again": Endless()}.items()


class Broken(dict[str, Any]):
    def items(self) -> Any:
        raise KeyError("the secret")


class Pairless(dict[str, Any]):
    def items(self) -> Any:
        return [1, 2]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Endless(), "nests deeper than 64"),
        ([Broken()], r"\[0\] is a .*Broken whose items\(\) failed \(KeyError\); store a plain dict"),
        (Pairless(), r"is a .*Pairless whose items\(\) failed \(TypeError\)"),
        ({"a": Text("\ud800")}, r"\[...\] cannot be stored: .*surrogates"),
    ],
)
def test_hostile_subclasses(value: Any, says: str) -> None:
    """A subclass that has no end, no pairs or an error of its own is refused by its place and type."""
    with pytest.raises(SessionSerializationError, match=says) as caught:
        store(value)
    assert "the secret" not in str(caught.value)


async def test_a_session_in_itself_is_refused() -> None:
    """A session is a dict, too: another one is stored as a plain dict, itself not at all."""
    world = World()
    session = await world.load(await world.new(a=1))
    other = await world.load(await world.new(b={"c": 1}))
    session["other"] = other
    await session.commit()
    assert (await world.read(credential(session)) or {})["other"] == {"b": {"c": 1}}  # type: ignore[arg-type]
    session["self"] = session
    with pytest.raises(SessionSerializationError, match="contains itself"):
        await session.commit()


def test_while_the_clock_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """freezegun puts classes of its own in the place of datetime and date, in every module."""
    real, day = dates.datetime, dates.date

    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

    class FakeDatetime(real, metaclass=Meta):
        @classmethod
        def now(cls, tz: dates.tzinfo | None = None) -> Any:
            return cls(2026, 1, 2, 3, tzinfo=tz)

    class FakeDate(day):
        pass

    for name, value in list(vars(codec).items()):
        if value is real:
            monkeypatch.setattr(codec, name, FakeDatetime)
        elif value is day:
            monkeypatch.setattr(codec, name, FakeDate)
    stored = [FakeDatetime.now(UTC), FakeDate(2026, 1, 2), real(2026, 1, 2), day(2026, 1, 2)]
    loaded = codec.decode(store(stored))
    assert loaded == [real(2026, 1, 2, 3, tzinfo=UTC), day(2026, 1, 2), real(2026, 1, 2), day(2026, 1, 2)]
    assert [type(value) for value in loaded] == [real, day, real, day]


def subclassed(inner: Values) -> Values:
    return st.one_of(
        st.lists(inner, max_size=3).map(Listing),
        st.lists(inner, max_size=3).map(lambda items: Row(items)),
        st.dictionaries(st.text(max_size=5).map(Text), inner, max_size=3).map(collections.OrderedDict),
        st.sets(st.text(max_size=5).map(Text) | st.integers().map(Whole), max_size=3).map(Frozen),
        st.datetimes().map(lambda moment: Moment.combine(moment.date(), moment.time())),
        st.binary(max_size=5).map(Octets),
        st.integers().map(Whole),
        st.text(max_size=5).map(Markup),
        inner,
    )


@given(st.recursive(values, subclassed, max_leaves=8))
def test_round_trip(value: Any) -> None:
    """What is stored reads the same ever after: encoded again, the plain value has the same bytes."""
    data = codec.encode(value, "k")
    codec.check(value, "k", codec.encode(value, "k"))
    again = codec.decode(data)
    shape(again)  # plain types alone
    assert codec.encode(again, "k") == data
    codec.check(again, "k", codec.encode(again, "k"))

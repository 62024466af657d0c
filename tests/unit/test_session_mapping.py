"""A loaded session is a dict: to every reader, every mutator, and every serializer that takes dicts."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import pprint
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import jinja2
import msgspec
import orjson
import pydantic
import pydantic_core
import pytest
from fastapi.encoders import jsonable_encoder
from starlette.responses import JSONResponse

from asgi_session import Session, SessionSerializationError
from tests.unit.world import World

VALUES: dict[str, Any] = {"a": 1, "b": [1, {"x": None}], "c": "text"}


@pytest.fixture
async def world() -> World:
    return World()


@pytest.fixture
async def session(world: World) -> Session:
    return await world.load(await world.create(**VALUES))


def matched(session: Session) -> Any:
    match session:
        case {"b": [1, inner], **rest}:
            return inner, rest
    return None


class Form(pydantic.BaseModel):
    a: int
    b: list[Any]
    c: str


def updated(session: Session) -> dict[str, Any]:
    plain: dict[str, Any] = {"a": 0, "z": 1}
    plain.update(session)
    return plain


def keywords(**values: Any) -> dict[str, Any]:
    return values


READERS: dict[str, tuple[Callable[[Session], Any], Any]] = {
    "getitem": (lambda s: s["b"], VALUES["b"]),
    "get": (lambda s: (s.get("b"), s.get("z"), s.get("z", 5)), (VALUES["b"], None, 5)),
    "in": (lambda s: ("a" in s, "z" in s), (True, False)),
    "len": (len, 3),
    "bool": (bool, True),
    "iter": (list, ["a", "b", "c"]),
    "reversed": (lambda s: list(reversed(s)), ["c", "b", "a"]),
    "keys": (lambda s: list(s.keys()), ["a", "b", "c"]),
    "values": (lambda s: list(s.values()), list(VALUES.values())),
    "items": (lambda s: list(s.items()), list(VALUES.items())),
    "keys as set": (lambda s: s.keys() & {"a", "z"}, {"a"}),
    "value in values": (lambda s: "text" in s.values(), True),
    "pair in items": (lambda s: (("a", 1) in s.items(), ("a", 2) in s.items()), (True, False)),
    "copy": (lambda s: s.copy(), VALUES),
    "copy.copy": (copy.copy, VALUES),
    "copy.deepcopy": (copy.deepcopy, VALUES),
    "dict()": (dict, VALUES),
    "**": (lambda s: {**s, "z": 1}, VALUES | {"z": 1}),
    "keywords": (lambda s: keywords(**s), VALUES),
    "== dict": (lambda s: (s == VALUES, VALUES == s, s != VALUES, s == {}), (True, True, False, False)),  # noqa: SIM300
    "== itself": (lambda s: (s == s, s != s), (True, False)),
    "== others": (lambda s: (s == 5, s != 5, s == None), (False, True, False)),  # noqa: E711
    "| dict": (lambda s: s | {"a": 2}, VALUES | {"a": 2}),
    "dict |": (lambda s: {"a": 2, "z": 3} | s, {"a": 1, "z": 3, "b": VALUES["b"], "c": "text"}),
    "| itself": (lambda s: s | s, VALUES),
    "dict.update": (updated, {"z": 1} | VALUES),
    "match": (matched, ({"x": None}, {"a": 1, "c": "text"})),
    "sorted": (sorted, ["a", "b", "c"]),
    "json": (lambda s: json.loads(json.dumps(s)), VALUES),
    "json sorted": (lambda s: json.dumps(s, sort_keys=True), json.dumps(VALUES, sort_keys=True)),
    "json indented": (lambda s: json.dumps(s, indent=2), json.dumps(VALUES, indent=2)),
    "json inside": (lambda s: json.dumps({"s": [s]}), json.dumps({"s": [VALUES]})),
    "JSONResponse": (lambda s: json.loads(bytes(JSONResponse({"s": s}).body)), {"s": VALUES}),
    "jsonable_encoder": (jsonable_encoder, VALUES),
    "jinja2 items": (
        lambda s: jinja2.Template("{% for k, v in s.items() %}{{ k }}={{ v }};{% endfor %}").render(s=s),
        "a=1;b=[1, {'x': None}];c=text;",
    ),
    "jinja2 attribute": (
        lambda s: jinja2.Template("{{ s.a }} {{ s['c'] }} {{ s.z }}").render(s=s),
        "1 text ",
    ),
    "jinja2 tojson": (lambda s: jinja2.Template("{{ s | tojson }}").render(s=s), json.dumps(VALUES)),
    "pydantic model": (lambda s: Form.model_validate(s).model_dump(), VALUES),
    "pydantic dict": (lambda s: pydantic.TypeAdapter(dict[str, Any]).validate_python(s), VALUES),
    "format": (lambda s: "{b[0]}".format_map(s), "1"),
    "orjson": (lambda s: orjson.loads(orjson.dumps(dict(s))), VALUES),
    "msgspec": (lambda s: msgspec.json.decode(msgspec.json.encode(dict(s))), VALUES),
}


@pytest.mark.parametrize("name", READERS)
async def test_readers(name: str, world: World, session: Session) -> None:
    """Promise 3: every way of reading shows decoded values, and none of them is a change."""
    reader, expected = READERS[name]
    result = reader(session)
    assert result == expected
    assert type(result) is not Session
    assert reader(session) == expected  # once more, now that values are decoded
    assert not session.modified
    assert session.accessed
    await world.respond(session)
    assert world.store.counts() == {"load": 1}


def test_it_is_a_dict() -> None:
    """What asks for a dict or a mapping takes a session; it cannot be hashed, like any dict."""
    session = World().request()
    assert isinstance(session, dict)
    assert isinstance(session, Mapping)
    assert isinstance(session, MutableMapping)
    with pytest.raises(TypeError, match="unhashable"):
        hash(session)


async def test_two_sessions_compare_by_content(world: World) -> None:
    """Sessions are equal when their contents are, decoded or not."""
    one, other = [await world.load(await world.create(**VALUES)) for _ in range(2)]
    assert one == other
    other["z"] = 1
    assert one != other
    assert one | other == other


async def test_copies_are_plain_and_apart(session: Session) -> None:
    """A copy is a plain dict; a deep one shares nothing with the session."""
    deep = copy.deepcopy(session)
    deep["b"].append(9)
    assert (type(deep), type(session.copy()), type(copy.copy(session))) == (dict, dict, dict)
    assert session == VALUES
    session.copy()["b"].append(2)  # a shallow one does share
    assert session.modified


async def test_dict_order_is_kept(world: World) -> None:
    """Keys come in the order in which they were set, also when loaded again."""
    cookie = await world.create(z=1, a=2, m=3)
    assert list(await world.load(cookie)) == ["z", "a", "m"]


class Key(enum.StrEnum):
    A = "a"
    Z = "z"


class OldKey(str, enum.Enum):  # noqa: UP042  (its str() is not its text)
    A = "a"
    Z = "z"


MUTATORS: dict[str, tuple[Callable[[Session], Any], Callable[[dict[str, Any]], Any]]] = {
    "set": (lambda s: s.__setitem__("a", 2), lambda d: d.__setitem__("a", 2)),
    "set new": (lambda s: s.__setitem__("z", 2), lambda d: d.__setitem__("z", 2)),
    "del": (lambda s: s.__delitem__("a"), lambda d: d.__delitem__("a")),
    "pop": (lambda s: s.pop("b"), lambda d: d.pop("b")),
    "pop absent": (lambda s: s.pop("z", 5), lambda d: d.pop("z", 5)),
    "popitem": (lambda s: s.popitem(), lambda d: d.popitem()),
    "setdefault": (lambda s: s.setdefault("z", []), lambda d: d.setdefault("z", [])),
    "setdefault none": (lambda s: s.setdefault("z"), lambda d: d.setdefault("z")),
    "setdefault present": (lambda s: s.setdefault("b", 1), lambda d: d.setdefault("b", 1)),
    "update": (lambda s: s.update({"a": 5}, z=6), lambda d: d.update({"a": 5}, z=6)),
    "update pairs": (lambda s: s.update([("a", 5)]), lambda d: d.update([("a", 5)])),
    "update nothing": (lambda s: s.update(), lambda d: d.update()),
    "|=": (lambda s: s.__ior__({"a": 5, "z": 6}), lambda d: d.__ior__({"a": 5, "z": 6})),
    "nested append": (lambda s: s["b"].append(3), lambda d: d["b"].append(3)),
    "nested deep": (lambda s: s["b"][1].update(y=1), lambda d: d["b"][1].update(y=1)),
    "nested through get": (lambda s: s.get("b").clear(), lambda d: d["b"].clear()),
    "nested through values": (
        lambda s: [v.extend("z") for v in s.values() if isinstance(v, list)],  # type: ignore[func-returns-value]
        lambda d: [v.extend("z") for v in d.values() if isinstance(v, list)],  # type: ignore[func-returns-value]
    ),
    "nested through a copy": (lambda s: dict(s)["b"].append(1), lambda d: d["b"].append(1)),
    "move": (lambda s: s.__setitem__("z", s.pop("b")), lambda d: d.__setitem__("z", d.pop("b"))),
    "StrEnum set": (lambda s: s.__setitem__(Key.Z, 1), lambda d: d.__setitem__("z", 1)),
    "StrEnum nested": (lambda s: s.pop(Key.A), lambda d: d.pop("a")),
    "str enum set": (lambda s: s.__setitem__(OldKey.Z, 1), lambda d: d.__setitem__("z", 1)),
    "str enum del": (lambda s: s.__delitem__(OldKey.A), lambda d: d.__delitem__("a")),
    "str enum update": (lambda s: s.update({OldKey.A: 3}), lambda d: d.update({"a": 3})),
    "empty it": (
        lambda s: [s.popitem() for _ in range(3)],
        lambda d: [d.popitem() for _ in range(3)],
    ),
}


@pytest.mark.parametrize("name", MUTATORS)
async def test_mutators(name: str, world: World) -> None:
    """Promise 3: every way of changing a session does what it does to a dict, and is saved."""
    cookie = await world.create(**VALUES)
    session = await world.load(cookie)
    expected = copy.deepcopy(VALUES)
    mutate, reference = MUTATORS[name]
    result, wanted = mutate(session), reference(expected)
    assert result == wanted
    assert session == expected
    assert session.modified == (expected != VALUES)
    await world.respond(session)
    assert not session.modified
    assert world.store.counts().get("save", 0) == (expected != VALUES)
    assert await world.stored(cookie) == expected
    assert all(type(key) is str for key in session)


async def test_absent_keys(session: Session) -> None:
    """What is not there is a KeyError, as with a dict, and no change."""
    for attempt in (lambda: session["z"], lambda: session.pop("z"), lambda: session.__delitem__("z")):
        with pytest.raises(KeyError):
            attempt()
    assert not session.modified
    for _ in range(3):
        session.popitem()
    with pytest.raises(KeyError, match="empty"):
        session.popitem()


@pytest.mark.parametrize("key", [1, None, ("a",), b"a"])
async def test_keys_are_text(key: Any, session: Session) -> None:
    """Another key is refused at once, by name and type; nothing is changed."""
    for attempt in (
        lambda: session.__setitem__(key, 1),
        lambda: session.setdefault(key, 1),
        lambda: session.update({key: 1}),
        lambda: session.__ior__({key: 1}),
    ):
        with pytest.raises(SessionSerializationError, match=f"keys are str, not {type(key).__name__}"):
            attempt()
    assert session == VALUES
    assert not session.modified


async def test_text_subclasses_read_as_their_text(world: World, session: Session) -> None:
    """A key that is an enum member reads the value, and a change inside that value is saved."""
    session[OldKey.A]
    assert (session[Key.A], session.get(OldKey.A), Key.A in session) == (1, 1, True)
    cookie = await world.create(a=[1])
    later = await world.load(cookie)
    later[OldKey.A].append(2)
    await later.commit()
    assert [type(key) for key in world.events[-1][1]["keys"]] == [str]
    assert await world.stored(cookie) == {"a": [1, 2]}


async def test_what_cannot_be_stored_is_named_at_commit(world: World, session: Session) -> None:
    """A value of a foreign type fails the commit by its key, and nothing is written."""
    session["ok"] = 1
    session["bad"] = {"deep": [object()]}
    assert session.modified
    with pytest.raises(
        SessionSerializationError, match=r"session\['bad'\]\[\.\.\.\]\[0\] is a builtins.object"
    ):
        await session.commit()
    assert world.store.counts() == {"load": 1}
    del session["bad"]
    await session.commit()
    assert session == VALUES | {"ok": 1}


async def test_a_key_that_is_not_unicode_fails_alone(world: World) -> None:
    """A key with a lone surrogate fails its own commit, and no other in the same batch."""
    cookie = await world.create(a=1)
    one, other = await world.load(cookie), await world.load(cookie)
    one["\ud800"] = 1
    with pytest.raises(SessionSerializationError, match="Unicode"):
        await one.commit()
    fresh = await world.load()
    fresh["\ud800"] = 1
    with pytest.raises(SessionSerializationError, match="Unicode"):
        await fresh.commit()
    other["b"] = 2
    await other.commit()
    assert await world.stored(cookie) == {"a": 1, "b": 2}


PEEKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "orjson": orjson.dumps,
    "msgspec json": msgspec.json.encode,
    "msgspec msgpack": msgspec.msgpack.encode,
    "pydantic json": pydantic_core.to_json,
    "pydantic dump": lambda s: pydantic.TypeAdapter(dict[str, Any]).dump_json(s),
    "pydantic dump inside": lambda s: pydantic.TypeAdapter(Any).dump_json({"s": [s]}),
    "pydantic jsonable": pydantic_core.to_jsonable_python,
}


@pytest.mark.parametrize("name", PEEKERS)
@pytest.mark.parametrize("loaded", [True, False])
async def test_what_reads_storage_directly_fails_loudly(name: str, loaded: bool, world: World) -> None:
    """Serializers that pass the methods by say `dict(session)`, and never give {} or a wrong value."""
    cookie = await world.create(**VALUES)
    for session in (world.request(cookie), world.request()) if not loaded else (await world.load(cookie),):
        with pytest.raises(Exception, match=r"dict\(session\)"):
            PEEKERS[name](session)
    session = await world.load(cookie)
    assert PEEKERS[name](dict(session))


async def test_pickling_is_refused(session: Session) -> None:
    """A session belongs to one request; a pickled one would be a copy that saves nothing."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=r"Pickle dict\(session\)"):
            pickle.dumps(session, protocol)
    assert pickle.loads(pickle.dumps(dict(session))) == VALUES
    with pytest.raises(TypeError, match=r"dict\.fromkeys"):
        Session.fromkeys("ab")


async def test_repr_shows_no_values(world: World) -> None:
    """Promise 9: printing a session shows its state, id and keys, never values, and loads nothing."""
    cookie = await world.create(password="hunter2")
    for session in (world.request(cookie), await world.load(cookie)):
        for text in (repr(session), str(session), f"{session}", pprint.pformat(session), repr([session])):
            assert "hunter2" not in text
            assert cookie[22:] not in text
    unloaded = world.request(cookie)
    world.store.calls.clear()
    assert repr(unloaded) == "<Session unloaded>"
    assert not unloaded.accessed
    loaded = await world.load(cookie)
    assert repr(loaded) == f"<Session live id={cookie[:22]} keys=['password']>"
    for view in (loaded.keys(), loaded.values(), loaded.items()):
        assert "hunter2" not in repr(view)
    assert repr(await world.load()) == "<Session new keys=[]>"


async def test_views_can_be_reversed() -> None:
    """reversed() works on the session and on its views, as on a dict's."""
    session = await World().load()
    session.update(a=1, b=[2])
    assert list(reversed(session)) == ["b", "a"]
    assert list(reversed(session.keys())) == ["b", "a"]
    assert list(reversed(session.values())) == [[2], 1]
    assert list(reversed(session.items())) == [("b", [2]), ("a", 1)]

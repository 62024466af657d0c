"""Several requests of one client against a model: dicts, merged by key, mine wins."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from asgi_session import Session
from tests.inside import is_placeholder
from tests.unit.values import shape
from tests.unit.world import World

KEYS = st.sampled_from(["a", "b", "c", "d"])
LEAVES = st.integers(0, 3) | st.sampled_from(["x", "y", None, True])
VALUES = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=2),
    st.dictionaries(st.sampled_from("pq"), st.lists(LEAVES, max_size=2), max_size=2),
    st.tuples(LEAVES, st.lists(LEAVES, max_size=1)),
    st.sets(st.integers(0, 3), max_size=2),
)
ABSENT: Any = object()


def same(one: Any, other: Any) -> bool:
    return (one is ABSENT and other is ABSENT) or (
        one is not ABSENT and other is not ABSENT and shape(one) == shape(other)
    )


class Request:
    """One request's session, and what the model expects of it.

    Attributes:
        shown: what the session shows: the very objects for keys that were handed out.
        origin: what each shown value was when it was loaded or last committed.
        read: keys whose values were handed out, or set.
    """

    def __init__(self, session: Session, stored: dict[str, Any]) -> None:
        self.session = session
        self.origin = copy.deepcopy(stored)
        self.shown = copy.deepcopy(stored)
        self.read: set[str] = set()

    def changes(self) -> dict[str, Any]:
        """Return what a commit should write; ABSENT for what it should delete."""
        return {
            key: self.shown.get(key, ABSENT)
            for key in {*self.shown, *self.origin}
            if not same(self.shown.get(key, ABSENT), self.origin.get(key, ABSENT))
        }


class Sessions(RuleBasedStateMachine):
    """Requests that load, read, change, commit and refresh in any order."""

    requests = Bundle("requests")

    @initialize(content=st.dictionaries(KEYS, VALUES, max_size=4))
    def begin(self, content: dict[str, Any]) -> None:
        self.loop = asyncio.new_event_loop()
        self.run = self.loop.run_until_complete
        self.world = World()
        self.cookie = self.run(self.world.create(**content, seed=0))
        self.stored = {**copy.deepcopy(content), "seed": 0}

    def teardown(self) -> None:
        self.run(self.world.manager.drain())
        self.loop.close()

    # ---------------------------------------------------------------- the request

    @rule(target=requests)
    def load(self) -> Request:
        return Request(self.run(self.world.load(self.cookie)), self.stored)

    @rule(request=consumes(requests))
    def end(self, request: Request) -> None:
        self._commit(request)

    @rule(request=requests, key=KEYS)
    def read(self, request: Request, key: str) -> None:
        value = request.session.get(key, ABSENT)
        assert not is_placeholder(value)
        assert same(value, request.shown.get(key, ABSENT))
        if value is not ABSENT:
            if key in request.read:
                assert value is request.shown[key]  # what was handed out stays
            request.shown[key] = value
            request.read.add(key)

    @rule(request=requests)
    def read_all(self, request: Request) -> None:
        contents = dict(request.session)
        assert shape(dict(sorted(contents.items()))) == shape(dict(sorted(request.shown.items())))
        for key in contents:
            if key != "seed":
                self.read(request, key)

    @rule(request=requests, key=KEYS, value=VALUES)
    def put(self, request: Request, key: str, value: Any) -> None:
        value = copy.deepcopy(value)
        request.session[key] = request.shown[key] = value
        request.read.add(key)

    @rule(request=requests, key=KEYS, other=KEYS)
    def alias(self, request: Request, key: str, other: str) -> None:
        """One object under two keys."""
        if key in request.shown and key != other:
            self.read(request, key)
            request.session[other] = request.shown[other] = request.session[key]
            request.read.add(other)

    @rule(request=requests, key=KEYS)
    def delete(self, request: Request, key: str) -> None:
        value = request.session.pop(key, ABSENT)
        assert same(value, request.shown.pop(key, ABSENT))
        request.read.discard(key)

    @rule(request=requests, key=KEYS, leaf=LEAVES)
    def change_inside(self, request: Request, key: str, leaf: Any) -> None:
        """Change a value in place; the model holds the very same object."""
        if key not in request.shown:
            return
        self.read(request, key)
        value = request.session[key]
        if type(value) is tuple:
            value = value[1]
        if type(value) is list:
            value.append(leaf)
        elif type(value) is set:
            value ^= {7}
        elif type(value) is dict:
            value.setdefault("p", []).append(leaf)

    # ---------------------------------------------------------------- the store

    @rule(request=requests)
    def commit(self, request: Request) -> None:
        self._commit(request)

    def _commit(self, request: Request) -> None:
        changes = request.changes()
        assert request.session.modified == bool(changes)
        before = self.world.store.counts().get("save", 0)
        self.run(request.session.commit())
        saves = self.world.store.counts().get("save", 0) - before
        assert saves in ((1, 2) if changes else (0,))  # Promise 2; the second after a conflict
        assert not request.session.modified
        self._note_commit(request, changes)

    def _note_commit(self, request: Request, changes: dict[str, Any]) -> None:
        for key, value in changes.items():
            if value is ABSENT:
                self.stored.pop(key, None)
                request.origin.pop(key, None)
            else:
                self.stored[key] = copy.deepcopy(value)
                request.origin[key] = copy.deepcopy(value)
        if changes:
            self._take_over(request, changes, handed_out=False)

    def _take_over(self, request: Request, changes: dict[str, Any], *, handed_out: bool) -> None:
        for key in {*request.origin, *request.shown, *self.stored} - changes.keys():
            if key in request.read and (not handed_out or key not in request.origin):
                continue
            if same(request.origin.get(key, ABSENT), self.stored.get(key, ABSENT)):
                continue
            if key not in request.shown and key in request.origin:
                continue
            request.read.discard(key)
            for mine in (request.shown, request.origin):
                mine.pop(key, None)
                if key in self.stored:
                    mine[key] = copy.deepcopy(self.stored[key])

    @rule(request=requests)
    def refresh(self, request: Request) -> None:
        changes = request.changes()
        self.run(request.session.refresh())
        self._take_over(request, changes, handed_out=True)
        for key in changes:  # from now on they are changes of what is there by now
            request.origin.pop(key, None)
            if key in self.stored:
                request.origin[key] = copy.deepcopy(self.stored[key])

    @rule(key=KEYS, value=VALUES)
    def another_process_writes(self, key: str, value: Any) -> None:
        self.run(self.world.write(self.cookie, **{key: value}))
        if value is None:
            self.stored.pop(key, None)
        else:
            self.stored[key] = copy.deepcopy(value)

    @rule(one=requests, other=requests)
    def commit_together(self, one: Request, other: Request) -> None:
        """Two requests commit at the same moment; the second's changes come later."""
        if one is other:
            return
        mine, theirs = one.changes(), other.changes()

        async def both() -> None:
            await asyncio.gather(one.session.commit(), other.session.commit())

        self.run(both())
        self._note_commit(one, mine)
        self._note_commit(other, theirs)
        # Whether the first one has seen the second one's depends on whether they left in one save.
        self.refresh(one)
        self.refresh(other)

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        """Promises 3 and 4."""
        stored = self.run(self.world.stored(self.cookie))
        assert shape(dict(sorted(stored.items()))) == shape(dict(sorted(self.stored.items())))


Sessions.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSessions = Sessions.TestCase

"""`MovingStore`, explored: every order in which the steps of several processes at their stages meet.

A step is one verb of one of the two stores. It is the real code that makes the steps: each process is a
coroutine that is run anew with the answers that it has got so far, up to the question that it asks next.
So a state is the two stores and everybody's answers. What the processes were told is then compared with
one record: there must be an order of the verbs, none before one that had been answered when it began, in
which that record gives the same answers (they are linearizable). Verbs whose outcome is unknown, or that
stop in the middle as in a crash, may be in it or not.

``python -m tests.stores.moving.model`` prints what `test_model.py` explores, ``--long`` more.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Saved, Store, Stored
from asgi_session.stores import MovingStore
from asgi_session.stores.moving import markers
from asgi_session.stores.moving.protocol import Moving
from tests.identity.exploring import Explored, Step, explore

KEY = "k" * 22
SOON, FAR, AFTER = 100, 10**9, 200
"""When records expire, and what the time is once it has passed."""

# --------------------------------------------------------------------------- the two stores


class Question(NamedTuple):
    """A verb of one of the two stores."""

    where: str
    verb: str
    data: bytes = b""
    expires_at: int = 0
    expect: Stored | None = None

    def __await__(self) -> Generator[Question, Any, Any]:
        return (yield self)

    @property
    def writes(self) -> bool:
        return self.verb != "load"


class Asking:
    """A store whose verbs are questions."""

    def __init__(self, where: str) -> None:
        self.where = where

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def load(self, key: str, *, deadline: float) -> Any:
        return await Question(self.where, "load")

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> Any:
        return await Question(self.where, "create", data, expires_at)

    async def save(self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float) -> Any:
        return await Question(self.where, "save", data, expires_at, expect)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> Any:
        return await Question(self.where, "touch", b"", expires_at, expect)

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> Any:
        return await Question(self.where, "delete", expect=expect)


def carried_out(record: Stored | None, question: Question, clock: int) -> tuple[Any, Stored | None]:
    """Return a store's answer, and what it has then."""
    current = record if record is not None and record.expires_at > clock else None
    same = current is not None and question.expect is not None and current.tag == question.expect.tag
    made: Stored | None = Stored(question.data, question.data[:16], question.expires_at)
    if question.expires_at <= clock:
        made = None
    match question.verb:
        case "load":
            return current, record
        case "create":
            return (Saved(question.data[:16]), made) if current is None else (TAKEN, record)
        case "save":
            if current is None:
                return GONE, record
            return (Saved(question.data[:16]), made) if same else (Conflict(current), record)
        case "touch":
            if current is None or not same:
                return False, record
            return True, Stored(current.data, current.tag, question.expires_at)
        case _:
            if current is None or not (same or question.expect is None):
                return False, record
            return True, None


# --------------------------------------------------------------------------- processes


class Quiet(MovingStore):
    """One that needs no event loop."""

    def _verb(self) -> Any:
        return contextlib.nullcontext()


class Rules(NamedTuple):
    """What the protocol consists of; the controls leave something out."""

    moving: type[Moving] = Moving
    store: type[Quiet] = Quiet
    on_its_way: Callable[[object, object], bool] | None = None


OURS = Rules()


def at_stage(stage: str, rules: Rules) -> Store:
    """Return the store that a process of this stage has."""
    old, new = Asking("old"), Asking("new")
    match stage:
        case "old":
            return old
        case "new":
            return new
        case _:
            made = rules.store(new=new, old=old, moves=stage == "moves", clock=int)
            made._moving = rules.moving(new, old, moves=stage == "moves", clock=int)
            return made


class Event(NamedTuple):
    """A verb began, or was answered."""

    process: int
    verb: str
    data: bytes
    expect: bytes | None
    answer: Any = None
    answered: bool = False


class Noting:
    """A store that notes which verbs begin and what they are answered."""

    def __init__(self, store: Store, process: int) -> None:
        self.store, self.process = store, process
        self.events: list[Event] = []
        self._made = 0

    def new(self, body: bytes) -> bytes:
        """Return data that nobody else makes."""
        self._made += 1
        return f"{self.process}.{self._made}".ljust(16).encode() + body

    async def _do(
        self, verb: str, data: bytes, expect: Stored | None, doing: Awaitable[Any], *, of: str = ""
    ) -> Any:
        about = Event(self.process, verb, data, None if expect is None else expect.data)
        self.events.append(about)
        try:
            answer = await doing
        except StoreUnavailable as error:
            self.events.append(about._replace(answer=("error", error.executed), answered=True))
            raise
        plain = answer
        if isinstance(answer, Conflict):
            plain = ("conflict", answer.current.data)
        elif isinstance(answer, Saved):
            plain = "saved"
        elif isinstance(answer, Stored):
            plain = answer.data
        self.events.append(about._replace(answer=plain, answered=True))
        return answer

    async def load(self) -> Stored | None:
        return await self._do("load", b"", None, self.store.load(KEY, deadline=1e18))  # type: ignore[no-any-return]

    async def create(self, data: bytes) -> Any:
        return await self._do("create", data, None, self.store.create(KEY, data, FAR, deadline=1e18))

    async def save(self, data: bytes, expect: Stored) -> Any:
        doing = self.store.save(KEY, data, FAR, expect=expect, deadline=1e18)
        return await self._do("save", data, expect, doing)

    async def touch(self, expect: Stored) -> Any:
        return await self._do("touch", b"", expect, self.store.touch(KEY, FAR, expect=expect, deadline=1e18))

    async def delete(self, expect: Stored | None = None) -> Any:
        doing = self.store.delete(KEY, expect=expect, deadline=1e18)
        return await self._do("delete", b"", expect, doing)


Script = Callable[[Noting], Coroutine[Any, Any, None]]


async def read(store: Noting) -> None:
    await store.load()


async def add(store: Noting) -> None:
    """Merge something into the record, as a request does."""
    version = await store.load()
    while version is not None:
        data = store.new(version.data[16:] + b"+%d" % store.process)
        result = await store.save(data, version)
        if not isinstance(result, Conflict):
            break
        version = result.current


async def make(store: Noting) -> None:
    """Create the record, or merge into the one that is there."""
    data = store.new(b"+%d" % store.process)
    if await store.create(data) is TAKEN:
        await add(store)


async def remake(store: Noting) -> None:
    """Delete the record and create another."""
    await store.delete()
    await store.create(store.new(b"another"))


async def delete(store: Noting) -> None:
    await store.delete()


async def end(store: Noting) -> None:
    """Delete the version that was read."""
    version = await store.load()
    if version is not None:
        await store.delete(version)


async def touch(store: Noting) -> None:
    version = await store.load()
    if version is not None:
        await store.touch(version)


class Life(NamedTuple):
    """How far a process has come: what it asks next, and what it has been told."""

    asks: Question | None
    events: tuple[Event, ...]


@cache
def lived(stage: str, script: Script, process: int, answers: tuple[Any, ...], rules: Rules) -> Life:
    """Run a process with the answers that it has got."""
    drawn = 0

    def draw(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return f"marker {process}.{drawn}".ljust(size).encode()

    noting = Noting(at_stage(stage, rules), process)
    running = script(noting)
    real, markers.os = markers.os, SimpleNamespace(urandom=draw)  # type: ignore[assignment]
    try:
        asks: Question | None = running.send(None)
        for answer in answers:
            if isinstance(answer, tuple):
                asks = running.throw(StoreUnavailable("lost", executed=None))
            else:
                asks = running.send(answer)
    except (StopIteration, StoreUnavailable):
        asks = None
    finally:
        markers.os = real
        running.close()
    return Life(asks, tuple(noting.events))


# --------------------------------------------------------------------------- states


class World(NamedTuple):
    new: Stored | None
    old: Stored | None
    answers: tuple[tuple[Any, ...], ...]
    noted: tuple[int, ...]
    log: tuple[Event, ...] = ()
    clock: int = 0
    losses: int = 0
    expiries: int = 0


TIME = -1
"""The process that lets time pass."""


_LEFT = Stored(b"left".ljust(16) + markers.forward()[16:], b"left".ljust(16), FAR)
"""What a move the other way has left in the store that was the old one then."""


class Scenario(NamedTuple):
    """Which processes do what, from which stage on.

    `lies` says where the record is: "new", "old", or "back": in the old store, after a move the other way.
    """

    name: str
    processes: tuple[tuple[str, Script], ...]
    lies: str = ""
    losses: int = 0
    expiries: int = 0

    def explore(self, rules: Rules = OURS) -> Explored:
        first = Stored(b"first".ljust(16), b"first".ljust(16), SOON if self.expiries else FAR)
        start = World(
            {"new": first, "back": _LEFT}.get(self.lies),
            first if self.lies in ("old", "back") else None,
            ((),) * len(self.processes),
            (0,) * len(self.processes),
            losses=self.losses,
            expiries=self.expiries,
        )
        on_its_way = rules.on_its_way
        with _patched(on_its_way):
            return explore(
                start, lambda world: self._steps(world, rules), lambda world: self._check(world, rules)
            )

    def _steps(self, world: World, rules: Rules) -> Iterator[Step[World]]:
        for process, (stage, script) in enumerate(self.processes):
            answers = world.answers[process]
            asks, events = lived(stage, script, process, answers, rules)
            if asks is None:
                continue
            log = world.log + events[world.noted[process] :]
            record = world.new if asks.where == "new" else world.old
            answer, after = carried_out(record, asks, world.clock)
            ways = [("", answer, after)]
            if world.losses and asks.writes:
                ways += [(" (request lost)", ("lost",), record), (" (reply lost)", ("lost",), after)]
            for how, told, becomes in ways:
                life = lived(stage, script, process, (*answers, told), rules)
                # The beginning of the next verb is noted only when it makes its first step.
                known = len(life.events)
                if life.events and not life.events[-1].answered:
                    known = max(known - 1, len(events))
                yield Step(
                    f"{process} ({stage}) {asks.verb} in {asks.where}{how}",
                    world._replace(
                        **{asks.where: becomes},
                        answers=_put(world.answers, process, (*answers, told)),
                        noted=_put(world.noted, process, known),
                        log=log + life.events[len(events) : known],
                        losses=world.losses - bool(how),
                    ),
                )
        if world.expiries:
            passing = Event(TIME, "time", b"", None)
            log = (*world.log, passing, passing._replace(answered=True))
            yield Step("time passes", world._replace(clock=AFTER, expiries=0, log=log))

    def _check(self, world: World, rules: Rules) -> str:
        """Stop here, and look with fresh eyes, at each stage."""
        here = [each for each in (world.new, world.old) if each is not None and each.expires_at > world.clock]
        if sum(markers.read(each) is None for each in here) == 2:
            return "the record is in both stores"
        for stage in dict.fromkeys(stage for stage, _ in self.processes):
            log = world.log + _seen(stage, world.new, world.old, world.clock, len(self.processes), rules)
            if not linearizable(log, self.lies != ""):
                return f"no order explains what was seen, at last by {stage}: {log}"
        return ""


@contextlib.contextmanager
def _patched(on_its_way: Callable[[object, object], bool] | None) -> Iterator[None]:
    from asgi_session.stores.moving import protocol

    real = protocol._on_its_way
    protocol._on_its_way = on_its_way or real
    try:
        yield
    finally:
        protocol._on_its_way = real


@cache
def _seen(
    stage: str, new: Stored | None, old: Stored | None, clock: int, process: int, rules: Rules
) -> tuple[Event, ...]:
    """What a process that comes now reads."""
    stores = {"new": new, "old": old}
    answers: tuple[Any, ...] = ()
    while True:
        asks, events = lived(stage, read, process, answers, rules)
        if asks is None:
            return events
        answer, stores[asks.where] = carried_out(stores[asks.where], asks, clock)
        answers = (*answers, answer)


def _put(values: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*values[:at], value, *values[at + 1 :])


# --------------------------------------------------------------------------- one record


class Done(NamedTuple):
    """A verb, from the event at which it began to the one at which it was answered."""

    verb: Event
    began: int
    ended: int | None


@cache
def linearizable(log: tuple[Event, ...], lies: bool) -> bool:
    """Whether one record, in some order, gives these answers."""
    done: list[Done] = []
    open_: dict[int, int] = {}
    for at, event in enumerate(log):
        if not event.answered:
            open_[event.process] = at
            continue
        began = open_.pop(event.process)
        if event.answer == ("error", False):
            continue
        unknown = event.answer == ("error", None)
        done.append(Done(event._replace(answered=not unknown), began, None if unknown else at))
    done += [Done(log[at], at, None) for at in open_.values()]
    start = (b"first".ljust(16), True) if lies else (None, False)
    return _ordered(tuple(done), start)


def _ordered(left: tuple[Done, ...], record: tuple[bytes | None, bool]) -> bool:
    ends = [each.ended for each in left if each.ended is not None]
    if not ends:
        return True
    first = min(ends)
    for at, each in enumerate(left):
        if each.began > first:
            continue
        for after in _applied(each.verb, record):
            if _ordered(left[:at] + left[at + 1 :], after):
                return True
    return False


def _applied(event: Event, record: tuple[bytes | None, bool]) -> Iterator[tuple[bytes | None, bool]]:
    """What the record may be after a verb that has answered this; nothing, if it cannot have."""
    data, expires = record
    match event.verb:
        case "time":
            yield (None, False) if expires else record
            return
        case "load":
            answer: Any = data
            after: tuple[bytes | None, bool] = record
        case "create":
            answer, after = ("saved", (event.data, False)) if data is None else (TAKEN, record)
        case "save":
            if data is None:
                answer, after = GONE, record
            elif data == event.expect:
                answer, after = "saved", (event.data, False)
            else:
                answer, after = ("conflict", data), record
        case "touch":
            answer = data is not None and data == event.expect
            after = (data, False) if answer else record
        case _:
            answer = data is not None and event.expect in (None, data)
            after = (None, False) if answer else record
    if not event.answered or event.answer == answer:
        yield after


# --------------------------------------------------------------------------- scenarios

OLD, READS, MOVES, NEW = "old", "reads", "moves", "new"

SCENARIOS = (
    # The old store alone, and beside it the first deployment.
    Scenario("old add | reads add | reads delete", ((OLD, add), (READS, add), (READS, delete)), "old", 1),
    Scenario("old make | reads make", ((OLD, make), (READS, make)), "", 1),
    Scenario("old end | reads add | reads touch", ((OLD, end), (READS, add), (READS, touch)), "old"),
    Scenario("reads remake | old add", ((READS, remake), (OLD, add)), "old", 1),
    # The first deployment, and beside it the second.
    Scenario("reads add | moves add", ((READS, add), (MOVES, add)), "old", 1),
    Scenario("reads delete | moves add", ((READS, delete), (MOVES, add)), "old", 1),
    Scenario("reads add | moves end", ((READS, add), (MOVES, end)), "old", 1),
    Scenario("reads end | moves read | reads read", ((READS, end), (MOVES, read), (READS, read)), "old"),
    Scenario("reads make | moves make", ((READS, make), (MOVES, make)), "", 1),
    Scenario("reads make | moves read", ((READS, make), (MOVES, read)), "", 1),
    Scenario("reads make | moves remake", ((READS, make), (MOVES, remake)), "old"),
    Scenario("reads remake | moves read", ((READS, remake), (MOVES, read)), "old", 1),
    Scenario("reads remake | moves add", ((READS, remake), (MOVES, add)), "new"),
    Scenario("reads touch | moves read", ((READS, touch), (MOVES, read)), "old", 1),
    Scenario("reads add | moves read, expiring", ((READS, add), (MOVES, read)), "old", 0, 1),
    Scenario("reads make | moves add, expiring", ((READS, make), (MOVES, add)), "old", 0, 1),
    # The second deployment.
    Scenario("moves add | moves add", ((MOVES, add), (MOVES, add)), "old", 1),
    Scenario("moves remake | moves read", ((MOVES, remake), (MOVES, read)), "old", 1),
    Scenario("moves remake | moves add", ((MOVES, remake), (MOVES, add)), "old"),
    Scenario("moves make | moves make", ((MOVES, make), (MOVES, make)), "", 1),
    Scenario("moves read | moves read, expiring", ((MOVES, read), (MOVES, read)), "old", 1, 1),
    # A move back, while there are markers of the first one.
    Scenario("reads add | moves add, back", ((READS, add), (MOVES, add)), "back", 1),
    Scenario("reads remake | moves read, back", ((READS, remake), (MOVES, read)), "back", 1),
    Scenario("moves read | moves end, back", ((MOVES, read), (MOVES, end)), "back", 1),
    # And beside it the new store alone, once the old one has no record left.
    Scenario("moves make | new make", ((MOVES, make), (NEW, make)), "", 1),
    Scenario("moves add | new add | new delete", ((MOVES, add), (NEW, add), (NEW, delete)), "new", 1),
    Scenario("moves remake | new add", ((MOVES, remake), (NEW, add)), "new", 1),
)


LONG = (
    Scenario("reads add | moves read | moves read", ((READS, add), (MOVES, read), (MOVES, read)), "old"),
    Scenario(
        "moves delete | moves read | moves read", ((MOVES, delete), (MOVES, read), (MOVES, read)), "old"
    ),
)
"""Minutes of states, together."""


class CopiesFirst(Moving):
    """Creates in the new store, then deletes in the old one."""

    async def _move(self, key: str, there: Stored | None, left: Stored, deadline: float) -> None:
        await self.new.create(key, left.data, left.expires_at, deadline=deadline)
        await self.old.delete(key, expect=left, deadline=deadline)


class DeletesFirst(Moving):
    """Deletes in the old store, then creates in the new one."""

    async def _move(self, key: str, there: Stored | None, left: Stored, deadline: float) -> None:
        if await self.old.delete(key, expect=left, deadline=deadline):
            await self.new.create(key, left.data, left.expires_at, deadline=deadline)


class MarksFirst(Moving):
    """Marks the record in the old store, then creates it in the new one, without a place."""

    async def _move(self, key: str, there: Stored | None, left: Stored, deadline: float) -> None:
        data = markers.transit(bytes(16), left)
        sent = await self.old.save(key, data, FAR, expect=left, deadline=deadline)
        if isinstance(sent, Saved):
            await self.new.create(key, left.data, left.expires_at, deadline=deadline)

    async def find(self, key: str, deadline: float, *, as_it_is: bool = False) -> Any:
        left = await self.old.load(key, deadline=deadline)
        there = await self.new.load(key, deadline=deadline)
        marker = markers.read(left)
        if there is None and isinstance(marker, markers.Transit):  # it looks as if that has stopped
            await self.new.create(key, marker.data, marker.expires_at, deadline=deadline)
        return await super().find(key, deadline, as_it_is=as_it_is)


class Removes(Moving):
    """Removes what is left in the old store, at once."""

    async def _forward(self, key: str, left: Stored, deadline: float) -> bool:
        return await self.old.delete(key, expect=left, deadline=deadline)


class Unfenced(Moving):
    """Creates in the new store when it has seen that the old one has nothing."""

    async def _fence(self, key: str, deadline: float) -> bool:
        return await self.old.load(key, deadline=deadline) is None


class Blind(Quiet):
    """Creates in the old store without a look into the new one."""

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> Any:
        if self._moving.moves:
            return await super().create(key, data, expires_at, deadline=deadline)
        made = await self.old.create(key, data, expires_at, deadline=deadline)
        return Saved(b"o" + made.tag) if isinstance(made, Saved) else made


class Hasty(Moving):
    """Asks the new store, then the old one, and does not look again."""

    async def find(self, key: str, deadline: float, *, as_it_is: bool = False) -> Any:
        if self.moves:
            there = await self.new.load(key, deadline=deadline)
            left = await self.old.load(key, deadline=deadline)
            if there is None and isinstance(markers.read(left), markers.Forward):
                return None
        return await super().find(key, deadline, as_it_is=as_it_is)


def any_place(marker: object, place: object) -> bool:
    return isinstance(marker, markers.Transit) and isinstance(place, markers.Place)


class Control(NamedTuple):
    """A simpler protocol, and where it breaks."""

    name: str
    rules: Rules
    scenario: Scenario


_MOVES_MOVES = Scenario("", ((MOVES, read), (MOVES, add)), "old")
_DELETED = Scenario("", ((MOVES, delete), (MOVES, read), (MOVES, read)), "old")
CONTROLS = (
    Control("create in the new one, delete in the old", Rules(CopiesFirst), _MOVES_MOVES),
    Control("delete in the old one, create in the new", Rules(DeletesFirst), _MOVES_MOVES),
    Control("mark in the old one, create in the new", Rules(MarksFirst), _DELETED),
    Control("no marker is left", Rules(Removes), Scenario("", ((READS, make), (MOVES, read)), "old")),
    Control("create without a fence", Rules(Unfenced), Scenario("", ((READS, make), (MOVES, make)))),
    Control("create without a look", Rules(store=Blind), Scenario("", ((READS, make), (MOVES, read)), "new")),
    Control("no second look", Rules(Hasty), Scenario("", ((MOVES, read), (MOVES, read)), "old")),
    Control("any place will do", Rules(on_its_way=any_place),
            Scenario("", ((MOVES, read), (MOVES, remake), (MOVES, read)), "old")),
    Control("the second deployment beside the old store", Rules(),
            Scenario("", ((OLD, add), (MOVES, read)), "old")),
    Control("the first deployment beside the new store", Rules(),
            Scenario("", ((READS, make), (NEW, make)))),
)  # fmt: skip


def main() -> None:
    for scenario in SCENARIOS + (LONG if "--long" in sys.argv else ()):
        print(f"{scenario.name:45} {scenario.explore()}", flush=True)
    for control in CONTROLS:
        print(f"{control.name:45} {control.scenario.explore(control.rules)}", flush=True)


if __name__ == "__main__":
    main()

"""Have what several processes do happen in every order that makes a difference, step by step.

A step is a verb of the store, or the beginning of an act. Of orders that differ only in steps that do not
touch one another (two loads; verbs of two records) one is run: sleep sets (Godefroid, "Partial-Order Methods
for the Verification of Concurrent Systems", chapter 5). What is random in a run must not decide who goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Final, NamedTuple, TypeVar

from asgi_session.errors import StoreUnavailable
from asgi_session.store import CreateResult, SaveResult, Stored
from asgi_session.stores.memory import MemoryStore
from tests.manager.explorer import quiet

T = TypeVar("T")

_act: Final[ContextVar[str]] = ContextVar("act", default="")
BEGIN: Final = "begin"
_OF_SESSIONS: Final = frozenset("AQgw")
"""What the keys of sessions end in; those of indexes end in others."""


class Step(NamedTuple):
    """A step that can be made.

    Attributes:
        act: whose.
        number: of the act's steps.
        verb: "begin", or what is asked of the store.
        key: a name for the store's key, the same in every run.
        of_index: whether that is an index's.
    """

    act: str
    number: int
    verb: str
    key: str
    of_index: bool

    def __str__(self) -> str:
        return f"{self.act} {self.verb} {self.key}"

    def commutes_with(self, other: Step) -> bool:
        """Tell whether it makes no difference, to the store or the witness, which of two comes first."""
        if self.act == other.act or BEGIN in (self.verb, other.verb):
            return False
        if self.verb == other.verb == "load":
            return True
        if self.key == other.key:
            return False
        # A sign-in is answered after a verb of the index, and what lives then is counted.
        return not any(
            one.of_index and another.verb in ("delete", "save")
            for one, another in ((self, other), (other, self))
        )


class Pruned(Exception):
    """Every order that begins like this was run already, but for steps that commute."""


class _Node:
    def __init__(self, enabled: list[Step], asleep: set[Step]) -> None:
        self.enabled = enabled
        self.asleep = asleep
        self.chosen = enabled[0]

    def choose(self) -> bool:
        """Choose the next step that is not asleep; whether there is one."""
        for step in self.enabled:
            if step not in self.asleep:
                self.chosen = step
                return True
        return False

    def after(self) -> set[Step]:
        return {step for step in self.asleep if step.commutes_with(self.chosen)}


class Orders:
    """The orders that were run, and the next one to run. One after the other, depth first."""

    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._depth = 0

    def begin(self) -> None:
        """Begin the next run."""
        self._depth = 0

    def choose(self, enabled: Sequence[Step]) -> Step:
        """Return which of the steps comes next in this run."""
        if self._depth < len(self._nodes):
            node = self._nodes[self._depth]
            assert node.enabled == list(enabled), "a run went another way than the one before it"
        else:
            asleep = self._nodes[-1].after() if self._nodes else set()
            node = _Node(list(enabled), asleep)
            if not node.choose():
                raise Pruned
            self._nodes.append(node)
        self._depth += 1
        return node.chosen

    def next(self) -> bool:
        """Go on to the next order; whether there is one."""
        while self._nodes:
            node = self._nodes[-1]
            node.asleep.add(node.chosen)
            if node.choose():
                return True
            self._nodes.pop()
        return False


class Chance:
    """Chooses at random."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def choose(self, enabled: Sequence[Step]) -> Step:
        """Return which of the steps comes next in this run."""
        return self._random.choice(enabled)


class Stepper:
    """Where acts stop, and who goes on."""

    def __init__(self, choose: Callable[[Sequence[Step]], Step]) -> None:
        self.trace: list[Step] = []
        self.on = False
        self._choose = choose
        self._parked: list[tuple[Step, asyncio.Future[None]]] = []
        self._made: dict[str, int] = {}
        self._keys: dict[str, str] = {}

    async def stop(self, verb: str, key: str = "") -> None:
        """Wait until this act may make its step."""
        act = _act.get()
        if not (self.on and act):
            return
        made = self._made[act] = self._made.get(act, 0) + 1
        of_index = bool(key) and key[-1] not in _OF_SESSIONS
        name = self._keys.setdefault(key, f"{'index' if of_index else 'session'} {len(self._keys)}")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parked.append((Step(act, made, verb, name, of_index), future))
        await future

    async def walk(self, acts: dict[str, Awaitable[object]]) -> None:
        """Have the acts done, step by step, with all that follows from them."""
        self.on = True
        tasks = [asyncio.create_task(self._run(name, work)) for name, work in acts.items()]
        try:
            async with asyncio.timeout(10):
                while True:
                    await quiet()
                    if self._parked:
                        self._parked.sort(key=lambda parked: parked[0])
                        chosen = self._choose([step for step, _ in self._parked])
                        at = next(at for at, (step, _) in enumerate(self._parked) if step == chosen)
                        _, future = self._parked.pop(at)
                        self.trace.append(chosen)
                        future.set_result(None)
                    elif all(task.done() for task in tasks):
                        break
                    else:
                        await asyncio.sleep(0.001)
        except BaseException:
            for task in tasks:
                task.cancel()
            self.on = False
            while self._parked:
                for _, future in self._parked:
                    future.cancel()
                self._parked.clear()
                await quiet()
            raise
        self.on = False
        for task in tasks:
            task.result()

    async def _run(self, name: str, work: Awaitable[object]) -> None:
        _act.set(name)
        await self.stop(BEGIN)
        await work


class SteppingStore:
    """A store whose verbs stop before they execute and, with `replies`, before they reply.

    Attributes:
        tick: is called before each verb.
        trouble: by its chance one in twelve verbs is refused, or its request or reply is lost.
    """

    def __init__(self, memory: MemoryStore, stepper: Stepper, *, replies: bool) -> None:
        self.memory, self.stepper, self.replies = memory, stepper, replies
        self.tick: Callable[[], object] = bool
        self.trouble: random.Random | None = None

    async def _run(self, name: str, key: str, verb: Callable[[], Awaitable[T]]) -> T:
        await self.stepper.stop(name, key)
        if self.stepper.on:
            self.tick()
        fault = ""
        if self.trouble is not None and self.stepper.on and self.trouble.random() < 1 / 12:
            fault = self.trouble.choice(("refused", "lost request", "lost reply"))
        if fault in ("refused", "lost request"):
            raise StoreUnavailable(fault, executed=False if fault == "refused" else None)
        result = await verb()
        if self.replies:
            await self.stepper.stop(f"{name} reply", key)
        if fault:
            raise StoreUnavailable(fault, executed=None)
        return result

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        return await self._run("load", key, lambda: self.memory.load(key, deadline=deadline))

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        return await self._run(
            "create", key, lambda: self.memory.create(key, data, expires_at, deadline=deadline)
        )

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        return await self._run(
            "save", key, lambda: self.memory.save(key, data, expires_at, expect=expect, deadline=deadline)
        )

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        return await self._run(
            "touch", key, lambda: self.memory.touch(key, expires_at, expect=expect, deadline=deadline)
        )

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        return await self._run(
            "delete", key, lambda: self.memory.delete(key, expect=expect, deadline=deadline)
        )

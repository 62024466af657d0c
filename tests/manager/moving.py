"""First requests with one old cookie, under orders of their store verbs and responses, and with kills.

Each request has a process of its own. It stops before each verb and before its response arrives; who goes on
is chosen by whoever explores. A request that is killed does nothing any more. One that waits for another goes
on when something was written, or, when nobody else can go on, after a minute.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from asgi_session import Session, SessionManager
from asgi_session.store import CreateResult, SaveResult, Stored
from asgi_session.stores.memory import MemoryStore
from tests.app.moving import Handler, Jar, moved, nothing
from tests.inside import pause_of_who_waits
from tests.manager.explorer import quiet
from tests.manager.kit import World

_request: ContextVar[str] = ContextVar("request", default="")
Choose = Callable[[int, int], int]
"""Chooses who goes on: given the number of the step and how many can."""


class Killed(BaseException):
    """The request's process was killed."""


class Steps:
    """Where requests stop, who goes on, and who is killed before which of their own steps."""

    def __init__(self, choose: Choose, kills: dict[str, int]) -> None:
        self.choose, self.kills = choose, kills
        self.on = False
        self.widths: list[int] = []
        self.trace: list[str] = []
        self.writes = 0
        self.minute: Callable[[], object] = int
        self._counts: dict[str, int] = {}
        self._parked: list[tuple[str, Callable[[], bool], asyncio.Future[None]]] = []

    async def stop(self, what: str, can_go: Callable[[], bool] = lambda: True) -> None:
        request = _request.get()
        if not self.on or not request:
            return
        self._counts[request] = count = self._counts.get(request, 0) + 1
        if request in self.kills and count > self.kills[request]:
            raise Killed
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parked.append((f"{request} {what}", can_go, future))
        await future

    async def pause(self, tries: int, deadline: float) -> bool:
        """Stand for the pause of who waits for another."""
        seen = self.writes
        await self.stop("wait", lambda: self.writes != seen)
        return True

    async def walk(self, tasks: list[asyncio.Task[None]]) -> None:
        """Let one after the other go on, until all have ended."""
        self.on = True
        async with asyncio.timeout(20):
            while True:
                await quiet()
                ready = sorted((one for one in self._parked if one[1]()), key=lambda one: one[0])
                if not ready:
                    if not self._parked:
                        if all(task.done() for task in tasks):
                            break
                        await asyncio.sleep(0.001)
                        continue
                    self.minute()
                    ready = sorted(self._parked, key=lambda one: one[0])
                chosen = self.choose(len(self.widths), len(ready))
                self.widths.append(len(ready))
                self._parked.remove(ready[chosen])
                self.trace.append(ready[chosen][0])
                ready[chosen][2].set_result(None)
        self.on = False


class SteppedStore:
    """A store whose verbs stop before they execute."""

    def __init__(self, memory: MemoryStore, steps: Steps) -> None:
        self.memory, self.steps = memory, steps

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        await self.steps.stop("load")
        return await self.memory.load(key, deadline=deadline)

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        await self.steps.stop("create")
        self.steps.writes += 1
        return await self.memory.create(key, data, expires_at, deadline=deadline)

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        await self.steps.stop("save")
        self.steps.writes += 1
        return await self.memory.save(key, data, expires_at, expect=expect, deadline=deadline)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        await self.steps.stop("touch")
        return await self.memory.touch(key, expires_at, expect=expect, deadline=deadline)

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        await self.steps.stop("delete")
        self.steps.writes += 1
        return await self.memory.delete(key, expect=expect, deadline=deadline)


@dataclass
class Run:
    """One order, and what came of it.

    Attributes:
        jars: each request's browser, as its response has left it; only of those that were answered.
        found: what each request has found.
        done: when each response arrived, and each other piece of work ended: the length of the trace.
        begun: when each other piece of work began.
    """

    world: World
    steps: Steps
    old: Jar
    jars: dict[str, Jar] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(f"kills: {self.steps.kills}; steps: {', '.join(self.steps.trace)}")

    async def later(self, jar: Jar | None = None) -> dict[str, Any]:
        """Return what a later request finds, by a process of its own; with the old cookie, if no other."""
        manager = SessionManager(self.world.memory, clock=self.world.clock, **self.world.options)
        found: dict[str, Any] = {}

        async def look(session: Session) -> None:
            found.update(await session.load())

        await (jar or self.old.copy()).get(moved(manager, look))
        await manager.drain()
        return found

    def tokens(self) -> set[str | None]:
        """Return the credentials that were handed out."""
        return {jar.new for jar in self.jars.values()}


Work = Callable[[Run, SessionManager], Awaitable[None]]


def request(name: str, handler: Handler = nothing, then: Handler | None = None) -> Work:
    """Return a request with the old cookie, and perhaps another of the same browser, once it has come."""

    async def work(run: Run, manager: SessionManager) -> None:
        jar = run.old.copy()

        async def look(session: Session) -> None:
            run.found[name] = dict(await session.load())
            await handler(session)  # type: ignore[misc]

        await jar.get(moved(manager, look))
        await run.steps.stop("respond")
        assert jar.status == 200
        run.jars[name] = jar
        run.done[name] = len(run.steps.trace)
        if then is not None:
            await jar.get(moved(manager, then))
            await run.steps.stop("respond")
            assert jar.status == 200
            run.done[f"{name} then"] = len(run.steps.trace)

    return work


async def explored(
    old: Jar,
    work: dict[str, Work],
    choose: Choose,
    monkeypatch: Any,
    kills: dict[str, int] | None = None,
    **options: Any,
) -> Run:
    """Run pieces of work, each in a process of its own, in one order."""
    steps = Steps(choose, kills or {})
    world = World(lambda memory: SteppedStore(memory, steps), **options)
    run = Run(world, steps, old)
    steps.minute = lambda: world.clock.advance(60)
    pause_of_who_waits(monkeypatch, steps.pause)
    managers = {name: world.process() for name in work}

    async def begin(name: str) -> None:
        _request.set(name)
        run.begun[name] = len(steps.trace)
        try:
            await work[name](run, managers[name])
            run.done.setdefault(name, len(steps.trace))
        except (Killed, asyncio.CancelledError):
            assert name in steps.kills

    await steps.walk([asyncio.create_task(begin(name)) for name in work])
    for name, manager in managers.items():
        if name not in steps.kills:
            await manager.drain()
    return run


async def every_order(old: Jar, work: dict[str, Work], monkeypatch: Any, **options: Any) -> list[Run]:
    """Return a run for each order there is."""
    runs: list[Run] = []
    choices: list[int] | None = []
    while choices is not None:
        taken = choices
        run = await explored(old, work, _as_told(taken), monkeypatch, **options)
        runs.append(run)
        choices = _after([*taken, *[0] * len(run.steps.widths)], run.steps.widths)
    return runs


def _as_told(choices: list[int]) -> Choose:
    return lambda at, _: choices[at] if at < len(choices) else 0


def _after(taken: list[int], widths: list[int]) -> list[int] | None:
    taken = taken[: len(widths)]
    while taken:
        if taken[-1] + 1 < widths[len(taken) - 1]:
            return [*taken[:-1], taken[-1] + 1]
        taken.pop()
    return None


def drawn(seed: int) -> Choose:
    """Return choices that are drawn."""
    chance = random.Random(seed)
    return lambda _, width: chance.randrange(width)

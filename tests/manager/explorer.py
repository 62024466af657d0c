"""Run a few requests under every order in which their store verbs and responses can happen.

Each request goes through `SessionMiddleware` and stops before each verb (then it has not executed),
before each reply to a verb (then it has) and before its response arrives at the browser. `explore`
lets them go on one by one, in every order there is; a browser's cookie jar takes what arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sized
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from asgi_session import Session, SessionManager, SessionMiddleware
from asgi_session.errors import StoreUnavailable
from asgi_session.store import CreateResult, SaveResult, Stored
from asgi_session.stores.memory import MemoryStore
from tests.inside import COOKIE_NAME, keys_in
from tests.manager.kit import World

T = TypeVar("T")
Handler: TypeAlias = Callable[[Session], Awaitable[None]]

_request: ContextVar[str] = ContextVar("request", default="")


class Steps:
    """Where requests stop, and the choice of who goes on."""

    def __init__(self, choices: list[int]) -> None:
        self.choices = choices
        self.widths: list[int] = []
        self.trace: list[str] = []
        self.on = False
        self._parked: list[tuple[str, asyncio.Future[None]]] = []

    async def stop(self, what: str) -> None:
        request = _request.get()
        if self.on and request:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._parked.append((f"{request} {what}", future))
            await future

    async def walk(self, tasks: list[asyncio.Task[None]]) -> None:
        """Let one after the other go on, as `choices` say and then the first, until all have ended."""
        self.on = True
        async with asyncio.timeout(10):
            while True:
                await quiet()
                if not self._parked:
                    if all(task.done() for task in tasks):
                        break
                    await asyncio.sleep(0.001)
                    continue
                self._parked.sort(key=lambda parked: parked[0])
                step = len(self.widths)
                chosen = self.choices[step] if step < len(self.choices) else 0
                self.widths.append(len(self._parked))
                name, future = self._parked.pop(chosen)
                self.trace.append(name)
                future.set_result(None)
        self.on = False
        for task in tasks:
            task.result()

    def next_choices(self) -> list[int] | None:
        """Return the choices of the next order, depth first; None after the last."""
        taken = [*self.choices, *[0] * len(self.widths)][: len(self.widths)]
        while taken:
            if taken[-1] + 1 < self.widths[len(taken) - 1]:
                return [*taken[:-1], taken[-1] + 1]
            taken.pop()
        return None


async def quiet() -> None:
    """Wait until the event loop has nothing ready."""
    ready: Sized = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    while ready:
        await asyncio.sleep(0)


class SteppedStore:
    """A store whose verbs stop before they execute and, unless `coarse`, before they reply.

    The first save's reply to each of the requests `lost` gets lost.
    """

    def __init__(self, memory: MemoryStore, steps: Steps, coarse: bool, lost: set[str]) -> None:
        self.memory, self.steps, self.coarse, self.lost = memory, steps, coarse, set(lost)

    async def _run(self, name: str, verb: Awaitable[T]) -> T:
        await self.steps.stop(name)
        result = await verb
        if not self.coarse:
            await self.steps.stop(f"{name} reply")
        return result

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        return await self._run("load", self.memory.load(key, deadline=deadline))

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        return await self._run("create", self.memory.create(key, data, expires_at, deadline=deadline))

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        saving = self.memory.save(key, data, expires_at, expect=expect, deadline=deadline)
        result = await self._run("save", saving)
        if self.steps.on and _request.get() in self.lost:
            self.lost.remove(_request.get())
            raise StoreUnavailable("the reply was lost", executed=None)
        return result

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        return await self._run("touch", self.memory.touch(key, expires_at, expect=expect, deadline=deadline))

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        return await self._run("delete", self.memory.delete(key, expect=expect, deadline=deadline))


@dataclass
class Run:
    """One order, and what came of it.

    Attributes:
        first: the token that the browser had at the beginning.
        jar: the browser's cookie now.
        arrived: the Set-Cookies in the order of their arrival: request and token, "" for a deletion.
        status: of each request's response.
    """

    world: World
    steps: Steps
    first: str
    jar: str | None
    arrived: list[tuple[str, str]] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Tell in which order a check failed."""
        if error is not None:
            error.add_note(f"steps: {', '.join(self.steps.trace)}; cookies arrived: {self.arrived}")

    async def found(self) -> dict[str, Any] | None:
        """Return what the browser's cookie opens now."""
        return None if self.jar is None else await self.world.read(self.jar)

    async def living(self) -> list[str]:
        """Return the tokens that were handed out and open a session now."""
        tokens = dict.fromkeys([self.first, *(token for _, token in self.arrived if token)])
        return [token for token in tokens if await self.world.read(token) is not None]

    async def records(self) -> list[dict[str, bytes]]:
        """Return the entries of every stored record."""
        found = [await self.world.record(key) for key in keys_in(self.world.memory)]
        return [record.entries for record in found if record is not None]

    def before(self, one: str, other: str) -> bool:
        """Whether step `one` came before step `other`; a step that did not happen comes last."""
        end = len(self.steps.trace)
        place = {name: index for index, name in reversed(list(enumerate(self.steps.trace)))}
        return place.get(one, end) < place.get(other, end)

    def dropped(self) -> set[str]:
        """Return the keys that were reported as dropped."""
        return {key for info in self.world.named("dropped") for key in info["keys"]}


Prepare: TypeAlias = Callable[[World], Awaitable[str]]


def _take_cookie(run: Run, name: str, headers: list[tuple[bytes, bytes]]) -> None:
    for header, value in headers:
        if header == b"set-cookie":
            pair, _, attributes = value.decode().partition(";")
            token = "" if "Max-Age=0;" in attributes else pair.partition("=")[2]
            run.arrived.append((name, token))
            run.jar = token or None


async def _serve(run: Run, name: str, token: str | None, handler: Handler, manager: SessionManager) -> None:
    """Have one request served, and its response arrive."""
    _request.set(name)
    started: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await handler(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.append(message)

    async def receive() -> Any:
        raise AssertionError("these handlers read no body")

    headers = [] if token is None else [(b"cookie", f"{COOKIE_NAME}={token}".encode())]
    scope = {"type": "http", "method": "POST", "scheme": "https", "path": "/", "headers": headers}
    await SessionMiddleware(app, manager)(scope, receive, send)
    await run.steps.stop("respond")
    run.status[name] = started[0]["status"]
    _take_cookie(run, name, started[0]["headers"])


class Explorer:
    """Runs `requests` (name to handler) in every order.

    Args:
        prepare: makes the session whose token all of them carry.
        one_process: they share a manager, so that their saves can meet in one; else each has its own.
        coarse: a verb and its reply are one step, for three requests and more.
        cookies: for requests that carry another token than `prepare` returns; None for none.
        outside: work that is no request, given the world, the token and a manager of its own.
        lost: requests of which the reply to the first save is lost.
    """

    def __init__(
        self,
        prepare: Prepare,
        requests: dict[str, Handler],
        *,
        one_process: bool,
        coarse: bool = False,
        cookies: dict[str, str | None] | None = None,
        outside: dict[str, Callable[[World, str, SessionManager], Awaitable[None]]] | None = None,
        lost: set[str] | None = None,
    ) -> None:
        self.prepare, self.requests, self.coarse = prepare, requests, coarse
        self.lost = lost or set()
        self.one_process, self.cookies, self.outside = one_process, cookies or {}, outside or {}

    async def runs(self) -> AsyncIterator[Run]:
        """Yield a run for each order; thousands that are kept would be the garbage collector's work."""
        choices: list[int] | None = []
        while choices is not None:
            run = await self._run(choices)
            choices = run.steps.next_choices()
            yield run

    async def _run(self, choices: list[int]) -> Run:
        steps = Steps(choices)
        world = World(lambda memory: SteppedStore(memory, steps, self.coarse, self.lost))
        token = await self.prepare(world)
        world.events.clear()
        run = Run(world, steps, token, token)
        tasks = []
        managers = [world.manager]
        for name, handler in self.requests.items():
            manager = world.manager if self.one_process else world.process()
            managers.append(manager)
            carried = self.cookies.get(name, token)
            tasks.append(asyncio.create_task(_serve(run, name, carried, handler, manager)))
        for name, work in self.outside.items():
            tasks.append(asyncio.create_task(_outside(name, work(world, token, world.process()))))
        await steps.walk(tasks)
        for manager in managers:
            await manager.drain()
        return run


async def _outside(name: str, work: Awaitable[None]) -> None:
    _request.set(name)
    await work

"""A store that fails, hangs and waits exactly when a test says so."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from asgi_session.errors import StoreUnavailable
from asgi_session.store import Distrusts, SaveResult, Store, Stored

T = TypeVar("T")

Verb: TypeAlias = Literal["load", "create", "save", "touch", "delete"]
Fault: TypeAlias = Literal["refused", "lost request", "lost reply"]
When: TypeAlias = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Call:
    """A verb that was called, and with what; None where the verb has no such argument."""

    verb: Verb
    key: str
    deadline: float
    data: bytes | None = None
    expires_at: int | None = None
    expect: bytes | None = None


Match: TypeAlias = Callable[[Call], bool]


@dataclass(eq=False)
class _Rule:
    """Applies to `times` calls (None: to all) that match, from the `nth` one on."""

    verb: Verb | None
    nth: int
    times: int | None
    match: Match | None

    def applies(self, call: Call) -> bool:
        if self.verb not in (None, call.verb) or (self.match is not None and not self.match(call)):
            return False
        if self.nth > 1:
            self.nth -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass(eq=False)
class _Failure(_Rule):
    fault: Fault


class Gate(_Rule):
    """A point at which calls wait until the test lets them go on."""

    def __init__(
        self,
        verb: Verb | None,
        nth: int,
        times: int | None,
        match: Match | None,
        when: When,
        obeys_deadline: bool,
    ) -> None:
        super().__init__(verb, nth, times, match)
        self.when: When = when
        self.arrived: int = 0
        """How many calls have come so far."""
        self._obeys_deadline = obeys_deadline
        self._arrival = asyncio.Event()
        self._released = asyncio.Event()

    async def reached(self, count: int = 1) -> None:
        """Wait until `count` calls have come; `TimeoutError` after 5 seconds."""
        async with asyncio.timeout(5):
            while self.arrived < count:
                self._arrival.clear()
                await self._arrival.wait()

    def release(self) -> None:
        """Let go the calls that wait here; later ones pass without waiting."""
        self._released.set()

    async def _wait(self, call: Call) -> None:
        self.arrived += 1
        self._arrival.set()
        until = call.deadline - time.monotonic() if self._obeys_deadline else None
        try:
            async with asyncio.timeout(until):
                await self._released.wait()
        except TimeoutError:
            raise StoreUnavailable(f"injected: {call.verb} hung until the deadline", executed=None) from None


class FaultStore:
    """Wraps a store; without a fault set it behaves exactly like that one.

    `fail`, `hang` and `pause` take the same options:

    * *verb*: the one it is for, or None for any.
    * *nth*: begin with the nth matching call from now; 1.
    * *times*: for how many calls; None means from then on. 1.
    * *match*: only calls for which this is true: ``lambda call: call.key == key``.

    Attributes:
        store: the wrapped store.
        calls: every verb that was called, in order.
        distrusted: the keys for which the connection was to be dropped (see `Distrusts`).

    Example::

        store = FaultStore(MemoryStore())
        store.fail("save", "lost reply")
        gate = store.pause("load", when="after")
        task = asyncio.create_task(...)
        await gate.reached()        # it has read; now something else happens
        gate.release()
        assert store.counts() == {"load": 1, "save": 2}

    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: list[Call] = []
        self.distrusted: list[str] = []
        self._failures: list[_Failure] = []
        self._gates: list[Gate] = []

    def counts(self) -> dict[str, int]:
        """Return how often each verb was called; verbs that were not are left out."""
        return dict(Counter(call.verb for call in self.calls))

    def fail(
        self,
        verb: Verb | None,
        fault: Fault = "refused",
        *,
        nth: int = 1,
        times: int | None = 1,
        match: Match | None = None,
    ) -> None:
        """Raise `StoreUnavailable`.

        "refused": not executed, and the caller knows (``executed=False``); "lost request": not
        executed, but the caller can't know (None); "lost reply": executed, and the caller can't know.
        """
        self._failures.append(_Failure(verb, nth, times, match, fault))

    def hang(
        self,
        verb: Verb | None,
        *,
        when: When = "before",
        nth: int = 1,
        times: int | None = 1,
        match: Match | None = None,
    ) -> Gate:
        """Don't answer, before or after executing the verb, until released or until the deadline.

        The deadline raises `StoreUnavailable` with ``executed=None``.
        """
        return self._add_gate(Gate(verb, nth, times, match, when, obeys_deadline=True))

    def pause(
        self,
        verb: Verb | None,
        *,
        when: When = "before",
        nth: int = 1,
        times: int | None = 1,
        match: Match | None = None,
    ) -> Gate:
        """Hold calls before or after executing the verb until released, whatever the deadline."""
        return self._add_gate(Gate(verb, nth, times, match, when, obeys_deadline=False))

    def heal(self) -> None:
        """Take back every fault and release every gate."""
        for gate in self._gates:
            gate.release()
        self._failures.clear()
        self._gates.clear()

    def _add_gate(self, gate: Gate) -> Gate:
        self._gates.append(gate)
        return gate

    async def _run(self, call: Call, verb: Callable[[], Awaitable[T]]) -> T:
        self.calls.append(call)
        # Every rule counts the call, also those it does not come to.
        gates = [gate for gate in self._gates if gate.applies(call)]
        faults = [failure.fault for failure in self._failures if failure.applies(call)]
        for gate in gates:
            if gate.when == "before":
                await gate._wait(call)
        fault = faults[0] if faults else None
        if fault in ("refused", "lost request"):
            raise StoreUnavailable(
                f"injected: {call.verb} {fault}", executed=False if fault == "refused" else None
            )
        result = await verb()
        for gate in gates:
            if gate.when == "after":
                await gate._wait(call)
        if fault == "lost reply":
            raise StoreUnavailable(f"injected: {call.verb} lost reply", executed=None)
        return result

    async def open(self) -> None:
        """Open the wrapped store."""
        await self.store.open()

    async def close(self) -> None:
        """Close the wrapped store."""
        await self.store.close()

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """See `Store.load`."""
        return await self._run(Call("load", key, deadline), lambda: self.store.load(key, deadline=deadline))

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> bool:
        """See `Store.create`."""
        return await self._run(
            Call("create", key, deadline, data, expires_at),
            lambda: self.store.create(key, data, expires_at, deadline=deadline),
        )

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: bytes, deadline: float
    ) -> SaveResult:
        """See `Store.save`."""
        return await self._run(
            Call("save", key, deadline, data, expires_at, expect),
            lambda: self.store.save(key, data, expires_at, expect=expect, deadline=deadline),
        )

    async def touch(self, key: str, expires_at: int, *, expect: bytes, deadline: float) -> bool:
        """See `Store.touch`."""
        return await self._run(
            Call("touch", key, deadline, None, expires_at, expect),
            lambda: self.store.touch(key, expires_at, expect=expect, deadline=deadline),
        )

    async def delete(self, key: str, *, deadline: float) -> bool:
        """See `Store.delete`."""
        return await self._run(
            Call("delete", key, deadline), lambda: self.store.delete(key, deadline=deadline)
        )

    def distrust(self, key: str) -> None:
        """Note it, and pass it on to a store that can do it."""
        self.distrusted.append(key)
        if isinstance(self.store, Distrusts):
            self.store.distrust(key)

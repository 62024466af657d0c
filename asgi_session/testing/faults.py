"""A store that fails, hangs and waits exactly when a test says so."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar, get_args

from asgi_session.errors import StoreUnavailable
from asgi_session.store import (
    CreateResult,
    Distrusts,
    Heard,
    Reports,
    SaveResult,
    Store,
    Stored,
    TouchesRarely,
    WakesUp,
)

T = TypeVar("T")

_VERBS: Final = ("load", "create", "save", "touch", "delete")
_WRITES: Final = ("create", "save", "touch")

Verb: TypeAlias = Literal["load", "create", "save", "touch", "delete", "listen"]
Fault: TypeAlias = Literal["refused", "lost request", "lost reply", "full"]
When: TypeAlias = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Call:
    """A verb that was called, and with what; None where the verb has no such argument."""

    verb: Verb
    key: str
    deadline: float
    data: bytes | None = None
    expires_at: int | None = None
    expect: Stored | None = None
    wake: tuple[str, ...] | None = None
    """The listeners, if the save was to wake up any."""


Match: TypeAlias = Callable[[Call], bool]


def _check_verb(verb: str | None) -> None:
    if verb is not None and verb not in get_args(Verb):
        raise ValueError(f"there is no verb {verb!r}; there are {', '.join(get_args(Verb))}")


@dataclass(eq=False)
class _Rule:
    """Applies to `times` calls (None: to all) that match, from the `nth` one on."""

    verb: Verb | None
    nth: int
    times: int | None
    match: Match | None

    @property
    def _means(self) -> tuple[Verb, ...]:
        """The verbs that None stands for."""
        return _VERBS

    def applies(self, call: Call) -> bool:
        meant = call.verb in self._means if self.verb is None else self.verb == call.verb
        if not meant or (self.match is not None and not self.match(call)):
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

    @property
    def _means(self) -> tuple[Verb, ...]:
        return _WRITES if self.fault == "full" else _VERBS


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


@dataclass(eq=False)
class _Loss:
    times: int | None
    listener: str | None


class FaultStore:
    """Wraps a store; without a fault set it behaves exactly like that one.

    `fail`, `hang` and `pause` take the same options:

    * *verb*: the one it is for, or None for any. `save_and_wake` is a "save". "listen" is no verb of the
      contract: None does not mean it, and `calls` has it not.
    * *nth*: begin with the nth matching call from now; 1.
    * *times*: for how many calls; None means from then on. 1.
    * *match*: only calls for which this is true: ``lambda call: call.key == key``.

    Attributes:
        store: the wrapped store.
        calls: every verb that was called, in order.
        distrusted: the keys for which the connection was to be dropped (see `Distrusts`).
        wakeups_lost: how many wake-ups `lose_wakeups` has lost.

    It has each of the capabilities `WakesUp`, `Reports` and `TouchesRarely` exactly when the wrapped
    store has it.

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
        self.wakeups_lost = 0
        self._to_lose: list[_Loss] = []
        self._listening: list[Heard] = []
        self._failures: list[_Failure] = []
        self._gates: list[Gate] = []
        if isinstance(store, Reports):
            self.report_to = store.report_to
        if isinstance(store, TouchesRarely):
            self.touch_fraction = store.touch_fraction
        if isinstance(store, WakesUp):
            self._waking = store
            self.save_and_wake = self._save_and_wake
            self.listen = self._listen

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
        executed, but the caller can't know (None); "lost reply": executed, and the caller can't know;
        "full": refused for lack of room, which without a verb means create, save and touch.
        """
        if fault not in get_args(Fault):
            raise ValueError(f"there is no fault {fault!r}; there are {', '.join(get_args(Fault))}")
        _check_verb(verb)
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
        """Take back every fault and loss, and release every gate."""
        for gate in self._gates:
            gate.release()
        self._failures.clear()
        self._gates.clear()
        self._to_lose.clear()

    def lose_wakeups(self, times: int | None = None, *, listener: str | None = None) -> None:
        """Lose the next `times` wake-ups on their way to `listener`, or to any; None: until `heal`.

        Only those to listeners of this very `FaultStore`.
        """
        self._to_lose.append(_Loss(times, listener))

    def interrupt_wakeups(self) -> None:
        """Tell every listener that wake-ups may have been lost, as a store does that has reconnected."""
        for heard in list(self._listening):
            heard(None)

    def _loses(self, listener: str) -> bool:
        for loss in self._to_lose:
            if loss.listener in (None, listener) and loss.times != 0:
                if loss.times is not None:
                    loss.times -= 1
                self.wakeups_lost += 1
                return True
        return False

    def _add_gate(self, gate: Gate) -> Gate:
        _check_verb(gate.verb)
        self._gates.append(gate)
        return gate

    async def _run(self, call: Call, verb: Callable[[], Awaitable[T]]) -> T:
        if call.verb != "listen":
            self.calls.append(call)
        # Every rule counts the call, also those it does not come to.
        gates = [gate for gate in self._gates if gate.applies(call)]
        faults = [failure.fault for failure in self._failures if failure.applies(call)]
        for gate in gates:
            if gate.when == "before":
                await gate._wait(call)
        fault = faults[0] if faults else None
        if fault in ("refused", "lost request", "full"):
            executed = None if fault == "lost request" else False
            raise StoreUnavailable(f"injected: {call.verb} {fault}", executed=executed, full=fault == "full")
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
        self._listening.clear()
        await self.store.close()

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """See `Store.load`."""
        return await self._run(Call("load", key, deadline), lambda: self.store.load(key, deadline=deadline))

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        """See `Store.create`."""
        return await self._run(
            Call("create", key, deadline, data, expires_at),
            lambda: self.store.create(key, data, expires_at, deadline=deadline),
        )

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        """See `Store.save`."""
        return await self._run(
            Call("save", key, deadline, data, expires_at, expect),
            lambda: self.store.save(key, data, expires_at, expect=expect, deadline=deadline),
        )

    async def _save_and_wake(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, wake: Sequence[str], deadline: float
    ) -> SaveResult:
        """See `WakesUp.save_and_wake`."""
        return await self._run(
            Call("save", key, deadline, data, expires_at, expect, tuple(wake)),
            lambda: self._waking.save_and_wake(
                key, data, expires_at, expect=expect, wake=wake, deadline=deadline
            ),
        )

    async def _listen(self, listener: str, heard: Heard, *, deadline: float) -> Callable[[], None]:
        """See `WakesUp.listen`."""

        def passed_on(key: str | None) -> None:
            if key is None or not self._loses(listener):
                heard(key)

        ends: list[Callable[[], None]] = []

        def end() -> None:
            for each in ends:
                each()
            if passed_on in self._listening:
                self._listening.remove(passed_on)

        async def begin() -> None:
            ends.append(await self._waking.listen(listener, passed_on, deadline=deadline))
            self._listening.append(passed_on)

        try:
            await self._run(Call("listen", listener, deadline), begin)
        except BaseException:  # begun perhaps, with nobody who could end it
            end()
            raise
        return end

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        """See `Store.touch`."""
        return await self._run(
            Call("touch", key, deadline, None, expires_at, expect),
            lambda: self.store.touch(key, expires_at, expect=expect, deadline=deadline),
        )

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        """See `Store.delete`."""
        return await self._run(
            Call("delete", key, deadline, expect=expect),
            lambda: self.store.delete(key, expect=expect, deadline=deadline),
        )

    def distrust(self, key: str) -> None:
        """Note it, and pass it on to a store that can do it."""
        self.distrusted.append(key)
        if isinstance(self.store, Distrusts):
            self.store.distrust(key)

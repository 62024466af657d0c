"""Visits every state that a model can reach; finds the shortest way to a broken promise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from time import perf_counter
from typing import Generic, NamedTuple, TypeVar

State = TypeVar("State", bound=Hashable)


class Step(NamedTuple, Generic[State]):
    """A step that a state allows: what it is, where it leads, and the promise that it breaks, if any."""

    label: str
    state: State
    broken: str = ""


class Explored(NamedTuple):
    """What an exploration has found; `broken` and `trace` are empty if every promise was kept."""

    states: int
    seconds: float
    broken: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.states:>9,} states {self.seconds:6.1f} s"
        if not self.broken:
            return f"{head}  every promise kept"
        return "\n      ".join((f"{head}  BROKEN: {self.broken}", *self.trace))


def explore(
    start: State,
    steps: Callable[[State], Iterable[Step[State]]],
    check: Callable[[State], str],
    at_rest: Callable[[State], str] = lambda _: "",
    most: int = 5_000_000,
) -> Explored:
    """Visit every state that `steps` reaches from `start`.

    Args:
        start: a frozen value.
        steps: what may happen next.
        check: the promise that a state breaks, or "".
        at_rest: the same for a state in which nothing can happen any more.
        most: states; an exploration that is not complete shows nothing, so more are an error.
    """
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    waiting = deque([start])
    begun = perf_counter()

    def found(broken: str, state: State, *last: str) -> Explored:
        labels = list(last)
        while (before := came_from[state]) is not None:
            state, label = before
            labels.insert(0, label)
        return Explored(len(came_from), perf_counter() - begun, broken, tuple(labels))

    while waiting:
        state = waiting.popleft()
        anything = False
        for label, reached, broken in steps(state):
            anything = True
            if broken:
                return found(broken, state, label)
            if reached in came_from:
                continue
            if broken := check(reached):
                return found(broken, state, label)
            came_from[reached] = (state, label)
            waiting.append(reached)
            if len(came_from) > most:
                raise AssertionError(f"not complete after {most:,} states")
        if not anything and (broken := at_rest(state)):
            return found(broken, state)
    return Explored(len(came_from), perf_counter() - begun)

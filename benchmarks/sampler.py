"""Where CPU time goes: stacks, sampled by a signal in the process that does the work.

A timer of CPU time interrupts once a millisecond, or as often as the system's clock ticks (on Linux
often every 4 ms); each stack that is seen gets the same share of the CPU time of the whole. A signal is
handled between two bytecodes: time in C code, a system call or msgpack, counts for the Python function
that called it.
"""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

Stacks = dict[tuple[str, ...], float]
"""Functions, as ``file:function``, outermost first, to what their innermost has used itself."""

_EVERY: Final = 0.001
_ROOTS: Final = sorted(
    {
        str(Path(path).resolve())
        for path in (*sys.path, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
        if path
    },
    key=len,
    reverse=True,
)


class Sampler:
    """Samples the main thread inside a ``with`` block; use it there."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._codes: dict[int, CodeType] = {}
        self._cpu = 0.0

    def __enter__(self) -> Sampler:
        self._before = signal.signal(signal.SIGPROF, self._sample)
        self._cpu = -time.process_time()
        signal.setitimer(signal.ITIMER_PROF, _EVERY, _EVERY)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self._before)
        self._cpu += time.process_time()

    def _sample(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is _OWN:
            return  # a signal that came while the one before was handled
        stack: list[int] = []
        while frame is not None:
            code = frame.f_code
            self._codes[id(code)] = code
            stack.append(id(code))
            frame = frame.f_back
        self._seen[tuple(stack)] += 1

    def stacks(self) -> Stacks:
        """Return seconds of CPU by stack, without the functions that all stacks begin with."""
        each = self._cpu / max(self._seen.total(), 1)
        found: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for codes, times in self._seen.items():
            found[tuple(_name(self._codes[code]) for code in reversed(codes))] += times * each
        shared, shortest = 0, min(map(len, found), default=0)
        while shared + 2 <= shortest and len({stack[: shared + 2] for stack in found}) == 1:
            shared += 1  # the last function that all share is the root
        return {stack[shared:]: seconds for stack, seconds in found.items()}


_OWN: Final = Sampler._sample.__code__


def _name(code: CodeType) -> str:
    """Return ``file:function``, the file as it is imported, so that no path of this machine is in it."""
    path = code.co_filename
    for root in _ROOTS:
        if path.startswith(root + os.sep):
            path = path[len(root) + 1 :]
            break
    else:
        path = os.path.basename(path)
    return f"{path}:{code.co_qualname}".replace(";", ",")


def pruned(stacks: Stacks, least: float) -> Stacks:
    """Return stacks in which calls that used less than `least` are put to their callers' account."""
    totals = inclusive(stacks)
    kept: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for stack, value in stacks.items():
        shown = stack
        while len(shown) > 1 and totals[shown] < least:
            shown = shown[:-1]
        kept[shown] += value
    return dict(kept)


def inclusive(stacks: Stacks) -> Stacks:
    """Return what each call, named by the stack that leads to it, has used with all that it called."""
    totals: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for stack, value in stacks.items():
        for depth in range(1, len(stack) + 1):
            totals[stack[:depth]] += value
    return dict(totals)


def by_function(stacks: Stacks) -> dict[str, tuple[float, float]]:
    """Return what each function has used: itself, and with all that it called."""
    own: defaultdict[str, float] = defaultdict(float)
    whole: defaultdict[str, float] = defaultdict(float)
    for stack, value in stacks.items():
        own[stack[-1]] += value
        for function in set(stack):
            whole[function] += value
    return {function: (own[function], whole[function]) for function in whole}


def by_part(stacks: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return what the functions of each package have used themselves, given (function, value)."""
    parts: defaultdict[str, float] = defaultdict(float)
    for function, value in stacks:
        parts[part_of(function)] += value
    return dict(parts)


def part_of(function: str) -> str:
    """Return the package that a function, as ``file:function``, belongs to."""
    first = function.partition(":")[0].split(os.sep)[0].removesuffix(".py")
    if first in ("asgi_session", "starlette", "redis", "benchmarks"):
        return first
    return "asyncio" if first in ("asyncio", "selectors") else "others"

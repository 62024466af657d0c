"""The way of one request through this library, call by call: ``python -m benchmarks.way [--read|--new]``.

An ordinary request is traced, after some like it, so that what is done only once does not show. One key of
a session that exists is counted up (with ``--read``: read; with ``--new``: a session begins), on the memory
store, in the Starlette app of the benchmarks. Each call of a function of asgi_session is a line, indented
below the call that it is part of; what other packages do in between is left out.

The number beside a file is its height: one more than that of the highest file that it imports. An import
for type checkers only, or inside a function, counts too, unless the other file leads back to this one:
files that know each other have no order to read them by. The way *climbs* where a call goes into a higher
file than the call before it, whether that one makes it or has returned: there a reader who follows the way
has to go back up. Such lines begin with ``^``; a way that went straight down would have none. Most climbs are
returns: a function that has asked one below goes on. Where the lower file itself makes the call (an object
that it was given, a method that a class above overrides), the line begins with ``!``.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import gc
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

PACKAGE: Final = "asgi_session"
_PARTS: Final = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
"""Pieces of a function which, depending on the version of Python, are called like functions."""
_MAY_BE_SUSPENDED: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Call(NamedTuple):
    """One call of a function of the package.

    Attributes:
        depth: how many calls of the package it is part of.
        file: the function's, as a path below the package's directory.
        name: the function's.
        line: where the function begins; two of a file may have one name.
    """

    depth: int
    file: str
    name: str
    line: int


def imports(root: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return what each file of a package imports.

    Args:
        root: the package's directory, which has its name.

    Returns:
        What each imports when it is imported itself; and what only a type checker, or a call, imports.
        Files are named by their paths below `root`.
    """
    modules: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join([root.name, *parts]).removesuffix(".__init__")
        modules[name] = path.relative_to(root).as_posix()
    now: dict[str, set[str]] = {file: set() for file in modules.values()}
    later: dict[str, set[str]] = {file: set() for file in modules.values()}
    for module, file in modules.items():
        tree = ast.parse((root / file).read_text(encoding="utf-8"))
        package = module if file.endswith("__init__.py") else module.rpartition(".")[0]
        for node, at_once in _imports_in(tree.body, at_once=True):
            for name in _names(node, package):
                # `from package import name` may mean a file of that name, or what the package itself has.
                found = modules.get(name) or modules.get(name.rpartition(".")[0])
                if found is not None and found != file:
                    (now if at_once else later)[file].add(found)
    return now, later


def _imports_in(
    body: Iterable[ast.AST], *, at_once: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield the imports below some nodes, and whether importing their file carries them out."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, at_once
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports_in(node.body, at_once=False)
            yield from _imports_in(node.orelse, at_once=at_once)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports_in(ast.iter_child_nodes(node), at_once=at_once and not inside)


def _names(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """Return the full names of what an import in a package imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        above = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" for alias in node.names]


def heights(now: Mapping[str, set[str]], later: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the height of each file; see this module's text.

    Args:
        now: the files that each imports when it is imported.
        later: those that it imports otherwise.
    """
    every = {file: now[file] | later[file] for file in now}
    reached = {file: _reached(every, file) for file in every}
    counted = {
        file: now[file] | {other for other in later[file] if file not in reached[other]} for file in now
    }
    below = {file: _reached(counted, file) for file in counted}
    found: dict[str, int] = {}

    def height(file: str) -> int:
        if file not in found:
            under = [other for other in below[file] if file not in below[other]]
            found[file] = 1 + max(map(height, under), default=0)
        return found[file]

    return {file: height(file) for file in counted}


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Return all files that one comes to from `start`."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        for other in graph[ahead.pop()] - found:
            found.add(other)
            ahead.append(other)
    return found


def climbs(calls: Sequence[Call], height: Mapping[str, int]) -> list[bool]:
    """Return for each call whether the way climbs there."""
    rises = [height[after.file] > height[before.file] for before, after in pairwise(calls)]
    return [False, *rises][: len(calls)]


def from_below(calls: Sequence[Call], height: Mapping[str, int]) -> list[bool]:
    """Return for each call whether a function of a lower file makes it."""
    found: list[bool] = []
    above: list[Call] = []  # the calls that this one is part of
    for call in calls:
        del above[call.depth :]
        found.append(bool(above) and height[call.file] > height[above[-1].file])
        above.append(call)
    return found


class Tracer:
    """Notes the package's calls in this thread, inside a ``with`` block."""

    def __init__(self, root: Path) -> None:
        self.calls: list[Call] = []
        self._inside = str(root) + os.sep
        self._suspended: set[FrameType] = set()

    def __enter__(self) -> Tracer:
        gc.collect()
        gc.disable()  # what the collector would call is no part of the way
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()
        self._suspended.clear()

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not self._ours(code) or frame in self._suspended:
            return
        if code.co_flags & _MAY_BE_SUSPENDED:
            self._suspended.add(frame)  # when it goes on, Python tells of a call once more
        depth = 0
        below = frame.f_back
        while below is not None:
            depth += self._ours(below.f_code)
            below = below.f_back
        file = Path(code.co_filename[len(self._inside) :]).as_posix()
        self.calls.append(Call(depth, file, code.co_qualname, code.co_firstlineno))

    def _ours(self, code: CodeType) -> bool:
        return code.co_filename.startswith(self._inside) and code.co_name not in _PARTS


def root_of_package() -> Path:
    """Return the directory of the package that is traced, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


async def trace(action: str) -> list[Call]:
    """Return the calls of one request that carries out an action of the benchmarks."""
    from benchmarks.client import Browser
    from benchmarks.sessions import USUAL
    from benchmarks.worker import Bed

    bed = Bed("asgi_session_memory", "")
    app = await bed.app(action)
    [browser] = await bed.browsers(1, USUAL)
    for _ in range(3):
        await (Browser() if action == "new" else browser).request(app)
    stranger = Browser()
    with Tracer(root_of_package()) as tracer:
        await (stranger if action == "new" else browser).request(app)
    await bed.close()
    return tracer.calls


def lines(calls: Sequence[Call], height: Mapping[str, int]) -> list[str]:
    """Return a line for each call, and one with the sums."""
    width = max((2 * call.depth + len(call.name) for call in calls), default=0)
    upward, called = climbs(calls, height), from_below(calls, height)
    marks = ["!" if below else "^" if up else " " for below, up in zip(called, upward, strict=True)]
    shown = [
        f"{mark} {'  ' * call.depth + call.name:{width}}  {height[call.file]:2} {call.file}"
        for call, mark in zip(calls, marks, strict=True)
    ]
    functions = {(call.file, call.name, call.line) for call in calls}
    files = {call.file for call in calls}
    climbed = f"{sum(upward)} climbs (^), {sum(called)} of them calls from below (!)"
    sums = f"{len(functions)} functions ({len(calls)} calls), {len(files)} files, {climbed}"
    return [*shown, "", sums]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the way of a request."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.way", description=about.partition(":")[0])
    kinds = parser.add_mutually_exclusive_group()
    for action, what in (
        ("write", "count a key up (the default)"),
        ("read", "read a key"),
        ("new", "begin a session"),
    ):
        kinds.add_argument(f"--{action}", dest="action", action="store_const", const=action, help=what)
    action = parser.parse_args(arguments).action or "write"
    print("\n".join(lines(asyncio.run(trace(action)), heights(*imports(root_of_package())))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

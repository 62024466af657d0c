"""The process in which one layer is measured: ``python -m benchmarks.worker LAYER STORE_URL``.

It is told what to do on standard input, one JSON list a line: the name of an async function as
``module:function`` and its keyword arguments. The function gets a `Bed` first; its result goes back
as a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from benchmarks.actions import ACTIONS
from benchmarks.client import Browser
from benchmarks.layers import Layer, layer

FIRST_USER = 5000
"""The `user_id` of the first browser's session; the next have the numbers that follow."""


class Bed:
    """What a measuring function works with: a layer's apps, and browsers with sessions.

    Attributes:
        layer: the layer's module.
        bare: whether that has no sessions at all.
        revocable: whether a session that was ended is gone, whoever kept its cookie.
        store_url: of the server the sessions are in.
        kept: for what a function wants to find again at its next call.
    """

    def __init__(self, name: str, store_url: str) -> None:
        self.layer: Layer = layer(name)
        self.bare = name == self.layer.BARE
        self.revocable = name != "signed_cookie"
        self.store_url = store_url
        self.kept: dict[Any, Any] = {}
        self._apps: dict[str, Any] = {}
        self._lifespans = contextlib.AsyncExitStack()

    async def app(self, action: str) -> Any:
        """Return the app that carries out an action; it has started."""
        if action not in self._apps:
            app = self.layer.build(ACTIONS[action], self.store_url)
            await self._lifespans.enter_async_context(_lifespan(app))
            self._apps[action] = app
        return self._apps[action]

    async def browsers(self, count: int, size: int) -> list[Browser]:
        """Return `count` browsers with a session of `size` bytes each; made once, then the same again.

        Each session's cookie has come back once: that confirms it, where a layer knows of that.
        """
        if self.bare:
            return [Browser() for _ in range(count)]
        key = ("browsers", count, size)
        if key not in self.kept:
            browsers = [Browser() for _ in range(count)]
            new, read = await self.app("new"), await self.app("read")
            for number, browser in enumerate(browsers):
                await browser.request(new, b"size=%d&user=%d" % (size, FIRST_USER + number))
                await browser.request(read)
            self.kept[key] = browsers
        browsers_kept: list[Browser] = self.kept[key]
        return browsers_kept

    def at_end(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have `close` called when the bed is closed."""
        self._lifespans.push_async_callback(close)

    async def close(self) -> None:
        """Shut the apps down, and whatever else was to be closed."""
        await self._lifespans.aclose()


@contextlib.asynccontextmanager
async def _lifespan(app: Any) -> Any:
    """Run an app's lifespan, as a server does."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task = asyncio.create_task(app(scope, to_app.get, from_app.put))
    for phase in ("startup", "shutdown"):
        await to_app.put({"type": f"lifespan.{phase}"})
        answer = asyncio.ensure_future(from_app.get())
        await asyncio.wait({answer, task}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() or answer.result()["type"] != f"lifespan.{phase}.complete":
            raise RuntimeError(f"{phase} failed: {answer.result() if answer.done() else task}")
        if phase == "startup":
            try:
                yield
            except BaseException:
                task.cancel()
                raise
    await task


class Meter:
    """Measures a stretch of work.

    Attributes:
        cpu: user and system time of this process, seconds.
        wall: time that has gone by, seconds.
    """

    def __init__(self, cpu: float = 0.0, wall: float = 0.0) -> None:
        self.cpu = cpu
        self.wall = wall

    def __enter__(self) -> Meter:
        gc.collect()  # what earlier work has left is not this one's
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu

    def per(self, done: int) -> dict[str, float]:
        """Return CPU µs per piece of work, and pieces per second."""
        return {"cpu": self.cpu / done * 1e6, "rate": done / self.wall}


async def serve(name: str, store_url: str) -> None:
    """Answer each line of standard input."""
    bed = Bed(name, store_url)
    loop = asyncio.get_running_loop()
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a layer prints is no answer
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        where, arguments = json.loads(line)
        module, _, function = where.partition(":")
        try:
            measure: Callable[..., Any] = getattr(import_module(module), function)
            answer = {"result": await measure(bed, **arguments)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    await bed.close()


def end_process(process: subprocess.Popen[str]) -> None:
    """End a process that goes on as long as its standard input is open."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


if __name__ == "__main__":
    if len(sys.argv) > 3 and sys.argv[3] == "uvloop":
        import uvloop

        uvloop.run(serve(*sys.argv[1:3]))
    else:
        asyncio.run(serve(*sys.argv[1:3]))

"""A process that takes orders: one JSON line each on its stdin, one in answer on its stdout."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


class Process:
    """``python -m module arguments...``, ready when it is made; `end` it in any case."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    async def ready(self) -> None:
        """Wait until it takes orders."""
        assert await asyncio.to_thread(self._line) == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise EOFError("the process has died; its error is above")
        return line

    def send(self, do: str, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()

    async def answer(self) -> dict[str, Any]:
        return json.loads(await asyncio.to_thread(self._line))  # type: ignore[no-any-return]

    async def ask(self, do: str, **order: Any) -> dict[str, Any]:
        self.send(do, **order)
        return await self.answer()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; the process is no more when this returns."""
        self._process.kill()
        self._process.wait()
        self._close()

    def end(self) -> None:
        """Let it come to its end, or kill it."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


async def orders(worker: Any) -> None:
    """Carry out what comes in on stdin, by the methods of `worker`, until it is closed."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        answer = await getattr(worker, order.pop("do"))(**order)
        print(json.dumps(answer), flush=True)

"""Other processes, for tests that need several."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class Process:
    """A worker process that takes orders: a line of JSON each, answered with one."""

    def __init__(self, url: str, *keys: str, module: str = "tests.manager.worker") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, url, *keys],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            assert self._line() == "ready"
        except BaseException:
            self.kill()
            raise

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the worker has died; its error is above"
        return line

    def send(self, do: str, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()

    async def answer(self) -> dict[str, Any]:
        return json.loads(await asyncio.to_thread(self._line))  # type: ignore[no-any-return]

    def kill(self) -> None:
        """Kill it, in the middle of what it does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

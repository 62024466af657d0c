"""What the questions measure with: servers, and a process for each layer."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.layers import layer
from benchmarks.worker import end_process
from tests.servers import Cluster, ServerProcess, start_cluster, start_valkey

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def _cores() -> list[int]:
    """Return the cores that we may use, those first that are not two threads of one."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    siblings: dict[int, str] = {}
    for core in sorted(os.sched_getaffinity(0)):
        known = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        siblings[core] = known.read_text() if known.exists() else str(core)
    firsts = {shared: core for core, shared in reversed(siblings.items())}
    return sorted(siblings, key=lambda core: (firsts[siblings[core]] != core, core))


def _raise_limit() -> None:
    """Allow as many sockets as the system lets us: some layers open one for every command at a time."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 65_536 if most == resource.RLIM_INFINITY else most
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _print(what: str, part: float) -> None:
    print(f"{part:4.0%} {what}", file=sys.stderr)


class Bench:
    """One run of the suite.

    Attributes:
        quick: whether rough figures will do; the whole suite then takes less than two minutes.
        cores: the numbers of the CPU cores that we may use; empty where the system does not tell.
        say: shows what is being done, and which part of the question is done (0 to 1).
    """

    def __init__(self, *, quick: bool = False, say: Callable[[str, float], None] = _print) -> None:
        self.quick = quick
        self.say = say
        self.cores = _cores()
        self._stack = contextlib.ExitStack()
        self._servers: dict[str, ServerProcess | Cluster] = {}

    @property
    def pinned(self) -> bool:
        """Whether the servers have one core and the measured processes another."""
        return len(self.cores) > 1

    def __enter__(self) -> Bench:
        _raise_limit()
        if self.pinned:  # ours and, by inheritance, the servers'
            os.sched_setaffinity(0, self.cores[:1])
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if self.pinned:
            os.sched_setaffinity(0, self.cores)

    def server(self, kind: str = "redis") -> Any:
        """Return the run's server, ``"redis"`` or ``"cluster"``; started when first asked for."""
        if kind not in self._servers:
            started = start_cluster() if kind == "cluster" else start_valkey()
            self._stack.callback(started.stop)
            self._servers[kind] = started
        return self._servers[kind]

    def store_url(self, name: str) -> str:
        """Return the URL of the server that a layer needs; empty if it needs none."""
        kind = layer(name).STORE
        return self.server(kind).url if kind is not None else ""

    @contextlib.contextmanager
    def workers(
        self, *names: str, uvloop: bool = False, store_url: str | None = None
    ) -> Iterator[dict[str, Worker]]:
        """Start a process for each of the layers; they end with the block."""
        with contextlib.ExitStack() as stack:
            yield {
                name: stack.enter_context(
                    Worker(
                        name,
                        self.store_url(name) if store_url is None else store_url,
                        core=self.cores[1] if self.pinned else None,
                        uvloop=uvloop,
                    )
                )
                for name in names
            }


class Worker:
    """A process in which one layer is measured."""

    def __init__(self, name: str, store_url: str, *, core: int | None = None, uvloop: bool = False) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.worker",
            name,
            store_url,
            *(["uvloop"] if uvloop else []),
        ]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if core is not None:
            os.sched_setaffinity(self.process.pid, {core})

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        end_process(self.process)

    def call(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Have the process await `function`, a module's own, with its `Bed` and these arguments."""
        self.start(function, **arguments)
        return self.result()

    def start(self, function: Callable[..., Any], **arguments: Any) -> None:
        """Begin what `call` does, and do not wait for it: several workers then work at once."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([f"{function.__module__}:{function.__name__}", arguments]) + "\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        """Wait for what `start` has begun."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended with {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"measuring {self.name} failed:\n{answer['error']}")
        return answer["result"]

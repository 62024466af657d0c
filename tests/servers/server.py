"""A server as an address to ask: commands, statistics, MONITOR."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
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


def _shuffled_ports() -> Iterator[int]:
    """Yield ports below the range from which outgoing connections are given theirs, the same one rarely.

    Of two processes that run tests each has ports of its own: neither can take that of a server that is about
    to start, or is down for a moment.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + worker % 2 * 6_000
    return itertools.cycle(random.sample(range(first, first + 6_000), 6_000))


_ports = _shuffled_ports()


def free_port() -> int:
    """Return a port nobody listens on, and which nobody was told of a short while ago."""
    while True:
        port = next(_ports)
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

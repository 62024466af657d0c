"""Memcached as a process of ours, and a proxy that knows its protocol. Only Debian has the server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers.process import Process
from tests.servers.proxy import Command, LossyProxy
from tests.servers.server import HOST, free_port, wait_until

BINARY = shutil.which("memcached", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")

MISSING = BINARY is None and not os.environ.get("CI")
"""Whether tests that need it are left out. In CI they run, and fail without it."""


class MemcachedProcess(Process):
    """A Memcached of ours: started, frozen, killed, and dead when we are."""

    def __init__(self, *extra_args: str) -> None:
        self.host, self.port = HOST, free_port()
        # As root it wants to be told whom to be, and changes by itself; for others this changes nothing.
        command = [BINARY or "memcached", "-u", "nobody", "-l", HOST, "-U", "0", "-t", "2"]
        command += ["-p", str(self.port), *extra_args]
        super().__init__(command, Path(tempfile.mkdtemp(prefix="asgi-session-test-")))
        self.launch()

    @property
    def url(self) -> str:
        return f"memcached://{self.host}:{self.port}"

    def raw(self, request: bytes, end: bytes = b"\r\n", *, timeout: float = 5.0) -> bytes:
        """Send bytes on a connection of their own, and return what comes until `end`."""
        with socket.create_connection((self.host, self.port), timeout) as connection:
            connection.sendall(request)
            got = b""
            while not got.endswith(end):
                if not (piece := connection.recv(65536)):
                    raise ConnectionResetError("the server closed the connection")
                got += piece
        return got

    def stats(self, what: str = "") -> dict[str, str]:
        """Return what the server counts."""
        lines = self.raw(f"stats {what}".strip().encode() + b"\r\n", b"END\r\n").decode().splitlines()
        return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))

    def answers(self) -> bool:
        with socket.create_connection((self.host, self.port), 5.0):
            return True

    def freeze(self) -> None:
        """SIGSTOP; until each of its threads has stopped some still answer."""
        super().freeze()

        def stopped() -> bool:
            tasks = Path(f"/proc/{self.pid}/task").glob("*/stat")
            return all(each.read_text().rsplit(")", 1)[1].split()[0] == "T" for each in tasks)

        wait_until(f"{self} stands still", stopped, every=0.001)

    def flush(self) -> None:
        self.raw(b"flush_all\r\n")


def start_memcached(*extra_args: str) -> MemcachedProcess:
    """Start Memcached; `extra_args` as on its command line: ``"-m", "8"``."""
    server = MemcachedProcess(*extra_args)
    server.wait_ready()
    return server


_WITH_DATA = re.compile(rb"(?:ms \S+|set \S+ \d+ \d+) (\d+)")


class MemcachedProxy(LossyProxy):
    """A proxy that loses, holds and delays Memcached's replies."""

    @property
    def url(self) -> str:
        return f"memcached://{HOST}:{self.port}"

    def requests_in(self, buffer: bytearray) -> Iterator[tuple[bytes, Command]]:
        while (end := buffer.find(b"\r\n")) >= 0:
            line = bytes(buffer[:end])
            end += 2
            if found := _WITH_DATA.match(line):
                end += int(found[1]) + 2
            if end > len(buffer):
                return
            frame = bytes(buffer[:end])
            del buffer[:end]
            yield frame, tuple(line.split())

    def replies_in(self, buffer: bytearray) -> Iterator[bytes]:
        while (end := buffer.find(b"\r\n")) >= 0:
            end += 2
            if buffer.startswith(b"VA "):
                end += int(buffer.split(b" ", 2)[1]) + 2
            elif buffer.startswith(b"STAT"):
                end = buffer.find(b"END\r\n") + 5
                if end < 5:
                    return
            if end > len(buffer):
                return
            frame = bytes(buffer[:end])
            del buffer[:end]
            yield frame

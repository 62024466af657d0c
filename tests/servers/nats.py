"""A NATS server with JetStream, on loopback."""

from __future__ import annotations

import socket
import sysconfig
import tempfile
from pathlib import Path

from tests.servers.process import Process
from tests.servers.server import HOST, free_port


class NatsServer(Process):
    """A process of ours, which keeps what it has in a directory of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        directory = Path(tempfile.mkdtemp(prefix="asgi-session-test-"))
        binary = str(Path(sysconfig.get_path("scripts")) / "nats-server")
        place = ["--addr", HOST, "--port", str(self.port), "--store_dir", str(directory)]
        super().__init__([binary, "--jetstream", *place], directory)
        self.launch()

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    def answers(self) -> bool:
        with socket.create_connection((HOST, self.port), 1) as connection:
            return connection.recv(5) == b"INFO "


def start_nats() -> NatsServer:
    """Start NATS with JetStream, which its key-value buckets need."""
    server = NatsServer()
    server.wait_ready()
    return server

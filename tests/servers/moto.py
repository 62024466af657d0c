"""moto, which stands in for AWS's services, as a process of ours."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import urllib.request
from pathlib import Path

from tests.servers.process import Process
from tests.servers.server import HOST, free_port


class MotoServer(Process):
    """moto's server: DynamoDB, S3 and others on one port, in memory."""

    def __init__(self) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self.port)]
        super().__init__(command, Path(tempfile.mkdtemp(prefix="asgi-session-test-")))
        self.launch()

    @property
    def url(self) -> str:
        """The address for any of the services' clients."""
        return f"http://{HOST}:{self.port}"

    def answers(self) -> bool:
        with contextlib.closing(urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5)) as answer:
            return int(answer.status) == 200


def start_moto() -> MotoServer:
    """Start moto, with nothing in it."""
    server = MotoServer()
    server.wait_ready()
    return server

"""moto, which stands in for AWS's services, as a process of ours."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import urllib.request
from pathlib import Path

from tests.servers.process import Process
from tests.servers.server import HOST, free_port

# moto serves each connection in a thread of its own, and a condition and its write are two steps in it:
# one request at a time makes them one step, as they are at AWS.
_SERVE = """
import sys, threading
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

def serve(environ, start_response):
    with one_at_a_time:
        return [b"".join(moto(environ, start_response))]

run_simple(sys.argv[1], int(sys.argv[2]), serve, threaded=True, request_handler=MotoRequestHandler)
"""


class MotoServer(Process):
    """moto's server: DynamoDB, S3 and others on one port, in memory."""

    def __init__(self) -> None:
        self.port = free_port()
        command = [sys.executable, "-c", _SERVE, HOST, str(self.port)]
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

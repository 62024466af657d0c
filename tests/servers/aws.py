"""Stand-ins of AWS's services, as processes of ours: moto, ministack and SeaweedFS."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.servers.process import Process
from tests.servers.server import HOST, free_port

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"


@functools.cache
def session() -> Any:
    """Return one session for all clients: it reads the descriptions of the services, which takes its time."""
    from aiobotocore.session import get_session

    made = get_session()
    made.set_credentials(ACCESS_KEY, SECRET_KEY)
    return made


# moto serves each connection in a thread of its own, and a condition and its write are two steps in it:
# one request at a time makes them one step, as they are at AWS.
_SERVE = """
import sys, threading
from moto import backends
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

# It looks through its directory at each request, for a fifth of its time.
names = list(backends.list_of_moto_modules())
backends.list_of_moto_modules = lambda: names

MotoRequestHandler.protocol_version = "HTTP/1.1"  # connections are used again, as AWS's are
moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

def serve(environ, start_response):
    with one_at_a_time:
        return [b"".join(moto(environ, start_response))]

run_simple(sys.argv[1], int(sys.argv[2]), serve, threaded=True, request_handler=MotoRequestHandler)
"""


class AwsServer(Process):
    """A stand-in, reached over HTTP."""

    def __init__(self) -> None:
        self.port = free_port()
        super().__init__([], Path(tempfile.mkdtemp(prefix="asgi-session-test-")))
        self._command = self.command_line()
        self.launch()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def command_line(self) -> list[str]:
        """Return what starts it."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether a request is answered, with whatever status."""
        try:
            with urllib.request.urlopen(self.url, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code < 500


class Moto(AwsServer):
    """moto's server: DynamoDB, S3 and others on one port, in memory."""

    def command_line(self) -> list[str]:
        return [sys.executable, "-c", _SERVE, HOST, str(self.port)]


class Ministack(AwsServer):
    """ministack, from the virtual environment of its own that the Makefile makes."""

    def command_line(self) -> list[str]:
        python = Path(sys.prefix) / "ministack" / "bin" / "python"
        if not (python.parent / "ministack").exists():
            raise RuntimeError(f"ministack is missing: `make {os.path.basename(sys.prefix)}/.has-ministack`")
        settings = {"GATEWAY_PORT": self.port, "MINISTACK_HOST": HOST, "LOG_LEVEL": "ERROR"}
        variables = (f"{name}={value}" for name, value in settings.items())
        # Not its script, which names its Python by an absolute path: the environment may have been moved.
        return ["/usr/bin/env", *variables, str(python), "-c", "from ministack.app import main; main()"]


class SeaweedFS(AwsServer):
    """SeaweedFS's S3, which checks signatures, as AWS does: ACCESS_KEY and SECRET_KEY are right."""

    def command_line(self) -> list[str]:
        binary = Path(sys.prefix) / "bin" / "weed"
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self.directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        parts = ("master", "volume", "filer")
        ports = [f"-{part}.port={free_port()}" for part in parts]
        ports += [f"-{part}.port.grpc={free_port()}" for part in (*parts, "s3")]
        return [
            str(binary),
            "server",
            f"-dir={self.directory}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=20",
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.config={self.directory}/s3.json",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",  # else a fixed port: of two that run at a time, one ends after a while
            "-master.telemetry=false",
            "-s3.iam=false",
            *ports,
        ]


def start_moto() -> Moto:
    """Start moto, with nothing in it."""
    server = Moto()
    server.wait_ready()
    return server


def start_ministack() -> Ministack:
    """Start ministack."""
    server = Ministack()
    server.wait_ready()
    return server


def start_seaweedfs() -> SeaweedFS:
    """Start SeaweedFS with an S3 gateway; takes about 3 s."""
    server = SeaweedFS()
    server.wait_ready()
    return server

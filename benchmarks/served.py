"""A layer behind uvicorn: ``python -m benchmarks.served LAYER STORE_URL``, a process that prints its port.

uvicorn as ``uvicorn[standard]`` runs it, on uvloop and httptools, with its access log off, as under
load. Each action is at a path of its own, ``/read`` and so on; ``/cpu`` answers the seconds of CPU
time that the process has spent. Ends when its standard input does.

With ``constant`` for the layer it is no app at all: a server that answers every request with the same
bytes. It shows how many requests the generator can make.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from itertools import count
from typing import Any, Final

from benchmarks.worker import Bed, end_process

CONSTANT: Final = "constant"
ACTIONS: Final = ("untouched", "new", "read", "write")
_HEADERS: Final = {"x-forwarded-proto": "https"}  # the app is behind a proxy that speaks TLS


class Served:
    """The process, as another one sees it.

    Attributes:
        port: where it listens, on loopback.
    """

    def __init__(self, name: str, store_url: str, cores: set[int] | None = None) -> None:
        command = [sys.executable, "-m", "benchmarks.served", name, store_url]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if cores is not None:
            os.sched_setaffinity(self.process.pid, cores)
        self.name = name
        self.port = 0
        self._users = count(5000)

    def __enter__(self) -> Served:
        try:
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait(self) -> None:
        """Wait until it serves."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server of {self.name} did not start")
        self.port = int(line)

    def __exit__(self, *_: object) -> None:
        end_process(self.process)

    def cpu(self) -> float:
        """Return the seconds of user and system time that the process has spent."""
        return float(self._get("/cpu", "")[0])

    def cookie(self, size: int) -> str:
        """Return the cookie of a new session of another user, which has come back once."""
        user = next(self._users)
        _, cookie = self._get(f"/new?size={size}&user={user}", "")
        text, _ = self._get("/read", cookie)
        if text != str(user):
            raise RuntimeError(f"{self.name} did not find its own session: {text}")
        return cookie

    def _get(self, path: str, cookie: str) -> tuple[str, str]:
        """Return the text of the answer, and the cookie that it sets."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers={**_HEADERS, **({"cookie": cookie} if cookie else {})})
            response = connection.getresponse()
            text = response.read().decode()
            if response.status != 200:
                raise RuntimeError(f"{self.name} answered {response.status}: {text[:200]}")
            return text, (response.getheader("set-cookie") or "").split(";")[0]
        finally:
            connection.close()


class _App:
    """An ASGI app that has the layer's apps, one for each action, each under its path."""

    def __init__(self, name: str, store_url: str) -> None:
        self._bed = Bed(name, store_url)
        self._apps: dict[str, Any] = {"/cpu": _cpu}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        app = self._apps[scope["path"]]
        scope["path"], scope["raw_path"] = "/", b"/"
        await app(scope, receive, send)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        for action in ACTIONS[: 1 if self._bed.bare else None]:
            self._apps[f"/{action}"] = await self._bed.app(action)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._bed.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _cpu(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(time.process_time()).encode()})


class _Constant(asyncio.Protocol):
    """Answers without reading what it is asked, but for ``/cpu``."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /cpu "):
            self._transport.write(_response(str(time.process_time()).encode()))
        else:  # the generator waits for an answer before it asks again, so this is one request
            self._transport.write(_OK)


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


_OK: Final = _response(b"ok")


async def _serve_constant(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Constant, sock=listener)
    print(listener.getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def _serve(name: str, store_url: str, listener: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(listener.getsockname()[1], flush=True)

    app = _App(name, store_url)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="on", access_log=False, log_level="warning"
    )
    server = Server(config)

    def end() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=end, daemon=True).start()
    server.run([listener])


def main(name: str, store_url: str) -> None:
    """Serve until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    if name == CONSTANT:
        import uvloop

        uvloop.run(_serve_constant(listener))
    else:
        _serve(name, store_url, listener)


if __name__ == "__main__":
    main(*sys.argv[1:])

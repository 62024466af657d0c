"""One worker of the demo: ``worker.py NAME LISTENING-FD STORE-URL``, and DEMO_COOKIE_SECRET set."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

import uvicorn
from app import make_app


def end_with_supervisor() -> None:
    """Wait until the supervisor's end of the pipe is closed, then stop: nobody is left to stop us."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    name, fd, store = sys.argv[1:]
    threading.Thread(target=end_with_supervisor, daemon=True).start()
    config = uvicorn.Config(
        make_app(name, store, os.environ["DEMO_COOKIE_SECRET"]),
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(fd))])

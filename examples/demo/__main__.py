"""The demo: one page, served by two processes that share their sessions in a Valkey or another store.

This is the supervisor. It owns the port, the store's server and the workers, and starts a worker anew when
the page has ended it. Ctrl-C or SIGTERM ends everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import signal
import socket
import sys
from pathlib import Path

from servers import server_of

HOST = "127.0.0.1"
WORKERS = ("A", "B")


def listen() -> list[socket.socket]:
    """Return one listening socket for each worker, all on the first free port from 8000 on.

    With SO_REUSEPORT the kernel spreads connections over the sockets. They stay open here while a
    worker is replaced: what has connected in the meantime waits for the new one instead of failing.
    """
    for port in range(8000, 8100):
        with socket.socket() as probe:
            # Without SO_REUSEPORT, which would let us share a port that another program listens on.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                raise
        listeners = [socket.socket() for _ in WORKERS]
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((HOST, port))
            listener.listen(128)
        return listeners
    raise SystemExit(f"No free port on {HOST} from 8000 to 8099.")


async def keep_running(name: str, listener: socket.socket, store: str, cookie_secret: str) -> None:
    """Run a worker, and another one whenever the page has killed it."""
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("worker.py")),
            name,
            str(listener.fileno()),
            store,
            env={**os.environ, "DEMO_COOKIE_SECRET": cookie_secret},  # not an argument, which `ps` shows
            stdin=asyncio.subprocess.PIPE,  # ends with this process, however that ends; see the worker
            pass_fds=(listener.fileno(),),
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then ends the workers
        )
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await end(process)
            raise
        if status != -signal.SIGKILL:
            raise RuntimeError(f"worker {name} ended by itself, with status {status}")
        print(f"  worker {name} was ended, starting another", flush=True)


async def end(process: asyncio.subprocess.Process) -> None:
    """Ask a worker to end; after five seconds do not ask."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


async def main(name: str) -> None:
    """Run on the store of that name until told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listeners = listen()
    cookie_secret = secrets.token_hex()  # of all workers: each reads the others' cookies
    async with server_of(name) as url, asyncio.TaskGroup() as group:
        workers = [
            group.create_task(keep_running(worker, listener, url, cookie_secret))
            for worker, listener in zip(WORKERS, listeners, strict=True)
        ]
        port = listeners[0].getsockname()[1]
        print(f"\n  Point a browser at http://{HOST}:{port}  (Ctrl-C ends it)\n", flush=True)
        await stop.wait()
        for worker in workers:
            worker.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "redis"))
    except* RuntimeError as failures:
        raise SystemExit(str(failures.exceptions[0])) from None

"""A network with a delay: a TCP proxy in a process of its own, ``python -m benchmarks.delay HOST PORT MS``.

It adds MS milliseconds to a round trip, half of them each way. Bytes are put in a queue with the time
at which they are due and passed on in order, so that it limits neither throughput nor the number of
connections. It sleeps until exactly then (`select` takes microseconds where `epoll` takes milliseconds)
and does not spin: it may share a core with the store. What it adds is therefore a little more than
was asked for, by its own work and by waking up; `added` measures how much, for a reader to see.
Connecting takes no longer than without it.
"""

from __future__ import annotations

import ctypes
import select
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.worker import end_process

_CHUNK: Final = 1 << 18


class DelayedServer:
    """A server as seen over a network that adds `delay` ms to a round trip; use it in a ``with``.

    Attributes:
        url: in place of the server's own.
    """

    def __init__(self, url: str, delay: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        command = [sys.executable, "-m", "benchmarks.delay", parts.hostname, str(parts.port), str(delay)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        self.url = f"{parts.scheme}://127.0.0.1:{self._port}"

    def __enter__(self) -> DelayedServer:
        return self

    def __exit__(self, *_: object) -> None:
        end_process(self._process)

    def added(self, times: int = 100) -> float:
        """Return the ms that a PING takes longer than without the proxy: medians of `times`."""
        return _ping(("127.0.0.1", self._port), times) - _ping(self._target, times)


def _ping(address: tuple[str, int], times: int) -> float:
    """Return how many ms a PING takes."""
    taken = []
    with socket.create_connection(address, 10) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(times):
            began = time.perf_counter()
            server.sendall(b"PING\r\n")
            server.recv(100)
            taken.append(time.perf_counter() - began)
    return median(taken) * 1e3


class _End:
    """One of the two sockets of a connection."""

    def __init__(self, own: socket.socket) -> None:
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        own.setblocking(False)
        self.socket = own
        self.other: _End
        self.unsent = bytearray()
        self.events = 0
        self.closing = False  # the other side has ended, and so shall this when `unsent` is out
        self.closed = False


class _Proxy:
    """Passes on what comes, `half` seconds later."""

    def __init__(self, target: tuple[str, int], half: float) -> None:
        self._target = target
        self._half = half
        self._queue: deque[tuple[float, _End, bytes]] = deque()  # in order of time: all have one delay
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._watch(self._listener, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Work until standard input ends."""
        going = [True]
        self._watch(sys.stdin, selectors.EVENT_READ, lambda mask: going.clear())
        ready = [self._selector.fileno()]
        while going:
            wait = max(self._queue[0][0] - time.perf_counter(), 0.0) if self._queue else None
            if wait != 0.0:
                select.select(ready, (), (), wait)
            for key, mask in self._selector.select(0):
                key.data(mask)
            self._deliver()

    def _watch(self, what: Any, events: int, call: Callable[[int], object]) -> None:
        self._selector.register(what, events, call)

    def _accept(self, mask: int) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(self._target, 5)
        except OSError:
            near.close()
            return
        ends = _End(near), _End(far)
        for end, other in (ends, ends[::-1]):
            end.other = other
            self._want(end, selectors.EVENT_READ)

    def _ready(self, end: _End, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and not end.closed:
            self._send(end)
        if mask & selectors.EVENT_READ and not end.closed:
            try:
                data = end.socket.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                self._drop(end)
                return
            self._queue.append((time.perf_counter() + self._half, end.other, data))
            if not data:
                self._want(end, end.events & ~selectors.EVENT_READ)

    def _deliver(self) -> None:
        """Send what is due."""
        now = time.perf_counter()
        while self._queue and self._queue[0][0] <= now:
            _, end, data = self._queue.popleft()
            if not end.closed:
                end.unsent += data
                end.closing = end.closing or not data
                if not end.events & selectors.EVENT_WRITE:
                    self._send(end)

    def _send(self, end: _End) -> None:
        try:
            sent = end.socket.send(end.unsent) if end.unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(end)
            return
        del end.unsent[:sent]
        write = selectors.EVENT_WRITE if end.unsent else 0
        self._want(end, (end.events & selectors.EVENT_READ) | write)
        if end.closing and not end.unsent:
            if end.other.closing and not end.other.unsent:
                self._drop(end)
            else:
                try:
                    end.socket.shutdown(socket.SHUT_WR)
                except OSError:
                    self._drop(end)

    def _want(self, end: _End, events: int) -> None:
        """Watch an end for these events, if they are others than before."""
        if events == end.events or end.closed:
            return
        if not end.events:
            self._watch(end.socket, events, partial(self._ready, end))
        elif not events:
            self._selector.unregister(end.socket)
        else:
            self._selector.modify(end.socket, events, partial(self._ready, end))
        end.events = events

    def _drop(self, end: _End) -> None:
        """Close both sockets."""
        for one in (end, end.other):
            if not one.closed:
                self._want(one, 0)
                one.closed = True
                one.socket.close()


def _wake_up_in_time() -> None:
    """Have the kernel not put a wake-up off, as it otherwise may by 50 µs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)  # PR_SET_TIMERSLACK, 1 ns


def main(host: str, port: str, milliseconds: str) -> None:
    """Print the port, and be the proxy until standard input ends."""
    proxy = _Proxy((host, int(port)), float(milliseconds) / 2000)
    _wake_up_in_time()
    print(proxy.port, flush=True)
    proxy.run()


if __name__ == "__main__":
    main(*sys.argv[1:])

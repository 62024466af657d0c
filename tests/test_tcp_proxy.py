"""The proxy that knows no protocol counts right, and loses what it is told to lose."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.servers import TcpProxy, wait_until


class Shouting(socketserver.BaseRequestHandler):
    """Greets, then answers each line with the same in capitals; notes the lines."""

    def handle(self) -> None:
        self.request.sendall(b"hello\n")
        with self.request.makefile("rb") as lines:
            for line in lines:
                self.server.lines.append(line)  # type: ignore[attr-defined]
                self.request.sendall(line.upper())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    lines: list[bytes]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Shouting) as made:
        made.lines = []
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def proxy(server: Server) -> Iterator[TcpProxy]:
    with TcpProxy(server.server_address[1]) as made:
        yield made


class Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        self.file = self.socket.makefile("rwb")
        assert self.file.readline() == b"hello\n"

    def ask(self, *pieces: bytes) -> bytes:
        """Send a line in pieces; return the answer, nothing when there is none."""
        try:
            for piece in pieces:
                self.file.write(piece)
                self.file.flush()
            return self.file.readline()
        except OSError:
            return b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.file.close()


def test_round_trips_are_counted(proxy: TcpProxy) -> None:
    """A request in two pieces is one, a greeting is none, and bytes are counted each way."""
    with Client(proxy.port) as client:
        assert proxy.trips == 0
        assert client.ask(b"one\n") == b"ONE\n"
        assert proxy.trips == 1
        assert client.ask(b"t", b"wo\n") == b"TWO\n"
        assert (proxy.trips, proxy.connections) == (2, 1)
        assert (proxy.sent, proxy.received) == (8, 14)


def test_a_reply_is_lost(server: Server, proxy: TcpProxy) -> None:
    """The server has the second request, the client is cut off; whoever comes next is served."""
    with Client(proxy.port) as client:
        cut = proxy.cut_after(nth=2)
        assert client.ask(b"one\n") == b"ONE\n"
        assert not cut.done.is_set()
        assert client.ask(b"two\n") == b""
        assert cut.done.is_set()
    assert server.lines == [b"one\n", b"two\n"]
    with Client(proxy.port) as client:
        assert client.ask(b"three\n") == b"THREE\n"


def test_a_request_is_lost(server: Server, proxy: TcpProxy) -> None:
    """The server never sees it; a cut that is taken back does not happen."""
    with Client(proxy.port) as client:
        cut = proxy.cut_before()
        assert client.ask(b"one\n") == b""
        assert cut.done.is_set()
    assert server.lines == []
    proxy.cut_before()
    proxy.cut_no_more()
    with Client(proxy.port) as client:
        assert client.ask(b"two\n") == b"TWO\n"


def test_replies_are_held(server: Server, proxy: TcpProxy) -> None:
    """The server has executed it, and the client hears of it later."""
    with Client(proxy.port) as client:
        held = proxy.hold_replies()
        client.file.write(b"one\n")
        client.file.flush()
        assert held.reached.wait(5)
        assert server.lines == [b"one\n"]
        held.release()
        assert client.file.readline() == b"ONE\n"


def test_frozen_and_refused(server: Server, proxy: TcpProxy) -> None:
    """Frozen, nothing arrives until it thaws; refused, nobody gets in until it accepts again."""
    with Client(proxy.port) as client:
        proxy.freeze()
        client.file.write(b"one\n")
        client.file.flush()
        client.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        assert server.lines == []
        proxy.thaw()
        client.socket.settimeout(5)
        assert client.socket.recv(10) == b"ONE\n"
        proxy.drop_connections()
        assert client.socket.recv(10) == b""
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), 1)
    proxy.accept()
    with Client(proxy.port) as client:
        assert client.ask(b"two\n") == b"TWO\n"
    wait_until("both have come", lambda: server.lines == [b"one\n", b"two\n"])

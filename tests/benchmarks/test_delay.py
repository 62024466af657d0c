"""The delaying proxy: everything arrives, in order, and no sooner than it should."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.delay import DelayedServer
from tests.servers import start_valkey


@contextlib.contextmanager
def _echo() -> Iterator[str]:
    """A server that answers everything with itself, and an end with an end; yields its URL."""

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                client.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _connect(server: DelayedServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 30)


def _all_of(client: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        chunk = client.recv(65536)
        assert chunk, "the connection has ended too soon"
        got += chunk
    return bytes(got)


@pytest.mark.parametrize("delay", [5.0, 40.0])
def test_nothing_comes_sooner_than_the_delay(delay: float) -> None:
    with _echo() as url, DelayedServer(url, delay) as server, _connect(server) as client:
        for n in range(10):
            began = time.perf_counter()
            client.sendall(b"%d" % n)
            assert client.recv(100) == b"%d" % n
            assert time.perf_counter() - began >= delay / 1000


def test_much_at_once_comes_complete_and_in_order() -> None:
    """More than all buffers hold: the proxy must keep what cannot be sent yet."""
    sent = b"".join(b"%09d," % n for n in range(2_000_000))
    with _echo() as url, DelayedServer(url, 2.0) as server, _connect(server) as client:
        writer = threading.Thread(target=client.sendall, args=(sent,))
        writer.start()
        time.sleep(0.3)  # meanwhile nobody reads
        assert _all_of(client, len(sent)) == sent
        writer.join()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""  # the end is passed on, in both directions


def test_many_connections_at_once_each_get_their_own() -> None:
    with _echo() as url, DelayedServer(url, 2.0) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_connect(server)) for _ in range(100)]
        for _ in range(20):
            for n, client in enumerate(clients):
                client.sendall(b"I am %03d" % n)
            for n, client in enumerate(clients):
                assert _all_of(client, 8) == b"I am %03d" % n


def test_a_client_that_breaks_off_harms_nobody() -> None:
    with _echo() as url, DelayedServer(url, 2.0) as server, _connect(server) as staying:
        for _ in range(20):
            with _connect(server) as leaving:
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                leaving.sendall(b"x" * 100_000)
        staying.sendall(b"still here")
        assert _all_of(staying, 10) == b"still here"


def test_what_it_adds_is_measured_at_a_real_server() -> None:
    valkey = start_valkey()
    try:
        with DelayedServer(valkey.url, 5.0) as server:
            assert server.added(20) >= 4.5  # medians of two series, so not exactly a lower bound
    finally:
        valkey.stop()

"""fakeredis behind a socket."""

from __future__ import annotations

import threading
from typing import Any

from tests.servers.server import HOST, Server, wait_until


def _keeping_connections() -> type[Any]:
    from fakeredis._clients._tcp_server import TCPFakeRequestHandler
    from redis import RedisError

    class Handler(TCPFakeRequestHandler):
        """fakeredis drops the connection after every error reply; real servers do not."""

        def setup(self) -> None:
            super().setup()
            client: Any = self.current_client
            read = client.read_response

            def read_response() -> Any:
                try:
                    return read()
                except RedisError as error:
                    return error

            client.read_response = read_response

    return Handler


class FakeredisServer(Server):
    """fakeredis's TCP server in a thread. It has neither INFO nor MONITOR."""

    def __init__(self) -> None:
        from fakeredis import TcpFakeServer

        self._server = TcpFakeServer((HOST, 0))
        self._server.RequestHandlerClass = _keeping_connections()
        self._server.daemon_threads = True
        super().__init__(HOST, self._server.server_address[1])
        # Polls for its end this often; the default of 0.5 s would be added to every `stop`.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def start_fakeredis() -> FakeredisServer:
    """Start fakeredis's TCP server."""
    server = FakeredisServer()
    wait_until("fakeredis answers", lambda: server.command("PING") in (b"PONG", "PONG"))
    return server

"""A client that calls an ASGI app directly: no server and no network stand between them."""

from __future__ import annotations

from typing import Any

_HEADERS = [(b"host", b"example.org"), (b"accept", b"*/*")]


class Browser:
    """One client: a jar for one cookie, and requests.

    Attributes:
        headers: the request headers that carry the cookie, if there is one.
        body: of the last response.
    """

    __slots__ = ("body", "headers")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def request(self, app: Any, query: bytes = b"") -> None:
        """Get ``/``; RuntimeError unless the answer is 200."""
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in message["headers"]:
                    if name == b"set-cookie":
                        self._take(value)
            else:
                self.body = message["body"]

        scope = {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "method": "GET",
            "scheme": "https",
            "path": "/",
            "raw_path": b"/",
            "query_string": query,
            "root_path": "",
            "headers": [*_HEADERS, *self.headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 443),
            "state": {},
        }
        await app(scope, receive, send)
        if status != 200:
            raise RuntimeError(f"the app answered {status}: {self.body[:200]!r}")

    def _take(self, set_cookie: bytes) -> None:
        """Keep the cookie, or throw it away where it is being deleted."""
        cookie, _, attributes = set_cookie.partition(b";")
        ended = b"1970" in attributes or b"max-age=0;" in attributes.lower() + b";"
        self.headers = [] if ended or cookie.endswith((b"=", b"=null", b'=""')) else [(b"cookie", cookie)]


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """Answer as an app that does nothing: what a request to this one costs is the client's own part."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})

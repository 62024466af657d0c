"""A store's server as a test has it: stores on it, straight or through a proxy, and requests to an app."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from asgi_session import SessionMiddleware
from asgi_session.store import Store
from tests.inside import COOKIE_NAME
from tests.stores.every.kinds import Kind, Machine

IN_AN_HOUR = int(time.time() * 1000) + 3_600_000
"""An `expires_at`: always the same one, so that what tests expect is what is there."""


def soon(seconds: float = 10.0) -> float:
    """Return a deadline for a store's verb."""
    return time.monotonic() + seconds


def new_data(body: bytes = b"body") -> bytes:
    """Return data as the core writes it: 16 bytes that never repeat, then the body."""
    return os.urandom(16) + body


def new_key() -> str:
    """Return a key that no other test uses."""
    return os.urandom(11).hex()


@dataclass
class Site:
    """A kind of store on a server. It closes the stores that it has made."""

    kind: Kind
    machine: Machine | None
    made: list[Store] = field(default_factory=list)

    @property
    def url(self) -> str:
        return "" if self.machine is None else self.machine.url

    def url_through(self, port: int) -> str:
        """Return the URL of the same records, with another port."""
        assert self.machine is not None
        own = f":{self.machine.port}"
        assert own in self.url
        return self.url.replace(own, f":{port}")

    def store(self, *, port: int | None = None, **options: Any) -> Store:
        """Make a store, on the server or on another port."""
        store = self.kind.make(self.url if port is None else self.url_through(port), **options)
        self.made.append(store)
        return store

    async def close(self) -> None:
        for store in self.made:
            await store.close()


class Answered(NamedTuple):
    """What became of a request: its status, the cookie that is known from then on, and how long it took."""

    status: int
    cookie: str
    seconds: float


async def count_app(scope: Any, receive: Any, send: Any) -> None:
    """Set the key that is the path, to True; say with 200 that this is saved."""
    session = await scope["session"].load()
    session[scope["path"]] = True
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def ask(app: SessionMiddleware, key: str, cookie: str = "") -> Answered:
    """Make a request that sets a key of the cookie's session."""
    headers = [(b"host", b"testserver")]
    if cookie:
        headers.append((b"cookie", f"{COOKIE_NAME}={cookie}".encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": key,
        "raw_path": key.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 443),
    }
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        nonlocal status, cookie
        if message["type"] == "http.response.start":
            status = message["status"]
            for name, value in message["headers"]:
                if name.lower() == b"set-cookie":
                    cookie = value.decode().partition("=")[2].partition(";")[0]

    began = time.monotonic()
    await app(scope, receive, send)
    return Answered(status, cookie, time.monotonic() - began)

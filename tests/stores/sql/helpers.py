"""What the tests of `SQLStore` share."""

from __future__ import annotations

import os
import re
import secrets
import time

from tests.servers.tcp_proxy import TcpProxy


def in_time(seconds: float = 10.0) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds


def through(proxy: TcpProxy, url: str) -> str:
    """Return a server's URL by way of a proxy."""
    return re.sub(r":\d+/", f":{proxy.port}/", url)


def new_key() -> str:
    return secrets.token_urlsafe(16)


def new_data(body: bytes = b"body") -> bytes:
    return os.urandom(16) + body


def new_table() -> str:
    """Return the name of a table that no other test uses."""
    return f"sessions_{secrets.token_hex(6)}"

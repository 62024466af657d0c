"""What the tests of `SQLStore` share."""

from __future__ import annotations

import os
import secrets
import time


def in_time(seconds: float = 10.0) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds


def new_key() -> str:
    return secrets.token_urlsafe(16)


def new_data(body: bytes = b"body") -> bytes:
    return os.urandom(16) + body


def new_table() -> str:
    """Return the name of a table that no other test uses."""
    return f"sessions_{secrets.token_hex(6)}"

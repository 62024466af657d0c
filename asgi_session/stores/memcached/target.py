"""What to connect to and how: the one value that URLs and arguments are turned into."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from asgi_session.stores._shared.addresses import Address


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password of the server's file (`-Y`). Never shown."""

    user: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the servers are, and how to get in: what a URL says. `prefix` is None where it says none."""

    addresses: tuple[Address, ...]
    credentials: Credentials | None = None
    tls: ssl.SSLContext | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """All that there is to know about the servers of a store. Seconds."""

    addresses: tuple[Address, ...]
    credentials: Credentials | None
    tls: ssl.SSLContext | None
    prefix: str
    timeout: float
    connect_timeout: float
    max_age: float

"""Addresses of servers."""

from __future__ import annotations

from typing import TypeAlias

Address: TypeAlias = tuple[str, int]
"""Host and port; for a Unix socket its path and 0."""


def show(address: Address) -> str:
    """Name an address in messages."""
    host, port = address
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

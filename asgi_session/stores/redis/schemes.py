"""The schemes of store URLs."""

from __future__ import annotations

from typing import Final, NamedTuple


class Scheme(NamedTuple):
    """What a scheme stands for.

    Attributes:
        base: ``redis``, ``rediss`` (with TLS) or ``unix``, as redis-py knows them.
        mode: empty for one server, else ``cluster`` or ``sentinel``.
    """

    base: str
    mode: str


SCHEMES: Final = {
    f"{name}{tls}{plus}{mode}": Scheme(f"redis{tls}", mode)
    for name in ("redis", "valkey")
    for plus, mode in (("", ""), ("+", "cluster"), ("+", "sentinel"))
    for tls in ("", "s")
} | {"unix": Scheme("unix", "")}
"""By the name that stands before ``://``. Valkey's names mean the same as Redis's."""


def variant(written: str, *, mode: str, tls: bool) -> str:
    """Return the scheme for another mode or with TLS, under the same server's name as `written`."""
    name = "valkey" if written.startswith("valkey") else "redis"
    return f"{name}{'s' * tls}{'+' * bool(mode)}{mode}"

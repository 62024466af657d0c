"""How much memory a process takes with each store: ``python -m benchmarks.resident [NAME=URL ...]``.

Each line is a process of its own, on this machine's Python, that imports the library, opens the store and
loads a session that is not there. What counts is the memory that is resident then (VmRSS; where there is no
/proc, the most that there was). A store
whose server is not running is measured all the same: its client is there, and has tried to connect. Give
another URL to measure it with a server.

With ``--write`` the table goes into docs/which-store.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[1] / "docs" / "which-store.md"
NOWHERE: Final = "127.0.0.1:9"
"""Where no server listens."""

URLS: Final[Mapping[str, str]] = {
    "memory": "memory://",
    "Redis, Valkey": f"redis://{NOWHERE}",
    "PostgreSQL": f"postgresql://user@{NOWHERE}/sessions",
    "MariaDB, MySQL": f"mariadb://user@{NOWHERE}/sessions",
    "SQLite": "sqlite:///resident.db",
    "DynamoDB": f"dynamodb://sessions?region=us-east-1&endpoint_url=http://{NOWHERE}",
    "S3": f"s3://sessions?region=us-east-1&endpoint_url=http://{NOWHERE}",
    "Memcached": f"memcached://{NOWHERE}",
    "SimpleDB": f"simpledb://sessions?region=us-east-1&endpoint_url=http://{NOWHERE}",
}
"""A store's name, and a URL that makes one."""

PROGRAM: Final = """
import asyncio, json, os, sys, time

def resident():
    if not os.path.exists("/proc/self/status"):
        import resource  # the most there was so far; in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024

found = {"bare": resident()}
import asgi_session
found["library"] = resident()
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.stores import store_from_url

async def use(url):
    try:
        store = store_from_url(url)
    except ConfigurationError as error:
        return str(error)
    try:
        await store.load("-" * 22, deadline=time.monotonic() + 2)
        found["answered"] = True
    except StoreUnavailable:
        found["answered"] = False
    found["store"] = resident()
    await store.close()
    return ""

found["missing"] = asyncio.run(use(sys.argv[1]))
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Resident:
    """Memory of a process, in bytes.

    Attributes:
        bare: Python's own.
        library: with the library imported.
        store: with the store open; None where this version or this machine has no such store.
        answered: whether a server answered.
        missing: why there is no such store.
    """

    bare: int
    library: int
    store: int | None = None
    answered: bool = False
    missing: str = ""


def measure(url: str) -> Resident:
    """Measure one store in a process of its own, in an empty directory."""
    aws = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_EC2_METADATA_DISABLED": "true"}
    environment = {**os.environ, **aws, "PYTHONPATH": str(Path(__file__).parents[1])}
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, url],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=directory,
            env=environment,
        )
    return Resident(**json.loads(done.stdout.splitlines()[-1]))


def table(found: Mapping[str, Resident]) -> str:
    """Return the measurements as Markdown."""
    lines = ["| process | resident, MB | more than the library, MB |", "|---|---:|---:|"]
    for one in list(found.values())[:1]:
        lines.append(f"| Python alone | {one.bare / 1e6:.0f} | |")
        lines.append(f"| with `import asgi_session` | {one.library / 1e6:.0f} | |")
    for name, one in found.items():
        if one.store is None:
            lines.append(f"| {name} | not measured | |")
        else:
            more = (one.store - one.library) / 1e6
            lines.append(f"| {name} | {one.store / 1e6:.0f} | {more:.0f} |")
    made = f"{platform.python_implementation()} {platform.python_version()}"
    on = f"{platform.system()}, {platform.machine()}"
    lines += [
        "",
        f"Measured on {datetime.now(UTC):%Y-%m-%d}, {made}, {on}, by `python -m benchmarks.resident`.",
    ]
    away = [name for name, one in found.items() if one.store is not None and not one.answered]
    if away:
        lines.append(f"No server was running for: {', '.join(away)}.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every store, or those whose URLs are given as well."""
    from benchmarks.costs.pages import fill
    from tests.servers import start_valkey

    parser = argparse.ArgumentParser(prog="python -m benchmarks.resident", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/which-store.md")
    parser.add_argument("urls", nargs="*", metavar="NAME=URL", help="of servers that are running")
    parsed = parser.parse_args(arguments)
    given = dict(item.split("=", 1) for item in parsed.urls)
    if strange := given.keys() - URLS.keys():
        parser.error(f"there is no {', '.join(sorted(strange))}; there are: {', '.join(URLS)}")
    with ExitStack() as stack:
        if "Redis, Valkey" not in given:
            server = start_valkey()
            stack.callback(server.stop)
            given["Redis, Valkey"] = server.url
        found = {name: measure(given.get(name, url)) for name, url in URLS.items()}
    for name, one in found.items():
        if one.missing:
            print(f"{name}: {one.missing[:200]}", file=sys.stderr)
    made = table(found)
    if parsed.write:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), {"resident": made}), encoding="utf-8")
    else:
        print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())

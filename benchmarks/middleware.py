"""What a session costs the app: CPU per request and requests per second, beside other layers.

    python -m benchmarks.middleware [--quick] [--strict]

One Starlette app (see `apps`) is called directly, 64 requests at a time, without a server in front,
so that all that is measured is the app, the session layer and its store client. Each layer runs in
a process of its own, beside one Valkey; the rounds of the layers alternate, and the best round
counts. CPU is the app process's user and system time. What it does not show: HTTP parsing, the
network, the store's own cost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.apps import APPS
from tests.servers import start_valkey

CONCURRENCY = 64
CASES = (
    ("bare", "bare"),
    ("asgi-session, redis", "bare"),
    ("signed cookie", "read"),
    ("starsessions", "read"),
    ("asgi-session, redis", "read"),
    ("asgi-session, memory", "read"),
    ("signed cookie", "write"),
    ("starsessions", "write"),
    ("asgi-session, redis", "write"),
    ("asgi-session, memory", "write"),
)
# (case, against, metric, bound): what the project promises itself.
TARGETS = (
    (("asgi-session, redis", "bare"), ("bare", "bare"), "cpu", "at most", 1.3),
    (("asgi-session, redis", "read"), ("signed cookie", "read"), "cpu", "at most", 0.8),
    (("asgi-session, redis", "write"), ("signed cookie", "write"), "cpu", "at most", 0.75),
    (("asgi-session, redis", "read"), ("starsessions", "read"), "rate", "at least", 6.0),
)


class Browser:
    """One client: a cookie jar of one cookie, and requests to the app without a server."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.headers: list[tuple[bytes, bytes]] = []

    async def request(self, path: str) -> None:
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in message["headers"]:
                    if name == b"set-cookie":
                        self.headers = [(b"cookie", value.split(b";", 1)[0])]

        scope = {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "method": "GET",
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"example.org"), (b"accept", b"*/*"), *self.headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 443),
        }
        await self._app(scope, receive, send)
        if status != 200:
            raise RuntimeError(f"{path} answered {status}")


async def measure(name: str, url: str, commands: Any) -> None:
    """Answer each line of `commands` (a route and a number of requests) with a line of figures."""
    app = APPS[name](url)
    browsers = [Browser(app) for _ in range(CONCURRENCY)]
    loop = asyncio.get_running_loop()
    for browser in browsers if name != "bare" else []:
        await browser.request("/seed")
        await browser.request("/read")  # confirms the session, where that is a thing
    while line := await loop.run_in_executor(None, commands.readline):
        route, requests = json.loads(line)
        each = requests // CONCURRENCY

        async def run(browser: Browser, route: str = route, each: int = each) -> None:
            for _ in range(each):
                await browser.request(f"/{route}")

        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(run(browser) for browser in browsers))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        done = each * CONCURRENCY
        print(json.dumps({"cpu": cpu / done * 1e6, "rate": done / wall}), flush=True)


def run_cases(rounds: int, requests: int) -> dict[tuple[str, str], dict[str, float]]:
    """Run all cases in alternating rounds; the best CPU and the best rate of each."""
    best: dict[tuple[str, str], dict[str, float]] = {}
    server = start_valkey()
    try:
        workers = {
            name: subprocess.Popen(
                [sys.executable, "-m", "benchmarks.middleware", "--worker", name, server.url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in dict.fromkeys(name for name, _ in CASES)
        }
        try:
            for _ in range(rounds):
                for name, route in CASES:
                    worker = workers[name]
                    assert worker.stdin is not None
                    assert worker.stdout is not None
                    worker.stdin.write(json.dumps([route, requests]) + "\n")
                    worker.stdin.flush()
                    figures = json.loads(worker.stdout.readline())
                    known = best.setdefault((name, route), figures)
                    known["cpu"] = min(known["cpu"], figures["cpu"])
                    known["rate"] = max(known["rate"], figures["rate"])
        finally:
            for worker in workers.values():
                if worker.stdin is not None:
                    worker.stdin.close()
                worker.wait()
    finally:
        server.stop()
    return best


def main() -> int:
    """Print the figures and the targets; 1, with --strict, if a target was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer requests; the figures are rougher")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target was missed")
    parser.add_argument("--worker", nargs=2, metavar=("LAYER", "URL"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        asyncio.run(measure(*arguments.worker, sys.stdin))
        return 0
    best = run_cases(rounds=10 if arguments.quick else 60, requests=1280)
    print(f"{'layer':24}{'route':8}{'CPU µs/request':>16}{'requests/s':>14}")
    for (name, route), figures in best.items():
        print(f"{name:24}{route:8}{figures['cpu']:16.1f}{figures['rate']:14.0f}")
    missed = False
    print()
    for case, against, metric, how, bound in TARGETS:
        ratio = best[case][metric] / best[against][metric]
        met = ratio <= bound if how == "at most" else ratio >= bound
        missed |= not met
        print(
            f"{'met   ' if met else 'MISSED'} {case[1]} of {case[0]} against {against[0]}: "
            f"{ratio:.2f} times the {metric} ({how} {bound})"
        )
    return int(missed and arguments.strict)


if __name__ == "__main__":
    sys.exit(main())

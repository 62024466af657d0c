"""Load over HTTP, made by k9 (https://pypi.org/project/k9-load/), a generator written in Rust.

Each of its clients has a connection of its own, kept alive, and a session of its own, and asks again as
soon as it is answered. The requests are data, so that no Python runs while it works.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plan(clients: Sequence[tuple[int, str]], action: str, seconds: float) -> dict[str, Any]:
    """Return what k9 is told: clients, each with (port, cookie), that all do one thing."""
    rows = [{"port": str(port), "cookie": cookie} for port, cookie in clients]
    headers = {"x-forwarded-proto": "https"}
    if any(cookie for _, cookie in clients):
        headers["cookie"] = "{{ client.cookie }}"
    url = "http://127.0.0.1:{{ client.port }}/" + action
    return {
        "options": {
            "vus": len(rows),
            "duration": f"{int(seconds * 1000)}ms",
            "discardResponseBodies": True,
            "summaryTrendStats": ["med", "p(99)"],
        },
        "feeders": {"client": {"mode": "per-vu", "rows": rows}},
        "flows": {"default": [{"request": {"method": "GET", "url": url, "headers": headers}}]},
    }


def generate(
    clients: Sequence[tuple[int, str]], action: str, seconds: float, cores: set[int] | None
) -> dict[str, float]:
    """Make load for some seconds; RuntimeError if a request failed.

    Args:
        clients: the port and the cookie of each.
        action: the path that they get.
        seconds: how long.
        cores: where the generator is to run; None if it is not to be pinned.

    Returns:
        ``requests``, ``rate`` (a second), ``p50`` and ``p99`` in ms as the clients see it.
    """
    with tempfile.TemporaryDirectory() as directory:
        told, summary = Path(directory, "plan.json"), Path(directory, "summary.json")
        told.write_text(json.dumps(plan(clients, action, seconds)))
        command = [sys.executable, "-m", "k9", "run", "-q", str(told), "--summary-export", str(summary)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=pipe, text=True) as process:
            if cores is not None:
                os.sched_setaffinity(process.pid, cores)
            try:
                _, said = process.communicate(timeout=seconds + 60)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise RuntimeError(f"k9 failed: {said[-500:]}")
        metrics = json.loads(summary.read_text())["metrics"]
    if failed := metrics["http_req_failed"]["passes"]:
        raise RuntimeError(f"{failed} of {metrics['http_reqs']['count']} requests failed")
    return {
        "requests": metrics["http_reqs"]["count"],
        "rate": metrics["http_reqs"]["rate"],
        "p50": metrics["http_req_duration"]["med"],
        "p99": metrics["http_req_duration"]["p(99)"],
    }

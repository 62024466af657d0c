"""README's comparison, held against the run of the benchmarks that is kept beside their page."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from tests.docs.pages import ROOT, table

RUN: Final[dict[str, Any]] = json.loads((ROOT / "docs/benchmarks/results.json").read_text())
README: Final = ROOT / "README.md"
COLUMNS: Final = {"signed_cookie": 2, "starsessions": 3, "fastapi_redis_sdk": 4}


def measured(question: str, layer: str, value: str, **where: Any) -> float:
    """Return one figure of the run, on asyncio's own loop."""
    rows = next(one["rows"] for one in RUN["questions"] if one["name"] == question)
    (row,) = (
        row
        for row in rows
        if row.get("layer") == layer
        and all(row.get(name) == wanted for name, wanted in {"loop": None, **where}.items())
    )
    return float(row[value])


def shown(row: str, layer: str) -> list[float]:
    """Return the figures of README's comparison in the row that begins so, in a layer's column."""
    (cells,) = (cells for cells in table(README, "") if cells[0].startswith(row))
    return [float(figure) for figure in re.findall(r"\d+(?:\.\d+)?", cells[COLUMNS.get(layer, 1)])]


@pytest.mark.parametrize(
    "layer", ["asgi_session_redis", "signed_cookie", "starsessions", "fastapi_redis_sdk"]
)
def test_what_is_kept(layer: str) -> None:
    """The lost writes and the sessions that came back are those of the run."""
    what = {"what": "parallel writes"}
    lost = measured("correctness", layer, "sent", **what) - measured("correctness", layer, "survived", **what)
    assert shown("Parallel writes", layer) == [lost]
    assert measured("correctness", layer, "refused", **what) == 0
    back = {"what": "logouts against a slow request"}
    assert shown("Logout during", layer) == [measured("correctness", layer, "back_in_browser", **back)]


@pytest.mark.parametrize("layer", ["asgi_session_redis", "starsessions", "fastapi_redis_sdk"])
def test_store(layer: str) -> None:
    """Commands and store CPU are those of the run."""
    at = {"concurrency": 64}
    kinds = ("untouched", "read", "write")
    commands = [round(measured("store-cost", layer, "commands", kind=kind, **at), 1) for kind in kinds]
    assert shown("Store commands", layer) == commands
    cpu = [round(measured("store-cost", layer, "cpu", kind=kind, **at), 1) for kind in kinds[1:]]
    assert shown("Store CPU, µs: read / write, 64", layer) == cpu


@pytest.mark.parametrize("layer", ["asgi_session_redis", "starsessions"])
def test_store_one_at_a_time(layer: str) -> None:
    """Store CPU of requests that come one at a time is that of the run."""
    at = {"concurrency": 1, "sessions": 10_000}
    cpu = [round(measured("scaling", layer, "store_cpu", action=one, **at)) for one in ("read", "write")]
    assert shown("Store CPU, µs: read / write, one", layer) == cpu


@pytest.mark.parametrize(
    ("framework", "layer"),
    [
        ("Starlette", "asgi_session_redis"),
        ("Starlette", "signed_cookie"),
        ("Starlette", "starsessions"),
        ("FastAPI", "asgi_session_fastapi"),
        ("FastAPI", "fastapi_redis_sdk"),
    ],
)
def test_app(framework: str, layer: str) -> None:
    """App CPU is that of the run, and each framework is compared with itself."""
    at = {"concurrency": 64, "size": 700}
    cpu = [
        round(measured("request-cost", layer, "cpu", action=one, **at)) for one in ("read", "write", "new")
    ]
    assert shown(f"App CPU on {framework}", layer) == cpu


def test_of_when_and_what() -> None:
    """README names the run's day and the versions of what it compares."""
    text = README.read_text()
    environment = RUN["environment"]
    assert f"of {environment['date'][:10]}" in text
    for name, title in (("starlette", "Starlette"), ("starsessions",) * 2, ("fastapi-redis-sdk",) * 2):
        assert f"{title} {environment['libraries'][name]}" in text

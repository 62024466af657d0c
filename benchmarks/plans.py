"""Plans: requests made ready beforehand, so that nothing is measured but carrying them out."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.client import Browser
from benchmarks.worker import Bed, Meter

Plan = list[tuple[Any, Browser, bytes]]
"""The app, the browser and the query of each request, in the order in which they begin."""


async def follow(plan: Plan, concurrency: int) -> list[Exception]:
    """Make the plan's requests, always `concurrency` at a time; return the errors of those that failed."""
    failed: list[Exception] = []
    left = iter(plan)

    async def run() -> None:
        for app, browser, query in left:
            try:
                await browser.request(app, query)
            except Exception as error:  # whatever a layer does when it is asked for too much
                failed.append(error)

    await asyncio.gather(*[run() for _ in range(concurrency)])
    return failed


async def carry_out(bed: Bed, concurrency: int) -> dict[str, Any]:
    """Follow the plan that the bed keeps.

    Returns:
        ``cpu``: µs of the application per request; ``rate``: requests per second; ``failed``: the share
        of requests that failed; ``error``: what the first of those said.
    """
    plan: Plan = bed.kept["plan"]
    with Meter() as meter:
        failed = await follow(plan, concurrency)
    error = f"{type(failed[0]).__name__}: {failed[0]}"[:300] if failed else ""
    return {**meter.per(len(plan)), "failed": len(failed) / len(plan), "error": error}

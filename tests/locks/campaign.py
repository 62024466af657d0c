"""Many clients in several processes use one lock while things go wrong; then the history is checked.

``python -m tests.locks.campaign --minutes 10 --seed 1 --processes 4`` runs rounds until the time is
up, prints the seed and a summary of each, and exits with 1 if a promise was not kept. The histories
of rounds with violations are kept in a directory, whose path is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.locks.events import History
from tests.locks.history import check, summary
from tests.locks.rounds import Plan, Round
from tests.locks.violations import Violation
from tests.locks.waiting import idle_times
from tests.servers import Cluster, ServerProcess, start_cluster, start_valkey

WHERE = ("valkey", "cluster", "crash")


@dataclass
class Outcome:
    """What came of a round; its files are in `directory` until `discard`."""

    plan: Plan
    directory: Path
    history: History = field(default_factory=History)
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in summary(self.history).items())
        history = self.history
        faults = (
            f"{len(history.kills)} kills, {len(history.pauses)} pauses, {len(history.crashes)} crashes, "
            f"{len(history.trouble)} marks of trouble"
        )
        return f"{self.plan.where}, seed {self.plan.seed}: {counts}; {faults}; {self._idle()}"

    def _idle(self) -> str:
        first = min(self.history.trouble, default=float("inf"))
        calm = storm = 0.0
        for session in self.history.found:
            operations = [op for op in self.history.operations.values() if op.session == session]
            for since, until, _, _ in idle_times(operations):
                if until < first:
                    calm = max(calm, until - since)
                else:
                    storm = max(storm, until - since)
        return f"longest idle with a waiter: {calm:.2f} s when calm, {storm:.2f} s in the storm"

    def report(self) -> str:
        """Return all violations, and the events that show the first of them."""
        lines = [f"{len(self.violations)} violations; seed {self.plan.seed}; histories in {self.directory}"]
        lines += [str(violation) for violation in self.violations[:20]]
        for violation in self.violations[:3]:
            lines += ["", f"what shows {violation}"]
            lines += [json.dumps(event) for event in violation.events()[:60]]
        return "\n".join(lines)

    def discard(self) -> None:
        shutil.rmtree(self.directory)


@contextlib.asynccontextmanager
async def _server(where: str) -> AsyncIterator[ServerProcess | Cluster]:
    server: ServerProcess | Cluster
    for attempt in range(3):
        try:
            server = await asyncio.to_thread(_start, where)
            break
        except RuntimeError:  # somebody else was faster to take the port
            if attempt == 2:
                raise
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


def _start(where: str) -> ServerProcess | Cluster:
    return start_valkey() if where == "valkey" else start_cluster()


async def run(plan: Plan) -> Outcome:
    """Run one round on servers of its own and check its history."""
    outcome = Outcome(plan, Path(tempfile.mkdtemp(prefix=f"locks-{plan.where}-{plan.seed}-")))
    print(f"locks: {plan}", flush=True)
    async with _server(plan.where) as server:
        outcome.history = await Round(plan, server, outcome.directory).run()
    outcome.violations = check(outcome.history, plan.limits)
    return outcome


async def main(minutes: float, seed: int, processes: int, where: tuple[str, ...]) -> int:
    """Run rounds, all kinds in turn; return how many had violations."""
    end = time.monotonic() + 60 * minutes
    bad = 0
    for number, kind in enumerate(itertools.cycle(where)):
        if time.monotonic() >= end:
            break
        outcome = await run(Plan(where=kind, seed=seed + number, processes=processes))
        print(outcome, flush=True)
        if outcome.violations:
            bad += 1
            print(outcome.report(), flush=True)
        else:
            outcome.discard()
    print(f"seed {seed}: {bad} rounds with violations")
    return bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.locks.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--only", choices=WHERE, help="one kind of round; default: all in turn")
    options = parser.parse_args()
    kinds = (options.only,) if options.only else WHERE
    sys.exit(asyncio.run(main(options.minutes, options.seed, options.processes, kinds)) > 0)

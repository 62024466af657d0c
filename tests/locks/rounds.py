"""A round of a campaign: processes with many clients each, and what is done to them meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass
from pathlib import Path

from asgi_session import Session
from tests.inside import lease_in, record_of
from tests.locks.events import History, assemble, parse
from tests.locks.faults import Failover, Network, strike
from tests.locks.processes import Process
from tests.locks.recording import Record
from tests.locks.violations import Limits
from tests.locks.worker import Worker
from tests.manager.kit import credential
from tests.servers import Cluster, LossyProxy, ServerProcess

SKEW = (0, 12_000, -13_000)
"""What the processes' clocks are fast, ms, in turn: MAX_SKEW allows a difference of 30 s."""


@dataclass(frozen=True)
class Plan:
    """One round.

    Attributes:
        where: ``"valkey"``: one server; processes are killed and stopped, connections dropped, and one
            process works through a proxy that loses replies. ``"cluster"``: the same without the
            proxy, and primaries hand over to their replicas. ``"crash"``: primaries are killed, and
            may take along what they have just acknowledged.
        calm: seconds at the beginning in which nothing is done to anybody (clients cancel and raise
            all the same), so that a lost wake-up has no excuse.
        storm: seconds after that.
        least: acquisitions; if there are fewer when the storm is over, clients go on for up to a minute.
    """

    where: str = "valkey"
    seed: int = 1
    processes: int = 4
    clients: int = 16
    sessions: int = 120
    calm: float = 5.0
    storm: float = 20.0
    least: int = 0

    @property
    def limits(self) -> Limits:
        # A lease of 3 s, then a grant of 2 s for each process in the queue that is stopped or dead.
        if self.where == "crash":  # nothing moves for the 4 s until a replica is elected
            return Limits(idle_in_trouble=16.0, loss=1.0)
        return Limits(idle_in_trouble=12.0)


class Round:
    """One set of servers, processes and sessions."""

    def __init__(self, plan: Plan, server: ServerProcess | Cluster, directory: Path) -> None:
        self.plan = plan
        self.server = server
        self.directory = directory
        self.rng = random.Random(plan.seed)
        self.own = Worker(server.url, "end", str(directory / "end"))  # makes, and in the end reads, sessions
        self.record = Record(str(directory / "campaign"))
        self.processes: list[tuple[str, Process]] = []
        self.tokens: list[str] = []
        self.proxy: LossyProxy | None = None
        self._counted: dict[Path, tuple[int, int]] = {}

    async def run(self) -> History:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.own.close)
            stack.callback(self._end)
            if isinstance(self.server, ServerProcess):
                self.proxy = await stack.enter_async_context(LossyProxy(self.server))
            self.tokens = [await self._new() for _ in range(self.plan.sessions)]
            started = [self._start(f"p{number}.1") for number in range(self.plan.processes)]
            self.processes = await asyncio.gather(*started)
            await asyncio.sleep(self.plan.calm)
            await self._storm()
            await self._enough()
            answers = await asyncio.gather(*(process.ask("stop") for _, process in self.processes))
            for (name, _), answer in zip(self.processes, answers, strict=True):
                self.record.note("stopped", process=name, name=answer["name"])
            if not any(answer["hanging"] for answer in answers):
                await self._finally()
            await self._find()
        return self.history()

    def _end(self) -> None:
        for _, process in self.processes:
            process.end()

    async def _new(self) -> str:
        session = await self.own.load("")
        session.update(count=0, last="")
        await session.commit()
        return credential(session)

    async def _start(self, name: str) -> tuple[str, Process]:
        url = self.proxy.url if self.proxy is not None and name.startswith("p0.") else self.server.url
        skew = SKEW[int(name[1 : name.index(".")]) % len(SKEW)]
        process = Process("tests.locks.worker", url, name, str(self.directory / name), str(skew))
        try:
            await process.ready()
            await process.ask("start", tokens=self.tokens, clients=self.plan.clients, seed=self.plan.seed)
        except BaseException:
            process.end()
            raise
        return name, process

    # ---------------------------------------------------------------- the storm

    async def _storm(self) -> None:
        over = asyncio.Event()
        servers = self.server.nodes if isinstance(self.server, Cluster) else [self.server]
        network = Network(servers, self.record, self.proxy).faults
        if isinstance(self.server, Cluster):
            keys = [f"{{{token[:22]}}}" for token in self.tokens]
            failover = Failover(self.server, keys, self.record, self.rng)
            network = [failover.by_death if self.plan.where == "crash" else failover.by_agreement]
        storms = [
            asyncio.create_task(strike(network, self.rng, over, every=0.8)),
            asyncio.create_task(strike([self._kill, self._pause, self._kill], self.rng, over, every=1.0)),
        ]
        try:
            done, _ = await asyncio.wait(storms, timeout=self.plan.storm, return_when=asyncio.FIRST_EXCEPTION)
            for storm in done:
                storm.result()
        finally:
            over.set()
            await asyncio.gather(*storms)

    async def _enough(self) -> None:
        end = time.monotonic() + 60
        while self.acquisitions < self.plan.least and time.monotonic() < end:
            await asyncio.sleep(0.1)

    @property
    def acquisitions(self) -> int:
        """Count those on record so far; each file is read on from where it was left."""
        for path in self.directory.iterdir():
            offset, count = self._counted.get(path, (0, 0))
            with path.open("rb") as file:
                file.seek(offset)
                lines = file.read()
            end = lines.rfind(b"\n") + 1
            self._counted[path] = offset + end, count + lines.count(b'{"event":"granted"', 0, end)
        return sum(count for _, count in self._counted.values())

    async def _pause(self) -> None:
        """Stop a process for longer than the first grant of a lock, or even its lease, lasts."""
        name, process = self.rng.choice(self.processes)
        self.record.note("paused", process=name)
        process.pause()
        try:
            await asyncio.sleep(self.rng.uniform(2.5, 4.0))
        finally:
            process.resume()
            self.record.note("continued", process=name)

    async def _kill(self) -> None:
        """Kill a process and start another in its place."""
        number = self.rng.randrange(len(self.processes))
        name, process = self.processes[number]
        process.kill()
        self.record.note("killed", process=name)
        base, _, life = name.partition(".")
        self.processes[number] = await self._start(f"{base}.{int(life) + 1}")

    # ---------------------------------------------------------------- the end

    async def _finally(self) -> None:
        """Take every lock once more: none may be left behind as taken."""

        async def look(number: int, token: str) -> None:
            await self.own.operate(f"end.{number}", token, "once", self.rng, None, {})

        await asyncio.gather(*(look(number, token) for number, token in enumerate(self.tokens)))

    async def _find(self) -> None:
        for token in self.tokens:
            session = await self.own.load(token)
            if session.id == token[:22]:
                notes = {key: value for key, value in session.items() if key.startswith("note ")}
                found = {"value": session["count"], "last": session["last"], "tally": session.get("tally", 0)}
                self.record.note("found", session=token[:22], notes=notes, lock=_lock(session), **found)

    def history(self) -> History:
        paths = sorted(self.directory.iterdir(), key=lambda path: (len(path.name), path.name))
        return assemble(parse(path.read_text()) for path in paths)


def _lock(session: Session) -> list[str]:
    """Return the names of the processes that hold the lock or wait for it."""
    record = record_of(session)
    assert record is not None
    lease = lease_in(record)
    return [] if lease is None else [name.hex() for name in (lease.process, *lease.queue)]

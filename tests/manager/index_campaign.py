"""Users sign in and out at random in two processes on a real server; then what they were told is checked.

``python -m tests.manager.index_campaign --schedules 10000 --seed 1`` prints the seed and what was done, and
exits with 1 if a promise was not kept. In every tenth round one of the processes is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from asgi_session.clock import system_clock
from tests.inside import Record, entries_in_index, index_key_of, record_in
from tests.manager.index_worker import CAP, DEADLINE, Worker
from tests.manager.kit import soon
from tests.manager.processes import Process
from tests.servers import start_valkey

ROUND = 100
"""Schedules in one round."""
WORKER = "tests.manager.index_worker"
SIGN_INS = ("sign_in", "sign_in_with_a_cart", "sign_in_another")


class Done(NamedTuple):
    """An act, and what came of it: of a sign-in the id, of a listing the ids."""

    schedule: int
    act: str
    user: str
    since: float
    until: float
    came: Any


@dataclass
class Campaign:
    """Many schedules, each with users of its own.

    Attributes:
        worker: in this process; looks at what is left.
        gap: seconds from one schedule's beginning to the next one's.
        done: how often each act was carried out.
        refused: how many sign-ins were refused.
        kills: how many processes.
        violations: what should not be.
    """

    worker: Worker
    gap: float = 0.008
    done: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    kills: int = 0
    violations: list[str] = field(default_factory=list)

    async def run(self, url: str, schedules: int, seed: int, *, kill: bool = True) -> None:
        """Run so many schedules."""
        processes = [Process(url, module=WORKER) for _ in range(2)]
        try:
            for number, first in enumerate(range(0, schedules, ROUND)):
                count = min(ROUND, schedules - first)
                killed = kill and number % 10 == 9
                await self.round(processes, first, count, seed, killed=killed)
                if killed:
                    processes[1] = Process(url, module=WORKER)
        finally:
            for process in processes:
                process.end()
        began = time.monotonic()
        while time.monotonic() < began + DEADLINE + 0.5:  # then what is dead is taken for dead
            await asyncio.sleep(0.1)
        for first in range(0, schedules, ROUND):
            numbers = range(first, min(first + ROUND, schedules))
            await asyncio.gather(*(self.check_rest(f"{one}{number}") for number in numbers for one in "ab"))

    async def round(
        self, processes: Sequence[Process], first: int, count: int, seed: int, *, killed: bool
    ) -> None:
        """Run `count` schedules at once, one beginning after the other, and check them."""
        tokens = (await self.worker.prepare(first, count))["tokens"]
        start = time.monotonic() + 0.05
        for number, process in enumerate(processes):
            order = {"first": first, "tokens": tokens, "start": start, "gap": self.gap}
            process.send("schedules", seed=2 * seed + number, **order)
        answers = [processes[0].answer()]
        if killed:
            await asyncio.sleep(0.05 + count * self.gap / 2)
            processes[1].kill()
            self.kills += 1
        else:
            answers.append(processes[1].answer())
        found = [Done(*done) for answer in await asyncio.gather(*answers) for done in answer["done"]]
        self.done.update(done.act for done in found)
        self.refused += sum(done.act in SIGN_INS and done.came is None for done in found)
        for offset, (_, signed_in) in enumerate(tokens):
            schedule = first + offset
            before = Done(schedule, "sign_in", f"a{schedule}", 0, start, signed_in[:22])
            own = [before, *(done for done in found if done.schedule == schedule)]
            await self.check(schedule, own, whole=not killed)

    async def record(self, session_id: str) -> Record | None:
        """Return the record of a session that lives."""
        stored = await self.worker.store.load(session_id, deadline=soon())
        if stored is None or stored.expires_at <= system_clock():
            return None
        record = record_in(self.worker.manager, session_id, stored.data)
        return None if record.ended else record

    async def check(self, schedule: int, done: list[Done], *, whole: bool) -> None:
        """Check what the clients of a schedule were told; `whole`: all that was done is known."""
        signed_in = {one.came: one for one in done if one.act in SIGN_INS and one.came is not None}
        records = {one: await self.record(one) for one in signed_in}
        alive = {one for one, record in records.items() if record is not None}
        broken: list[str] = []
        for one, record in records.items():
            if record is not None and record.entries["of"] != record.entries["user"]:
                broken.append(f"{one} shows another's value")
        for user in {one.user for one in done}:
            living = [one for one in alive if signed_in[one].user == user]
            if len(living) > CAP:
                broken.append(f"{user} has {len(living)} sessions")
        for one in done:
            if one.act in ("revoke_user", "revoke_others"):
                kept = done[0].came if one.act == "revoke_others" else None
                broken += [
                    f"{each} survives {one}"
                    for each in alive
                    if each != kept and signed_in[each].user == one.user and signed_in[each].until < one.since
                ]
            elif one.act == "listing":
                if len(set(one.came)) != len(one.came):
                    broken.append(f"listed twice: {one}")
                mine = {each for each in signed_in if signed_in[each].user == one.user}
                broken += [f"not listed: {each} in {one}" for each in alive & mine
                           if signed_in[each].until < one.since and each not in one.came]  # fmt: skip
                broken += [f"a stranger: {each} in {one}" for each in one.came
                           if each in signed_in and each not in mine]  # fmt: skip
            elif one.act == "revoke" and one.came is True and not self._became(done, "b"):
                broken.append(f"a stranger's id was ended: {one}")
            elif isinstance(one.came, str) and one.act not in SIGN_INS:
                broken.append(f"an error: {one}")
        if whole:
            for user in (f"a{schedule}", f"b{schedule}"):
                listed = [info.id async for info in self.worker.manager.sessions_of(user)]
                broken += [f"nobody was told of {each}" for each in listed if each not in signed_in]
        self.violations += [f"schedule {schedule}: {each}" for each in broken]

    def _became(self, done: list[Done], name: str) -> bool:
        return any(one.user.startswith(name) and one.came is not None for one in done)

    async def check_rest(self, user: str) -> None:
        """Check that after two listings the index has what lives, and nothing else."""
        manager = self.worker.manager
        for _ in range(2):
            listed = [info.id async for info in manager.sessions_of(user)]
        entries = [one.id for one in await entries_in_index(manager, user)]
        if sorted(entries) != sorted(listed):
            self.violations.append(f"{user}: {entries} in {index_key_of(manager, user)}, and {listed} live")
        if len(listed) > CAP:
            self.violations.append(f"{user}: {len(listed)} sessions live")


async def run(url: str, schedules: int, seed: int, *, kill: bool = True) -> Campaign:
    """Run a campaign on a server."""
    campaign = Campaign(Worker(url))
    await campaign.run(url, schedules, seed, kill=kill)
    await campaign.worker.manager.close()
    await campaign.worker.store.close()
    return campaign


def main(schedules: int, seed: int) -> int:
    """Run a campaign on a server of its own; return how many promises were not kept."""
    server = start_valkey()
    try:
        began = time.monotonic()
        campaign = asyncio.run(run(server.url, schedules, seed))
    finally:
        server.stop()
    acts = ", ".join(f"{name} {count}" for name, count in sorted(campaign.done.items()))
    print(f"seed {seed}: {schedules} schedules in {time.monotonic() - began:.0f} s, {campaign.kills} kills")
    print(f"{acts}; {campaign.refused} sign-ins refused; {len(campaign.violations)} violations")
    for violation in campaign.violations[:20]:
        print(violation)
    return len(campaign.violations)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.manager.index_campaign", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.exit(main(options.schedules, options.seed) > 0)

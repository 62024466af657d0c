"""A roll-out from one server to another, with two real processes at every pair of stages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.manager.processes import Process
from tests.servers import ServerProcess

STAGES = ("old", "reads", "moves", "new")
USERS = [f"user{number}" for number in range(10)]
EACH = 6


@pytest.fixture
def processes(valkey: ServerProcess, fresh_valkey: ServerProcess) -> Iterator[dict[str, Process]]:
    urls = fresh_valkey.url, valkey.url
    made = {stage: Process(stage, *urls, module="tests.manager.stages_worker") for stage in STAGES}
    yield made
    for process in made.values():
        process.end()


async def test_nobody_is_logged_out_and_nothing_is_lost(
    processes: dict[str, Process], valkey: ServerProcess, fresh_valkey: ServerProcess
) -> None:
    """Both processes of each pair begin, write to and end sessions, from the old store to the new one."""

    async def both(pair: tuple[str, str], do: str, **order: Any) -> list[dict[str, Any]]:
        for seed, stage in enumerate(pair):
            extra = {"seed": seed} if do == "write" else {}
            processes[stage].send(do, **order, **extra)
        return [await processes[stage].answer() for stage in pair]

    async def one(stage: str, do: str, **order: Any) -> dict[str, Any]:
        processes[stage].send(do, **order)
        return await processes[stage].answer()

    kept: dict[str, str] = dict((await one("old", "sign_in", users=USERS, each=2))["signed_in"])
    ended: list[str] = []
    written: set[str] = set()
    overlaps = 0
    for pair in pairwise(STAGES):
        if "new" in pair:  # the old store must have no record left
            await one("moves", "look", tokens=[*kept, *ended])
            await one("moves", "listed", users=USERS)
        # Both sign the same users in at once, so that both write the index of each; then both write.
        for answer in await both(pair, "sign_in", users=USERS, each=1):
            kept |= dict(answer["signed_in"])
        assert await both(pair, "write", tokens=list(kept), each=EACH) == [{"out": 0}] * 2
        written |= {f"{stage}.{seed}.{turn}" for seed, stage in enumerate(pair) for turn in range(EACH)}
        for destroyer in range(2):
            doomed = dict((await one(pair[0], "sign_in", users=["doomed"], each=30))["signed_in"])
            for number, stage in enumerate(pair):
                processes[stage].send("race", tokens=list(doomed), destroys=number == destroyer, seed=number)
            done = [(await processes[stage].answer())["done"] for stage in pair]
            assert done[destroyer] == 30
            overlaps += done[1 - destroyer]
            ended += doomed
        for stage in pair:
            found = (await one(stage, "look", tokens=list(kept)))["found"]
            assert None not in found, f"{stage} has logged somebody out"
            first = list(kept)[: 2 * len(USERS)]
            for session in found[: len(first)]:
                assert written <= session.keys(), f"{stage} misses a write"
            assert (await one(stage, "look", tokens=ended))["found"] == [None] * len(ended)
            listed = await one(stage, "listed", users=USERS)
            for user in USERS:
                ids = {token[:22] for token, whose in kept.items() if whose == user}
                assert set(listed[user]) == ids, f"{stage} does not know {user}'s sessions"
    assert overlaps > 50, "the writers were never in time"

"""Two real processes and a real server: users sign in, list and revoke at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from asgi_session import SessionManager
from tests.inside import credential, new_session
from tests.manager.index_campaign import WORKER, run
from tests.manager.kit import World
from tests.manager.processes import Process
from tests.servers import ServerProcess

SIGN_INS = 12


class Devices(Protocol):
    """What users and the two processes of an app do, however these are made."""

    async def each(self, do: str, *orders: dict[str, Any]) -> list[dict[str, Any]]:
        """Have orders carried out at once, by the processes in turn; return the answers."""
        ...

    async def lives(self, token: str) -> bool:
        """Tell whether a token opens a session."""
        ...


class InMemory:
    """Two managers over one store in memory."""

    def __init__(self) -> None:
        self.world = World(identity="user")
        self.managers = [self.world.manager, self.world.process()]

    async def each(self, do: str, *orders: dict[str, Any]) -> list[dict[str, Any]]:
        work = [getattr(self, do)(self.managers[at % 2], **order) for at, order in enumerate(orders)]
        return list(await asyncio.gather(*work))

    async def lives(self, token: str) -> bool:
        return await self.world.read(token) is not None

    async def sign_in(self, manager: SessionManager, user: str) -> dict[str, Any]:
        session = await new_session(manager).load()
        session["user"] = user
        await session.commit()
        return {"id": session.id, "token": credential(session)}

    async def mixed(self, manager: SessionManager, name: str, order: dict[str, Any]) -> dict[str, Any]:
        return await getattr(self, name)(manager, **order)  # type: ignore[no-any-return]

    async def listed(self, manager: SessionManager, user: str) -> dict[str, Any]:
        return {"ids": [info.id async for info in manager.sessions_of(user)]}

    async def revoke(self, manager: SessionManager, user: str, id: str) -> dict[str, Any]:
        return {"ended": await manager.revoke(id, principal=user)}

    async def revoke_user(
        self, manager: SessionManager, user: str, except_: str | None = None
    ) -> dict[str, Any]:
        return {"ended": await manager.revoke_user(user, except_=except_)}


class OnAServer:
    """Several processes, since each carries out one order at a time, and a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.processes = [Process(url, module=WORKER) for _ in range(2)]

    async def each(self, do: str, *orders: dict[str, Any]) -> list[dict[str, Any]]:
        halves = [list(orders[at::2]) for at in range(2)]
        for process, half in zip(self.processes, halves, strict=True):
            process.send("at_once", name=do, orders=half)
        found = [(await process.answer())["answers"] for process in self.processes]
        return [found[at % 2][at // 2] for at in range(len(orders))]

    async def lives(self, token: str) -> bool:
        (answer,) = await self.each("lives", {"token": token})
        return bool(answer["lives"])

    def end(self) -> None:
        for process in self.processes:
            process.end()


@pytest.fixture(params=["memory", "a server"])
def devices(request: pytest.FixtureRequest) -> Iterator[Devices]:
    if request.param == "memory":
        yield InMemory()
        return
    valkey: ServerProcess = request.getfixturevalue("valkey")
    made = OnAServer(valkey.url)
    yield made
    made.end()


async def sign_in(devices: Devices, count: int = SIGN_INS) -> dict[str, str]:
    """Have a user sign in so often at once; return id to token."""
    answers = await devices.each("sign_in", *({"user": "ada"} for _ in range(count)))
    return {answer["id"]: answer["token"] for answer in answers}


async def listed(devices: Devices) -> list[list[str]]:
    """Return what each of the processes lists."""
    return [answer["ids"] for answer in await devices.each("listed", {"user": "ada"}, {"user": "ada"})]


async def test_all_that_were_issued_are_listed(devices: Devices) -> None:
    """better-auth#11073, 1: of sign-ins at once all are issued, and all are listed, by either process."""
    issued = await sign_in(devices)
    assert len(issued) == SIGN_INS
    for ids in await listed(devices):
        assert sorted(ids) == sorted(issued)


async def test_revoking_the_others_leaves_one(devices: Devices) -> None:
    """better-auth#11073, 2: of sessions that were issued at once, "revoke the others" leaves one."""
    issued = await sign_in(devices)
    keep = next(iter(issued))
    (answer,) = await devices.each("revoke_user", {"user": "ada", "except_": keep})
    assert answer["ended"] == SIGN_INS - 1
    assert [one for one, token in issued.items() if await devices.lives(token)] == [keep]
    assert await listed(devices) == [[keep], [keep]]


async def test_listing_beside_sign_ins(devices: Devices) -> None:
    """better-auth#11073, 3: what was issued before is in every listing, also while others sign in."""
    before = await sign_in(devices)
    work = [("sign_in", {"user": "ada"}), ("listed", {"user": "ada"})] * SIGN_INS
    answers = await devices.each("mixed", *({"name": name, "order": order} for name, order in work))
    after = [answer["id"] for answer in answers if "id" in answer]
    assert len(after) == SIGN_INS
    for answer in answers:
        assert set(answer.get("ids", before)) >= set(before)
    for ids in await listed(devices):
        assert sorted(ids) == sorted([*before, *after])


async def test_several_are_revoked_at_once(devices: Devices) -> None:
    """better-auth#11073, 4: revoked one by one, at once, each ends, and none of the others does."""
    issued = await sign_in(devices)
    ends = list(issued)[: SIGN_INS // 2]
    answers = await devices.each("revoke", *({"user": "ada", "id": one} for one in ends))
    assert all(answer["ended"] for answer in answers)
    alive = [one for one, token in issued.items() if await devices.lives(token)]
    assert alive == list(issued)[SIGN_INS // 2 :]
    for ids in await listed(devices):
        assert sorted(ids) == sorted(alive)


async def test_a_short_campaign(valkey: ServerProcess) -> None:
    """Two hundred schedules at random in two processes; `index_campaign` by itself runs more."""
    campaign = await run(valkey.url, 200, seed=3, kill=False)
    assert campaign.violations == []
    assert campaign.refused > 0
    assert campaign.done.total() > 500

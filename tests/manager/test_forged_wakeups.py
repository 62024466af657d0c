"""Promise 16: who can publish, but neither read nor write keys, can cause loads and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator

import pytest
from redis.asyncio import Redis

from asgi_session import SessionManager
from asgi_session.stores.redis import RedisStore
from asgi_session.testing import FaultStore
from tests.inside import HINTS_IN_FLIGHT, HINTS_PER_SECOND, changed, decoded, encoded, listen, new_session
from tests.manager.kit import soon, start, until
from tests.servers import ServerProcess, start_redis62, start_valkey


@pytest.fixture(params=[start_valkey, start_redis62])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    start: Callable[[], ServerProcess] = request.param
    server = start()
    server.command("ACL", "SETUSER", "attacker", "on", "nopass", "resetkeys", "+@all", "&*")
    yield server
    server.stop()


class Fleet:
    """Two processes' managers and a session, whose lock the one holds and the other waits for."""

    def __init__(self, server: ServerProcess) -> None:
        self.stores = [FaultStore(RedisStore.from_url(server.url)) for _ in range(2)]
        self.here, self.there = (
            SessionManager(store, secret_key=secrets.token_bytes(16)) for store in self.stores
        )
        self.attacker = Redis(host=server.host, port=server.port, username="attacker", password="")
        self.id = ""

    async def begin(self) -> None:
        session = await new_session(self.here).load()
        session["role"] = "user"
        await session.commit()
        self.id = session.id or ""

    async def listening(self) -> list[str]:
        """Return the channels on which somebody listens, once both do."""
        while len(channels := await self.attacker.pubsub_channels("*")) < 2:
            await asyncio.sleep(0.005)
        return [channel.decode() for channel in channels]

    async def forged(self, role: str, *, ahead: int) -> bytes:
        """Return the value of a version that was never saved, with the lock granted to nobody."""
        stored = await self.stores[0].store.load(self.id, deadline=soon())
        assert stored is not None
        record = decoded(stored.data)
        assert isinstance(role, str)
        entries = {"role": b"\xa5" + role.encode()}
        data = encoded(changed(record, version=record.version + ahead, entries=entries))
        return stored.expires_at.to_bytes(8, "big") + data

    async def end(self) -> None:
        await self.attacker.aclose()
        for manager, store in ((self.here, self.stores[0]), (self.there, self.stores[1])):
            await manager.close()
            await store.close()


@pytest.mark.parametrize("ahead", [0, 1, 50])
async def test_a_forged_record_is_neither_read_nor_saved(server: ServerProcess, ahead: int) -> None:
    """Promise 16: not with the true tag, not with a higher version; whoever waits and holds goes on."""
    fleet = Fleet(server)
    await fleet.begin()
    seen: list[object] = []

    async def wait() -> None:
        async with fleet.there.lock(fleet.id) as session:
            seen.append(session["role"])
            session["seen"] = True

    async with fleet.here.lock(fleet.id) as session:
        waiting = start(wait())
        listen(fleet.here)
        for channel in await fleet.listening():
            value = await fleet.forged("admin", ahead=ahead)
            for message in (fleet.id.encode() + value, fleet.id.encode()):
                assert await fleet.attacker.publish(channel, message) == 1
        session["n"] = 1
    await waiting
    assert seen == ["user"]
    async with fleet.here.lock(fleet.id) as session:
        assert dict(session) == {"role": "user", "n": 1, "seen": True}
    await fleet.end()


async def test_a_flood_is_few_loads_and_the_lock_goes_on(server: ServerProcess) -> None:
    """Promise 16: thousands of messages, true keys and invented ones, are a bounded number of loads."""
    fleet = Fleet(server)
    await fleet.begin()
    order: list[str] = []

    async def wait() -> None:
        async with fleet.there.lock(fleet.id):
            order.append("in")

    async with fleet.here.lock(fleet.id):
        waiting = start(wait())
        listen(fleet.here)
        channels = await fleet.listening()
        for store in fleet.stores:
            await until(lambda store=store: "listen" not in store.counts())  # type: ignore[misc]
            store.calls.clear()
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with fleet.attacker.pipeline(transaction=False) as pipe:
            for number in range(5_000):
                key = fleet.id if number % 2 else secrets.token_urlsafe(16)
                for channel in channels:
                    pipe.publish(channel, key)
            await pipe.execute()
        order.append("out")
    async with asyncio.timeout(5):
        await waiting
    seconds = loop.time() - began
    assert order == ["out", "in"]
    for store in fleet.stores:
        # Besides, hints that bring something new are free: two saves of the other process, at most.
        assert store.counts().get("load", 0) <= HINTS_PER_SECOND * (1 + seconds) + HINTS_IN_FLIGHT + 2
    await fleet.end()

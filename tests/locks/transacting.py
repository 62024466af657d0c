"""One of several processes that use `transact`: ``python -m tests.locks.transacting URL``.

What it answers counts each client's calls, by what they were told, and the runs of the function.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from asgi_session import Session, SessionManager
from asgi_session.errors import SessionConflict, StoreUnavailable
from asgi_session.stores.redis import RedisStore
from tests.inside import new_session
from tests.locks.processes import orders


class Transacting:
    """Clients of one manager."""

    def __init__(self, url: str, deadline: float = 30.0) -> None:
        self.store = RedisStore.from_url(url)
        self.manager = SessionManager(self.store, deadline=deadline)

    async def load(self, token: str) -> Session:
        return await new_session(self.manager, token).load()

    async def close(self) -> None:
        await self.manager.close()
        await self.store.close()

    async def add(self, token: str, clients: int, each: int, asynchronous: bool) -> dict[str, int]:
        """Add one to a counter, from each client so often."""
        return await self._all(token, clients, each, increment, asynchronous)

    async def buy(self, token: str, clients: int, each: int, asynchronous: bool) -> dict[str, int]:
        """Take one out of what is left, from each client so often; count `sold` and `sold_out`."""
        return await self._all(token, clients, each, take_one, asynchronous)

    async def _all(
        self, token: str, clients: int, each: int, function: Callable[[Session], str], asynchronous: bool
    ) -> dict[str, int]:
        counts = Counter[str]()

        def plain(session: Session) -> str:
            counts["runs"] += 1
            return function(session)

        async def awaits(session: Session) -> str:
            counts["runs"] += 1
            await asyncio.sleep(random.uniform(0, 0.001))
            return function(session)

        chosen: Callable[[Session], str | Awaitable[str]] = awaits if asynchronous else plain

        async def client() -> None:
            for _ in range(each):
                counts[await self._one(token, chosen)] += 1

        await asyncio.gather(*(client() for _ in range(clients)))
        return counts

    async def _one(self, token: str, function: Callable[[Session], Any]) -> str:
        session = await self.load(token)
        try:
            result: str = await session.transact(function)
        except SessionConflict as error:
            return "unknown" if error.outcome_unknown else "conflict"
        except StoreUnavailable as error:
            return "failed" if error.executed is False else "unknown"
        return result


def increment(session: Session) -> str:
    session["count"] += 1
    return "added"


def take_one(session: Session) -> str:
    if session["left"] == 0:
        return "sold_out"
    session["left"] -= 1
    session["sold"] = session.get("sold", 0) + 1
    return "sold"


async def main(url: str) -> None:
    logging.getLogger("asgi_session").setLevel(logging.ERROR)
    worker = Transacting(url)
    await worker.store.open()
    await orders(worker)
    await worker.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

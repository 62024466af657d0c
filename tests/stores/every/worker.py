"""One of two processes that work on the same sessions: ``python -m tests.stores.every.worker KIND URL``.

It reads one JSON line per order from stdin and answers each with one JSON line, as `tests.manager.worker`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from asgi_session import Session, SessionManager
from asgi_session.errors import SessionGone
from tests.inside import new_session
from tests.stores.every.kinds import named

SAVES = 3
"""How often a session of a race is written to: enough to be met by its end, which without an end to the
writing would come late, for each save that gets in between makes it begin anew."""


class Worker:
    """Carries out orders with one manager."""

    def __init__(self, kind: str, url: str) -> None:
        self.store = named(kind).make(url)
        self.manager = SessionManager(self.store, deadline=30)
        self.met: list[Session] = []

    async def load(self, token: str) -> Session:
        return await new_session(self.manager, token).load()

    async def write(self, token: str, prefix: str, clients: int, each: int) -> dict[str, Any]:
        """Have so many clients write keys of their own."""

        async def client(number: int) -> None:
            session = await self.load(token)
            for turn in range(each):
                session[f"{prefix}{number}.{turn}"] = turn
                await session.commit()

        await asyncio.gather(*(client(number) for number in range(clients)))
        return {}

    async def meet(self, tokens: list[str]) -> dict[str, Any]:
        """Load the sessions of a race."""
        self.met = await asyncio.gather(*(self.load(token) for token in tokens))
        return {}

    async def race(self, destroys: int) -> dict[str, Any]:
        """Write to every other session, some times or until it is gone; once all of these were written to,
        destroy the rest, those from `destroys` on. The other process does it the other way round.

        Returns when each destroy, and each save, began and ended: this machine's monotonic clock is the
        same in both processes.
        """
        destroyed: dict[str, tuple[float, float]] = {}
        saved: dict[str, list[tuple[float, float]]] = {}
        doomed = [session for number, session in enumerate(self.met) if number % 2 == destroys]
        others = [session for number, session in enumerate(self.met) if number % 2 != destroys]
        all_written = asyncio.Event()

        async def destroy(session: Session) -> None:
            key = str(session.id)
            await all_written.wait()
            began = time.monotonic()
            session.destroy()
            await session.commit()
            destroyed[key] = (began, time.monotonic())

        async def write(session: Session) -> None:
            key = str(session.id)
            for number in range(SAVES):
                began = time.monotonic()
                session["n"] = number
                gone = False
                try:
                    await session.commit()
                except SessionGone:
                    gone = True
                saved.setdefault(key, []).append((began, time.monotonic()))
                if len(saved) == len(others):
                    all_written.set()
                if gone:
                    return

        await asyncio.gather(*map(write, others), *map(destroy, doomed))
        return {"destroyed": destroyed, "saved": saved}


async def main(kind: str, url: str) -> None:
    worker = Worker(kind, url)
    await worker.store.open()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        answer = await getattr(worker, order.pop("do"))(**order)
        print(json.dumps(answer), flush=True)
    await worker.manager.drain()
    await worker.store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

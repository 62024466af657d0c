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

AT_ONCE = 8
"""How many sessions of a race a process works on at once. Both take them in the same order, so that the
first that is not over yet is always one that both work on."""


class Worker:
    """Carries out orders with one manager."""

    def __init__(self, kind: str, url: str) -> None:
        self.store = named(kind).make(url)
        self.manager = SessionManager(self.store, deadline=30)

    async def load(self, token: str) -> Session:
        return await new_session(self.manager, token).load()

    async def write(self, token: str, prefix: str, clients: int, each: int) -> dict[str, Any]:
        """Have so many clients write keys of their own, with a request for each."""

        async def client(number: int) -> None:
            for turn in range(each):
                session = await self.load(token)
                session[f"{prefix}{number}.{turn}"] = turn
                await session.commit()

        await asyncio.gather(*(client(number) for number in range(clients)))
        return {}

    async def race(self, tokens: list[str], destroys: int) -> dict[str, Any]:
        """Destroy every other session, from `destroys` on, once the other process writes to it; write to
        the rest until they are gone. Returns when each destroy, and each save, began and ended: this
        machine's monotonic clock is the same in both processes.
        """
        turn = asyncio.Semaphore(AT_ONCE)
        destroyed: dict[str, tuple[float, float]] = {}
        saved: dict[str, list[tuple[float, float]]] = {}

        async def destroy(token: str) -> None:
            async with turn:
                session = await self.load(token)
                while "n" not in session:
                    await session.refresh()
                began = time.monotonic()
                session.destroy()
                await session.commit()
                destroyed[token] = (began, time.monotonic())

        async def write(token: str) -> None:
            async with turn:
                session = await self.load(token)
                number = 0
                while True:
                    number += 1
                    began = time.monotonic()
                    session["n"] = number
                    try:
                        await session.commit()
                    except SessionGone:
                        return
                    finally:
                        saved.setdefault(token, []).append((began, time.monotonic()))

        await asyncio.gather(
            *(
                destroy(token) if number % 2 == destroys else write(token)
                for number, token in enumerate(tokens)
            )
        )
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

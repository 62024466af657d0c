"""One of several processes that work on the same sessions: ``python -m tests.manager.worker URL KEY...``.

With keys its records are sealed. It reads one JSON line per order from stdin and answers each with one
JSON line.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from asgi_session import Session, SessionManager
from asgi_session.errors import SessionGone
from asgi_session.stores import store_from_url
from tests.inside import new_session


class Worker:
    """Carries out orders with one manager."""

    def __init__(self, url: str, *keys: str) -> None:
        self.store = store_from_url(url)
        self.manager = SessionManager(self.store, encryption_key=keys or None, max_size=1 << 20, deadline=30)

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

    async def race(self, tokens: list[str], destroy: int, seed: int) -> dict[str, Any]:
        """Write to each session; destroy every other one, from `destroy` on; what the writers were told."""
        rng = random.Random(seed)
        saved = dropped = 0

        async def writer(token: str, number: int) -> None:
            nonlocal saved, dropped
            await asyncio.sleep(rng.uniform(0, 0.02))
            session = await self.load(token)
            for turn in range(3):
                session[f"{seed}.{number}.{turn}"] = turn
                await asyncio.sleep(rng.uniform(0, 0.004))
                try:
                    await session.commit()
                except SessionGone:
                    dropped += 1
                    return
                if session.id != token[:22]:  # it had ended before it was loaded: a new one
                    return
                saved += 1

        async def destroyer(token: str) -> None:
            await asyncio.sleep(rng.uniform(0, 0.03))
            session = await self.load(token)
            session.destroy()
            await session.commit()

        work = [writer(token, number) for token in tokens for number in range(2)]
        work += [destroyer(token) for token in tokens[destroy::2]]
        await asyncio.gather(*work)
        return {"saved": saved, "dropped": dropped}


async def main(url: str, *keys: str) -> None:
    worker = Worker(url, *keys)
    await worker.store.open()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        answer = await getattr(worker, order.pop("do"))(**order)
        print(json.dumps(answer), flush=True)
    await worker.manager.close()
    await worker.store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

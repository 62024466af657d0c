"""A process at one stage of a roll-out: ``python -m tests.manager.stages_worker STAGE NEW OLD``."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from asgi_session import Session, SessionManager
from asgi_session.errors import SessionGone
from asgi_session.store import Store
from asgi_session.stores import MovingStore, store_from_url
from tests.inside import credential, new_session, status_of


def store_at(stage: str, new: str, old: str) -> Store:
    if stage in ("old", "new"):
        return store_from_url(old if stage == "old" else new)
    return MovingStore(new=new, old=old, moves=stage == "moves")


class Worker:
    """Carries out orders with one manager."""

    def __init__(self, stage: str, new: str, old: str) -> None:
        self.stage = stage
        self.store = store_at(stage, new, old)
        self.manager = SessionManager(self.store, identity="user", deadline=20)

    async def sign_in(self, users: list[str], each: int) -> dict[str, Any]:
        """Sign every user in so many times at once; the tokens and whose they are."""

        async def one(user: str) -> tuple[str, str]:
            session = await new_session(self.manager).load()
            session["user"] = user
            await session.commit()
            return credential(session), user

        return {"signed_in": await asyncio.gather(*(one(user) for user in users for _ in range(each)))}

    async def write(self, tokens: list[str], each: int, seed: int) -> dict[str, Any]:
        """Write keys of one's own to every session; how many were logged out."""
        rng = random.Random(seed)
        out = 0

        async def one(token: str, turn: int) -> None:
            nonlocal out
            await asyncio.sleep(rng.uniform(0, 0.1))
            session = await new_session(self.manager, token).load()
            if status_of(session) != "live":
                out += 1
                return
            session[f"{self.stage}.{seed}.{turn}"] = turn
            await asyncio.sleep(rng.uniform(0, 0.01))
            await session.commit()

        await asyncio.gather(*(one(token, turn) for turn in range(each) for token in tokens))
        return {"out": out}

    async def race(self, tokens: list[str], destroys: bool, seed: int) -> dict[str, Any]:
        """Destroy the sessions, or write to them until they have ended; how often that was done."""
        rng = random.Random(seed)
        done = 0

        async def destroy(token: str) -> None:
            nonlocal done
            await asyncio.sleep(rng.uniform(0, 0.05))
            session = await new_session(self.manager, token).load()
            session.destroy()
            await session.commit()
            done += 1

        async def write(token: str) -> None:
            nonlocal done
            for turn in range(20):
                session: Session = await new_session(self.manager, token).load()
                if status_of(session) != "live":
                    return
                session[f"late.{turn}"] = turn
                try:
                    await session.commit()
                except SessionGone:
                    return
                done += 1
                await asyncio.sleep(rng.uniform(0, 0.01))

        await asyncio.gather(*((destroy if destroys else write)(token) for token in tokens))
        return {"done": done}

    async def look(self, tokens: list[str]) -> dict[str, Any]:
        """Read sessions: what is in them, None for those that have ended."""

        async def one(token: str) -> dict[str, Any] | None:
            session = await new_session(self.manager, token).load()
            return dict(session) if status_of(session) == "live" else None

        return {"found": await asyncio.gather(*map(one, tokens))}

    async def listed(self, users: list[str]) -> dict[str, Any]:
        """Return the ids of the users' sessions."""
        return {user: [info.id async for info in self.manager.sessions_of(user)] for user in users}


async def main(stage: str, new: str, old: str) -> None:
    worker = Worker(stage, new, old)
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

"""A process in which users sign in and out: ``python -m tests.manager.index_worker URL``; see `worker`."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

from asgi_session import Session, SessionManager
from asgi_session.clock import system_clock
from asgi_session.errors import SessionError, SessionGone
from asgi_session.stores.redis import RedisStore
from tests.inside import credential, introduce, new_session, status_of

CAP = 2
DEADLINE = 3.0
ACTS = (
    "sign_in", "sign_in", "sign_in", "sign_in_with_a_cart", "sign_in_another", "sign_out", "rotate", "save",
    "listing", "listing", "revoke_user", "revoke_others", "revoke",
)  # fmt: skip


class Worker:
    """Carries out orders with one manager."""

    def __init__(self, url: str) -> None:
        self.store = RedisStore.from_url(url)
        self.manager = SessionManager(
            self.store, identity="user", max_sessions_per_user=CAP, deadline=DEADLINE
        )
        self.roomy = SessionManager(self.store, identity="user", deadline=30)

    # ---------------------------------------------------------------- one thing

    async def at_once(self, name: str, orders: list[dict[str, Any]]) -> dict[str, Any]:
        """Carry out several orders at once."""
        return {"answers": await asyncio.gather(*(getattr(self, name)(**order) for order in orders))}

    async def mixed(self, name: str, order: dict[str, Any]) -> dict[str, Any]:
        return await getattr(self, name)(**order)  # type: ignore[no-any-return]

    async def lives(self, token: str) -> dict[str, Any]:
        session = await new_session(self.roomy, token).load()
        return {"lives": status_of(session) == "live"}

    async def sign_in(self, user: str) -> dict[str, Any]:
        session = await self._signed_in(self.roomy, user, None)
        return {"id": session.id, "token": credential(session)}

    async def revoke(self, user: str, id: str) -> dict[str, Any]:
        return {"ended": await self.roomy.revoke(id, principal=user)}

    async def revoke_user(self, user: str, except_: str | None = None) -> dict[str, Any]:
        return {"ended": await self.roomy.revoke_user(user, except_=except_)}

    async def listed(self, user: str) -> dict[str, Any]:
        return {"ids": [info.id async for info in self.roomy.sessions_of(user)]}

    async def _signed_in(self, manager: SessionManager, user: str, token: str | None) -> Session:
        session = new_session(manager, *([] if token is None else [token]))
        introduce(session, system_clock())
        await session.load()
        session["user"] = session["of"] = user
        await session.commit()
        return session

    # ---------------------------------------------------------------- many, by chance

    async def prepare(self, first: int, count: int) -> dict[str, Any]:
        """Make what each schedule begins with: a session of its user's, and one of nobody's."""

        async def one(number: int) -> list[str]:
            nobodys = await new_session(self.manager).load()
            nobodys["cart"] = number
            await nobodys.commit()
            signed_in = await self._signed_in(self.manager, f"a{number}", None)
            return [credential(nobodys), credential(signed_in)]

        return {"tokens": await asyncio.gather(*(one(number) for number in range(first, first + count)))}

    async def schedules(
        self, seed: int, first: int, tokens: list[list[str]], start: float, gap: float
    ) -> dict[str, Any]:
        """Run a schedule for each of `tokens`; return what was done: act, user, since, until, what came."""
        done: list[list[Any]] = []

        async def act(number: int, of: list[str], rng: random.Random) -> None:
            name = rng.choice(ACTS)
            at = start + (number - first) * gap + rng.uniform(0, 0.006)
            await asyncio.sleep(max(at - time.monotonic(), 0))
            since = time.monotonic()
            user, came = await self._act(name, number, of)
            done.append([number, name, user, since, time.monotonic(), came])

        acts = []
        for offset, of in enumerate(tokens):
            rng = random.Random(f"{seed} {first + offset}")
            acts += [act(first + offset, of, rng) for _ in range(rng.randint(2, 4))]
        await asyncio.gather(*acts)
        await self.manager.drain()
        return {"done": done}

    async def _act(self, name: str, number: int, of: list[str]) -> tuple[str, Any]:
        nobodys, signed_in = of
        user = f"a{number}"
        try:
            if name == "sign_in":
                return user, (await self._signed_in(self.manager, user, None)).id
            if name == "sign_in_with_a_cart":
                return user, (await self._signed_in(self.manager, user, nobodys)).id
            if name == "sign_in_another":
                other = f"b{number}"
                return other, (await self._signed_in(self.manager, other, signed_in)).id
            if name == "listing":
                return user, [info.id async for info in self.manager.sessions_of(user)]
            if name == "revoke_user":
                return user, await self.manager.revoke_user(user)
            if name == "revoke_others":
                return user, await self.manager.revoke_user(user, except_=signed_in[:22])
            if name == "revoke":
                return user, await self.manager.revoke(signed_in[:22], principal=f"b{number}")
            session = await new_session(self.manager, signed_in).load()
            if name == "sign_out":
                session.destroy()
            elif name == "rotate":
                session.rotate(grace=15)
            else:
                session["n"] = number
            await session.commit()
        except SessionGone:
            return user, None
        except SessionError as error:
            return user, None if name.startswith("sign_in") else repr(error)
        return user, None


async def main(url: str) -> None:
    worker = Worker(url)
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

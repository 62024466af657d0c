"""One of several processes whose clients use one lock: ``python -m tests.locks.worker URL NAME FILE SKEW``.

It writes down in FILE what its clients do, in the words of `tests.locks.events`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable
from typing import Any

from asgi_session import Session, SessionManager
from asgi_session.clock import system_clock
from asgi_session.errors import LockLost, LockTimeout, SessionConflict, StoreUnavailable
from asgi_session.stores.redis import RedisStore
from tests.inside import new_session, process_name
from tests.locks.processes import orders
from tests.locks.recording import Record

LEASE = 3.0
WAIT = 20.0

KINDS = {
    "once": 70,  # an increment, saved when the block is left
    "twice": 8,  # another one before, saved by a commit inside
    "look": 6,  # nothing changed
    "transact": 5,  # the increment by a transaction inside
    "abort": 5,  # an exception inside the block
    "impatient": 6,  # a short wait
    "long": 0.3,  # held for longer than the first grant, and at times than the lease: renewed
    "overheld": 0.3,  # held for longer than `max_hold`
}
"""What clients do under the lock, and how often."""


class Abort(Exception):
    """What a handler may raise inside its block."""


class Worker:
    """Clients of one manager; `name` is that of the process, `skew` what its clock is fast, ms."""

    def __init__(self, url: str, name: str, path: str, skew: int = 0) -> None:
        self.name = name
        self.store = RedisStore.from_url(url)
        self.manager = SessionManager(
            self.store, max_size=1 << 20, on_event=self._on_event, clock=lambda: system_clock() + skew
        )
        self.record = Record(path)
        self._fences: dict[str | None, int] = {}
        self._stopping = False
        self._clients: list[asyncio.Task[None]] = []

    def _on_event(self, name: str, session_id: str | None, **info: Any) -> None:
        if name == "locked":
            self._fences[session_id] = info["fence"]

    async def load(self, token: str) -> Session:
        return await new_session(self.manager, token).load()

    async def close(self) -> None:
        await self.manager.close()
        await self.store.close()
        self.record.close()

    # ---------------------------------------------------------------- orders

    async def start(self, tokens: list[str], clients: int, seed: int) -> dict[str, Any]:
        """Have so many clients work until `stop`. The first session is the one that all want."""
        self._clients = [
            asyncio.create_task(self._client(number, tokens, random.Random(f"{seed}.{self.name}.{number}")))
            for number in range(clients)
        ]
        return {}

    async def stop(self) -> dict[str, Any]:
        """Begin nothing more, and wait for what was begun, but not for ever: who hangs is on record."""
        self._stopping = True
        _, hanging = await asyncio.wait(self._clients, timeout=WAIT + 10)
        await self.manager.drain()
        return {"hanging": len(hanging), "name": process_name(self.manager).hex()}

    # ---------------------------------------------------------------- clients

    async def _client(self, number: int, tokens: list[str], rng: random.Random) -> None:
        turn = 0
        kept: dict[str, Session] = {}  # as a WebSocket has its session, for many messages
        while not self._stopping:
            turn += 1
            hot = rng.random() < 0.05
            # The others differ in how much they are wanted, too.
            token = tokens[0] if hot else tokens[int(len(tokens) * rng.random() ** 2)]
            drawn = rng.random()
            if drawn < 0.03:
                work = asyncio.create_task(self.add(token))
            elif drawn < 0.08:
                work = asyncio.create_task(self.annotate(token, f"{self.name.split('.')[0]}.{number}", turn))
            else:
                kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
                if hot and kind in ("long", "overheld"):
                    kind = "once"
                session = kept.get(token) if rng.random() < 0.5 else None
                operation = self.operate(f"{self.name}.{number}.{turn}", token, kind, rng, session, kept)
                work = asyncio.create_task(operation)
                if rng.random() < 0.06:
                    asyncio.get_running_loop().call_later(rng.expovariate(1 / 0.02), work.cancel)
            await asyncio.wait([work])
            if not work.cancelled():
                work.result()
            await asyncio.sleep(rng.uniform(0, 0.02))

    async def annotate(self, token: str, client: str, turn: int) -> None:
        """Commit without the lock: a key of the client's own."""
        about = {"session": token[:22], "key": f"note {client}", "value": f"{self.name}.{turn}"}
        try:
            session = await self.load(token)
            self.record.note("noting", **about)
            session[about["key"]] = about["value"]
            await session.commit()
        except (StoreUnavailable, SessionConflict):
            return
        self.record.note("noted", **about)

    async def add(self, token: str) -> None:
        """Add one to the tally, without the lock."""
        try:
            session = await self.load(token)
        except StoreUnavailable:
            return
        self.record.note("adding", session=token[:22])
        try:
            await session.transact(_add)
        except (StoreUnavailable, SessionConflict) as error:
            if getattr(error, "executed", None) is False:
                self.record.note("failed", session=token[:22])
            return
        self.record.note("added", session=token[:22])

    async def operate(
        self,
        op: str,
        token: str,
        kind: str,
        rng: random.Random,
        session: Session | None,
        kept: dict[str, Session],
    ) -> None:
        """Take the lock and do something under it, as `KINDS` says; write down what came of it.

        Without a `session` a new one is loaded, as by a request; it is `kept`, whatever comes of it.
        """
        options = {"wait": WAIT, "lease": LEASE, "max_hold": 300.0}
        if kind == "impatient":
            options["wait"] = rng.uniform(0.02, 0.3)
        elif kind == "overheld":
            options["max_hold"] = 0.5
        by_id = rng.random() < 0.15
        in_line = session is None and not by_id
        try:
            kept[token] = session = session if session is not None else await self.load(token)
        except StoreUnavailable:
            return
        lock = self.manager.lock(token[:22], **options) if by_id else session.lock(**options)
        stage = "waiting"
        outcome, error = "left", ""
        about = {"wait": options["wait"], "max_hold": options["max_hold"], "in_line": in_line}
        self.record.note("asked", op=op, session=token[:22], process=self.name, **about)
        try:
            async with lock as locked:
                stage = "inside"
                fence = self._fences[token[:22]]
                self.record.note("granted", op=op, fence=fence, value=locked["count"], last=locked["last"])
                if rng.random() < 0.5:
                    await asyncio.sleep(rng.uniform(0, 0.003))
                if kind == "transact":
                    await self._transact(op, locked)
                elif kind != "look":
                    self._increment(op, locked)
                if kind == "twice":
                    await self._commit(op, locked)
                    self._increment(op, locked)
                if kind in ("long", "overheld"):
                    await asyncio.sleep(
                        rng.uniform(0.6, 1.0) if kind == "overheld" else rng.uniform(2.2, 4.5)
                    )
                if rng.random() < 0.2:
                    await asyncio.sleep(rng.uniform(0, 0.003))
                if kind == "abort":
                    raise Abort
                self.record.note("leaving", op=op)
                stage = "leaving"
        except BaseException as raised:
            outcome = _outcome(raised, stage)
            error = repr(raised)
            if isinstance(raised, asyncio.CancelledError):
                raise
        finally:
            self.record.note("ended", op=op, outcome=outcome, **({"error": error} if error else {}))

    def _increment(self, op: str, session: Session) -> None:
        session["count"], session["last"] = self._next(op, session)

    def _next(self, op: str, session: Session) -> tuple[int, str]:
        value, after = session["count"] + 1, session["last"]
        write = f"{op}/{value}"
        self.record.note("writing", op=op, write=write, value=value, after=after)
        return value, write

    async def _commit(self, op: str, session: Session) -> None:
        await self._settle(op, session.commit())

    async def _transact(self, op: str, session: Session) -> None:
        value, write = self._next(op, session)

        def increment(draft: Session) -> None:
            draft["count"], draft["last"] = value, write

        await self._settle(op, session.transact(increment))

    async def _settle(self, op: str, saving: Awaitable[None]) -> None:
        try:
            await saving
        except BaseException as error:
            if not (isinstance(error, LockLost) or getattr(error, "executed", None) is False):
                self.record.note("unsure", op=op)
            raise
        self.record.note("saved", op=op)


def _add(session: Session) -> None:
    session["tally"] = session.get("tally", 0) + 1


def _outcome(error: BaseException, stage: str) -> str:
    """Say what a client has been told, by an error and by when it came; see `events.OUTCOMES`."""
    match error, stage:
        case LockTimeout(), "waiting":
            return "timeout"
        case LockLost(), "inside" | "leaving":
            return "refused"
        case StoreUnavailable() | SessionConflict(), "waiting":
            return "unavailable"
        case StoreUnavailable(executed=False) | SessionConflict(outcome_unknown=False), "leaving":
            return "failed"
        case StoreUnavailable() | SessionConflict() | asyncio.CancelledError(), "leaving":
            return "unknown"
        case asyncio.CancelledError(), "waiting":
            return "cancelled"
        case Abort() | asyncio.CancelledError() | StoreUnavailable() | SessionConflict(), "inside":
            return "discarded"
    return "error"


async def main(url: str, name: str, path: str, skew: str) -> None:
    logging.getLogger("asgi_session").setLevel(logging.ERROR)  # of lost locks the record tells
    worker = Worker(url, name, path, int(skew))
    await worker.store.open()
    await orders(worker)
    await worker.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Who is signed in: what `identity` costs, in commands, in the app's CPU and in time.

One app over Valkey, in one process, one request at a time. Each case is repeated with users of its own. The
commands are the server's own count, so those that endings send behind a response are part of it: the
measurement waits for them. "Others" is how many more sessions the user has whose case it is. A request of
somebody who is signed in costs what one of nobody's does, whatever the user has: the index is only used by
what begins, lists or ends sessions.

It does not show many sign-ins of one user at a time, nor a store that is further away: there each command
waits for the one before, but for the loads of a listing, which leave together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl

from asgi_session import SessionManager, SessionMiddleware
from asgi_session.stores.redis import RedisStore
from benchmarks.bench import Bench
from benchmarks.client import Browser
from benchmarks.report.style import bars, number
from benchmarks.results import Row, Table, Target, pick
from tests.servers import ServerProcess

TITLE: Final = "Who is signed in"

OTHERS: Final = (0, 99)
NOBODY: Final = "a new session of nobody's"
SIGN_IN: Final = "sign in, from nothing"
FROM_CART: Final = "sign in, with a session of nobody's"
SIGN_OUT: Final = "sign out"
READ_NOBODYS: Final = "read, nobody's"
READ: Final = "read, signed in"
WRITE_NOBODYS: Final = "write, nobody's"
WRITE: Final = "write, signed in"
LIST: Final = "list the user's sessions"
REVOKE: Final = "end the user's others"
AT_CAP: Final = "sign in, at the cap"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Set what the query says; a key without a value is deleted."""
    session = scope["session"]
    await session.load()
    for key, value in parse_qsl(scope["query_string"].decode(), keep_blank_values=True):
        if value:
            session[key] = value
        else:
            session.pop(key, None)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


class Users:
    """The app with its manager, and users who sign in.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        store = RedisStore.from_url(url)
        self.manager = SessionManager(store, identity="user", max_sessions_per_user=100)
        self.app = SessionMiddleware(app, self.manager)
        self.store = store

    async def browser(self, query: str) -> Browser:
        """Return a browser that has sent a first request, and another one that confirms its session."""
        browser = Browser()
        await browser.request(self.app, query.encode())
        await browser.request(self.app)
        await self.manager.drain()
        return browser

    async def sign_in(self, user: str, others: int) -> Browser:
        """Return a user's browser, who is signed in so many times besides."""
        for _ in range(others):
            await self.browser(f"user={user}")
        return await self.browser(f"user={user}")

    async def listed(self, user: str) -> int:
        """Return how many sessions a user has."""
        return len([info async for info in self.manager.sessions_of(user)])


Case = tuple[str, int, Callable[[Users, str, int], Awaitable[Callable[[], Awaitable[object]]]]]
"""What is measured, how many others the user has, and what prepares it: that returns what is measured."""


def _requests(first: str, query: str, *, signed_in: bool = False) -> Any:
    async def prepare(users: Users, user: str, others: int) -> Callable[[], Awaitable[object]]:
        if signed_in:
            browser = await users.sign_in(user, others)
        else:
            for _ in range(others):
                await users.browser(f"user={user}")
            browser = await users.browser(first) if first else Browser()
        return lambda: browser.request(users.app, query.format(user=user).encode())

    return prepare


async def _list(users: Users, user: str, others: int) -> Callable[[], Awaitable[object]]:
    await users.sign_in(user, others)
    return lambda: users.listed(user)


async def _revoke(users: Users, user: str, others: int) -> Callable[[], Awaitable[object]]:
    await users.sign_in(user, others)
    infos = [info async for info in users.manager.sessions_of(user)]
    return lambda: users.manager.revoke_user(user, except_=infos[-1].id)


def cases(quick: bool) -> list[Case]:
    """Return what is measured."""
    others = OTHERS[:1] if quick else OTHERS
    made: list[Case] = [
        (NOBODY, 0, _requests("", "x=1")),
        (READ_NOBODYS, 0, _requests("x=1", "")),
        (WRITE_NOBODYS, 0, _requests("x=1", "x=2")),
    ]
    for count in others:
        made += [
            (SIGN_IN, count, _requests("", "user={user}")),
            (FROM_CART, count, _requests("x=1", "user={user}")),
            (READ, count, _requests("", "", signed_in=True)),
            (WRITE, count, _requests("", "x=2", signed_in=True)),
            (SIGN_OUT, count, _requests("", "user=", signed_in=True)),
            (LIST, count, _list),
            (REVOKE, count, _revoke),
        ]
    return made if quick else [*made, (AT_CAP, 100, _requests("", "user={user}"))]


async def _case(server: ServerProcess, users: Users, case: Case, times: int) -> Row:
    what, others, prepare = case
    todo = [await prepare(users, f"{what} {others} {number}", others) for number in range(times)]
    await users.manager.drain()
    before = _commands(server)
    cpu, wall = time.process_time(), time.perf_counter()
    for each in todo:
        await each()
    wall_after = time.perf_counter()
    await users.manager.drain()
    used = time.process_time() - cpu
    commands = _commands(server) - before - 1  # the question itself
    return {
        "what": what,
        "others": others,
        "commands": commands / times,
        "cpu": used / times * 1e6,
        "ms": (wall_after - wall) / times * 1e3,
    }


def _commands(server: ServerProcess) -> int:
    return int(server.info("stats")["total_commands_processed"])


def measure(bench: Bench) -> list[Row]:
    """Measure each case with its own users."""
    server, todo = bench.server(), cases(bench.quick)
    times = 5 if bench.quick else 50

    async def run() -> list[Row]:
        users = Users(server.url)
        await users.browser("x=1")  # connects, and finds out what the server can
        rows: list[Row] = []
        for done, case in enumerate(todo):
            bench.say(f"{case[0]}, {case[1]} others", done / len(todo))
            rows.append(await _case(server, users, case, times))
        await users.store.close()
        return rows

    return asyncio.run(run())


def tables(rows: list[Row]) -> list[Table]:
    """One table: a line for each case."""
    lines = [
        [row["what"], str(row["others"]), f"{row['commands']:.1f}", number(row["cpu"]), number(row["ms"])]
        for row in rows
    ]
    columns = ["what", "others", "store commands", "app CPU, µs", "time, ms"]
    return [Table("Sign-ins, requests and lists", columns, lines)] if lines else []


def plots(rows: list[Row]) -> dict[str, Any]:
    """Commands, by how many other sessions the user has."""
    if not rows:
        return {}
    groups = {
        f"{others} other sessions": {row["what"]: row["commands"] for row in rows if row["others"] == others}
        for others in dict.fromkeys(row["others"] for row in rows)
    }
    return {
        "identity": bars(groups, title="What a user's sessions cost the store", unit="commands", columns=1)
    }


def targets(rows: list[Row]) -> list[Target]:
    """Requests cost no more signed in, a listing n + 1 loads, a sign-in three commands more."""
    made: list[Target] = []
    for signed, nobodys in ((READ, READ_NOBODYS), (WRITE, WRITE_NOBODYS)):
        one = pick(rows, what=nobodys)
        for row in rows:
            if row["what"] == signed and one is not None:
                case = f"{signed}, with {row['others']} others, against {nobodys}: commands"
                made.append(Target(case, row["commands"] / one["commands"], "at most", 1.0))
    new = pick(rows, what=NOBODY)
    for row in rows:
        if row["what"] == SIGN_IN and new is not None:
            case = f"{SIGN_IN}, with {row['others']} others: commands more than a new session"
            made.append(Target(case, row["commands"] - new["commands"], "at most", 3.0))
        if row["what"] == LIST:
            case = f"{LIST}, {row['others'] + 1} of them: commands"
            made.append(Target(case, row["commands"], "at most", row["others"] + 2.0))
    return made

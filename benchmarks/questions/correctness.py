"""Correctness under concurrency: how many parallel writes survive, and how many ended sessions come back.

**Parallel writes**: one browser sends many requests to two processes of the app, 50 at a time. Each request
sets a key of its own in the browser's session. Afterwards the benchmark counts the keys. **Logout against a
slow request**: a request reads its session and works. While it works, the user logs out, and the logout is
answered. Then the slow request stores something and is answered. Afterwards the session is used again, with
the cookie that the browser then has, and with the cookie from before the logout, which somebody may have
kept or stolen. If ``user_id`` is there, the session has come back.

The browser has a cookie jar, in which the last Set-Cookie counts. A request takes 2 ms to reach the app, and
carries the cookie that was in the jar when it was sent. The requests to each of the two processes have a jar
of their own, as on two devices that began with the same cookie: a cookie that one process sets is not sent
to the other. A session that lives inside one process (a signed cookie, our memory store) is measured with
one process. "Refused" requests were not answered with 200, so the site knows of them. A key that a refused
request has stored all the same counts as a survivor.

It does not show how often this happens on a site: requests of one user rarely overlap this much. It counts
what is lost when they do, without the site being told. It shows keys of the first level. If two requests
change the *same* key, or different things inside one value, the later one overwrites the other in every
layer here, ours too. The old cookie of a signed-cookie session stays good after any logout, race or not: it
cannot be revoked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from itertools import count
from typing import Any, Final

from benchmarks import actions
from benchmarks.bench import Bench
from benchmarks.client import Browser
from benchmarks.layers import LAYERS, layer
from benchmarks.report.style import bars
from benchmarks.results import Row, Table, Target, pick
from benchmarks.sessions import USUAL
from benchmarks.worker import Bed

TITLE: Final = "Correctness under concurrency"

AT_A_TIME: Final = 50
NETWORK: Final = 0.002  # seconds until a request that has been sent reaches the app
RACES_AT_A_TIME: Final = 20

WRITES: Final = "parallel writes"
LOGOUTS: Final = "logouts against a slow request"


def far(app: Any) -> Any:
    """Return the app with a network in front; what a request carries is settled when it is sent."""

    async def reached(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(NETWORK)
        await app(scope, receive, send)

    return reached


async def sign_in(bed: Bed) -> str:
    """Begin the session that all will write to, and return its cookie."""
    (browser,) = await bed.browsers(1, USUAL)
    return browser.headers[0][1].decode("latin-1")


async def write(bed: Bed, cookie: str, first: int, count: int, at_a_time: int) -> dict[str, Any]:
    """Set the keys ``k<first>`` and so on, in requests of one browser; return how that went."""
    browser = Browser()
    browser.headers = [(b"cookie", cookie.encode("latin-1"))]
    app = far(await bed.app("set"))
    numbers = iter(range(first, first + count))
    refusals: list[Exception] = []

    async def run() -> None:
        for number in numbers:
            try:
                await browser.request(app, b"key=k%d" % number)
            except Exception as error:  # a status, or what Starlette raises again after its answer of 500
                refusals.append(error)

    await asyncio.gather(*[run() for _ in range(at_a_time)])
    cookies = [value.decode("latin-1") for _, value in browser.headers]
    return {"refused": len(refusals), "error": kinds(refusals), "cookie": cookies[0] if cookies else ""}


def kinds(errors: Iterable[BaseException]) -> str:
    """Return what kinds of exceptions these are."""
    return ", ".join(sorted({type(error).__name__ for error in errors}))


async def survivors(bed: Bed, cookie: str) -> int:
    """Return how many of the keys that `write` has set there are."""
    browser = Browser()
    browser.headers = [(b"cookie", cookie.encode("latin-1"))]
    await browser.request(await bed.app("keys"))
    return sum(key.startswith("k") and key[1:].isdigit() for key in json.loads(browser.body))


class _CountingGate(asyncio.Event):
    """A gate that knows how many have come to it."""

    def __init__(self) -> None:
        super().__init__()
        self.come = 0

    async def wait(self) -> Any:
        self.come += 1
        return await super().wait()


async def race(bed: Bed, logouts: int) -> dict[str, int]:
    """Have `logouts` users log out while a slow request of theirs is under way."""
    total = {"refused": 0, "back_in_browser": 0, "back_with_old_cookie": 0}
    for begun in range(0, logouts, RACES_AT_A_TIME):
        for result in await _race(bed, min(RACES_AT_A_TIME, logouts - begun)):
            for name in total:
                total[name] += result[name]
    return total


async def _race(bed: Bed, logouts: int) -> list[dict[str, bool]]:
    new, slow, destroy, read = [await bed.app(name) for name in ("new", "slow", "destroy", "read")]
    gate = actions.GATE = _CountingGate()
    browsers = [Browser() for _ in range(logouts)]
    users = bed.kept.setdefault("users", count(1_000_000))
    for browser in browsers:
        await browser.request(new, b"size=%d&user=%d" % (USUAL, next(users)))
        await browser.request(read)
    kept = [browser.headers for browser in browsers]
    requests = [asyncio.create_task(browser.request(slow)) for browser in browsers]
    while gate.come < logouts:  # each has loaded its session before its user logs out
        for request in requests:
            if request.done():
                request.result()
        await asyncio.sleep(0.001)
    await asyncio.gather(*[browser.request(destroy) for browser in browsers])
    gate.set()
    answers = await asyncio.gather(*requests, return_exceptions=True)
    results = []
    for browser, old, answer in zip(browsers, kept, answers, strict=True):
        if isinstance(answer, BaseException) and not isinstance(answer, Exception):
            raise answer
        thief = Browser()
        thief.headers = old
        results.append(
            {
                "refused": answer is not None,
                "back_in_browser": await _signed_in(browser, read),
                "back_with_old_cookie": await _signed_in(thief, read),
            }
        )
    return results


async def _signed_in(browser: Browser, read: Any) -> bool:
    await browser.request(read)
    return browser.body != b"None"


def measure(bench: Bench) -> list[Row]:
    """Measure all layers that have sessions."""
    writes, races = (200, 40) if bench.quick else (1000, 200)
    names = [name for name in LAYERS if name != layer(name).BARE]
    if bench.quick:
        names = [name for name in names if name != "asgi_session_cluster"]
    rows: list[Row] = []
    for done, name in enumerate(names):
        bench.say(layer(name).TITLE, done / len(names))
        with bench.workers(name) as one, bench.workers(name) as other:
            workers = [one[name], other[name]] if layer(name).STORE is not None else [one[name]]
            cookie = workers[0].call(sign_in)
            share = writes // len(workers)
            for number, worker in enumerate(workers):
                at_a_time = AT_A_TIME // len(workers)
                worker.start(write, cookie=cookie, first=number * share, count=share, at_a_time=at_a_time)
            results = [worker.result() for worker in workers]
            row = {"layer": name, "what": WRITES, "processes": len(workers), "sent": share * len(workers)}
            row["refused"] = sum(result["refused"] for result in results)
            row["error"] = ", ".join(sorted({result["error"] for result in results} - {""}))
            row["survived"] = workers[0].call(survivors, cookie=results[-1]["cookie"])
            rows.append(row)
            rows.append(
                {"layer": name, "what": LOGOUTS, "sent": races, **workers[0].call(race, logouts=races)}
            )
    return rows


def lost(row: Row) -> int:
    """Return how many writes were answered with 200 and are gone."""
    return max(row["sent"] - row["refused"] - row["survived"], 0)


def tables(rows: list[Row]) -> list[Table]:
    """One table for each of the two experiments."""
    writes = [row for row in rows if row["what"] == WRITES]
    races = [row for row in rows if row["what"] == LOGOUTS]
    return [
        Table(
            "Parallel writes to one session, each to a key of its own",
            ["layer", "processes", "sent", "refused", "survived", "lost unnoticed"],
            [
                [
                    layer(row["layer"]).TITLE,
                    str(row["processes"]),
                    str(row["sent"]),
                    f"{row['refused']} ({row['error']})" if row.get("error") else str(row["refused"]),
                    str(row["survived"]),
                    str(lost(row)),
                ]
                for row in writes
            ],
        ),
        Table(
            "Sessions that were there again after a logout that overtook a slow request",
            ["layer", "logouts", "refused", "in the browser", "old cookie good"],
            [
                [
                    layer(row["layer"]).TITLE,
                    *(
                        str(row[name])
                        for name in ("sent", "refused", "back_in_browser", "back_with_old_cookie")
                    ),
                ]
                for row in races
            ],
        ),
    ]


def plots(rows: list[Row]) -> dict[str, Any]:
    """What was lost, and what came back, in percent."""
    groups: dict[str, dict[str, float]] = {
        "writes lost\nunnoticed": {},
        "signed in again\nafter the logout": {},
        "old cookie good\nafter the logout": {},
    }
    writes, browser, old = groups.values()
    for row in rows:
        title, part = layer(row["layer"]).TITLE, 100 / row["sent"]
        if row["what"] == WRITES:
            writes[title] = lost(row) * part
        else:
            browser[title] = row["back_in_browser"] * part
            old[title] = row["back_with_old_cookie"] * part
    return {
        "correctness": bars(
            groups,
            title="What goes wrong when requests of one user overlap",
            unit="% of the requests",
            note=f"{AT_A_TIME} writes at a time; a logout during each slow request",
        )
    }


def targets(rows: list[Row]) -> list[Target]:
    """Of our layers nothing may be lost, and nothing may come back."""
    found = []
    for name in LAYERS:
        if not name.startswith("asgi_session_"):
            continue
        title = layer(name).TITLE
        if (row := pick(rows, layer=name, what=WRITES)) is not None:
            found.append(
                Target(
                    f"{title}: part of the parallel writes kept", row["survived"] / row["sent"], "at least", 1
                )
            )
        if (row := pick(rows, layer=name, what=LOGOUTS)) is not None:
            wrong = max(row["back_in_browser"], row["back_with_old_cookie"]) + row["refused"]
            text = f"{title}: sessions that came back after a logout, or slow requests that failed"
            found.append(Target(text, wrong, "at most", 0))
    return found

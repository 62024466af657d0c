"""The apps on the page about races, each run by two processes' worth of managers on one real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import httpx
import pytest

from asgi_session import SessionGone
from asgi_session.fastapi import SessionDep
from asgi_session.testing import FaultStore
from tests.app.kit import find_middleware
from tests.docs.pages import ROOT, python
from tests.docs.test_examples import run
from tests.inside import report_to, serve_from
from tests.servers import ServerProcess

PAGE = ROOT / "docs/races.md"
Start: TypeAlias = Callable[..., Awaitable[tuple["Process", "Process"]]]


async def show(session: SessionDep) -> dict[str, Any]:
    return dict(session)


async def fill(values: dict[str, Any], session: SessionDep) -> None:
    session.update(values)


class Process:
    """What one process has: the page's names, a store that counts and waits, and a tab that it serves."""

    def __init__(self, names: dict[str, Any], app: str) -> None:
        self.names = names
        names[app].add_api_route("/session", show)
        names[app].add_api_route("/session", fill, methods=["PUT"])
        self.manager = find_middleware(names[app]).manager
        self.store = serve_from(self.manager, FaultStore)
        report_to(self.manager, self._note)
        self.events: list[str] = []
        self.lost = asyncio.Event()
        transport = httpx.ASGITransport(names[app], raise_app_exceptions=False)
        self.tab = httpx.AsyncClient(transport=transport, base_url="https://testserver")

    def _note(self, name: str, session_id: str | None, **info: Any) -> None:
        self.events.append(name)
        if name == "lock_lost":
            self.lost.set()

    @property
    def session_id(self) -> str:
        (cookie,) = self.tab.cookies.jar
        assert cookie.value is not None
        return cookie.value[:22]

    async def session(self) -> dict[str, Any]:
        """Return what a new request reads."""
        found: dict[str, Any] = (await self.tab.get("/session")).json()
        return found

    async def fill(self, **values: Any) -> None:
        assert (await self.tab.put("/session", json=values)).is_success

    async def counted(self, *requests: Awaitable[httpx.Response]) -> dict[str, int]:
        """Make requests at once; return what the store was asked."""
        await self.manager.drain()
        self.store.calls.clear()
        for response in await asyncio.gather(*requests):
            assert response.status_code < 500
        await self.manager.drain()
        return self.store.counts()


class Payments:
    """A provider that answers when it is told to."""

    def __init__(self) -> None:
        self.charged: dict[str, dict[str, int]] = {}
        self.calls = 0
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.fails = False

    async def charge(self, items: dict[str, int], *, idempotency_key: str) -> None:
        self.calls += 1
        self.charged.setdefault(idempotency_key, items)
        self.asked.set()
        await self.answer.wait()
        if self.fails:
            raise ConnectionError("the provider's answer was lost")


@pytest.fixture
async def start(valkey: ServerProcess) -> AsyncIterator[Start]:
    """Two processes that run an app of the page, and one user with a tab on each."""
    stack = AsyncExitStack()

    async def define(app: str, terms: str) -> Process:
        names: dict[str, Any] = {"__name__": PAGE.stem}
        for block in python(PAGE):
            text = block.text.replace("lock(wait=5)", f"lock({terms})")
            await run(PAGE, block._replace(text=text), names, valkey.url)
        process = Process(names, app)
        stack.push_async_callback(process.manager.store.close)
        stack.push_async_callback(process.manager.close)
        await stack.enter_async_context(process.tab)
        return process

    async def start(app: str = "app", *, terms: str = "wait=5", **values: Any) -> tuple[Process, Process]:
        one, other = await define(app, terms), await define(app, terms)
        one.names["payments"] = other.names["payments"] = Payments()
        await one.fill(**(values or {"some": "thing"}))
        other.tab.cookies = one.tab.cookies
        for process in (one, other, one):  # the cookie has come back: no touch is due any more
            await process.session()
            await process.manager.drain()
        return one, other

    yield start
    await stack.aclose()


async def test_cart_by_key(start: Start) -> None:
    """Twenty things put into the cart at once, on two processes, are all in it."""
    processes = await start()
    await asyncio.gather(*(processes[n % 2].tab.put(f"/cart/{n}", params={"quantity": n}) for n in range(20)))
    cart = {key: value for key, value in (await processes[0].session()).items() if key != "some"}
    assert cart == {f"cart:{n}": n for n in range(20)}


async def test_rules(start: Start) -> None:
    """Twenty visits and twenty additions at once count twenty, and no message is lost."""
    processes = await start()
    await asyncio.gather(*(processes[n % 2].tab.post("/visits") for n in range(20)))
    answers = await asyncio.gather(
        *(processes[n % 2].tab.post(f"/basket/{'fig' if n % 4 else 'pear'}") for n in range(20)),
        *(processes[n % 2].tab.get("/messages") for n in range(4)),
    )
    session = await processes[0].session()
    assert session["visits"] == 20
    assert session["basket"] == {"fig": 15, "pear": 5}
    shown = [message for answer in answers[20:] for message in answer.json()]
    left = (await processes[1].tab.get("/messages")).json()
    # Those who ask at the same time are shown the same, as two tabs are.
    assert Counter(left) + Counter(shown) >= Counter(
        {"fig is in your basket.": 15, "pear is in your basket.": 5}
    )
    assert (await processes[0].tab.get("/messages")).json() == []


async def test_two_equal_additions(start: Start) -> None:
    """Two requests that both make a 1 of no visits make 2: the same bytes, and yet two changes."""
    one, other = await start()
    gate = one.store.pause("save")
    mine = asyncio.create_task(one.tab.post("/visits"))
    await gate.reached()
    await other.tab.post("/visits")
    gate.release()
    await mine
    assert (await other.session())["visits"] == 2


async def test_messages_that_come_while_others_are_shown(start: Start) -> None:
    """A message that is added while the others are taken stays for the next page."""
    one, other = await start(messages=["hello"])
    gate = one.store.pause("save")
    showing = asyncio.create_task(one.tab.get("/messages"))
    await gate.reached()
    await other.tab.post("/basket/fig")
    gate.release()
    assert (await showing).json() == ["hello"]
    assert (await other.tab.get("/messages")).json() == ["fig is in your basket."]
    assert "messages" not in await one.session()


async def test_a_rule_that_raises(start: Start) -> None:
    """What a rule raises is raised by the commit, and nothing of that is saved."""
    one, other = await start(visits="some")
    gate = one.store.pause("save")
    mine = asyncio.create_task(one.tab.put("/session", json={"visits": "more", "name": "ada"}))
    await gate.reached()
    await other.fill(visits="less")
    gate.release()
    assert (await mine).status_code == 500
    assert await one.session() == {"visits": "less"}


async def test_spending(start: Start) -> None:
    """Three credits are spent three times, however many ask at once."""
    processes = await start(credits=3)
    answers = await asyncio.gather(*(processes[n % 2].tab.post("/credits/spend") for n in range(10)))
    assert Counter(answer.status_code for answer in answers) == {200: 3, 402: 7}
    assert sorted(answer.json() for answer in answers if answer.status_code == 200) == [0, 1, 2]
    assert (await processes[0].session())["credits"] == 0


async def test_one_time_link(start: Start) -> None:
    """Of ten who ask at once for what is there for once, one gets it."""
    processes = await start(download="/files/7")
    answers = await asyncio.gather(*(processes[n % 2].tab.post("/download") for n in range(10)))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 410: 9}
    assert [answer.json() for answer in answers if answer.status_code == 200] == ["/files/7"]


async def test_double_click(start: Start) -> None:
    """Two checkouts at once pay once; a pear that is put in meanwhile is served at once and not lost."""
    one, other = await start(basket={"fig": 2})
    payments = one.names["payments"]
    first = asyncio.create_task(one.tab.post("/checkout"))
    await payments.asked.wait()
    second = asyncio.create_task(other.tab.post("/checkout"))
    async with asyncio.timeout(2):  # neither who reads nor who merges waits for the lock
        assert "order" in await other.session()
        assert (await other.tab.post("/basket/pear")).status_code == 200
        assert (await one.session())["basket"] == {"pear": 1}
        assert (await one.tab.post("/visits")).status_code == 200
    assert not first.done()
    assert not second.done()
    payments.answer.set()
    paid = (await first).json()["paid"]
    # It came after the pear, and pays for that.
    assert (await second).json()["paid"] != paid
    assert list(payments.charged.values()) == [{"fig": 2}, {"pear": 1}]
    session = await one.session()
    assert "order" not in session
    assert "basket" not in session
    assert session["visits"] == 1


async def test_double_click_alone(start: Start) -> None:
    """The second click is told of the payment that the first has made."""
    one, other = await start(basket={"fig": 2})
    payments = one.names["payments"]
    payments.answer.set()
    answers = await asyncio.gather(*(process.tab.post("/checkout") for process in (one, other, one, other)))
    assert {answer.json()["paid"] for answer in answers} == set(payments.charged)
    assert payments.calls == 1


async def test_lock_timeout(start: Start) -> None:
    """Who does not get the lock in time is answered 503, and has not paid."""
    one, other = await start(terms="wait=0.05", basket={"fig": 2})
    async with one.manager.lock(one.session_id):
        assert (await other.tab.post("/checkout")).status_code == 503
    assert one.names["payments"].calls == 0
    assert (await other.session())["basket"] == {"fig": 2}
    assert "lock_timeout" in other.events


async def test_lock_lost(start: Start) -> None:
    """Who has lost the lock is answered 409 and has saved nothing; the next click pays with the same key."""
    one, other = await start(terms="wait=5, max_hold=0.1", basket={"fig": 2})
    payments = one.names["payments"]
    first = asyncio.create_task(one.tab.post("/checkout"))
    async with asyncio.timeout(5):
        await one.lost.wait()
    payments.answer.set()
    assert (await first).status_code == 409
    session = await other.session()
    assert "paid" not in session
    key = session["order"]["key"]
    assert (await other.tab.post("/checkout")).json() == {"paid": key}
    assert payments.calls == 2
    assert payments.charged == {key: {"fig": 2}}


async def test_error_in_the_block(start: Start) -> None:
    """An exception discards what was changed since the last commit, and releases the lock."""
    one, other = await start(basket={"fig": 2})
    payments = one.names["payments"]
    payments.answer.set()
    payments.fails = True
    assert (await one.tab.post("/checkout")).status_code == 500
    payments.fails = False
    async with asyncio.timeout(1):
        (key,) = payments.charged
        assert (await other.tab.post("/checkout")).json() == {"paid": key}


async def test_entering_again(start: Start) -> None:
    """Two functions that lock, called under the lock, add both, in one save with the outer block."""
    one, _ = await start()
    assert await one.counted(one.tab.post("/notes/hello")) == {"load": 1, "save": 2}
    assert (await one.session())["notes"] == ["hello", "thank you"]


async def test_locked_while_the_handler_runs(start: Start) -> None:
    """The dependency holds the lock, and has saved and released it when the response starts."""
    one, other = await start()
    app, happened = one.names["app"], one.events
    happened.clear()

    async def send(message: Any) -> None:
        happened.append(message["type"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    request = one.tab.build_request("POST", "/rename/ada")
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {"type": "http", "method": "POST", "path": "/rename/ada", "query_string": b"", "headers": headers}
    await app({**scope, "scheme": "https", "asgi": {"version": "3.0"}}, receive, send)
    assert happened.index("locked") < happened.index("released") < happened.index("http.response.start")
    assert (await other.session())["name"] == "ada"


async def test_outside_of_requests(start: Start) -> None:
    """A job withdraws a coupon by the session's id; where there is no session, there is none to withdraw."""
    one, other = await start(coupon="SPRING")
    withdraw = one.names["withdraw_coupon"]
    assert await withdraw(one.session_id)
    assert not await withdraw(one.session_id)
    assert "coupon" not in await other.session()
    assert not await withdraw("A" * 22)
    with pytest.raises(SessionGone):
        await one.names["manager"].lock("A" * 22).__aenter__()


async def test_telling_the_user(start: Start) -> None:
    """Of two texts that are saved at once, the later one is handed back with the other; equal ones agree."""
    one, other = await start("editor", text="first")
    for theirs, answer in (
        ("theirs", {"saved": False, "yours": "mine", "theirs": "theirs"}),
        ("mine", {"saved": True}),
    ):
        gate = one.store.pause("save")
        mine = asyncio.create_task(one.tab.put("/text", params={"text": "mine"}))
        await gate.reached()
        assert (await other.tab.put("/text", params={"text": theirs})).json() == {"saved": True}
        gate.release()
        assert (await mine).json() == answer
        assert (await one.session())["text"] == theirs


async def test_a_conflict_that_escapes(start: Start) -> None:
    """Where nobody catches it, the response is a 409, and nothing of the commit is saved."""
    one, other = await start("editor", text="first")
    gate = one.store.pause("save")
    mine = asyncio.create_task(one.tab.put("/session", json={"text": "mine", "more": 1}))
    await gate.reached()
    await other.fill(text="theirs")
    gate.release()
    assert (await mine).status_code == 409
    assert await other.session() == {"text": "theirs"}


# ---------------------------------------------------------------- the table of costs


async def test_cost_of_merging(start: Start) -> None:
    """One save; one more when another process has saved in between. Those of one process leave as one."""
    one, other = await start()
    put = "/cart/fig?quantity=1"
    assert await one.counted(one.tab.put(put)) == {"load": 1, "save": 1}
    for request in (lambda: one.tab.put("/cart/pear?quantity=2"), lambda: one.tab.post("/visits")):
        gate = one.store.pause("save")
        task = asyncio.create_task(one.counted(request()))
        await gate.reached()
        await other.tab.post("/visits")
        gate.release()
        assert await task == {"load": 1, "save": 2}
    counts = await one.counted(*(one.tab.post("/visits") for _ in range(20)))
    assert counts["save"] <= 3


async def test_cost_of_transact(start: Start) -> None:
    """One save; one more when another process has saved in between; one load when nothing was changed."""
    one, other = await start(credits=2)
    assert await one.counted(one.tab.post("/credits/spend")) == {"load": 1, "save": 1}
    gate = one.store.pause("save")
    task = asyncio.create_task(one.counted(one.tab.post("/credits/spend")))
    await gate.reached()
    await other.tab.post("/visits")
    gate.release()
    assert await task == {"load": 1, "save": 2}
    assert await one.counted(one.tab.post("/credits/spend")) == {"load": 2}


async def test_cost_of_a_free_lock(start: Start) -> None:
    """Two saves: take it; commit and release it."""
    one, _ = await start()
    assert await one.counted(one.tab.post("/rename/ada")) == {"load": 1, "save": 2}


async def test_cost_of_a_lock_that_is_held(start: Start) -> None:
    """A save to queue and a load when woken up, for all who wait in a process, and a save for each hold."""
    one, other = await start(basket={"fig": 2})
    payments = one.names["payments"]
    gate = other.store.pause("listen")
    async with one.manager.lock(one.session_id):  # so that the other process subscribes
        waiting: asyncio.Task[Any] = asyncio.create_task(other.tab.post("/rename/ada"))
        await gate.reached()
        gate.release()
    await waiting
    holding = asyncio.create_task(one.tab.post("/checkout"))
    await payments.asked.wait()
    gate = other.store.pause("save", when="after")
    waiting = asyncio.create_task(other.counted(*(other.tab.post(f"/rename/{n}") for n in range(3))))
    await gate.reached()
    gate.release()
    payments.answer.set()
    await holding
    assert await waiting == {"load": 3 + 1, "save": 1 + 3}

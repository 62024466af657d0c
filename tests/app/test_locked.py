"""The lock and transactions in an app: dependencies, what the client is told, what leaves when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from asgi_session import LockTimeout, Session, SessionConflict, SessionError, SessionMiddleware, load_session
from asgi_session.fastapi import LockedSessionDep, SessionDep
from tests.app.kit import Browser, World
from tests.inside import Lease, decoded, lease_in, rewrite, with_lease
from tests.manager.kit import soon


def make(world: World, **options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(
        SessionMiddleware, store=world.store, clock=world.clock, on_event=world.on_event, **options
    )
    return app


async def hold(world: World, browser: Browser, held: bool = True) -> None:
    """Have somebody else hold the lock, or nobody."""
    assert browser.cookie is not None
    key = browser.cookie[:22]
    lease = Lease(b"somebody", 99, world.clock() + 60_000, 60_000) if held else None
    await rewrite(world.store.store, key, lambda record: with_lease(record, lease), world.clock())


async def is_locked(world: World, browser: Browser) -> bool:
    assert browser.cookie is not None
    stored = await world.store.store.load(browser.cookie[:22], deadline=soon())
    assert stored is not None
    return lease_in(decoded(stored.data)) is not None


async def test_locked_dependency(world: World) -> None:
    """Parallel requests of one user run their handlers one after another."""
    app = make(world)

    @app.post("/")
    async def count(session: LockedSessionDep) -> int:
        number: int = session["n"]
        await asyncio.sleep(0)
        session["n"] = number + 1
        return number

    browser = await world.seed(app, n=0)
    answers = await asyncio.gather(*(browser.post("/") for _ in range(20)))
    assert sorted(int(answer.body) for answer in answers) == list(range(20))
    assert await world.read(browser) == {"n": 20}
    assert not await is_locked(world, browser)


async def test_it_shares_the_session_with_other_dependencies(world: World) -> None:
    """One request has one session, locked or not, and enters its own lock again."""
    app = make(world)

    @app.post("/")
    async def both(one: LockedSessionDep, other: SessionDep) -> bool:
        async with other.lock(wait=0):
            other["n"] += 1
        return one is other

    browser = await world.seed(app, n=0)
    assert (await browser.post("/")).body == b"true"
    assert await world.read(browser) == {"n": 1}


async def test_released_before_the_response_starts(world: World) -> None:
    """Not after the last byte: a stream, however long, holds no lock."""
    app = make(world)
    released: list[bool] = []

    @app.post("/")
    async def stream(session: LockedSessionDep) -> StreamingResponse:
        session["n"] += 1

        async def body() -> AsyncIterator[bytes]:
            released.append(not await is_locked(world, browser))
            yield b"x"

        return StreamingResponse(body())

    browser = await world.seed(app, n=0)
    world.calls()
    assert (await browser.post("/")).status == 200
    assert released == [True]
    assert world.calls() == {"load": 1, "save": 2}, (
        "and there is nothing left to save at the response's start"
    )


@pytest.mark.parametrize("error", [RuntimeError("bug"), HTTPException(404)])
async def test_a_handler_that_fails_leaves_nothing_behind(world: World, error: Exception) -> None:
    """Its changes are discarded, also where the response is no server error, and the lock is free."""
    app = make(world, save_on_error=True)

    @app.post("/")
    async def fail(session: LockedSessionDep) -> None:
        session["n"] += 1
        raise error

    browser = await world.seed(app, n=0)
    if isinstance(error, HTTPException):
        assert (await browser.post("/")).status == 404
    else:
        with pytest.raises(RuntimeError):
            await browser.post("/")
    await world.drain(app)
    assert await world.read(browser) == {"n": 0}
    assert not await is_locked(world, browser)


async def test_the_client_is_cut_off(world: World) -> None:
    """A server that cancels the handler: discarded, released."""
    app = make(world)
    entered = asyncio.Event()

    @app.post("/")
    async def slow(session: LockedSessionDep) -> None:
        session["n"] += 1
        entered.set()
        await asyncio.Event().wait()

    browser = await world.seed(app, n=0)
    exchange = browser.begin("POST", "/")
    await entered.wait()
    await exchange.cancel()
    await world.drain(app)
    assert await world.read(browser) == {"n": 0}
    assert not await is_locked(world, browser)


async def locked_in_vain(request: Any) -> PlainTextResponse:
    async with (await load_session(request)).lock(wait=0.01):
        pytest.fail("entered")
    return PlainTextResponse("ok")


async def test_the_lock_is_not_free_in_time(world: World) -> None:
    """503, with Retry-After only where repeating is safe: the handler has run."""
    app = world.starlette([Route("/", locked_in_vain, methods=["GET", "POST"])])
    browser = await world.seed(app, n=0)
    await hold(world, browser)
    answer = await browser.get("/")
    assert answer.status == 503
    assert answer.header("retry-after") == "1"
    answer = await browser.post("/")
    assert answer.status == 503
    assert answer.header("retry-after") is None


async def test_the_app_handles_it_itself(world: World) -> None:
    """`LockTimeout` is an ordinary exception of the handler."""

    async def told(request: Any, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("busy", 423)

    app = world.starlette([Route("/", locked_in_vain)], handlers={LockTimeout: told})
    browser = await world.seed(app, n=0)
    await hold(world, browser)
    answer = await browser.get("/")
    assert (answer.status, answer.body) == (423, b"busy")


async def test_the_lock_is_lost(world: World) -> None:
    """Promise 12: 409, and nothing of the handler's is written."""
    app = make(world)

    @app.post("/")
    async def slow(session: LockedSessionDep) -> str:
        session["n"] += 1
        await hold(world, browser)
        return "done"

    browser = await world.seed(app, n=0)
    answer = await browser.post("/")
    assert answer.status == 409
    assert b"done" not in answer.body
    assert await world.read(browser) == {"n": 0}


async def test_a_response_that_starts_inside_the_block(world: World) -> None:
    """What is committed for its start is saved under the lock, too; 409 if that is lost."""

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        session: Session = scope["session"]
        async with session.lock():
            session["n"] += 1
            if scope["path"] == "/lost":
                await hold(world, browser)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            assert await is_locked(world, browser)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    app = world.wrap(inside)
    browser = await world.seed(app, n=0)
    assert (await browser.get("/")).status == 200
    assert await world.read(browser) == {"n": 1}
    assert not await is_locked(world, browser)
    assert (await browser.get("/lost")).status == 409
    assert await world.read(browser) == {"n": 1}


async def test_a_conflict_of_values_is_409(world: World) -> None:
    """With ``on_conflict="raise"``, at the commit for the response."""
    app = make(world, on_conflict="raise")

    @app.post("/")
    async def change(session: SessionDep) -> None:
        session["n"] += 1
        if session["n"] == 1:
            await browser.post("/other")

    @app.post("/other")
    async def other(session: SessionDep) -> None:
        session["n"] += 10

    browser = await world.seed(app, n=0)
    assert (await browser.post("/")).status == 409
    assert await world.read(browser) == {"n": 10}
    assert isinstance(next(e.info["error"] for e in world.events if e.name == "failed"), SessionConflict)


async def test_transact_in_a_handler(world: World) -> None:
    """Saved when it returns, so the response's start finds nothing to commit."""
    app = make(world)

    @app.post("/")
    async def spend(session: SessionDep) -> bool:
        def take(draft: Session) -> bool:
            if draft["n"] == 0:
                return False
            draft["n"] -= 1
            return True

        return await session.transact(take)

    browser = await world.seed(app, n=2)
    answers = await asyncio.gather(*(browser.post("/") for _ in range(5)))
    assert sorted(answer.body for answer in answers) == [b"false"] * 3 + [b"true"] * 2
    world.calls()
    await browser.post("/")
    assert world.calls() == {"load": 2}


async def test_a_locked_dependency_is_refused_in_a_websocket(world: World) -> None:
    """It would hold the lock for as long as the connection is open."""
    app = make(world)

    @app.websocket("/")
    async def serve(websocket: WebSocket, session: LockedSessionDep) -> None:
        await websocket.accept()

    browser = await world.seed(app, n=0)
    with pytest.raises(SessionError, match="for each message"):
        await browser.connect("/").done()


async def test_a_lock_for_every_message_of_a_websocket(world: World) -> None:
    """In a WebSocket the block is around the work for one message; the next one enters it again."""
    app = make(world)

    @app.websocket("/")
    async def serve(websocket: WebSocket) -> None:
        await websocket.accept()
        session = await load_session(websocket)
        async for _ in websocket.iter_text():
            async with session.lock():
                session["n"] += 1
            await websocket.send_text(str(session["n"]))

    browser = await world.seed(app, n=0)
    chat = browser.connect("/")
    await chat.until(1)
    for number in range(1, 4):
        chat.push({"type": "websocket.receive", "text": "x"})
        await chat.until(1 + number)
    chat.disconnect()
    await chat.done()
    assert [message["text"] for message in chat.sent[1:]] == ["1", "2", "3"]
    assert await world.read(browser) == {"n": 3}

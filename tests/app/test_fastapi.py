"""FastAPI: the dependency, `def` handlers that load by themselves, what else depends on the session."""

# ruff: noqa: B008  (dependencies local to a test cannot be named in Annotated)
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from asgi_session import Session, SessionMiddleware, SessionNotLoaded
from asgi_session.fastapi import SessionDep
from tests.app.kit import Browser, World


def make(world: World, **options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(
        SessionMiddleware, store=world.store, clock=world.clock, on_event=world.on_event, **options
    )
    return app


@pytest.fixture
def app(world: World) -> FastAPI:
    return make(world)


async def test_the_example_of_the_design(world: World, app: FastAPI) -> None:
    """Declaring SessionDep loads the session; what is set is saved; other routes pay nothing."""

    @app.post("/cart/{sku}")
    async def add(sku: str, session: SessionDep) -> Any:
        session[f"cart:{sku}"] = session.get(f"cart:{sku}", 0) + 1
        return dict(session)

    @app.get("/")
    async def home() -> str:
        return "hello"

    browser = Browser(app)
    assert (await browser.post("/cart/tea")).body == b'{"cart:tea":1}'
    assert (await browser.post("/cart/tea")).body == b'{"cart:tea":2}'
    await world.drain(app)
    world.calls()
    await browser.get("/")
    assert world.calls() == {}
    await browser.post("/cart/milk")
    assert world.calls() == {"load": 1, "save": 1}


async def test_sub_dependencies_share_one_load(world: World, app: FastAPI) -> None:
    """Dependencies of dependencies get the same session, loaded once, also with use_cache=False."""

    async def user(session: SessionDep) -> Any:
        return session.get("user")

    async def admin(
        session: SessionDep, user: Any = Depends(user), again: Any = Depends(user, use_cache=False)
    ) -> Any:
        if user != 7 or again != 7:
            raise HTTPException(403)
        return session

    router = APIRouter(dependencies=[Depends(admin)])

    @router.get("/")
    async def handler(session: SessionDep, other: Any = Depends(admin)) -> bool:
        return session is other

    app.include_router(router, prefix="/admin")
    browser = await world.seed(app, user=7)
    assert (await browser.get("/admin/")).body == b"true"
    assert world.calls() == {"load": 1}
    assert (await Browser(app).get("/admin/")).status == 403


async def test_concurrent_use_in_one_request_is_one_load(world: World, app: FastAPI) -> None:
    """Tasks of one request that all load the session cause one store command."""

    @app.get("/")
    async def handler(request: Request) -> Any:
        session: Any = request.session
        return len({id(s) for s in await asyncio.gather(*(session.load() for _ in range(20)))})

    browser = await world.seed(app, n=1)
    assert (await browser.get("/")).body == b"1"
    assert world.calls() == {"load": 1}


def test_openapi_is_the_same_with_and_without(world: World) -> None:
    """The dependency leaves no trace in the OpenAPI document."""
    with_session, without = FastAPI(), FastAPI()

    @with_session.get("/items/{item}")
    async def read(item: int, session: SessionDep, q: str = "") -> dict[str, int]:
        return {}

    @with_session.websocket("/ws")
    async def socket(ws: WebSocket, session: SessionDep) -> None: ...

    def plain() -> None:
        @without.get("/items/{item}")
        async def read(item: int, q: str = "") -> dict[str, int]:
            return {}

        @without.websocket("/ws")
        async def socket(ws: WebSocket) -> None: ...

    plain()
    with_session.add_middleware(SessionMiddleware, store=world.store)
    assert with_session.openapi() == without.openapi()


class Visit(BaseModel):
    """What a route answers with."""

    n: int
    tags: list[str] = []


@pytest.mark.parametrize("warm", [False, True], ids=["undecoded", "decoded"])
async def test_returning_the_session(world: World, app: FastAPI, warm: bool) -> None:
    """A route may return the session itself: as it is, annotated, or through a response_model."""

    def look(session: Session) -> Session:
        if warm:
            dict(session)
        return session

    @app.get("/plain")
    async def plain(session: SessionDep):  # type: ignore[no-untyped-def]
        return look(session)

    @app.get("/dict")
    async def annotated(session: SessionDep) -> dict[str, Any]:
        return look(session)

    @app.get("/model", response_model=Visit)
    async def model(session: SessionDep) -> Any:
        return dict(look(session))

    @app.get("/def")
    def in_thread(session: SessionDep):  # type: ignore[no-untyped-def]
        return look(session)

    browser = await world.seed(app, n=1, tags=["a", "b"])
    for path in ("/plain", "/dict", "/model", "/def"):
        assert (await browser.get(path)).body == b'{"n":1,"tags":["a","b"]}', path


async def test_returning_the_session_to_pydantic(world: World, app: FastAPI) -> None:
    """Where pydantic reads dict storage, the error names dict(session) and nothing false goes out."""

    @app.get("/any")
    async def anything(session: SessionDep) -> Any:
        return session

    @app.get("/model", response_model=Visit)
    async def model(session: SessionDep) -> Any:
        return session

    @app.get("/copied")
    async def copied(session: SessionDep) -> Any:
        return dict(session)

    browser = await world.seed(app, n=1)
    for path in ("/any", "/model"):
        with pytest.raises(Exception, match=r"dict\(session\)"):
            await browser.get(path)
    assert (await browser.get("/copied")).body == b'{"n":1}'


# ---------------------------------------------------------------- def handlers and dependencies


async def test_a_def_handler_loads_by_itself(world: World, app: FastAPI) -> None:
    """In a worker thread the session loads when it is used, and costs nothing when it is not."""

    @app.get("/use")
    def use(request: Request) -> Any:
        request.session["n"] = request.session.get("n", 0) + 1
        return dict(request.session)

    @app.get("/ignore")
    def ignore(request: Request) -> str:
        return "hello"

    browser = await world.seed(app, n=1)
    assert (await browser.get("/use")).body == b'{"n":2}'
    assert world.calls() == {"load": 1, "save": 1}
    await browser.get("/ignore")
    assert world.calls() == {}


async def test_a_def_handler_with_the_dependency(world: World, app: FastAPI) -> None:
    """SessionDep serves `def` handlers too."""

    @app.get("/")
    def handler(session: SessionDep) -> int:
        session["n"] += 1
        return int(session["n"])

    browser = await world.seed(app, n=1)
    assert (await browser.get("/")).body == b"2"
    assert await world.read(browser) == {"n": 2}


async def test_a_def_dependency_loads_by_itself(world: World, app: FastAPI) -> None:
    """A `def` dependency runs in a thread as well, and what it loads the handler may use."""

    def user(request: Request) -> Any:
        return request.session.get("user")

    @app.get("/")
    async def handler(request: Request, user: Any = Depends(user)) -> Any:
        return [user, request.session["user"]]

    browser = await world.seed(app, user=7)
    assert (await browser.get("/")).body == b"[7,7]"
    assert world.calls() == {"load": 1}


async def test_the_store_down_in_a_thread(world: World, app: FastAPI) -> None:
    """A load that fails in a `def` handler gives 503, like any other."""

    @app.get("/")
    def handler(request: Request) -> Any:
        return request.session["user"]

    browser = await world.seed(app, user=7)
    world.store.fail("load")
    assert (await browser.get("/")).status == 503


async def test_an_async_handler_that_forgets_to_load(world: World, app: FastAPI) -> None:
    """In an async handler the unloaded session says how to load it, to a first visitor too."""

    @app.get("/")
    async def handler(request: Request) -> Any:
        return request.session.get("user")

    for browser in (Browser(app), await world.seed(app, user=7)):
        with pytest.raises(SessionNotLoaded, match="SessionDep"):
            await browser.get("/")


async def test_a_foreign_thread_cannot_load(world: World, app: FastAPI) -> None:
    """A thread of the app's own has no way to the event loop: the same error, and no hang."""

    @app.get("/")
    async def handler(request: Request) -> Any:
        session = request.scope["session"]
        return await asyncio.get_running_loop().run_in_executor(None, session.get, "user")

    browser = await world.seed(app, user=7)
    with pytest.raises(SessionNotLoaded):
        await browser.get("/")


async def test_returning_an_unloaded_session_fails_loudly(world: World, app: FastAPI) -> None:
    """An unloaded session is never taken for an empty one when it is returned."""

    @app.get("/")
    async def handler(request: Request) -> Any:
        return request.session

    browser = await world.seed(app, user=7)
    with pytest.raises(Exception, match=r"not loaded|SessionDep|dict\(session\)"):
        await browser.get("/")


# ---------------------------------------------------------------- dependencies with yield


async def test_a_yield_dependency_of_function_scope_is_in_time(world: World, app: FastAPI) -> None:
    """With scope="function" the dependency ends before the headers: it may still create the session."""

    async def counting(session: SessionDep) -> AsyncIterator[None]:
        yield
        session["ended"] = True

    @app.get("/", dependencies=[Depends(counting, scope="function")])
    async def handler() -> str:
        return "x"

    browser = Browser(app)
    got = await browser.get("/")
    assert got.cookie is not None
    assert await world.read(browser) == {"ended": True}


async def test_a_yield_dependency_of_request_scope_is_late(
    world: World, app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """By default it ends after the last byte: an old session is saved once more, a new one an error."""

    async def counting(session: SessionDep) -> AsyncIterator[None]:
        yield
        session["ended"] = True

    @app.get("/", dependencies=[Depends(counting)])
    async def handler() -> str:
        return "x"

    browser = await world.seed(app, n=1)
    await browser.get("/")
    assert await world.read(browser) == {"n": 1, "ended": True}
    assert not caplog.records
    world.calls()
    got = await Browser(app).get("/")
    assert (got.cookie, world.calls()) == (None, {})
    assert "ended" in caplog.text


async def test_a_def_yield_dependency(world: World, app: FastAPI) -> None:
    """A `def` dependency with yield enters and leaves in threads; both may use the session."""

    def counting(request: Request) -> Iterator[None]:
        request.session["begun"] = True
        yield
        request.session["ended"] = True

    @app.get("/", dependencies=[Depends(counting)])
    def handler() -> str:
        return "x"

    browser = await world.seed(app, n=1)
    await browser.get("/")
    assert await world.read(browser) == {"n": 1, "begun": True, "ended": True}


@pytest.mark.parametrize("scope", ["function", "request"])
@pytest.mark.parametrize("where", ["before", "after", "handler"])
async def test_exceptions_around_a_yield_dependency(
    world: World, app: FastAPI, scope: Any, where: str
) -> None:
    """An exception before the headers commits no data; after them, what the headers committed stays."""

    async def failing(session: SessionDep) -> AsyncIterator[None]:
        session["begun"] = True
        if where == "before":
            raise KeyError(where)
        yield
        session["ended"] = True
        if where == "after":
            raise KeyError(where)

    @app.get("/", dependencies=[Depends(failing, scope=scope)])
    async def handler() -> str:
        if where == "handler":
            raise KeyError(where)
        return "x"

    browser = await world.seed(app, n=1)
    with pytest.raises(KeyError, match=where):
        await browser.get("/")
    sent_before = where == "after" and scope == "request"
    assert await world.read(browser) == ({"n": 1, "begun": True} if sent_before else {"n": 1})


async def test_an_http_exception_in_a_dependency_commits(world: World, app: FastAPI) -> None:
    """A dependency that refuses with 401 keeps what it has noted in the session."""

    async def guard(session: SessionDep) -> None:
        session["tries"] = session.get("tries", 0) + 1
        raise HTTPException(401)

    @app.get("/", dependencies=[Depends(guard)])
    async def handler() -> None: ...

    browser = Browser(app)
    assert (await browser.get("/")).status == 401
    assert (await browser.get("/")).status == 401
    assert await world.read(browser) == {"tries": 2}


async def test_background_tasks_and_streams(world: World, app: FastAPI) -> None:
    """FastAPI's BackgroundTasks and a streamed body may write to the session, saved at the end."""

    @app.get("/background")
    async def background(session: SessionDep, tasks: BackgroundTasks) -> str:
        tasks.add_task(session.update, {"later": True})
        return "x"

    @app.get("/stream")
    async def stream(session: SessionDep) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            session["streamed"] = True

        return StreamingResponse(chunks())

    browser = await world.seed(app, n=1)
    await browser.get("/background")
    await browser.get("/stream")
    assert await world.read(browser) == {"n": 1, "later": True, "streamed": True}


# ---------------------------------------------------------------- websockets


async def test_the_dependency_in_a_websocket(world: World, app: FastAPI) -> None:
    """SessionDep loads before the accept; a new session's cookie leaves with it."""

    @app.websocket("/")
    async def handler(ws: WebSocket, session: SessionDep) -> None:
        session["n"] = session.get("n", 0) + 1
        await ws.accept()
        await ws.send_json(dict(session))
        await ws.close()

    exchange = Browser(app).connect("/")
    await exchange.done()
    assert b"set-cookie" in dict(exchange.sent[0]["headers"])
    browser = await world.seed(app, n=1)
    exchange = browser.connect("/")
    await exchange.done()
    assert exchange.sent[1]["text"] == '{"n":2}'
    assert world.calls() == {"load": 1, "save": 1}


async def test_the_store_down_in_a_websocket_dependency(world: World, app: FastAPI) -> None:
    """A dependency that cannot load refuses the handshake with 503."""

    @app.websocket("/")
    async def handler(ws: WebSocket, session: SessionDep) -> None:
        raise AssertionError("the handler ran")

    browser = await world.seed(app, n=1)
    world.store.fail("load")
    assert (await browser.connect("/").done()).status == 503


async def test_a_dependency_may_be_overridden(world: World, app: FastAPI) -> None:
    """Tests of an app may override what depends on the session; then nothing is loaded."""

    async def user(session: SessionDep) -> Any:
        return session.get("user")

    @app.get("/")
    async def handler(user: Any = Depends(user)) -> Any:
        return user

    app.dependency_overrides[user] = lambda: 42
    browser = await world.seed(app, user=7)
    assert (await browser.get("/")).body == b"42"
    assert world.calls() == {}

"""End to end: uvicorn on loopback, the store in a real Valkey."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from asgi_session import SessionMiddleware, load_session
from tests.servers import ServerProcess


async def untouched(request: Request) -> Response:
    return PlainTextResponse("hello")


async def read(request: Request) -> Response:
    return JSONResponse(dict(await load_session(request)))


async def count(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse(session["n"])


async def put(request: Request) -> Response:
    (await load_session(request))[request.path_params["key"]] = True
    return PlainTextResponse("kept")


async def logout(request: Request) -> Response:
    (await load_session(request)).destroy()
    return PlainTextResponse("bye")


async def stream(request: Request) -> Response:
    session = await load_session(request)

    async def chunks() -> AsyncIterator[bytes]:
        session["begun"] = True
        yield b"first"
        session["more"] = True
        await asyncio.Event().wait()
        yield b"never"

    return StreamingResponse(chunks())


async def ws(websocket: WebSocket) -> None:
    session = await load_session(websocket)
    await websocket.accept()
    async for message in websocket.iter_text():
        session[message] = True
        if message == "commit":
            await session.commit()
        await websocket.send_text(str(len(session)))


ROUTES = [
    Route("/untouched", untouched),
    Route("/read", read),
    Route("/count", count, methods=["GET", "POST"]),
    Route("/put/{key}", put),
    Route("/logout", logout),
    Route("/stream", stream),
    WebSocketRoute("/ws", ws),
]


@asynccontextmanager
async def serve(url: str, **options: Any) -> AsyncIterator[str]:
    """Run the app under uvicorn on a free port; give host:port."""
    options = {"https_only": False, "store": url, **options}
    app = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, **options)])
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, lifespan="on", ws="websockets-sansio", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await until(lambda: _true(server.started or running.done()))
        host, port = listener.getsockname()
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        await running
        listener.close()


async def _true(value: bool) -> bool:
    return value


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Poll until `check` is true; `TimeoutError` after 20 seconds."""
    async with asyncio.timeout(20):
        while not await check():
            await asyncio.sleep(0.005)


def browser(address: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=f"http://{address}")


async def contents(client: httpx2.AsyncClient) -> Any:
    return (await client.get("/read")).json()


async def test_two_servers_share_a_session(valkey: ServerProcess) -> None:
    """What one server saved the other reads; parallel writes to both survive; logging out ends it."""
    async with serve(valkey.url) as one, serve(valkey.url) as two, browser(one) as client:
        assert (await client.post("/count")).json() == 1
        async with browser(two) as other:
            other.cookies = client.cookies
            assert (await other.post("/count")).json() == 2
            sent = [(client, other)[i % 2].get(f"/put/k{i}") for i in range(20)]
            assert {response.status_code for response in await asyncio.gather(*sent)} == {200}
            assert await contents(client) == {"n": 2, **{f"k{i}": True for i in range(20)}}
            cookie = dict(client.cookies)
            assert (await client.get("/logout")).headers["set-cookie"].startswith("session=;")
            other.cookies.update(cookie)
            assert await contents(other) == {}


async def test_command_counts_on_a_real_server(valkey: ServerProcess) -> None:
    """Promises 1 and 2, counted by the server: nothing untouched, one to read, one more to write."""
    async with serve(valkey.url, secret_key="k" * 32) as address, browser(address) as client:

        async def commands(path: str) -> dict[str, int]:
            valkey.reset_stats()
            assert (await client.get(path)).status_code == 200
            counted = valkey.commandstats()
            return {name: counted[name] for name in ("get", "evalsha", "eval", "set") if name in counted}

        await client.get("/count")
        await client.get("/read")  # confirms
        await client.get("/count")  # loads the scripts
        assert await commands("/untouched") == {}
        assert (await commands("/read")).get("get") == 1
        counted = await commands("/count")
        assert (counted["get"], counted["set"]) == (1, 1)
        assert "evalsha" not in counted
        client.cookies = httpx2.Cookies()
        assert await commands("/read") == {}
        client.cookies.set("session", "A" * 43 + "." + "B" * 22)
        assert await commands("/read") == {}


async def test_client_leaves_in_mid_stream(valkey: ServerProcess) -> None:
    """A client that closes its connection in mid-stream: what the stream had set is saved."""
    async with serve(valkey.url) as address, browser(address) as client:
        await client.post("/count")
        async with client.stream("GET", "/stream") as response:
            assert await anext(response.aiter_bytes()) == b"first"
        # leaving the block closes the connection

        async def saved() -> bool:
            return bool(await contents(client) == {"n": 1, "begun": True, "more": True})

        await until(saved)


async def test_websocket(valkey: ServerProcess) -> None:
    """A WebSocket's commit is seen by the next request, what is set later when it has closed."""
    async with serve(valkey.url) as address, browser(address) as client:
        await client.post("/count")
        cookie = {"cookie": f"session={client.cookies['session']}"}
        async with connect(f"ws://{address}/ws", additional_headers=cookie) as socket_:
            await socket_.send("commit")
            assert await socket_.recv() == "2"
            assert await contents(client) == {"n": 1, "commit": True}
            await socket_.send("later")
            assert await socket_.recv() == "3"

        async def saved() -> bool:
            return bool(await contents(client) == {"n": 1, "commit": True, "later": True})

        await until(saved)


async def test_store_dies_and_comes_back(fresh_valkey: ServerProcess) -> None:
    """Promise 11: while the store is dead 503, also to WebSockets; then all is well."""
    async with serve(fresh_valkey.url, deadline=0.5) as address, browser(address) as client:
        assert (await client.post("/count")).json() == 1
        fresh_valkey.kill()
        refused = await client.get("/count")
        assert (refused.status_code, refused.text) == (503, "Service Unavailable")
        assert refused.headers["retry-after"] == "1"
        assert "set-cookie" not in refused.headers
        assert (await client.get("/untouched")).text == "hello"
        cookie = {"cookie": f"session={client.cookies['session']}"}
        with pytest.raises(InvalidStatus) as caught:
            async with connect(f"ws://{address}/ws", additional_headers=cookie):
                raise AssertionError("accepted")
        assert caught.value.response.status_code == 503
        fresh_valkey.restart()

        async def back() -> bool:
            return bool((await client.post("/count")).status_code == 200)

        await until(back)


async def test_starts_without_its_store(fresh_valkey: ServerProcess) -> None:
    """Promise 11: an app whose store is away starts, answers 503, and works once the store is there."""
    fresh_valkey.kill()
    async with serve(fresh_valkey.url, deadline=0.5) as address, browser(address) as client:
        assert (await client.get("/untouched")).status_code == 200
        assert (await client.post("/count")).status_code == 503
        fresh_valkey.restart()

        async def works() -> bool:
            return bool((await client.post("/count")).status_code == 200)

        await until(works)


async def test_shutdown_leaves_no_connection(valkey: ServerProcess) -> None:
    """The lifespan closes the connections it has opened."""

    def others() -> int:
        return int(valkey.info("clients")["connected_clients"])

    before = others()
    async with serve(valkey.url) as address, browser(address) as client:
        await client.post("/count")
        assert others() > before

    async def closed() -> bool:
        return others() == before

    await until(closed)

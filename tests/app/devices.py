"""One of several processes that serve the same users: ``python -m tests.app.devices URL KEY...``.

With keys its records are sealed. It prints the port that it listens on, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_session import SessionManager, SessionMiddleware, load_session
from asgi_session.stores.redis import RedisStore


def describe(connection: HTTPConnection) -> str:
    return connection.headers["user-agent"]


def make_app(manager: SessionManager) -> Starlette:
    """Return the app of one process; all but the login asks the session who is signed in."""

    async def login(request: Request) -> Response:
        session = await load_session(request)
        session["user"] = request.path_params["name"]
        return Response(status_code=204)

    async def me(request: Request) -> Response:
        session = await load_session(request)
        return JSONResponse({"id": session.id, **session})

    async def devices(request: Request) -> Response:
        session = await load_session(request)
        found = manager.sessions_of(session["user"], current=session)
        return JSONResponse([[one.id, one.description, one.current] async for one in found])

    async def revoke(request: Request) -> Response:
        session = await load_session(request)
        ended = await manager.revoke(request.path_params["id"], principal=session["user"])
        return JSONResponse(ended)

    async def others(request: Request) -> Response:
        session = await load_session(request)
        return JSONResponse(await manager.revoke_user(session["user"], except_=session.id))

    return Starlette(
        routes=[
            Route("/login/{name}", login, methods=["POST"]),
            Route("/me", me),
            Route("/devices", devices),
            Route("/revoke/{id}", revoke, methods=["POST"]),
            Route("/others", others, methods=["POST"]),
        ],
        middleware=[Middleware(SessionMiddleware, manager=manager, https_only=False)],
    )


async def main(url: str, *keys: str) -> None:
    store = RedisStore.from_url(url)
    options: dict[str, Any] = {"encryption_key": keys} if keys else {}
    manager = SessionManager(store, identity="user", describe=describe, deadline=30, **options)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(manager), log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)

    def end_with_the_test() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=end_with_the_test, daemon=True).start()
    async with manager:
        print(listener.getsockname()[1], flush=True)
        await server.serve(sockets=[listener])
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""The Starlette app that all layers on Starlette share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from benchmarks.actions import Action

Load = Callable[[Request], Awaitable[Any]]
End = Callable[[Request], None]


def clear(request: Request) -> None:
    """End a session as most layers recommend."""
    request.session.clear()


async def in_scope(request: Request) -> Any:
    """Return a session that the middleware has loaded already."""
    return request.session


def starlette_app(
    action: Action,
    middleware: list[Middleware],
    load: Load = in_scope,
    end: End = clear,
    *,
    lifespan: Any = None,
) -> Starlette:
    """Return an app with one route; `load` gets a request's session in the way that the layer recommends."""
    act = action.act
    if act is None:

        async def endpoint(request: Request) -> Response:
            return PlainTextResponse("ok")

    elif action.ends:

        async def endpoint(request: Request) -> Response:
            text = await act(await load(request), request)
            end(request)
            return PlainTextResponse(text)

    else:

        async def endpoint(request: Request) -> Response:
            return PlainTextResponse(await act(await load(request), request))

    return Starlette(routes=[Route("/", endpoint)], middleware=middleware, lifespan=lifespan)

"""The Litestar app that both layers on Litestar share.

As Litestar's documentation writes a handler that answers plain text, without the OpenAPI pages, so
that there is one route as on the other frameworks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestar import Litestar, MediaType, Request, get
from litestar.stores.base import Store
from litestar.types import Middleware

from benchmarks.actions import Action


def litestar_app(
    action: Action, middleware: Sequence[Middleware] = (), stores: Mapping[str, Store] | None = None
) -> Litestar:
    """Return an app with one route."""
    act = action.act
    if act is None:

        @get("/", media_type=MediaType.TEXT)
        async def endpoint() -> str:
            return "ok"

    elif action.ends:

        @get("/", media_type=MediaType.TEXT)
        async def endpoint(request: Request[Any, Any, Any]) -> str:
            text = await act(request.session, request)
            request.clear_session()
            return text

    else:

        @get("/", media_type=MediaType.TEXT)
        async def endpoint(request: Request[Any, Any, Any]) -> str:
            return await act(request.session, request)

    return Litestar(
        route_handlers=[endpoint], middleware=[*middleware], stores=dict(stores or {}), openapi_config=None
    )

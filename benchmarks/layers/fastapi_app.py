"""The FastAPI app that all layers on FastAPI share.

As FastAPI's own tutorial writes a route that answers plain text, without the OpenAPI pages, so that
there is one route as on the other frameworks.
"""
# Annotations are evaluated here: FastAPI could not find a dependency that is a local name otherwise.

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

from benchmarks.actions import Action


def fastapi_app(
    action: Action,
    session_type: Any = None,
    end: Callable[[Any], None] | None = None,
    *,
    lifespan: Any = None,
) -> FastAPI:
    """Return an app with one route.

    Args:
        action: what the route does.
        session_type: the layer's annotated dependency on a session.
        end: ends a session as the layer recommends for a logout.
        lifespan: of the app.
    """
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    act = action.act
    if act is None:

        @app.get("/")
        async def untouched() -> PlainTextResponse:
            return PlainTextResponse("ok")

    elif action.ends:

        @app.get("/")
        async def ends(request: Request, session: session_type) -> PlainTextResponse:
            text = await act(session, request)
            assert end is not None
            end(session)
            return PlainTextResponse(text)

    else:

        @app.get("/")
        async def acts(request: Request, session: session_type) -> PlainTextResponse:
            return PlainTextResponse(await act(session, request))

    return app

"""A counter on Starlette: ``uvicorn starlette_app:app``."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from asgi_session import SessionMiddleware, load_session


async def count(request: Request) -> JSONResponse:
    session = await load_session(request)  # or: await request.session.load()
    session["count"] = session.get("count", 0) + 1
    return JSONResponse(session)


app = Starlette(
    routes=[Route("/count", count, methods=["POST"])],
    middleware=[Middleware(SessionMiddleware, store=os.environ.get("SESSION_STORE", "memory://"))],
)

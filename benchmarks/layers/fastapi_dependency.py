"""No session layer: the FastAPI app, and an async dependency that does nothing. Beside this app it shows
what a session costs that is a dependency, without what FastAPI takes for any.
"""
# Annotations are evaluated here: FastAPI could not find a dependency that is a local name otherwise.

from typing import Annotated, Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse

from benchmarks.actions import Action

TITLE: Final = "FastAPI app with an empty dependency"
STORE: Final = None
BARE: Final = "fastapi_bare"


async def _nothing() -> None: ...


def build(action: Action, store_url: str) -> FastAPI:
    """Return the app; whatever the action, it does nothing."""
    app = FastAPI(openapi_url=None)

    @app.get("/")
    async def untouched(request: Request, session: Annotated[None, Depends(_nothing)]) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return app

"""A cart and a login on FastAPI: ``uvicorn fastapi_app:app``."""

import os

from fastapi import FastAPI

from asgi_session import SessionMiddleware
from asgi_session.fastapi import SessionDep

app = FastAPI()
app.add_middleware(
    SessionMiddleware,
    store=os.environ.get("SESSION_STORE", "memory://"),  # redis://..., redis+cluster://..., ...
    identity="user",  # the key that says who is signed in
)


@app.post("/cart/{sku}")
async def add(sku: str, session: SessionDep) -> dict[str, object]:  # declaring it loads it
    session[f"cart:{sku}"] = session.get(f"cart:{sku}", 0) + 1  # in parallel, different keys merge
    return dict(session)


@app.post("/login/{name}")
async def login(name: str, session: SessionDep) -> dict[str, object]:
    session["user"] = name  # a new id and cookie: one that somebody has planted is dead; the cart stays
    return dict(session)


@app.post("/logout", status_code=204)
async def logout(session: SessionDep) -> None:
    session.destroy()


@app.get("/health")
async def health() -> str:  # does not declare the session: costs the store nothing
    return "ok"

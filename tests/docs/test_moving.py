"""The page on moving to another store: its three deployments, one after the other."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from asgi_session import SessionManager, SessionMiddleware, load_session
from asgi_session.testing import SessionClient
from tests.docs.pages import ROOT, python, table
from tests.docs.test_examples import run
from tests.servers import ServerProcess

PAGE = ROOT / "docs/moving.md"


async def count(request: Request) -> JSONResponse:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse(session["n"])


async def test_the_deployments(valkey: ServerProcess) -> None:
    """A browser keeps its session through all of them, and from each of them one step back."""
    names: dict[str, Any] = {}
    managers = [SessionManager(f"{valkey.url}/0")]
    for block in python(PAGE):
        await run(PAGE, block, names, valkey.url)
        managers.append(names["manager"])
    assert len(managers) == 4
    cookies: dict[str, str] = {}
    for expected, step in enumerate((0, 1, 0, 1, 2, 1, 2, 3, 2, 3), 1):
        client = SessionClient(
            SessionMiddleware(Starlette(routes=[Route("/", count, methods=["POST"])]), managers[step])
        )
        client.cookies.update(cookies)
        assert client.post("/").json() == expected
        cookies = cookies or dict(client.cookies)


def test_the_steps_are_those_of_the_roll_out() -> None:
    """The table names each deployment, in order."""
    rows = table(PAGE, "Step")
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert "moves=False" in rows[1][1]
    assert "MovingStore" in rows[2][1] and "moves" not in rows[2][1]

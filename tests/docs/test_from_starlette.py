"""What the page on moving from Starlette says of both sides, tried on both."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from asgi_session import SessionMiddleware, SessionSerializationError
from asgi_session.testing import SessionClient
from tests.docs.pages import ROOT, python
from tests.docs.test_examples import run
from tests.servers import ServerProcess

SEEN: dict[str, Any] = {}


async def fails(request: Request) -> Response:
    """Change the session and answer 500."""
    request.session["changed"] = True
    return Response(status_code=500)


async def nest(request: Request) -> Response:
    """Change a value that is in a value."""
    if "cart" not in request.session:
        request.session["cart"] = []
    else:
        request.session["cart"].append("fig")
    return Response()


async def kinds(request: Request) -> Response:
    """Set what JSON does not tell apart."""
    request.session["value"] = {7: ("a", "b")}
    return Response()


async def int_key(request: Request) -> Response:
    """Set a key of the session that is no text; where that is an error, note it."""
    try:
        request.session[7] = True  # type: ignore[index]
    except SessionSerializationError as error:
        SEEN["error"] = error
    return Response()


async def attribute(request: Request) -> Response:
    """Set an attribute instead of a key; where that is an error, note it."""
    try:
        request.session.user = "ada"  # type: ignore[attr-defined]
    except AttributeError as error:
        SEEN["error"] = error
    return Response()


async def show(request: Request) -> Response:
    SEEN["session"] = dict(request.session)
    return Response()


async def clear(request: Request) -> Response:
    request.session.clear()
    return Response()


HANDLERS = (fails, nest, kinds, int_key, attribute, show, clear)
ROUTES = [Route(f"/{handler.__name__}", handler) for handler in HANDLERS]


def there() -> TestClient:
    """Return a client of an app on Starlette's middleware."""
    stack = [Middleware(SignedCookieMiddleware, secret_key="not really a secret")]
    return TestClient(Starlette(routes=ROUTES, middleware=stack))


def here(**options: Any) -> SessionClient:
    """Return a client of the same app on ours."""
    stack = [Middleware(SessionMiddleware, store="memory://", autoload=True, **options)]
    return SessionClient(Starlette(routes=ROUTES, middleware=stack))


def after(client: TestClient, *paths: str) -> dict[str, Any]:
    """Return what the session holds after these requests."""
    for path in (*paths, "/show"):
        client.get(path)
    found: dict[str, Any] = SEEN["session"]
    return found


def test_5xx_responses() -> None:
    """Starlette's saves with a 500; ours does not, unless told to."""
    assert after(there(), "/fails") == {"changed": True}
    assert after(here(), "/fails") == {}
    assert after(here(save_on_error=True), "/fails") == {"changed": True}


def test_nested_changes() -> None:
    """A change inside a value needs mark_modified() there, and nothing here."""
    assert after(there(), "/nest", "/nest") == {"cart": []}
    assert after(here(), "/nest", "/nest") == {"cart": ["fig"]}


def test_keys_and_tuples_in_values() -> None:
    """Int keys and tuples inside values become text and lists there, and come back as they were here."""
    assert after(there(), "/kinds") == {"value": {"7": ["a", "b"]}}
    assert after(here(), "/kinds") == {"value": {7: ("a", "b")}}


def test_int_keys_of_the_session() -> None:
    """A key of the session that is an int becomes text there, and is an error here, where it is set."""
    assert after(there(), "/int_key") == {"7": True}
    assert after(here(), "/int_key") == {}
    assert isinstance(SEEN["error"], TypeError)


def test_attributes_of_the_session() -> None:
    """An attribute is lost there, and is an error here, where it is set."""
    SEEN.clear()
    assert after(there(), "/attribute") == {}
    assert "error" not in SEEN
    assert after(here(), "/attribute") == {}
    assert isinstance(SEEN["error"], AttributeError)


def test_copies_of_a_cookie_after_logout() -> None:
    """A copy of the cookie opens the session after the logout there, and nothing here."""
    for client, left in ((there(), {"value": {"7": ["a", "b"]}}), (here(), {})):
        client.get("/kinds")
        copy = dict(client.cookies)
        client.get("/clear")
        assert not client.cookies
        client.cookies.update(copy)
        assert after(client) == left


def names_of_the_page() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "from_starlette"}
    for block in python(ROOT / "docs/from-starlette.md"):
        exec(block.text, names)
    return names


def test_handlers_unchanged() -> None:
    """Handlers written for Starlette's middleware count on, unchanged."""
    client = SessionClient(names_of_the_page()["app"])
    assert [client.get("/").json() for _ in range(2)] == [{"count": 1}, {"count": 2}]


async def test_the_usual_keys_merge(valkey: ServerProcess) -> None:
    """With the page's rules, parallel read-modify-write of count, cart and messages loses nothing."""
    (block,) = (one for one in python(ROOT / "docs/from-starlette.md") if "merge=" in one.text)
    names = names_of_the_page()
    exec(block.text.replace("memory://", valkey.url), names)
    app = names["app"]

    async def buy(request: Request) -> Response:
        cart = request.session.setdefault("cart", {})
        cart["fig"] = cart.get("fig", 0) + 1
        request.session.setdefault("flashes", []).append(request.query_params["n"])
        return Response()

    async def all_of_it(request: Request) -> Response:
        return JSONResponse(request.session)

    app.router.routes += [Route("/buy", buy), Route("/all", all_of_it)]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as tab:
        await tab.get("/")
        await asyncio.gather(*(tab.get("/") for _ in range(9)), *(tab.get(f"/buy?n={n}") for n in range(10)))
        found = (await tab.get("/all")).json()
    assert (found["count"], found["cart"]) == (10, {"fig": 10})
    assert sorted(found["flashes"]) == [str(n) for n in range(10)]


def test_sqladmins_login_rotates() -> None:
    """The page's sqladmin backend hands out a new cookie at login, and ends the session at logout."""
    backend = names_of_the_page()["AdminAuth"]()

    async def visit(request: Request) -> Response:
        request.session["seen"] = True
        return Response()

    async def login(request: Request) -> Response:
        return JSONResponse(await backend.login(request))

    async def logout(request: Request) -> Response:
        return JSONResponse(await backend.logout(request))

    async def inside(request: Request) -> Response:
        return JSONResponse(await backend.authenticate(request))

    routes = [Route(f"/{one.__name__}", one, methods=["POST"]) for one in (visit, login, logout, inside)]
    middleware = [Middleware(SessionMiddleware, store="memory://", autoload=True)]
    app = Starlette(routes=routes, middleware=middleware)
    victim, attacker = SessionClient(app), SessionClient(app)
    attacker.post("/visit")
    victim.cookies = attacker.cookies
    assert victim.post("/login", data={"username": "ann", "password": "wrong"}).json() is False
    assert victim.post("/login", data={"username": "ann", "password": "right"}).json() is True
    assert victim.post("/inside").json() is True
    assert attacker.post("/inside").json() is False
    victim.post("/logout")
    assert victim.post("/inside").json() is False


@pytest.mark.parametrize("option", ["max_age"])
def test_options_that_are_named_otherwise(option: str) -> None:
    """Starlette's own options get an error that names ours."""
    with pytest.raises(ValueError, match=r"idle_timeout .* absolute_timeout"):
        here(**{option: 1209600}).get("/show")


async def test_moving_in() -> None:
    """The page's own app goes on from an old cookie, deletes it, and leaves a copy nothing to open."""
    path = ROOT / "docs/from-starlette.md"
    names: dict[str, Any] = {"__name__": path.stem}
    for block in python(path):
        await run(path, block, names, "")

    async def log_in(request: Request) -> Response:
        request.session["user_id"] = 7
        return Response()

    stack = [Middleware(SignedCookieMiddleware, secret_key="the secret_key of the old middleware")]
    old = TestClient(Starlette(routes=[Route("/", log_in)], middleware=stack), base_url="https://testserver")
    old.get("/")
    client, copy = SessionClient(names["moving"]), SessionClient(names["moving"])
    # As a browser does, which knows the cookie by its domain and path.
    for jar in (client.cookies.jar, copy.cookies.jar):
        jar.clear()
        for cookie in old.cookies.jar:
            jar.set_cookie(cookie)
    assert client.get("/who").json() == {"user_id": 7}
    assert set(dict(client.cookies)) == {"__Host-session"}
    assert client.get("/who").json() == {"user_id": 7}
    client.get("/logout")
    assert copy.get("/who").json() == {"user_id": None}

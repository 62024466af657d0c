"""Who is signed in: `SessionAuth` for Starlette, `session_user` for FastAPI, and sign-ins that are recent."""

# ruff: noqa: B008  (dependencies local to a test cannot be named in Annotated)
from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.authentication import SimpleUser, requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute

from asgi_session import ConfigurationError, Session, SessionManager, SessionMiddleware, load_session
from asgi_session.auth import SessionAuth, SignInRequired, require_recent_sign_in
from asgi_session.fastapi import PassiveSessionDep, RecentSignIn, SessionDep, session_user
from tests.app.kit import Browser, World

USERS = {"7": "ada", "8": "bob"}


async def load_user(principal: str) -> SimpleUser | None:
    return SimpleUser(USERS[principal]) if principal in USERS else None


def load_user_in_a_thread(principal: str) -> SimpleUser | None:
    assert threading.current_thread() is not threading.main_thread()
    return SimpleUser(USERS[principal]) if principal in USERS else None


class Users:
    """What an app keeps its users in, to be called."""

    async def __call__(self, principal: str) -> SimpleUser | None:
        assert threading.current_thread() is threading.main_thread()
        return await load_user(principal)


async def find(users: dict[str, str], principal: str) -> SimpleUser | None:
    assert threading.current_thread() is threading.main_thread()
    return await load_user(principal)


LOADERS: list[Callable[[str], Any]] = [
    load_user, load_user_in_a_thread, Users(), partial(find, USERS), lambda principal: load_user(principal)
]  # fmt: skip


async def login(request: Request) -> Response:
    """Sign in as code for Starlette does."""
    (await load_session(request))["user_id"] = int(request.query_params["as"])
    return Response()


async def logout(request: Request) -> Response:
    request.session.clear()
    return Response()


async def me(request: Request) -> Response:
    """Say who Starlette takes the client for."""
    return JSONResponse([request.user.display_name, request.user.is_authenticated, request.auth.scopes])


@requires("authenticated")
async def inside(request: Request) -> Response:
    """Be there for those who are signed in, and use the session, too."""
    return JSONResponse((await load_session(request))["user_id"])


async def payment(request: Request) -> Response:
    """Want a recent sign-in."""
    session = await require_recent_sign_in(request, timedelta(minutes=10))
    return JSONResponse(session.principal)


async def again(request: Request) -> Response:
    """Prove again who one is."""
    await (await load_session(request)).reauthenticated()
    return Response()


async def talk(websocket: Any) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.user.display_name)
    await websocket.close()


ROUTES = [
    Route("/login", login, methods=["POST"]), Route("/logout", logout, methods=["POST"]), Route("/me", me),
    Route("/inside", inside), Route("/payment", payment), Route("/again", again, methods=["POST"]),
    WebSocketRoute("/talk", talk),
]  # fmt: skip


def make(world: World, load_user: Callable[[str], Any] = load_user, **options: Any) -> Starlette:
    auth = Middleware(AuthenticationMiddleware, backend=SessionAuth(load_user))
    return world.starlette(ROUTES, inside=[auth], **{"identity": "user_id", **options})


@pytest.mark.parametrize("load_user", LOADERS)
async def test_a_user_signs_in_and_out(world: World, load_user: Callable[[str], Any]) -> None:
    """`request.user` is who `load_user` gives for the principal's text; nobody without a sign-in."""
    browser = Browser(make(world, load_user))
    assert (await browser.get("/me")).body == b'["",false,[]]'
    await browser.post("/login?as=7")
    assert (await browser.get("/me")).body == b'["ada",true,["authenticated"]]'
    assert (await browser.get("/inside")).body == b"7"
    await browser.post("/logout")
    assert (await browser.get("/me")).body == b'["",false,[]]'
    assert (await browser.get("/inside")).status == 403


async def test_it_costs_one_load(world: World) -> None:
    """One load for the request, whoever else loads the session in it; nothing without a cookie."""
    app = make(world)
    browser = Browser(app)
    await browser.get("/me")
    assert world.calls() == {}
    await browser.post("/login?as=7")
    await browser.get("/me")
    await world.drain(app)
    world.calls()
    await browser.get("/inside")
    await world.drain(app)
    assert world.calls() == {"load": 1}


async def test_a_user_who_is_no_more(world: World) -> None:
    """Where `load_user` gives None nobody is signed in."""
    browser = Browser(make(world))
    await browser.post("/login?as=9")
    assert (await browser.get("/me")).body == b'["",false,[]]'


async def test_a_revoked_user(world: World) -> None:
    """The next request after `revoke_user` is nobody's."""
    browser = Browser(make(world))
    await browser.post("/login?as=7")
    assert await world.manager(identity="user_id").revoke_user(7) == 1
    assert (await browser.get("/me")).body == b'["",false,[]]'


async def test_a_websocket_has_a_user(world: World) -> None:
    """`websocket.user` is who is signed in."""
    browser = Browser(make(world))
    await browser.post("/login?as=8")
    exchange = browser.connect("/talk")
    exchange.push({"type": "websocket.disconnect", "code": 1000})
    await exchange.done()
    assert [message.get("text") for message in exchange.sent][1] == "bob"


async def test_a_request_that_is_no_use(world: World) -> None:
    """What the middleware's `passive` picks extends nothing, although the user is looked for."""
    app = make(world, passive=lambda connection: connection.url.path == "/me")
    browser = Browser(app)
    await browser.post("/login?as=7")
    world.calls()
    assert (await browser.get("/me")).body == b'["ada",true,["authenticated"]]'
    await world.drain(app)
    assert world.calls() == {"load": 1}


async def test_the_wrong_way_round(world: World) -> None:
    """Without a session outside of it the error says how to order the two."""
    auth = Middleware(AuthenticationMiddleware, backend=SessionAuth(load_user))
    browser = Browser(world.starlette(ROUTES, outside=[auth], identity="user_id"), name="x")
    with pytest.raises(ConfigurationError, match="Put SessionMiddleware outside of"):
        await browser.get("/me")


async def test_without_identity(world: World) -> None:
    """Without the manager's `identity` nobody could ever be signed in: an error says so."""
    with pytest.raises(ConfigurationError, match="identity='user_id'"):
        await Browser(make(world, identity=None)).get("/me")


# ---------------------------------------------------------------- recent sign-ins


async def test_recent_sign_in(world: World) -> None:
    """401 with its reason when nobody is signed in, or not lately; proving it again opens the door."""
    browser = Browser(make(world))
    got = await browser.get("/payment")
    assert (got.status, got.body) == (401, b"sign_in_required")
    assert got.header("www-authenticate") == 'Session error="sign_in_required"'
    await browser.post("/login?as=7")
    assert (await browser.get("/payment")).body == b'"7"'
    world.clock.advance(timedelta(minutes=11))
    got = await browser.get("/payment")
    assert (got.status, got.body) == (401, b"recent_sign_in_required")
    assert got.header("www-authenticate") == 'Session error="recent_sign_in_required"'
    stolen = browser.twin()
    await browser.post("/again")
    assert (await browser.get("/payment")).body == b'"7"'
    assert (await stolen.get("/payment")).body == b"sign_in_required"


async def test_a_handler_turns_it_into_a_login_page(world: World) -> None:
    """An app's exception handler sees the reason."""

    async def to_login(request: Request, error: Exception) -> Response:
        assert isinstance(error, SignInRequired)
        return RedirectResponse(f"/login?why={error.reason}", 303)

    app = world.starlette(ROUTES, identity="user_id", handlers={SignInRequired: to_login})
    got = await Browser(app).get("/payment")
    assert (got.status, got.header("location")) == (303, "/login?why=sign_in_required")


@pytest.mark.parametrize("within", [0, -1, timedelta(0), float("nan"), "10", None])
def test_durations_that_make_no_sense(within: Any) -> None:
    """They are refused when the app is built."""
    with pytest.raises(ConfigurationError, match="RecentSignIn="):
        RecentSignIn(within)


# ---------------------------------------------------------------- FastAPI


def make_fastapi(world: World, load_user: Callable[[str], Any] = load_user) -> FastAPI:
    app = FastAPI()
    app.add_middleware(
        SessionMiddleware, manager=SessionManager(world.store, clock=world.clock, identity="user_id")
    )
    app.router.routes.extend(ROUTES[:2])
    user, maybe = session_user(load_user), session_user(load_user, optional=True)

    @app.get("/user")
    async def the_user(user: SimpleUser = Depends(user)) -> str:
        return user.username

    @app.get("/maybe")
    async def maybe_a_user(user: SimpleUser | None = Depends(maybe)) -> str | None:
        return None if user is None else user.username

    @app.get("/both")
    async def both(
        session: SessionDep, one: SimpleUser = Depends(user), other: SimpleUser = Depends(user)
    ) -> Any:
        return [session["user_id"], one is other]

    @app.get("/recent", dependencies=[Depends(RecentSignIn(timedelta(minutes=10)))])
    async def recent() -> str:
        return "recent"

    @app.get("/session")
    async def recent_session(session: Session = Depends(RecentSignIn(600.0))) -> str | None:
        return session.principal

    @app.get("/poll")
    async def poll(session: PassiveSessionDep) -> str | None:
        return session.principal

    @app.websocket("/talk")
    async def talk(websocket: WebSocket, user: SimpleUser = Depends(user)) -> None:
        await websocket.accept()
        await websocket.send_text(user.username)
        await websocket.close()

    return app


@pytest.mark.parametrize("load_user", LOADERS)
async def test_the_user_as_a_dependency(world: World, load_user: Callable[[str], Any]) -> None:
    """The user, or 401 with the reason; None where that is allowed."""
    browser = Browser(make_fastapi(world, load_user))
    got = await browser.get("/user")
    assert (got.status, got.body) == (401, b'{"detail":"sign_in_required"}')
    assert (await browser.get("/maybe")).body == b"null"
    await browser.post("/login?as=7")
    assert (await browser.get("/user")).body == b'"ada"'
    assert (await browser.get("/maybe")).body == b'"ada"'
    await browser.post("/login?as=9")
    assert (await browser.get("/user")).status == 401
    assert (await browser.get("/maybe")).body == b"null"


async def test_the_user_costs_one_load(world: World) -> None:
    """One load of the session and one call of `load_user`, however many parameters want the user."""
    asked: list[str] = []

    async def note(principal: str) -> SimpleUser | None:
        asked.append(principal)
        return await load_user(principal)

    app = make_fastapi(world, note)
    browser = Browser(app)
    await browser.post("/login?as=7")
    await browser.get("/poll")
    await browser.get("/maybe")
    await world.drain(app)
    world.calls()
    asked.clear()
    assert (await browser.get("/both")).body == b"[7,true]"
    assert (world.calls(), asked) == ({"load": 1}, ["7"])


async def test_recent_sign_in_as_a_dependency(world: World) -> None:
    """Of a route, or as a parameter that is the session."""
    browser = Browser(make_fastapi(world))
    for path in ("/recent", "/session"):
        assert (await browser.get(path)).body == b'{"detail":"sign_in_required"}'
    await browser.post("/login?as=7")
    assert [(await browser.get(path)).body for path in ("/recent", "/session")] == [b'"recent"', b'"7"']
    world.clock.advance(timedelta(minutes=11))
    for path in ("/recent", "/session"):
        got = await browser.get(path)
        assert (got.status, got.body) == (401, b'{"detail":"recent_sign_in_required"}')


async def test_dependencies_of_a_websocket(world: World) -> None:
    """A WebSocket of nobody's is denied with 401; a user's is accepted."""
    browser = Browser(make_fastapi(world))
    exchange = browser.connect("/talk")
    await exchange.done()
    assert exchange.answer.status == 401
    await browser.post("/login?as=8")
    exchange = browser.connect("/talk")
    await exchange.done()
    assert [message.get("text") for message in exchange.sent][1] == "bob"


async def test_no_trace_in_the_schema(world: World) -> None:
    """The dependencies ask for nothing that OpenAPI would show."""
    schema = make_fastapi(world).openapi()
    assert "parameters" not in str(schema["paths"])
    assert "requestBody" not in str(schema["paths"])

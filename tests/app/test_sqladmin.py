"""sqladmin, which uses request.session synchronously: its login and its flash messages."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from sqladmin import Admin, BaseView, Flash, expose
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tests.app.kit import Answer, Browser, World


class Backend(AuthenticationBackend):
    """Logs in whoever knows the password; uses the session of the app around it."""

    def __init__(self) -> None:
        self.middlewares = []  # sqladmin's own would put Starlette's signed cookie here

    async def login(self, request: Request) -> bool:
        form = await request.form()
        if form["password"] != "right":
            return False
        self.renew(request)
        request.session.update({"user_id": form["username"]})
        return True

    def renew(self, request: Request) -> None:
        """Give the session a new credential: the one line that sqladmin's own example does not have."""
        request.session.rotate()  # type: ignore[attr-defined]

    async def logout(self, request: Request) -> bool:
        request.session.clear()
        return True

    async def authenticate(self, request: Request) -> bool:
        return "user_id" in request.session


class BackendThatForgets(Backend):
    """The login as sqladmin's documentation shows it, for Starlette's signed cookie."""

    def renew(self, request: Request) -> None:
        """Keep the credential."""


class Notes(BaseView):
    """A page that leaves a message for the next one."""

    name = "Notes"

    @expose("/notes", methods=["GET", "POST"])
    async def notes(self, request: Request) -> Response:
        if request.method == "POST":
            Flash.success(request, "The note was kept.")
            return RedirectResponse("/admin/", 303)
        return Response("notes")


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def app(world: World, backend: Backend) -> Any:
    app = world.starlette([Route("/hello", hello)], autoload=True)
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Admin(app, engine, authentication_backend=backend).add_view(Notes)
    yield app
    engine.dispose()


async def hello(request: Request) -> Response:
    """Begin an anonymous session, as a shop does for a cart."""
    request.session["seen"] = True
    return Response("hello")


async def login(browser: Browser, password: str) -> Answer:
    return await browser.post(
        "/admin/login",
        headers=[("content-type", "application/x-www-form-urlencoded")],
        body=urlencode({"username": "ann", "password": password}).encode(),
    )


async def test_login_and_logout(world: World, app: Starlette) -> None:
    """Its AuthenticationBackend logs in and out; logging out ends the session on the server."""
    browser = Browser(app)
    assert (await browser.get("/admin/")).status == 302
    assert browser.cookie is None  # an anonymous visitor costs no record
    assert (await login(browser, "wrong")).status == 400
    assert browser.cookie is None
    got = await login(browser, "right")
    assert (got.status, got.cookie is not None) == (302, True)
    assert (await browser.get("/admin/")).status == 200
    stolen = browser.twin()
    await browser.get("/admin/logout")
    assert browser.cookie is None
    assert (await stolen.get("/admin/")).status == 302


async def test_flash_messages(world: World, app: Starlette) -> None:
    """A flash message shows on the next page and on no other."""
    browser = Browser(app)
    await login(browser, "right")
    assert (await browser.post("/admin/notes")).status == 303
    assert b"The note was kept." in (await browser.get("/admin/")).body
    assert b"The note was kept." not in (await browser.get("/admin/")).body
    assert await world.read(browser) == {"user_id": "ann"}


@pytest.mark.parametrize(
    ("backend", "attacker_gets_in"),
    [(BackendThatForgets(), True), (Backend(), False)],
    ids=["without rotate()", "with rotate()"],
)
async def test_a_planted_cookie(world: World, app: Starlette, attacker_gets_in: bool) -> None:
    """Who planted his cookie before the login is logged in by it, unless the login rotates."""
    attacker = Browser(app)
    await attacker.get("/hello")
    victim = attacker.twin()  # the attacker's cookie, planted in another browser
    assert (await login(victim, "right")).status == 302
    assert (await victim.get("/admin/")).status == 200
    assert (await attacker.get("/admin/")).status == (200 if attacker_gets_in else 302)

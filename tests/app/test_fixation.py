"""Login code written for Starlette's signed cookie, unchanged, with `identity=`, and planted cookies.

Three logins as the libraries' own documentation shows them: sqladmin's, starlette-admin's, and the callback
of authlib. None rotates. The attacker plants a cookie in the victim's browser, and keeps what he has.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from authlib.integrations.base_client.errors import MismatchingStateError  # type: ignore[import-untyped]
from authlib.integrations.starlette_client import OAuth  # type: ignore[import-untyped]
from sqladmin import Admin
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette_admin.auth import AdminUser, AuthProvider
from starlette_admin.contrib.sqla import Admin as StarletteAdmin
from starlette_admin.exceptions import LoginFailed

from asgi_session import SessionManager
from tests.app.kit import Browser, World
from tests.app.provider import CLIENT_ID, CLIENT_SECRET, ISSUER, make_provider
from tests.app.test_oauth import at_provider

FORM = [("content-type", "application/x-www-form-urlencoded")]


async def hello(request: Request) -> Response:
    """Begin an anonymous session, as a shop does for a cart."""
    request.session["seen"] = True
    return Response()


async def rotate(request: Request) -> Response:
    """Retire the credential."""
    request.session.rotate()  # type: ignore[attr-defined]
    return Response()


async def leave(request: Request) -> Response:
    """End the session, as logouts written for Starlette do."""
    request.session.clear()
    return Response()


async def note(request: Request) -> Response:
    """Keep something private."""
    request.session["private"] = request.query_params["of"]
    return Response()


async def me(request: Request) -> Response:
    """Show what the session holds."""
    return JSONResponse(dict(request.session))


ROUTES = [
    Route("/hello", hello), Route("/rotate", rotate), Route("/leave", leave), Route("/note", note),
    Route("/me", me),
]  # fmt: skip


class Login:
    """An app with somebody else's login code, and how a browser uses it.

    Attributes:
        identity: which key says who is signed in.
        app: the app.
    """

    identity: str
    app: Starlette

    def __init__(self, world: World, **options: Any) -> None:
        """Build the app."""

    async def log_in(self, browser: Browser, name: str) -> None:
        """Log in, as a user of the browser would."""
        raise NotImplementedError

    async def who(self, browser: Browser) -> str | None:
        """Return whom the app takes the browser for."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what it has opened."""


class OfSqladmin(Login):
    identity = "token"

    class Backend(AuthenticationBackend):
        """As https://smithyhq.github.io/sqladmin/authentication/ has it, with the user's name for a token."""

        async def login(self, request: Request) -> bool:
            form = await request.form()
            username, password = form["username"], form["password"]
            if password != "right":
                return False
            request.session.update({"token": username})
            return True

        async def logout(self, request: Request) -> bool:
            request.session.clear()
            return True

        async def authenticate(self, request: Request) -> bool:
            token = request.session.get("token")
            return bool(token)

    def __init__(self, world: World, **options: Any) -> None:
        backend = self.Backend(secret_key="x")
        backend.middlewares = []  # or sqladmin's own signed cookie would be the session in there
        self.app = world.starlette(ROUTES, autoload=True, **options)
        self.engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        Admin(self.app, self.engine, authentication_backend=backend)

    async def log_in(self, browser: Browser, name: str) -> None:
        body = urlencode({"username": name, "password": "right"}).encode()
        assert (await browser.post("/admin/login", headers=FORM, body=body)).status == 302

    async def who(self, browser: Browser) -> str | None:
        inside = (await browser.get("/admin/")).status == 200
        name = re.search(rb'"token":"(\w+)"', (await browser.get("/me")).body)
        assert inside == (name is not None)
        return None if name is None else name[1].decode()

    def close(self) -> None:
        self.engine.dispose()


class OfStarletteAdmin(Login):
    identity = "username"

    class Provider(AuthProvider):
        """As https://jowilf.github.io/starlette-admin/user-guide/authentication/ has it."""

        async def login(
            self, username: str, password: str, remember_me: bool, request: Request
        ) -> Response | None:
            if password != "right":
                raise LoginFailed("Invalid username or password")
            request.session.update({"username": username})
            return None

        async def logout(self, request: Request) -> Response | None:
            request.session.clear()
            return None

        async def authenticate(self, request: Request) -> AdminUser | None:
            username = request.session.get("username")
            return AdminUser(username) if username else None

    def __init__(self, world: World, **options: Any) -> None:
        self.app = world.starlette(ROUTES, autoload=True, **options)
        self.engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        StarletteAdmin(self.engine, auth_provider=self.Provider(), secret_key="k" * 32).mount_to(self.app)

    async def log_in(self, browser: Browser, name: str) -> None:
        if await self.who(browser) is not None:  # its login page shows no form then
            await self.submit(browser, "/admin/logout")
        await self.submit(browser, "/admin/login", username=name, password="right")

    async def submit(self, browser: Browser, path: str, **fields: str) -> None:
        page = await browser.get("/admin/login")
        (csrf,) = (
            found[1]
            for line in page.all("set-cookie")
            if (found := re.match(r"starlette_admin_csrftoken=([^;]*)", line))
        )
        got = await browser.post(
            path,
            headers=[*FORM, ("cookie", f"starlette_admin_csrftoken={csrf}")],
            body=urlencode({**fields, "csrftoken": csrf}).encode(),
        )
        assert got.status == 303

    async def who(self, browser: Browser) -> str | None:
        inside = (await browser.get("/admin/")).status == 200
        name = re.search(rb'"username":"(\w+)"', (await browser.get("/me")).body)
        assert inside == (name is not None)
        return None if name is None else name[1].decode()

    def close(self) -> None:
        self.engine.dispose()


class OfAuthlib(Login):
    identity = "user.sub"

    def __init__(self, world: World, **options: Any) -> None:
        self.provider = make_provider()
        oauth = OAuth()
        oauth.register(
            "local",
            server_metadata_url=f"{ISSUER}/.well-known/openid-configuration",
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            client_kwargs={
                "scope": "openid",
                "code_challenge_method": "S256",
                "transport": httpx2.ASGITransport(app=self.provider),
            },
        )

        # As https://github.com/authlib/demo-oauth-client/blob/master/fastapi-google-login/app.py has them.
        async def login(request: Request) -> Any:
            hint = request.query_params["as"]
            return await oauth.local.authorize_redirect(request, "https://testserver/auth", login_hint=hint)

        async def auth(request: Request) -> Response:
            token = await oauth.local.authorize_access_token(request)
            user = token.get("userinfo")
            if user:
                request.session["user"] = user
            return RedirectResponse(url="/")

        routes = [*ROUTES, Route("/login", login), Route("/auth", auth)]
        self.app = world.starlette(routes, autoload=True, **options)

    async def begin(self, browser: Browser, name: str) -> str:
        """Begin to log in; return where the provider sends the browser back to."""
        return await at_provider(self.provider, await browser.get(f"/login?as={name}"))

    async def log_in(self, browser: Browser, name: str) -> None:
        assert (await browser.get(await self.begin(browser, name))).status == 307

    async def who(self, browser: Browser) -> str | None:
        name = re.search(rb'"sub":"(\w+)"', (await browser.get("/me")).body)
        return None if name is None else name[1].decode()


LOGINS: list[type[Login]] = [OfSqladmin, OfStarletteAdmin, OfAuthlib]


@pytest.fixture(params=LOGINS, ids=lambda kind: kind.__name__)
def login(request: pytest.FixtureRequest, world: World) -> Iterator[Login]:
    login: Login = request.param(world, identity=request.param.identity)
    yield login
    login.close()


# ---------------------------------------------------------------- where a planted cookie comes from


async def of_his_own(login: Login, attacker: Browser) -> Browser:
    """One of an anonymous session of his, which is alive."""
    await attacker.get("/hello")
    return attacker


async def at_random(login: Login, attacker: Browser) -> Browser:
    """One that no server has ever given to anybody."""
    attacker.cookie = "A" * 44
    return attacker


async def of_another_user(login: Login, attacker: Browser) -> Browser:
    """One of a session in which he is signed in, as somebody else than the victim."""
    await login.log_in(attacker, "mallory")
    await attacker.get("/note?of=mallory")
    return attacker


async def retired(login: Login, attacker: Browser) -> Browser:
    """One that a rotation has retired; the attacker has its successor, too."""
    await attacker.get("/hello")
    planted = attacker.twin()
    await attacker.get("/rotate")
    assert attacker.cookie != planted.cookie
    return planted


async def ended(login: Login, attacker: Browser) -> Browser:
    """One of a session that has ended."""
    await attacker.get("/hello")
    planted = attacker.twin()
    await attacker.get("/leave")
    return planted


async def ended_by_a_login(login: Login, attacker: Browser) -> Browser:
    """One from before a login of his own; he is signed in with its successor."""
    await attacker.get("/hello")
    planted = attacker.twin()
    await login.log_in(attacker, "mallory")
    return planted


ORIGINS: list[Callable[[Login, Browser], Awaitable[Browser]]] = [
    of_his_own, at_random, of_another_user, retired, ended, ended_by_a_login
]  # fmt: skip


def manager_of(world: World, login: Login) -> SessionManager:
    return world.manager(identity=login.identity)


async def listed(world: World, login: Login, user: str) -> list[str]:
    return [info.id async for info in manager_of(world, login).sessions_of(user)]


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda origin: origin.__name__)
async def test_a_planted_cookie(world: World, login: Login, origin: Any) -> None:
    """Promise 8: whatever cookie was planted before a login, it opens nothing of the victim's after it.

    Nor does what else the attacker has; and it signs nobody out.
    """
    attacker = Browser(login.app)
    planted = await origin(login, attacker)
    his_own = (await attacker.get("/me")).body  # nothing that the victim has done
    victim = planted.twin()

    if isinstance(login, OfAuthlib) and origin in (retired, ended, ended_by_a_login):
        # What a dead cookie writes is dropped for a minute, and so is the state with which authlib begins.
        with pytest.raises(MismatchingStateError):
            await login.log_in(victim, "victim")
        assert await login.who(victim) is None
        world.clock.advance(61)
    await login.log_in(victim, "victim")
    await victim.get("/note?of=victim")

    assert await login.who(victim) == "victim"
    assert victim.cookie not in (planted.cookie, attacker.cookie, None)
    for browser in (planted, attacker):
        assert await login.who(browser.twin()) in (None, "mallory")
        assert b"victim" not in (await browser.twin().get("/me")).body
    assert await login.who(planted.twin()) is None
    assert (await planted.twin().get("/me")).body == b"{}"
    if attacker is not planted:
        assert (await attacker.twin().get("/me")).body == his_own  # a dead cookie ends nobody's session

    # What he does with it afterwards changes nothing for the victim, and is not done to the victim's session.
    await planted.get("/note?of=attacker")
    await attacker.get("/leave")
    assert await login.who(victim) == "victim"
    assert b'"private":"victim"' in (await victim.get("/me")).body
    assert len(await listed(world, login, "victim")) == 1
    assert await listed(world, login, "mallory") == []


@pytest.mark.parametrize("origin", [of_his_own, of_another_user], ids=lambda origin: origin.__name__)
async def test_a_request_of_the_attackers_that_is_in_flight(world: World, login: Login, origin: Any) -> None:
    """Promise 8: what he had loaded before the login, and saves after it, is not in the victim's session."""
    attacker = Browser(login.app)
    await origin(login, attacker)
    victim = attacker.twin()
    loaded = world.store.pause("load", when="after")
    exchange = attacker.begin("GET", "/note?of=attacker")
    await loaded.reached()
    await login.log_in(victim, "victim")
    loaded.release()
    await exchange.done()
    assert exchange.answer.cookie is None
    assert b"attacker" not in (await victim.get("/me")).body
    assert await login.who(victim) == "victim"
    assert await login.who(attacker) is None


@pytest.mark.parametrize("kind", LOGINS)
async def test_without_identity(world: World, kind: type[Login]) -> None:
    """The control: the same code without `identity` shares the login with whoever has planted the cookie."""
    login = kind(world)
    attacker = Browser(login.app)
    await of_his_own(login, attacker)
    victim = attacker.twin()
    await login.log_in(victim, "victim")
    assert await login.who(attacker) == "victim"
    login.close()


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda origin: origin.__name__)
async def test_a_cookie_that_is_planted_in_the_middle(world: World, origin: Any) -> None:
    """A cookie that is planted while the victim is at the provider makes the login fail, for both."""
    login = OfAuthlib(world, identity=OfAuthlib.identity)
    attacker, victim = Browser(login.app), Browser(login.app)
    back = await login.begin(victim, "victim")
    planted = await origin(login, attacker)
    victim.cookie = planted.cookie
    with pytest.raises(MismatchingStateError):
        await victim.get(back)
    for browser in (attacker, planted, victim):
        assert await login.who(browser.twin()) in (None, "mallory")


async def test_a_callback_of_the_attackers(world: World) -> None:
    """With the attacker's state in a planted session his callback signs the victim in as him: no use of hers.

    (Login CSRF: the provider's `state` cannot tell, since the victim has the attacker's session.) What the
    victim had signed in to is not part of it.
    """
    login = OfAuthlib(world, identity=OfAuthlib.identity)
    attacker, victim = Browser(login.app), Browser(login.app)
    await login.log_in(victim, "victim")
    await victim.get("/note?of=victim")
    hers = victim.twin()
    back = await login.begin(attacker, "mallory")
    victim.cookie = attacker.cookie
    await victim.get(back)
    assert await login.who(victim) == "mallory"
    assert b"victim" not in (await victim.get("/me")).body
    assert await login.who(attacker) is None  # not even he has got a copy of it
    assert await login.who(hers) == "victim"

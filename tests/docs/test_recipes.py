"""The apps on the page of recipes, used as browsers would: log in, go on, log out, steal, plant, hurry."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, ClassVar, Self

import aiohttp
import httpx2
import pytest
import socketio
from a2wsgi import WSGIMiddleware
from flask import Flask
from flask import session as flask_session
from sqladmin import Admin
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import create_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from asgi_session import ConfigurationError, SessionMiddleware, load_session
from asgi_session.testing import SessionClient
from tests.docs.pages import ROOT
from tests.docs.sites import FILES, Site, provider
from tests.servers import ServerProcess

COOKIE = "__Host-session"


class Visitor:
    """Somebody with a browser of their own; redirects are followed only where a test says so."""

    file: ClassVar[str]

    def __init__(self, site: Site) -> None:
        self.site = site
        self.http = site.client()

    def twin(self) -> Self:
        """Return somebody with the same cookies, now."""
        other = type(self)(self.site)
        other.http.cookies = httpx2.Cookies(self.http.cookies)
        return other

    @property
    def cookie(self) -> str | None:
        return self.http.cookies.get(COOKIE)

    def add(self, sku: str) -> None:
        """Put something into the cart, signed in or not."""
        assert self.http.post(f"/cart/{sku}").is_success

    def home(self) -> dict[str, Any]:
        """Return what the app says is in the session."""
        found: dict[str, Any] = self.http.get("/").raise_for_status().json()
        return found

    def cart(self) -> set[str]:
        return {key.removeprefix("cart:") for key in self.home() if key.startswith("cart:")}

    def user(self) -> str | None:
        """Return whom the library's own part of the app takes the visitor for."""
        raise NotImplementedError

    def log_in(self, name: str, password: str) -> bool:
        """Use the login; return whether it let the visitor in."""
        answer = self.http.post("/login", data={"name": name, "password": password})
        assert answer.is_success or answer.status_code in (303, 401)
        return answer.status_code != 401

    def log_out(self) -> None:
        answer = self.http.post("/logout")
        assert answer.is_success or answer.status_code == 303


class OfFastHTML(Visitor):
    file = "fasthtml_app.py"

    def user(self) -> str | None:
        found = re.search(r"<h1>Hello, (\w+)</h1>", self.http.get("/").text)
        assert found
        return None if found[1] == "stranger" else found[1]

    def cart(self) -> set[str]:
        return set(re.findall(r"<li>(\w+)</li>", self.http.get("/").text))


class OfNiceGUI(Visitor):
    file = "nicegui_app.py"

    def page(self) -> str:
        return self.http.get("/gui/").raise_for_status().text

    def user(self) -> str | None:
        found = re.search(r"Hello, (\w+)", self.page())
        assert found
        return None if found[1] == "stranger" else found[1]

    def cart(self) -> set[str]:
        found = re.search(r"Cart: (.*?)\.", self.page())
        assert found
        return set(found[1].split(", ")) - {""}

    def visits(self) -> int:
        """Return what `app.storage.user` counts, this visit included."""
        found = re.search(r"Visits: (\d+)", self.page())
        assert found
        return int(found[1])


class OfGradio(Visitor):
    file = "gradio_app.py"

    def call(self, function: str, text: str) -> str | None:
        """Press a button, as Gradio's page does; return the answer, or None if there is none."""
        asked = self.http.post(f"/gradio/gradio_api/call/{function}", json={"data": [text]})
        if asked.status_code == 401:
            return None
        event = asked.raise_for_status().json()["event_id"]
        stream = self.http.get(f"/gradio/gradio_api/call/{function}/{event}").raise_for_status().text
        found = re.search(r"event: complete\ndata: (.*)\n", stream)
        assert found, stream
        (answer,) = json.loads(found[1])
        return str(answer)

    def user(self) -> str | None:
        answer = self.call("greet", "Hello")
        assert (self.http.get("/gradio/config").status_code == 401) == (answer is None)
        return answer.removeprefix("Hello, ") if answer else None


class OfSqladmin(Visitor):
    file = "sqladmin_app.py"

    def user(self) -> str | None:
        if self.http.get("/admin/").status_code != 200:
            return None
        return str(self.home()["user_id"])

    def log_in(self, name: str, password: str) -> bool:
        answer = self.http.post("/admin/login", data={"username": name, "password": password})
        assert answer.status_code in (302, 400)
        return answer.status_code == 302

    def log_out(self) -> None:
        assert self.http.get("/admin/logout").status_code == 302


class OfStarletteAdmin(Visitor):
    file = "starlette_admin_app.py"

    def form(self, **fields: str) -> dict[str, str]:
        """Return the fields with the CSRF token that the admin's cookie has."""
        self.http.get("/admin/login")
        return {**fields, "csrftoken": self.http.cookies["starlette_admin_csrftoken"]}

    def user(self) -> str | None:
        if self.http.get("/admin/").status_code != 200:
            return None
        return str(self.home()["admin"])

    def log_in(self, name: str, password: str) -> bool:
        answer = self.http.post("/admin/login", data=self.form(username=name, password=password))
        assert answer.status_code in (303, 400)
        return answer.status_code == 303

    def log_out(self) -> None:
        assert self.http.post("/admin/logout", data=self.form()).status_code == 303


class OfAuthlib(Visitor):
    file = "authlib_app.py"

    def user(self) -> str | None:
        user = self.home().get("user")
        return str(user["sub"]) if user else None

    def begin(self) -> str:
        """Begin a login; return where it leads at the provider."""
        answer = self.http.get("/login")
        assert answer.status_code == 302
        return answer.headers["location"]

    def finish(self, at_provider: str, name: str) -> httpx2.Response:
        """Say who one is at the provider, and come back."""
        asked = httpx2.URL(at_provider).copy_merge_params({"login_hint": name})
        return self.http.get(httpx2.get(asked).headers["location"])

    def log_in(self, name: str, password: str) -> bool:
        at_provider = self.begin()
        if password != "right":
            state = httpx2.URL(at_provider).params["state"]
            answer = self.http.get("/callback", params={"error": "access_denied", "state": state})
        else:
            answer = self.finish(at_provider, name)
        assert answer.status_code in (303, 400)
        return answer.status_code == 303


class WithAnOldApp(Visitor):
    def who(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/old/who").raise_for_status().json()
        return found

    def user(self) -> str | None:
        user = self.who()["user"]
        assert self.home().get("user") == user
        return user  # type: ignore[no-any-return]


class OfFlask(WithAnOldApp):
    file = "flask_app.py"


class OfDjango(WithAnOldApp):
    file = "django_app.py"


VISITORS: list[type[Visitor]] = [
    OfFastHTML, OfNiceGUI, OfGradio, OfSqladmin, OfStarletteAdmin, OfAuthlib, OfFlask, OfDjango
]  # fmt: skip


class Sites:
    """Serves an app from the first test that asks for it on."""

    def __init__(self, stack: ExitStack, factory: pytest.TempPathFactory, replaced: dict[str, str]) -> None:
        self._stack = stack
        self._factory = factory
        self._replaced = replaced
        self._running: dict[str, Site] = {}

    def __call__(self, file: str, changes: dict[str, str] | None = None) -> Site:
        """Return the site of a recipe, or of one that differs from it as `changes` say."""
        name = f"{file} {changes}"
        if name not in self._running:
            directory = self._factory.mktemp(file.removesuffix(".py"))
            self._running[name] = Site(file, directory, {**self._replaced, **(changes or {})})
            self._stack.callback(self._running[name].close)
        return self._running[name]

    def check(self) -> None:
        """See that nothing went wrong in any of them."""
        for site in self._running.values():
            site.check()


@pytest.fixture(scope="module")
def all_sites(shared_valkey: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """The sites; they go on from test to test."""
    with ExitStack() as stack:
        accounts = stack.enter_context(provider())
        places = {
            "redis://localhost:6379": shared_valkey.url,
            "https://accounts.example.com": accounts,
        }
        yield Sites(stack, tmp_path_factory, places)


@pytest.fixture
def sites(all_sites: Sites) -> Iterator[Sites]:
    """The sites; what they have logged is looked at when the test is over."""
    yield all_sites
    Site.close_clients()
    all_sites.check()


@pytest.fixture(params=VISITORS, ids=lambda kind: kind.file.removesuffix("_app.py"))
def visit(request: pytest.FixtureRequest, sites: Sites) -> Callable[[], Visitor]:
    """Return a function that sends a new visitor to the app of each recipe in turn."""
    return lambda: request.param(sites(request.param.file))


def password(visitor: Visitor, name: str) -> str:
    return "right" if isinstance(visitor, OfAuthlib) else {"ann": "tea", "bob": "milk"}[name]


def test_every_recipe_is_used() -> None:
    """No app stands on the page that nobody here visits."""
    assert [kind.file for kind in VISITORS] == FILES


def test_login_lasts_until_logout(visit: Callable[[], Visitor]) -> None:
    """A wrong password lets nobody in, a right one for as many requests as come, until the logout; what was
    stolen before is worth nothing after it."""
    ann = visit()
    assert ann.user() is None
    assert not ann.log_in("ann", "wrong")
    assert ann.user() is None
    before = ann.cookie
    assert ann.log_in("ann", password(ann, "ann"))
    assert ann.cookie not in (None, before)
    assert [ann.user() for _ in range(3)] == ["ann"] * 3
    thief = ann.twin()
    assert thief.user() == "ann"
    ann.log_out()
    assert ann.user() is None
    assert thief.user() is None


def test_visitors_are_kept_apart(visit: Callable[[], Visitor]) -> None:
    """Two users at once each see their own session."""
    ann, bob = visit(), visit()
    for visitor, name in ((ann, "ann"), (bob, "bob")):
        assert visitor.log_in(name, password(visitor, name))
        visitor.add(f"from{name}")
    assert (ann.user(), ann.cart()) == ("ann", {"fromann"})
    assert (bob.user(), bob.cart()) == ("bob", {"frombob"})


def test_planted_cookie_is_worth_nothing_after_the_login(visit: Callable[[], Visitor]) -> None:
    """Whoever plants the cookie of a session in a browser does not share the login that follows there."""
    mallory = visit()
    mallory.add("planted")
    ann = visit()
    ann.http.cookies = httpx2.Cookies(mallory.http.cookies)
    assert ann.log_in("ann", password(ann, "ann"))
    assert ann.cookie != mallory.cookie
    assert mallory.user() is None
    assert mallory.cart() == set()
    assert (ann.user(), ann.cart()) == ("ann", {"planted"})


def test_parallel_requests_keep_all_changes(visit: Callable[[], Visitor]) -> None:
    """Promise 4: twenty things that are put into the cart at once are all in it, and the login stays."""
    ann = visit()
    assert ann.log_in("ann", password(ann, "ann"))
    skus = [f"sku{n}" for n in range(20)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ann.add, skus))
    assert ann.cart() == set(skus)
    assert ann.user() == "ann"


def test_nicegui_storage_does_not_outlive_the_login(sites: Sites) -> None:
    """`app.storage.user`, too, begins anew at a login, for a page that is open from before has its key."""
    mallory = OfNiceGUI(sites(OfNiceGUI.file))
    assert [mallory.visits() for _ in range(3)] == [1, 2, 3]
    ann = mallory.twin()
    assert ann.log_in("ann", "tea")
    assert [ann.visits() for _ in range(2)] == [1, 2]


def test_nicegui_with_its_own_session(sites: Sites) -> None:
    """With a `storage_secret` NiceGUI's pages have a session of their own, and do not see our login."""
    own = {
        "gui.add_middleware(RequestTrackingMiddleware)": "",
        'mount_path="/gui")': 'mount_path="/gui", storage_secret="x")',
    }
    ann = OfNiceGUI(sites(OfNiceGUI.file, own))
    assert ann.log_in("ann", "tea")
    ann.add("pear")
    assert [ann.visits() for _ in range(2)] == [1, 2]
    assert (ann.user(), ann.cart()) == (None, set())
    assert set(ann.http.cookies) == {COOKIE, "session"}


class OpenPage:
    """A page of NiceGUI with its socket, as the browser has it."""

    def __init__(self, visitor: OfNiceGUI) -> None:
        page = visitor.page()
        found = re.search(r"client_id&?.*?([0-9a-f]{8}-[0-9a-f-]{27})", page)
        assert found
        self.client_id = found[1]
        elements = re.search(r"parseElements\(String\.raw`(.*?)`", page, re.DOTALL)
        assert elements
        text = elements[1].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
        text = text.replace("&#36;", "$").replace("&#96;", "`").replace("&amp;", "&")
        (self.button,) = (
            {"id": int(id), "listener_id": listener["listener_id"]}
            for id, element in json.loads(text).items()
            for listener in element.get("events", [])
            if listener["type"] == "click"
        )
        self.visitor = visitor
        self.said: asyncio.Queue[Any] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self.visitor.site.trust)
        self._http = aiohttp.ClientSession(connector=connector)
        self._socket = socketio.AsyncClient(http_session=self._http, reconnection=False)
        self._socket.on("*", self._note)
        query = f"client_id={self.client_id}&tab_id={secrets.token_hex()}&document_id={secrets.token_hex()}"
        query += "&next_message_id=0&implicit_handshake=true"
        cookie = {"cookie": f"{COOKIE}={self.visitor.cookie}"}
        await self._socket.connect(
            f"{self.visitor.site.url}?{query}",
            headers=cookie,
            transports=["websocket"],
            socketio_path="/gui/_nicegui_ws/socket.io",
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.disconnect()
        await self._http.close()

    async def _note(self, event: str, data: Any) -> None:
        if event in ("notify", "run_javascript"):
            self.said.put_nowait((event, data))

    async def greet(self) -> tuple[str, dict[str, Any]]:
        """Press the button; return what the page is told."""
        await self._socket.emit("event", {**self.button, "client_id": self.client_id, "args": []})
        async with asyncio.timeout(10):
            said: tuple[str, dict[str, Any]] = await self.said.get()
            return said


async def test_nicegui_page_left_open_notices_the_logout(sites: Sites) -> None:
    """A button of a page that is open from before the logout does not work for its former user."""
    ann = OfNiceGUI(sites(OfNiceGUI.file))
    ann.log_in("ann", "tea")
    async with OpenPage(ann) as page:
        event, said = await page.greet()
        assert (event, said["message"]) == ("notify", "Still here, ann")
        ann.log_out()
        event, said = await page.greet()
        assert (event, said["code"]) == ("run_javascript", "history.go(0)")  # loads the page anew


def test_gradio_queue_saves_what_it_commits(sites: Sites) -> None:
    """What an event handler commits after its request was answered is there, beside what others saved."""
    ann = OfGradio(sites(OfGradio.file))
    ann.log_in("ann", "tea")
    with ThreadPoolExecutor(2) as threads:
        threads.submit(ann.add, "pear")
        assert ann.call("remember", "milk") == "remembered"
    assert ann.home() == {"user": "ann", "note": "milk", "cart:pear": 1}


def test_sqladmin_shows_the_flash_messages_of_parallel_requests(sites: Sites) -> None:
    """Eight forms that are sent at once each leave their message, and each shows once."""
    ann = OfSqladmin(sites(OfSqladmin.file))
    ann.log_in("ann", "tea")

    def keep(number: int) -> None:
        assert ann.http.post(f"/admin/notes?note=n{number}").status_code == 303

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(keep, range(8)))
    assert set(re.findall(r"Kept: (n\d)", ann.http.get("/admin/").text)) == {f"n{n}" for n in range(8)}
    assert "Kept: " not in ann.http.get("/admin/").text


def test_authlib_forgets_an_older_login(sites: Sites) -> None:
    """A login that is begun makes authlib forget one begun before; that one's tab is told to try again."""
    ann = OfAuthlib(sites(OfAuthlib.file))
    first, second = ann.begin(), ann.begin()
    refused = ann.finish(first, "ann")
    assert refused.status_code == 400
    assert "try again" in refused.text
    assert ann.finish(second, "ann").status_code == 303
    assert ann.user() == "ann"


def test_authlib_refuses_a_login_that_somebody_else_began(sites: Sites) -> None:
    """A callback whose state is another browser's signs nobody in."""
    mallory, ann = (OfAuthlib(sites(OfAuthlib.file)) for _ in range(2))
    assert ann.finish(mallory.begin(), "mallory").status_code == 400
    assert ann.user() is None


@pytest.mark.parametrize("kind", [OfFlask, OfDjango])
def test_old_app_keeps_its_own_session(sites: Sites, kind: type[WithAnOldApp]) -> None:
    """The mounted app has its session and ours, each under its own cookie; a logout ends ours only."""
    ann = kind(sites(kind.file))
    assert ann.log_in("ann", "tea")
    assert [ann.who() for _ in range(2)] == [{"user": "ann", "visits": n} for n in (1, 2)]
    assert ann.http.post("/old/cart/pear").json() == {"user": "ann", "cart:pear": 1}
    ann.add("pear")
    assert ann.home() == {"user": "ann", "cart:pear": 2}
    theirs = {"flask_app.py": "session", "django_app.py": "sessionid"}[kind.file]
    assert set(ann.http.cookies) == {COOKIE, theirs}
    ann.log_out()
    assert ann.who() == {"user": None, "visits": 3}


def test_flask_clashes_where_both_cookies_are_called_session() -> None:
    """Over plain http both are called "session", and each undoes the other; a name of its own helps."""
    old = Flask(__name__)
    old.secret_key = "x"

    @old.get("/count")
    def count_old() -> str:
        flask_session["n"] = flask_session.get("n", 0) + 1
        return str(flask_session["n"])

    async def count(request: Request) -> JSONResponse:
        session = await load_session(request)
        session["n"] = session.get("n", 0) + 1
        return JSONResponse(session["n"])

    def counted(**options: Any) -> list[tuple[str, str]]:
        app = Starlette(
            routes=[Route("/count", count), Mount("/old", WSGIMiddleware(old))],
            middleware=[Middleware(SessionMiddleware, store="memory://", https_only=False, **options)],
        )
        client = TestClient(app)
        return [(client.get("/count").text, client.get("/old/count").text) for _ in range(3)]

    assert counted() == [("1", "1")] * 3
    assert counted(session_cookie="sid") == [("1", "1"), ("2", "2"), ("3", "3")]


def test_sqladmin_with_its_own_session() -> None:
    """With the middleware that sqladmin adds by itself the admin has a session of its own, beside ours."""

    class Backend(AuthenticationBackend):
        async def login(self, request: Request) -> bool:
            with pytest.raises(ConfigurationError, match="no other session middleware inside"):
                await load_session(request)
            assert not hasattr(request.session, "rotate")
            request.session["user_id"] = "ann"
            return True

        async def authenticate(self, request: Request) -> bool:
            return "user_id" in request.session

    async def count(request: Request) -> JSONResponse:
        session = await load_session(request)
        session["n"] = session.get("n", 0) + 1
        return JSONResponse(dict(session))

    app = Starlette(
        routes=[Route("/count", count)],
        middleware=[Middleware(SessionMiddleware, store="memory://")],
    )
    engine = create_engine("sqlite://")
    Admin(app, engine, authentication_backend=Backend("secret"))
    client = SessionClient(app)
    assert client.get("/count").json() == {"n": 1}
    assert client.get("/admin/", follow_redirects=False).status_code == 302
    client.post("/admin/login", data={"username": "ann", "password": "tea"}, follow_redirects=False)
    assert client.get("/admin/", follow_redirects=False).status_code == 200
    assert client.get("/count").json() == {"n": 2}
    assert set(client.cookies) == {COOKIE, "session"}
    engine.dispose()


def test_fasthtml_with_its_own_session() -> None:
    """Without `sess_cls=None` FastHTML's handlers get the signed cookie, and nothing comes into the store."""
    script = """
from fasthtml.common import FastHTML
from starlette.middleware import Middleware
from asgi_session import SessionMiddleware
from asgi_session.testing import SessionClient

app = FastHTML(secret_key="x", middleware=[Middleware(SessionMiddleware, store="memory://")])

@app.get("/")
def home(session):
    session["n"] = session.get("n", 0) + 1
    return f"n={session['n']} {type(session).__module__}"

client = SessionClient(app)
assert "n=1 starlette" in client.get("/").text
assert "n=2 starlette" in client.get("/").text
assert set(client.cookies) == {"session_"}
"""  # in a process of its own, since FastHTML changes Starlette's routing when it is imported
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)

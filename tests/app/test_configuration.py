"""Wrong and contradictory options are refused when the app is built, with what to change."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from asgi_session import ConfigurationError, SessionManager, SessionMiddleware, load_session
from asgi_session.stores import store_from_url
from asgi_session.stores.memory import MemoryStore
from tests.app.kit import Browser, World


async def app(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("")(scope, receive, send)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"same_site": "none", "https_only": False}, "https_only=True"),
        ({"same_site": "sometimes"}, "'lax', 'strict', 'none'"),
        ({"partitioned": True, "https_only": False}, "https_only=True"),
        ({"session_cookie": "__Host-sid", "domain": "example.org"}, "no domain"),
        ({"session_cookie": "__Host-sid", "path": "/app"}, "path='/'"),
        ({"session_cookie": "__Host-sid", "https_only": False}, "https_only=True"),
        ({"session_cookie": "__host-sid", "domain": "example.org"}, "no domain"),
        ({"session_cookie": "__Secure-sid", "https_only": False}, "https_only=True"),
        ({"session_cookie": "a b"}, "letters, digits"),
        ({"session_cookie": ""}, "letters, digits"),
        ({"session_cookie": "a;b"}, "letters, digits"),
        ({"path": "app"}, "begins with /"),
        ({"path": "/; Domain=evil"}, "no ;"),
        ({"domain": ""}, "host name"),
        ({"domain": "example.org; HttpOnly"}, "host name"),
        (
            {"idle_timeout": timedelta(days=2), "absolute_timeout": timedelta(days=1)},
            "raise absolute_timeout",
        ),
        ({"idle_timeout": 0}, "at least 1 ms"),
        ({"idle_timeout": -5}, "at least 1 ms"),
        ({"absolute_timeout": "90 days"}, "timedelta or a number of seconds"),
        ({"unconfirmed_timeout": True}, "timedelta or a number of seconds"),
        ({"deadline": float("inf")}, "duration"),
        ({"max_size": "64k"}, "give bytes"),
        ({"max_size": 10}, "at least 256"),
        ({"namespace": ""}, "not empty"),
        ({"hide_cookie": "false"}, "True or False"),
        ({"on_unavailable": "ignore"}, "'fail', 'anonymous'"),
        ({"on_corrupt": "delete"}, "'raise', 'new'"),
        ({"on_event": "print"}, "give a function"),
        ({"on_event": asyncio.sleep}, "plain `def`"),
        ({"secret_key": "short"}, "16"),
        ({"secret_key": []}, "secret_key"),
        ({"secret_key": [b"k" * 16, None]}, "secret_key"),
        ({"encryption_key": "k" * 31}, "at least 32 random"),
        ({"encryption_key": []}, "encryption_key: give text or bytes"),
        ({"encryption_key": [b"k" * 32, None]}, "the first seals"),
        ({"encryption_key": "\ud800" * 32}, "encryption_key cannot be encoded"),
        ({"encryption_key": "k" * 32, "unsealed": "ignore"}, "'refuse', 'accept', 'write'"),
        ({"unsealed": "accept"}, "needs encryption_key"),
        ({"autoload": "yes"}, "True, False or a function"),
    ],
)
def test_a_contradiction_is_refused(options: dict[str, Any], says: str) -> None:
    """Each option or combination that cannot work is refused, and the message says what to change."""
    with pytest.raises(ConfigurationError) as caught:
        SessionMiddleware(app, store=MemoryStore(), **options)
    assert says in str(caught.value)


def test_an_async_autoload_predicate_is_refused() -> None:
    """An `async def` predicate would always be true, so it is refused."""

    async def predicate(connection: Any) -> bool:
        raise AssertionError("not called")

    with pytest.raises(ConfigurationError, match="plain `def`"):
        SessionMiddleware(app, store=MemoryStore(), autoload=predicate)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("max_age", "idle_timeout"),
        ("lifetime", "absolute_timeout"),
        ("rolling", "idle_timeout"),
        ("cookie_name", "session_cookie"),
        ("cookie_https_only", "https_only"),
        ("backend", "store"),
        ("secret_keys", "secret_key"),
        ("idle_timout", "did you mean 'idle_timeout'"),
        ("samesite", "same_site"),
        ("auto_load", "did you mean 'autoload'"),
        ("zzz", "It has: absolute_timeout"),
    ],
)
def test_an_unknown_option_names_ours(name: str, ours: str) -> None:
    """Starlette's, other libraries' and mistyped options get an error that names the right one."""
    options: dict[str, Any] = {name: 1}
    with pytest.raises(ConfigurationError) as caught:
        SessionMiddleware(app, store=MemoryStore(), **options)
    assert name in str(caught.value)
    assert ours in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"store": MemoryStore()}, {"idle_timeout": 60}, {"secret_key": "k" * 16}]
)
def test_manager_and_its_options_are_refused(options: dict[str, Any]) -> None:
    """What belongs to the manager cannot be given beside a manager."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SessionMiddleware(app, SessionManager(MemoryStore()), **options)


def test_a_manager_with_cookie_options_is_fine() -> None:
    """The cookie's options belong to the middleware, with a manager too."""
    manager = SessionManager(MemoryStore())
    middleware = SessionMiddleware(app, manager, session_cookie="sid", same_site="strict", autoload=True)
    assert middleware.manager is manager
    assert middleware.cookie.name == "sid"


def test_no_store_is_refused() -> None:
    """Without a store or manager the error shows the URLs that would do."""
    with pytest.raises(ConfigurationError, match="redis://localhost:6379"):
        SessionMiddleware(app)


@pytest.mark.parametrize("store", [object(), {}, 5])
def test_not_a_store_is_refused(store: Any) -> None:
    """Something that lacks a store's verbs is refused, and the message shows what to give."""
    with pytest.raises(ConfigurationError, match=r"MemoryStore\(\)"):
        SessionMiddleware(app, store=store)


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "mongodb://localhost", "memory://host", "redis://:x:y/"]
)
def test_a_bad_url_is_refused(url: str) -> None:
    """A URL that no store understands is refused when the app is built."""
    with pytest.raises(ConfigurationError):
        SessionMiddleware(app, store=url)


@pytest.mark.parametrize("manager", ["redis://localhost", MemoryStore()])
def test_a_store_in_the_managers_place_is_refused(manager: Any) -> None:
    """A URL or store given positionally is told to go into store=..."""
    with pytest.raises(ConfigurationError, match="store="):
        SessionMiddleware(app, manager)


@pytest.mark.parametrize("manager", ["redis://:hunter2@h", b"redis://:hunter2@h"])
def test_a_url_in_the_managers_place_is_not_shown(manager: Any) -> None:
    """It may hold a password, so the message names its type alone."""
    with pytest.raises(ConfigurationError, match=type(manager).__name__) as caught:
        SessionMiddleware(app, manager)
    assert "hunter2" not in str(caught.value)


def test_an_empty_store_is_a_store() -> None:
    """A MemoryStore has a length and is false while empty; it is taken all the same."""
    store = MemoryStore()
    assert SessionMiddleware(app, store=store).manager.store is store


# ---------------------------------------------------------------- two of them


def test_the_same_middleware_twice_is_refused_when_built() -> None:
    """Two middlewares with one cookie undo each other's work, so the second is refused, others between."""
    inner = SessionMiddleware(app, store=MemoryStore())
    with pytest.raises(ConfigurationError, match="session_cookie"):
        SessionMiddleware(GZipMiddleware(inner), store=MemoryStore())
    SessionMiddleware(GZipMiddleware(inner), store=MemoryStore(), session_cookie="other")


async def test_added_twice_is_refused_at_startup() -> None:
    """app.add_middleware() twice is refused as soon as the app's stack is built."""
    twice = Starlette()
    twice.add_middleware(SessionMiddleware, store=MemoryStore())
    twice.add_middleware(SessionMiddleware, store=MemoryStore())
    with pytest.raises(ConfigurationError, match="__Host-session"):
        twice.build_middleware_stack()


async def handler(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return PlainTextResponse(str(session["n"]))


async def test_a_sub_app_with_the_same_cookie_is_refused_at_the_first_request(world: World) -> None:
    """A mounted app cannot be seen when the stack is built; its first request raises."""
    sub = world.starlette([Route("/", handler)])
    browser = Browser(world.starlette([Mount("/sub", sub), Route("/", handler)]))
    assert (await browser.get("/")).status == 200
    with pytest.raises(ConfigurationError, match="__Host-session"):
        await browser.get("/sub/")


async def test_a_sub_app_with_another_cookie_has_another_session(world: World) -> None:
    """A mounted app with its own cookie keeps its own session beside the outer one."""
    sub = world.starlette([Route("/", handler)], session_cookie="sub", path="/sub")
    main = world.starlette([Mount("/sub", sub), Route("/", handler)])
    outer, inner = Browser(main), Browser(main, name="sub")
    assert (await outer.get("/")).body == b"1"
    got = await inner.get("/sub/")
    assert got.body == b"1"
    assert got.cookie is not None
    assert got.cookie.startswith("sub=")
    assert "; Path=/sub;" in got.cookie
    assert (await inner.get("/sub/")).body == b"2"
    assert (await outer.get("/")).body == b"2"


@pytest.mark.parametrize("root_path", ["", "/proxy"])
async def test_a_mounted_app_uses_the_outer_session(world: World, root_path: str) -> None:
    """Sub-apps share the session of the middleware around them, whatever their root_path."""
    sub = Starlette(routes=[Route("/count", handler)])
    main = world.starlette([Mount("/sub", sub), Route("/count", handler)])

    async def behind_proxy(scope: Any, receive: Any, send: Any) -> None:
        await main({**scope, "root_path": root_path, "path": root_path + scope["path"]}, receive, send)

    browser = Browser(behind_proxy, name="__Host-session")
    got = await browser.get("/sub/count")
    assert got.body == b"1"
    assert got.cookie is not None
    assert "; Path=/;" in got.cookie
    assert (await browser.get("/count")).body == b"2"


async def test_another_session_middleware_inside_is_named(world: World) -> None:
    """Starlette's own SessionMiddleware inside hides our session; the error says so."""
    inside = [Middleware(SignedCookieMiddleware, secret_key="x")]
    browser = Browser(world.starlette([Route("/", handler)], inside=inside))
    with pytest.raises(ConfigurationError, match="no other session middleware inside"):
        await browser.get("/")


async def test_no_middleware_is_named() -> None:
    """load_session without a middleware says how to add it."""
    browser = Browser(Starlette(routes=[Route("/", handler)]), name="session")
    with pytest.raises(ConfigurationError, match=r"app\.add_middleware\(SessionMiddleware"):
        await browser.get("/")


@pytest.mark.parametrize(
    ("url", "says"),
    [(5, "must be text"), ("memory://[", "takes nothing"), ("memory://x", "memory://")],
)
def test_urls_that_are_none(url: Any, says: str) -> None:
    """The error says what is wrong with it."""
    with pytest.raises(ConfigurationError, match=says):
        store_from_url(url)

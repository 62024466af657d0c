"""No credential in what an error tracker records: the local variables of our functions, and their reprs."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretBytes, SecretStr
from redis.asyncio import Redis
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

import asgi_session
from asgi_session import ConfigurationError, SessionManager, SessionMiddleware, load_session
from asgi_session.stores import store_from_url
from asgi_session.stores.redis import RedisStore
from tests.app.kit import Browser, World, answer
from tests.inside import (
    break_seal,
    fresh_token,
    note_failures,
    note_verifiers,
    password_of,
    reads_token,
    rewrite,
    seal_everything,
)

OURS = str(Path(asgi_session.__file__).parent)
PASSWORD, KEY = "s3cr3t-pa55word", "k3y-" * 8


def recorded(error: BaseException) -> str:
    """Return all that is recorded of our own frames, those of errors behind the error included."""
    text: list[str] = []
    seen: set[int] = set()

    def walk(one: traceback.TracebackException | None) -> None:
        if one is None or id(one) in seen:
            return
        seen.add(id(one))
        text.extend(one.format_exception_only())
        for frame in one.stack:
            if frame.filename.startswith(OURS):
                text.append(f"{frame.name}: {frame.locals}")
        walk(one.__cause__)
        walk(one.__context__)

    walk(traceback.TracebackException.from_exception(error, capture_locals=True))
    return "\n".join(text)


# ---------------------------------------------------------------- requests


async def handler(request: Request) -> Response:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    match request.url.path:
        case "/rotate":
            session.rotate()
        case "/bad":
            session["bad"] = object()
        case "/large":
            session["large"] = "x" * 100_000
        case "/raise":
            session.rotate()
            await session.commit()
            raise ZeroDivisionError
        case "/commit":
            await session.commit()
        case "/lock":
            async with session.lock(wait=0):
                session["n"] = 5
        case "/transact":
            await session.transact(lambda draft: draft.update(n=2))
        case "/refresh":
            await session.refresh()
    return Response()


PATHS = ["/", "/rotate", "/bad", "/large", "/raise", "/commit", "/lock", "/transact", "/refresh"]


class Gatherer:
    """Takes every error that anybody sees: raised, logged, or told to on_event."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []

        note_failures(monkeypatch, lambda error: self.texts.append(recorded(error)))

    async def request(self, browser: Browser, path: str, **options: Any) -> None:
        try:
            await browser.get(path, **options)
        except Exception as error:
            self.texts.append(recorded(error))


@pytest.mark.parametrize("verb", ["none", "load", "create", "save", "corrupt", "send", "seal"])
@pytest.mark.parametrize("autoload", [False, True])
async def test_no_cookie_on_any_error_path(
    world: World, monkeypatch: pytest.MonkeyPatch, verb: str, autoload: bool
) -> None:
    """Whatever fails at whichever verb, with one cookie or several: no verifier is recorded."""
    gatherer = Gatherer(monkeypatch)
    ciphers = seal_everything(monkeypatch).cipher_keys
    app = world.starlette(
        [Route(path, handler) for path in PATHS], secret_key=KEY, encryption_key=KEY[::-1], autoload=autoload
    )
    verifiers = note_verifiers(monkeypatch)

    async def hook(message: Any) -> None:
        if verb == "send":
            raise RuntimeError("the server has lost the connection")

    for path in PATHS:
        for several in (False, True):
            browser = await world.seed(app, n=1)
            assert browser.cookie is not None
            verifiers.append(browser.cookie[22:44])
            if several:
                browser.cookie = f"{browser.cookie}; {browser.name}=junk; {browser.name}={browser.cookie}"
            if verb in ("load", "create", "save"):
                world.store.fail(verb, times=None)  # type: ignore[arg-type]
            if verb == "corrupt":
                await rewrite(world.store.store, browser.cookie[:22], b"\xff" * 90)
            if verb == "seal":
                await break_seal(world.store.store, browser.cookie[:22])
            await gatherer.request(browser, path, hook=hook)
            await gatherer.request(Browser(app), path, hook=hook)
            world.store.heal()
    text = "\n".join(gatherer.texts)
    assert len(verifiers) > 30
    assert len(gatherer.texts) > 3, "there were errors to look at"
    for verifier in verifiers:
        assert verifier not in text
    assert KEY not in text
    assert KEY[::-1] not in text
    assert ciphers
    for key in ciphers:
        assert repr(key)[2:-1] not in text


async def test_an_error_of_the_app_passes_through(world: World) -> None:
    """Our frame on its way shows neither the scope nor the cookie."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    browser = await world.seed(world.wrap(app), n=1)
    assert browser.cookie is not None
    with pytest.raises(ZeroDivisionError) as caught:
        await browser.get("/")
    text = recorded(caught.value)
    assert "__call__" in text
    assert browser.cookie not in text


def everything(error: BaseException) -> str:
    """Return all that is recorded of every frame, the app's and the frameworks' included."""
    one = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "\n".join(f"{frame.name}: {frame.locals}" for frame in one.stack)


async def failing(request: Request) -> Response:
    session = await load_session(request)
    headers, cookies = request.headers, request.cookies
    raise ZeroDivisionError((session, headers, cookies))


@pytest.mark.parametrize("path", ["/", "/mounted/"])
async def test_no_frame_of_the_app_shows_the_cookie(world: World, path: str) -> None:
    """What an error tracker records of frameworks and handlers, whose frames all have the scope."""
    routes = [Route("/", failing), Mount("/mounted", routes=[Route("/", failing)])]
    app = world.starlette(routes)
    browser = await world.seed(app, n=1)
    assert browser.cookie is not None
    scopes: list[Any] = []

    async def server(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await app(scope, receive, send)

    visitor = Browser(server, name=browser.name)
    visitor.cookie = f"{browser.cookie}; theme=dark"
    with pytest.raises(ZeroDivisionError) as caught:
        await visitor.get(path)
    text = everything(caught.value) + repr(caught.value) + repr(scopes)
    assert "failing" in text and "theme=dark" in text
    assert browser.cookie[22:44] not in text


async def test_what_is_ours_shows_no_cookie(world: World) -> None:
    """A session's repr, and those of the objects that hold a request's headers for it."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = await scope["session"].load()
        assert not hasattr(session, "__dict__")
        seen.append(repr((session, scope, send, receive)))
        await answer(send)
        seen.append(repr((session, scope, send, receive)))

    browser = await world.seed(world.wrap(app), n=1)
    await browser.get("/")
    assert len(seen) == 2 and browser.cookie is not None
    assert browser.cookie[22:] not in "".join(seen)


# ---------------------------------------------------------------- configuration


async def app(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


URL = f"redis://user:{PASSWORD}@localhost"
WRONG: dict[str, Callable[[], object]] = {
    "short key": lambda: SessionManager("memory://", secret_key=PASSWORD[:15]),
    "one of several": lambda: SessionManager("memory://", secret_key=[KEY, PASSWORD[:15]]),
    "no key": lambda: SessionManager("memory://", secret_key=[KEY, 5]),  # type: ignore[list-item]
    "short encryption key": lambda: SessionManager("memory://", encryption_key=PASSWORD[:15]),
    "one encryption key of several": lambda: SessionManager(
        "memory://", encryption_key=[KEY + "2", PASSWORD[:15]]
    ),
    "an encryption key twice": lambda: SessionManager("memory://", encryption_key=[KEY, KEY]),
    "encryption key, another option": lambda: SessionManager(
        "memory://",
        encryption_key=KEY,
        unsealed=5,  # type: ignore[arg-type]
    ),
    "encryption key, unknown option": lambda: SessionManager("memory://", encryption_key=KEY, unsealt=5),  # type: ignore[call-arg]
    "middleware, encryption key": lambda: SessionMiddleware(
        app,
        store="memory://",
        encryption_key=KEY,
        unsealt=5,  # type: ignore[call-arg]
    ),
    "another option": lambda: SessionManager(URL, secret_key=KEY, idle_timeout=0),
    "unknown option": lambda: SessionManager(URL, secret_key=KEY, password=PASSWORD),  # type: ignore[call-arg]
    "middleware": lambda: SessionMiddleware(app, store=URL, secret_key=KEY, max_size=1),
    "middleware, cookie": lambda: SessionMiddleware(app, store=URL, secret_key=KEY, path="x"),
    "middleware, unknown": lambda: SessionMiddleware(app, store=URL, secret=KEY),  # type: ignore[call-arg]
    "middleware, both": lambda: SessionMiddleware(
        app, SessionManager("memory://"), store=URL, secret_key=KEY
    ),
    "scheme": lambda: SessionManager(f"rediss+tls://user:{PASSWORD}@localhost"),
    "query": lambda: SessionManager(f"{URL}?timeout=5"),
    "slash": lambda: SessionManager(f"redis://user:{PASSWORD}/x@localhost"),
    "port": lambda: SessionManager(f"{URL}:99999"),
    "parameter": lambda: SessionManager(
        f"{URL.replace('redis:', 'rediss:')}?ssl_check_hostname=x&ssl_include_verify_flags=nonsense"
    ),
    "bytes": lambda: SessionManager(URL.encode()),  # type: ignore[arg-type]
    "memory": lambda: SessionManager(f"memory://{PASSWORD}"),
    "store_from_url": lambda: store_from_url(f"{URL}/zero"),
    "store_from_url, unknown": lambda: store_from_url("memory://", password=PASSWORD),
    "from_url": lambda: RedisStore.from_url(f"{URL}/zero"),
    "from_url, unknown": lambda: RedisStore.from_url(URL, password=PASSWORD),  # type: ignore[call-arg]
    "from_url, option": lambda: RedisStore.from_url(URL, timeout=0),
    "store of a URL": lambda: RedisStore(URL),  # type: ignore[arg-type]
    "store of a client": lambda: RedisStore(
        Redis(host="localhost", password=PASSWORD), service_name="mymaster"
    ),
}


@pytest.mark.parametrize("wrap", [str, Secret, SecretStr], ids=["plain", "Secret", "SecretStr"])
@pytest.mark.parametrize("what", WRONG)
def test_no_secret_in_a_configuration_error(what: str, wrap: Callable[[str], Any]) -> None:
    """Neither in its text nor in a frame of ours: not the password, not the key."""
    with pytest.raises(ConfigurationError) as caught:
        WRONG[what]()
    text = recorded(caught.value)
    assert "__init__" in text or "from_url" in text, "frames of ours were looked at"
    for secret in (PASSWORD, PASSWORD[:15], KEY):
        assert secret not in text


@pytest.fixture(params=[Secret, SecretStr], ids=["Secret", "SecretStr"])
def wrap(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    return request.param  # type: ignore[no-any-return]


def test_wrapped_secrets_are_taken(wrap: Callable[[str], Any]) -> None:
    """As a URL, a key, one of several keys; they sign as the plain text does."""
    plain = SessionManager("memory://", secret_key=KEY)
    token = fresh_token(plain)
    for key in (wrap(KEY), [wrap(KEY), "o" * 16]):
        assert reads_token(SessionManager("memory://", secret_key=key), token)
    assert reads_token(SessionManager("memory://", secret_key=SecretBytes(KEY.encode())), token)
    for store in (
        SessionManager(wrap(URL)).store,
        SessionMiddleware(app, store=wrap(URL)).manager.store,
        store_from_url(wrap(URL)),
        RedisStore.from_url(wrap(URL)),
    ):
        assert isinstance(store, RedisStore)
        assert password_of(store) == PASSWORD
        assert PASSWORD not in repr(store)
    with pytest.raises(ConfigurationError, match="at least 16"):
        SessionManager("memory://", secret_key=wrap("short"))


def test_a_middleware_that_is_shown(wrap: Callable[[str], Any]) -> None:
    """Starlette shows what a `Middleware` was made with."""
    shown = repr(Middleware(SessionMiddleware, store=wrap(URL), secret_key=wrap(KEY)))
    assert PASSWORD not in shown
    assert KEY not in shown


def test_a_vault_that_is_away() -> None:
    """What it raises may hold anything: it is named, and neither shown nor chained."""

    class Vault:
        def get_secret_value(self) -> str:
            raise OSError(f"no answer to {KEY}")

    with pytest.raises(ConfigurationError, match="Vault failed: OSError") as caught:
        SessionManager("memory://", secret_key=Vault())
    assert KEY not in recorded(caught.value)

"""AWS Lambda: Mangum in front of an app, in a process that stands still between two invocations.

Real in all but the freeze: Mangum runs the event loop until the app call has ended, and not a step further.
So whatever has not reached the store by then would, on Lambda, leave with the next invocation or never.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mangum import Mangum
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from asgi_session import SessionMiddleware, load_session
from tests.app.kit import find_middleware
from tests.docs.pages import ROOT, python
from tests.servers import ServerProcess

# What `asyncio.run` ends has no chance to close its connections; they close when they are collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore:loop is closed:ResourceWarning"
)

HOUR, DAY = 3600, 24 * 3600  # seconds


async def count(request: Request) -> JSONResponse:
    session = await load_session(request)
    session["n"] = session.get("n", 0) + 1
    return JSONResponse(session["n"])


async def read(request: Request) -> JSONResponse:
    return JSONResponse(dict(await load_session(request)))


async def later(request: Request) -> JSONResponse:
    session = await load_session(request)

    async def work() -> None:
        session["worked"] = True

    return JSONResponse(None, background=BackgroundTask(work))


async def logout(request: Request) -> JSONResponse:
    request.session.destroy()  # type: ignore[attr-defined]
    return JSONResponse(None)


class Function:
    """A Lambda function and the browser that uses it.

    Args:
        define: makes the handler, as importing its module does.
        new_loop: end the event loop with each invocation, as Mangum 0.20 does by `asyncio.run`; else all
            invocations share one, as with every other version.
    """

    def __init__(self, define: Callable[[], Mangum], *, new_loop: bool) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._handler = define()
        self.shares_its_loop = not new_loop
        self.cookies: dict[str, str] = {}

    def invoke(self, path: str, method: str = "GET") -> str:
        """Make one request; return the response's body."""
        if not self.shares_its_loop:
            self._loop.close()
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        event = {
            "version": "2.0",
            "rawPath": path,
            "rawQueryString": "",
            "headers": {"host": "testserver", "x-forwarded-proto": "https", "x-forwarded-port": "443"},
            "cookies": [f"{name}={value}" for name, value in self.cookies.items()],
            "requestContext": {
                "http": {"method": method, "path": path, "sourceIp": "127.0.0.1", "protocol": "HTTP/1.1"},
                "stage": "$default",
            },
            "isBase64Encoded": False,
        }
        answer = self._handler(event, None)  # type: ignore[arg-type]
        if not self.shares_its_loop:
            self._finish()
        assert answer["statusCode"] == 200, answer
        for cookie in answer.get("cookies", ()):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return str(answer["body"])

    def _finish(self) -> None:
        """Do what `asyncio.run` does at its end."""
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def end(self) -> None:
        """Close the store, if the loop is still there to do it, and the loop."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(find_middleware(self._handler.app).manager.close())
            self._loop.close()
        asyncio.set_event_loop(None)


Start = Callable[[Callable[[], Mangum]], Function]


@pytest.fixture(params=[False, True], ids=["one loop", "a loop each"])
def start(request: pytest.FixtureRequest, valkey: ServerProcess) -> Iterator[Start]:
    """Return a function that makes a Lambda function."""
    made: list[Function] = []

    def start(define: Callable[[], Mangum]) -> Function:
        made.append(Function(define, new_loop=request.param))
        return made[-1]

    yield start
    for function in made:
        function.end()
    gc.collect()  # connections whose loop ended under them, while the warnings of that are expected


@pytest.fixture
def function(start: Start, valkey: ServerProcess) -> Function:
    """A Lambda function that keeps its sessions in a real Valkey."""
    return start(lambda: counter(valkey.url))


def counter(url: str, lifespan: Any = "off") -> Mangum:
    routes = [Route(f"/{do.__name__}", do) for do in (count, read, later, logout)]
    app = Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, store=url)])
    return Mangum(app, lifespan=lifespan)


def seconds_left(valkey: ServerProcess) -> float:
    """Return how long the one session in the store has left, unused."""
    (key,) = valkey.command("KEYS", "*")
    return int(valkey.command("PTTL", key)) / 1000


def cut(valkey: ServerProcess) -> None:
    """Close every client's connection at the server's end, as a long freeze does."""
    valkey.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.mark.parametrize("killed", [False, True], ids=["", "connection killed"])
def test_touch_is_stored_before_the_invocation_ends(
    function: Function, valkey: ServerProcess, killed: bool
) -> None:
    """A read that confirms the session extends it from an hour to two weeks before the process is frozen."""
    function.invoke("/count")
    assert seconds_left(valkey) <= HOUR
    if killed:
        cut(valkey)
    assert function.invoke("/read") == '{"n":1}'
    assert seconds_left(valkey) > 13 * DAY


@pytest.mark.parametrize("killed", [False, True], ids=["", "connection killed"])
def test_writes_are_kept(function: Function, valkey: ServerProcess, killed: bool) -> None:
    """Ten invocations count to ten, each on a connection that may have died since the one before."""
    for n in range(1, 11):
        assert function.invoke("/count") == str(n)
        if killed:
            cut(valkey)
    assert function.invoke("/read") == '{"n":10}'


def test_what_is_written_after_the_response_is_kept(function: Function, valkey: ServerProcess) -> None:
    """A background task's change is in the store before the process is frozen."""
    function.invoke("/count")
    function.invoke("/later")
    cut(valkey)
    assert function.invoke("/read") == '{"n":1,"worked":true}'


def test_logout_is_final(function: Function, valkey: ServerProcess) -> None:
    """A logout on a connection that has died is carried out all the same."""
    function.invoke("/count")
    function.invoke("/read")
    thief = dict(function.cookies)
    cut(valkey)
    function.invoke("/logout")
    function.cookies = thief
    assert function.invoke("/read") == "{}"


def test_invocations_leave_no_connections_behind(function: Function, valkey: ServerProcess) -> None:
    """Thirty invocations of one process hold as many connections to the store as one."""
    before = int(valkey.info("clients")["connected_clients"])
    for _ in range(30):
        function.invoke("/count")
    gc.collect()
    assert int(valkey.info("clients")["connected_clients"]) <= before + 1


def connections(valkey: ServerProcess) -> int:
    """Return how many connections the server has accepted so far, this one included."""
    return int(valkey.info("stats")["total_connections_received"])


@pytest.mark.parametrize("lifespan", ["off", "auto"])
def test_lifespan_costs_a_connection_each_time(start: Start, valkey: ServerProcess, lifespan: str) -> None:
    """With `lifespan="auto"` every invocation connects, and checks the set-up, anew; the session is kept."""
    function = start(lambda: counter(valkey.url, lifespan))
    before = connections(valkey)
    assert [function.invoke("/count") for _ in range(5)] == ["1", "2", "3", "4", "5"]
    made = connections(valkey) - before - 1
    if lifespan == "auto":
        assert made == 5 * 2, "the check whether wake-ups may be heard has a connection of its own"
    else:
        assert made == (1 if function.shares_its_loop else 5)


def test_page(start: Start, valkey: ServerProcess) -> None:
    """The handler on the page keeps a cart over invocations whose connection has died in between."""
    (block,) = python(ROOT / "docs/serverless.md")
    names: dict[str, Any] = {"__name__": "serverless"}

    def define() -> Mangum:
        exec(block.text.replace("redis://localhost:6379", valkey.url), names)
        handler: Mangum = names["handler"]
        return handler

    function = start(define)
    assert function.invoke("/cart/pear", "POST") == '{"cart:pear":1}'
    cut(valkey)
    assert function.invoke("/cart/fig", "POST") == '{"cart:pear":1,"cart:fig":1}'

"""What the log says of failures: a line for each, one for an outage, and no flood."""

from __future__ import annotations

import logging

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asgi_session import load_session
from asgi_session.errors import StoreUnavailable
from asgi_session.store import Back, Lost
from tests.app.kit import Browser, World, find_middleware
from tests.inside import failure_log_goes_by, failures_of


async def handler(request: Request) -> Response:
    session = await load_session(request)
    if size := int(request.query_params.get("size", 0)):
        session["big"] = "x" * size
    return Response()


ROUTES = [Route("/", handler)]


class Time:
    """What the log goes by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        failure_log_goes_by(monkeypatch, lambda: self.now)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_an_outage_is_a_line_when_it_begins_and_one_when_it_ends(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 18: two hundred requests that fail are two lines; the second has the count and the time."""
    time = Time(monkeypatch)
    browser = await world.seed(world.starlette(ROUTES), n=1)
    world.store.fail("load", times=None)
    for _ in range(200):
        assert (await browser.get("/")).status == 503
        time.now += 0.1
    assert len(lines(caplog)) == 1
    assert "the session store failed" in lines(caplog)[0]
    world.store.heal()
    assert (await browser.get("/")).status == 200
    assert len(lines(caplog)) == 1, "one answer is not the end: another shard may be failing"
    time.now += 5
    await browser.get("/")
    await browser.get("/")
    assert len(lines(caplog)) == 2
    assert "failed 200 requests" in lines(caplog)[1]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    world.store.fail("load")
    await browser.get("/")
    assert len(lines(caplog)) == 3, "the next outage is another one"


async def test_an_outage_whose_end_nobody_saw(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Failures with calm between them are two outages."""
    time = Time(monkeypatch)
    browser = await world.seed(world.starlette(ROUTES), n=1)
    for _ in range(2):
        world.store.fail("load")
        await browser.get("/")
        time.now += 60
    assert [line.split(":")[0] for line in lines(caplog)] == [
        "session error",
        "the session store is back. It failed 1 requests in 0 s",
        "session error",
    ]


async def test_a_store_that_reports_its_servers(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Promise 18: a request's failure begins the outage, the server's return ends it: two lines."""
    app = world.starlette(ROUTES)
    browser = await world.seed(app, n=1)
    failures = failures_of(find_middleware(app).manager)
    world.store.fail("load", times=3)
    for _ in range(2):
        await browser.get("/")
    failures.lost(Lost("one:6379", "no answer for 5 s"))
    await browser.get("/")
    await browser.get("/")
    failures.back(Back("one:6379", 12.0, 3))
    await browser.get("/")
    assert [line.split(":")[0] for line in lines(caplog)] == [
        "session error",
        "the session store's server one",
    ]
    assert "after 12 s. 3 requests" in lines(caplog)[1]
    assert not failures.outage


async def test_several_servers(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Each is lost and back by itself; the outage is over with the last."""
    failures = failures_of(find_middleware(world.starlette(ROUTES)).manager)
    for name in ("one", "two"):
        failures.lost(Lost(name, "no answer"))
    failures.log(StoreUnavailable("two"))
    for name in ("one", "two"):
        assert failures.outage
        failures.back(Back(name, 1.0, 1))
    assert not failures.outage
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "WARNING", "WARNING"]


async def test_too_large_is_a_line_without_a_traceback(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that sends too much must not write pages of log."""
    browser = Browser(world.starlette(ROUTES, max_size=1000))
    assert (await browser.get("/?size=2000")).status == 500
    (record,) = caplog.records
    assert record.exc_info is None
    assert "SessionTooLarge" in record.getMessage()
    assert "max_size=1000" in record.getMessage()

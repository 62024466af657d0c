"""A store whose memory is full takes no record of an ending: the ending gets through all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_session import Session, SessionMiddleware, load_session
from asgi_session.errors import SessionGone, StoreUnavailable
from asgi_session.stores.redis import RedisStore
from asgi_session.testing import SessionClient
from tests.inside import fail_no_more, owed_by, status_of
from tests.manager.kit import World, credential, settle, start
from tests.servers import ServerProcess, start_redis62, start_valkey


def destroy(session: Session) -> None:
    session.destroy()


def clear(session: Session) -> None:
    session.clear()


ENDINGS = pytest.mark.parametrize("end", [destroy, clear])


@pytest.fixture
async def world() -> World:
    return World()


def fill(world: World) -> None:
    world.store.fail(None, "full", times=None)


@ENDINGS
async def test_an_ending_deletes_instead(world: World, end: Callable[[Session], None]) -> None:
    """The record is removed, the cookie is to be deleted, and one event tells."""
    token = await world.new()
    session = await world.load(token)
    fill(world)
    end(session)
    session_id = session.id
    await session.commit()
    assert await world.record(token) is None
    assert owed_by(session) == "deletion"
    assert world.store.counts() == {"load": 1, "save": 1, "delete": 1}
    assert [(name, who) for name, who, _ in world.events] == [("ended", session_id)]
    assert status_of(await world.load(token)) == "new"


async def test_nothing_else_deletes(world: World) -> None:
    """Data and rotations are refused, and the record stays as it was."""
    token = await world.new(old=1)
    fill(world)
    for change in (lambda session: session.update(new=2), lambda session: session.rotate()):
        session = await world.load(token)
        change(session)
        with pytest.raises(StoreUnavailable) as caught:
            await session.commit()
        assert caught.value.full
        assert caught.value.executed is False
    assert "delete" not in world.store.counts()
    assert await world.read(token) == {"old": 1}


async def test_an_end_for_another_reason_deletes_nothing(world: World) -> None:
    """A store that is away, and not full, is no reason to delete."""
    token = await world.new()
    session = await world.load(token)
    world.store.fail("save", "refused")
    session.destroy()
    with pytest.raises(StoreUnavailable):
        await session.commit()
    assert "delete" not in world.store.counts()


async def test_a_login_meanwhile_is_not_killed(world: World) -> None:
    """Only the version that the ending was made on may be deleted; what came after it is another identity."""
    token = await world.new(cart=1)
    session = await world.load(token)
    session.destroy()
    gate = world.store.pause("delete")
    fill(world)
    commit = start(session.commit())
    await gate.reached()
    world.store.heal()  # and memory is free for a moment
    gate = world.store.pause("delete")
    login = await world.load(token, world.process())
    login.rotate()
    login["user"] = "ada"
    await login.commit()
    gate.release()
    with pytest.raises(SessionGone):
        await commit
    assert await world.read(credential(login)) == {"cart": 1, "user": "ada"}
    assert owed_by(session) == "nothing"
    assert world.named("dropped") == [{"reason": "overtaken", "keys": []}]


async def test_a_save_meanwhile_is_ended_too(world: World) -> None:
    """Data saved in between under the same identity does not keep the session alive."""
    token = await world.new()
    session = await world.load(token)
    session.destroy()
    gate = world.store.pause("delete")
    fill(world)
    commit = start(session.commit())
    await gate.reached()
    other = await world.load(token, world.process())
    other["n"] = 1
    fail_no_more(world.store)
    await other.commit()
    fill(world)
    gate.release()
    await commit
    assert world.store.counts()["delete"] == 2
    assert await world.record(token) is None
    assert owed_by(session) == "deletion"


async def test_gone_meanwhile(world: World) -> None:
    """A session that was revoked in between is gone, as ever: this request has not ended it."""
    token = await world.new()
    session = await world.load(token)
    session.destroy()
    gate = world.store.pause("delete")
    fill(world)
    commit = start(session.commit())
    await gate.reached()
    assert await world.memory.delete(world.store.calls[-1].key, deadline=float("inf"))
    gate.release()
    with pytest.raises(SessionGone):
        await commit
    assert owed_by(session) == "nothing"


async def test_gone_after_a_look_that_failed(world: World) -> None:
    """A reply that was lost to the look, and not to the delete, makes nobody's ending this request's own."""
    token = await world.new()
    session = await world.load(token)
    session.destroy()
    gate = world.store.pause("delete")
    fill(world)
    commit = start(session.commit())
    await gate.reached()
    other = await world.load(token, world.process())
    other["n"] = 1
    fail_no_more(world.store)
    await other.commit()
    world.store.fail("load", "lost reply")
    retry = world.store.pause("save")
    gate.release()
    await retry.reached()
    assert await world.memory.delete(world.store.calls[-1].key, deadline=float("inf"))
    retry.release()
    with pytest.raises(SessionGone):
        await commit
    assert owed_by(session) == "nothing"


@pytest.mark.parametrize("fault", ["lost reply", "lost request"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("stays_full", [True, False])
async def test_a_lost_reply_to_the_delete(world: World, fault: str, times: int, stays_full: bool) -> None:
    """Promise 7: it is repeated until it is known, and reported once; what is gone then was ended here."""
    token = await world.new()
    session = await world.load(token)
    world.store.fail("save", "full", times=None if stays_full else 1)
    world.store.fail("delete", fault, times=times)  # type: ignore[arg-type]
    session.destroy()
    await session.commit()
    stored = await world.record(token)
    assert stored is None or not stays_full
    assert await world.read(token) is None
    assert owed_by(session) == "deletion"
    assert [name for name, _, _ in world.events] == ["ended"]


async def test_a_lost_reply_to_the_save_before_the_store_is_full(world: World) -> None:
    """The ending was saved after all: the delete leaves that alone, and it is reported once."""
    token = await world.new()
    session = await world.load(token)
    world.store.fail("save", "lost reply")
    world.store.fail("save", "full", nth=2, times=None)
    session.destroy()
    await session.commit()
    assert world.store.counts() == {"load": 2, "save": 2, "delete": 1}
    assert await world.record(token) is not None
    assert owed_by(session) == "deletion"
    assert [name for name, _, _ in world.events] == ["ended"]


@pytest.mark.parametrize("verb", ["delete", "load"])
async def test_what_fails_on_the_way_is_told(world: World, verb: str) -> None:
    """A delete or load that is refused fails the commit, which can be tried again."""
    token = await world.new()
    session = await world.load(token)
    session.destroy()
    fill(world)
    if verb == "load":
        gate = world.store.pause("delete")
        commit = start(session.commit())
        await gate.reached()
        other = await world.load(token, world.process())
        other["n"] = 1
        fail_no_more(world.store)
        await other.commit()
        fill(world)
    else:
        gate, commit = None, start(session.commit())
    world.store.fail(verb, "refused")  # type: ignore[arg-type]
    if gate is not None:
        gate.release()
    with pytest.raises(StoreUnavailable):
        await commit
    await session.commit()
    assert await world.record(token) is None


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_request_that_is_cancelled_meanwhile(world: World, when: str) -> None:
    """The ending goes on without it, also when the delete was cancelled after it was carried out."""
    token = await world.new()
    session = await world.load(token)
    session.destroy()
    fill(world)
    gate = world.store.pause("delete", when=when)  # type: ignore[arg-type]
    commit = start(session.commit())
    await gate.reached()
    commit.cancel()
    await settle()
    gate.release()
    await world.manager.drain()
    assert await world.record(token) is None
    assert [name for name, _, _ in world.events] == ["ended"]


async def test_with_others_of_its_batch(world: World) -> None:
    """Who wrote before it in the same batch has saved, who comes after it is overtaken, as on any store."""
    token = await world.new()
    gate = world.store.pause("save")
    first, before, ending, after = [await world.load(token) for _ in range(4)]
    first["first"] = 1
    before["before"] = 1
    ending.destroy()
    after["after"] = 1
    commits = [start(each.commit()) for each in (first, before, ending, after)]
    await gate.reached()
    fill(world)
    await settle()
    gate.release()
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert outcomes[:3] == [None] * 3
    assert isinstance(outcomes[3], SessionGone)
    assert world.store.counts()["delete"] == 1
    assert await world.record(token) is None


async def test_under_the_lock(world: World) -> None:
    """The lock ends with the session; whoever waits for it is told that it is gone."""
    token = await world.new()
    holder, waiter = await world.load(token), await world.load(token)
    entered = asyncio.Event()

    async def wait() -> None:
        async with waiter.lock():
            entered.set()

    async with holder.lock():
        waiting = start(wait())
        await settle()
        holder.destroy()
        fill(world)
    with pytest.raises(SessionGone):
        await waiting
    assert not entered.is_set()
    assert await world.record(token) is None
    assert owed_by(holder) == "deletion"


@pytest.fixture(params=[start_valkey, start_redis62], ids=["valkey", "redis62"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    server: ServerProcess = request.param()
    yield server
    server.stop()


def test_logging_out_of_a_server_that_is_full(server: ServerProcess) -> None:
    """Promise 5: reads work, writes are 503, and a log-out deletes record and cookie."""

    async def read(request: Request) -> JSONResponse:
        return JSONResponse(dict(await load_session(request)))

    async def write(request: Request) -> JSONResponse:
        (await load_session(request))["user"] = "ada"
        return JSONResponse(None)

    async def logout(request: Request) -> JSONResponse:
        (await load_session(request)).destroy()
        return JSONResponse(None)

    async def logout_unloaded(request: Request) -> JSONResponse:
        request.session.destroy()
        return JSONResponse(None)

    routes = [Route(f"/{each.__name__}", each) for each in (read, write, logout, logout_unloaded)]
    app = SessionMiddleware(Starlette(routes=routes), store=RedisStore.from_url(server.url))
    for way in ("/logout", "/logout_unloaded"):
        client = SessionClient(app, raise_server_exceptions=False)
        assert client.get("/write").status_code == 200
        server.command("CONFIG", "SET", "maxmemory", "1")
        assert client.get("/read").json() == {"user": "ada"}
        assert client.get("/write").status_code in (200, 503)  # nothing has changed, so nothing is written
        assert SessionClient(app, raise_server_exceptions=False).get("/write").status_code == 503
        cookie = client.cookies["__Host-session"]
        answer = client.get(way)
        assert answer.status_code == 200
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert server.command("DBSIZE") == 0
        client.cookies.set("__Host-session", cookie)
        assert client.get("/read").json() == {}
        server.command("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize("start_server", [start_valkey, start_redis62])
def test_a_logout_that_leaves_a_message(start_server: Callable[[], ServerProcess]) -> None:
    """`clear()` and a flash message: the message cannot be stored; the user is signed out."""
    server = start_server()

    async def handler(request: Request) -> Response:
        session = await load_session(request)
        if request.url.path == "/out":
            session.clear()
            session["flash"] = "bye"
        elif request.url.path == "/in":
            session["user"] = 1
        return JSONResponse(dict(session))

    app = Starlette(routes=[Route(path, handler) for path in ("/in", "/out", "/who")])
    app.add_middleware(SessionMiddleware, store=server.url)
    with SessionClient(app, raise_server_exceptions=False) as client:
        client.get("/in")
        assert client.get("/who").json() == {"user": 1}
        server.command("CONFIG", "SET", "maxmemory", "1")
        answer = client.get("/out")
        assert answer.status_code == 503
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert server.command("DBSIZE") == 0
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert client.get("/who").json() == {}
    server.stop()

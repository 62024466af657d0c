# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""An app that uses the whole public API, for type checkers alone: `make check`. It is never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, assert_type

import redis.asyncio
from fastapi import Depends, FastAPI, WebSocket
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.authentication import SimpleUser
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_session import (
    ConfigurationError,
    LockLost,
    LockTimeout,
    Session,
    SessionConflict,
    SessionCorrupt,
    SessionError,
    SessionGone,
    SessionInfo,
    SessionManager,
    SessionMiddleware,
    SessionNotLoaded,
    SessionSerializationError,
    SessionTooLarge,
    SignInRefused,
    StoreUnavailable,
    load_session,
    merging,
)
from asgi_session.auth import LoadUser, SessionAuth, SignInRequired, require_recent_sign_in
from asgi_session.fastapi import LockedSessionDep, PassiveSessionDep, RecentSignIn, SessionDep, session_user
from asgi_session.migrating import StarletteCookie
from asgi_session.store import GONE, Conflict, Reports, Saved, Store, Stored, Taken
from asgi_session.stores import MemoryStore, RedisStore, S3Store, SimpleDBStore, SQLStore, store_from_url
from asgi_session.testing import Call, FaultStore, ManualClock, SessionClient, StoreConformance

# stores


def remap(address: tuple[str, int]) -> tuple[str, int]:
    return ("localhost", address[1])


def make_stores(cluster: redis.asyncio.RedisCluster, sentinel: redis.asyncio.Sentinel) -> list[Store]:
    return [
        MemoryStore(max_records=10, max_bytes=1000, clock=ManualClock()),
        RedisStore(redis.asyncio.Redis(), prefix="app", timeout=timedelta(seconds=1)),
        RedisStore(cluster, address_remap=remap),
        RedisStore(sentinel, service_name="mymaster", tls_server_name="redis.example.com"),
        RedisStore.from_url("rediss://localhost", connect_timeout=2, max_connection_age=3600.0),
        SQLStore(create_async_engine("sqlite+aiosqlite:///app.db"), pool_size=3, clock=ManualClock()),
        SQLStore.from_url("postgresql://localhost/app", unlogged=True, connect_timeout=timedelta(seconds=1)),
        store_from_url("redis+cluster://localhost", prefix="app"),
        S3Store("bucket", prefix="app", region="eu-central-1", timeout=timedelta(seconds=1)),
        S3Store.from_url("s3://bucket/app", touch_fraction=0.5),
        SimpleDBStore.from_url("simpledb://sessions", connections=5),
    ]


def refused(client: object) -> None:
    # A comment whose error has gone is itself an error to both checkers.
    RedisStore(client)  # type: ignore[arg-type]
    RedisStore.from_url("redis://h", tiemout=1)  # type: ignore[call-arg]
    S3Store.from_url("s3://bucket", tuch_fraction=0.5)  # type: ignore[call-arg]
    SQLStore.from_url("sqlite:///app.db", tabel="x")  # type: ignore[call-arg]
    SessionManager("memory://", max_age=1)  # type: ignore[call-arg]


async def use_store(store: Store) -> bytes:
    found = await store.load("key", deadline=1.0)
    assert_type(found, Stored | None)
    if found is None:
        assert_type(await store.create("key", b"", 0, deadline=1.0), Saved | Taken)
        return b""
    result = await store.save("key", b"", 0, expect=found, deadline=1.0)
    if result is GONE:
        return b""
    if isinstance(result, Conflict):
        return result.current.data
    assert_type(result, Saved)
    assert_type(await store.delete("key", expect=found, deadline=1.0), bool)
    return result.tag


def hear_of_servers(store: Store) -> None:
    if isinstance(store, Reports):
        end = store.report_to(print)
        end()


async def ready(manager: SessionManager) -> bool:
    try:
        await manager.ping()
    except StoreUnavailable as error:
        assert_type(error.full, bool)
        return False
    return True


# the manager


def on_event(name: str, session_id: str | None, **info: Any) -> None:
    print(name, session_id, info)


manager = SessionManager(
    "memory://",
    secret_key=["k" * 16, b"k" * 16],
    encryption_key=["k" * 32, b"l" * 32],
    unsealed="accept",
    idle_timeout=timedelta(days=1),
    absolute_timeout=90 * 86400,
    unconfirmed_timeout=60.0,
    max_size=1000,
    deadline=2.5,
    namespace="app",
    on_unavailable="anonymous",
    on_corrupt="new",
    rotate_every=timedelta(minutes=15),
    on_replay="end",
    save_on_error=True,
    check="refuse",
    on_event=on_event,
    clock=ManualClock(),
)


async def administer(session_id: str) -> None:
    async with manager as opened:
        assert_type(opened, SessionManager)
        assert_type(await manager.revoke(session_id), bool)
        await manager.drain()
    await manager.open()
    await manager.close()
    assert_type(manager.store, Store)


# handlers


async def session_api(session: Session) -> None:
    assert_type(await session.load(), Session)
    assert_type(await session.refresh(), Session)
    await session.commit()
    assert_type(session.id, str | None)
    assert_type(session.created_at, datetime | None)
    assert_type(session.expires_at, datetime | None)
    assert_type(session.idle_expires_at, datetime | None)
    assert_type(session.absolute_expires_at, datetime | None)
    session.set_lifetime(idle=timedelta(days=30), absolute=datetime.now(UTC), persistent=True)
    session.set_lifetime(absolute=3600)
    session.set_lifetime(absolute=None, persistent=None, idle=1.5)
    flags: list[bool] = [session.loaded, session.accessed, session.modified, session.is_new]
    session["flags"] = flags
    session["n"] = session.get("n", 0) + 1
    session.update({"a": 1}, b=2)
    session.setdefault("list", []).append(1)
    session |= {"c": 3}
    del session["a"]
    plain: dict[str, Any] = {**session, **dict(session)}
    print(plain, session.pop("b", None), "c" in session, len(session), list(session.items()))
    session.rotate()
    session.rotate(grace=timedelta(seconds=5))
    session.clear()
    session.destroy()


async def concurrency(session: Session) -> None:
    async with session.lock() as same:
        assert_type(same, Session)
    async with session.lock(wait=0, lease=timedelta(seconds=30), max_hold=60.0):
        pass
    async with manager.lock("id", wait=timedelta(seconds=1)) as other:
        assert_type(other, Session)

    def take(draft: Session) -> int | None:
        return len(draft) or None

    async def take_slowly(draft: Session) -> list[str]:
        return list(draft)

    assert_type(await session.transact(take), int | None)
    assert_type(await session.transact(take_slowly), list[str])
    assert_type(await session.transact(lambda draft: str(len(draft))), str)


def keep_longer(base: str | None, mine: str | None, theirs: str | None) -> str | None:
    return max(mine or "", theirs or "", key=len)


merged = SessionManager(
    "memory://",
    merge={"n": merging.counter, "cart": merging.by_key(merging.counter), "text": keep_longer},
    on_conflict="raise",
)


async def homepage(request: Request) -> Response:
    session = await load_session(request)
    assert_type(session, Session)
    return JSONResponse({"session": session})


async def poll(request: Request) -> Response:
    session = await load_session(request, passive=True)
    assert_type(session, Session)
    return Response()


def needs_session(connection: HTTPConnection) -> bool:
    return connection.url.path.startswith("/admin")


starlette_app = Starlette(
    routes=[Route("/", homepage)],
    middleware=[
        Middleware(SessionMiddleware, store="memory://", autoload=needs_session, passive=needs_session)
    ],
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with manager:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(
    SessionMiddleware,
    manager,
    session_cookie="sid",
    path="/",
    same_site="strict",
    https_only=True,
    domain=None,
    partitioned=False,
    persistent=False,
    autoload=True,
)
any_app = SessionMiddleware(app, store=MemoryStore(), idle_timeout=60, session_cookie="other")
moving_in = SessionMiddleware(
    app,
    store="memory://",
    migrate_from=StarletteCookie(Secret("old key"), max_age=3600, until=datetime.now(UTC)),
)
assert_type(any_app.manager, SessionManager)
assert_type(any_app.cookie.name, str)


@app.post("/cart/{sku}")
async def add(sku: str, session: SessionDep) -> dict[str, Any]:
    assert_type(session, Session)
    session[f"cart:{sku}"] = session.get(f"cart:{sku}", 0) + 1
    return dict(session)


@app.get("/poll")
async def poll_it(session: PassiveSessionDep) -> None:
    assert_type(session, Session)


@app.post("/locked")
async def locked(session: LockedSessionDep) -> None:
    assert_type(session, Session)


@app.websocket("/ws")
async def socket(websocket: WebSocket, session: SessionDep) -> None:
    await websocket.accept()
    try:
        await session.commit()
    except SessionConflict as error:
        assert_type(error.outcome_unknown, bool)
        assert_type(error.key, str | None)
    except SessionTooLarge as error:
        assert_type(error.size + error.max_size, int)
    except SessionSerializationError as error:
        assert_type(error.key, str | None)
    except StoreUnavailable as error:
        assert_type(error.executed, bool | None)
    except (SessionGone, SessionCorrupt, SessionNotLoaded, LockTimeout, LockLost, ConfigurationError):
        raise
    except SessionError as error:
        print(error)


# who is signed in


async def load_user(principal: str) -> SimpleUser | None:
    return SimpleUser(principal) if principal else None


def load_number(principal: str) -> int:
    return int(principal)


loaders: list[LoadUser] = [load_user, load_number]
CurrentUser = Annotated[SimpleUser, Depends(session_user(load_user))]
MaybeUser = Annotated[SimpleUser | None, Depends(session_user(load_user, optional=True))]
Lately = Annotated[Session, Depends(RecentSignIn(timedelta(minutes=10)))]


def describe(connection: HTTPConnection) -> str:
    return connection.headers.get("user-agent", "")


signing_in = SessionManager(
    "memory://",
    identity=["user.sub", lambda values: values.get("role")],
    forget_at_login=("csrf",),
    max_sessions_per_user=10,
    on_max_sessions="refuse",
    index=("oidc_sid",),
    describe=describe,
    anonymous_idle_timeout=3600,
)
with_users = Starlette(
    middleware=[
        Middleware(SessionMiddleware, manager=signing_in),
        Middleware(AuthenticationMiddleware, backend=SessionAuth(load_user)),
    ]
)


@app.get("/devices", dependencies=[Depends(RecentSignIn(600))])
async def devices(user: CurrentUser, maybe: MaybeUser, session: Lately) -> list[str]:
    assert_type(session.principal, str | None)
    assert_type(session.authenticated_at, datetime | None)
    assert_type(session.authenticated_within(600.0), bool)
    assert_type(await signing_in.get("id"), Session | None)
    try:
        await session.reauthenticated()
    except SignInRefused:
        print(user.username, maybe)
    async with signing_in.session("id") as other:
        assert_type(other, Session)
    assert_type(await signing_in.revoke("id", principal=7), bool)
    assert_type(await signing_in.revoke_user("7", except_=session.id), int)
    assert_type(await signing_in.revoke_where(oidc_sid="1"), int)
    found = [info async for info in signing_in.sessions_of(7, current=session)]
    assert_type(found, list[SessionInfo])
    return [info.description for info in found if not info.current]


async def pay(request: Request) -> Response:
    try:
        session = await require_recent_sign_in(request, timedelta(minutes=10))
    except SignInRequired as error:
        return Response(error.reason, error.status_code)
    assert_type(session, Session)
    return Response()


# tests


class TestMyStore(StoreConformance):
    pass


async def use_testing() -> None:
    clock = ManualClock(0)
    assert_type(clock.advance(timedelta(hours=1)), int)
    assert_type(clock.ms, int)
    store = FaultStore(MemoryStore(clock=clock))
    store.fail("save", "lost reply", nth=2, times=None, match=lambda call: call.key == "key")
    gate = store.pause("load", when="after")
    await gate.reached()
    gate.release()
    assert_type(gate.arrived, int)
    store.hang(None).release()
    store.heal()
    assert_type(store.calls, list[Call])
    assert_type(store.counts(), dict[str, int])
    client = SessionClient(app)
    with client.session() as session:
        session["user"] = 1
    client.get("/")

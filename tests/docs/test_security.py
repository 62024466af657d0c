"""The page on security: its examples do what it says, and what it claims of OWASP's rules has tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Any

import pytest
from fastapi import FastAPI

from asgi_session import SessionManager, SessionMiddleware
from asgi_session.fastapi import SessionDep
from asgi_session.testing import SessionClient
from tests.docs.pages import ROOT, python, table
from tests.docs.test_examples import run
from tests.inside import COOKIE_NAME, fresh_token
from tests.servers import ServerProcess

PAGE = ROOT / "docs/security.md"
OWASP = PAGE.read_text().split("## OWASP ASVS 5.0", 1)[1]
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
CHAPTERS = {"3.3": 5, "7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 3, "7.6": 2}
"""The sections of ASVS 5.0.0 that the page goes through, with how many requirements each has."""


@cache
def functions_of(file: str) -> set[str]:
    """Return the test functions of a file."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions) and node.name[:5] == "test_"}


def test_every_test_that_is_named_exists() -> None:
    """A test that is renamed or removed is to be renamed or replaced on the page as well."""
    named = NAMED.findall(OWASP)
    assert len(named) > 60
    assert [f"{file}::{test}" for file, test in named if test not in functions_of(file)] == []


def test_every_requirement_has_a_row() -> None:
    """Each of ASVS's, in order; each says which test shows it, or what is the app's to do."""
    rows = table(PAGE, "requirement")
    numbers = [row[0].split(",")[0] for row in rows if not row[0].startswith("3.5.")]
    assert numbers == [f"{section}.{n + 1}" for section, count in CHAPTERS.items() for n in range(count)]
    for row in [*rows, *table(PAGE, "section")]:
        assert NAMED.search(row[-2]) or (row[-2] == "-" and (row[-1] != "-" or "Not possible" in row[1])), row
        assert all(row), row


def test_the_cookie_is_short() -> None:
    """Name and value are far from the 4,096 bytes that browsers keep, whatever the session holds."""
    plain, signed = (fresh_token(SessionManager("memory://", secret_key=key)) for key in (None, "k" * 32))
    assert (len(plain), len(signed)) == (44, 67)
    assert len(COOKIE_NAME) + len(signed) < 100


# ---------------------------------------------------------------- the examples


@pytest.fixture
async def page(configured: None, valkey: ServerProcess) -> dict[str, Any]:
    """What the examples define."""
    names: dict[str, Any] = {"__name__": PAGE.stem}
    for block in python(PAGE):
        await run(PAGE, block, names, valkey.url)
    return names


@pytest.fixture
def app(page: dict[str, Any]) -> FastAPI:
    """An app that calls the page's functions."""
    manager = page["manager"]
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)

    @app.get("/visit")
    async def visit(session: SessionDep) -> None:
        session["cart"] = ["tea"]

    @app.post("/login/{user_id}")
    async def login(user_id: int, session: SessionDep) -> str | None:
        page["log_in"](session, user_id)
        await session.commit()
        return session.id

    @app.post("/logout")
    async def logout(session: SessionDep) -> None:
        page["log_out"](session)

    @app.post("/switch/{user_id}")
    async def switch(user_id: int, session: SessionDep) -> None:
        page["switch_user"](session, user_id)

    @app.post("/password")
    async def password(session: SessionDep) -> int:
        return int(await page["change_password"](manager, session, "secret"))

    @app.post("/disable/{user_id}")
    async def disable(user_id: int) -> int:
        return int(await page["disable_account"](manager, user_id))

    @app.post("/devices/{session_id}")
    async def device(session_id: str, session: SessionDep) -> bool:
        return bool(await page["log_out_device"](manager, session, session_id))

    return app


def left(client: SessionClient) -> dict[str, Any]:
    with client.session() as session:
        return dict(session)


def test_a_planted_cookie(app: FastAPI) -> None:
    """Promise 8: whoever has planted a cookie before the page's login has nothing of the session after it."""
    attacker, victim = SessionClient(app), SessionClient(app)
    attacker.get("/visit")
    victim.cookies.update(attacker.cookies)
    victim.post("/login/7")
    assert left(victim) == {"cart": ["tea"], "user_id": 7}
    assert left(attacker) == {}


def test_a_new_password_ends_the_other_devices(app: FastAPI) -> None:
    """Promise 8: it ends theirs, not that of who has logged in on one of them since; one's own goes on."""
    phone, laptop, shared, other = (SessionClient(app) for _ in range(4))
    ids = {client.post("/login/8").json() for client in (phone, laptop, shared, other)}
    assert len(ids) == 4
    shared.post("/switch/9")
    other.post("/login/10")
    copy = SessionClient(app)
    copy.cookies.update(phone.cookies)
    assert phone.post("/password").json() == 1
    for client, found in ((phone, 8), (laptop, None), (shared, 9), (other, 10), (copy, None)):
        assert left(client).get("user_id") == found


def test_a_disabled_account(app: FastAPI) -> None:
    """Every session of the user ends, and nobody else's."""
    phone, laptop, other = (SessionClient(app) for _ in range(3))
    for client, user in ((phone, 7), (laptop, 7), (other, 5)):
        client.post(f"/login/{user}")
    assert other.post("/disable/7").json() == 2
    assert (left(phone), left(laptop), left(other)) == ({}, {}, {"user_id": 5})


def test_one_device(app: FastAPI) -> None:
    """The id of a device of one's own ends it; a stranger's does nothing."""
    phone, laptop, other = (SessionClient(app) for _ in range(3))
    phone.post("/login/7")
    theirs, strangers = laptop.post("/login/7").json(), other.post("/login/5").json()
    assert phone.post(f"/devices/{strangers}").json() is False
    assert phone.post(f"/devices/{theirs}").json() is True
    assert (left(laptop), left(other)) == ({}, {"user_id": 5})
    phone.post("/logout")
    assert left(phone) == {}

"""Every example of the documentation, executed."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from asgi_session import SessionMiddleware
from asgi_session.clock import system_clock
from asgi_session.fastapi import SessionDep
from asgi_session.testing import ManualClock, SessionClient
from tests.docs.pages import PAGES, ROOT, Block, blocks, name, python
from tests.inside import go_by
from tests.servers import ServerProcess

SHOWN = "redis://localhost:6379"
"""The server that pages name; the tests' own takes its place."""

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
APPS = ROOT / "docs/recipes.md"  # whole apps: test_recipes.py starts each in a process of its own
OF_STORES = [ROOT / f"docs/{each}.md" for each in ("dynamodb", "memcached", "s3", "simpledb", "sql")]
"""Pages whose examples need another server: a test of each store's own executes them."""

PLAIN = [
    page
    for page in PAGES
    if page != APPS
    and page not in OF_STORES
    and python(page)
    and not any("def test_" in block.text for block in python(page))
]
TESTS = [page for page in PAGES if any("def test_" in block.text for block in python(page))]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_readme_has_examples_verbatim(example: Path) -> None:
    """README shows each example file, letter by letter."""
    shown = {block.file: block.text for block in blocks(ROOT / "README.md") if block.file}
    assert shown[name(example)] == example.read_text()


async def run(page: Path, block: Block, names: dict[str, object], url: str, shown: str = SHOWN) -> None:
    """Execute a block as a page's reader would, `await` at the top level allowed."""
    source = block.text.replace(shown, url)
    code = compile(
        "\n" * (block.line - 1) + source,
        str(page),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,  # the page has not imported what this file has from __future__
    )
    result = eval(code, names)
    if inspect.iscoroutine(result):
        await result


@pytest.mark.parametrize("page", PLAIN, ids=name)
@pytest.mark.usefixtures("configured")
async def test_page_runs(page: Path, valkey: ServerProcess) -> None:
    """The Python of a page runs from top to bottom, against a real server where it names one."""
    names: dict[str, object] = {"__name__": page.stem}
    for block in python(page):
        await run(page, block, names, valkey.url)


@pytest.mark.parametrize("page", TESTS, ids=name)
def test_page_of_tests_passes(page: Path, tmp_path: Path) -> None:
    """The tests that a page shows pass under pytest, with warnings as errors."""
    for block in python(page):
        if block.file:
            (tmp_path / Path(block.file).name).write_text(block.text)
        else:
            with (tmp_path / "test_page.py").open("a") as file:
                file.write(block.text)
    shown = (tmp_path / "test_page.py").read_text().count("def test_")
    assert shown
    options = ["-q", "-c", "/dev/null", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    options += ["-o", "asyncio_default_fixture_loop_scope=function"]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", *options, "test_page.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout
    assert "skipped" not in result.stdout


def test_fastapi_example(monkeypatch: pytest.MonkeyPatch, valkey: ServerProcess) -> None:
    """The FastAPI example fills a cart, keeps it over a login, ends at logout, and costs /health nothing."""
    monkeypatch.setenv("SESSION_STORE", valkey.url)
    app = load(ROOT / "examples/fastapi_app.py").app
    with TestClient(app, base_url="https://testserver") as client:
        client.post("/cart/apple")
        client.post("/cart/pear")
        before = client.cookies["__Host-session"]
        assert client.post("/login/ada").json() == {"cart:apple": 1, "cart:pear": 1, "user": "ada"}
        assert client.cookies["__Host-session"] != before
        valkey.reset_stats()
        assert client.get("/health").json() == "ok"
        assert valkey.commandstats().keys() <= {"ping"}
        assert client.post("/logout").status_code == 204
        assert client.post("/cart/fig").json() == {"cart:fig": 1}


def test_starlette_example(monkeypatch: pytest.MonkeyPatch, valkey: ServerProcess) -> None:
    """The Starlette example counts."""
    monkeypatch.setenv("SESSION_STORE", valkey.url)
    app = load(ROOT / "examples/starlette_app.py").app
    with TestClient(app, base_url="https://testserver") as client:
        assert client.post("/count").json() == {"count": 1}
        assert client.post("/count").json() == {"count": 2}


@pytest.fixture
async def requests_page(valkey: ServerProcess) -> dict[str, Any]:
    """The names that the page on requests defines."""
    page = ROOT / "docs/requests.md"
    names: dict[str, Any] = {"__name__": page.stem}
    for block in python(page):
        await run(page, block, names, valkey.url)
    return names


def test_answering_errors(requests_page: dict[str, Any]) -> None:
    """The handler that answers an error its own way answers 413, and the note from before is still there."""
    client = SessionClient(requests_page["app"])
    assert client.post("/note", content="short").status_code == 200
    assert client.post("/note", content="x" * 2000).status_code == 413
    with client.session() as session:
        assert session == {"note": "short"}


def test_websocket(requests_page: dict[str, Any]) -> None:
    """The WebSocket counts messages, and a second one goes on counting in the same session."""
    with SessionClient(requests_page["chat"]) as client:
        with client.session() as session:  # or the accept's cookie would be lost on the client
            session["messages"] = 5
        for number in (6, 7):
            with client.websocket_connect("/chat") as websocket:
                websocket.send_text("hello")
                assert websocket.receive_json() == [number, "hello"]
        with client.session() as session:
            assert session == {"chatting": True, "messages": 7}


def test_manager_of_ones_own(requests_page: dict[str, Any]) -> None:
    """The admin page's revoke answers whether there was such a session, and 404 to what is no id."""
    with TestClient(requests_page["admin"], base_url="https://testserver") as client:
        assert client.delete(f"/sessions/{'A' * 22}").json() is False
        assert client.delete("/sessions/nonsense").status_code == 404


async def test_readiness(fresh_valkey: ServerProcess) -> None:
    """The page on Redis answers 204 while the store is there, and 503 when it is not."""
    page = ROOT / "docs/redis.md"
    names: dict[str, Any] = {"__name__": page.stem}
    for block in python(page):
        await run(page, block, names, fresh_valkey.url)
    names["manager"].deadline = 0.3
    with TestClient(names["app"], base_url="https://testserver") as client:
        assert client.get("/ready").status_code == 204
        fresh_valkey.kill()
        assert client.get("/ready").status_code == 503


@pytest.fixture
async def security_page(configured: None, valkey: ServerProcess) -> dict[str, Any]:
    """What the examples of the page on security define."""
    page = ROOT / "docs/security.md"
    names: dict[str, Any] = {"__name__": page.stem}
    for block in python(page):
        await run(page, block, names, valkey.url)
    return names


def test_rotating_periodically(security_page: dict[str, Any]) -> None:
    """The page on security has a manager that replaces an old cookie, and ends a session at a replay."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=security_page["rotating"])
    clock = ManualClock(system_clock())
    go_by(security_page["rotating"], clock)

    @app.get("/")
    async def show(session: SessionDep) -> dict[str, Any]:
        return dict(session)

    client, thief = SessionClient(app), SessionClient(app)
    with client.session() as session:
        session["user"] = "ada"
    client.get("/")
    thief.cookies.update(client.cookies)
    clock.advance(15 * 60)
    for _ in range(2):
        assert client.get("/").json() == {"user": "ada"}
    assert dict(client.cookies) != dict(thief.cookies)
    clock.advance(15)
    assert thief.get("/").json() == {}
    assert client.get("/").json() == {}, "it has ended"

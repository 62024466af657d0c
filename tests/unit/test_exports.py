"""What the package exports, what it imports, and which way its imports point."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import asgi_session
from asgi_session import errors, testing
from asgi_session.errors import SessionError

ROOT = Path(asgi_session.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}

LEAVES = {"errors", "clock"}
SHARED = {"_secret", "_options", "_backoff"}
CONTRACT = {"store"}
PURE = {name.removeprefix("asgi_session.") for name in MODULES if name.startswith("asgi_session._data")} | {
    "merging",
    "_web.cookie",
    "_web.decision",
    "_web.same_origin",
    "_engine.lock_state",
    "_engine.batch",
    "_options",
}
"""Decisions: no I/O."""

LAYERS = (
    ("errors", "clock"),
    ("store", "_options", "_backoff", "_secret"),
    ("_data",),
    ("merging", "stores"),
    ("_failures", "_policy"),
    ("_session",),
    ("_engine",),
    ("_web", "migrating"),
    ("fastapi", "auth", "", "testing"),
    ("__main__",),
)
"""From the lowest to the highest: a module knows its own layer and those below."""

ASGI = {"fastapi", "auth", "migrating"} | {
    name.removeprefix("asgi_session.") for name in MODULES if name.startswith("asgi_session._web.")
}


def test_all_is_sorted_and_complete() -> None:
    """`__all__` lists everything public that the package holds, in order, once."""
    names = asgi_session.__all__
    assert names == sorted(set(names))
    public = {
        name
        for name, value in vars(asgi_session).items()
        if not name.startswith("_") and not isinstance(value, type(sys)) and name != "annotations"
    }
    assert public == set(names)
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, SessionError):
            assert error.__name__ in names


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_imports_and_says_what_it_is_for(name: str) -> None:
    """Each module has a docstring, and every name in its `__all__` exists."""
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", ()):
        assert getattr(module, public) is not None


@pytest.mark.parametrize("name", sorted({*asgi_session.__all__, *testing.__all__}))
def test_public_names_are_documented(name: str) -> None:
    """Everything public has a docstring."""
    assert (getattr(asgi_session, name, None) or getattr(testing, name)).__doc__


def imported_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    return set(output.split())


def test_importing_the_package_is_cheap() -> None:
    """`import asgi_session` loads no client of a store, no framework but Starlette, no test tool."""
    loaded = {name.partition(".")[0] for name in imported_by("import asgi_session")}
    assert {"asgi_session", "starlette", "msgpack"} <= loaded
    assert not loaded & {
        "redis", "hiredis", "fastapi", "pydantic", "pytest", "hypothesis", "httpx", "boto3", "botocore",
        "aiobotocore", "aiohttp", "sqlalchemy", "asyncpg", "asyncmy", "aiosqlite", "uvloop", "jinja2",
        "cryptography", "itsdangerous",
    }  # fmt: skip


def test_a_store_in_memory_needs_no_client() -> None:
    """Neither does a manager with a store in memory."""
    made = "from asgi_session import SessionManager\nSessionManager('memory://')"
    assert not {name.partition(".")[0] for name in imported_by(made)} & {
        "redis",
        "hiredis",
        "fastapi",
        "pytest",
    }


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, at any depth, those for type checking included."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in MODULES else node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def own(path: Path) -> set[str]:
    """Return the parts of this package that a file imports, without the package's name."""
    return {
        name.partition(".")[2]
        for name in imports(path)
        if name == "asgi_session" or name.startswith("asgi_session.")
    }


IO = {
    "asyncio", "anyio", "socket", "ssl", "selectors", "threading", "starlette", "fastapi", "redis", "hiredis",
    "time", "logging", "subprocess", "pathlib", "urllib", "http",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_leaves_import_nothing_of_ours(name: str) -> None:
    """Errors and clock know nobody."""
    assert own(MODULES[f"asgi_session.{name}"]) == set()


@pytest.mark.parametrize("name", sorted(PURE))
def test_decisions_do_no_io(name: str) -> None:
    """They are functions of their arguments: nothing that they import does any I/O."""
    path = MODULES[f"asgi_session.{name}"]
    allowed = {"starlette"} if name == "_web.decision" else set()  # the errors that it tells apart
    assert not ({module.partition(".")[0] for module in imports(path)} & IO) - allowed


def layer(name: str) -> int:
    """Return which layer a module is in, counted from below."""
    first = name.removeprefix("asgi_session").removeprefix(".").partition(".")[0]
    return next(number for number, layer in enumerate(LAYERS) if first in layer)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_knowledge_goes_one_way(name: str) -> None:
    """Each module imports its own layer and lower ones, for type checking too."""
    for module in imports(MODULES[name]):
        if module in MODULES:
            assert layer(module) <= layer(name), f"{name} imports {module}"


def test_the_contract_knows_nobody() -> None:
    """A store's author reads one file."""
    assert own(MODULES["asgi_session.store"]) == set()


STORES = sorted(name for name in MODULES if name.startswith("asgi_session.stores."))

ON_BLOBS = {
    "asgi_session.stores.memcached.store",
    "asgi_session.stores.s3.store",
    "asgi_session.stores.simpledb",
}
"""The stores that are made on `BlobStore`, a base that other people's stores may use as well."""


@pytest.mark.parametrize("name", STORES)
def test_stores_know_neither_the_core_nor_each_other(name: str) -> None:
    """A store imports the contract, the leaves, and what is its own."""
    kind = ".".join(name.split(".")[1:3])
    shared = "stores._shared", kind, *(["stores.blobs"] if name in ON_BLOBS else [])
    for module in own(MODULES[name]):
        known = any(module == each or module.startswith(f"{each}.") for each in shared)
        assert module in CONTRACT | LEAVES | SHARED or known, module


def test_only_the_edge_knows_the_frameworks() -> None:
    """Starlette is known to the edge, its Secret to one file more; FastAPI to one, redis to its store."""
    for name, path in MODULES.items():
        known = {module.partition(".")[0] for module in imports(path)}
        short = name.removeprefix("asgi_session.")
        if "starlette" in known:
            assert short in {"_secret", "fastapi", "auth"} or short.startswith(("_web.", "testing")), name
        if "fastapi" in known:
            assert short == "fastapi", name
        if known & {"redis", "hiredis"}:
            assert short.startswith("stores.redis"), name
        if known & {"sqlalchemy", "asyncpg", "asyncmy", "aiosqlite"}:
            assert short.startswith("stores.sql"), name
        # `need` brings these when a store is made that works with them.
        assert not known & {"aiobotocore", "botocore", "aiohttp"}, name
        if "pytest" in known:
            assert short.startswith("testing"), name


def test_the_core_does_not_know_the_edge() -> None:
    """Arrows point one way: nothing below the middleware imports it, nothing shipped imports the tests."""
    edge = {f"asgi_session.{name}" for name in ASGI} | {"asgi_session"}
    for name, path in MODULES.items():
        short = name.removeprefix("asgi_session.")
        if short not in ASGI and name != "asgi_session" and not short.startswith("testing"):
            assert not imports(path) & edge, name
            assert not any(module.startswith("asgi_session.testing") for module in imports(path)), name


def test_imports_go_round_in_no_circle() -> None:
    """No module imports, however far around, a module that imports it."""
    arrows = {
        name: {module for module in imports(path) if module in MODULES} for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in sorted(arrows[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in sorted(MODULES):
        visit(name, ())


PUBLIC = {"errors", "clock", "store", "merging", "migrating", "fastapi", "auth", "stores", "testing"}
"""Modules that users import from; besides these, the names in the package's `__all__`."""

OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields", "_make"}  # public, in spite of their names


def _private_uses(source: str) -> list[str]:
    """Return what code of the testing package uses of the core that is private there.

    An attribute that begins with an underscore must be the file's own: set on ``self``, or a method.
    """
    tree = ast.parse(source)
    own = {
        node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        )
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("asgi_session.")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "asgi_session":
            module = (node.module or "").partition(".")[2]
            names = [alias.name for alias in node.names]
            if not module:
                found += [name for name in names if name not in asgi_session.__all__]
            elif module.partition(".")[0] not in PUBLIC:
                found += [f"{module}.{name}" for name in names]
            elif not module.startswith("testing"):
                found += [f"{module}.{name}" for name in names if name.startswith("_")]
        elif isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            found += [node.attr] if private and node.attr not in own | OF_NAMED_TUPLES else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "setattr", "hasattr", "delattr"):
                name = node.args[1]
                assert isinstance(name, ast.Constant | ast.Name), ast.unparse(node)
                if isinstance(name, ast.Constant) and name.value.startswith("_"):
                    found.append(name.value)
            elif node.func.id in ("vars", "eval", "exec"):
                found.append(node.func.id)
    return found


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("asgi_session.testing")))
def test_the_testing_package_uses_public_names_alone(name: str) -> None:
    """What is shipped for other people's tests does not reach into the core, whose insides may change."""
    assert _private_uses(MODULES[name].read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from asgi_session._data import lease", ["_data.lease"]),
        ("from asgi_session._data.lease import Lease", ["_data.lease.Lease"]),
        ("import asgi_session._engine.lock_queue", ["asgi_session._engine.lock_queue"]),
        ("from asgi_session.store import _hidden", ["store._hidden"]),
        ("manager._loops.current().locks", ["_loops"]),
        ("getattr(manager, '_loops')", ["_loops"]),
        ("class Ear:\n def __init__(self): self._heard = 1\nEar()._heard", []),
        ("from asgi_session import SessionManager\nSessionManager.lock", []),
    ],
)
def test_private_uses_are_found(source: str, found: list[str]) -> None:
    """The test above would notice."""
    assert _private_uses(source) == found


def test_the_map_names_every_file_of_the_core() -> None:
    """CONTRIBUTING's map of the parts is the core as it is."""
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    parts = text[text.index("## The parts") : text.index("## One request")]
    named = set(re.findall(r"\w+", parts))
    for name in MODULES:
        *packages, module = name.split(".")[1:] or [""]
        if packages and packages[0] in ("_data", "_session", "_engine", "_web"):
            assert module in named, name

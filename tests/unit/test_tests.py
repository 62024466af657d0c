"""What the tests know of the library's inside: one file of them, so that the core may be laid out anew."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import asgi_session
from tests.unit.test_exports import OF_NAMED_TUPLES, PURE, SHARED

ROOT = Path(__file__).parents[1]
LIBRARY = Path(asgi_session.__file__).parent
INSIDE = "inside.py"
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if path.name != INSIDE)

EXCEPTIONS = {
    # Of asyncio: whether the loop has something ready, and a task that is left behind on purpose.
    "manager/explorer.py": {"_ready"},
    "manager/test_shutdown.py": {"_log_destroy_pending"},
    # Of the benchmarks, whose tests these are.
    "benchmarks/test_correctness.py": {"_apps"},
    "benchmarks/test_locks.py": {"_add_one"},
    # A pure function, in its own unit test.
    "unit/test_merging.py": {"_places"},
}


def private_names(path: Path) -> set[str]:
    """Return the private names that a file of the library defines, reads or sets."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.FunctionDef(name=name):
                names.add(name)
            case ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
    return {name for name in names if is_private(name)}


@cache
def private_in_core() -> set[str]:
    """Return the private names of the library's private modules."""
    return {
        private
        for path in LIBRARY.rglob("*.py")
        if any(is_private(part) for part in path.relative_to(LIBRARY).parts)
        for private in private_names(path)
    }


@cache
def private_in_stores() -> set[str]:
    """Return the private names of the stores and of what is shipped for tests."""
    return {
        private
        for part in ("stores", "testing")
        for path in (LIBRARY / part).rglob("*.py")
        for private in private_names(path)
    }


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_NAMED_TUPLES | {"_"}


def own_names(tree: ast.AST) -> set[str]:
    """Return the names that a file gives to functions, methods and attributes of its own objects."""
    own: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                own.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                own.add(name)
    return own


def inside_uses(source: str, *, pure: bool = False) -> list[str]:
    """Return what code of the tests uses of the library that is private there.

    Args:
        source: the code.
        pure: whether it may import pure and shared modules of the library, as their own unit tests do.
    """
    tree = ast.parse(source)
    own = own_names(tree)
    found: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.startswith("asgi_session._")]
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "asgi_session":
                within = module.removeprefix("asgi_session").removeprefix(".")
                for alias in names:
                    full = ".".join(filter(None, [within, alias.name]))
                    allowed = pure and {within, full} & (PURE | SHARED)
                    if not allowed and any(is_private(part) for part in full.split(".")):
                        found.append(full)
            case ast.Attribute(attr=name) if is_private(name) and name not in own:
                found.append(name)
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"), args=[_, what, *_]
            ):
                if isinstance(what, ast.Constant) and is_private(str(what.value)):
                    found.append(str(what.value))
            case ast.Call(func=ast.Attribute(attr="setattr" | "delattr"), args=[first, *rest]):
                for text in (first, *rest[:1]):  # of a monkeypatch
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        parts = text.value.split(".")
                        found += [text.value] if any(is_private(part) for part in parts) else []
    return found


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("stores/")])
def test_one_file_knows_the_inside(name: str) -> None:
    """All others ask it, or look from outside; unit tests may import the pure module that they test."""
    used = inside_uses((ROOT / name).read_text(), pure=name.startswith("unit/"))
    assert set(used) == EXCEPTIONS.get(name, set())


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("stores/")])
def test_the_stores_tests_know_nothing_of_the_core(name: str) -> None:
    """They test private parts of the stores, but neither import the core nor read what is private there."""
    for used in inside_uses((ROOT / name).read_text()):
        assert "." not in used or used.startswith("stores._shared."), f"{used} is imported"
        assert used not in private_in_core() - private_in_stores(), used


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from asgi_session._engine import lock_queue", ["_engine.lock_queue"]),
        ("from asgi_session._session.session import Session", ["_session.session.Session"]),
        ("from asgi_session._data import codec", ["_data.codec"]),
        ("from asgi_session._data.codec import decode", ["_data.codec.decode"]),
        ("from asgi_session import _failures", ["_failures"]),
        ("import asgi_session._web.exchange", ["asgi_session._web.exchange"]),
        ("session._status", ["_status"]),
        ("session._sealed = True", ["_sealed"]),
        ("manager._loops.current().locks._stop", ["_stop", "_loops"]),
        ("getattr(session, '_status')", ["_status"]),
        ("monkeypatch.setattr(module, '_FIRST_RENEWAL', 1)", ["_FIRST_RENEWAL"]),
        ("monkeypatch.setattr('asgi_session._engine.loading.x', 1)", ["asgi_session._engine.loading.x"]),
        ("class Ear:\n def __init__(self): self._heard = 1\nEar()._heard", []),
        ("from asgi_session import SessionManager\nstored._replace(data=b'')", []),
    ],
)
def test_uses_are_found(source: str, found: list[str]) -> None:
    """The tests above would notice."""
    assert inside_uses(source) == found


def test_pure_modules_have_unit_tests_that_import_them() -> None:
    """Nothing else is let through for them."""
    assert inside_uses("from asgi_session._data import codec, lease", pure=True) == []
    assert inside_uses("from asgi_session._engine.loops import Loops", pure=True) == ["_engine.loops.Loops"]

"""Who knows what a session is: its own package assigns it, others call methods; and how long files are."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.unit.test_exports import MODULES, ROOT

SESSION = "asgi_session._session"
CLASSES = {"Contents", "Tracked", "Versioned", "Serving", "Telling", "Marking", "Session"}
OUTSIDE = {name: path for name, path in MODULES.items() if not name.startswith(SESSION)}

MOST_READS = 75
"""Of a session's private attributes, by others: lower it when it falls."""
MOST_CALLS = 73
"""Of a session's private methods, by others: likewise."""
LONGEST = 262
"""Lines of code that a file of the core may have, without docstrings, comments and empty lines: likewise."""

NO_SESSIONS = {"self", "cls", "manager", "self.manager"}
"""Whose attributes of the same names are others: outside the package `self` is no session."""
MUTATORS = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft",
    "remove", "reverse", "setdefault", "sort", "update", "__delitem__", "__ior__", "__setattr__",
    "__delattr__", "__setitem__",
}  # fmt: skip


def of_sessions() -> tuple[set[str], set[str]]:
    """Return the attributes and the private methods of a session, as its classes list them."""
    attributes: set[str] = set()
    methods: set[str] = set()
    for name, path in MODULES.items():
        if not name.startswith(SESSION):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef) or node.name not in CLASSES:
                continue
            for part in node.body:
                match part:
                    case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                        attributes.update(ast.literal_eval(value))
                    case ast.AnnAssign(target=ast.Name(id=attribute)):
                        attributes.add(attribute)
                    case ast.FunctionDef(name=method) | ast.AsyncFunctionDef(name=method):
                        methods.add(method)
    private = {name for name in methods if name.startswith("_") and not name.startswith("__")}
    return attributes - {"__weakref__"}, private


STATE, METHODS = of_sessions()


def test_the_state_is_known() -> None:
    """The slots were found, each class's, and nothing is both an attribute and a method."""
    assert {"_watched", "_status", "_commit"} <= STATE
    assert {"_attach", "_detach", "_seal", "_saved"} <= METHODS
    assert not STATE & METHODS


def of_a_session(node: ast.AST) -> bool:
    """Tell whether this is an attribute of a session's, or something in one."""
    while True:
        match node:
            case ast.Attribute(value=value, attr=name) if (
                name in STATE and ast.unparse(value) not in NO_SESSIONS
            ):
                return True
            case ast.Attribute(value=inner) | ast.Subscript(value=inner) | ast.Starred(value=inner):
                node = inner
            case _:
                return False


def pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Give the targets of an assignment with their values, those of tuples one by one."""
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, other in zip(target.elts, value.elts, strict=False):
            yield from pairs(one, other)
    else:
        yield target, value


def other_names(tree: ast.AST) -> set[str]:
    """Return the local names under which a session's attributes are held, too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        targets: list[tuple[ast.expr, ast.expr]] = []
        match node:
            case ast.Assign(targets=several, value=value):
                targets = [pair for target in several for pair in pairs(target, value)]
            case ast.NamedExpr(target=target, value=value):
                targets = [(target, value)]
        for target, value in targets:
            if isinstance(target, ast.Name) and of_a_session(value):
                names.add(target.id)
    return names


def assignments(source: str) -> list[str]:
    """Return where code changes a session's state: assigned, deleted, or changed in place."""
    found: list[str] = []

    def held(node: ast.AST, names: set[str]) -> bool:
        while isinstance(node, ast.Subscript):
            node = node.value
        return of_a_session(node) or (isinstance(node, ast.Name) and node.id in names)

    def visit(node: ast.AST, names: set[str]) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            names = names | other_names(node)
        match node:
            case ast.Attribute(ctx=ast.Store() | ast.Del()) if of_a_session(node):
                found.append(ast.unparse(node))
            case ast.Subscript(ctx=ast.Store() | ast.Del()) if held(node.value, names):
                found.append(ast.unparse(node))
            case ast.AugAssign(target=ast.Name(id=name)) if name in names:
                found.append(ast.unparse(node))
            case ast.Call(func=ast.Attribute(value=value, attr=method)) if method in MUTATORS:
                # Also `dict.update(session, ...)` and `object.__setattr__(session, ...)`.
                if held(value, names) or ast.unparse(value) in ("dict", "object"):
                    found.append(ast.unparse(node))
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[_, what, *_]):
                if not isinstance(what, ast.Constant) or what.value in STATE:
                    found.append(ast.unparse(node))
        for child in ast.iter_child_nodes(node):
            visit(child, names)

    visit(ast.parse(source), set())
    return found


@pytest.mark.parametrize("name", sorted(OUTSIDE))
def test_nobody_else_assigns_what_a_session_is(name: str) -> None:
    """Outside its package a session's state changes by its named methods alone."""
    assert assignments(OUTSIDE[name].read_text()) == []


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("session._status = 'live'", 1),
        ("hold.session._mark = None", 1),
        ("session._era += 1", 1),
        ("session._waited: float = 0.0", 1),
        ("del session._touch", 1),
        ("session._token, other = 1, 2", 1),
        ("for session._era in range(3): pass", 1),
        ("session._watched['key'] = None", 1),
        ("session._watched['key'] += 1", 1),
        ("del session._watched['key']", 1),
        ("session._watched.pop('key', None)", 1),
        ("session._watched['key'].append(1)", 1),
        ("commit.session._assigned.update(other)", 1),
        ("session._version.record = None", 1),
        ("setattr(session, '_status', 'live')", 1),
        ("setattr(session, name, 'live')", 1),
        ("delattr(session, '_mark')", 1),
        ("object.__setattr__(session, '_mark', None)", 1),
        ("dict.__setitem__(session, 'key', 1)", 1),
        ("dict.clear(session)", 1),
        ("def f():\n watched = session._watched\n watched['key'] = None", 1),
        ("def f():\n a, watched = 1, session._watched\n watched.clear()", 1),
        ("def f():\n watched = session._watched\n watched |= other", 1),
        ("status = session._status", 0),
        ("session._seal()", 0),
        ("session['key'] = 1", 0),
        ("self.session.discard()", 0),
        ("self._hold = hold", 0),
        ("commit.mark = session._mark", 0),
        ("def f():\n watched = session._watched\ndef g():\n watched = {}\n watched['key'] = None", 0),
    ],
)
def test_assignments_are_found(line: str, count: int) -> None:
    """The test above would notice."""
    assert len(assignments(line)) == count


def reads(names: set[str]) -> Counter[str]:
    """Count, per module outside the package, how often it names one of these of a session."""
    return Counter(
        name
        for name, path in OUTSIDE.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in names
        and ast.unparse(node.value) not in NO_SESSIONS
    )


def test_others_read_no_more_of_a_session_than_they_do() -> None:
    """What others know of its state only gets less, and what they ask of it by private methods, too."""
    attributes, methods = reads(STATE), reads(METHODS)
    assert attributes.total() <= MOST_READS, attributes.most_common()
    assert methods.total() <= MOST_CALLS, methods.most_common()
    # The policy knows of the connection alone; stores and what is shipped for tests of nothing at all.
    assert {name.split(".")[1] for name in attributes | methods} <= {"_engine", "_policy", "_web"}


def code_lines(source: str) -> int:
    """Return how many lines have code on them: no docstring, no comment alone, no empty line."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                docstrings.update(range(first, last + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (
            tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
            tokenize.ENDMARKER,
        ):  # fmt: skip
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_lines_of_code_are_counted() -> None:
    """What explains is no length: only what has to be followed counts."""
    assert code_lines('"""Doc.\n\nMore."""\n\n# why\nx = (\n    1,  # one\n\n    2,\n)\n"""Of x."""\n') == 4


CORE = sorted(
    name
    for name, path in MODULES.items()
    if path.relative_to(ROOT).parts[0].startswith("_") and name != "asgi_session"
)


@pytest.mark.parametrize("name", CORE)
def test_no_file_of_the_core_is_too_long(name: str) -> None:
    """One idea per file: one that grows beyond this has got a second."""
    assert code_lines(MODULES[name].read_text()) <= LONGEST

"""The documentation's tables and links, held against the code."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from inspect import Parameter, signature
from pathlib import Path

import pytest

from asgi_session import SessionManager, SessionMiddleware, errors
from asgi_session.clock import system_clock
from tests.docs.pages import PAGES, ROOT, blocks, name, table
from tests.inside import http_status, manager_options, record_format

UNITS = {
    "day": timedelta(days=1),
    "days": timedelta(days=1),
    "hour": timedelta(hours=1),
    "s": timedelta(seconds=1),
}


def default_of(text: str) -> object:
    """Return the value that a cell of README's default column stands for."""
    if found := re.fullmatch(r"(\d+) (\w+)", text):
        number, unit = int(found[1]), found[2]
        return number * 1024 if unit == "KiB" else number * UNITS[unit]
    if text == "`system_clock`":
        return system_clock
    return ast.literal_eval(text.strip("`"))


def as_duration(option: str, value: object) -> object:
    if option.endswith("_timeout") or option == "deadline":
        return value if isinstance(value, timedelta) else timedelta(seconds=value)  # type: ignore[arg-type]
    return value


def test_options() -> None:
    """README's tables have every option of the middleware and the manager, with its default."""
    shown = {row[0].strip("`"): default_of(row[1]) for row in table(ROOT / "README.md", "option")}
    own = {**signature(SessionMiddleware).parameters, **signature(SessionManager).parameters}
    real = {
        option: as_duration(option, None if parameter.default is Parameter.empty else parameter.default)
        for option, parameter in own.items()
        if option not in ("app", "manager", "options")
    }
    assert shown == real
    assert manager_options() <= shown.keys()


def test_errors() -> None:
    """The table error -> status has every error that can come out of a session, with its status."""
    examples: dict[str, Exception] = {
        "SessionTooLarge": errors.SessionTooLarge("", size=1, max_size=1),
    }
    shown = {row[0].strip("`"): int(row[1]) for row in table(ROOT / "docs/requests.md", "error")}
    for error, status in shown.items():
        assert http_status(examples.get(error) or getattr(errors, error)("")) == status
    apart = {"SessionError", "ConfigurationError"}
    known = {key for key, value in vars(errors).items() if isinstance(value, type) and key[0].isupper()}
    assert shown.keys() == known - apart


def emitted() -> dict[str, set[str]]:
    """Return each event that the code emits, with the names of its info."""
    events: dict[str, set[str]] = {}
    for path in (ROOT / "asgi_session").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("emit", "_emit")
                and isinstance(node.args[0], ast.Constant)
            ):
                events.setdefault(str(node.args[0].value), set()).update(
                    str(k.arg)
                    for k in node.keywords
                    if k.arg != "session"  # which `connection` comes from
                )
    return events


def test_events() -> None:
    """The page on events has every event that the code emits, with its info."""
    shown = {
        row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1]))
        for row in table(ROOT / "docs/events.md", "name")
    }
    assert shown == emitted()


def test_record_format() -> None:
    """The page on the record has the layout that the code's docstring has."""
    squeezed = " ".join(record_format().split())
    (layout,) = (block for block in blocks(ROOT / "docs/record-format.md") if block.language == "text")
    assert " ".join(layout.text.split()) in squeezed


def test_rights() -> None:
    """The rights on the page about Redis are those of the code's docstring."""
    from asgi_session.stores import redis

    rights = set(re.findall(r"\+[a-z|\-]+\w", redis.__doc__ or ""))
    page = (ROOT / "docs/redis.md").read_text()
    section = page.split("\n## Permissions\n")[1].split("\n## ")[0]
    assert rights == set(re.findall(r"\+[a-z|\-]+\w", section))


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links(page: Path) -> None:
    """Links between the pages lead somewhere."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        other = page.parent / file if file else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target

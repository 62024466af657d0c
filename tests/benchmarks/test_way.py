"""The way of one request, and the order of files by which it climbs."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.way import Call, climbs, heights, imports, lines, root_of_package

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"(?P<mark>[ ^!]) (?P<indent> *)(?P<name>\S+) +(?P<height>\d+) (?P<file>\S+\.py)")


@pytest.mark.parametrize(("option", "store"), [("--write", "save"), ("--read", "load"), ("--new", "create")])
def test_the_sums_are_those_of_the_lines(option: str, store: str) -> None:
    """The command prints every call of one request, and sums that anyone can count again."""
    command = [sys.executable, "-m", "benchmarks.way", option]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    *shown, empty, sums = done.stdout.splitlines()
    calls = [match.groupdict() for line in shown if (match := LINE.fullmatch(line))]
    assert len(calls) == len(shown) and empty == ""
    assert calls[0]["name"] == "SessionMiddleware.__call__" and calls[0]["indent"] == ""
    verbs = {call["name"] for call in calls if call["file"] == "stores/memory.py"}
    assert f"MemoryStore.{store}" in verbs
    rises = [int(after["height"]) > int(before["height"]) for before, after in pairwise(calls)]
    assert [call["mark"] in "^!" for call in calls] == [False, *rises]
    functions, number, files, up, below = map(int, re.findall(r"\d+", sums))
    assert number == len(calls)
    assert files == len({call["file"] for call in calls})
    assert up == sum(rises)
    assert below == sum(call["mark"] == "!" for call in calls)
    # Two functions of a file may share a name, as those that a property is made of do.
    assert len({(call["file"], call["name"]) for call in calls}) <= functions <= number


@pytest.mark.parametrize(
    ("option", "functions", "calls", "below"), [("--write", 64, 72, 3), ("--read", 33, 36, 1)]
)
def test_the_way_grows_no_longer_unnoticed(option: str, functions: int, calls: int, below: int) -> None:
    """What an ordinary request passes through is a figure that a reader pays for: lower it when it falls."""
    command = [sys.executable, "-m", "benchmarks.way", option]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    found = list(map(int, re.findall(r"\d+", done.stdout.splitlines()[-1])))
    assert found[0] <= functions
    assert found[1] <= calls
    assert found[4] <= below


def test_the_documentation_shows_the_way_as_it_is() -> None:
    """CONTRIBUTING has the command's own output."""
    command = [sys.executable, "-m", "benchmarks.way", "--write"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.rstrip() in (ROOT / "CONTRIBUTING.md").read_text()


def test_the_way_is_the_same_each_time() -> None:
    """It is traced after what is done once, and nothing in it is left to chance."""
    command = [sys.executable, "-m", "benchmarks.way"]
    runs = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_files_are_above_what_they_import(tmp_path: Path) -> None:
    """Whatever the form of the import; one for type checkers counts unless it would close a circle."""
    package = tmp_path / "package"
    for file, text in {
        "__init__.py": "from package.top import f",
        "top.py": "from package import middle\nfrom package.deep.leaf import g",
        "middle.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.top import f\n"
        "else:\n    from .low import h",
        "low.py": "def h():\n    from package.deep import leaf",
        "typed.py": "import typing\nif typing.TYPE_CHECKING:\n    from . import low",
        "deep/__init__.py": "",
        "deep/leaf.py": "from ..lone import x",
        "lone.py": "import os",
    }.items():
        (package / file).parent.mkdir(exist_ok=True, parents=True)
        (package / file).write_text(text)
    now, later = imports(package)
    assert later["middle.py"] == {"top.py"} and later["low.py"] == {"deep/leaf.py"}
    assert heights(now, later) == {
        "lone.py": 1,
        "deep/__init__.py": 1,
        "deep/leaf.py": 2,
        "low.py": 3,
        "typed.py": 4,
        "middle.py": 4,
        "top.py": 5,
        "__init__.py": 6,
    }


def test_files_in_a_circle_have_one_height() -> None:
    """None of them is above another, and all are above what any of them imports."""
    now = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set[str]()}
    assert heights(now, {file: set() for file in now}) == {"a": 2, "b": 2, "c": 2, "d": 1}


def test_the_way_climbs_into_higher_files_only() -> None:
    """By a call, or after a return; a call within a file or of a lower one does not."""
    height = {"high.py": 3, "middle.py": 2, "low.py": 1}
    way = ["high.py", "middle.py", "low.py", "middle.py", "middle.py", "low.py", "high.py", "low.py"]
    calls = [Call(0, file, "f", 1) for file in way]
    assert climbs(calls, height) == [False, False, False, True, False, False, True, False]
    assert (
        lines(calls, height)[-1]
        == "3 functions (8 calls), 3 files, 2 climbs (^), 0 of them calls from below (!)"
    )
    assert climbs([], height) == []


def test_every_file_of_the_package_has_a_height() -> None:
    """What the public package imports stands below it."""
    height = heights(*imports(root_of_package()))
    assert height["errors.py"] == 1
    assert height["__init__.py"] > height["store.py"]

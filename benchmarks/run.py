"""A run: every question asked in turn, and what they answered, as one JSON file."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.environment import environment
from benchmarks.results import Question, Row, Table, Target, name_of

FORMAT: Final = 1
RESULTS: Final = "results.json"
SAME: Final = ("quick", "cpu", "cores", "pinned", "system", "python", "server")
"""What two runs must have in common to stand on one page."""


@dataclass
class Answer:
    """What one question has given.

    Attributes:
        name: of the question, on the command line.
        question: its module.
        rows: what was measured.
        seconds: how long that took.
        error: the traceback, if it failed.
        later: when, and at which commit, if it is from a later run than the others.
    """

    name: str
    question: Question
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""
    later: str = ""

    def tables(self) -> list[Table]:
        """Return the rows as tables."""
        return self.question.tables(self.rows) if self.rows else []

    def plots(self) -> dict[str, Any]:
        """Return the rows as figures."""
        return self.question.plots(self.rows) if self.rows else {}

    def findings(self) -> list[str]:
        """Return what the rows say, in sentences."""
        say = getattr(self.question, "findings", None)
        return say(self.rows) if self.rows and say is not None else []

    def targets(self) -> list[Target]:
        """Return the targets that the rows can judge."""
        return self.question.targets(self.rows) if self.rows else []


@dataclass
class Run:
    """A run's environment and its answers, in the order in which they were asked for."""

    environment: dict[str, Any]
    answers: list[Answer] = field(default_factory=list)

    def renew(self, later: Run) -> None:
        """Put the answers of a later run in the place of this one's, and those to new questions behind.

        ValueError if that had another machine or other software.
        """
        for name in SAME:
            if self.environment[name] != later.environment[name]:
                theirs, ours = later.environment[name], self.environment[name]
                raise ValueError(f"{theirs!r} is another {name} than {ours!r}: no runs for one page")
        when = f"{later.environment['date']}, commit {later.environment['commit'] or 'unknown'}"
        new = {answer.name: answer for answer in later.answers}
        for answer in new.values():
            answer.later = answer.later or when
        self.answers = list(({answer.name: answer for answer in self.answers} | new).values())

    def save(self, directory: Path) -> Path:
        """Write ``results.json``; what comes back from `load` is equal, but for errors' texts."""
        data = {
            "format": FORMAT,
            "environment": self.environment,
            "questions": [
                {
                    "name": answer.name,
                    "seconds": round(answer.seconds, 1),
                    "failed": bool(answer.error),  # not the traceback: paths are in it
                    "later": answer.later,
                    "rows": answer.rows,
                }
                for answer in self.answers
            ],
        }
        path = directory / RESULTS
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=float) + "\n")
        return path


def load(path: Path, known: Sequence[Question]) -> Run:
    """Read a ``results.json``; ValueError, saying what is wrong, if it is none or of another time."""
    try:
        data = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{path} is no {RESULTS} of this version of the benchmarks")
    modules = {name_of(question): question for question in known}
    run = Run(data["environment"])
    for asked in data["questions"]:
        if asked["name"] not in modules:
            raise ValueError(f"{path} has a question that there is no more: {asked['name']}")
        run.answers.append(
            Answer(
                asked["name"],
                modules[asked["name"]],
                asked["rows"],
                asked["seconds"],
                "failed" if asked["failed"] else "",
                asked.get("later", ""),
            )
        )
    return run


def ask(
    bench: Bench,
    asked: Sequence[Question],
    begin: Callable[[str], None],
    done: Callable[[Run, Answer], None],
) -> Run:
    """Ask the questions. One that fails, or whose answer cannot be shown, does not stop the others.

    Args:
        bench: to measure with.
        asked: the questions.
        begin: called before each, with its name.
        done: called after each.
    """
    run = Run(environment(bench))
    for question in asked:
        answer = Answer(name_of(question), question)
        begin(answer.name)
        run.answers.append(answer)
        began = time.perf_counter()
        try:
            answer.rows = question.measure(bench)
        except Exception:
            answer.error = traceback.format_exc()
        answer.seconds = time.perf_counter() - began
        try:
            done(run, answer)
        except Exception:
            answer.error += traceback.format_exc()
    return run

"""The questions that the suite answers, each a module of its own; see `benchmarks.results.Question`."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from benchmarks.results import Question

NAMES = (
    "request_cost",
    "store_cost",
    "latency",
    "end_to_end",
    "store_memory",
    "correctness",
    "locks",
    "own_time",
    "scaling",
    "identity",
    "stores",
)


def questions() -> list[Question]:
    """Return the questions in the order in which they are asked."""
    return [cast(Question, import_module(f"benchmarks.questions.{name}")) for name in NAMES]

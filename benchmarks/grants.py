"""What a lock's grants tell: how it was handed on, to whom, and in which order. No I/O."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

NEVER = float("inf")


class Grant(NamedTuple):
    """An operation under the lock. Instants are of CLOCK_MONOTONIC, common to all processes; or `NEVER`.

    Attributes:
        process: the number of the process.
        waiter: the number of the waiter in its process.
        asked: when it began to ask for the lock.
        inside: when it had it; never, for one who still waited at the end.
        left: when it began to give it back.
    """

    process: int
    waiter: int
    asked: float
    inside: float
    left: float


class Order(NamedTuple):
    """How the order of the grants compares with the order in which the lock was asked for.

    Attributes:
        overtaking: the share of the grants that passed over somebody who had asked earlier.
        overtaking_within: the share that passed over somebody of the same process.
        worst: how many later ones were inside before the unluckiest.
    """

    overtaking: float
    overtaking_within: float
    worst: int


def in_order(grants: Iterable[Grant]) -> list[Grant]:
    """Return the grants in the order in which they were made; those who never got the lock at the end."""
    return sorted(grants, key=lambda grant: grant.inside)


def hand_overs(ordered: Sequence[Grant], since: float, until: float, end: float) -> list[float]:
    """Return the seconds from each holder's leaving until one who was waiting then was inside.

    Of the holders that left from `since` to `until` while somebody waited. Latecomers who took the lock
    in between are part of the time; where none of those who waited got it by `end`, that is taken.
    """
    found = []
    for at, (one, asked) in enumerate(zip(ordered, _first_to_ask_of_later(ordered), strict=True)):
        if since <= one.left <= until and asked <= one.left:
            inside = next(later.inside for later in ordered[at + 1 :] if later.asked <= one.left)
            found.append(min(inside, end) - one.left)
    return found


def unused(ordered: Sequence[Grant], since: float, until: float) -> list[float]:
    """Return the seconds from each holder's leaving until anyone was inside, latecomers too.

    Of the holders that left from `since` to `until` while somebody waited.
    """
    later = _first_to_ask_of_later(ordered)
    return [
        following.inside - one.left
        for one, following, asked in zip(ordered, ordered[1:], later, strict=False)
        if since <= one.left <= until and asked <= one.left and following.inside < NEVER
    ]


def overlaps(ordered: Sequence[Grant]) -> int:
    """Return how many were inside before the one before them had left: with a lock that works, none."""
    return sum(following.inside < one.left < NEVER for one, following in pairwise(ordered))


def order(ordered: Sequence[Grant]) -> Order:
    """Compare the order of the grants with the order of asking."""
    processes: dict[int, list[Grant]] = {}
    for grant in ordered:
        processes.setdefault(grant.process, []).append(grant)
    made = sum(grant.inside < NEVER for grant in ordered) or 1
    within = sum(_overtaking(some) for some in processes.values())
    worst = 0
    before: list[float] = []  # when those asked who have been inside
    for grant in ordered:
        worst = max(worst, len(before) - bisect_right(before, grant.asked))
        if grant.inside < NEVER:
            insort(before, grant.asked)
    return Order(_overtaking(ordered) / made, within / made, worst)


def _overtaking(ordered: Sequence[Grant]) -> int:
    later = _first_to_ask_of_later(ordered)
    return sum(
        grant.inside < NEVER and asked < grant.asked for grant, asked in zip(ordered, later, strict=True)
    )


def _first_to_ask_of_later(ordered: Sequence[Grant]) -> list[float]:
    """Return, for each grant, the earliest asking of those who were inside after it."""
    found, first = [], NEVER
    for grant in reversed(ordered):
        found.append(first)
        first = min(first, grant.asked)
    return found[::-1]


def fairness(counts: Sequence[int]) -> float:
    """Return Jain's index of what each one got, as a share of the highest that so many grants allow.

    1 if the grants are spread as evenly as they can be, about 1/n if one of n got all of many.
    """
    each, more = divmod(sum(counts), len(counts))
    best = [each + 1] * more + [each] * (len(counts) - more)
    return sum(count * count for count in best) / (sum(count * count for count in counts) or 1)

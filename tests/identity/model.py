"""The index of a user's sessions, explored: every order in which logins, logouts, revokes and readers meet.

``python -m tests.identity.model`` prints what `test_model.py` explores, ``--long`` larger scenarios as well.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, NamedTuple

from tests.identity.exploring import Explored, explore
from tests.identity.protocol import (
    Index,
    Operation,
    Process,
    Rules,
    World,
    anonymous,
    index,
    living,
    login,
    logout,
    next_of,
    read,
    revoke,
    revoke_user,
    states,
    steps,
    tab,
)

# ------------------------------------------------------------------------------- promises


def kept(world: World, rules: Rules) -> str:
    """The promise that `world` breaks, or ""."""
    for found in world.indexes:
        sessions = living(world, found.user)
        if rules.cap is not None and len(sessions) > rules.cap:
            return f"{sorted(sessions)} live, acknowledged, and the cap is {rules.cap}"
        if unlisted := sorted(sessions - {entry.id for entry in found.entries}):
            return f"{unlisted} live, acknowledged, and are not in the index"
        if len(states(found)) < len(found.entries):
            return f"twice in the index: {found.entries}"
    for call in world.revoked if rules.by_the_clock else ():
        for session in world.acknowledged:
            if (
                session.user == call.user
                and session.began < call.called
                and session.id != call.excepted
                and (session.id, session.user) in world.records
            ):
                return (
                    f"{session.id}, whose login began before revoke_user was called, lives after its return"
                )
    return ""


def kept_at_rest(world: World, rules: Rules) -> str:
    """The promise that a world in which nobody does anything any more breaks, or ""."""
    return _kept_at_rest(world.indexes, world.records, rules)


@cache
def _kept_at_rest(indexes: tuple[Index, ...], records: frozenset[tuple[str, str]], rules: Rules) -> str:
    for user in (found.user for found in indexes):
        alone = World((Process("r"),), indexes, records)
        alive = {id for id, whose in records if whose == user}
        first = _alone(alone, login(user), rules)
        refused = not first.acknowledged and rules.cap is not None
        if rules.at_cap == "refuse" and refused and len(alive) < rules.cap:
            return f"{user} cannot log in: the dead {index(alone, user).entries} take the places"
        for _ in range(2):
            alone = _alone(alone, read(user), rules)
        if left := {entry.id for entry in index(alone, user).entries} - alive:
            return f"two readings leave the dead {sorted(left)} in the index of {user}"
    return ""


def _alone(world: World, operation: Operation, rules: Rules) -> World:
    """What becomes of a world when one process does one thing there, undisturbed."""
    began = world.processes[0].at
    world = world._replace(clock=max(found.not_before for found in world.indexes))
    while world.processes[0].at == began:
        world = next(iter(next_of(world, 0, (operation,) * (began + 1), rules))).state
    return world


# ------------------------------------------------------------------------------- exploring


class Scenario(NamedTuple):
    """Who does what, one script for each process, and what may go wrong meanwhile."""

    name: str
    scripts: tuple[tuple[Operation, ...], ...]
    crashes: int = 0
    losses: int = 0
    expiries: int = 0
    users: str = "A"
    rules: Rules = Rules()

    def explore(self, **rules: Any) -> Explored:
        changed = self.rules._replace(**rules)
        start = World(
            tuple(Process("abcdef"[number]) for number in range(len(self.scripts))),
            tuple(Index(user) for user in self.users),
            crashes=self.crashes,
            losses=self.losses,
            expiries=self.expiries,
        )
        return explore(
            start,
            lambda world: steps(world, self.scripts, changed),
            lambda world: kept(world, changed),
            lambda world: kept_at_rest(world, changed),
        )


_A, _B, _OUT, _ANON = login("A"), login("B"), logout(), anonymous()
_REVOKE, _READ = revoke_user("A"), read("A")
OFF = {"not_before": False, "waits": False, "by_the_clock": False}
"""Without all that rests on clocks: nothing else may depend on it."""


def _evict(cap: int) -> Rules:
    return Rules(cap=cap)


def _refuse(cap: int) -> Rules:
    return Rules(cap=cap, at_cap="refuse")


# fmt: off
SCENARIOS = (
    Scenario("login, logout | read | revoke_user", ((_ANON, _A, _OUT), (_READ,), (_REVOKE,)), 1, 1),
    Scenario("login | two readers", ((_ANON, _A), (_READ,), (_READ,)), 1, 1, 1),
    Scenario("login | revoke its id | revoke_user, read",
             ((_ANON, _A), (revoke(0, "A"),), (_REVOKE, _READ)), 1, 1),
    Scenario("two tabs, A and B | revoke_user", ((_ANON, _A), (tab(0), _B), (_REVOKE,)), 0, 1, users="AB"),
    Scenario("A, then B, logout | revoke_user, read",
             ((_A, _B, _OUT), (_REVOKE, _READ)), 1, 1, 1, users="AB"),
    Scenario("two logins | revoke_user", ((_ANON, _A), (_A,), (_REVOKE,)), 1),
    Scenario("two logins, one revokes the others | read",
             ((_A, revoke_user("A", 0)), (_ANON, _A), (_READ,)), 1),
    Scenario("a stranger revokes an id | read", ((_A,), (_B, revoke(0, "B")), (_READ,)), 1, 1, users="AB"),
    Scenario("evict at 1: logins | read", ((_A,), (_A,), (_READ, _A)), 0, 1, rules=_evict(1)),
    Scenario("evict at 1: logins | revoke_user", ((_A,), (_ANON, _A), (_REVOKE,)), 1, rules=_evict(1)),
    Scenario("evict at 1: two logins, lost replies", ((_A,), (_A,)), 1, 2, 1, rules=_evict(1)),
    Scenario("refuse at 1: two logins | read", ((_A,), (_A,), (_READ,)), 1, 0, 1, rules=_refuse(1)),
    Scenario("refuse at 1: logins | revoke_user", ((_A,), (_A,), (_REVOKE,)), 1, rules=_refuse(1)),
    Scenario("refuse at 1: two logins, lost replies", ((_A, _OUT), (_A,)), 1, 1, 1, rules=_refuse(1)),
    Scenario("refuse at 2: three logins", ((_A,), (_A,), (_A,)), 1, rules=_refuse(2)),
)

LONG = (
    Scenario("two logins | revoke_user", ((_ANON, _A), (_A,), (_REVOKE,)), 1, 1),
    Scenario("two logins | revoke_user | read", ((_A,), (_A,), (_REVOKE,), (_READ,))),
    Scenario("two tabs | revoke_user, read", ((_ANON, _A), (tab(0), _B), (_REVOKE, _READ)), 1, 1, users="AB"),
    Scenario("one revokes the others | read", ((_A, revoke_user("A", 0)), (_ANON, _A), (_READ,)), 1, 1),
    Scenario("two revoke_user | login", ((_A,), (_REVOKE,), (_REVOKE, _A)), 1, 1),
    Scenario("evict at 1: logins | read", ((_A,), (_A,), (_READ, _A)), 1, 1, rules=_evict(1)),
    Scenario("evict at 1: logins | revoke_user", ((_A,), (_ANON, _A), (_REVOKE,)), 1, 1, 1, rules=_evict(1)),
    Scenario("evict at 2: four logins", ((_A,), (_A,), (_A,), (_A,)), rules=_evict(2)),
    Scenario("refuse at 1: logins | read", ((_A, _OUT), (_A,), (_READ, _A)), 1, 1, 1, rules=_refuse(1)),
    Scenario("refuse at 1: logins | revoke_user", ((_A,), (_A,), (_REVOKE,)), 1, 1, 1, rules=_refuse(1)),
    Scenario("refuse at 2: three logins, lost replies", ((_A,), (_A,), (_A,)), 1, 1, rules=_refuse(2)),
)


class Control(NamedTuple):
    """A counter-measure that is switched off, where that breaks a promise, and which."""

    without: str
    scripts: tuple[tuple[Operation, ...], ...]
    off: dict[str, Any]
    breaks: str
    losses: int = 0
    crashes: int = 0
    expiries: int = 0
    users: str = "A"
    rules: Rules = Rules()

    def explore(self) -> Explored:
        about = Scenario(
            self.without, self.scripts, self.crashes, self.losses, self.expiries, self.users, self.rules
        )
        return about.explore(**self.off)


_LATE = {"waits": False, "by_the_clock": False}  # readers do not know which entries are young
_TWO, _THREE, _TABS = ((_A,), (_A,)), ((_A,), (_A,), (_A,)), ((_ANON, _A), (tab(0), _A))

# fmt: off
CONTROLS = (
    Control("the look at step 3", ((_A,), (_REVOKE,)), {"looks": False}, "not in the index"),
    Control("taking absent for doomed", ((_A,), (_REVOKE,)), {"refuses_absent": False}, "not in the index"),
    Control("adding an id only once", ((_A,), (_A,), (_READ, _A)),
            {"adds_once": False}, "not in the index", 1, rules=_evict(1)),
    Control("keeping a doom, where it is added twice", _THREE,
            {"adds_once": False, "add_keeps_doom": False}, "not in the index", 1, rules=_evict(1)),
    Control("not_before", ((_A,), (_REVOKE,)), {"not_before": False}, "lives after its return"),
    Control("a new id for a login", _TABS, {"new_id": False}, "which a browser was given"),
    Control("the index first, again", ((_A,),), {"index_first": False}, "though nobody has revoked", 1),
    Control("... and without a look", ((_A,),),
            {"index_first": False, "looks": False}, "not in the index", 1),
    Control("comparing the principal", ((_A,), (_B, revoke(0, "B"))),
            {"compares": False}, "of A", users="AB"),
    Control("ending before the acknowledgement", _TWO,
            {"ends_before_ack": False}, "cap is 1", rules=_evict(1)),
    Control("ending what others doomed", _THREE, {"ends_met": False}, "cap is 1", rules=_evict(1)),
    Control("ending what others doomed, refusing", ((_A,), (_A,), (_REVOKE,)),
            {"ends_met": False}, "cap is 1", rules=_refuse(1)),
    Control("counting suspects", ((_A,), (_READ,), (_A,)),
            {"counts_suspects": False, **_LATE}, "cap is 1", rules=_evict(1)),
    Control("removing the dead before refusing", _TWO,
            {"reads_at_cap": False}, "cannot log in", expiries=1, rules=_refuse(1)),
    Control("dooming an id that is given up", ((_A,),),
            {"dooms_given_up": False}, "own login's place", 1, rules=_refuse(1)),
    Control("suspecting before removing", ((_A,), (_READ,)),
            {"suspects": False, "waits": False}, "not in the index"),
    Control("looking again", ((_A,), (_READ,)), {"looks_again": False, "waits": False}, "not in the index"),
    Control("removing only one's own marks", ((_A,), (_READ,)),
            {"removes_own_marks": False, **_LATE}, "not in the index"),
    Control("leaving young entries alone", ((_A,), (_READ,)), {"waits": False}, "though nobody has revoked"),
    Control("removing doomed entries", ((_A,), (_REVOKE,)),
            {"removes_doomed": False}, "leave the dead", crashes=1),
)
# fmt: on


def main() -> None:
    for scenario in SCENARIOS + (LONG if "--long" in sys.argv else ()):
        print(f"{scenario.name:50} {scenario.explore()}", flush=True)
        print(f"{'... without clocks':50} {scenario.explore(**OFF)}", flush=True)
    for control in CONTROLS:
        print(f"without {control.without:42} {control.explore()}", flush=True)


if __name__ == "__main__":
    main()

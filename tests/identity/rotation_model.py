"""Rotation with a grace, as a model: parallel requests, lost replies, and a thief who has copied the cookie.

A browser sends requests side by side, each with the credential that it has at that moment; a response may
bring a new one, or be lost. Deciding (when the session is loaded) and saving are two steps, as they are in
several processes; that a new credential has come back is noted by a save that no response waits for,
which may be late or never executed. The thief copies the browser's cookie once, and uses what he has.

What is assumed of the network: from sending a request to loading its session it takes less than `grace`,
and a response arrives within `parallel` less `grace`, or never.

``python -m tests.identity.rotation_model`` prints what `test_rotation_model.py` explores, ``--long`` more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from tests.identity.exploring import Explored, Step, explore

NONE = 0  # no credential; others are numbers, in the order in which they were drawn

# ------------------------------------------------------------------------------- the rules


class Times(NamedTuple):
    """In whatever unit."""

    grace: int = 2
    parallel: int = 5
    every: int = 7


class Kept(NamedTuple):
    """What the record keeps of a session's credentials."""

    current: int
    seen: bool = True  # the current one has come back
    issued: int = 0  # when it was
    previous: int = NONE  # the last one that was seen
    other: int = NONE  # issued between them, and never seen
    until: int = 0  # of the previous and the other, once the current one is seen
    ring: tuple[int, ...] = ()  # retired


Fit: TypeAlias = Literal["opens", "is new", "parallel", "reply lost", "in grace", "replayed", "unknown"]
OPENS = ("opens", "is new", "parallel", "reply lost", "in grace")


def fit(kept: Kept, presented: int, now: int, times: Times) -> Fit:
    """The table: what becomes of a request with this credential."""
    if presented == kept.current:
        return "opens" if kept.seen else "is new"
    if presented == kept.other and not kept.seen:
        return "is new"
    if presented == kept.previous and not kept.seen:
        return "parallel" if now - kept.issued < times.parallel else "reply lost"
    if presented in (kept.previous, kept.other):
        return "in grace" if now < kept.until else "replayed"
    return "replayed" if presented in kept.ring else "unknown"


def seen(kept: Kept, presented: int, now: int, times: Times) -> Kept:
    """A credential that was new has come back: the others are good for the grace from now on."""
    if fit(kept, presented, now, times) != "is new":
        return kept
    other = kept.other if presented == kept.current else kept.current
    return kept._replace(current=presented, other=other, seen=True, until=now + times.grace)


def due(kept: Kept, presented: int, now: int, times: Times) -> bool:
    """Whether a request with this credential is given another."""
    found = fit(kept, presented, now, times)
    age = now - kept.issued
    if found == "is new":  # nobody can have a request on its way with the one before, after that time
        return age >= max(times.every, times.parallel + times.grace)
    return found == "reply lost" or (found == "opens" and age >= times.every and now >= kept.until)


def issue(kept: Kept, presented: int, new: int, now: int, times: Times) -> Kept | None:
    """Issue `new` in place of what was presented; None where another request has done so already."""
    found = fit(kept, presented, now, times)
    if not due(kept, presented, now, times):
        return None
    if found == "reply lost":
        return kept._replace(current=new, other=kept.current, issued=now, ring=_retire(kept, kept.other))
    kept = seen(kept, presented, now, times)
    ring = _retire(kept, kept.other, kept.previous)
    return Kept(new, seen=False, issued=now, previous=presented, ring=ring)


def _retire(kept: Kept, *retired: int) -> tuple[int, ...]:
    return (*(one for one in retired if one != NONE), *kept.ring)[:4]


# ------------------------------------------------------------------------------- today's rule, and others


class Variant(NamedTuple):
    """What is explored: the rules, or a control."""

    old_rule: bool = False  # the previous one is good for `grace` from the rotation on
    keeps_unseen: bool = True  # one that is issued again leaves the unseen one acceptable
    rings: bool = True  # what was retired is remembered
    derives: bool = False  # the next credential is made of the one before
    at_most_one: bool = True  # saving looks whether another request has issued one


# ------------------------------------------------------------------------------- the world


class Request(NamedTuple):
    """Of the browser, on its way; its `age` is since it was sent, then since it was answered."""

    credential: int
    age: int = 0
    stage: Literal["sent", "loaded", "answered"] = "sent"
    rotates: bool = False
    brings: int = NONE


class World(NamedTuple):
    kept: Kept
    jar: int = 1
    requests: tuple[Request, ...] = ()
    marks: frozenset[int] = frozenset()  # saves on their way that note a credential as seen
    stolen: frozenset[int] = frozenset()
    drawn: int = 1
    to_send: int = 0
    losses: int = 0
    thefts: int = 0
    uses: int = 0  # by the thief
    # What nobody can see; the promises are about these.
    given_to_browser: frozenset[int] = frozenset({1})
    given_to_thief: frozenset[int] = frozenset()


class Scenario(NamedTuple):
    name: str
    requests: int = 2  # at once
    to_send: int = 6
    draws: int = 4
    losses: int = 0  # of responses, and of saves that note something
    thefts: int = 0
    uses: int = 0
    times: Times = Times()
    variant: Variant = Variant()
    response: int | None = None  # how long it may take, if not what is assumed

    def explore(self) -> Explored:
        start = World(
            Kept(1, issued=-self.times.every),
            to_send=self.to_send,
            losses=self.losses,
            thefts=self.thefts,
            uses=self.uses,
        )
        return explore(start, self.steps, self.check)

    def check(self, world: World) -> str:
        """The promise that a world breaks, or ""."""
        kept = world.kept
        opening = [one for one in range(1, world.drawn + 1) if fit(kept, one, 0, self.times) in OPENS]
        if kept.seen and kept.until <= 0 and len(opening) > 1:
            return f"{opening} all open the session, long after the current one was seen"
        if both := world.given_to_browser & world.given_to_thief:
            return f"browser and thief were both given {sorted(both)}"
        return ""

    # --------------------------------------------------------------------------- steps

    def steps(self, world: World) -> Iterator[Step[World]]:
        if world.to_send and len(world.requests) < self.requests:
            sent = (*world.requests, Request(world.jar))
            yield Step(f"sends {world.jar}", _of(world, sent)._replace(to_send=world.to_send - 1))
        for number, request in enumerate(world.requests):
            others = (*world.requests[:number], *world.requests[number + 1 :])
            if request.stage == "sent":
                yield from self._load(world, others, request)
            elif request.stage == "loaded":
                yield self._save(world, others, request)
            else:
                yield from self._arrive(world, others, request)
        for mark in world.marks:
            after = world._replace(marks=world.marks - {mark})
            noted = after._replace(kept=self._seen(after.kept, mark))
            yield Step(f"{mark} is noted as seen", noted)
            if world.losses:
                yield Step(f"the save that notes {mark} is lost", after._replace(losses=world.losses - 1))
        if self._may_pass(world) and (world.to_send or world.requests):
            yield Step("a tick passes", _later(world, self.times))
        if world.thefts:
            stolen = world._replace(thefts=world.thefts - 1, stolen=world.stolen | {world.jar})
            yield Step(f"the thief copies {world.jar}", stolen)
        if world.uses:
            for credential in world.stolen:
                yield self._use(world, credential)

    def _load(self, world: World, others: tuple[Request, ...], request: Request) -> Iterator[Step[World]]:
        credential = request.credential
        found = self._fit(world.kept, credential)
        if found not in OPENS:
            broken = "" if world.stolen else f"the browser is signed out: {credential} is {found}"
            if world.stolen and found == "unknown" and self.variant.rings:
                broken = f"{credential} was retired, and is not noticed as that"
            yield Step(f"loads with {credential}: {found}", _of(world, others), broken)
            return
        marks = world.marks | {credential} if found == "is new" else world.marks
        loaded = request._replace(stage="loaded", rotates=self._due(world.kept, credential))
        yield Step(f"loads with {credential}: {found}", _of(world, (*others, loaded))._replace(marks=marks))

    def _save(self, world: World, others: tuple[Request, ...], request: Request) -> Step[World]:
        answered = request._replace(stage="answered", age=0)
        new = world.drawn + 1
        if not request.rotates or new > self.draws:
            return Step(f"answers {request.credential}", _of(world, (*others, answered)))
        kept, new = self._issue(world.kept, request.credential, new)
        if kept is None:
            return Step(f"answers {request.credential}: rotated already", _of(world, (*others, answered)))
        broken = ""
        if not world.kept.seen and -world.kept.issued < self.times.parallel:
            broken = f"{new} is issued {-world.kept.issued} ticks after {world.kept.current}, which is unseen"
        after = _of(world, (*others, answered._replace(brings=new)))
        after = after._replace(kept=kept, drawn=max(world.drawn, new))
        return Step(f"answers {request.credential} with {new}", after, broken)

    def _arrive(self, world: World, others: tuple[Request, ...], request: Request) -> Iterator[Step[World]]:
        after = _of(world, others)
        if not request.brings:
            yield Step("a response arrives", after)
            return
        given = after.given_to_browser | {request.brings}
        arrived = after._replace(jar=request.brings, given_to_browser=given)
        yield Step(f"the response with {request.brings} arrives", arrived)
        if world.losses:
            lost = after._replace(losses=world.losses - 1)
            yield Step(f"the response with {request.brings} is lost", lost)

    def _use(self, world: World, credential: int) -> Step[World]:
        """The thief sends one request, and has the answer at once."""
        after = world._replace(uses=world.uses - 1)
        found = self._fit(world.kept, credential)
        if found not in OPENS:
            broken = ""
            if found == "unknown":
                broken = f"the thief's {credential} was retired, and is not noticed as that"
            return Step(f"the thief uses {credential}: {found}", after, broken)
        new = world.drawn + 1
        rotates = self._due(world.kept, credential) and new <= self.draws
        kept = self._seen(world.kept, credential)
        label = f"the thief uses {credential}: {found}"
        if rotates:
            issued, new = self._issue(world.kept, credential, new)
            if issued is not None:
                given = world.given_to_thief | {new}
                after = after._replace(
                    stolen=world.stolen | {new}, given_to_thief=given, drawn=max(world.drawn, new)
                )
                return Step(f"{label}, gets {new}", after._replace(kept=issued))
        return Step(label, after._replace(kept=kept))

    def _may_pass(self, world: World) -> bool:
        """Whether no request or response on its way would take longer than is assumed."""
        times = self.times
        response = times.parallel - times.grace if self.response is None else self.response
        return all(
            request.age + 1 < times.grace if request.stage == "sent"
            else request.stage == "answered" and request.age + 1 <= response
            for request in world.requests
        )  # fmt: skip

    # --------------------------------------------------------------------------- the rules, or a control

    def _fit(self, kept: Kept, credential: int) -> Fit:
        if self.variant.old_rule and credential == kept.previous:
            return "in grace" if -kept.issued < self.times.grace else "unknown"
        return fit(kept, credential, 0, self.times)

    def _seen(self, kept: Kept, credential: int) -> Kept:
        return seen(kept, credential, 0, self.times)

    def _due(self, kept: Kept, credential: int) -> bool:
        if self.variant.old_rule:
            return credential == kept.current and -kept.issued >= self.times.every
        return due(kept, credential, 0, self.times)

    def _issue(self, kept: Kept, credential: int, new: int) -> tuple[Kept | None, int]:
        variant = self.variant
        if variant.derives:
            new = credential + 1
        if not variant.at_most_one and credential == kept.previous and not kept.seen:
            return kept._replace(current=new, other=kept.current, issued=0), new
        issued = issue(kept, credential, new, 0, self.times)
        if issued is not None and not variant.keeps_unseen:
            issued = issued._replace(other=NONE)
        if issued is not None and not variant.rings:
            issued = issued._replace(ring=())
        return issued, new


def _of(world: World, requests: tuple[Request, ...]) -> World:
    return world._replace(requests=tuple(sorted(requests)))


def _later(world: World, times: Times) -> World:
    """A tick later; the present is always 0, and what is long past is all the same."""
    oldest = -(times.every + times.parallel + times.grace)
    kept = world.kept
    kept = kept._replace(issued=max(kept.issued - 1, oldest), until=max(kept.until - 1, 0))
    requests = tuple(request._replace(age=request.age + 1) for request in world.requests)
    return world._replace(kept=kept, requests=requests)


SCENARIOS = (
    Scenario("parallel requests", requests=3, to_send=5, draws=3),
    Scenario("parallel requests, lost replies", requests=2, to_send=5, draws=3, losses=2),
    Scenario("lost replies, one after another", requests=1, to_send=6, draws=5, losses=3),
    Scenario("a thief", requests=1, to_send=4, draws=4, thefts=1, uses=2),
    Scenario("a thief, a lost reply", requests=1, to_send=3, draws=3, losses=1, thefts=1, uses=2),
    Scenario("a thief beside parallel requests", requests=2, to_send=3, draws=3, thefts=1, uses=1),
)

LONG = (
    Scenario("parallel requests", requests=3, to_send=6, draws=3, losses=1),
    Scenario("parallel requests, lost replies", requests=2, to_send=6, draws=4, losses=2),
    Scenario("lost replies, one after another", requests=1, to_send=8, draws=6, losses=4),
    Scenario("a thief", requests=1, to_send=5, draws=5, thefts=1, uses=3),
    Scenario("a thief, lost replies", requests=1, to_send=4, draws=4, losses=1, thefts=1, uses=2),
    Scenario("a thief beside parallel requests", requests=2, to_send=3, draws=3, thefts=1, uses=2),
)

CONTROLS = (
    (Scenario("good for the grace from the rotation on: a lost reply", requests=1, losses=1,
              variant=Variant(old_rule=True)), "is signed out"),
    (Scenario("several cookies", variant=Variant(at_most_one=False)), "which is unseen"),
    (Scenario("no ring", requests=1, thefts=1, uses=2, variant=Variant(rings=False)), "is not noticed"),
    (Scenario("the next credential is derived", requests=1, thefts=1, uses=2,
              variant=Variant(derives=True)), "both given"),
    (Scenario("the unseen one is dropped", response=4, variant=Variant(keeps_unseen=False)), "is signed out"),
    (Scenario("a response that takes longer than is assumed", response=7), "is signed out"),
)  # fmt: skip


def main() -> None:
    for scenario in SCENARIOS + (LONG if "--long" in sys.argv else ()):
        print(f"{scenario.name:55} {scenario.explore()}", flush=True)
    for control, _ in CONTROLS:
        print(f"{control.name:55} {control.explore()}", flush=True)


if __name__ == "__main__":
    main()

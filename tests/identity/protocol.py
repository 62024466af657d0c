"""The index of a user's sessions, as a model: the protocol, one function for each step.

A step is one command to the store, executed as a whole: an update of the index is one, since a save is
compare-and-set and folds again after a conflict; so is the ending of a record. Between any two steps a
process may be killed, a reply be lost (the step was executed, its process does it again), a record expire.

Not in the model: clocks that differ, a store that loses what it has acknowledged, how the index itself
expires, other indexes than the principal's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

from tests.identity.exploring import Step

FREE = ""
DOOMED = "doomed"
# Any other state of an entry is the name of the reading that suspects it.

NOBODY = "nobody"
"""The principal of an anonymous session."""


class Rules(NamedTuple):
    """The protocol; a test switches one counter-measure off and expects a promise to break."""

    cap: int | None = None
    at_cap: Literal["evict", "refuse"] = "evict"
    looks: bool = True  # step 3 of a login
    refuses_absent: bool = True  # ... takes an entry that has gone for a doomed one
    adds_once: bool = True  # an add of which nobody knows whether it was applied is not sent again
    add_keeps_doom: bool = True  # and if it is, leaves a doom that came in between
    new_id: bool = True  # a login never goes on in the anonymous record
    index_first: bool = True  # a login that takes another id enters that in the index as well
    dooms_given_up: bool = True  # and dooms the id that it gives up
    ends_met: bool = True  # ends every doomed record that it meets, before its own save
    ends_before_ack: bool = True  # and not after its own acknowledgement
    counts_suspects: bool = True  # a suspect takes a place
    reads_at_cap: bool = True  # where logins are refused: the dead are removed first
    not_before: bool = True  # a login that began before a revoke_user is refused
    suspects: bool = True  # a reader marks what it is going to remove
    looks_again: bool = True  # and looks at the record again behind the mark
    removes_own_marks: bool = True  # and removes nothing but what still has that mark
    waits: bool = True  # and leaves alone what may be a login on its way
    removes_doomed: bool = True  # and removes doomed entries, after their records
    compares: bool = True  # revoke(id, principal) compares the principal
    by_the_clock: bool = True  # also asked: the promises that rest on clocks that agree


# ------------------------------------------------------------------------------- the world


class Entry(NamedTuple):
    id: str
    state: str = FREE


class Index(NamedTuple):
    user: str
    entries: tuple[Entry, ...] = ()
    not_before: int = 0


class Process(NamedTuple):
    """A browser with its server, or an operator; works through a script, one operation after another."""

    name: str
    step: str = "next"
    at: int = 0  # the operation in the script
    made: int = 0  # ids
    cookie: str = ""
    local: Any = None  # the operation's own variables


class Acknowledged(NamedTuple):
    id: str
    user: str
    began: int


class Revoked(NamedTuple):
    user: str
    called: int
    excepted: str


class World(NamedTuple):
    processes: tuple[Process, ...]
    indexes: tuple[Index, ...]
    records: frozenset[tuple[str, str]] = frozenset()  # living: (id, principal)
    clock: int = 0  # counts calls of revoke_user, which is all that a time matters for here
    crashes: int = 0  # that may still happen; the same for lost replies and expiries
    losses: int = 0
    expiries: int = 0
    # What no process can see; the promises are about these.
    acknowledged: frozenset[Acknowledged] = frozenset()
    revoked: tuple[Revoked, ...] = ()  # calls of revoke_user that have returned
    ever_doomed: frozenset[str] = frozenset()


Steps: TypeAlias = Iterator[Step[World]]


def principal(world: World, id: str) -> str | None:
    return next((user for other, user in world.records if other == id), None)


def index(world: World, user: str) -> Index:
    return next(index for index in world.indexes if index.user == user)


def states(index: Index) -> dict[str, str]:
    return dict(index.entries)


def with_index(world: World, new: Index) -> World:
    doomed = {entry.id for entry in new.entries if entry.state == DOOMED}
    indexes = tuple(new if new.user == old.user else old for old in world.indexes)
    return world._replace(indexes=indexes, ever_doomed=world.ever_doomed | doomed)


def with_entries(world: World, user: str, entries: list[Entry]) -> World:
    return with_index(world, index(world, user)._replace(entries=tuple(entries)))


def without_record(world: World, id: str) -> World:
    return world._replace(records=frozenset(record for record in world.records if record[0] != id))


def with_record(world: World, id: str, user: str) -> World:
    return world._replace(records=without_record(world, id).records | {(id, user)})


def go(world: World, me: int, step: str, local: Any = None, **changes: Any) -> World:
    """Have process `me` stand before `step`."""
    process = world.processes[me]._replace(step=step, local=local, **changes)
    return world._replace(processes=(*world.processes[:me], process, *world.processes[me + 1 :]))


def done(world: World, me: int, **changes: Any) -> World:
    return go(world, me, "next", None, at=world.processes[me].at + 1, **changes)


def again(before: World, after: World, me: int, label: str) -> Steps:
    """The same step, executed while its reply is lost: `me` stands before it once more."""
    if before.losses:
        process = before.processes[me]
        processes = (*after.processes[:me], process, *after.processes[me + 1 :])
        yield Step(
            f"{label}; the reply is lost", after._replace(processes=processes, losses=after.losses - 1)
        )


def living(world: World, user: str) -> frozenset[str]:
    """The sessions of `user` that live and were acknowledged."""
    return frozenset(
        session.id
        for session in world.acknowledged
        if session.user == user and (session.id, user) in world.records
    )


# ------------------------------------------------------------------------------- a login


class Login(NamedTuple):
    user: str
    id: str
    old: str  # the session that one comes with, which ends
    began: int
    in_place: bool = False  # the id is that of the anonymous record (a control)
    given_up: str = ""  # an id of which it isn't known what became
    refused: bool = False
    read: bool = False  # the dead have been removed, since there was no place
    met: tuple[str, ...] = ()  # doomed entries
    left: tuple[str, ...] = ()  # those whose records are still to be ended


def login_begins(world: World, me: int, rules: Rules, user: str) -> Steps:
    process = world.processes[me]
    whose = principal(world, process.cookie)
    if whose == user:
        yield Step(f"is signed in as {user} already", done(world, me))
        return
    if whose == NOBODY and not rules.new_id:
        local = Login(user, process.cookie, "", world.clock, in_place=True)
        yield Step(f"login of {user} on {local.id} begins", go(world, me, "login adds", local))
        return
    made = process.made + 1
    local = Login(user, f"{process.name}{made}", process.cookie if whose else "", world.clock)
    yield Step(f"login of {user} begins, as {local.id}", go(world, me, "login adds", local, made=made))


def login_adds(world: World, me: int, rules: Rules) -> Steps:
    """Step 1: into the index; at the cap the oldest is doomed, or nothing is added."""
    local: Login = world.processes[me].local
    found = index(world, local.user)
    mine = states(found).get(local.id)
    if rules.not_before and local.began < found.not_before:
        refused = go(world, me, "login fails", local._replace(refused=True))
        yield Step("is refused: it began before a revoke_user", refused)
        return
    if mine == DOOMED and rules.add_keeps_doom:
        yield Step(f"finds {local.id} doomed", go(world, me, "login fails", local))
        return
    given_up = local.given_up if rules.dooms_given_up else ""
    entries = [Entry(entry.id, DOOMED) if entry.id == given_up else entry for entry in found.entries]
    if mine is None:
        entries.append(Entry(local.id))
    elif mine == DOOMED:
        entries = [Entry(local.id) if entry.id == local.id else entry for entry in entries]
    others = [entry.id for entry in entries if entry.id != local.id and _takes_a_place(entry, rules)]
    over = len(others) + 1 - rules.cap if rules.cap is not None else 0
    if over > 0 and rules.at_cap == "refuse":
        broken = (
            f"the attempt {local.given_up} takes its own login's place" if local.given_up in others else ""
        )
        if rules.reads_at_cap and not local.read:
            yield Step("finds no place, reads the index", begin_reading(world, me, local.user, local), broken)
        elif mine is None and not local.given_up:
            yield Step("is refused: no place", done(world, me))  # and has left nothing behind
        else:
            refused = go(world, me, "login fails", local._replace(refused=True))
            yield Step("is refused: no place", refused)
        return
    evicted = others[: max(over, 0)]
    entries = [Entry(entry.id, DOOMED) if entry.id in evicted else entry for entry in entries]
    doomed = tuple(entry.id for entry in entries if entry.state == DOOMED and entry.id != local.id)
    met = doomed if rules.ends_met else tuple(id for id in doomed if id in evicted)
    local = local._replace(met=met, left=met, given_up="")
    step = "login ends doomed" if met and rules.ends_before_ack else "login ends old"
    after = go(with_entries(world, local.user, entries), me, step, local)
    now_doomed = [*evicted, *([given_up] if given_up else [])]
    label = f"index of {local.user}: adds {local.id}" + "".join(f", dooms {id}" for id in now_doomed)
    told = given_up in {session.id for session in world.acknowledged}
    yield Step(label, after, f"a login has ended {given_up}, which a browser was given" if told else "")
    if not rules.adds_once:
        yield from again(world, after, me, label)
    elif world.losses:
        process = world.processes[me]
        other = f"{process.name}{process.made + 1}"
        another = local._replace(id=other, given_up=local.id, in_place=False, met=(), left=())
        lost = go(after, me, "login adds", another, made=process.made + 1)
        yield Step(f"{label}; the reply is lost, goes on as {other}", lost._replace(losses=world.losses - 1))


def _takes_a_place(entry: Entry, rules: Rules) -> bool:
    return entry.state == FREE or (entry.state != DOOMED and rules.counts_suspects)


def login_ends_doomed(world: World, me: int, rules: Rules) -> Steps:
    local: Login = world.processes[me].local
    id, *left = local.left
    after = without_record(world, id) if principal(world, id) == local.user else world
    local = local._replace(left=tuple(left))
    is_acknowledged = world.processes[me].cookie == local.id
    following = (
        "login ends doomed" if left else "login removes doomed" if is_acknowledged else "login ends old"
    )
    yield Step(f"ends the doomed {id}", go(after, me, following, local))


def login_ends_old(world: World, me: int, rules: Rules) -> Steps:
    """Step 2: the session that one came with ends, then the record is created."""
    local: Login = world.processes[me].local
    if not local.old:
        yield from login_creates(world, me, rules)
        return
    label = f"ends {local.old}, which it came with"
    yield Step(label, go(without_record(world, local.old), me, "login creates", local))


def login_creates(world: World, me: int, rules: Rules) -> Steps:
    local: Login = world.processes[me].local
    process = world.processes[me]
    following = "login looks" if rules.looks else "login acknowledges"
    anew = "login adds" if rules.index_first else "login creates"
    other = f"{process.name}{process.made + 1}"
    another = local._replace(id=other, given_up=local.id, in_place=False)
    if local.in_place and principal(world, local.id) != NOBODY:
        label = f"finds {local.id} signed in by another tab, goes on as {other}"
        yield Step(label, go(world, me, anew, another, made=process.made + 1))
        return
    after = with_record(world, local.id, local.user)
    yield Step(f"creates the record of {local.id}", go(after, me, following, local))
    if world.losses and not local.in_place:
        label = f"creates the record of {local.id}; the reply is lost, goes on as {other}"
        lost = after._replace(losses=world.losses - 1)
        yield Step(label, go(lost, me, anew, another, made=process.made + 1))


def login_looks(world: World, me: int, rules: Rules) -> Steps:
    """Step 3."""
    local: Login = world.processes[me].local
    found = states(index(world, local.user)).get(local.id)
    if found == DOOMED or (found is None and rules.refuses_absent):
        yield Step(f"looks: {found or 'absent'}", go(world, me, "login fails", local))
    elif found:
        yield Step("looks: suspect", go(world, me, "login clears", local))
    else:
        yield Step("looks: free", go(world, me, "login acknowledges", local))


def login_clears(world: World, me: int, rules: Rules) -> Steps:
    local: Login = world.processes[me].local
    found = index(world, local.user)
    if states(found).get(local.id, DOOMED) == DOOMED:
        yield Step("finds itself doomed or removed", go(world, me, "login fails", local))
        return
    entries = [Entry(entry.id) if entry.id == local.id else entry for entry in found.entries]
    after = go(with_entries(world, local.user, entries), me, "login acknowledges", local)
    label = f"clears the suspicion of {local.id}"
    yield Step(label, after)
    yield from again(world, after, me, label)


def login_acknowledges(world: World, me: int, rules: Rules) -> Steps:
    local: Login = world.processes[me].local
    told = world._replace(acknowledged=world.acknowledged | {Acknowledged(local.id, local.user, local.began)})
    label = f"acknowledges {local.id} to {local.user}"
    if local.left and not rules.ends_before_ack:
        yield Step(label, go(told, me, "login ends doomed", local, cookie=local.id))
    elif local.met:
        yield Step(label, go(told, me, "login removes doomed", local, cookie=local.id))
    else:
        yield Step(label, done(told, me, cookie=local.id))


def login_removes_doomed(world: World, me: int, rules: Rules) -> Steps:
    local: Login = world.processes[me].local
    gone = {Entry(id, DOOMED) for id in local.met}
    entries = [entry for entry in index(world, local.user).entries if entry not in gone]
    yield Step("removes what it ended", done(with_entries(world, local.user, entries), me))


def login_fails(world: World, me: int, rules: Rules) -> Steps:
    """Its own records end (nobody has their cookies), then its entries are removed, in whatever state."""
    local: Login = world.processes[me].local
    after = world
    for id in (local.id, local.given_up):
        if principal(world, id) == local.user:
            after = without_record(after, id)
    broken = ""
    if rules.by_the_clock and not local.refused and local.id not in world.ever_doomed:
        broken = f"the login of {local.id} fails, though nobody has revoked or evicted it"
    yield Step(f"fails, ends {local.id}", go(after, me, "login withdraws", local), broken)


def login_withdraws(world: World, me: int, rules: Rules) -> Steps:
    local: Login = world.processes[me].local
    found = index(world, local.user).entries
    entries = [entry for entry in found if entry.id not in (local.id, local.given_up)]
    yield Step("removes its entry", done(with_entries(world, local.user, entries), me))


# ------------------------------------------------------------------------------- a logout


def logout_begins(world: World, me: int, rules: Rules) -> Steps:
    """The record ends; then its entry is removed, in whatever state, since the id is dead for ever."""
    cookie = world.processes[me].cookie
    user = principal(world, cookie)
    if user is None:
        yield Step("has nothing to log out of", done(world, me))
        return
    yield Step(f"logout ends {cookie}", go(without_record(world, cookie), me, "logout removes", user))


def logout_removes(world: World, me: int, rules: Rules) -> Steps:
    cookie, user = world.processes[me].cookie, world.processes[me].local
    after = world if user == NOBODY else _without_entry(world, user, cookie)
    yield Step(f"removes the entry of {cookie}", done(after, me, cookie=""))


def _without_entry(world: World, user: str, id: str) -> World:
    return with_entries(world, user, [entry for entry in index(world, user).entries if entry.id != id])


# ------------------------------------------------------------------------------- revoking


class Revoke(NamedTuple):
    user: str
    called: int
    excepted: str
    told: frozenset[str]  # sessions acknowledged before the call; no process sees this
    doomed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def revoke_user_begins(world: World, me: int, rules: Rules, user: str, excepted: int | None) -> Steps:
    clock = world.clock + 1
    kept = world.processes[excepted].cookie if excepted is not None else ""
    told = frozenset(session.id for session in world.acknowledged if session.user == user)
    local = Revoke(user, clock, kept, told)
    label = f"revoke_user({user}" + (f", except_={kept})" if kept else ")") + " is called"
    yield Step(label, go(world._replace(clock=clock), me, "revoke_user dooms", local))


def revoke_user_dooms(world: World, me: int, rules: Rules) -> Steps:
    local: Revoke = world.processes[me].local
    found = index(world, local.user)
    entries = tuple(
        entry if entry.id == local.excepted else Entry(entry.id, DOOMED) for entry in found.entries
    )
    doomed = tuple(entry.id for entry in entries if entry.state == DOOMED)
    new = Index(local.user, entries, max(found.not_before, local.called))
    after = with_index(world, new)
    following = "revoke_user ends" if doomed else "revoke_user returns"
    after = go(after, me, following, local._replace(doomed=doomed, left=doomed))
    label = f"index of {local.user}: dooms {', '.join(doomed) or 'nothing'}"
    yield Step(label, after)
    yield from again(world, after, me, label)


def revoke_user_ends(world: World, me: int, rules: Rules) -> Steps:
    local: Revoke = world.processes[me].local
    id, *left = local.left
    after = without_record(world, id) if principal(world, id) == local.user else world
    following = "revoke_user ends" if left else "revoke_user removes"
    yield Step(f"ends {id}", go(after, me, following, local._replace(left=tuple(left))))


def revoke_user_removes(world: World, me: int, rules: Rules) -> Steps:
    local: Revoke = world.processes[me].local
    entries = [
        entry
        for entry in index(world, local.user).entries
        if entry.id not in local.doomed or (entry.state != DOOMED and rules.removes_own_marks)
    ]
    after = go(with_entries(world, local.user, entries), me, "revoke_user returns", local)
    yield Step("removes what it doomed", after)
    yield from again(world, after, me, "removes what it doomed")


def revoke_user_returns(world: World, me: int, rules: Rules) -> Steps:
    local: Revoke = world.processes[me].local
    living = sorted(id for id in local.told if id != local.excepted and principal(world, id) == local.user)
    broken = f"{living} survive the return of revoke_user, acknowledged before the call" if living else ""
    returned = Revoked(local.user, local.called, local.excepted)
    after = world._replace(revoked=(*world.revoked, returned))
    yield Step("revoke_user returns", done(after, me), broken)


def revoke_begins(world: World, me: int, rules: Rules, of: int, user: str) -> Steps:
    id = world.processes[of].cookie
    whose = principal(world, id)
    if whose is None or (whose != user and rules.compares):
        yield Step(f"revoke({id or 'none'}, principal={user}) does nothing", done(world, me))
        return
    broken = f"revoke({id}, principal={user}) has ended a session of {whose}" if whose != user else ""
    yield Step(f"revoke ends {id}", go(without_record(world, id), me, "revoke removes", (user, id)), broken)


def revoke_removes(world: World, me: int, rules: Rules) -> Steps:
    user, id = world.processes[me].local
    yield Step(f"removes the entry of {id}", done(_without_entry(world, user, id), me))


# ------------------------------------------------------------------------------- reading


class Reading(NamedTuple):
    user: str
    mark: str
    left: tuple[Entry, ...]
    must: frozenset[str]  # acknowledged and living when it began; no process sees this
    listed: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    doomed: tuple[str, ...] = ()
    sure: tuple[str, ...] = ()  # dead at the second look as well
    then: Login | None = None  # it is part of this login


def begin_reading(world: World, me: int, user: str, then: Login | None = None) -> World:
    process = world.processes[me]
    found = index(world, user).entries
    must = living(world, user)
    local = Reading(user, f"suspect({process.name}{process.at})", found, must, then=then)
    return go(world, me, "reader loads" if found else "reader returns", local)


def reader_begins(world: World, me: int, rules: Rules, user: str) -> Steps:
    found = ", ".join(f"{entry.id} {entry.state}".strip() for entry in index(world, user).entries)
    yield Step(f"reads the index of {user}: {found or 'nothing'}", begin_reading(world, me, user))


def reader_loads(world: World, me: int, rules: Rules) -> Steps:
    local: Reading = world.processes[me].local
    entry, *left = local.left
    after, lives = world, principal(world, entry.id) == local.user
    if entry.state == DOOMED:
        after = without_record(world, entry.id) if lives else world
        local = local._replace(doomed=(*local.doomed, entry.id))
        label = f"ends the doomed {entry.id}"
    elif lives:
        local = local._replace(listed=(*local.listed, entry.id))
        label = f"{entry.id} lives"
    elif rules.waits and _on_its_way(world, entry.id):
        label = f"{entry.id} is dead, but young"
    else:
        local = local._replace(dead=(*local.dead, entry.id))
        label = f"{entry.id} is dead"
    local = local._replace(left=tuple(left))
    yield Step(label, go(after, me, "reader loads" if left else _following(local, rules), local))


def _following(local: Reading, rules: Rules) -> str:
    if local.dead:
        return "reader suspects" if rules.suspects else "reader removes"
    return "reader removes" if local.doomed and rules.removes_doomed else "reader returns"


def _on_its_way(world: World, id: str) -> bool:
    """Whether an entry may belong to a login that is not done: in the protocol, one that is young."""
    for process in world.processes:
        local = process.local.then if isinstance(process.local, Reading) else process.local
        if isinstance(local, Login) and id in (local.id, local.given_up):
            return True
    return False


def reader_suspects(world: World, me: int, rules: Rules) -> Steps:
    local: Reading = world.processes[me].local
    entries = [
        Entry(entry.id, local.mark) if entry.id in local.dead and entry.state != DOOMED else entry
        for entry in index(world, local.user).entries
    ]
    looking = tuple(Entry(id) for id in local.dead)
    following = "reader looks again" if rules.looks_again else "reader removes"
    after = go(with_entries(world, local.user, entries), me, following, local._replace(left=looking))
    label = f"suspects {', '.join(local.dead)}"
    yield Step(label, after)
    yield from again(world, after, me, label)


def reader_looks_again(world: World, me: int, rules: Rules) -> Steps:
    local: Reading = world.processes[me].local
    (id, _), *left = local.left
    lives = principal(world, id) == local.user
    local = local._replace(left=tuple(left), sure=local.sure if lives else (*local.sure, id))
    label = f"looks again: {id} {'lives' if lives else 'is dead'}"
    yield Step(label, go(world, me, "reader looks again" if left else "reader removes", local))


def reader_removes(world: World, me: int, rules: Rules) -> Steps:
    """What is certainly dead goes, if it still has the mark; other marks of this reading are cleared."""
    local: Reading = world.processes[me].local
    sure = local.sure if rules.suspects and rules.looks_again else local.dead
    entries = []
    for entry in index(world, local.user).entries:
        marked = entry.state == local.mark or not (rules.suspects and rules.removes_own_marks)
        if entry.id in sure and marked:
            continue
        if entry.id in local.doomed and entry.state == DOOMED and rules.removes_doomed:
            continue
        entries.append(Entry(entry.id) if entry.state == local.mark else entry)
    after = go(with_entries(world, local.user, entries), me, "reader returns", local)
    label = f"removes {', '.join(sure + local.doomed) or 'nothing'} where that is still so"
    yield Step(label, after)
    yield from again(world, after, me, label)


def reader_returns(world: World, me: int, rules: Rules) -> Steps:
    local: Reading = world.processes[me].local
    if local.then is not None:
        yield Step("tries again", go(world, me, "login adds", local.then._replace(read=True)))
        return
    missed = sorted((local.must & living(world, local.user)) - set(local.listed))
    broken = f"a listing misses {missed}" if missed else ""
    if len(set(local.listed)) < len(local.listed):
        broken = f"listed twice: {local.listed}"
    yield Step(f"lists {', '.join(local.listed) or 'nothing'}", done(world, me), broken)


# ------------------------------------------------------------------------------- what else happens


def anonymous_begins(world: World, me: int, rules: Rules) -> Steps:
    process = world.processes[me]
    id = f"{process.name}{process.made + 1}"
    after = done(with_record(world, id, NOBODY), me, made=process.made + 1, cookie=id)
    yield Step(f"an anonymous session {id}", after)


def tab_begins(world: World, me: int, rules: Rules, of: int) -> Steps:
    cookie = world.processes[of].cookie
    yield Step(f"is a tab of the browser that has {cookie or 'no cookie'}", done(world, me, cookie=cookie))


class Operation(NamedTuple):
    begins: Callable[..., Steps]
    arguments: tuple[Any, ...] = ()


def login(user: str) -> Operation:
    return Operation(login_begins, (user,))


def logout() -> Operation:
    return Operation(logout_begins)


def revoke_user(user: str, except_: int | None = None) -> Operation:
    """`except_`: the process whose session is kept."""
    return Operation(revoke_user_begins, (user, except_))


def revoke(of: int, principal: str) -> Operation:
    """`of`: the process whose session is meant."""
    return Operation(revoke_begins, (of, principal))


def read(user: str) -> Operation:
    return Operation(reader_begins, (user,))


def anonymous() -> Operation:
    return Operation(anonymous_begins)


def tab(of: int) -> Operation:
    """`of`: the process with which it shares its cookie, as it is then."""
    return Operation(tab_begins, (of,))


STEPS: dict[str, Callable[[World, int, Rules], Steps]] = {
    "login adds": login_adds,
    "login ends doomed": login_ends_doomed,
    "login ends old": login_ends_old,
    "login creates": login_creates,
    "login looks": login_looks,
    "login clears": login_clears,
    "login acknowledges": login_acknowledges,
    "login removes doomed": login_removes_doomed,
    "login fails": login_fails,
    "login withdraws": login_withdraws,
    "logout removes": logout_removes,
    "revoke_user dooms": revoke_user_dooms,
    "revoke_user ends": revoke_user_ends,
    "revoke_user removes": revoke_user_removes,
    "revoke_user returns": revoke_user_returns,
    "revoke removes": revoke_removes,
    "reader loads": reader_loads,
    "reader suspects": reader_suspects,
    "reader looks again": reader_looks_again,
    "reader removes": reader_removes,
    "reader returns": reader_returns,
}


# ------------------------------------------------------------------------------- what may happen next


def next_of(world: World, me: int, script: tuple[Operation, ...], rules: Rules) -> Steps:
    process = world.processes[me]
    if process.step == "next":
        if process.at < len(script):
            begins, arguments = script[process.at]
            yield from begins(world, me, rules, *arguments)
    elif process.step != "killed":
        yield from STEPS[process.step](world, me, rules)


def steps(world: World, scripts: tuple[tuple[Operation, ...], ...], rules: Rules) -> Steps:
    """Everything that may happen next."""
    running = False
    for me, script in enumerate(scripts):
        process = world.processes[me]
        for label, after, broken in next_of(world, me, script, rules):
            running = True
            yield Step(f"{process.name}: {label}", after, broken)
        if world.crashes and process.step not in ("next", "killed"):
            after = go(world, me, "killed")._replace(crashes=world.crashes - 1)
            yield Step(f"{process.name}: is killed before '{process.step}'", after)
    if world.expiries and running:
        for id, _ in sorted(world.records):
            yield Step(f"{id} expires", without_record(world, id)._replace(expiries=world.expiries - 1))

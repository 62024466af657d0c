"""What a process does next about a lock: each branch, and what holds whatever it has seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from asgi_session._data import lease as leases
from asgi_session._data.lease import GRANT, MAX_QUEUE, MAX_SKEW, TURNS, Lease, Step
from asgi_session._engine.lock_state import Change, Close, LetIn, LockState, Next, Wait

NOW = 1_790_000_000_000
US, A, B = (letter * 8 for letter in (b"U", b"A", b"B"))
OURS = Lease(US, 7, NOW + GRANT, GRANT)
THEIRS = Lease(A, 7, NOW + GRANT, GRANT)


def having_seen(*seen: Lease | None, at: float = 0.0) -> LockState:
    """Return the state of a process that has seen these leases, one after another."""
    state = LockState(US)
    state.answered()
    for lease in seen:
        state.note(lease, at)
    return state


def changed_to(next_one: Next, lease: Lease | None, version: int = 8, now: int = NOW) -> Lease | None:
    """Return what the change that was decided on makes of a lease."""
    assert isinstance(next_one, Change), next_one
    return next_one.step(lease, version, now)


# ---------------------------------------------------------------- each branch


def test_nobody_waits_and_nothing_is_ours() -> None:
    """There is nothing to do, with a lock that is free or another's."""
    assert having_seen(None).next(False, 0, NOW) == Close()
    assert having_seen(THEIRS).next(False, 0, NOW) == Close()


def test_the_lock_is_free() -> None:
    """Who waits takes it, or queues if another was faster."""
    next_one = having_seen(None).next(True, 0, NOW)
    assert changed_to(next_one, None) == Lease(US, 8, NOW + GRANT, GRANT)
    assert changed_to(next_one, THEIRS) == replace(THEIRS, queue=(US,))


def test_another_has_it() -> None:
    """A process asks for a place in the queue, and waits once it has one, until the lease should be over."""
    state = having_seen(THEIRS, at=5.0)
    queued = changed_to(state.next(True, 5.0, NOW), THEIRS)
    assert queued == replace(THEIRS, queue=(US,))
    state.note(queued, 5.1)
    assert state.next(True, 5.5, NOW) == Wait(pytest.approx(GRANT / 1000 - 0.5))


def test_a_full_queue_is_asked_once_per_term() -> None:
    """Without a place a process waits as long as it would with one, and asks again after news."""
    full = replace(THEIRS, queue=tuple(number.to_bytes(8, "big") for number in range(MAX_QUEUE)))
    state = having_seen(full)
    assert changed_to(state.next(True, 0.0, NOW), full) == full
    state.note(full, 0.1)
    assert isinstance(state.next(True, 0.1, NOW), Wait)
    room = replace(full, fence=8, queue=full.queue[1:])
    state.note(room, 0.2)
    assert changed_to(state.next(True, 0.2, NOW), room) == replace(room, queue=(*room.queue, US))


def test_a_lease_that_has_run_out_is_taken_over() -> None:
    """Whoever is first in line gets the lock, when the holder's term is still the one that was watched."""
    lease = replace(THEIRS, queue=(B, US))
    state = having_seen(lease, at=1.0)
    assert isinstance(state.next(True, 2.999, NOW), Wait)
    next_one = state.next(True, 3.0, NOW)
    assert changed_to(next_one, lease) == Lease(B, 8, NOW + GRANT, GRANT, (US,))
    renewed = replace(lease, until=lease.until + 1)
    assert changed_to(next_one, renewed) == renewed


def test_a_lease_that_ended_long_ago_is_taken_over_at_once() -> None:
    """It need not be watched, once its end is past by more than clocks may differ."""
    state = having_seen(THEIRS)
    assert not state.has_run_out(0.0, THEIRS.until + MAX_SKEW)
    assert state.has_run_out(0.0, THEIRS.until + MAX_SKEW + 1)
    next_one = state.next(True, 0.0, THEIRS.until + MAX_SKEW + 1)
    assert changed_to(next_one, THEIRS) == Lease(US, 8, NOW + GRANT, GRANT)


def test_a_free_lock_has_not_run_out() -> None:
    """There is nobody to take it from."""
    assert not having_seen(None).has_run_out(1e9, NOW * 2)


def test_ours_and_somebody_waits() -> None:
    """One is let in per grant; what follows is the release, which grants anew."""
    state = having_seen(OURS)
    assert (state.is_ours, state.is_granted) == (True, True)
    assert state.next(True, 0, NOW) == LetIn()
    assert state.let_in() == 7
    assert (state.is_ours, state.is_granted) == (True, False)
    again = changed_to(state.next(True, 0, NOW), OURS)
    assert again == Lease(US, 8, NOW + GRANT, GRANT)
    state.note(again, 0)
    assert state.next(True, 0, NOW) == LetIn()


@pytest.mark.parametrize("let_in", [True, False])
def test_ours_and_nobody_waits(let_in: bool) -> None:
    """It passes to the next in line, or the lock becomes free."""
    lease = replace(OURS, queue=(A, B))
    state = having_seen(lease)
    if let_in:
        state.let_in()
    next_one = state.next(False, 0, NOW)
    assert changed_to(next_one, lease) == Lease(A, 8, NOW + GRANT, GRANT, (B,))
    assert changed_to(next_one, OURS) is None


def test_nobody_waits_any_more() -> None:
    """A process leaves the queue; who comes while it leaves has to ask again, though the term is the same."""
    state = having_seen(THEIRS)
    state.next(True, 0, NOW)
    queued = replace(THEIRS, queue=(B, US))
    state.note(queued, 0)
    left = changed_to(state.next(False, 0, NOW), queued)
    assert left == replace(THEIRS, queue=(B,))
    state.note(left, 0)
    assert changed_to(state.next(True, 0, NOW), left) == replace(THEIRS, queue=(B, US))


def test_leaving_passes_on_what_was_granted_meanwhile() -> None:
    """Nobody is here for it."""
    state = having_seen(replace(THEIRS, queue=(US,)))
    next_one = state.next(False, 0, NOW)
    assert changed_to(next_one, replace(OURS, queue=(B,))) == Lease(B, 8, NOW + GRANT, GRANT)


@pytest.mark.parametrize("others", [(), (A,)])
def test_turns(others: tuple[bytes, ...]) -> None:
    """A process lets in four in a row while another waits, and as many as there are while none does."""
    lease: Lease | None = replace(OURS, queue=others)
    state = having_seen(lease)
    for turn in range(1, 3 * TURNS):
        assert state.next(True, 0, NOW) == LetIn()
        fence = state.let_in()
        lease = state.release(fence, waiting=True)(lease, fence + 1, NOW)
        assert lease is not None
        state.note(lease, 0)
        if others and turn == TURNS:
            assert (lease.process, lease.queue) == (A, (US,))
            assert state.turn == 0
            return
        assert lease.process == US
    assert not others


def test_a_renewal_extends_the_very_hold() -> None:
    """By whole milliseconds, at least one, and nobody else's."""
    state = having_seen(OURS)
    assert state.renew(7, 30.0)(OURS, 8, NOW) == replace(OURS, until=NOW + 30_000, length=30_000)
    assert state.renew(7, 0.0)(OURS, 8, NOW) == replace(OURS, until=NOW + 1, length=1)
    for other in (THEIRS, replace(OURS, fence=6)):
        assert state.renew(7, 30.0)(other, 8, NOW) == other


def test_old_evidence_of_ones_own_lets_nobody_in() -> None:
    """A session that was loaded long ago shows a grant, or a place in the queue, that may be past."""
    state = LockState(US)
    state.note(OURS, 0)
    assert not state.is_granted
    next_one = state.next(True, 0, NOW)
    for there in (OURS, replace(OURS, fence=5), None):
        assert changed_to(next_one, there) == Lease(US, 8, NOW + GRANT, GRANT)
    assert changed_to(next_one, THEIRS) == replace(THEIRS, queue=(US,))
    state = having_seen(replace(THEIRS, queue=(B, US)))
    state.disbelieve()
    assert changed_to(state.next(True, 0, NOW), THEIRS) == replace(THEIRS, queue=(US,))
    state = having_seen(None)
    state.disbelieve()
    assert state.lease is None


def test_a_grant_that_is_first_seen_in_a_load_is_spent() -> None:
    """A process that has forgotten the lock does not know whom it had let in: it asks for a new grant."""
    state = LockState(US)
    state.note(OURS, 0)
    state.answered()
    assert changed_to(state.next(True, 0, NOW), OURS) == Lease(US, 8, NOW + GRANT, GRANT)
    state.note(replace(OURS, fence=8), 0)
    state.answered()
    assert state.next(True, 0, NOW) == LetIn()


def test_old_evidence_of_others_counts() -> None:
    """Nothing of it can let anybody in: what is decided on it is decided again by the step."""
    state = having_seen(THEIRS)
    state.disbelieve()
    assert state.lease == THEIRS


@pytest.mark.parametrize(
    ("before", "after", "heard"),
    [
        (None, None, True),
        (None, THEIRS, True),
        (THEIRS, None, True),
        (THEIRS, THEIRS, False),
        (THEIRS, replace(THEIRS, queue=(B,)), False),
        (THEIRS, replace(THEIRS, until=THEIRS.until + 1), True),
        (THEIRS, replace(THEIRS, fence=8), True),
        (THEIRS, replace(THEIRS, process=B), True),
        (THEIRS, replace(THEIRS, length=GRANT - 1), True),
    ],
)
def test_who_was_heard_of(before: Lease | None, after: Lease | None, heard: bool) -> None:
    """A grant, a renewal and a release restart the watch; who queues says nothing about the holder."""
    state = having_seen(before, at=1.0)
    assert state.note(after, 2.0) is heard
    assert state.since == (2.0 if heard else 1.0)


def test_a_fence_lost_by_a_failover_is_not_granted_twice() -> None:
    """A version that comes again, since the store has lost it, lets nobody in a second time."""
    state = having_seen(OURS)
    state.let_in()
    state.note(None, 1)
    state.note(OURS, 2)
    assert isinstance(state.next(True, 2, NOW), Change)


# ---------------------------------------------------------------- whatever it has seen

names = st.sampled_from([US, A, B])
some_leases = st.none() | st.builds(
    Lease,
    process=names,
    fence=st.integers(1, 4),
    until=st.integers(NOW - 2 * MAX_SKEW, NOW + 2 * MAX_SKEW),
    length=st.sampled_from([1, GRANT, 30_000]),
    queue=st.lists(names, unique=True, max_size=3).map(tuple),
).map(lambda lease: replace(lease, queue=tuple(one for one in lease.queue if one != lease.process)))
times = st.floats(0, 100)
moves: st.SearchStrategy[Callable[[LockState], Any]] = st.one_of(
    st.builds(lambda lease, at: lambda state: state.note(lease, at), some_leases, times),
    st.just(lambda state: state.disbelieve()),
    st.just(lambda state: state.answered()),
    st.just(lambda state: state.let_in() if state.is_granted else None),
    st.builds(lambda waiting, at: lambda state: state.next(waiting, at, NOW), st.booleans(), times),
)
states = st.lists(moves, max_size=6).map(lambda done: _after(done))


def _after(done: list[Callable[[LockState], Any]]) -> LockState:
    state = LockState(US)
    for move in done:
        move(state)
    return state


@given(states, st.booleans(), times)
def test_the_decision_is_one_of_four(state: LockState, waiting: bool, at: float) -> None:
    """Each exactly when its docstring says; a wait is never negative, nor longer than the lease."""
    lease, was_asked = state.lease, state.asked
    in_queue = lease is not None and US in lease.queue
    granted = state.is_granted
    match state.next(waiting, at, NOW):
        case LetIn():
            assert waiting
            assert granted
        case Close():
            assert not waiting
            assert not state.is_ours
            assert not in_queue
        case Wait(seconds=seconds):
            assert waiting
            assert lease is not None
            assert not state.is_ours
            assert in_queue or was_asked == lease.term
            assert seconds == max(state.since + lease.length / 1000 - at, 0)
        case Change():
            assert waiting or state.is_ours or in_queue


@given(states, st.booleans(), times, some_leases, st.integers(5, 9))
def test_a_change_never_takes_what_is_anothers(
    state: LockState, waiting: bool, at: float, now_there: Lease | None, version: int
) -> None:
    """Whatever is there by then: another's hold ends by no step but one over the very term that was seen."""
    next_one = state.next(waiting, at, NOW)
    if not isinstance(next_one, Change) or now_there is None or now_there.process == US:
        return
    after = next_one.step(now_there, version, NOW)
    if after is None or (after.process, after.fence) != (now_there.process, now_there.fence):
        assert state.lease is not None
        assert now_there.term == state.lease.term
        assert state.has_run_out(at, NOW)
        assert after is not None
        assert after.fence == version


@given(states, st.booleans(), times, some_leases, st.integers(5, 9))
def test_a_change_forgets_nobody(
    state: LockState, waiting: bool, at: float, now_there: Lease | None, version: int
) -> None:
    """Whoever stood in line still does, in the same order, or is the one that was granted the lock."""
    next_one = state.next(waiting, at, NOW)
    if not isinstance(next_one, Change) or now_there is None:
        return
    after = next_one.step(now_there, version, NOW)
    others = tuple(one for one in now_there.queue if one != US)
    if others:
        assert after is not None
        queue = tuple(one for one in after.queue if one != US)
        holds = (after.process,) if after.process != now_there.process else ()
        assert others in (queue, holds + queue)


@given(states, st.booleans(), times)
def test_with_nobody_here_it_comes_to_an_end(state: LockState, hurry: bool, at: float) -> None:
    """Each change that is made, and read back, leaves less of this process; then it closes."""
    lease = state.lease
    for version in range(5, 8):
        next_one = state.next(False, at, NOW)
        if isinstance(next_one, Close):
            return
        lease = changed_to(next_one, lease, version)
        state.note(lease, at)
    pytest.fail("it goes on")


renewals = st.lists(st.tuples(st.integers(0, 400), st.booleans()), max_size=8)


@given(renewals, st.integers(1, 1000), st.integers(-MAX_SKEW, MAX_SKEW), st.integers(0, 500))
def test_a_lease_that_is_renewed_has_not_run_out(
    renewed: list[tuple[int, bool]], most: int, skew: int, looked: int
) -> None:
    """Whichever renewals are seen: nobody ends a lease early, not even near the end of `max_hold`.

    There each renewal is for less, and ends at the same time as the one before.
    """
    state, holder = LockState(US), LockState(A)
    now, lease = NOW, Lease(A, 7, NOW + 400, 400)
    written, ends = now, now + most
    state.note(lease, (now - NOW) / 1000)
    for gap, seen in renewed:
        if now + min(gap, lease.length) >= ends:
            break
        now += min(gap, lease.length)
        after = holder.renew(7, min(400, ends - now) / 1000)(lease, 8, now)
        assert after is not None
        lease, written = after, now
        if seen:
            state.note(lease, (now - NOW) / 1000)
    state.note(lease, (now - NOW) / 1000)
    now += looked
    if state.has_run_out((now - NOW) / 1000, now + skew):
        assert now >= written + lease.length


def _step_of(next_one: Next) -> Step | None:
    return next_one.step if isinstance(next_one, Change) else None


@given(st.lists(st.tuples(some_leases, st.booleans(), st.booleans()), max_size=8))
def test_no_process_asks_twice_under_one_term(seen: list[tuple[Lease | None, bool, bool]]) -> None:
    """A place in the queue is asked for once, until the holder is heard of, or the queue was left."""
    state = LockState(US)
    asked: leases.Term | None = None
    for lease, waiting, _ in seen:
        state.note(lease, 0.0)
        step = _step_of(state.next(waiting, 0.0, NOW - 3 * MAX_SKEW))
        if isinstance(step, partial) and step.func is leases.leave:
            asked = None
        elif isinstance(step, partial) and step.func is leases.take and lease is not None:
            assert step.keywords["over"] is None
            assert lease.term != asked
            asked = lease.term

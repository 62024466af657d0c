"""The lock's field of the record: what each change makes of it, without any I/O."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from asgi_session._data import lease as leases
from asgi_session._data import record as records
from asgi_session._data.lease import GRANT, MAX_QUEUE, TURNS, Lease, Step
from asgi_session._data.record import LOCK, NOBODY, Record
from asgi_session.errors import SessionCorrupt

NOW = 1_790_000_000_000
A, B, C = (bytes([letter]) * 8 for letter in b"ABC")

processes = st.sampled_from([A, B, C, b"D" * 8])


def a_record(**fields: object) -> Record:
    record = records.new_record(
        now=NOW, idle=700, absolute=5000, digest=b"o" * 16, check=b"c" * 4, entries={}
    )
    return replace(record, **{"parts": {77: b"later"}, **fields})  # type: ignore[arg-type]


leases_of_any_kind = st.builds(
    Lease,
    process=processes,
    fence=st.integers(1, 2**63),
    until=st.integers(0, 2**48 - 1),
    length=st.integers(0, 2**32 - 1),
    queue=st.lists(processes, unique=True).map(tuple),
)


@given(leases_of_any_kind)
def test_what_is_written_is_read(lease: Lease) -> None:
    """The field survives the record's bytes, beside parts of other kinds; free means that there is none."""
    record = records.decode(records.encode(leases.write(a_record(), lease)))
    assert leases.read(record) == lease
    free = leases.write(record, None)
    assert leases.read(free) is None
    assert free.parts == {77: b"later"}


@pytest.mark.parametrize("length", [0, 29, 31, 37])
def test_a_malformed_field_is_corrupt(length: int) -> None:
    """Promise 10: never taken for a lock that is free."""
    with pytest.raises(SessionCorrupt, match="lock is malformed"):
        leases.read(a_record(parts={LOCK: bytes(length)}))


def test_take_a_free_lock() -> None:
    """Who takes a free lock holds it, under the version that is being made, for a grant."""
    assert leases.take(None, 7, NOW, process=A) == Lease(A, 7, NOW + GRANT, GRANT)


def test_take_a_lock_that_is_held() -> None:
    """Who comes later queues, once."""
    held = Lease(A, 7, NOW + 5, 5, (B,))
    assert leases.take(held, 8, NOW, process=C) == replace(held, queue=(B, C))
    assert leases.take(held, 8, NOW, process=B) == held


def test_take_a_lock_that_is_ones_own() -> None:
    """Who asks knows nothing of its grant, and somebody may have been let in under that: it gets another."""
    held = Lease(A, 7, NOW + 5, 5, (B, A))
    assert leases.take(held, 8, NOW, process=A) == Lease(A, 8, NOW + GRANT, GRANT, (B,))


def test_a_full_queue_grows_no_further() -> None:
    """A field has its bounds; who finds no place in it asks again."""
    full = Lease(A, 7, NOW, 5, tuple(number.to_bytes(8, "big") for number in range(MAX_QUEUE)))
    assert leases.take(full, 8, NOW, process=B) == full


def test_take_over_from_one_that_is_dead() -> None:
    """The first in line gets it, whoever has found out; and only from the very term that was watched."""
    dead = Lease(A, 7, NOW - 9, 5, (B, C))
    over = dead.term
    assert leases.take(dead, 8, NOW, process=C, over=over) == Lease(B, 8, NOW + GRANT, GRANT, (C,))
    assert leases.take(dead, 8, NOW, process=B, over=over) == Lease(B, 8, NOW + GRANT, GRANT, (C,))
    alone = replace(dead, queue=())
    assert leases.take(alone, 8, NOW, process=C, over=over) == Lease(C, 8, NOW + GRANT, GRANT)
    renewed = replace(dead, until=NOW + 9)
    assert leases.take(renewed, 8, NOW, process=C, over=over) == renewed
    again = replace(dead, fence=8)
    assert leases.take(again, 9, NOW, process=C, over=over) == again


def test_renew() -> None:
    """Only the holder renews, under its own fence."""
    held = Lease(A, 7, NOW + 5, 5, (B,))
    assert leases.renew(held, 8, NOW, holder=(A, 7), length=90) == replace(held, until=NOW + 90, length=90)
    for other in [(A, 6), (A, 8), (B, 7)]:
        assert leases.renew(held, 8, NOW, holder=other, length=90) == held
    assert leases.renew(None, 8, NOW, holder=(A, 7), length=90) is None


def test_a_renewal_to_the_same_end() -> None:
    """Close to the end of `max_hold` each renewal ends when the one before does, and still is one."""
    held = Lease(A, 7, NOW + 90, 60, (B,))
    renewed = leases.renew(held, 8, NOW + 60, holder=(A, 7), length=30)
    assert renewed == replace(held, length=30)
    assert leases.take(renewed, 9, NOW + 60, process=B, over=held.term) == renewed


@pytest.mark.parametrize(
    ("queue", "waiting", "turn", "after"),
    [
        ((), False, 1, None),
        ((B, C), False, 1, Lease(B, 8, NOW + GRANT, GRANT, (C,))),
        ((B,), True, TURNS - 1, Lease(A, 8, NOW + GRANT, GRANT, (B,))),
        ((B, C), True, TURNS, Lease(B, 8, NOW + GRANT, GRANT, (C, A))),
        ((), True, 99, Lease(A, 8, NOW + GRANT, GRANT)),
        ((A, B), True, TURNS, Lease(B, 8, NOW + GRANT, GRANT, (A,))),
    ],
)
def test_release(queue: tuple[bytes, ...], waiting: bool, turn: int, after: Lease | None) -> None:
    """At most four of one process in a row while another waits; never a fence twice."""
    held = Lease(A, 7, NOW + 5, 5, queue)
    assert leases.release(held, 8, NOW, holder=(A, 7), waiting=waiting, turn=turn) == after
    for other in [(A, 6), (B, 7)]:
        assert leases.release(held, 8, NOW, holder=other, waiting=waiting, turn=turn) == held
    assert leases.release(None, 8, NOW, holder=(A, 7), waiting=waiting, turn=turn) is None


def test_leave() -> None:
    """Who waits no longer is out of the queue; who was granted the lock meanwhile passes it on."""
    held = Lease(A, 7, NOW + 5, 5, (B, C))
    assert leases.leave(held, 8, NOW, process=B) == replace(held, queue=(C,))
    assert leases.leave(held, 8, NOW, process=A) == Lease(B, 8, NOW + GRANT, GRANT, (C,))
    assert leases.leave(replace(held, queue=()), 8, NOW, process=A) is None
    assert leases.leave(None, 8, NOW, process=A) is None


def test_an_ended_session_has_no_lock() -> None:
    """Nobody waits for what has ended."""
    record = a_record(digest=NOBODY)
    assert leases.step(record, partial(leases.take, process=A), NOW) is record


def test_nothing_to_change_is_nothing_to_write() -> None:
    """Promise 2: the very same record comes back, so that the fold sees that there is nothing to save."""
    record = leases.write(a_record(), Lease(A, 7, NOW, 5, (B,)))
    assert leases.step(record, partial(leases.take, process=B), NOW) is record
    assert leases.step(record, partial(leases.take, process=C), NOW) is not record


@pytest.mark.parametrize(
    ("before", "after", "woken"),
    [
        (None, Lease(B, 7, 0, 0), ()),
        (Lease(A, 7, 0, 0), None, ()),
        (Lease(A, 7, 0, 0, (B, C)), Lease(B, 8, 0, 0, (C,)), (B,)),
        (Lease(A, 7, 0, 0, (B, C)), Lease(A, 8, 0, 0, (B, C)), (A,)),
        (Lease(A, 7, 0, 0, (B, C)), Lease(A, 7, 9, 9, (B, C)), ()),
        (Lease(A, 7, 0, 0, (B, C)), None, (B, C)),
        (Lease(B, 7, 0, 0, (C,)), Lease(B, 8, 0, 0, (C,)), (B,)),
        (Lease(B, 7, 0, 0, (C,)), Lease(B, 7, 0, 0, (C, A)), (B,)),
        (Lease(B, 7, 0, 0, (C, A)), Lease(B, 7, 0, 0, (C,)), ()),
    ],
)
def test_who_is_to_be_woken_up(before: Lease | None, after: Lease | None, woken: tuple[bytes, ...]) -> None:
    """Who is granted the lock; its holder, of who queues; all that wait, when the session ends."""
    assert leases.to_wake(leases.write(a_record(), before), leases.write(a_record(), after)) == woken


@given(
    st.lists(
        st.tuples(st.sampled_from(["take", "over", "renew", "release", "stale release", "leave"]), processes),
        max_size=60,
    )
)
def test_any_history(history: list[tuple[str, bytes]]) -> None:
    """Promise 12: whatever happens in whichever order, one holds, fences rise, no one is queued twice,
    and nobody who waits is forgotten: whoever is in the queue stays in it, in order, until granted."""
    lease: Lease | None = None
    fences = [0]
    for version, (what, process) in enumerate(history, start=1):
        before = lease
        holder = (process, before.fence if before is not None else 0)
        changes: dict[str, Step] = {
            "take": partial(leases.take, process=process),
            "over": partial(leases.take, process=process, over=before.term if before is not None else None),
            "renew": partial(leases.renew, holder=holder, length=9000),
            "release": partial(leases.release, holder=holder, waiting=version % 2 == 0, turn=version % 6),
            "stale release": partial(
                leases.release, holder=(process, fences[-2] if len(fences) > 1 else 0), waiting=True, turn=4
            ),
            "leave": partial(leases.leave, process=process),
        }
        lease = changes[what](before, version, NOW)
        if lease is None:
            assert before is None or not before.queue or before.queue == (process,), "a waiter was forgotten"
            continue
        assert len(set(lease.queue)) == len(lease.queue)
        if before is None or lease.fence != before.fence:
            assert lease.fence == version > fences[-1]
            fences.append(lease.fence)
            assert lease.length == GRANT
            if before is not None and before.queue and lease.process != before.process:
                assert lease.process == next(one for one in before.queue if what != "leave" or one != process)
        if before is not None:
            stay = [one for one in before.queue if one not in (lease.process, process)]
            assert [one for one in lease.queue if one in stay] == stay

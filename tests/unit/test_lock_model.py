"""Processes that wait for one session's lock, in any order, with everything lost and late that can be.

Each has a `LockState` and does with its answers what the lock's queue does; the record is a real one, which
nothing changes but the steps that were decided on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asgi_session._data import lease as leases
from asgi_session._data import record as records
from asgi_session._data.lease import MAX_SKEW, TURNS, Lease, Step, Term
from asgi_session._data.record import Record
from asgi_session._engine.lock_state import Change, Close, LetIn, LockState, Wait

START = 1_790_000_000_000
LOOK_AGAIN = 5.0
"""Seconds after which a process that waits looks at the record in any case."""
WAITERS = 8
"""That wait in one process at a time."""


class Call:
    """Something that was asked of the store: a load, or a change of the lock.

    Attributes:
        step: None for a load.
        before: the version that was known when it was asked.
        holder: who must hold the lock for it to count.
        made: what it would have written when it was sent.
        executed: whether the store has done it.
        result: the version that was answered.
        refused: for it was made under a lock that is another's.
        then: called with the error or the result.
    """

    def __init__(
        self,
        step: Step | None,
        before: Record | None,
        then: Callable[[bool, Record | None], None],
        holder: leases.Holder | None = None,
    ) -> None:
        self.step = step
        self.before = before
        self.holder = holder
        self.executed = self.refused = False
        self.result: Record | None = None
        self.then = then


class Hold:
    """A block that runs under the lock."""

    def __init__(self, fence: int, ends: int, lease: int) -> None:
        self.fence = fence
        self.ends = ends  # ms, by the holder's own steady clock
        self.lease = lease
        self.leaving = False


class Process:
    """What a process does with the answers of its `LockState`: the lock's queue, without its waiters' tasks.

    Attributes:
        queue: what it knows while somebody is here; None: nobody is, and it knows nothing.
        calls: those on their way, in their order.
    """

    def __init__(self, world: Locks, name: bytes, skew: int, started: int) -> None:
        self.world = world
        self.name = name
        self.skew = skew
        self.started = started
        self.state: LockState | None = None
        self.latest: Record | None = None
        self.waiters = 0
        self.hold: Hold | None = None
        self.terms = (30_000, 60_000)
        self.calls: list[Call] = []
        self.busy: Call | None = None
        self.missed = False
        self.waits: float | None = None  # the seconds of the last Wait, until something else is done
        self.asked: set[Term] = set()  # the terms under which it has asked for a place

    # ---------------------------------------------------------------- its clocks

    @property
    def now(self) -> int:
        return self.world.now + self.skew

    @property
    def at(self) -> float:
        return (self.world.now - self.started) / 1000

    # ---------------------------------------------------------------- what it knows

    def open(self, version: Record | None) -> LockState:
        """Begin to know something, with a version that a session has had for long, perhaps."""
        self.state = LockState(self.name)
        self.latest = None
        self.asked = set()
        if version is not None:
            self.note(version)
            self.state.disbelieve()
        return self.state

    def close(self) -> None:
        self.state = self.latest = self.busy = self.waits = None
        self.missed = False

    def note(self, version: Record) -> None:
        assert self.state is not None
        self.state.note(leases.read(version), self.at)
        self.latest = version

    def learn(self, newest: Record, before: Record | None) -> None:
        """Take notice of what the store has answered, unless something newer was heard meanwhile."""
        if self.latest is None or self.latest is before or newest.version > self.latest.version:
            self.note(newest)
        assert self.state is not None
        self.state.answered()
        missed, self.missed = self.missed, False
        if missed:
            self.wake()
        else:
            self.go_on()

    def told(self, version: Record) -> None:
        """Hear of a version that this process has saved: late, perhaps, and again."""
        if self.state is not None and (self.latest is None or version.version > self.latest.version):
            self.note(version)
            self.go_on()

    # ---------------------------------------------------------------- what it does

    def go_on(self) -> None:
        state = self.state
        if state is None or self.busy is not None or self.hold is not None:
            return
        self.waits = None
        if self.latest is None:
            self.look()
            return
        lease = state.lease
        match state.next(self.waiters > 0, self.at, self.now):
            case LetIn():
                assert self.waiters
                self.waiters -= 1
                self.let_in(state.let_in())
            case Change(step=step):
                self.check_asked(step, lease)
                self.busy = self.send(step, self.changed)
            case Wait(seconds=seconds):
                assert self.waiters
                self.waits = seconds
            case Close():
                assert not self.waiters
                assert lease is None or (lease.process != self.name and self.name not in lease.queue)
                self.close()

    def check_asked(self, step: Step, lease: Lease | None) -> None:
        assert isinstance(step, partial)
        if step.func is leases.leave:
            self.asked.clear()
        elif step.func is leases.take and lease is not None and step.keywords["over"] is None:
            assert lease.term not in self.asked, "it asks twice"
            self.asked.add(lease.term)

    def let_in(self, fence: int) -> None:
        self.world.let_in(self, fence)
        length, most = self.terms
        self.hold = Hold(fence, self.world.now + most, length)

    def send(
        self,
        step: Step | None,
        then: Callable[[bool, Record | None], None],
        holder: leases.Holder | None = None,
    ) -> Call:
        call = Call(step, self.latest, then, holder)
        self.calls.append(call)
        return call

    def look(self) -> None:
        before = self.latest
        self.busy = self.send(None, partial(self.looked, before))

    def looked(self, before: Record | None, failed: bool, newest: Record | None) -> None:
        self.busy = None
        if not failed:
            assert newest is not None
            self.learn(newest, before)
        elif self.state is not None and self.state.is_granted:
            self.go_on()
        else:
            self.give_up()

    def changed(self, failed: bool, newest: Record | None) -> None:
        assert self.busy is not None
        before, self.busy = self.busy.before, None
        if failed:
            self.give_up()
        else:
            assert newest is not None
            self.learn(newest, before)

    def give_up(self) -> None:
        """Fail everybody who waits: the store is away."""
        self.world.failures += 1
        self.waiters = 0
        self.close()

    # ---------------------------------------------------------------- who comes and goes

    def arrive(self, version: Record) -> None:
        if self.state is None:
            self.open(version)
        self.waiters += 1
        self.go_on()

    def leave_queue(self) -> None:
        self.waiters -= 1
        self.go_on()

    def wake(self) -> None:
        """Hear that the record may have changed; that is true, or late, or a lie."""
        if self.state is None:
            self.open(None)
        if self.busy is not None:
            self.missed = True
        elif self.hold is not None:
            hold, before = self.hold, self.latest
            self.send(None, partial(self.looked_for, hold, before))
        else:
            self.look()

    def looked_for(self, hold: Hold, before: Record | None, failed: bool, newest: Record | None) -> None:
        if failed or self.state is None:
            return
        assert newest is not None
        self.check_hold(hold, newest)
        if self.state is not None:
            self.learn(newest, before)

    def time_is_up(self) -> None:
        """Wait no longer."""
        assert self.state is not None
        if self.state.has_run_out(self.at, self.now):
            self.go_on()
        elif self.busy is None:
            self.look()

    # ---------------------------------------------------------------- the one inside

    def renew(self) -> None:
        hold = self.hold
        assert hold is not None
        assert self.state is not None
        left = hold.ends - self.world.now
        if left <= 0:
            self.end()
            return
        step = self.state.renew(hold.fence, min(hold.lease, left) / 1000)
        self.busy = self.send(step, partial(self.renewed, hold))

    def renewed(self, hold: Hold, failed: bool, newest: Record | None) -> None:
        assert self.busy is not None
        before, self.busy = self.busy.before, None
        if failed:
            self.go_on()
            return
        assert newest is not None
        self.check_hold(hold, newest)
        self.learn(newest, before)

    def check_hold(self, hold: Hold, newest: Record) -> None:
        if self.hold is hold and not hold.leaving and not leases.held_by(newest, (self.name, hold.fence)):
            self.hold = None

    def release(self) -> None:
        """End the block with a commit that releases the lock."""
        hold = self.hold
        assert hold is not None
        assert self.state is not None
        hold.leaving = True
        step = self.state.release(hold.fence, waiting=self.waiters > 0)
        self.send(step, partial(self.released, hold, self.latest), (self.name, hold.fence))

    def released(self, hold: Hold, before: Record | None, failed: bool, newest: Record | None) -> None:
        if self.hold is hold:
            self.hold = None
            latest = self.latest
            newer = newest is not None and (
                latest is None or latest is before or newest.version > latest.version
            )
            if newest is not None and newer and not failed:
                self.note(newest)
            self.go_on()

    def end(self) -> None:
        """End the block without a commit; or the lock, because `max_hold` is over."""
        self.hold = None
        self.go_on()


class Locks(RuleBasedStateMachine):
    """A record, processes, and what can happen to either."""

    capacity = leases.MAX_QUEUE

    def __init__(self) -> None:
        super().__init__()
        self.full_at, leases.MAX_QUEUE = leases.MAX_QUEUE, self.capacity  # type: ignore[misc]
        self.now = START
        self.record = records.new_record(
            now=START, idle=10**9, absolute=10**9, digest=b"d" * 16, check=b"c" * 4, entries={}
        )
        self.versions = [self.record]
        self.written = START  # when the term in the record was
        self.granted: set[tuple[bytes, int]] = set()  # to whom, under which fence, somebody was let in
        self.turns = 0  # let in by one process in a row while another stood in line
        self.last = b""
        self.failures = 0
        self.zombies: list[tuple[Record, Record]] = []  # version, and what may still be saved on it
        self.processes: list[Process] = []
        self.started = 0

    def teardown(self) -> None:
        try:
            self.everybody_gets_in()
        finally:
            leases.MAX_QUEUE = self.full_at  # type: ignore[misc]

    @initialize(skews=st.lists(st.integers(0, MAX_SKEW), min_size=2, max_size=3))
    def start(self, skews: list[int]) -> None:
        for skew in skews:
            self.start_process(skew)

    def start_process(self, skew: int) -> None:
        name = bytes([self.started + 65]) * 8
        self.started += 1
        self.processes.append(Process(self, name, skew, self.now))

    # ---------------------------------------------------------------- the store

    def execute(self, process: Process, call: Call) -> None:
        """Have the store carry out what was asked, on the version that it has by then."""
        assert not call.executed
        call.executed = True
        if call.step is None:
            call.result = self.record
            return
        if call.holder is not None and not leases.held_by(self.record, call.holder):
            call.refused = True
            return
        base = records.next_version(self.record, process.now)
        made = leases.step(base, call.step, process.now)
        if made is base and call.holder is None:
            call.result = self.record  # there is nothing to write
        else:
            self.save(made)
            call.result = made

    def save(self, made: Record) -> None:
        before, after = leases.read(self.record), leases.read(made)
        if before is not None and (after is None or after.term != before.term):
            self.check_taken(before, after, made)
        if after is not None and (before is None or after.term != before.term):
            self.written = self.now
        woken = leases.to_wake(self.record, made)
        self.record = made
        self.versions.append(made)
        self.woken = woken

    def check_taken(self, before: Lease, after: Lease | None, made: Record) -> None:
        """Nobody who lives loses the lock before its lease is over."""
        if after is not None and (after.process, after.fence) != (before.process, before.fence):
            assert after.fence == made.version, "a fence is the version of its grant"
        holder = next((one for one in self.processes if one.name == before.process), None)
        inside = holder is not None and holder.hold is not None and holder.hold.fence == before.fence
        still = after is not None and (after.process, after.fence) == (before.process, before.fence)
        if inside and not still and not holder.hold.leaving:  # type: ignore[union-attr]
            assert self.now >= self.written + before.length, "taken over too early"

    def reply(self, process: Process, call: Call, *, sent_again: bool = False) -> None:
        """Have the answer arrive; one that was lost was asked for again, and shows what is there by now."""
        process.calls.remove(call)
        result = self.record if sent_again and call.step is not None and not call.refused else call.result
        saved = call.step is not None and call.result is not None and call.result is not call.before
        call.then(call.refused, result)
        if saved and result is not None:
            process.told(result)

    def next_to_execute(self, process: Process) -> list[Call]:
        """Return what may be carried out next: saves come one after another, loads when they like."""
        open_ = [call for call in process.calls if not call.executed]
        saves = [call for call in process.calls if call.step is not None]
        return [call for call in open_ if call.step is None or call is saves[0]]

    def let_in(self, process: Process, fence: int) -> None:
        """Note that somebody is let in: once per grant, and at most four in a row while another waits."""
        assert (process.name, fence) not in self.granted, "two are let in under one grant"
        self.granted.add((process.name, fence))
        at_grant = next((one for one in self.versions if one.version == fence), None)
        assert at_grant is not None
        lease = leases.read(at_grant)
        assert lease is not None
        assert (lease.process, lease.fence) == (process.name, fence), "let in without a grant"
        others = any(one != process.name for one in lease.queue)
        if process.name != self.last or not others:
            self.turns = 0
        self.last = process.name
        self.turns += others
        assert self.turns <= TURNS + self.failures, "it keeps the lock to itself"

    # ---------------------------------------------------------------- what happens

    @property
    def at_work(self) -> list[Process]:
        return [one for one in self.processes if one.calls]

    @property
    def waiting(self) -> list[Process]:
        return [one for one in self.processes if one.waits is not None and one.busy is None]

    @property
    def inside(self) -> list[Process]:
        return [one for one in self.processes if one.hold is not None and not one.hold.leaving]

    def choose(self, data: Any, among: list[Any]) -> Any:
        return among[data.draw(st.integers(0, len(among) - 1))]

    @precondition(lambda self: any(one.waiters < WAITERS for one in self.processes))
    @rule(
        data=st.data(),
        old=st.integers(0, 3),
        lease=st.sampled_from([1000, 30_000]),
        most=st.integers(1, 60_000),
    )
    def arrive(self, data: Any, old: int, lease: int, most: int) -> None:
        """Somebody comes, whose session may have been loaded some versions ago."""
        process = self.choose(data, [one for one in self.processes if one.waiters < WAITERS])
        process.terms = (lease, most)
        process.arrive(self.versions[max(len(self.versions) - 1 - old, 0)])

    @precondition(lambda self: any(one.waiters for one in self.processes))
    @rule(data=st.data())
    def give_up_waiting(self, data: Any) -> None:
        """Somebody waits no longer."""
        self.choose(data, [one for one in self.processes if one.waiters]).leave_queue()

    @precondition(lambda self: any(self.next_to_execute(one) for one in self.processes))
    @rule(data=st.data())
    def store_executes(self, data: Any) -> None:
        """The store carries out a call, of which nobody is told yet."""
        process = self.choose(data, [one for one in self.processes if self.next_to_execute(one)])
        self.execute(process, self.choose(data, self.next_to_execute(process)))

    @precondition(lambda self: any(call.executed for one in self.processes for call in one.calls))
    @rule(data=st.data(), sent_again=st.booleans())
    def answer_arrives(self, data: Any, sent_again: bool) -> None:
        """At once, late, or only when the call was sent again."""
        process = self.choose(
            data, [one for one in self.processes if any(each.executed for each in one.calls)]
        )
        self.reply(
            process,
            self.choose(data, [each for each in process.calls if each.executed]),
            sent_again=sent_again,
        )

    @precondition(lambda self: bool(self.at_work))
    @rule(data=st.data())
    def calls_are_done(self, data: Any) -> None:
        """All that a process has asked is carried out and answered at once."""
        self.run(self.choose(data, self.at_work))

    @precondition(lambda self: bool(self.at_work))
    @rule(data=st.data(), later=st.booleans())
    def call_fails(self, data: Any, later: bool) -> None:
        """A call has no answer in time; the store may carry it out all the same, before or later."""
        process = self.choose(data, self.at_work)
        call = process.calls[0]
        if later:
            self.stays_on_the_wire(process, call)
        process.calls.remove(call)
        call.then(True, None)

    def stays_on_the_wire(self, process: Process, call: Call) -> None:
        """Have a save carried out later, if its version is still the newest by then."""
        if call.step is not None and call.before is not None and not call.executed:
            made = leases.step(records.next_version(call.before, process.now), call.step, process.now)
            if call.holder is None or leases.held_by(call.before, call.holder):
                self.zombies.append((call.before, made))

    @precondition(lambda self: bool(self.zombies))
    @rule()
    def late_save_arrives(self) -> None:
        """A save that everybody has given up counts if its version is still the newest."""
        base, made = self.zombies.pop(0)
        if self.record is base:
            self.save(made)

    @rule(data=st.data(), version=st.integers(0, 5))
    def is_told(self, data: Any, version: int) -> None:
        """A process hears late, or again, of a version."""
        self.choose(data, self.processes).told(self.versions[max(len(self.versions) - 1 - version, 0)])

    @rule(data=st.data())
    def wake_up(self, data: Any) -> None:
        """A process hears that something may have changed; all other such messages are lost."""
        process = self.choose(data, self.processes)
        if len(process.calls) < 5:
            process.wake()

    @precondition(lambda self: bool(self.waiting))
    @rule(data=st.data())
    def looks_again(self, data: Any) -> None:
        """A process that waits looks by itself: when its time has come, or earlier if it polls."""
        self.choose(data, self.waiting).time_is_up()

    @precondition(lambda self: any(one.busy is None for one in self.inside))
    @rule(data=st.data(), at_once=st.booleans())
    def renews(self, data: Any, at_once: bool) -> None:
        """A holder renews its lease, or ends since `max_hold` is over."""
        process = self.choose(data, [one for one in self.inside if one.busy is None])
        process.renew()
        if at_once:
            self.run(process)

    @precondition(lambda self: bool(self.inside))
    @rule(data=st.data())
    def releases(self, data: Any) -> None:
        """A block ends, with the commit that releases the lock."""
        self.choose(data, self.inside).release()

    @precondition(lambda self: bool(self.inside))
    @rule(data=st.data())
    def block_fails(self, data: Any) -> None:
        """A block ends without a commit."""
        self.choose(data, self.inside).end()

    @rule()
    def somebody_saves(self) -> None:
        """Another request saves, without the lock: nothing of it changes."""
        self.save(records.next_version(self.record, self.now))

    @rule(seconds=st.sampled_from([0.001, 0.3, 1, 2, 10, 30, 61]))
    def time_passes(self, seconds: float) -> None:
        """The clocks go on."""
        self.now += round(seconds * 1000)

    @precondition(lambda self: self.started < 12)
    @rule(data=st.data(), skew=st.integers(0, MAX_SKEW))
    def process_dies(self, data: Any, skew: int) -> None:
        """A process is gone with all that it knew, but for a save on the wire; another one starts."""
        process = self.choose(data, self.processes)
        for call in process.calls:
            self.stays_on_the_wire(process, call)
        self.processes.remove(process)
        self.start_process(skew)

    # ---------------------------------------------------------------- what holds at every moment

    @invariant()
    def at_most_one_could_save(self) -> None:
        """Of all who believe that they hold the lock at most one would be believed."""
        believed = [
            one
            for one in self.processes
            if one.hold is not None and leases.held_by(self.record, (one.name, one.hold.fence))
        ]
        assert len(believed) <= 1

    @invariant()
    def who_waits_has_something_to_wait_for(self) -> None:
        """Nobody waits in a process that neither waits for an answer, nor for a time, nor has a holder."""
        for one in self.processes:
            if one.waiters:
                assert one.busy is not None or one.hold is not None or one.waits is not None

    @invariant()
    def the_queue_names_each_once(self) -> None:
        """And never the holder, nor more than there is room for."""
        lease = leases.read(self.record)
        if lease is not None:
            assert len({*lease.queue, lease.process}) == len(lease.queue) + 1
            assert len(lease.queue) <= self.capacity + 1  # the holder may queue again behind the last

    # ---------------------------------------------------------------- what holds in the end

    def run(self, process: Process) -> None:
        """Carry out and answer what a process has asked, and what follows from that, until it waits."""
        for _ in range(50):
            if not process.calls:
                return
            for call in self.next_to_execute(process):
                self.execute(process, call)
            self.reply(process, next(call for call in process.calls if call.executed))
        raise AssertionError("it never stops asking the store")

    def everybody_gets_in(self) -> None:
        """Once nothing fails any more, everybody who waits is let in, in a bounded number of rounds."""
        self.zombies.clear()
        failures = self.failures
        waiting = sum(one.waiters for one in self.processes)
        before = len(self.granted)
        rounds = 0
        while any(one.calls or one.waiters or one.hold for one in self.processes):
            rounds += 1
            assert rounds <= 40 + 20 * waiting, "somebody waits for ever"
            for process in self.processes:
                self.run(process)
            for process in self.inside:
                process.release()
                self.run(process)
            if not any(one.calls for one in self.processes):
                self.pass_time()
        assert self.failures == failures
        assert len(self.granted) == before + waiting
        # And out again: nothing is left but what the dead have, and what a call that failed has.
        lease = leases.read(self.record)
        if lease is not None and not self.failures:
            assert not {one.name for one in self.processes} & {lease.process, *lease.queue}

    def pass_time(self) -> None:
        """Let the time pass until the first that waits looks again, without any wake-up."""
        waits = [(one.waits, index) for index, one in enumerate(self.processes) if one.waits is not None]
        if waits:
            seconds, index = min(waits)
            self.now += round(min(seconds, LOOK_AGAIN) * 1000) + 1
            self.processes[index].time_is_up()


class FullQueue(Locks):
    """The same with room for one in the record's queue."""

    capacity = 1


TestLocks = Locks.TestCase
TestLocks.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestFullQueue = FullQueue.TestCase
TestFullQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

"""The checker, on histories written by hand: it finds each kind of violation, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.locks.events import Event, assemble, parse
from tests.locks.history import check, summary
from tests.locks.violations import Limits, Violation

STRICT = Limits(enqueue=0.5, idle=1.0)
WITH_LOSS = Limits(loss=1.0)


class Story:
    """Writes a history down. Processes are named by letters, operations by process and number: "a1"."""

    def __init__(self) -> None:
        self.files: dict[str, list[Event]] = {}
        self.value, self.last = 0, ""

    def event(self, file: str, event: str, at: float, **more: Any) -> None:
        self.files.setdefault(file, []).append({"event": event, "at": at, **more})

    def ask(self, op: str, at: float, wait: float = 10.0, *, in_line: bool = True) -> None:
        self.event(
            op[0], "asked", at, op=op, session="s", process=op[0], wait=wait, max_hold=300.0, in_line=in_line
        )

    def grant(self, op: str, at: float, fence: int, read: tuple[int, str] | None = None) -> None:
        value, last = read or (self.value, self.last)
        self.event(op[0], "granted", at, op=op, fence=fence, value=value, last=last)

    def write(self, op: str, at: float, read: tuple[int, str] | None = None, *, applied: bool = True) -> None:
        """Write the next value; `applied` says whether it gets into the store."""
        value, last = read or (self.value, self.last)
        name = f"{op}.{value + 1}"
        self.event(op[0], "writing", at, op=op, write=name, value=value + 1, after=last)
        if applied:
            self.value, self.last = value + 1, name

    def end(self, op: str, at: float, outcome: str = "left") -> None:
        if outcome == "left":
            self.event(op[0], "leaving", at, op=op)
        self.event(op[0], "ended", at, op=op, outcome=outcome)

    def use(self, op: str, at: float, fence: int, outcome: str = "left") -> None:
        """Tell of a whole operation that takes 0.1 s and begins at `at`."""
        self.ask(op, at)
        self.grant(op, at + 0.01, fence)
        self.write(op, at + 0.02, applied=outcome == "left")
        self.end(op, at + 0.1, outcome)

    def campaign(self, event: str, at: float, **more: Any) -> None:
        self.event("campaign", event, at, **more)

    def check(self, limits: Limits = STRICT, **found: Any) -> list[Violation]:
        what = {"session": "s", "value": self.value, "last": self.last, "notes": {}, "lock": [], **found}
        return check(assemble([*self.files.values(), [{"event": "found", "at": 99.0, **what}]]), limits)

    def rules(self, limits: Limits = STRICT, **found: Any) -> set[str]:
        return {violation.rule for violation in self.check(limits, **found)}


@pytest.fixture
def story() -> Story:
    """Two holders of two processes, one after the other, in order."""
    story = Story()
    story.use("a1", 1.0, fence=1)
    story.use("b1", 1.2, fence=3)
    return story


def troubled(story: Story) -> Story:
    """Add that something was tampered with at the beginning."""
    story.campaign("shaken", 0.0)
    return story


def test_all_in_order(story: Story) -> None:
    """A history without fault has no violation, whatever ends operations may come to."""
    troubled(story)
    story.use("a2", 2.0, fence=5, outcome="discarded")
    story.use("b2", 2.2, fence=7, outcome="refused")
    story.use("a3", 2.4, fence=9, outcome="unknown")
    story.use("b3", 2.6, fence=11)
    for op, outcome in (("a4", "timeout"), ("a5", "cancelled"), ("a6", "unavailable")):
        story.ask(op, 3.0, wait=1.0)
        story.end(op, 4.1, outcome)
    story.ask("c1", 3.0)
    story.grant("c1", 3.1, fence=13)
    story.end("c1", 3.2)  # changed nothing
    story.ask("c2", 4.0)
    story.campaign("killed", 4.5, process="c")
    assert story.check() == []


def test_the_summary_counts(story: Story) -> None:
    """It says how many operations there were, by their end."""
    story.use("a2", 2.0, fence=5, outcome="refused")
    story.ask("a3", 3.0)
    found = {"event": "found", "at": 9.0, "session": "s", "value": story.value, "last": story.last}
    counted = summary(assemble([*story.files.values(), [found]]))
    assert counted == {"acquisitions": 3, "hanging": 1, "left": 2, "refused": 1, "notes": 0, "lost": 0}


# ---------------------------------------------------------------- effects


def test_a_lost_update(story: Story) -> None:
    """Of two acknowledged writes that were made out of one value, one is reported."""
    read = story.value, story.last
    story.use("a2", 2.0, fence=5)
    story.ask("b2", 2.2)
    story.grant("b2", 2.3, fence=7, read=read)
    story.write("b2", 2.4, read)
    story.end("b2", 2.5)
    violations = story.check()
    assert {violation.rule for violation in violations} == {"lost", "count"}
    lost = next(violation for violation in violations if violation.rule == "lost")
    assert [op.id for op in lost.operations] == ["a2", "b2"], "the minimal history has both"
    assert len(lost.events()) == 10


def test_an_acknowledged_write_that_is_missing(story: Story) -> None:
    """A write that was acknowledged is in the store."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.write("a2", 2.2, applied=False)
    story.end("a2", 2.3)
    assert story.rules() == {"lost", "count"}


@pytest.mark.parametrize("outcome", ["refused", "discarded", "failed"])
def test_a_refused_write_that_was_applied(story: Story, outcome: str) -> None:
    """A stale holder's save, or one that an exception should have discarded, is found in the store."""
    troubled(story)
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.write("a2", 2.2)
    story.end("a2", 2.3, outcome)
    assert story.rules() == {"applied", "count"}


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("outcome", ["unknown", "killed"])
def test_unknown_outcomes_may_be_either(story: Story, outcome: str, applied: bool) -> None:
    """A write of unknown outcome may be there or not."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.write("a2", 2.2, applied=applied)
    if outcome == "killed":
        story.campaign("killed", 2.3, process="a")
    else:
        story.end("a2", 2.3, outcome)
    story.use("b2", 2.5, fence=7)
    assert story.check() == []


def test_a_write_applied_twice(story: Story) -> None:
    """The counter must not exceed what the writes can account for."""
    assert "torn" in story.rules(value=3)


def test_a_write_that_nobody_made(story: Story) -> None:
    """What the store holds comes from an operation on record."""
    assert story.rules(last="x9.2") == {"torn"}
    assert story.rules(value=0, last="") == {"lost", "count", "stale"}


def test_half_a_write(story: Story) -> None:
    """The two keys of a write are there together."""
    assert story.rules(last="a1.1") == {"torn"}


def test_a_session_that_is_gone(story: Story) -> None:
    """A session without a state in the end is no success."""
    assert {v.rule for v in check(assemble(story.files.values()), STRICT)} == {"torn"}


def test_a_fence_that_falls(story: Story) -> None:
    """A later write under a lower fence is found, on the chain."""
    story.use("a2", 2.0, fence=2)
    assert "fence" in story.rules()


def test_a_fence_given_twice(story: Story) -> None:
    """Two holders with one fence are found, even if one has written nothing."""
    troubled(story)
    story.use("a2", 2.0, fence=5, outcome="refused")
    story.use("b2", 2.2, fence=5)
    assert "fence" in story.rules()


def test_two_writes_under_one_grant(story: Story) -> None:
    """A commit inside the block and one at its end have the same fence; what was settled stays settled."""
    troubled(story)
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.write("a2", 2.2)
    story.event("a", "saved", 2.25, op="a2")
    story.write("a2", 2.3, applied=False)
    story.end("a2", 2.4, "refused")
    assert story.check() == []


def test_a_commit_inside_of_unknown_outcome(story: Story) -> None:
    """It may be there although the block then ended with an exception."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.write("a2", 2.2)
    story.event("a", "unsure", 2.25, op="a2")
    story.end("a2", 2.4, "discarded")
    assert story.check() == []


def test_a_holder_that_reads_what_is_past(story: Story) -> None:
    """A holder that changes nothing must have read the last write, too."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5, read=(1, "a1.1"))
    story.end("a2", 2.2)
    assert story.rules() == {"stale"}


def test_a_holder_that_reads_what_is_to_come(story: Story) -> None:
    """A lower fence cannot see the write of a higher one."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=2)
    story.end("a2", 2.2)
    assert "stale" in story.rules()


def test_a_holder_that_reads_what_never_was(story: Story) -> None:
    """What is read has been applied."""
    troubled(story)
    story.use("a2", 2.0, fence=5, outcome="refused")
    story.ask("b2", 2.2)
    story.grant("b2", 2.3, fence=7, read=(3, "a2.3"))
    story.end("b2", 2.4)
    assert story.rules() == {"stale"}


def test_two_in_the_block_at_a_time(story: Story) -> None:
    """A grant while an earlier holder, whose save then succeeds, is still at work."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.write("a2", 2.2)
    story.ask("b2", 2.2)
    story.grant("b2", 2.3, fence=7)
    story.end("a2", 2.5)
    story.end("b2", 2.6)
    assert story.rules() == {"overlap"}


def test_a_stale_holder_is_no_overlap(story: Story) -> None:
    """One that was stopped, outlived its grant and was refused may go on for as long as it likes."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.write("a2", 2.2, applied=False)
    story.campaign("paused", 2.3, process="a")
    story.use("b2", 4.5, fence=7)
    story.campaign("continued", 5.3, process="a")
    story.end("a2", 5.5, "refused")
    assert story.check() == []


def test_notes_that_are_lost(story: Story) -> None:
    """Commits without the lock survive: the last acknowledged one, or one of unknown outcome after it."""
    story.event("a", "noting", 2.0, session="s", key="n", value="1")
    assert story.rules(notes={}) == set()
    assert story.rules(notes={"n": "1"}) == set()
    story.event("a", "noted", 2.1, session="s", key="n", value="1")
    assert story.rules(notes={}) == {"notes"}
    assert story.rules(notes={"n": "1"}) == set()
    story.event("a", "noting", 2.2, session="s", key="n", value="2")
    assert story.rules(notes={"n": "2"}) == set()
    assert story.rules(notes={"n": "0"}) == {"notes"}


def test_transactions_that_are_lost(story: Story) -> None:
    """What transactions without the lock have added is there, and at most what nobody knows of besides."""
    for name in ("adding", "added", "adding", "added", "adding", "failed", "adding"):
        story.event("a", name, 2.0, session="s")
    assert [story.rules(tally=tally) for tally in range(1, 5)] == [{"notes"}, set(), set(), {"notes"}]


# ---------------------------------------------------------------- waiting


def test_a_client_that_hangs(story: Story) -> None:
    """One that never got an answer, and one that never left, are reported; a killed one is not."""
    story.ask("a2", 2.0)
    assert story.rules() == {"hang"}
    story.campaign("killed", 3.0, process="a")
    assert story.rules() == set()
    story.ask("b2", 4.0)
    story.grant("b2", 4.1, fence=5)
    assert story.rules() == {"hang"}


@pytest.mark.parametrize("outcome", ["timeout", "left", "cancelled", "unavailable"])
def test_an_answer_that_comes_late(story: Story, outcome: str) -> None:
    """Nobody waits for longer than asked; the time for which the process was stopped does not count."""
    story.ask("a2", 2.0, wait=1.0)
    if outcome == "left":
        story.grant("a2", 6.0, fence=5)
    story.end("a2", 6.0, outcome)
    assert "late" in story.rules()
    story.campaign("paused", 2.5, process="a")
    story.campaign("continued", 5.5, process="a")
    assert story.rules(Limits(late_in_trouble=2.0)) == set()


def test_an_answer_that_trouble_delays(story: Story) -> None:
    """A command without an answer may hold a client up until the manager's deadline, and not for longer."""
    for op, until in (("a2", 7.5), ("b2", 10.5)):
        story.ask(op, 2.0, wait=1.0)
        story.end(op, until, "timeout")
    story.campaign("shaken", 2.5)
    late = [violation for violation in story.check() if violation.rule == "late"]
    assert [op.id for violation in late for op in violation.operations] == ["b2"]


def test_a_lock_that_is_free_while_somebody_waits(story: Story) -> None:
    """A wake-up that was lost shows as a lock that stays free; trouble excuses some of it."""
    story.ask("a2", 2.0)
    story.grant("a2", 4.0, fence=5)
    story.end("a2", 4.1)
    assert story.rules() == {"idle"}
    assert story.rules(Limits(idle=2.5)) == set()
    story.campaign("shaken", 1.9)
    assert story.rules() == set()


def test_a_waiter_that_gives_up_on_a_free_lock(story: Story) -> None:
    """A timeout hides no lost waiter: the lock was free all the time."""
    story.ask("a2", 2.0, wait=3.0)
    story.end("a2", 5.0, "timeout")
    assert story.rules() == {"idle"}


def test_a_lock_that_is_held_is_not_free(story: Story) -> None:
    """Somebody waiting behind a long hold is no fault, nor is one whose holder hangs."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.ask("b2", 2.2)
    story.end("a2", 7.0)
    story.grant("b2", 7.1, fence=7)
    story.end("b2", 7.2)
    assert story.check() == []


def test_a_holder_that_is_robbed(story: Story) -> None:
    """Nobody loses the lock early without a reason; over `max_hold` it may be lost."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.end("a2", 2.4, "refused")
    assert story.rules() == {"robbed"}
    story.files["a"][-3]["max_hold"] = 0.2
    assert story.rules() == set()
    story.files["a"][-3]["max_hold"] = 300
    assert troubled(story).rules() == set()


def test_a_process_that_stays_in_the_queue(story: Story) -> None:
    """A process that came to its end is in no lock any more; one that was killed may be."""
    story.campaign("stopped", 5.0, process="a", name="a's name")
    assert story.rules(lock=["b's name"]) == set()
    assert story.rules(lock=["b's name", "a's name"]) == {"remains"}


def test_grants_out_of_order(story: Story) -> None:
    """Within a process, who asked first is granted first; one that gave up in between does not count."""
    for number, op in enumerate(("a2", "a3", "a4")):
        story.ask(op, 2.0 + number / 100)
    story.end("a2", 2.05, "cancelled")
    story.grant("a4", 2.1, fence=5)
    story.end("a4", 2.2)
    story.grant("a3", 2.3, fence=7)
    story.end("a3", 2.4)
    violations = story.check()
    assert [violation.rule for violation in violations] == ["order"]
    assert [op.id for op in violations[0].operations] == ["a3", "a4"]


def test_one_that_joins_the_line_later(story: Story) -> None:
    """A client that first has to load the session has asked before it stands in line."""
    story.ask("a2", 2.0, in_line=False)
    story.ask("a3", 2.1)
    story.grant("a3", 2.2, fence=5)
    story.end("a3", 2.3)
    story.grant("a2", 2.4, fence=7)
    story.end("a2", 2.5)
    assert story.check() == []


def turns(story: Story, count: int) -> None:
    """Have b wait from 2.0 on, and a be granted the lock at once and then `count` times from 2.9 on."""
    story.ask("b2", 2.0, wait=30)
    for number in range(3):
        story.use(f"a{number + 4}", 2.05 + number / 10, fence=9 + 2 * number)
    for number in range(3, count + 3):
        story.use(f"a{number + 4}", 2.3 + number / 5, fence=9 + 2 * number)
    story.grant("b2", 2.9 + count / 5, fence=99)
    story.end("b2", 8.0)


def test_a_process_that_takes_more_than_its_turn(story: Story) -> None:
    """Four in a row while another waits are in order, five are not; what came at once is not counted."""
    turns(story, 4)
    assert story.check() == []
    longer = Story()
    turns(longer, 5)
    assert longer.rules() == {"turns"}


def test_a_process_that_cannot_take_its_turn(story: Story) -> None:
    """One that is stopped, or killed, while it waits has no claim."""
    turns(story, 5)
    story.campaign("paused", 3.0, process="b")
    story.campaign("continued", 4.0, process="b")
    assert story.check() == []


def test_a_process_that_was_in_the_queue_all_along() -> None:
    """One whose client waited on when its own turn was over is in the queue at once."""
    story = Story()
    story.ask("b2", 1.0)
    story.ask("b3", 1.0)
    story.grant("b2", 1.1, fence=3)
    story.end("b2", 1.2)
    for number in range(5):
        story.use(f"a{number}", 1.2 + number / 10, fence=5 + 2 * number)
    story.grant("b3", 1.8, fence=99)
    story.end("b3", 1.9)
    violations = story.check()
    assert [violation.rule for violation in violations] == ["turns"]
    assert violations[0].operations[-1].id == "b3"
    story.campaign("shaken", 1.5)
    assert story.check() == []


def test_a_turn_that_expired_between() -> None:
    """Where the lock was free for as long as a grant lasts, somebody's turn has come and gone."""
    story = Story()
    story.campaign("shaken", 0.5)
    story.ask("b2", 1.0, wait=30)
    for number in range(4):
        story.use(f"a{number}", 2.1 + number / 5, fence=5 + 2 * number)
    for number in range(4, 8):
        story.use(f"a{number}", 5.1 + number / 5, fence=5 + 2 * number)
    story.grant("b2", 7.0, fence=99)
    story.end("b2", 8.0)
    assert story.check() == []


def test_an_error_of_another_kind(story: Story) -> None:
    """An exception that no client has to expect is reported with its text."""
    story.ask("a2", 2.0)
    story.event("a", "ended", 2.1, op="a2", outcome="error", error="KeyError('x')")
    assert [str(violation) for violation in story.check()] == ["error: a2: KeyError('x')"]


# ---------------------------------------------------------------- a failover that loses


def test_what_a_crash_may_take_along(story: Story) -> None:
    """A write acknowledged just before a primary was killed may be missing, with its fence used again."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.write("a2", 2.2, applied=False)
    story.end("a2", 2.3)
    story.campaign("crashed", 2.5)
    story.use("b2", 6.0, fence=5)
    assert story.rules(WITH_LOSS) == set()
    assert "lost" in story.rules()


def test_what_a_crash_may_not_take_along(story: Story) -> None:
    """What was acknowledged long before, or after it, is there; a refused write is not, with or without."""
    story.ask("a2", 2.0)
    story.grant("a2", 2.1, fence=5)
    story.write("a2", 2.2, applied=False)
    story.end("a2", 2.3)
    story.campaign("crashed", 2.2)
    story.campaign("crashed", 5.0)
    assert story.rules(WITH_LOSS) == {"lost"}
    other = Story()
    other.ask("a1", 1.0)
    other.grant("a1", 1.1, fence=1)
    other.write("a1", 1.2)
    other.end("a1", 1.3, "refused")
    other.campaign("crashed", 1.25)
    assert other.rules(WITH_LOSS) == {"applied"}


def test_what_the_store_kept_is_one_history(story: Story) -> None:
    """Fences rise along what is there, even after a crash."""
    story.campaign("crashed", 1.9)
    story.use("a2", 6.0, fence=3)
    assert story.rules(WITH_LOSS) == {"fence"}


# ---------------------------------------------------------------- files


def test_a_torn_last_line() -> None:
    """A process that was killed as it wrote leaves half a line, which counts for nothing."""
    assert parse('{"event": "asked", "at": 1}\n{"eve') == [{"event": "asked", "at": 1}]
    with pytest.raises(ValueError, match="Unterminated"):
        parse('{"eve\n{"event": "asked", "at": 1}\n')

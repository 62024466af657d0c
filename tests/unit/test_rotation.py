"""The library's rules of rotation are the model's, and what lies around them."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data import rotation
from asgi_session._data.record import MOVED, ROTATION, Record
from tests.identity import rotation_model as model
from tests.identity.rotation_model import NONE, Kept, Times

NOW = 1_790_000_000_000
EVERY = 600_000
TIMES = Times(rotation.GRACE, rotation.PARALLEL_FOR, EVERY)


def digest(credential: int) -> bytes:
    """Return the digest of the model's credential; its first 4 bytes are its own."""
    return b"" if credential == NONE else credential.to_bytes(4, "big") * 4


def fresh(**parts: bytes) -> Record:
    return records.new_record(
        now=NOW, idle=EVERY, absolute=100 * EVERY, digest=digest(1), check=b"c" * 4, entries={"a": b"1"}
    )


class Rules(RuleBasedStateMachine):
    """The record and the model go through the same rotations, times and cookies, and agree on each."""

    @initialize()
    def begin(self) -> None:
        self.record, self.kept = fresh(), Kept(1, issued=NOW)
        self.now, self.drawn = NOW, 1

    @rule(
        passes=st.sampled_from([1, TIMES.grace - 1, TIMES.grace, TIMES.parallel - 1, TIMES.parallel, EVERY])
        | st.integers(0, 2 * EVERY)
    )
    def wait(self, passes: int) -> None:
        self.now += passes

    @rule(back=st.integers(0, 5))
    def comes_back(self, back: int) -> None:
        """One of the last credentials is presented, and noted if it is new."""
        credential = max(self.drawn - back, 1)
        self.kept = model.seen(self.kept, credential, self.now, TIMES)
        self.record = rotation.seen(self.record, digest(credential), self.now)

    @rule(back=st.integers(0, 5))
    def rotates(self, back: int) -> None:
        credential, new = max(self.drawn - back, 1), self.drawn + 1
        kept = model.issue(self.kept, credential, new, self.now, TIMES)
        record = rotation.issued(self.record, digest(credential), digest(new), TIMES.grace, EVERY, self.now)
        assert (kept is None) == (record is None)
        if kept is not None and record is not None:
            self.kept, self.record, self.drawn = kept, record, new

    @rule()
    def is_written_and_read(self) -> None:
        self.record = records.decode(records.encode(records.next_version(self.record, self.now)))

    @invariant()
    def they_agree(self) -> None:
        for credential in range(1, self.drawn + 2):
            found = model.fit(self.kept, credential, self.now, TIMES)
            assert rotation.fit(self.record, digest(credential), self.now) == found
            due = model.due(self.kept, credential, self.now, TIMES)
            assert rotation.due(self.record, found, EVERY, self.now) == due

    @invariant()
    def nothing_else_changes(self) -> None:
        assert (self.record.epoch[:4], self.record.entries) == (b"\0\0\0\1", {"a": b"1"})
        assert set(self.record.parts) <= {ROTATION}
        assert len(self.record.parts.get(ROTATION, b"")) <= 61


TestRules = Rules.TestCase
TestRules.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def rotated(record: Record, new: int, now: int, *, every: int = 0) -> Record:
    made = rotation.issued(record, record.digest, digest(new), rotation.GRACE, every, now)
    assert made is not None
    return made


def test_an_ordinary_header_stays_short() -> None:
    """A session that never rotates with a grace pays nothing for it; its header has at most 96 bytes."""
    record = replace(fresh(), ring=bytes(28), entries={})
    assert len(records.encode(record)) - 1 <= 96
    assert rotation.fit(record, digest(1), NOW) == "opens"
    assert rotation.fit(record, digest(2), NOW) == "unknown"


@pytest.mark.parametrize("seen", [True, False])
def test_asked_for_in_the_grace(seen: bool) -> None:
    """A rotate() before the last one's time is over retires the credential before it without an alarm."""
    record = rotated(fresh(), 2, NOW)
    if seen:
        record = rotation.seen(record, digest(2), NOW)
    record = rotated(record, 3, NOW + 1)
    assert rotation.fit(record, digest(1), NOW + 2) == "unknown"
    assert records.moved_until(record) == NOW + 60_001, "so it is taken for one that was on its way"
    later = records.next_version(record, NOW + 60_001)
    assert MOVED not in later.parts
    assert rotation.fit(later, digest(1), NOW + 60_001) == "replayed"
    assert rotation.fit(later, digest(2), NOW + 60_001) == "reply lost"


def test_without_a_period_only_a_lost_reply_rotates_by_itself() -> None:
    """With rotate_every off, what rotate(grace=) has begun is brought to an end, and nothing else happens."""
    record = rotated(fresh(), 2, NOW)
    late = NOW + 100 * EVERY
    assert not rotation.due(fresh(), "opens", 0, late)
    assert not rotation.due(record, rotation.fit(record, digest(2), late), 0, late)
    assert rotation.due(record, rotation.fit(record, digest(1), late), 0, late)


def test_a_plain_rotation_retires_everything() -> None:
    """Promise 8: after rotate() neither the one before nor the one before that opens anything."""
    record = rotated(fresh(), 2, NOW)
    record = rotated(rotation.seen(record, digest(2), NOW), 3, NOW + EVERY)
    parts = {**record.parts, ROTATION: rotation.retire_all(record, NOW)}
    record = replace(record, digest=digest(4), parts=parts)
    assert rotation.fit(record, digest(4), NOW) == "opens"
    assert [rotation.fit(record, digest(one), NOW) for one in (1, 2, 3, 5)] == ["replayed"] * 3 + ["unknown"]

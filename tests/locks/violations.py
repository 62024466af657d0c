"""What is a violation, and what is still in order."""

from __future__ import annotations

from dataclasses import dataclass

from tests.locks.events import Event, Operation


@dataclass(frozen=True)
class Limits:
    """What is still in order; seconds.

    Attributes:
        turn: how many grants in a row a process gets while another one waits.
        enqueue: how long it may take until another process's wish is in the record.
        expiry: for how long a grant that nobody took up stands in the way, at least.
        late: by how much an answer may be later than the client was willing to wait.
        late_in_trouble: the same when something was tampered with: a command that is on its way without
            an answer is waited for until the manager's deadline.
        idle: how long the lock may be free although somebody waits. What a lost wake-up costs is a
            grant of 2 s; a machine with much else to do costs less.
        idle_in_trouble: the same when something was tampered with: leases of the dead have to end.
        recovery: for how long after that there is trouble.
        loss: what was acknowledged so long before a crash of a primary may be lost; 0 means nothing.
    """

    turn: int = 4
    enqueue: float = 1.0
    expiry: float = 1.5
    late: float = 2.0
    late_in_trouble: float = 7.0
    idle: float = 1.7
    idle_in_trouble: float = 12.0
    recovery: float = 12.0
    loss: float = 0.0


@dataclass(frozen=True)
class Violation:
    """A promise that was not kept, and the operations that show it."""

    rule: str
    text: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"

    def events(self) -> list[Event]:
        """Return the minimal history: all events of the operations concerned, in the order of time."""
        return sorted((e for op in self.operations for e in op.events), key=lambda e: e["at"])

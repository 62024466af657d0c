"""What workers write down, one JSON line per event, and the operations that it makes when read back.

Each line is written before the thing it tells of can have any effect outside the process, and in one
`write`, so that a killed process leaves a record of all it may have done. `at` is `time.monotonic`,
which is one clock for all processes of a machine; within a file the lines' order is the order of the
process.

=========== ================================================================================
asked       a client is about to wait: `op`, `session`, `process`, `wait`, `max_hold`, and `in_line`:
            whether it joins the waiters of its process at once (`manager.lock` loads the session
            before, and a session that is used again may have a commit on its way)
granted     its block has begun: `fence`, and what it read there, `value` and `last`
writing     it is about to change the session: `write` (unique), the `value` that it sets, and
            `after`, the write that made the value it read
saved       a commit inside the block has returned
unsure      a commit inside the block has failed, and nobody knows whether it was applied
leaving     the block's body is over and nothing was raised
ended       `outcome`, one of `OUTCOMES`
noting      a client without the lock is about to commit `key` = `value`
noted       and that commit has returned
adding      a client without the lock is about to add one to the tally by `transact`
added       and that has returned; or `failed`: it certainly was not applied
killed, paused, continued   what the campaign did to `process`
shaken      connections were dropped or a primary handed over
crashed     a primary was killed: it may have taken along what it had just acknowledged
stopped     `process` has come to its end; it is called `name` in the records' locks
found       what the session holds after all: `value`, `last`, `notes`, `tally`, and in `lock` the names
            of the processes that hold the lock or wait for it
=========== ================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, TypeAlias

Event: TypeAlias = dict[str, Any]

SAVED: Final = "saved"  # acknowledged
REFUSED: Final = "refused"  # must not be in the store
UNKNOWN: Final = "unknown"  # may be

OUTCOMES: Final = {
    "left": SAVED,  # the block was left and nothing was raised
    "refused": REFUSED,  # LockLost
    "discarded": REFUSED,  # an exception or a cancellation inside the block
    "failed": REFUSED,  # StoreUnavailable(executed=False) when leaving
    "unknown": UNKNOWN,  # StoreUnavailable or SessionConflict of unknown outcome, cancelled when leaving
    "killed": UNKNOWN,  # nobody writes this one down: the process's end is known from the campaign
    "timeout": REFUSED,  # LockTimeout
    "cancelled": REFUSED,  # while it waited
    "unavailable": REFUSED,  # StoreUnavailable while it waited
    "error": UNKNOWN,  # anything else
}
"""What an operation's end says of the writes that no commit inside the block had settled."""


@dataclass
class Write:
    """A change of the counter: the one that made `value`, out of what `after` had made."""

    id: str
    value: int
    after: str
    op: Operation
    state: str | None = None
    settled: float | None = None


@dataclass
class Operation:
    """A client's use of the lock, from asking to the end."""

    id: str
    session: str
    process: str
    asked: float
    wait: float
    max_hold: float
    in_line: bool
    granted: float | None = None
    fence: int = 0
    value: int = 0
    last: str = ""
    writes: list[Write] = field(default_factory=list)
    leaving: float | None = None
    ended: float | None = None
    outcome: str | None = None
    error: str = ""
    events: list[Event] = field(default_factory=list, repr=False)

    @property
    def answered(self) -> float:
        """When it had waited for long enough: it was granted the lock, or got an error."""
        if self.granted is not None:
            return self.granted
        return inf if self.ended is None else self.ended

    def settle(self, state: str, at: float) -> None:
        for write in self.writes:
            if write.state is None:
                write.state, write.settled = state, at

    def end(self, outcome: str, at: float) -> None:
        self.outcome, self.ended = outcome, at
        self.settle(OUTCOMES[outcome], at)


@dataclass
class Note:
    """A commit without the lock."""

    session: str
    key: str
    value: str
    at: float
    saved: bool = False


@dataclass
class History:
    """All that happened, by kind.

    Attributes:
        operations: by id, in the order of each process.
        notes: by session and key, in the order of time.
        tallies: by session, how many additions may have been and certainly were applied.
        names: in the records' locks, of the processes that came to their end.
        pauses: (process, from, to).
        kills: process to time.
        trouble: when anything was done to a process, a connection or a server.
        crashes: when primaries were killed.
        found: by session, what was in it in the end.
    """

    operations: dict[str, Operation] = field(default_factory=dict)
    notes: dict[tuple[str, str], list[Note]] = field(default_factory=dict)
    tallies: dict[str, list[int]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    pauses: list[tuple[str, float, float]] = field(default_factory=list)
    kills: dict[str, float] = field(default_factory=dict)
    trouble: list[float] = field(default_factory=list)
    crashes: list[float] = field(default_factory=list)
    found: dict[str, Event] = field(default_factory=dict)


def parse(text: str) -> list[Event]:
    """Read a file of events; the last line of a killed process may be torn."""
    events: list[Event] = []
    lines = text.split("\n")
    for number, line in enumerate(lines):
        try:
            if line:
                events.append(json.loads(line))
        except ValueError:
            if number != len(lines) - 1:
                raise
    return events


def assemble(files: Iterable[list[Event]]) -> History:
    """Put the events of all processes, and those of the campaign, together."""
    history = History()
    paused: dict[str, float] = {}
    for events in files:
        for event in events:
            if "op" in event:
                _of_operation(history, event)
            else:
                _of_anything_else(history, event, paused)
    for process, since in paused.items():
        history.pauses.append((process, since, inf))
    for operation in history.operations.values():
        if operation.ended is None and operation.process in history.kills:
            operation.end("killed", history.kills[operation.process])
    for notes in history.notes.values():
        notes.sort(key=lambda note: note.at)
    history.trouble.sort()
    return history


def _of_operation(history: History, event: Event) -> None:
    at: float = event["at"]
    if event["event"] == "asked":
        about = (event[name] for name in ("op", "session", "process", "at", "wait", "max_hold", "in_line"))
        operation = Operation(*about)
        history.operations[operation.id] = operation
    else:
        operation = history.operations[event["op"]]
    operation.events.append(event)
    match event["event"]:
        case "granted":
            operation.granted = at
            operation.fence, operation.value, operation.last = event["fence"], event["value"], event["last"]
        case "writing":
            operation.writes.append(Write(event["write"], event["value"], event["after"], operation))
        case "saved":
            operation.settle(SAVED, at)
        case "unsure":
            operation.settle(UNKNOWN, at)
        case "leaving":
            operation.leaving = at
        case "ended":
            operation.end(event["outcome"], at)
            operation.error = event.get("error", "")


def _of_anything_else(history: History, event: Event, paused: dict[str, float]) -> None:
    at: float = event["at"]
    match event["event"]:
        case "noting":
            note = Note(event["session"], event["key"], event["value"], at)
            history.notes.setdefault((note.session, note.key), []).append(note)
        case "noted":
            history.notes[event["session"], event["key"]][-1].saved = True
        case "adding":
            history.tallies.setdefault(event["session"], [0, 0])[0] += 1
        case "added":
            history.tallies[event["session"]][1] += 1
        case "failed":
            history.tallies[event["session"]][0] -= 1
        case "stopped":
            history.names[event["name"]] = event["process"]
        case "found":
            history.found[event["session"]] = event
        case "killed":
            history.kills[event["process"]] = at
        case "paused":
            paused[event["process"]] = at
        case "continued":
            history.pauses.append((event["process"], paused.pop(event["process"]), at))
        case "crashed":
            history.crashes.append(at)
    if event["event"] in ("killed", "paused", "continued", "shaken", "crashed"):
        history.trouble.append(at)

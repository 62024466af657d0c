"""The store contract: five verbs on bytes.

A store keeps records that it cannot read. It knows nothing of sessions, cookies or msgpack.

* *key*: 22 characters of the URL-safe base64 alphabet. A store adds its own prefix.
* *data*: the record's bytes. They begin with 16 bytes that never repeat for a key, so a store
  without version numbers of its own uses ``data[:16]`` as the tag.
* *tag*: what compare-and-set compares. Opaque to the caller, at most 255 bytes.
* *expires_at*: whole milliseconds since the Unix epoch. The store keeps it beside the data and
  enforces it in every verb: **a record whose time has passed is a missing record**, whether or not
  its bytes are still there. A write whose ``expires_at`` is already past ends the record.
* *deadline*: an instant of `time.monotonic`, in seconds. By then the verb has answered or raised.

What a store must keep:

* A write is visible to every `load` that begins after the write has answered.
* `create`, `save`, `touch` and `delete` compare and write in one atomic step.
* A missing record is an answer, never an error.
* The only error of a verb is `StoreUnavailable`. Its ``executed`` is False when the store certainly did
  not carry the verb out, and None when it may have; its ``full`` is True when there was no room. A store
  repeats a command by itself only when it certainly did not execute, or when executing it twice is the
  same as once (`load`).
* `delete` works also while the store is full, with `expect` and without: nobody could log out otherwise.
* A cancelled verb may or may not have been carried out; the next one works all the same.
* Verbs may be called concurrently, from several event loops one after another and from several
  threads with a loop each. A store that was not opened opens itself at the first verb.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

TAG_SIZE: Final = 16
"""Length in bytes of the never-repeating beginning of every record's data."""


class Stored(NamedTuple):
    """A record as the store has it."""

    data: bytes
    tag: bytes
    expires_at: int


class Saved(NamedTuple):
    """The save was carried out; `tag` is what the next one must expect."""

    tag: bytes


class Conflict(NamedTuple):
    """The record's tag was not the expected one; nothing was written. `current` is the record."""

    current: Stored


class Gone(enum.Enum):
    """The type of `GONE`."""

    GONE = "gone"

    def __repr__(self) -> str:
        return "GONE"


GONE: Final = Gone.GONE
"""There is no such record (any more); nothing was written."""

SaveResult: TypeAlias = Saved | Conflict | Gone


class Store(Protocol):
    """Where records live. See the module's text for what each verb promises."""

    async def open(self) -> None:
        """Connect and check the set-up. Optional: the first verb does what is necessary.

        Raises:
            ConfigurationError: what never heals by itself (wrong password, kind of server, rights). The
                message says what to change, and holds no secret.
            StoreUnavailable: what may heal by itself. It must not keep an app from starting.
        """
        ...

    async def close(self) -> None:
        """Release what this event loop holds. A closed store opens again at the next verb."""
        ...

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """Return the record, or None when there is none."""
        ...

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> bool:
        """Write a new record; False, and nothing written, when the key is taken."""
        ...

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: bytes, deadline: float
    ) -> SaveResult:
        """Replace the record if its tag is `expect`; never creates one."""
        ...

    async def touch(self, key: str, expires_at: int, *, expect: bytes, deadline: float) -> bool:
        """Change the expiry alone if the tag is `expect`; the tag stays. False when not done."""
        ...

    async def delete(self, key: str, *, expect: bytes | None = None, deadline: float) -> bool:
        """Remove the record, with `expect` only if that is its tag; whether it was there and is removed.

        Comparing and removing are one atomic step.
        """
        ...


@runtime_checkable
class Distrusts(Protocol):
    """A capability: the store can drop a connection that delivered somebody else's record."""

    def distrust(self, key: str) -> None:
        """Drop the connection that answers for `key`: it gave another key's bytes."""
        ...


class Lost(NamedTuple):
    """A server has not answered for a whole deadline: what needs it now fails at once."""

    server: str
    error: str


class Back(NamedTuple):
    """A lost server answers again, or another one has its records, after `seconds` and `failed` requests."""

    server: str
    seconds: float
    failed: int


class Reconnected(NamedTuple):
    """A new connection to a server has taken the place of one that was lost."""

    server: str


Report: TypeAlias = Lost | Back | Reconnected
"""What happened to a store's servers. `server` and `error` are safe to log: host and port, no user."""


@runtime_checkable
class Reports(Protocol):
    """A capability: the store tells what happens to its servers. If nobody is told, it logs that itself."""

    def report_to(self, tell: Callable[[Report], None]) -> Callable[[], None]:
        """Call `tell` with every report, in the event loop and thread that found out.

        Returns a function that ends it, and may be called from anywhere, more than once. Whoever wants
        to be collected meanwhile gives a `tell` that refers to it weakly.
        """
        ...


Heard: TypeAlias = Callable[[str | None], None]
"""Called with the key of the record that a wake-up is about, or with None when wake-ups may have been
lost: the connection was gone for a while."""


@runtime_checkable
class WakesUp(Protocol):
    """A capability: a save can wake up other processes. Waiting for a lock is then told, not polled.

    A *listener* is a name of 16 hexadecimal digits that one event loop of one process has drawn.
    Wake-ups are hints: one may get lost, come twice, or be forged by somebody who may write to the
    channel but not to the records. So they carry the record's key and nothing of the record, and whoever
    is told loads it.
    """

    async def save_and_wake(
        self, key: str, data: bytes, expires_at: int, *, expect: bytes, wake: Sequence[str], deadline: float
    ) -> SaveResult:
        """Save, and if that was done tell every listener named in `wake`, in the same step."""
        ...

    async def listen(self, listener: str, heard: Heard, *, deadline: float) -> Callable[[], None]:
        """Call `heard`, in this event loop, with every wake-up for `listener` from now on.

        Returns, once that is certain, a function that ends it; the store's `close` ends it too. A
        connection that is lost meanwhile is made again, and ``heard(None)`` called after that.

        Raises:
            StoreUnavailable: it was not possible by the deadline, or the server does not allow it.
        """
        ...

"""The store contract: five verbs on bytes.

A store keeps records that it cannot read. It knows nothing of sessions, cookies or msgpack.

* *key*: 22 characters of the URL-safe base64 alphabet. A store adds its own prefix.
* *data*: the record's bytes. They begin with 16 bytes that never repeat for a key, so a store
  without version numbers of its own uses ``data[:16]`` as the tag.
* *tag*: what tells two versions of a record apart. Opaque to the caller, at most 255 bytes. A touch
  leaves it as it is; every other write brings another one.
* *expires_at*: whole milliseconds since the Unix epoch. The store keeps it beside the data and
  enforces it in every verb: **a record whose time has passed is a missing record**, whether or not
  its bytes are still there. A write whose ``expires_at`` is already past ends the record.
* *expect*: the whole version that a write is to replace, as `load`, a conflict or an earlier write has
  told it. A store compares whichever it can best: the tags, the bytes, or a number of its own that it
  has put in the tag. Only the expiry may differ, for a touch changes nothing else.
* *deadline*: an instant of `time.monotonic`, in seconds. By then the verb has answered or raised.

Whether a record's time has passed is judged by one clock in all five verbs: the server's, where the
server can compare times in the same step as it compares versions; where it cannot, that of the process
that calls the verb. A store's documentation says which. With the second kind, processes whose clocks
differ by a second disagree for that second, and no longer, on whether a record is there: keep the clocks
of your machines in step. The caller looks once more, by its own clock, at what it has loaded.

What a store must keep:

* A write is visible to every `load` that begins after the write has answered.
* `create`, `save`, `touch` and `delete` compare and write in one atomic step. A verb that waited for
  another write to the same record answers by what that write has left, not by what was there before it.
* A missing record is an answer, never an error.
* The only error of a verb is `StoreUnavailable`. Its ``executed`` is False when the store certainly did
  not carry the verb out, and None when it may have. Waiting for a connection, or for one's turn, is not
  executing: a verb that has sent nothing by its deadline says False. Its ``full`` is True when there was
  no room.
* A store repeats a command by itself only when it certainly did not execute, or when executing it twice
  is the same as once (`load`). One whose client repeats writes by itself recognises its own bytes: it
  answers `Saved` when the record is what it was to write, and True when it has itself removed it.
* `delete` works also while the store is full, with `expect` and without: nobody could log out otherwise.
* A cancelled verb may or may not have been carried out; the next one works all the same.
* Verbs may be called concurrently, from several event loops one after another and from several
  threads with a loop each. A store that was not opened opens itself at the first verb.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, runtime_checkable

import msgspec

TAG_SIZE: Final = 16
"""Length in bytes of the never-repeating beginning of every record's data."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A version of a record as the store has it."""

    data: bytes
    tag: bytes
    expires_at: int


class Saved(msgspec.Struct, frozen=True, gc=False):
    """The write was carried out; `tag` is that of the version it has made."""

    tag: bytes


class Conflict(msgspec.Struct, frozen=True, gc=False):
    """Another version than the expected one was there, and nothing was written.

    `current` is that version. Its tag differs from the expected one's, always.
    """

    current: Stored


class Gone(enum.Enum):
    """The type of `GONE`."""

    GONE = "gone"

    def __repr__(self) -> str:
        return "GONE"


GONE: Final = Gone.GONE
"""There is no such record (any more); nothing was written."""


class Taken(enum.Enum):
    """The type of `TAKEN`."""

    TAKEN = "taken"

    def __repr__(self) -> str:
        return "TAKEN"


TAKEN: Final = Taken.TAKEN
"""There is a record under this key already; nothing was written."""

CreateResult: TypeAlias = Saved | Taken
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
        """Wait for the verbs on their way, then release what this event loop holds.

        On their way are all five, also those that wait for a connection. What other event loops hold
        stays open. Verbs whose server does not answer may be given up before their deadline. A closed
        store opens again at the next verb.
        """
        ...

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """Return the record, or None when there is none."""
        ...

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        """Write a new record; `TAKEN`, and nothing written, when there is one."""
        ...

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        """Replace the version `expect`; never creates a record.

        A touch that was carried out since is no conflict: the version is the same.
        """
        ...

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        """Change the expiry of the version `expect`, and nothing else. False when not done."""
        ...

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        """Remove the record, with `expect` only that version; whether it was there and is removed.

        Comparing and removing are one atomic step.
        """
        ...


@runtime_checkable
class Distrusts(Protocol):
    """A capability: the store can drop a connection that delivered somebody else's record."""

    def distrust(self, key: str) -> None:
        """Drop the connection that answers for `key`: it gave another key's bytes."""
        ...


class Lost(msgspec.Struct, frozen=True, gc=False):
    """A server has not answered for a whole deadline: what needs it now fails at once."""

    server: str
    error: str


class Back(msgspec.Struct, frozen=True, gc=False):
    """A lost server answers again, or another one has its records, after `seconds` and `failed` requests."""

    server: str
    seconds: float
    failed: int


class Reconnected(msgspec.Struct, frozen=True, gc=False):
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


@runtime_checkable
class TouchesRarely(Protocol):
    """A capability: a touch is dear here, say a write of the whole record, so there should be fewer.

    A touch is due when it would put the expiry off by more than this fraction of the session's idle
    timeout. A session that is used all the time is touched at most once per fraction, and an unused one
    may expire by as much too early. Without this capability the fraction is 0.05. It is read once, when
    the manager is made: above 0, and at most 0.5.
    """

    @property
    def touch_fraction(self) -> float:
        """The fraction of the idle timeout that a touch must gain."""
        ...


@runtime_checkable
class Purges(Protocol):
    """A capability: the store has to be told to remove the records whose time has passed.

    They are missing records to every verb, but their bytes stay until then.
    """

    async def purge(self, *, limit: int = 1000, deadline: float) -> int:
        """Remove at most `limit` records whose time has passed; return how many were removed.

        Call it again until it removes fewer than `limit`. It may leave recently expired ones for later.
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
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, wake: Sequence[str], deadline: float
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

"""`BlobStore`: a store on any server that replaces a value only if its version is the expected one.

Whoever writes such a store says how one value is read, inserted, replaced and removed: four methods. The
five verbs, expiry, races and lost replies are done here.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from time import monotonic
from typing import ClassVar, Final, Generic, NamedTuple, TypeVar

from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import GONE, TAG_SIZE, TAKEN, Conflict, CreateResult, Saved, SaveResult, Stored
from asgi_session.stores._shared.verbs import CONNECTING, Begins, Clients, OnItsWay, Trouble, no_later_than

C = TypeVar("C")
V = TypeVar("V")

EXPIRY_SIZE: Final = 8
"""A blob is the expiry, so many bytes with the highest first, and then the record's data."""

_REMEMBERED: Final = 10_000
_LAST_EXPIRY: Final = 2**63 - 1


class _Known(NamedTuple, Generic[V]):
    """What is known of the record that a key had last."""

    tag: bytes
    expires_at: int
    version: V


class Blobs(ABC, Generic[C, V]):
    """The five verbs, on four that a subclass gives, and whatever begins verbs. See `BlobStore`.

    Args:
        clients: begins verbs, which have a client.
        clock: tells the time in milliseconds.
    """

    removal_may_repeat: ClassVar[bool] = False
    """True when the client repeats removals by itself. Then a delete first replaces the blob by one of its
    own that has expired, and recognises it: otherwise "there is none" might be its own doing."""

    def __init__(self, clients: Begins[C], clock: Clock) -> None:
        if not callable(clock):
            raise ConfigurationError(f"clock={clock!r}: give a function that returns milliseconds")
        self._now = clock
        self._clients = clients
        self._known: OrderedDict[str, _Known[V]] = OrderedDict()
        self._known_lock = threading.Lock()

    # What a subclass gives.

    @abstractmethod
    async def get(self, client: C, key: str) -> tuple[bytes, V] | None:
        """Return a key's blob and its version, as every write has left it that was answered before."""

    @abstractmethod
    async def insert(self, client: C, key: str, blob: bytes, expires_at: int) -> V | None:
        """Write a blob where there is none and return its version; None where there is one."""

    @abstractmethod
    async def replace(self, client: C, key: str, blob: bytes, expires_at: int, version: V) -> V | None:
        """Replace the blob of that version and return the new one's; None where it is another, or none."""

    @abstractmethod
    async def remove(self, client: C, key: str, version: V) -> bool:
        """Remove the blob of that version; False where it is another, or none."""

    # The contract.

    async def open(self) -> None:
        """Make the client. Override this to check the set-up, too."""
        async with self._clients.verb("open", monotonic() + CONNECTING) as verb:
            await verb.client()

    async def close(self) -> None:
        """Wait for the verbs on their way, no longer than 5 seconds; then close the client."""
        await self._clients.close()

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """Read the record."""
        async with self._clients.verb("load", deadline) as verb:
            stored, _ = await self._read(await verb.client(), key)
            return stored if self._lives(stored) else None

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        """Write a record where there is none, or one whose time has passed."""
        async with self._clients.verb("create", deadline) as verb:
            client = await verb.client()
            verb.sending()
            version = await self.insert(client, key, _blob(data, expires_at), expires_at)
            while version is None:
                stored, found = await self._read(client, key)
                if stored is not None and stored.data == data:
                    return Saved(stored.tag)  # our own: the client has repeated it
                verb.refused()  # not before one has looked
                if self._lives(stored):
                    return TAKEN
                verb.sending()
                if found is None:
                    version = await self.insert(client, key, _blob(data, expires_at), expires_at)
                else:
                    version = await self.replace(client, key, _blob(data, expires_at), expires_at, found)
            return self._saved(key, data, expires_at, version)

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        """Replace that version of the record."""
        async with self._clients.verb("save", deadline) as verb:
            client = await verb.client()
            known = self._known_of(key, expect)
            while True:
                if known is not None:
                    verb.sending()
                    made = await self._replace_living(client, key, _blob(data, expires_at), expires_at, known)
                    if made is not None:
                        return self._saved(key, data, expires_at, made)
                stored, version = await self._read(client, key)
                if stored is not None and stored.data == data:
                    return Saved(stored.tag)  # our own
                verb.refused()
                if stored is None or version is None or not self._lives(stored):
                    return GONE
                if stored.tag != expect.tag:
                    return Conflict(stored)
                known = _Known(stored.tag, stored.expires_at, version)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        """Change that version's expiry."""
        async with self._clients.verb("touch", deadline) as verb:
            client = await verb.client()
            known, data = self._known_of(key, expect), expect.data
            while True:
                if known is not None:
                    verb.sending()
                    made = await self._replace_living(client, key, _blob(data, expires_at), expires_at, known)
                    if made is not None:
                        self._remember(key, expect.tag, expires_at, made)
                        return True
                stored, version = await self._read(client, key)
                if stored is None or version is None or stored.tag != expect.tag:
                    return False
                if stored.expires_at == expires_at:
                    return True  # our own, or another's that is as good
                verb.refused()
                if not self._lives(stored):
                    return False
                known, data = _Known(stored.tag, stored.expires_at, version), stored.data

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        """Remove the record, with `expect` only that version."""
        async with self._clients.verb("delete", deadline) as verb:
            client = await verb.client()
            known = None if expect is None else self._known_of(key, expect)
            version = None if known is None else known.version
            while True:
                if version is not None and await self._removed(verb, client, key, version):
                    return True
                stored, version = await self._read(client, key)
                if stored is None or not self._lives(stored):
                    return False
                if expect is not None and stored.tag != expect.tag:
                    return False

    # How.

    async def _read(self, client: C, key: str) -> tuple[Stored, V] | tuple[None, None]:
        """Return what lies under a key, expired or not, and its version."""
        found = await self.get(client, key)
        if found is None:
            with self._known_lock:
                self._known.pop(key, None)
            return None, None
        blob, version = found
        if len(blob) < EXPIRY_SIZE:
            blob = bytes(EXPIRY_SIZE)  # nothing of ours: as good as expired, so that a create replaces it
        data = blob[EXPIRY_SIZE:]
        stored = Stored(data, data[:TAG_SIZE], int.from_bytes(blob[:EXPIRY_SIZE], "big"))
        self._remember(key, stored.tag, stored.expires_at, version)
        return stored, version

    def _lives(self, stored: Stored | None) -> bool:
        return stored is not None and stored.expires_at > self._now()

    def _saved(self, key: str, data: bytes, expires_at: int, version: V) -> Saved:
        tag = data[:TAG_SIZE]
        self._remember(key, tag, expires_at, version)
        return Saved(tag)

    async def _removed(self, verb: OnItsWay[C], client: C, key: str, version: V) -> bool:
        """Remove a version; whether this verb has done it."""
        verb.sending()
        tomb = _blob(os.urandom(TAG_SIZE), 0) if self.removal_may_repeat else None
        if tomb is None:
            removed = await self.remove(client, key, version)
        else:
            grave = await self.replace(client, key, tomb, 0, version)
            if grave is None:  # another version is there, or the tomb: the client has repeated it
                found = await self.get(client, key)
                grave = found[1] if found is not None and found[0] == tomb else None
            removed = grave is not None
            if grave is not None:
                try:
                    await self.remove(client, key, grave)
                except Exception as error:
                    if not self._troubled(error):
                        raise
                    # The record has ended all the same, and its tomb is as good as any expired record.
        if not removed:
            verb.refused()
        return removed

    def _troubled(self, error: Exception) -> bool:
        """Whether an error is the service's, and no mistake of ours."""
        return isinstance(error, StoreUnavailable)

    async def _replace_living(
        self, client: C, key: str, blob: bytes, expires_at: int, known: _Known[V]
    ) -> V | None:
        """Replace a version that lives.

        What asks again by itself, when it was refused, stops when that version's time has passed: others
        have seen by then that there is no record, and a later try would bring it back.
        """
        with no_later_than(monotonic() + (known.expires_at - self._now()) / 1000):
            return await self.replace(client, key, blob, expires_at, known.version)

    def _known_of(self, key: str, expect: Stored) -> _Known[V] | None:
        """Return what is known of that version of a record, if this process has seen it and it lives."""
        with self._known_lock:
            known = self._known.get(key)
        if known is None or known.tag != expect.tag or known.expires_at <= self._now():
            return None
        return known

    def _remember(self, key: str, tag: bytes, expires_at: int, version: V) -> None:
        with self._known_lock:
            self._known[key] = _Known(tag, expires_at, version)
            self._known.move_to_end(key)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


class BlobStore(Blobs[C, V]):
    """The five verbs, on four that a subclass gives. `C` is its client, `V` what its server calls a version.

    A value in the server, the *blob*, holds a record's expiry and data. Its version is the server's own:
    an ETag, a counter. Two blobs of one key that differ have different versions, always.

    Whether a record's time has passed is judged by the clock of this process: the server cannot look into
    a blob. Keep the clocks of your servers within a second or so of each other.

    A save takes one trip when this process has seen the version that it replaces, else one more; so do a
    touch and a delete.

    Args:
        at_once: how many verbs may be on their way at once in an event loop; the others wait.
        clock: tells the time in milliseconds; the system's.
    """

    def __init__(self, *, at_once: int = 50, clock: Clock = system_clock) -> None:
        if not isinstance(at_once, int) or isinstance(at_once, bool) or at_once < 1:
            raise ConfigurationError(f"at_once={at_once!r}: must be a whole number of at least 1")
        clients: Clients[C] = Clients(
            self.connect, self.disconnect, self.explain, at_once=at_once, abandon=self.abandon
        )
        super().__init__(clients, clock)

    @abstractmethod
    async def connect(self) -> C:
        """Make a client for the running event loop. After 10 seconds it is cancelled, and made anew."""

    @abstractmethod
    async def disconnect(self, client: C) -> None:
        """Close a client, in its event loop."""

    def abandon(self, client: C) -> None:
        """Free a client whose event loop was closed under it."""

    @abstractmethod
    def explain(self, error: Exception) -> Trouble | None:
        """Say what an error of the client means; None for one that no server has caused."""

    def _troubled(self, error: Exception) -> bool:
        return super()._troubled(error) or self.explain(error) is not None


def _blob(data: bytes, expires_at: int) -> bytes:
    return max(0, min(expires_at, _LAST_EXPIRY)).to_bytes(EXPIRY_SIZE, "big") + data

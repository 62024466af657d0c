"""`MovingStore`: from one store to another, without a logout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib import import_module
from time import monotonic
from typing import Any

from msgspec.structs import replace

from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import (
    GONE,
    TAG_SIZE,
    TAKEN,
    Conflict,
    CreateResult,
    Distrusts,
    Heard,
    Purges,
    Report,
    Reports,
    Saved,
    SaveResult,
    Store,
    Stored,
    TouchesRarely,
    WakesUp,
)
from asgi_session.stores._shared.per_loop import PerLoop
from asgi_session.stores._shared.under_way import UnderWay
from asgi_session.stores.moving import markers
from asgi_session.stores.moving.protocol import LONGEST_VERB, Moving, Where, in_time, preparing

_PATIENCE = 5.0

_VERBS = ("load", "create", "save", "touch", "delete")


class _Loop:
    """The verbs on their way in an event loop."""

    __slots__ = ("under_way",)

    def __init__(self) -> None:
        self.under_way = UnderWay()

    async def close(self) -> None:
        await self.under_way.over(_nothing, _PATIENCE)

    def abandon(self) -> None:
        """Nothing is held but numbers."""


async def _nothing() -> None:
    pass


class MovingStore:
    """Two stores that look like one, while the records of the old one move to the new one.

    A record that any verb finds in the old store moves, and new ones are created in the new store. With
    ``moves=False`` it writes where a record is, creates in the old store, and moves nothing: processes that
    know the old store alone see everything.

    Deploy it twice, if several processes run while you deploy: first everywhere with ``moves=False``, then
    everywhere without; then, when the old store has no record left, the new store alone. Any two of these
    that follow one another may run side by side, and no other two. docs/moving.md has the steps.

    Whether a record's time has passed is judged by the store that has it. Clocks, of processes and servers,
    may differ by minutes, not by half an hour: markers live for one.

    Args:
        new: a store, or its URL.
        old: a store, or its URL.
        moves: whether records move; True.
        clock: tells the time in milliseconds; the system's.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    def __init__(
        self,
        *,
        new: Store | str | Wrapped,
        old: Store | str | Wrapped,
        moves: bool = True,
        clock: Clock = system_clock,
    ) -> None:
        new, old = hidden(new), hidden(old)
        if not isinstance(moves, bool):
            raise ConfigurationError(f"moves={moves!r}: must be True or False")
        if not callable(clock):
            raise ConfigurationError(f"clock={clock!r}: give a function that returns milliseconds")
        if with_revealed(_same, new, old):
            raise ConfigurationError("new and old are the same store: there is nothing to move")
        self.new: Store = with_revealed(_made, "new", new)
        self.old: Store = with_revealed(_made, "old", old)
        self._moving = Moving(self.new, self.old, moves=moves, clock=clock)
        self._loops: PerLoop[_Loop] = PerLoop(_Loop)
        self._be_able_to()

    def _be_able_to(self) -> None:
        """Have the capabilities that the two stores have."""
        both = (self.new, self.old)
        # Records are saved in the one, so there must be waking up; the other may have listeners as well.
        if isinstance(self.new if self._moving.moves else self.old, WakesUp):
            self.save_and_wake = self._save_and_wake
            self.listen = self._listen
        if any(isinstance(each, Reports) for each in both):
            self.report_to = self._report_to
        if any(isinstance(each, Distrusts) for each in both):
            self.distrust = self._distrust
        if any(isinstance(each, Purges) for each in both):
            self.purge = self._purge
        dear = [each.touch_fraction for each in both if isinstance(each, TouchesRarely)]
        if dear:
            self.touch_fraction = max(dear)

    @property
    def moved(self) -> int:
        """How many records this object has moved."""
        return self._moving.moved

    def __repr__(self) -> str:
        return f"<MovingStore from {self.old!r} to {self.new!r}, moves={self._moving.moves}>"

    async def open(self) -> None:
        """Open both stores, even if one cannot be reached."""
        away: StoreUnavailable | None = None
        for store in (self.new, self.old):
            try:
                await store.open()
            except StoreUnavailable as error:
                away = away or error
        if away is not None:
            raise away

    async def close(self) -> None:
        """Wait for the verbs on their way, no longer than 5 seconds; then close both stores."""
        try:
            await self._loops.leave()
        finally:
            try:
                await self.new.close()
            finally:
                await self.old.close()

    def _verb(self) -> UnderWay:
        held = self._loops.backends.get(asyncio.get_running_loop()) or self._loops.enter()
        return held.under_way

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """Return the record, wherever it is."""
        with self._verb():
            found = await self._moving.find(key, _within(deadline))
            return None if found is None else _shown(found.record)

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        """Write a new record; TAKEN when there is one in either store."""
        deadline = _within(deadline)
        with self._verb():
            if not self._moving.moves:
                while True:
                    in_time(deadline)
                    with preparing():
                        there = await self.new.load(key, deadline=deadline)
                    if there is not None and markers.read(there) is None:
                        return TAKEN
                    made = await self.old.create(key, data, expires_at, deadline=deadline)
                    if isinstance(made, Saved):
                        return _saved(data)
                    with preparing():
                        left = await self.old.load(key, deadline=deadline)
                    if left is not None and markers.read(left) is None:
                        return TAKEN
                    if left is not None:
                        break
            made = await self._moving.create(key, data, expires_at, deadline)
            return _saved(data) if isinstance(made, Saved) else made

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        """Replace the version `expect`, wherever it is."""
        return await self._save(key, data, expires_at, expect, deadline, ())

    async def _save(
        self, key: str, data: bytes, expires_at: int, expect: Stored, deadline: float, wake: Sequence[str]
    ) -> SaveResult:
        deadline = _within(deadline)
        with self._verb():
            where, version = self._first, expect
            while True:
                in_time(deadline)
                store = self._store(where)
                if wake and isinstance(store, WakesUp):
                    result = await store.save_and_wake(
                        key, data, expires_at, expect=version, wake=wake, deadline=deadline
                    )
                else:
                    result = await store.save(key, data, expires_at, expect=version, deadline=deadline)
                if isinstance(result, Saved):
                    return _saved(data)
                if isinstance(result, Conflict) and markers.read(result.current) is None:
                    if result.current.data != expect.data:
                        return Conflict(_shown(result.current))
                    version = result.current  # the store has tags of its own
                    continue
                found = await self._moving.find(key, deadline)
                if found is None:
                    return GONE
                if found.record.data != expect.data:
                    return Conflict(_shown(found.record))
                where, version = found.where, found.version

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        """Change the expiry of the version `expect`, wherever it is."""
        deadline = _within(deadline)
        with self._verb():
            where, version = self._first, expect
            while True:
                in_time(deadline)
                if await self._store(where).touch(key, expires_at, expect=version, deadline=deadline):
                    return True
                found = await self._moving.find(key, deadline)
                if found is None or found.record.data != expect.data:
                    return False
                where, version = found.where, found.version

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        """Remove the record from where it is, without moving it; with `expect` only that version."""
        deadline = _within(deadline)
        with self._verb():
            where, version = self._first, expect
            while True:
                in_time(deadline)
                if version is not None and await self._store(where).delete(
                    key, expect=version, deadline=deadline
                ):
                    return True
                found = await self._moving.find(key, deadline, as_it_is=True)
                if found is None or (expect is not None and found.record.data != expect.data):
                    return False
                where, version = found.where, found.version

    @property
    def _first(self) -> Where:
        """Where a record most probably is."""
        return "new" if self._moving.moves else "old"

    def _store(self, where: Where) -> Store:
        return self.new if where == "new" else self.old

    # The capabilities of the two stores.

    async def _save_and_wake(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, wake: Sequence[str], deadline: float
    ) -> SaveResult:
        """Save, and wake up the listeners by the store that the record is in."""
        return await self._save(key, data, expires_at, expect, deadline, wake)

    async def _listen(self, listener: str, heard: Heard, *, deadline: float) -> Callable[[], None]:
        """Listen to both stores: a process at the other stage saves where it finds the record."""
        ends: list[Callable[[], None]] = []

        def end() -> None:
            for each in ends:
                each()

        try:
            for store in [each for each in (self.new, self.old) if isinstance(each, WakesUp)]:
                ends.append(await store.listen(listener, heard, deadline=deadline))  # noqa: PERF401
        except BaseException:
            end()
            raise
        return end

    def _report_to(self, tell: Callable[[Report], None]) -> Callable[[], None]:
        """Call `tell` with the reports of both stores."""
        ends = [store.report_to(tell) for store in (self.new, self.old) if isinstance(store, Reports)]

        def end() -> None:
            for each in ends:
                each()

        return end

    def _distrust(self, key: str) -> None:
        """Drop the connections that have answered for the key."""
        for store in (self.new, self.old):
            if isinstance(store, Distrusts):
                store.distrust(key)

    async def _purge(self, *, limit: int = 1000, deadline: float) -> int:
        """Remove expired records, and markers, from both stores."""
        removed = 0
        for store in (self.new, self.old):
            if isinstance(store, Purges) and removed < limit:
                removed += await store.purge(limit=limit - removed, deadline=deadline)
        return removed


def _within(deadline: float) -> float:
    return min(deadline, monotonic() + LONGEST_VERB)


def _shown(stored: Stored) -> Stored:
    """Return a version with a tag that stays when it moves, whatever tags the two stores have.

    A version that comes back with it is known to stores that have the same tags, which most have; by the
    others it is taken for another one at first, and then known by its bytes.
    """
    tag = stored.data[:TAG_SIZE]
    return stored if stored.tag == tag else replace(stored, tag=tag)


def _saved(data: bytes) -> Saved:
    return Saved(data[:TAG_SIZE])


def _same(new: Any, old: Any) -> bool:
    return new is old or (isinstance(new, str) and new == old)


def _made(name: str, store: Any) -> Store:
    if isinstance(store, str):
        # The table of URLs, which has this module: it cannot be imported above.
        made: Store = import_module("asgi_session.stores").store_from_url(store)
        return made
    missing = [verb for verb in _VERBS if not callable(getattr(store, verb, None))]
    if isinstance(store, type) or missing:
        raise ConfigurationError(
            f"{name} must be a store or a URL, not "
            + (f"the class {store.__name__}" if isinstance(store, type) else f"a {type(store).__name__}")
        )
    if isinstance(store, MovingStore):
        # The inner one would take the outer one's markers for its own.
        raise ConfigurationError(f"{name} must not be a MovingStore: finish that move first")
    given: Store = store
    return given

"""Where a record is, and how it moves, so that at every moment it is in one store alone.

A record moves in three steps, each one atomic: a `Place` is created in the new store; the record in the
old one is replaced by a `Transit`, if it is still the one that was read; the place in the new one is
replaced by the record. From the second step on nobody can write to it in the old store, and until the
third it is in neither, but whoever meets it takes that step before anything else. At last the transit
becomes a `Forward`, which is a matter of tidiness.

A record is created in the new store only while the old one has a marker under its key, so that nobody can
create another one there. Markers outlive every verb by far: a verb lasts seconds, a marker `LEASE`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from time import monotonic
from typing import Final, Literal, NamedTuple, TypeAlias

from asgi_session.clock import Clock
from asgi_session.errors import StoreUnavailable
from asgi_session.store import TAKEN, CreateResult, Saved, SaveResult, Store, Stored
from asgi_session.stores.moving import markers
from asgi_session.stores.moving.markers import Place, Transit

LEASE: Final = 3_600_000
"""Milliseconds that a marker lives at least: long against a verb, and against clocks that disagree."""

LONGEST_VERB: Final = 600.0
"""Seconds: a verb is given no more, whatever its deadline, so that no marker can end before it."""

Where: TypeAlias = Literal["new", "old"]


class Found(NamedTuple):
    """A record, and in which store it is.

    `version` is what that store has under its key: the record, or the place that it has not yet taken.
    """

    where: Where
    version: Stored
    record: Stored


@contextlib.contextmanager
def preparing() -> Generator[None]:
    """Do what is not yet the verb: if that fails, the verb was certainly not executed."""
    try:
        yield
    except StoreUnavailable as error:
        error.executed = False
        raise


class Moving:
    """The two stores, and what is done before a verb or in place of it.

    Attributes:
        moved: how many records this object has brought to the new store.
    """

    def __init__(self, new: Store, old: Store, *, moves: bool, clock: Clock) -> None:
        self.new = new
        self.old = old
        self.moves = moves
        self.moved = 0
        self._now = clock

    async def find(self, key: str, deadline: float, *, as_it_is: bool = False) -> Found | None:
        """Return where the record is, after moving it if that is due; not so with `as_it_is`.

        With `moves` most records are in the new store, or soon will be; without, in the old one. So one
        or the other is asked first. A record moves one way, and leaves a marker: who finds one in the old
        store, and asks the new one after that, has not missed the record.
        """
        with preparing():
            while True:
                in_time(deadline)
                there = await self.new.load(key, deadline=deadline) if self.moves else None
                if there is not None and markers.read(there) is None:
                    return Found("new", there, there)
                left = await self.old.load(key, deadline=deadline)
                marker = markers.read(left)
                if left is not None and marker is None:
                    if not self.moves or as_it_is:
                        return Found("old", left, left)
                    await self._move(key, there, left, deadline)
                    continue
                if left is None and self.moves:
                    return None
                there = await self.new.load(key, deadline=deadline)
                place = markers.read(there)
                if there is None:
                    return None
                if place is None:
                    return Found("new", there, there)
                if left is None or not _on_its_way(marker, place):
                    return None
                assert isinstance(marker, Transit)
                if as_it_is:
                    return Found("new", there, Stored(marker.data, there.tag, marker.expires_at))
                await self._arrive(key, there, left, marker, deadline)

    async def _move(self, key: str, there: Stored | None, left: Stored, deadline: float) -> None:
        """Move a record, unless somebody else changes it first. Afterwards one has to look again."""
        until = max(left.expires_at, self._now()) + LEASE
        if there is None or not isinstance(markers.read(there), Place):
            data = markers.place()
            made: CreateResult | SaveResult
            if there is None:
                made = await self.new.create(key, data, until + LEASE, deadline=deadline)
            else:  # a marker of an earlier move, in which this store was the old one
                made = await self.new.save(key, data, until + LEASE, expect=there, deadline=deadline)
            if not isinstance(made, Saved):
                return
            there = Stored(data, made.tag, until + LEASE)
        elif there.expires_at < until + LEASE // 2 and not await self.new.touch(
            key, until + LEASE, expect=there, deadline=deadline
        ):
            return
        place = markers.read(there)
        assert isinstance(place, Place)
        data = markers.transit(place.id, left)
        sent = await self.old.save(key, data, until, expect=left, deadline=deadline)
        if isinstance(sent, Saved):
            transit = Transit(place.id, left.expires_at, left.data)
            await self._arrive(key, there, Stored(data, sent.tag, until), transit, deadline)

    async def _arrive(self, key: str, there: Stored, left: Stored, transit: Transit, deadline: float) -> None:
        """Put a record in its place; or somebody else has done that."""
        arrived = await self.new.save(key, transit.data, transit.expires_at, expect=there, deadline=deadline)
        if isinstance(arrived, Saved):
            self.moved += 1
        with contextlib.suppress(StoreUnavailable):  # the transit does as well
            await self._forward(key, left, deadline)

    async def _forward(self, key: str, left: Stored, deadline: float) -> bool:
        data, until = markers.forward(), self._now() + LEASE
        return isinstance(await self.old.save(key, data, until, expect=left, deadline=deadline), Saved)

    async def create(self, key: str, data: bytes, expires_at: int, deadline: float) -> CreateResult:
        """Create a record in the new store, if the old one has none."""
        with preparing():
            if not await self._fence(key, deadline):
                return TAKEN
        while True:
            in_time(deadline)
            made = await self.new.create(key, data, expires_at, deadline=deadline)
            if isinstance(made, Saved):
                return made
            with preparing():
                there = await self.new.load(key, deadline=deadline)
            if there is None:
                continue
            if markers.read(there) is None:
                return TAKEN
            # A place that nothing is on its way to: whoever kept it was late.
            taken = await self.new.save(key, data, expires_at, expect=there, deadline=deadline)
            if isinstance(taken, Saved):
                return taken

    async def _fence(self, key: str, deadline: float) -> bool:
        """See to it that nobody can create a record in the old store for a while; False: there is one."""
        while True:
            in_time(deadline)
            until = self._now() + LEASE
            if isinstance(await self.old.create(key, markers.forward(), until, deadline=deadline), Saved):
                return True
            left = await self.old.load(key, deadline=deadline)
            if left is None:
                continue
            marker = markers.read(left)
            if marker is None:
                return False
            if isinstance(marker, Transit):
                there = await self.new.load(key, deadline=deadline)
                if there is not None and _on_its_way(marker, markers.read(there)):
                    await self._arrive(key, there, left, marker, deadline)
                    continue
            if left.expires_at >= self._now() + LEASE // 2 or await self._forward(key, left, deadline):
                return True


def _on_its_way(marker: object, place: object) -> bool:
    return isinstance(marker, Transit) and isinstance(place, Place) and marker.place == place.id


def in_time(deadline: float) -> None:
    """Whoever begins anew looks at the clock: not every store does.

    Raises:
        StoreUnavailable: there is no time left.
    """
    if monotonic() > deadline:
        raise StoreUnavailable("the record was written to all the time while it was moved", executed=False)

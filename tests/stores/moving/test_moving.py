"""`MovingStore` is a store like any other, wherever its records lie, and passes on what the two can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any

import pytest

from asgi_session import SessionManager
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import (
    GONE,
    TAKEN,
    Conflict,
    Distrusts,
    Heard,
    Lost,
    Report,
    Reports,
    Saved,
    Store,
    Stored,
    WakesUp,
)
from asgi_session.stores import MemoryStore, MovingStore
from asgi_session.stores.moving import markers
from asgi_session.stores.moving.protocol import LEASE
from asgi_session.stores.redis import RedisStore
from asgi_session.testing import FaultStore, ManualClock, StoreConformance
from tests.servers import ServerProcess
from tests.stores.test_conformance import ManualTime, OnlyVerbs, OwnTags


class Moving(ManualTime):
    """The suite on two stores in memory; `another` is a process at the other stage."""

    moves: bool
    lies: str = ""

    @pytest.fixture
    async def store(self) -> AsyncIterator[MovingStore]:
        self.clock = ManualClock()
        self.new, self.old = MemoryStore(clock=self.clock), MemoryStore(clock=self.clock)
        store = self.at_stage(moves=self.moves)
        yield store
        await store.close()

    def at_stage(self, *, moves: bool) -> MovingStore:
        return MovingStore(new=self.new, old=self.old, moves=moves, clock=self.clock)

    def another(self, store: Store) -> MovingStore:
        return self.at_stage(moves=not self.moves)

    async def written(
        self, store: Store, data: bytes | None = None, expires_at: int | None = None
    ) -> tuple[Any, Stored]:
        if not self.lies:
            return await super().written(store, data, expires_at)
        record, _ = await super().written(getattr(self, self.lies), data, expires_at)
        record = self.record(store, record.key)
        return record, await record.get()


class TestReads(Moving):
    moves = False


class TestReadsWhatHasMoved(Moving):
    moves = False
    lies = "new"


class TestMoves(Moving):
    moves = True


class TestMovesWhatIsOld(Moving):
    moves = True
    lies = "old"


class TestMovesWithoutWakeUps(Moving):
    """Stores that have the verbs alone."""

    moves = True
    lies = "old"

    @pytest.fixture
    async def store(self) -> AsyncIterator[MovingStore]:
        self.clock = ManualClock()
        self.new, self.old = OnlyVerbs(self.clock), OnlyVerbs(self.clock)  # type: ignore[assignment]
        store = self.at_stage(moves=True)
        yield store
        await store.close()


class TestMovesBetweenStoresWithTheirOwnTags(Moving):
    """Of which neither knows the other's."""

    moves = True
    lies = "old"

    @pytest.fixture
    async def store(self) -> AsyncIterator[MovingStore]:
        self.clock = ManualClock()
        self.new, self.old = OwnTags(self.clock), OwnTags(self.clock)
        store = self.at_stage(moves=True)
        yield store
        await store.close()


class TestMovesBetweenServers(StoreConformance):
    """From one server to another; the second store object is a process of the first deployment."""

    @pytest.fixture
    async def store(self, valkey: ServerProcess, redis62: ServerProcess) -> AsyncIterator[MovingStore]:
        self.urls = {"new": valkey.url, "old": redis62.url}
        self.before = RedisStore.from_url(redis62.url)
        store = MovingStore(**self.urls, moves=True)
        yield store
        await store.close()
        await self.before.close()

    def another(self, store: Store) -> MovingStore:
        return MovingStore(**self.urls, moves=False)

    async def written(
        self, store: Store, data: bytes | None = None, expires_at: int | None = None
    ) -> tuple[Any, Stored]:
        record, _ = await super().written(self.before, data, expires_at)
        record = self.record(store, record.key)
        return record, await record.get()


KEY = "k" * 22
OLD, NEW = b"0" * 16 + b"old", b"1" * 16 + b"new"


class Two:
    """Two stores, and processes at each stage."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.new, self.old = MemoryStore(clock=self.clock), MemoryStore(clock=self.clock)
        self.to, self.from_ = FaultStore(self.new), FaultStore(self.old)
        self.far = self.clock() + 10_000

    def at_stage(self, *, moves: bool) -> MovingStore:
        return MovingStore(new=self.to, old=self.from_, moves=moves, clock=self.clock)

    async def lying_in_old(self) -> Stored:
        await self.old.create(KEY, OLD, self.far, deadline=soon())
        stored = await self.old.load(KEY, deadline=soon())
        assert stored is not None
        return stored


def soon() -> float:
    return monotonic() + 5


@pytest.fixture
def two() -> Two:
    return Two()


async def test_a_record_moves_with_its_expiry(two: Two) -> None:
    """A load with `moves` finds it in the new store at once, and leaves nothing of it in the old one."""
    await two.lying_in_old()
    store = two.at_stage(moves=True)
    found = await store.load(KEY, deadline=soon())
    assert found is not None
    assert (found.data, found.expires_at) == (OLD, two.far)
    assert await two.new.load(KEY, deadline=soon()) == Stored(OLD, OLD[:16], two.far)
    left = await two.old.load(KEY, deadline=soon())
    assert left is not None
    assert isinstance(markers.read(left), markers.Forward)
    assert OLD not in left.data
    assert store.moved == 1
    two.clock.advance(LEASE / 1000 + 1)
    assert len(two.old) == 0


async def test_what_it_costs(two: Two) -> None:
    """One verb for what has moved; two for what is missing and to create; seven to find and move a record."""
    moves, reads = two.at_stage(moves=True), two.at_stage(moves=False)

    def calls() -> tuple[int, int]:
        made = len(two.to.calls), len(two.from_.calls)
        two.to.calls.clear()
        two.from_.calls.clear()
        return made

    await two.lying_in_old()
    assert await reads.load(KEY, deadline=soon())
    assert calls() == (0, 1)
    assert await moves.load(KEY, deadline=soon())
    assert calls() == (4, 3)
    version = await moves.load(KEY, deadline=soon())
    assert version is not None
    assert calls() == (1, 0)
    assert isinstance(await moves.save(KEY, NEW, two.far, expect=version, deadline=soon()), Saved)
    assert calls() == (1, 0)
    lost = await moves.save(KEY, NEW + b"!", two.far, expect=version, deadline=soon())
    assert isinstance(lost, Conflict)
    assert calls() == (1, 0)
    assert await moves.load("m" * 22, deadline=soon()) is None
    assert calls() == (1, 1)
    assert isinstance(await moves.create("c" * 22, NEW, two.far, deadline=soon()), Saved)
    assert calls() == (1, 1)
    assert isinstance(await reads.create("d" * 22, NEW, two.far, deadline=soon()), Saved)
    assert calls() == (1, 1)
    assert await reads.load(KEY, deadline=soon())
    assert calls() == (1, 1)


async def test_a_version_from_before_the_move_is_good_after_it(two: Two) -> None:
    """Whoever has read a record in the old store saves, touches and deletes it in the new one."""
    reads, moves = two.at_stage(moves=False), two.at_stage(moves=True)
    for verb in ("save", "touch", "delete"):
        for store in (reads, moves):
            await two.lying_in_old()
            version = await reads.load(KEY, deadline=soon())
            assert version is not None
            assert await moves.load(KEY, deadline=soon())
            match verb:
                case "save":
                    saved = await store.save(KEY, NEW, two.far, expect=version, deadline=soon())
                    assert isinstance(saved, Saved)
                    late = await store.save(KEY, NEW + b"!", two.far, expect=version, deadline=soon())
                    assert isinstance(late, Conflict)
                    assert late.current.data == NEW
                case "touch":
                    assert await store.touch(KEY, two.far + 1, expect=version, deadline=soon())
                case _:
                    assert await store.delete(KEY, expect=version, deadline=soon())
            await store.delete(KEY, deadline=soon())
            assert await store.load(KEY, deadline=soon()) is None
            two.old.clear()
            two.new.clear()


@pytest.mark.parametrize("where", ["to", "from_"])
@pytest.mark.parametrize("fault", ["refused", "lost request", "lost reply", "full"])
async def test_a_move_that_fails_is_no_verb_executed(two: Two, where: str, fault: str) -> None:
    """A verb whose move has failed, at any step, was not executed; the next one takes the move on."""
    for nth in range(1, 4):
        known = await two.lying_in_old()
        store = two.at_stage(moves=True)
        getattr(two, where).fail(None, fault, nth=nth, match=lambda call: call.data != NEW)
        error: StoreUnavailable | None = None
        try:
            assert isinstance(await store.save(KEY, NEW, two.far, expect=known, deadline=soon()), Saved)
        except StoreUnavailable as raised:
            error = raised
        getattr(two, where).heal()
        if error is not None:
            assert error.executed is False
            assert error.full is (fault == "full")
        found = await store.load(KEY, deadline=soon())
        assert found is not None
        assert found.data == (NEW if error is None else OLD)
        assert await store.delete(KEY, deadline=soon())
        two.old.clear()
        two.new.clear()


async def test_logging_out_works_while_the_new_store_is_full(two: Two) -> None:
    """A delete moves nothing first, also of a record that has stopped on its way."""
    store = two.at_stage(moves=True)
    for stopped in (False, True):
        await two.lying_in_old()
        if stopped:
            two.to.fail("save")
            with pytest.raises(StoreUnavailable):
                await store.load(KEY, deadline=soon())
        two.to.fail(None, "full", times=None)
        assert await store.delete(KEY, deadline=soon()) is True
        two.to.heal()
        assert await store.load(KEY, deadline=soon()) is None
        two.old.clear()


async def test_a_record_that_expires_on_its_way_has_expired(two: Two) -> None:
    """Markers outlive it, and it does not come back by them."""
    await two.lying_in_old()
    store = two.at_stage(moves=True)
    two.to.fail("save")
    with pytest.raises(StoreUnavailable):
        await store.load(KEY, deadline=soon())
    two.clock.ms = two.far
    assert await two.at_stage(moves=False).load(KEY, deadline=soon()) is None
    assert await store.load(KEY, deadline=soon()) is None
    created = await store.create(KEY, NEW, two.far + 5, deadline=soon())
    assert isinstance(created, Saved)
    assert await store.create(KEY, OLD, two.far + 5, deadline=soon()) is TAKEN


@pytest.mark.parametrize("moves", [False, True])
async def test_moving_back_meets_the_markers_of_the_first_move(two: Two, moves: bool) -> None:
    """A store that was the old one an hour ago still has markers, and takes records all the same."""
    await two.lying_in_old()
    assert await two.at_stage(moves=True).load(KEY, deadline=soon())
    assert isinstance(markers.read(await two.old.load(KEY, deadline=soon())), markers.Forward)
    back = MovingStore(new=two.old, old=two.new, moves=moves, clock=two.clock)
    found = await back.load(KEY, deadline=soon())
    assert found is not None
    assert (found.data, found.expires_at) == (OLD, two.far)
    assert isinstance(await back.save(KEY, NEW, two.far, expect=found, deadline=soon()), Saved)
    assert back.moved == moves
    lies = await (two.old if moves else two.new).load(KEY, deadline=soon())
    assert lies is not None
    assert lies.data == NEW


async def test_a_place_that_was_kept_in_vain_is_free(two: Two) -> None:
    """A process that stopped after the first step hinders neither creates nor the next move."""
    store = two.at_stage(moves=True)
    for moves in (True, False):
        await two.lying_in_old()
        two.from_.fail("save")
        with pytest.raises(StoreUnavailable):
            await store.load(KEY, deadline=soon())
        assert await two.old.delete(KEY, deadline=soon())
        other = two.at_stage(moves=moves)
        assert await other.load(KEY, deadline=soon()) is None
        assert isinstance(await other.create(KEY, NEW, two.far, deadline=soon()), Saved)
        found = await store.load(KEY, deadline=soon())
        assert found is not None
        assert found.data == NEW
        two.old.clear()
        two.new.clear()


async def test_nothing_is_created_beside_a_record_in_the_old_store(two: Two) -> None:
    """Whether it lies there, or has stopped on its way."""
    store = two.at_stage(moves=True)
    for stopped in (False, True):
        await two.lying_in_old()
        if stopped:
            two.to.fail("save")
            with pytest.raises(StoreUnavailable):
                await store.load(KEY, deadline=soon())
        assert await store.create(KEY, NEW, two.far, deadline=soon()) is TAKEN
        found = await store.load(KEY, deadline=soon())
        assert found is not None
        assert found.data == OLD
        two.old.clear()
        two.new.clear()


async def test_a_place_outlives_the_marker_that_names_it(two: Two) -> None:
    """One that was kept for a shorter life is prolonged: the record comes to it, or it is not sent."""
    version = await two.lying_in_old()
    store = two.at_stage(moves=True)
    two.from_.fail("save")
    with pytest.raises(StoreUnavailable):
        await store.load(KEY, deadline=soon())
    place = await two.new.load(KEY, deadline=soon())
    assert place is not None
    far = two.far + 9 * LEASE
    assert await two.old.touch(KEY, far, expect=version, deadline=soon())
    two.to.fail("save")
    with pytest.raises(StoreUnavailable):
        await store.load(KEY, deadline=soon())
    kept, left = await two.new.load(KEY, deadline=soon()), await two.old.load(KEY, deadline=soon())
    assert kept is not None
    assert left is not None
    assert kept.tag == place.tag
    assert isinstance(markers.read(left), markers.Transit)
    assert kept.expires_at > left.expires_at > far
    found = await store.load(KEY, deadline=soon())
    assert found is not None
    assert found.expires_at == far


async def test_a_fence_that_ends_soon_is_renewed(two: Two) -> None:
    """Whoever creates in the new store sees to it that nobody creates in the old one for a while."""
    moves, reads = two.at_stage(moves=True), two.at_stage(moves=False)
    assert isinstance(await moves.create(KEY, OLD, two.far, deadline=soon()), Saved)
    two.clock.advance(LEASE / 1000 - 1)
    assert await reads.load(KEY, deadline=soon()) is None
    assert isinstance(await reads.create(KEY, NEW, two.clock() + 9 * LEASE, deadline=soon()), Saved)
    two.clock.advance(2)
    left = await two.old.load(KEY, deadline=soon())
    assert left is not None
    assert isinstance(markers.read(left), markers.Forward)
    assert await two.new.load(KEY, deadline=soon())


async def test_a_record_that_is_saved_all_the_time_ends_with_the_deadline(two: Two) -> None:
    """A move that loses every time gives up in time, and says that nothing was executed."""

    class Restless(MemoryStore):
        async def load(self, key: str, *, deadline: float) -> Stored | None:
            self.clear()
            await super().create(key, NEW, two.far, deadline=deadline)
            stored = await super().load(key, deadline=deadline)
            self.clear()
            await super().create(key, OLD, two.far, deadline=deadline)
            return stored

    store = MovingStore(new=two.new, old=Restless(clock=two.clock), moves=True, clock=two.clock)
    with pytest.raises(StoreUnavailable, match="all the time") as raised:
        await store.load(KEY, deadline=monotonic() + 0.05)
    assert raised.value.executed is False


class Reporting(MemoryStore):
    """Has every capability."""

    def __init__(self) -> None:
        super().__init__()
        self.tell: list[Callable[[Report], None]] = []
        self.distrusted: list[str] = []
        self.purged = 3

    def report_to(self, tell: Callable[[Report], None]) -> Callable[[], None]:
        self.tell.append(tell)
        return lambda: self.tell.remove(tell)

    def distrust(self, key: str) -> None:
        self.distrusted.append(key)

    async def purge(self, *, limit: int = 1000, deadline: float) -> int:
        removed, self.purged = min(limit, self.purged), max(0, self.purged - limit)
        return removed


class Plain:
    """Has none."""

    def __init__(self) -> None:
        store = MemoryStore()
        self.open, self.close, self.load = store.open, store.close, store.load
        self.create, self.save, self.touch, self.delete = store.create, store.save, store.touch, store.delete


@pytest.mark.parametrize("moves", [False, True])
def test_it_can_do_what_the_two_can(moves: bool) -> None:
    """Wake-ups go with the store that records are saved in, the other capabilities with either."""
    neither = MovingStore(new=Plain(), old=Plain(), moves=moves)
    assert not isinstance(neither, WakesUp | Reports | Distrusts)
    assert not hasattr(neither, "purge")
    new = MovingStore(new=Reporting(), old=Plain(), moves=moves)
    old = MovingStore(new=Plain(), old=Reporting(), moves=moves)
    for store in (new, old):
        assert isinstance(store, Reports)
        assert isinstance(store, Distrusts)
        assert hasattr(store, "purge")
    assert isinstance(new, WakesUp) is moves
    assert isinstance(old, WakesUp) is not moves


async def test_what_is_passed_on() -> None:
    """Reports come from both, connections are dropped in both, records are purged from both."""
    new, old = Reporting(), Reporting()
    store = MovingStore(new=new, old=old, moves=True)
    assert isinstance(store, Reports)
    assert isinstance(store, Distrusts)
    told: list[Report] = []
    end = store.report_to(told.append)
    for each in (new, old):
        each.tell[0](Lost("server", "away"))
    assert len(told) == 2
    end()
    assert (new.tell, old.tell) == ([], [])
    store.distrust(KEY)
    assert new.distrusted == old.distrusted == [KEY]
    assert await store.purge(limit=4, deadline=soon()) == 4
    assert (new.purged, old.purged) == (0, 2)


async def test_a_listener_that_one_store_refuses_listens_to_none() -> None:
    """What was begun in the other store has ended."""
    new, old = FaultStore(MemoryStore()), FaultStore(MemoryStore())
    store = MovingStore(new=new, old=old, moves=False)
    old.fail("listen")
    heard: list[str | None] = []
    hear: Heard = heard.append
    with pytest.raises(StoreUnavailable):
        await store.listen("0" * 16, hear, deadline=soon())
    assert await store.create(KEY, OLD, 2**50, deadline=soon())
    version = await new.load(KEY, deadline=soon())
    assert version is None


async def test_open_and_close_reach_both() -> None:
    """Also when one is away."""

    class Away(MemoryStore):
        opened = closed = False

        def __init__(self, error: Exception | None = None) -> None:
            super().__init__()
            self.error = error

        async def open(self) -> None:
            self.opened = True
            if self.error is not None:
                raise self.error

        async def close(self) -> None:
            self.closed = True
            if self.error is not None:
                raise self.error

    new, old = Away(StoreUnavailable("away")), Away()
    store = MovingStore(new=new, old=old, moves=False)
    with pytest.raises(StoreUnavailable):
        await store.open()
    assert old.opened
    with pytest.raises(StoreUnavailable):
        await store.close()
    assert old.closed
    never = MovingStore(new=Away(), old=Away(ConfigurationError("wrong")))
    with pytest.raises(ConfigurationError):
        await never.open()


def test_stores_may_be_urls() -> None:
    """As a manager takes them."""
    store = MovingStore(new="memory://", old=MemoryStore())
    assert isinstance(store.new, MemoryStore)
    assert SessionManager(store) is not None
    assert "moves=True" in repr(store)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"new": "memory://", "old": "memory://"}, "same store"),
        ({"new": "memory://", "old": 5}, "old must be a store or a URL, not a int"),
        ({"new": MemoryStore, "old": "memory://"}, "new must be a store or a URL, not the class MemoryStore"),
        ({"new": "no://secret", "old": MemoryStore()}, "begin with 'no'"),
        ({"new": "memory://", "old": MovingStore(new=MemoryStore(), old="memory://")}, "finish that move"),
        ({"new": "memory://", "old": MemoryStore(), "moves": 1}, "moves=1"),
        ({"new": "memory://", "old": MemoryStore(), "clock": 1}, "clock=1"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], says: str) -> None:
    """What cannot work is refused, and no password is shown."""
    with pytest.raises(ConfigurationError, match=says) as raised:
        MovingStore(**arguments)  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)


async def test_closing_waits_for_moves() -> None:
    """A store that is closed amid a move is not opened again by its next step."""
    two = Two()
    await two.lying_in_old()
    store = two.at_stage(moves=True)
    gate = two.to.pause("save")
    task = asyncio.create_task(store.load(KEY, deadline=soon()))
    await gate.reached()
    closing = asyncio.create_task(store.close())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not closing.done()
    gate.release()
    await closing
    assert await task is not None
    assert await two.at_stage(moves=True).save(
        KEY, NEW, two.far, expect=Stored(OLD, b"?", 0), deadline=soon()
    )
    assert await store.save("n" * 22, NEW, two.far, expect=Stored(OLD, b"?", 0), deadline=soon()) is GONE


async def test_closing_closes_both_when_who_waits_for_it_gives_up() -> None:
    """A close that is cancelled amid a verb closes the two stores nevertheless."""
    two = Two()
    await two.lying_in_old()
    closed: list[str] = []

    def closes(name: str) -> Callable[[], Any]:
        async def close() -> None:
            closed.append(name)

        return close

    two.to.close, two.from_.close = closes("new"), closes("old")  # type: ignore[method-assign]
    store = two.at_stage(moves=True)
    gate = two.to.pause("save")
    loading = asyncio.create_task(store.load(KEY, deadline=soon()))
    await gate.reached()
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert closed == ["new", "old"]
    gate.release()
    assert await loading

"""Every store of ours passes the shipped suite, and the suite catches stores that don't deserve it."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from msgspec.structs import replace

from asgi_session.errors import StoreUnavailable
from asgi_session.store import Conflict, CreateResult, Saved, SaveResult, Store, Stored
from asgi_session.stores.memory import MemoryStore
from asgi_session.stores.redis import RedisStore
from asgi_session.testing import FaultStore, ManualClock, StoreConformance
from tests.stores.broken import Broken


class ManualTime(StoreConformance):
    """The suite with a clock that is set, so that nothing waits."""

    clock: ManualClock

    def now(self) -> int:
        return self.clock()

    async def pass_time(self, until_ms: int) -> None:
        self.clock.ms = until_ms


class TestMemoryStore(ManualTime):
    @pytest.fixture
    def store(self) -> MemoryStore:
        self.clock = ManualClock()
        return MemoryStore(clock=self.clock)


class TestMemoryStoreBySystemClock(StoreConformance):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestFaultStore(ManualTime):
    @pytest.fixture
    def store(self) -> FaultStore:
        self.clock = ManualClock()
        return FaultStore(MemoryStore(clock=self.clock))


class OnRedis(StoreConformance):
    server: ClassVar[str]
    """The fixture with it."""

    @pytest.fixture
    async def store(self, request: pytest.FixtureRequest) -> AsyncIterator[RedisStore]:
        self.url: str = request.getfixturevalue(self.server).url
        store = RedisStore.from_url(self.url)
        yield store
        await store.close()

    def another(self, store: Store) -> RedisStore:
        return RedisStore.from_url(self.url)


class TestRedisStoreOnValkey(OnRedis):
    server = "valkey"


class TestRedisStoreOnRedis62(OnRedis):
    server = "redis62"


class TestRedisStoreWithoutLua(OnRedis):
    """Valkey 9.1 has Lua as a module, which may be absent."""

    server = "without_lua"


class TestRedisStoreOnFakeredis(OnRedis):
    server = "fakeredis_server"


class TestRedisStoreOnSentinel(OnRedis):
    server = "sentinel"


class TestRedisStoreOnCluster(OnRedis):
    server = "cluster"


THIRD_PARTY = """
import pytest
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import StoreConformance

class Wrong(MemoryStore):
    async def delete(self, key, *, expect=None, deadline):
        await super().delete(key, expect=expect, deadline=deadline)
        return 17

@pytest.mark.{mark}
class TestWrong(StoreConformance):
    @pytest.fixture
    def store(self):
        return Wrong()
"""


@pytest.mark.parametrize(("mark", "off"), [("asyncio", "anyio"), ("anyio", "asyncio")])
def test_other_projects_can_run_the_suite(mark: str, off: str, tmp_path: Path) -> None:
    """With either plugin in its strict mode the suite runs, and a failure shows the values compared."""
    (tmp_path / "test_it.py").write_text(THIRD_PARTY.format(mark=mark))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    if mark == "anyio":
        (tmp_path / "conftest.py").write_text(
            "import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'"
        )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", f"no:{off}", "-p", "no:cacheprovider", "-k", "delete or load"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "assert 17 is True" in run.stdout, run.stdout
    assert "test_load_of_a_missing_record" not in run.stdout, run.stdout
    assert re.search(r"\d+ failed, \d+ passed, \d+ deselected", run.stdout), run.stdout


def test_importing_the_suite_needs_no_pytest() -> None:
    """Apps may use clock and faults without pytest, so nothing below `testing` imports it by itself."""
    code = "import asgi_session.testing, sys; sys.exit('pytest' in sys.modules or 'redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Stores of other shapes, which the contract allows: they must pass.


class OwnTags(MemoryStore):
    """Numbers its versions itself, as a store with ETags does, and never looks into the data."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self._tags: dict[bytes, bytes] = {}

    def _tag(self, data: bytes) -> bytes:
        return self._tags.setdefault(data[:16], b'"%d"' % (len(self._tags) + 1))

    def _real(self, version: Stored) -> Stored:
        tag = next((real for real, own in self._tags.items() if own == version.tag), b"unknown")
        return Stored(b"", tag, 0)

    def _own(self, stored: Stored) -> Stored:
        return replace(stored, tag=self._tag(stored.data))

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        stored = await super().load(key, deadline=deadline)
        return stored and self._own(stored)

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        result = await super().create(key, data, expires_at, deadline=deadline)
        return Saved(self._tag(data)) if isinstance(result, Saved) else result

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        result = await super().save(key, data, expires_at, expect=self._real(expect), deadline=deadline)
        if isinstance(result, Conflict):
            return Conflict(self._own(result.current))
        return Saved(self._tag(data)) if isinstance(result, Saved) else result

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        return await super().touch(key, expires_at, expect=self._real(expect), deadline=deadline)

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        real = None if expect is None else self._real(expect)
        return await super().delete(key, expect=real, deadline=deadline)


class TestStoreWithItsOwnTags(ManualTime):
    @pytest.fixture
    def store(self) -> OwnTags:
        self.clock = ManualClock()
        return OwnTags(self.clock)


class ByBytes(MemoryStore):
    """Compares the data instead of the tag, and tells versions by it alone."""

    def _same(self, key: str, expect: Stored) -> Stored:
        current = self._records.get(key)
        return current if current is not None and current.data == expect.data else replace(expect, tag=b"")

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        same = self._same(key, expect)
        return await super().save(key, data, expires_at, expect=same, deadline=deadline)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        return await super().touch(key, expires_at, expect=self._same(key, expect), deadline=deadline)

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        same = None if expect is None else self._same(key, expect)
        return await super().delete(key, expect=same, deadline=deadline)


class TestStoreThatComparesBytes(ManualTime):
    @pytest.fixture
    def store(self) -> ByBytes:
        self.clock = ManualClock()
        return ByBytes(clock=self.clock)


class Slow(MemoryStore):
    """Takes a few turns of the loop before and after it executes, and obeys deadlines."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self._chance = random.Random(0)
        self._under_way = 0

    async def close(self) -> None:
        while self._under_way:
            await asyncio.sleep(0)
        await super().close()

    async def _way(self, deadline: float, executed: bool | None) -> None:
        self._under_way += 1
        try:
            for _ in range(self._chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            self._under_way -= 1
        if time.monotonic() > deadline:
            raise StoreUnavailable("late", executed=executed)

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        await self._way(deadline, False)
        stored = await super().load(key, deadline=deadline)
        await self._way(deadline, None)
        return stored

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        await self._way(deadline, False)
        result = await super().save(key, data, expires_at, expect=expect, deadline=deadline)
        await self._way(deadline, None)
        return result

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        await self._way(deadline, False)
        result = await super().delete(key, expect=expect, deadline=deadline)
        await self._way(deadline, None)
        return result


class TestSlowStore(ManualTime):
    @pytest.fixture
    def store(self) -> Slow:
        self.clock = ManualClock()
        return Slow(self.clock)


# Stores that break the contract, and the test that must notice.

Make = Callable[[ManualClock], Store]

CAUGHT_BY = {
    "create_overwrites": "test_create_leaves_a_taken_key_alone",
    "save_creates": "test_save_never_creates",
    "save_ignores_the_tag": "test_save_with_an_old_tag_is_a_conflict",
    "save_compares_a_prefix": "test_save_compares_the_whole_version",
    "save_keeps_the_expiry": "test_save_replaces_the_record",
    "conflict_without_news": "test_save_with_an_old_tag_is_a_conflict",
    "save_is_two_steps": "test_one_of_many_saves_wins",
    "create_answers_another_tag": "test_create_answers_the_tag",
    "save_compares_the_expiry": "test_a_touch_is_no_conflict",
    "delete_compares_the_expiry": "test_a_touch_is_no_conflict",
    "create_is_two_steps": "test_one_of_many_creates_wins",
    "delete_is_two_steps": "test_one_of_many_deletes_wins",
    "touch_changes_the_tag": "test_touch_changes_the_expiry_alone",
    "touch_ignores_the_tag": "test_touch_with_an_old_tag_changes_nothing",
    "touch_creates": "test_touch_never_creates",
    "touch_writes_the_data_back": "test_a_touch_does_not_undo_a_save",
    "touch_only_prolongs": "test_touch_changes_the_expiry_alone",
    "delete_always_true": "test_delete_tells_whether_there_was_one",
    "delete_ignores_the_tag": "test_delete_of_one_version_leaves_another_alone",
    "delete_compares_a_prefix": "test_save_compares_the_whole_version",
    "delete_looks_first": "test_a_delete_of_one_version_does_not_undo_a_save",
    "expires_never": "test_load_does_not_see_an_expired_record",
    "expires_on_load_alone": "test_save_does_not_bring_back_an_expired_record",
    "seconds": "test_create_writes_what_load_returns",
    "text": "test_the_first_bytes_may_be_any",
    "strips": "test_every_byte_is_kept",
    "truncates": "test_every_byte_is_kept",
    "folds_case": "test_keys_are_told_apart",
    "past_is_ignored": "test_a_past_expiry_ends_the_record",
    "past_is_an_error": "test_a_record_created_with_a_past_expiry_is_missing",
    "missing_is_an_error": "test_load_of_a_missing_record_answers_none",
    "late_is_an_error": "test_a_deadline_that_is_over_ends_the_verb_at_once",
    "late_is_a_lie": "test_a_deadline_that_is_over_ends_the_verb_at_once",
    "late_hangs": "test_a_deadline_that_is_over_ends_the_verb_at_once",
    "close_forgets": "test_open_and_close_may_be_repeated",
    "close_cuts_off": "test_close_with_verbs_in_flight",
    "close_is_final": "test_open_and_close_may_be_repeated",
    "close_cuts_off_create": "test_close_waits_for_every_verb",
    "close_cuts_off_save": "test_close_waits_for_every_verb",
    "close_cuts_off_touch": "test_close_waits_for_every_verb",
    "close_cuts_off_delete": "test_close_waits_for_every_verb",
    "close_does_not_wait": "test_close_waits_for_every_verb",
    "close_closes_every_loop": "test_close_leaves_other_loops_alone",
    "folds_the_first_letter": "test_keys_are_told_apart",
    "expires_a_second_late": "test_load_does_not_see_an_expired_record",
    "expires_a_second_early": "test_a_record_lives_until_its_time",
    "numbers_begin_anew": "test_an_expired_version_does_not_come_back",
    "expired_is_replaced_in_two_steps": "test_one_of_many_creates_follows_an_expired_record",
    "data_is_a_bytearray": "test_every_byte_is_kept",
    "conflict_has_a_memoryview": "test_random_verbs_agree_with_a_model",
    "tags_are_long": "test_random_verbs_agree_with_a_model",
    "conflict_from_before_a_delete": "test_after_a_delete_there_is_only_gone",
    "conflict_with_the_expected": "test_who_loses_is_told_of_a_version_that_was_written",
    "conflict_with_the_first_version": "test_who_loses_is_told_of_a_version_that_was_written",
    "lost_touch_brings_its_expiry": "test_a_touch_does_not_undo_a_save",
    "touch_makes_a_number": "test_touches_do_not_hinder_who_knows_the_tag",
    "delete_loses_to_a_touch": "test_a_touch_does_not_stop_a_delete",
    "waiting_save_answers_what_was": "test_a_verb_that_has_waited_sees_the_newest_record",
    "waiting_save_writes": "test_a_verb_that_has_waited_sees_that_the_record_is_gone",
    "waiting_touch_writes": "test_a_verb_that_has_waited_sees_the_newest_record",
    "waiting_create_answers_what_was": "test_a_verb_that_has_waited_sees_that_the_record_is_gone",
    "waiting_delete_answers_what_was": "test_a_verb_that_has_waited_sees_the_newest_record",
    "waiting_waking_save_answers_what_was": "test_a_verb_that_has_waited_sees_that_the_record_is_gone",
    "repeated_waking_save_is_a_conflict": "test_a_write_that_is_sent_twice_counts_once",
    "repeated_create_is_taken": "test_a_write_that_is_sent_twice_counts_once",
    "repeated_save_is_a_conflict": "test_a_write_that_is_sent_twice_counts_once",
    "repeated_touch_is_false": "test_a_write_that_is_sent_twice_counts_once",
    "repeated_delete_is_false": "test_a_write_that_is_sent_twice_counts_once",
    "slow_is_a_lie": "test_what_was_not_executed_has_changed_nothing",
    "late_after_all": "test_what_was_not_executed_has_changed_nothing",
    "loads_are_cached": "test_random_verbs_by_two_store_objects_agree_with_a_model",
    "missing_is_cached": "test_random_verbs_by_two_store_objects_agree_with_a_model",
    "one_loop": "test_event_loops_one_after_another",
    "stale_reads": "test_a_load_sees_every_write_answered_before_it",
    "cancel_shifts_replies": "test_cancelled_verbs_leave_the_store_in_step",
    "mixes_up_replies": "test_two_hundred_at_once_get_their_own_answers",
    "wakes_nobody": "test_the_last_listener_ends_and_another_begins",
    "wakes_everybody": "test_the_named_listeners_are_woken_and_no_others",
    "wakes_the_first_alone": "test_the_named_listeners_are_woken_and_no_others",
    "wakes_although_not_saved": "test_a_save_that_was_not_done_wakes_nobody",
    "wakes_at_every_save": "test_a_plain_save_wakes_nobody",
    "wake_forgets_large_records": "test_every_size_is_saved_and_woken_for",
    "waking_save_ignores_the_tag": "test_save_and_wake_saves_as_save_does",
    "ended_listener_hears": "test_an_ended_listener_hears_nothing",
    "end_twice_is_an_error": "test_an_ended_listener_hears_nothing",
    "close_keeps_listening": "test_close_ends_listening",
    "one_listener_at_a_time": "test_many_wake_ups_at_once",
    "hears_in_the_savers_loop": "test_a_listener_in_another_event_loop",
    "no_wakeups_after_close": "test_close_ends_listening",
}


Waiting = Callable[[], Awaitable[None]]


class Hasty(ManualTime):
    """What does not come will not come in 5 seconds either; what hangs takes longer."""

    timeout = 0.5

    def another(self, store: Store) -> Store:
        return store.another() if isinstance(store, Broken) else store

    @asynccontextmanager
    async def _holding(
        self, store: Broken, key: str, data: bytes | None, expires_at: int
    ) -> AsyncIterator[Waiting]:
        async def waiting() -> None:
            await store.waiting.wait()

        store.waiting.clear()
        store.held[key] = asyncio.Event()
        yield waiting
        if data is None or expires_at <= store.clock():
            del store.records[key]
        else:
            store.records[key] = Stored(data, data[:16], expires_at)
        store.held.pop(key).set()

    def holding(
        self, store: Store, key: str, data: bytes | None, expires_at: int
    ) -> AbstractAsyncContextManager[Waiting] | None:
        return self._holding(store, key, data, expires_at) if isinstance(store, Broken) else None

    @asynccontextmanager
    async def _repeating(self, store: Broken) -> AsyncIterator[Broken]:
        store.repeats = True
        yield store
        store.repeats = False

    def repeating(self, store: Store) -> AbstractAsyncContextManager[Store] | None:
        return self._repeating(store) if isinstance(store, Broken) else None


def run_one(make: Make, name: str) -> None:
    """Run one test of the suite on a new store."""
    suite = Hasty()
    suite.clock = ManualClock()
    asyncio.run(getattr(suite, name)(make(suite.clock)))


def broken(clock: ManualClock, flaw: str) -> Broken:
    store = Broken(clock)
    setattr(store, flaw, True)
    return store


@pytest.mark.parametrize(("flaw", "test"), CAUGHT_BY.items())
def test_the_suite_catches(flaw: str, test: str) -> None:
    """A store with this one flaw fails the test that is about it."""
    with pytest.raises((AssertionError, StoreUnavailable, RuntimeError, ValueError, KeyError, TimeoutError)):
        run_one(lambda clock: broken(clock, flaw), test)


def test_every_flaw_is_tried() -> None:
    """No flaw above is forgotten."""
    flags = {field.name for field in dataclasses.fields(Broken)} - {"clock"}
    assert flags == CAUGHT_BY.keys()


SUITE = [name for name, _ in inspect.getmembers(StoreConformance) if name.startswith("test_")]


@pytest.mark.parametrize("name", SUITE)
def test_without_a_flaw_it_passes(name: str) -> None:
    """It is the flaw that is caught, not the dict."""
    run_one(Broken, name)


class OnlyVerbs:
    """A store with the five verbs and nothing else."""

    def __init__(self, clock: ManualClock) -> None:
        store = Broken(clock)
        self.open, self.close, self.load = store.open, store.close, store.load
        self.create, self.save, self.touch, self.delete = store.create, store.save, store.touch, store.delete


@pytest.mark.parametrize("name", SUITE)
def test_capabilities_are_optional(name: str) -> None:
    """Without wake-ups a store passes, too, and so does a FaultStore around it."""
    run_one(OnlyVerbs, name)
    run_one(lambda clock: FaultStore(OnlyVerbs(clock)), name)


@pytest.mark.parametrize("half", ["listen", "save_and_wake"])
def test_half_a_capability_is_caught(half: str) -> None:
    """A store that wakes up but does not listen is a mistake, not a store without wake-ups."""

    def make(clock: ManualClock) -> Store:
        store = OnlyVerbs(clock)
        setattr(store, half, None)
        return store

    with pytest.raises(AssertionError, match="without"):
        run_one(make, "test_two_store_objects")


class MixesTwoDeletes(Broken):
    """A save that looks, waits and writes: a delete in between is undone."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock, save_is_two_steps=True)


def test_the_suite_catches_a_resurrection() -> None:
    """Check-then-write in a save brings back what a delete removed in between."""
    with pytest.raises(AssertionError):
        run_one(MixesTwoDeletes, "test_nothing_in_flight_brings_a_deleted_record_back")

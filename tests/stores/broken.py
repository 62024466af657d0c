"""A store that breaks the contract, one promise at a time."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence

from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, CreateResult, Heard, Saved, SaveResult, Stored
from asgi_session.testing import ManualClock


@dataclasses.dataclass
class Broken:
    """A dict with a hole: each flag takes one promise of the contract away."""

    clock: ManualClock
    create_overwrites: bool = False
    create_answers_another_tag: bool = False
    save_creates: bool = False
    save_ignores_the_tag: bool = False
    save_compares_a_prefix: bool = False
    save_keeps_the_expiry: bool = False
    conflict_without_news: bool = False
    save_compares_the_expiry: bool = False
    delete_compares_the_expiry: bool = False
    save_is_two_steps: bool = False
    create_is_two_steps: bool = False
    delete_is_two_steps: bool = False
    touch_changes_the_tag: bool = False
    touch_ignores_the_tag: bool = False
    touch_creates: bool = False
    touch_writes_the_data_back: bool = False
    touch_only_prolongs: bool = False
    delete_always_true: bool = False
    delete_ignores_the_tag: bool = False
    delete_compares_a_prefix: bool = False
    delete_looks_first: bool = False
    expires_never: bool = False
    expires_on_load_alone: bool = False
    seconds: bool = False
    text: bool = False
    strips: bool = False
    truncates: bool = False
    folds_case: bool = False
    past_is_ignored: bool = False
    past_is_an_error: bool = False
    missing_is_an_error: bool = False
    late_is_an_error: bool = False
    late_is_a_lie: bool = False
    late_hangs: bool = False
    close_forgets: bool = False
    close_is_final: bool = False
    close_cuts_off: bool = False
    close_cuts_off_create: bool = False
    close_cuts_off_save: bool = False
    close_cuts_off_touch: bool = False
    close_cuts_off_delete: bool = False
    close_does_not_wait: bool = False
    close_closes_every_loop: bool = False
    one_loop: bool = False
    folds_the_first_letter: bool = False
    expires_a_second_late: bool = False
    expires_a_second_early: bool = False
    numbers_begin_anew: bool = False
    expired_is_replaced_in_two_steps: bool = False
    data_is_a_bytearray: bool = False
    conflict_has_a_memoryview: bool = False
    tags_are_long: bool = False
    conflict_from_before_a_delete: bool = False
    conflict_with_the_expected: bool = False
    conflict_with_the_first_version: bool = False
    lost_touch_brings_its_expiry: bool = False
    touch_makes_a_number: bool = False
    delete_loses_to_a_touch: bool = False
    waiting_save_answers_what_was: bool = False
    waiting_save_writes: bool = False
    waiting_waking_save_answers_what_was: bool = False
    waiting_touch_writes: bool = False
    waiting_create_answers_what_was: bool = False
    waiting_delete_answers_what_was: bool = False
    repeated_create_is_taken: bool = False
    repeated_save_is_a_conflict: bool = False
    repeated_waking_save_is_a_conflict: bool = False
    repeated_touch_is_false: bool = False
    repeated_delete_is_false: bool = False
    slow_is_a_lie: bool = False
    late_after_all: bool = False
    loads_are_cached: bool = False
    missing_is_cached: bool = False
    stale_reads: bool = False
    cancel_shifts_replies: bool = False
    mixes_up_replies: bool = False
    wakes_nobody: bool = False
    wakes_everybody: bool = False
    wakes_the_first_alone: bool = False
    wakes_although_not_saved: bool = False
    wakes_at_every_save: bool = False
    wake_forgets_large_records: bool = False
    waking_save_ignores_the_tag: bool = False
    ended_listener_hears: bool = False
    end_twice_is_an_error: bool = False
    close_keeps_listening: bool = False
    one_listener_at_a_time: bool = False
    hears_in_the_savers_loop: bool = False
    no_wakeups_after_close: bool = False

    def __post_init__(self) -> None:
        self.records: dict[str, Stored] = {}
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.before: dict[str, Stored | None] = {}
        self.replies: list[Stored | None] = []
        self.last: Stored | None = None
        self.listeners: dict[str, tuple[asyncio.AbstractEventLoop, Heard]] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.waiting = asyncio.Event()
        self.repeats = False
        self.closed_in: list[asyncio.AbstractEventLoop] = []
        self.first: dict[str, Stored] = {}
        self.number = 0
        self.cache: dict[str, Stored | None] = {}

    def another(self) -> Broken:
        """Return a second object with the same records and a cache of its own."""
        if not (self.loads_are_cached or self.missing_is_cached):
            return self
        other = dataclasses.replace(self)
        other.records = self.records
        return other

    async def open(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        self.closed = True
        self.closed_in.append(asyncio.get_running_loop())
        if not self.close_keeps_listening:
            self.listeners.clear()
        if self.close_forgets:
            self.records.clear()

    async def _enter(self, key: str, deadline: float) -> str:
        if self.close_is_final and self.closed:
            raise RuntimeError("closed")
        if self.one_loop:
            self.loop = self.loop or asyncio.get_running_loop()
            if self.loop is not asyncio.get_running_loop():
                raise RuntimeError("attached to a different loop")
        if time.monotonic() > deadline:
            if self.late_is_an_error:
                raise TimeoutError
            if self.late_hangs:
                await asyncio.sleep(60)
        if self.folds_the_first_letter:
            return key[0].lower() + key[1:]
        return key.lower() if self.folds_case else key

    async def _wait(self, key: str) -> Stored | None:
        """Wait behind whoever holds the record; what was there before."""
        before = self._get(key)
        if key in self.held:
            self.waiting.set()
            await self.held[key].wait()
        return before

    async def _way(self, verb: str) -> None:
        """Go the way to the server, if that makes a difference."""
        if self.close_does_not_wait:
            for _ in range(20):
                await asyncio.sleep(0)
        elif getattr(self, f"close_cuts_off_{verb}", False):
            self.closed = False
            for _ in range(4):
                await asyncio.sleep(0)
            if self.closed:
                raise StoreUnavailable("closed", executed=None)

    async def _back(self, key: str, before: Stored | None, deadline: float) -> None:
        """Go the way back, if that makes a difference."""
        if self.slow_is_a_lie and deadline - time.monotonic() < 0.1:
            raise StoreUnavailable("late", executed=False)
        if self.late_after_all and deadline - time.monotonic() < 0.1:  # the server has it, and does it later
            after = self.records.pop(key, None)
            if before is not None:
                self.records[key] = before

            def later() -> None:
                self.records.pop(key, None)
                if after is not None:
                    self.records[key] = after

            asyncio.get_running_loop().call_later(0.01, later)
            raise StoreUnavailable("late", executed=False)

    def _leave(self, deadline: float) -> None:
        if self.late_is_a_lie and time.monotonic() > deadline:
            raise StoreUnavailable("late", executed=False)

    def _get(self, key: str) -> Stored | None:
        stored = self.records.get(key)
        if stored is None or self.expires_never or self.expires_on_load_alone:
            return stored
        if self.expires_a_second_late:
            return stored if stored.expires_at + 999 > self.clock() else None
        if self.expires_a_second_early:
            return stored if stored.expires_at - 999 > self.clock() else None
        return stored if stored.expires_at > self.clock() else None

    def _tag(self, key: str, data: bytes) -> bytes:
        if self.numbers_begin_anew:
            before = self._get(key)
            return b"%d" % (1 if before is None else int(before.tag) + 1)
        if self.touch_makes_a_number:
            self.number += 1
            return b"%d" % self.number
        return data[:16] * 16 if self.tags_are_long else data[:16]

    def _put(self, key: str, data: bytes, expires_at: int) -> None:
        if expires_at <= self.clock():
            if self.past_is_an_error:
                raise ValueError("invalid expire time")
            if self.past_is_ignored:
                return
        if self.text:
            data = data.decode(errors="replace").encode()
        if self.strips:
            data = data.rstrip(b"\0")
        if self.truncates:
            data = data[:65_536]
        if self.seconds:
            expires_at = expires_at // 1000 * 1000
        self.cache.pop(key, None)
        self.before[key] = self.records.get(key)
        self.records[key] = Stored(data, self._tag(key, data), expires_at)
        self.first.setdefault(key, self.records[key])

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        key = await self._enter(key, deadline)
        stored = self._get(key)
        if (self.loads_are_cached and stored is not None) or (self.missing_is_cached and stored is None):
            stored = self.cache.setdefault(key, stored)
        elif self.missing_is_cached:
            stored = self.cache.get(key, stored)
        if stored is not None and self.expires_on_load_alone and stored.expires_at <= self.clock():
            stored = None
        await self._way("load")
        if self.close_closes_every_loop:
            closes = len(self.closed_in)
            for _ in range(20):
                await asyncio.sleep(0)
            if set(self.closed_in[closes:]) - {asyncio.get_running_loop()}:
                raise StoreUnavailable("closed", executed=None)
        if stored is not None and self.data_is_a_bytearray:
            return Stored(bytearray(stored.data), stored.tag, stored.expires_at)  # type: ignore[arg-type]
        if stored is None and self.missing_is_an_error:
            raise KeyError(key)
        if self.close_cuts_off:
            await asyncio.sleep(0)
            if self.closed:
                raise StoreUnavailable("closed", executed=None)
        if self.cancel_shifts_replies:
            self.replies.append(stored)
            await asyncio.sleep(0)
            return self.replies.pop(0)
        if self.mixes_up_replies:
            self.last = stored
            await asyncio.sleep(0)
            return self.last
        if self.stale_reads:
            return self.before.pop(key, stored)
        return stored

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        key = await self._enter(key, deadline)
        await self._way("create")
        before = await self._wait(key)
        taken = self._get(key) is not None
        if self.waiting_create_answers_what_was:
            taken = before is not None
        if self.create_is_two_steps or (self.expired_is_replaced_in_two_steps and key in self.records):
            await asyncio.sleep(0)
        if taken and not self.create_overwrites:
            return TAKEN
        self._put(key, data, expires_at)
        self._leave(deadline)
        if self.repeats and self.repeated_create_is_taken:
            return TAKEN
        tag = self.records[key].tag if key in self.records else data[:16]
        await self._back(key, before, deadline)
        return Saved(bytes(16) if self.create_answers_another_tag else tag)

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        key = await self._enter(key, deadline)
        await self._way("save")
        before = await self._wait(key)
        current = self._get(key)
        if self.save_is_two_steps:
            await asyncio.sleep(0)
        if self.conflict_from_before_a_delete and current is not None:
            await asyncio.sleep(0)
            if self._get(key) is None:
                return Conflict(current)
            current = self._get(key)
        if before is not current and before is not None:
            if self.waiting_save_answers_what_was:
                return Conflict(before)
            if self.waiting_save_writes:
                current = before
        if current is None:
            if self.save_creates:
                self._put(key, data, expires_at)
                return Saved(data[:16])
            return GONE
        same = (
            current.tag.startswith(expect.tag) if self.save_compares_a_prefix else current.tag == expect.tag
        )
        if self.save_compares_the_expiry:
            same = same and current.expires_at == expect.expires_at
        if not same and self.conflict_with_the_expected:
            return Conflict(expect)
        if not same and self.conflict_with_the_first_version:
            return Conflict(self.first[key])
        if not same and self.conflict_has_a_memoryview:
            return Conflict(Stored(memoryview(current.data), current.tag, current.expires_at))  # type: ignore[arg-type]
        if not same and not self.save_ignores_the_tag:
            return Conflict(Stored(data, data[:16], expires_at) if self.conflict_without_news else current)
        self._put(key, data, current.expires_at if self.save_keeps_the_expiry else expires_at)
        self._leave(deadline)
        if self.wakes_at_every_save:
            self._wake(key, list(self.listeners))
        if self.repeats and self.repeated_save_is_a_conflict:
            return Conflict(self.records[key])
        tag = self.records[key].tag if key in self.records else data[:16]
        await self._back(key, before, deadline)
        return Saved(tag)

    async def save_and_wake(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, wake: Sequence[str], deadline: float
    ) -> SaveResult:
        current = self._get(key)
        if self.waking_save_ignores_the_tag and current is not None:
            expect = current
        result = await self.save(key, data, expires_at, expect=expect, deadline=deadline)
        if self.waiting_waking_save_answers_what_was and current is not None and self._get(key) != current:
            result = result if isinstance(result, Saved) else Conflict(current)
        if self.repeats and self.repeated_waking_save_is_a_conflict:
            return Conflict(self.records[key])
        if self.wakes_nobody or (self.wake_forgets_large_records and len(data) > 8192):
            return result
        if isinstance(result, Saved) or self.wakes_although_not_saved:
            if self.wakes_everybody:
                wake = list(self.listeners)
            if self.wakes_the_first_alone:
                wake = wake[:1]
            self._wake(key, wake)
        return result

    def _wake(self, key: str, wake: Sequence[str]) -> None:
        for listener in wake:
            if listener in self.listeners:
                loop, heard = self.listeners[listener]
                if self.hears_in_the_savers_loop:
                    heard(key)
                elif not loop.is_closed():
                    loop.call_soon_threadsafe(heard, key)

    async def listen(self, listener: str, heard: Heard, *, deadline: float) -> Callable[[], None]:
        if self.one_listener_at_a_time:
            self.listeners.clear()
        if not (self.no_wakeups_after_close and self.closed):
            self.listeners[listener] = asyncio.get_running_loop(), heard

        def end() -> None:
            if not self.ended_listener_hears:
                if self.end_twice_is_an_error:
                    del self.listeners[listener]
                self.listeners.pop(listener, None)

        return end

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        key = await self._enter(key, deadline)
        await self._way("touch")
        before = await self._wait(key)
        current = self._get(key)
        if self.waiting_touch_writes and before is not None and before is not current:
            current = before
        if current is None:
            if self.touch_creates:
                self._put(key, expect.data, expires_at)
            return self.touch_creates
        if current.tag != expect.tag and not self.touch_ignores_the_tag:
            return False
        if self.touch_writes_the_data_back:
            await asyncio.sleep(0)
        if self.lost_touch_brings_its_expiry:
            await asyncio.sleep(0)
            current = self._get(key) or current
        if self.touch_only_prolongs:
            expires_at = max(expires_at, current.expires_at)
        data = bytes(reversed(current.data)) if self.touch_changes_the_tag else current.data
        self._put(key, data, expires_at)
        if key in self.records and not self.touch_changes_the_tag and not self.touch_makes_a_number:
            self.records[key] = Stored(self.records[key].data, current.tag, self.records[key].expires_at)
        self._leave(deadline)
        await self._back(key, before, deadline)
        return not (self.repeats and self.repeated_touch_is_false)

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        key = await self._enter(key, deadline)
        await self._way("delete")
        before = await self._wait(key)
        current = before if self.waiting_delete_answers_what_was else self._get(key)
        found = current is not None
        if expect is not None and not self.delete_ignores_the_tag:
            tag = current.tag if current is not None else b""
            same = tag.startswith(expect.tag) if self.delete_compares_a_prefix else tag == expect.tag
            if self.delete_compares_the_expiry:
                same = same and current is not None and current.expires_at == expect.expires_at
            if current is None or not same:
                self._leave(deadline)
                return False
        if self.delete_is_two_steps or (expect is not None and self.delete_looks_first):
            await asyncio.sleep(0)
        if expect is not None and self.delete_loses_to_a_touch:
            await asyncio.sleep(0)
            if self._get(key) is not current:
                return False
        self.records.pop(key, None)
        self._leave(deadline)
        await self._back(key, before, deadline)
        if self.repeats and self.repeated_delete_is_false:
            return False
        return found or self.delete_always_true

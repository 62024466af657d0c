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
    one_loop: bool = False
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

    async def open(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        self.closed = True
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
        return key.lower() if self.folds_case else key

    def _leave(self, deadline: float) -> None:
        if self.late_is_a_lie and time.monotonic() > deadline:
            raise StoreUnavailable("late", executed=False)

    def _get(self, key: str) -> Stored | None:
        stored = self.records.get(key)
        if stored is None or self.expires_never or self.expires_on_load_alone:
            return stored
        return stored if stored.expires_at > self.clock() else None

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
        self.before[key] = self.records.get(key)
        self.records[key] = Stored(data, data[:16], expires_at)

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        key = await self._enter(key, deadline)
        stored = self._get(key)
        if stored is not None and self.expires_on_load_alone and stored.expires_at <= self.clock():
            stored = None
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
        taken = self._get(key) is not None
        if self.create_is_two_steps:
            await asyncio.sleep(0)
        if taken and not self.create_overwrites:
            return TAKEN
        self._put(key, data, expires_at)
        self._leave(deadline)
        return Saved(bytes(16) if self.create_answers_another_tag else data[:16])

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        key = await self._enter(key, deadline)
        current = self._get(key)
        if self.save_is_two_steps:
            await asyncio.sleep(0)
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
        if not same and not self.save_ignores_the_tag:
            return Conflict(Stored(data, data[:16], expires_at) if self.conflict_without_news else current)
        self._put(key, data, current.expires_at if self.save_keeps_the_expiry else expires_at)
        self._leave(deadline)
        if self.wakes_at_every_save:
            self._wake(key, list(self.listeners))
        return Saved(data[:16])

    async def save_and_wake(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, wake: Sequence[str], deadline: float
    ) -> SaveResult:
        current = self._get(key)
        if self.waking_save_ignores_the_tag and current is not None:
            expect = current
        result = await self.save(key, data, expires_at, expect=expect, deadline=deadline)
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
        current = self._get(key)
        if current is None:
            if self.touch_creates:
                self._put(key, expect.data, expires_at)
            return self.touch_creates
        if current.tag != expect.tag and not self.touch_ignores_the_tag:
            return False
        if self.touch_writes_the_data_back:
            await asyncio.sleep(0)
        if self.touch_only_prolongs:
            expires_at = max(expires_at, current.expires_at)
        data = bytes(reversed(current.data)) if self.touch_changes_the_tag else current.data
        self._put(key, data, expires_at)
        self._leave(deadline)
        return True

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        key = await self._enter(key, deadline)
        current = self._get(key)
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
        self.records.pop(key, None)
        self._leave(deadline)
        return found or self.delete_always_true

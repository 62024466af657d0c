"""Verbs at the same time, verbs given up, and verbs that are late."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Coroutine
from typing import Any

from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, Conflict, Saved, Store, Stored
from asgi_session.testing._suite.base import HOUR, Record, Suite, new_data, seeded


class RaceTests(Suite):
    """Compare and write are one step, and nobody gets another's answer."""

    async def test_two_hundred_at_once_get_their_own_answers(self, store: Store) -> None:
        """Two hundred tasks, each on a record of its own, see only their own."""

        async def life(index: int) -> None:
            record, stored = await self.written(store, new_data(b"%d" % index * index))
            data = new_data(b"%d" % -index * index)
            result = await record.save(data, self.far(), stored)
            assert isinstance(result, Saved)
            assert (await record.get()).data == data
            conflict = await record.save(new_data(), self.far(), stored)
            assert isinstance(conflict, Conflict)
            assert conflict.current.data == data
            expires_at = self.far() + index
            assert await record.touch(expires_at, conflict.current)
            assert (await record.get()).expires_at == expires_at
            assert await record.delete()
            assert await record.load() is None

        await asyncio.gather(*map(life, range(self.rounds(200))))

    async def test_one_of_many_creates_wins(self, store: Store) -> None:
        """Of fifty creates of one key exactly one answers Saved, and its data is what is there."""
        record = self.record(store)
        datas = [new_data() for _ in range(50)]
        won = await asyncio.gather(*(record.create(data, self.far()) for data in datas))
        (winner,) = [i for i, result in enumerate(won) if isinstance(result, Saved)]
        assert (await record.get()).data == datas[winner]

    async def test_one_of_many_saves_wins(self, store: Store) -> None:
        """Of fifty saves that expect one version exactly one is done; the others are told of the winner."""
        record, stored = await self.written(store)
        datas = [new_data() for _ in range(50)]
        results = await asyncio.gather(*(record.save(data, self.far(), stored) for data in datas))
        winners = [i for i, result in enumerate(results) if isinstance(result, Saved)]
        assert len(winners) == 1
        current = await record.get()
        assert current.data == datas[winners[0]]
        losers = [result for result in results if not isinstance(result, Saved)]
        assert losers == [Conflict(current)] * 49

    async def test_one_of_many_deletes_wins(self, store: Store) -> None:
        """Of twenty deletes exactly one answers True."""
        record, _ = await self.written(store)
        assert sorted(await asyncio.gather(*(record.delete() for _ in range(20)))) == [False] * 19 + [True]

    async def test_nothing_in_flight_brings_a_deleted_record_back(self, store: Store) -> None:
        """A delete among saves and touches, in any order, leaves nothing."""
        rng = seeded(1)
        for _ in range(30):
            record, stored = await self.written(store)
            verbs: list[Coroutine[Any, Any, object]] = [
                *(record.save(new_data(), self.far(), stored) for _ in range(2)),
                *(record.touch(self.far() + HOUR, stored) for _ in range(2)),
            ]
            rng.shuffle(verbs)
            at = rng.randrange(len(verbs) + 1)
            verbs.insert(at, record.delete())
            results = await asyncio.gather(*verbs)
            assert results[at] is True
            assert await record.load() is None

    async def test_a_delete_of_one_version_does_not_undo_a_save(self, store: Store) -> None:
        """Of a save and a delete of the version that both expect one takes effect, never both."""
        for round_ in range(30):
            record, stored = await self.written(store)
            data = new_data()
            verbs: list[Coroutine[Any, Any, object]] = [record.save(data, self.far(), stored)]
            verbs.insert(round_ % 2, record.delete(stored))
            results = await asyncio.gather(*verbs)
            deleted, saved = results[round_ % 2], results[1 - round_ % 2]
            current = await record.load()
            if deleted:
                assert saved is GONE
                assert current is None
            else:
                assert isinstance(saved, Saved)
                assert current is not None and current.data == data

    async def test_a_touch_does_not_undo_a_save(self, store: Store) -> None:
        """Whatever order a save and touches take effect in, the saved data stays."""
        for round_ in range(30):
            record, stored = await self.written(store)
            data, expires_at = new_data(), self.far() + 1
            touches = [record.touch(self.far() + HOUR, stored) for _ in range(4)]
            verbs: list[Coroutine[Any, Any, object]] = [*touches]
            verbs.insert(round_ % 5, record.save(data, expires_at, stored))
            results = await asyncio.gather(*verbs)
            saved = results[round_ % 5]
            assert isinstance(saved, Saved), "a touch must not change the tag"
            # Not the touches' expiry either: they came before the save, or expected an older version.
            version = Stored(data, saved.tag, expires_at)
            assert await record.load() == version
            assert isinstance(await record.save(new_data(), self.far(), version), Saved)

    async def test_touches_do_not_hinder_who_knows_the_tag(self, store: Store) -> None:
        """The tag that a save has answered stays good while others touch the version that it made."""
        record, version = await self.written(store)
        for round_ in range(6):
            data = new_data()
            result, *_ = await asyncio.gather(
                record.save(data, self.far(), version),
                *(record.touch(self.far() + HOUR + i, version) for i in range(3)),
            )
            assert isinstance(result, Saved)
            made = Stored(data, result.tag, self.far())
            touched = await asyncio.gather(*(record.touch(self.far() + HOUR + i, made) for i in range(3)))
            assert touched == [True] * 3, f"round {round_}: a touch met another one"
            version = await record.get()
            assert (version.data, version.tag) == (data, result.tag)

    async def test_a_touch_does_not_stop_a_delete(self, store: Store) -> None:
        """A delete of a version that is being touched removes it: it is the same version."""
        for round_ in range(10):
            record, stored = await self.written(store)
            verbs = [record.touch(self.far() + HOUR + i, stored) for i in range(4)]
            verbs.insert(round_ % 5, record.delete(stored))
            results = await asyncio.gather(*verbs)
            assert results[round_ % 5] is True
            assert await record.load() is None

    async def test_who_loses_is_told_of_a_version_that_was_written(self, store: Store) -> None:
        """Savers that go on from what a conflict brings all get through, and each conflict is news."""
        other = self.another(store)
        try:
            for _ in range(4):
                record, first = await self.written(store)
                written = {first.data: first}

                async def save(saver: Record, version: Stored, written: dict[bytes, Stored]) -> bytes:
                    data, expires_at = new_data(), self.far()
                    written[data] = version  # from now on others may meet it
                    while not isinstance(result := await saver.save(data, expires_at, version), Saved):
                        assert isinstance(result, Conflict), result
                        assert result.current.data in written, "nobody has written that"
                        assert result.current.data != data, "a conflict with one's own write"
                        version = result.current
                    return version.data

                savers = [self.record(each, record.key) for each in (store, other) for _ in range(3)]
                followed = await asyncio.gather(*(save(saver, first, written) for saver in savers))
                assert len(set(followed)) == 6, "two saves have replaced one version"
                assert (await record.get()).data not in followed
        finally:
            if other is not store:
                await other.close()

    async def test_after_a_delete_there_is_only_gone(self, store: Store) -> None:
        """Savers and a delete at once: who comes after the delete is told GONE, not what was there before."""
        other = self.another(store)
        rng = seeded(6)
        try:
            for _ in range(6):
                record, first = await self.written(store)
                done = asyncio.Event()

                async def delete(record: Record, done: asyncio.Event) -> None:
                    assert await record.delete() is True
                    done.set()

                async def save(saver: Record, version: Stored, done: asyncio.Event) -> None:
                    while True:
                        late = done.is_set()
                        result = await saver.save(new_data(), self.far(), version)
                        assert not late or result is GONE, "it was deleted before this save began"
                        if not isinstance(result, Conflict):
                            break
                        version = result.current
                    if done.is_set():
                        assert await saver.save(new_data(), self.far(), version) is GONE

                verbs = [save(self.record(each, record.key), first, done) for each in (store, other) * 3]
                verbs.insert(rng.randrange(len(verbs) + 1), delete(record, done))
                await asyncio.gather(*verbs)
                assert await record.load() is None
                assert await self.record(other, record.key).load() is None
        finally:
            if other is not store:
                await other.close()

    async def test_a_load_sees_every_write_answered_before_it(self, store: Store) -> None:
        """Also with loads of the same record on their way all the time."""
        record, stored = await self.written(store)
        done = False

        async def keep_loading() -> None:
            while not done:
                await record.load()
                await asyncio.sleep(0)

        readers = [asyncio.create_task(keep_loading()) for _ in range(5)]
        try:
            for _ in range(self.rounds(100)):
                data = new_data()
                result = await record.save(data, self.far(), stored)
                stored = await record.get()
                assert isinstance(result, Saved)
                assert (stored.data, stored.tag) == (data, result.tag)
            assert await record.delete()
            assert await record.load() is None
        finally:
            done = True
            await asyncio.gather(*readers)

    async def test_cancelled_verbs_leave_the_store_in_step(self, store: Store) -> None:
        """Verbs cancelled at any moment disturb neither others in flight nor the ones that follow."""
        rng = seeded(2)
        records = [await self.written(store) for _ in range(8)]
        for _ in range(self.rounds(60)):
            tasks = [asyncio.create_task(record.load()) for record, _ in records for _ in range(2)]
            await _some_moments(rng)
            cancelled = {task for task in tasks if rng.random() < 0.5 and task.cancel()}
            async with asyncio.timeout(self.timeout + 1):
                results = await asyncio.gather(*tasks, return_exceptions=True)
            for index, (task, result) in enumerate(zip(tasks, results, strict=True)):
                expected = records[index // 2][1]
                assert result == expected or (
                    task in cancelled and isinstance(result, asyncio.CancelledError)
                )
        for record, stored in records:
            assert await record.load() == stored

    async def test_a_cancelled_write_was_carried_out_or_not(self, store: Store) -> None:
        """After a cancelled save the record is the old or the new one, and can be saved."""
        rng = seeded(3)
        record, stored = await self.written(store)
        for _ in range(self.rounds(60)):
            old, new = stored.data, new_data()
            task = asyncio.create_task(record.save(new, self.far(), stored))
            await _some_moments(rng)
            task.cancel()
            async with asyncio.timeout(self.timeout + 1):
                await asyncio.gather(task, return_exceptions=True)
            current = await record.get()
            assert current.data in (old, new)
            last = new_data()
            result = await record.save(last, self.far(), current)
            while isinstance(result, Conflict):  # the cancelled one came through only now
                assert result.current.data == new
                result = await record.save(last, self.far(), result.current)
            assert isinstance(result, Saved)
            stored = await record.get()
            assert stored.data == last

    async def test_cancelled_creates_and_deletes_leave_no_half_record(self, store: Store) -> None:
        """After a cancelled create or delete the whole record is there, or none is."""
        rng = seeded(4)
        for _ in range(self.rounds(30)):
            record, data = self.record(store), new_data(b"x" * 5000)
            for verb in (record.create(data, self.far()), record.delete()):
                task = asyncio.create_task(verb)
                await _some_moments(rng)
                task.cancel()
                async with asyncio.timeout(self.timeout + 1):
                    await asyncio.gather(task, return_exceptions=True)
                stored = await record.load()
                assert stored is None or stored.data == data

    async def test_a_deadline_that_is_over_ends_the_verb_at_once(self, store: Store) -> None:
        """It answers or raises StoreUnavailable without waiting; "not executed" is then the truth."""
        record, stored = await self.written(store)
        free, key, over = self.record(store), record.key, time.monotonic() - 1
        data, far = new_data(), self.far()

        async def unexecuted(verb: Awaitable[object]) -> bool:
            try:
                async with asyncio.timeout(2):
                    await verb
            except StoreUnavailable as error:
                return error.executed is False
            return False

        await unexecuted(store.load(key, deadline=over))
        if await unexecuted(store.create(free.key, data, far, deadline=over)):
            assert await free.load() is None
        if await unexecuted(store.touch(key, far + HOUR, expect=stored, deadline=over)):
            assert (await record.get()).expires_at == stored.expires_at
        if await unexecuted(store.save(key, data, far, expect=stored, deadline=over)):
            assert (await record.get()).data == stored.data
        if await unexecuted(store.delete(key, deadline=over)):
            await record.get()
        other, stored = await self.written(store)
        assert await other.load() == stored

    async def test_deadlines_that_end_on_the_way_leave_the_store_in_step(self, store: Store) -> None:
        """Verbs with hardly any time answer rightly or raise StoreUnavailable; the others don't notice."""
        rng = seeded(5)
        records = [await self.written(store) for _ in range(8)]

        async def check(index: int, deadline: float) -> None:
            record, stored = records[index]
            try:
                assert await store.load(record.key, deadline=deadline) == stored
            except StoreUnavailable:
                assert deadline < time.monotonic() + 1, "a verb with plenty of time must not give up"

        for _ in range(self.rounds(40)):
            now = time.monotonic()
            hurried = [check(i, now + rng.random() * 0.002) for i in range(8)]
            await asyncio.gather(*hurried, *(check(i, now + self.timeout) for i in range(8)))
        for record, stored in records:
            assert await record.load() == stored


async def _some_moments(rng: random.Random) -> None:
    """Let a verb come a random part of its way: none, a few turns of the loop, or into the network."""
    for _ in range(rng.randrange(6)):
        await asyncio.sleep(0)
    if rng.random() < 0.3:
        await asyncio.sleep(rng.random() * 0.001)

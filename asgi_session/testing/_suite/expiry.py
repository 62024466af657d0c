"""A record whose time has passed is a missing record, to every verb."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from asgi_session.store import GONE, TAKEN, Conflict, Saved, Store, Stored
from asgi_session.testing._suite.base import HOUR, Record, Suite, new_data, strange


class ExpiryTests(Suite):
    """Each verb meets an expired record first, before any other could have removed it."""

    async def _expired(self, store: Store) -> tuple[Record, Stored]:
        record, stored = await self.written(store)
        expires_at = self.soon()
        assert await record.touch(expires_at, stored)
        await self.pass_time(expires_at)
        return record, replace(stored, expires_at=expires_at)

    async def test_load_does_not_see_an_expired_record(self, store: Store) -> None:
        """A load answers None."""
        record, _ = await self._expired(store)
        assert await record.load() is None

    async def test_create_takes_the_key_of_an_expired_record(self, store: Store) -> None:
        """A create finds the key free."""
        record, _ = await self._expired(store)
        data, expires_at = new_data(), self.far()
        assert isinstance(await record.create(data, expires_at), Saved)
        stored = await record.get()
        assert (stored.data, stored.expires_at) == (data, expires_at)

    async def test_save_does_not_bring_back_an_expired_record(self, store: Store) -> None:
        """A save answers GONE, whether it expects that version, knows of its last touch, or another one."""
        for how in ("that version", "before the touch", "another"):
            record, version = await self._expired(store)
            match how:
                case "before the touch":
                    version = replace(version, expires_at=self.far())
                case "another":
                    version = strange()
                case _:
                    pass
            assert await record.save(new_data(), self.far(), version) is GONE, how
            assert await record.load() is None

    async def test_touch_does_not_bring_back_an_expired_record(self, store: Store) -> None:
        """A touch answers False."""
        record, version = await self._expired(store)
        assert await record.touch(self.far(), version) is False
        assert await record.load() is None

    async def test_delete_does_not_count_an_expired_record(self, store: Store) -> None:
        """A delete answers False: there was none."""
        record, _ = await self._expired(store)
        assert await record.delete() is False
        assert await record.load() is None

    async def test_a_created_record_expires(self, store: Store) -> None:
        """The expiry given to create is enforced."""
        record = self.record(store)
        expires_at = self.soon()
        assert isinstance(await record.create(new_data(), expires_at), Saved)
        await self.pass_time(expires_at)
        assert await record.load() is None

    async def test_a_save_may_shorten_the_life(self, store: Store) -> None:
        """The expiry given to save is enforced in place of the longer one before."""
        record, stored = await self.written(store)
        expires_at = self.soon()
        assert isinstance(await record.save(new_data(), expires_at, stored), Saved)
        await self.pass_time(expires_at)
        assert await record.load() is None

    async def test_touch_and_save_prolong_the_life(self, store: Store) -> None:
        """A record that was touched or saved in time outlives its first expiry."""
        expires_at = self.now() + 20 * self.short_ms
        touched, stored = await self.written(store, expires_at=expires_at)
        assert await touched.touch(self.far(), stored)
        saved, stored = await self.written(store, expires_at=expires_at)
        assert isinstance(await saved.save(new_data(), self.far(), stored), Saved)
        await self.pass_time(expires_at)
        await touched.get()
        await saved.get()

    async def test_a_past_expiry_ends_the_record(self, store: Store) -> None:
        """A save or touch whose expiry is past is done, and the record is gone; so with zero."""
        for past in (0, 1, self.now() - 1):
            record, stored = await self.written(store)
            assert isinstance(await record.save(new_data(), past, stored), Saved)
            assert await record.load() is None
            assert await record.save(new_data(), self.far(), stored) is GONE
            created = await record.create(new_data(), self.far())
            assert isinstance(created, Saved), "the key of an ended record must be free"
            stored = await record.get()
            assert await record.touch(past, stored) is True
            assert await record.load() is None
            assert await record.delete() is False

    async def test_a_past_expiry_that_loses_ends_nothing(self, store: Store) -> None:
        """A save, touch or create that would end the record does nothing when its condition fails."""
        record, stored = await self.written(store)
        wrong, past = strange(), self.now() - 1
        assert not isinstance(await record.save(new_data(), past, wrong), Saved)
        assert await record.touch(past, wrong) is False
        assert await record.create(new_data(), past) is TAKEN
        assert await record.load() == stored

    async def test_a_record_created_with_a_past_expiry_is_missing(self, store: Store) -> None:
        """The create answers that the key was free, and leaves it free."""
        record = self.record(store)
        for past in (0, 1, self.now() - 1):
            assert isinstance(await record.create(new_data(), past), Saved)
            assert await record.load() is None
        data, expires_at = new_data(), self.far()
        assert isinstance(await record.create(data, expires_at), Saved)
        stored = await record.get()
        assert stored == Stored(data, stored.tag, expires_at)

    async def test_a_record_lives_until_its_time(self, store: Store) -> None:
        """An expiry is not rounded down: each verb finds the record up to its last millisecond."""
        for verb in ("load", "create", "save", "touch", "delete"):
            for _ in range(20):  # a machine may be too slow for so short a life
                record, stored = await self.written(store)
                expires_at = self.soon()
                found: object = await record.touch(expires_at, stored)
                assert found is True
                match verb:
                    case "load":
                        found = await record.load() == replace(stored, expires_at=expires_at)
                    case "create":
                        found = await record.create(new_data(), self.far()) is TAKEN
                    case "save":
                        found = isinstance(await record.save(new_data(), self.far(), stored), Saved)
                    case "touch":
                        found = await record.touch(self.far(), stored)
                    case _:
                        found = await record.delete()
                if found or self.now() < expires_at - self.slack_ms:
                    assert found is True, f"{verb} did not find a record whose time had not passed"
                    break

    async def test_an_expired_version_does_not_come_back(self, store: Store) -> None:
        """After its time, and a create, a record's version is another one to save, touch and delete."""
        record, first = await self._expired(store)
        assert isinstance(await record.create(new_data(), self.far()), Saved)
        second = await record.get()
        assert second.tag != first.tag
        assert await record.save(new_data(), self.far(), first) == Conflict(second)
        assert await record.touch(self.far() + HOUR, first) is False
        assert await record.delete(first) is False
        assert await record.load() == second

    async def test_one_of_many_creates_follows_an_expired_record(self, store: Store) -> None:
        """Of twenty creates at once exactly one takes the place, and no save or touch revives the old one."""
        for _ in range(2):
            record, version = await self._expired(store)
            datas = [new_data() for _ in range(20)]
            creates = [record.create(data, self.far()) for data in datas]
            saves = [record.save(new_data(), self.far(), version) for _ in range(5)]
            touches = [record.touch(self.far() + HOUR, version) for _ in range(5)]
            created, saved, touched = await asyncio.gather(
                asyncio.gather(*creates), asyncio.gather(*saves), asyncio.gather(*touches)
            )
            (winner,) = [i for i, result in enumerate(created) if isinstance(result, Saved)]
            current = await record.get()
            assert current.data == datas[winner]
            assert all(result in (GONE, Conflict(current)) for result in saved), saved
            assert touched == [False] * 5

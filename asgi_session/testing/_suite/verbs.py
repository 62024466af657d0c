"""What each verb answers, and that it keeps every byte."""

from __future__ import annotations

import random

from msgspec.structs import replace

from asgi_session.store import GONE, TAKEN, Conflict, Saved, SaveResult, Store, Stored
from asgi_session.testing._suite.base import HOUR, Record, Suite, new_data, seeded, strange


class VerbTests(Suite):
    """One verb after the other, no time passing."""

    async def test_load_of_a_missing_record_answers_none(self, store: Store) -> None:
        """A missing record is an answer, never an error."""
        assert await self.record(store).load() is None

    async def test_create_writes_what_load_returns(self, store: Store) -> None:
        """The data comes back as written, as bytes, with its expiry exact to the millisecond and a tag."""
        record = self.record(store)
        data, expires_at = new_data(), self.now() + 123_456_789
        assert isinstance(await record.create(data, expires_at), Saved)
        stored = await record.get()
        assert type(stored) is Stored
        assert type(stored.data) is bytes
        assert type(stored.tag) is bytes
        assert (stored.data, stored.expires_at) == (data, expires_at)
        assert 0 < len(stored.tag) <= 255
        assert await record.load() == stored, "loading twice must give the same"

    async def test_create_leaves_a_taken_key_alone(self, store: Store) -> None:
        """A create on a taken key answers TAKEN and changes neither data nor expiry."""
        record, stored = await self.written(store)
        assert await record.create(new_data(), self.far() + HOUR) is TAKEN
        assert await record.load() == stored

    async def test_create_answers_the_tag(self, store: Store) -> None:
        """The tag in a create's answer is the one that load finds, and good for every next write."""
        for write in ("save", "touch", "delete"):
            record, data, expires_at = self.record(store), new_data(), self.far()
            created = await record.create(data, expires_at)
            assert isinstance(created, Saved)
            version = Stored(data, created.tag, expires_at)
            match write:
                case "save":
                    assert isinstance(await record.save(new_data(), self.far(), version), Saved)
                case "touch":
                    assert await record.touch(self.far() + HOUR, version) is True
                case _:
                    assert await record.load() == version
                    assert await record.delete(version) is True

    async def test_save_replaces_the_record(self, store: Store) -> None:
        """A save with the right tag replaces data and expiry, and answers the new tag."""
        record, first = await self.written(store)
        data, expires_at = new_data(b"another, longer body"), self.now() + 2 * HOUR + 7
        result = await record.save(data, expires_at, first)
        assert isinstance(result, Saved)
        assert result.tag != first.tag
        assert await record.load() == Stored(data, result.tag, expires_at)

    async def test_saves_follow_one_another_by_the_answered_tag(self, store: Store) -> None:
        """The tag in a save's answer is what the next one must expect; every one is new."""
        record, version = await self.written(store)
        tags = [version.tag]
        for size in (100, 0, 1000, 1):
            data, expires_at = new_data(b"x" * size), self.far() + size
            result = await record.save(data, expires_at, version)
            assert isinstance(result, Saved)
            version = Stored(data, result.tag, expires_at)
            tags.append(result.tag)
        assert len(set(tags)) == len(tags)

    async def test_save_with_an_old_tag_is_a_conflict(self, store: Store) -> None:
        """A save that expects an old version writes nothing, and brings the current one, for the next try."""
        record, first = await self.written(store)
        assert isinstance(await record.save(new_data(), self.far() + 5, first), Saved)
        current = await record.get()
        result = await record.save(new_data(), self.far(), first)
        assert isinstance(result, Conflict)
        assert result.current == current
        assert result.current.tag != first.tag, "a conflict with the very version that was expected"
        assert await record.load() == current
        assert isinstance(await record.save(new_data(), self.far(), result.current), Saved)

    async def test_save_compares_the_whole_version(self, store: Store) -> None:
        """A version whose tag is shorter, longer, empty or off by one bit, data alike, is another one."""
        record, stored = await self.written(store)
        tag = stored.tag
        flipped = tag[:-1] + bytes([tag[-1] ^ 1])
        for wrong in (b"", tag[:-1], tag + b"\0", flipped, bytes(len(tag)), stored.data):
            if wrong == tag:  # data of a store whose tags are that long
                continue
            # Such a version never was. Its data differs where its tag does, as a real one's would.
            version = Stored(wrong + stored.data[16:], wrong, stored.expires_at)
            result = await record.save(new_data(), self.far(), version)
            assert isinstance(result, Conflict), f"{wrong!r} passed for {tag!r}"
            assert not await record.touch(self.far() + HOUR, version), f"{wrong!r} passed for {tag!r}"
            assert not await record.delete(version), f"{wrong!r} passed for {tag!r}"
            assert await record.load() == stored

    async def test_save_never_creates(self, store: Store) -> None:
        """A save of a record that never was, or was deleted, answers GONE and writes nothing."""
        never = self.record(store)
        assert await never.save(new_data(), self.far(), strange()) is GONE
        assert await never.load() is None
        deleted, stored = await self.written(store)
        assert await deleted.delete()
        assert await deleted.save(new_data(), self.far(), stored) is GONE
        assert await deleted.load() is None

    async def test_touch_changes_the_expiry_alone(self, store: Store) -> None:
        """A touch, to later or to sooner, keeps data and tag; a save of that version still succeeds."""
        record, stored = await self.written(store)
        for expires_at in (stored.expires_at + HOUR + 1, stored.expires_at - HOUR // 2 + 1):
            assert await record.touch(expires_at, stored) is True
            assert await record.load() == replace(stored, expires_at=expires_at)
        assert isinstance(await record.save(new_data(), self.far(), stored), Saved)

    async def test_a_touch_is_no_conflict(self, store: Store) -> None:
        """Who expects the version from before a touch, or from after it, saves, touches and deletes it."""
        for knows_of_it in (False, True):
            for write in ("save", "touch", "delete"):
                record, stored = await self.written(store)
                expires_at = stored.expires_at + HOUR
                assert await record.touch(expires_at, stored) is True
                version = replace(stored, expires_at=expires_at) if knows_of_it else stored
                match write:
                    case "save":
                        assert isinstance(await record.save(new_data(), self.far(), version), Saved)
                    case "touch":
                        assert await record.touch(expires_at + 1, version) is True
                        assert await record.load() == replace(stored, expires_at=expires_at + 1)
                    case _:
                        assert await record.delete(version) is True

    async def test_touch_with_an_old_tag_changes_nothing(self, store: Store) -> None:
        """A touch that has lost answers False."""
        record, first = await self.written(store)
        await record.save(new_data(), self.far(), first)
        current = await record.get()
        assert await record.touch(self.far() + HOUR, first) is False
        assert await record.load() == current

    async def test_touch_never_creates(self, store: Store) -> None:
        """A touch of a record that never was, or was deleted, answers False and writes nothing."""
        never = self.record(store)
        assert await never.touch(self.far(), strange()) is False
        assert await never.load() is None
        deleted, stored = await self.written(store)
        assert await deleted.delete()
        assert await deleted.touch(self.far(), stored) is False
        assert await deleted.load() is None

    async def test_delete_tells_whether_there_was_one(self, store: Store) -> None:
        """A delete answers True once, then False; the key is free again."""
        record, _ = await self.written(store)
        assert await record.delete() is True
        assert await record.load() is None
        assert await record.delete() is False
        assert isinstance(await record.create(new_data(), self.far()), Saved)

    async def test_delete_of_one_version_leaves_another_alone(self, store: Store) -> None:
        """Given a version, a delete removes that one, also after a touch, and answers False for any other."""
        record, first = await self.written(store)
        result = await record.save(new_data(), self.far(), first)
        assert isinstance(result, Saved)
        version = await record.get()
        assert await record.delete(first) is False
        assert await record.load() == version
        assert await record.touch(self.far() + HOUR, version)
        assert await record.delete(version) is True
        assert await record.load() is None
        assert await record.delete(version) is False
        never = self.record(store)
        assert await never.delete(strange()) is False
        assert await never.load() is None

    async def test_a_version_does_not_outlive_its_record(self, store: Store) -> None:
        """After delete and create, the first record's version gives a conflict with the second."""
        record, first = await self.written(store)
        await record.delete()
        assert isinstance(await record.create(new_data(), self.far()), Saved)
        second = await record.get()
        assert second.tag != first.tag
        assert await record.save(new_data(), self.far(), first) == Conflict(second)
        assert await record.touch(self.far() + HOUR, first) is False
        assert await record.delete(first) is False
        assert await record.load() == second

    async def test_keys_are_told_apart(self, store: Store) -> None:
        """Keys that differ in case, or in one of - and _, are different keys."""
        stem = self.record(store).key[:20]
        ends = ("aa", "aA", "Aa", "AA", "-a", "_a", "a-", "a_", "--", "__")
        records = [self.record(store, stem + end) for end in ends]
        records += [self.record(store, begin + stem) for begin in ("aa", "Aa", "AA", "--", "__", "-_")]
        data = {record.key: new_data(record.key.encode()) for record in records}
        for record in records:
            created = await record.create(data[record.key], self.far())
            assert isinstance(created, Saved), f"{record.key} is taken"
        assert await records[0].delete()
        assert await records[0].load() is None
        for record in records[1:]:
            assert (await record.get()).data == data[record.key]

    async def test_every_byte_is_kept(self, store: Store) -> None:
        """Data may hold any bytes, at any place, from its 16 first bytes alone to the largest size."""
        record = self.record(store)
        bodies = [
            *(b"", b"\0", b"\xff", b"\r\n", b"'\"\\%;--", b"\0" * 100, bytes(range(256)) * 2),
            *(seeded(size).randbytes(size) for size in (1, 239, 240, 4096, 65_519, 65_520, 65_536)),
            b"z" * (self.largest - 16),
        ]
        for body in bodies:
            data = new_data(body)
            assert isinstance(await record.create(data, self.far()), Saved)
            stored = await record.get()
            assert stored.data == data, f"create changed a body of {len(body)} bytes"
            data = new_data(body)
            assert isinstance(await record.save(data, self.far(), stored), Saved)
            assert (await record.get()).data == data, f"save changed a body of {len(body)} bytes"
            conflict = await record.save(new_data(), self.far(), stored)
            assert isinstance(conflict, Conflict)
            assert conflict.current.data == data, f"a conflict changed a body of {len(body)} bytes"
            assert await record.delete()

    async def test_the_first_bytes_may_be_any(self, store: Store) -> None:
        """Also the 16 bytes a tag is made of are any bytes: zeros, line ends, digits, invalid UTF-8."""
        for first in (bytes(16), b"\xff" * 16, b"\r\n" * 8, b"1234567890123456", b"\xc3\x28" * 8, b" " * 16):
            record, stored = await self.written(store, first)
            assert stored.data == first
            assert await record.touch(self.far() + HOUR, stored)
            assert isinstance(await record.save(new_data(), self.far(), stored), Saved)
            assert isinstance(await record.save(first + b"!", self.far(), stored), Conflict)

    async def test_expiries_far_away_are_exact(self, store: Store) -> None:
        """An expiry is returned to the millisecond, whichever verb wrote it, centuries away or near."""
        record, stored = await self.written(store)
        day = 24 * HOUR
        for offset in (HOUR + 1, 14 * day + 999, 31 * day + 1, 400 * day + 3, 36_500 * day + 7):
            expires_at = self.now() + offset
            assert await record.touch(expires_at, stored)
            assert (await record.get()).expires_at == expires_at
            result = await record.save(new_data(), expires_at + 1, stored)
            assert isinstance(result, Saved)
            stored = await record.get()
            assert stored.expires_at == expires_at + 1

    async def test_random_verbs_agree_with_a_model(self, store: Store) -> None:
        """Many random verbs on a few keys, three times: every answer is what a dict would give."""
        for seed in (1, 2, 3):
            rng = seeded(seed)
            records = [self.record(store) for _ in range(4)]
            model: dict[str, Stored] = {}
            versions = {record.key: [strange()] for record in records}
            for step in range(self.steps):
                record = rng.choice(records)
                await self._step(rng, record, model, versions[record.key], f"seed {seed}, step {step}")

    async def test_random_verbs_by_two_store_objects_agree_with_a_model(self, store: Store) -> None:
        """Two hundred verbs on a few keys, by two processes in turn: each sees what the other has done."""
        other = self.another(store)
        try:
            rng = seeded(4)
            records = [self.record(store) for _ in range(3)]
            model: dict[str, Stored] = {}
            versions = {record.key: [strange()] for record in records}
            for step in range(self.rounds(200)):
                record = rng.choice(records)
                record.store = rng.choice((store, other))
                await self._step(rng, record, model, versions[record.key], f"step {step}")
                for each in (store, other):
                    found = await self.record(each, record.key).load()
                    assert found == model.get(record.key), f"step {step}: one of the two does not know"
        finally:
            if other is not store:
                await other.close()

    async def _step(
        self, rng: random.Random, record: Record, model: dict[str, Stored], versions: list[Stored], where: str
    ) -> None:
        known = model.get(record.key)
        ends = rng.random() < 0.1
        expires_at = self.now() - rng.randrange(1, HOUR) if ends else self.far() + rng.randrange(HOUR)
        data = rng.randbytes(rng.randrange(16, 2000))
        expect = known if known is not None and rng.random() < 0.6 else rng.choice(versions)
        matches = known is not None and known.tag == expect.tag
        written = False
        match rng.choice(("load", "create", "save", "touch", "delete", "delete one version")):
            case "create":
                written = known is None
                created = await record.create(data, expires_at)
                assert isinstance(created, Saved) if written else created is TAKEN, where
            case "save":
                written = matches
                _check_save(await record.save(data, expires_at, expect), known, expect, where)
            case "touch":
                written = matches
                assert await record.touch(expires_at, expect) is matches, where
                data = known.data if known is not None else data
            case "delete":
                assert await record.delete() is (known is not None), where
                model.pop(record.key, None)
            case "delete one version":
                assert await record.delete(expect) is matches, where
                if matches:
                    model.pop(record.key, None)
            case _:
                pass
        stored = await record.load()
        if written and ends:
            model.pop(record.key, None)
        elif written:
            assert stored is not None, where
            assert (stored.data, stored.expires_at) == (data, expires_at), where
            model[record.key] = stored
            versions.append(stored)
        assert stored == model.get(record.key), where


def _check_save(result: SaveResult, known: Stored | None, expect: Stored, where: str) -> None:
    if known is None:
        assert result is GONE, where
    elif known.tag == expect.tag:
        assert isinstance(result, Saved), where
    else:
        assert isinstance(result, Conflict), where
        assert result.current == known, where
        assert result.current.tag != expect.tag, where

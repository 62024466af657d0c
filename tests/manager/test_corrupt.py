"""Promise 10: what the store answers and nobody can read fails whoever asks, and stays as it is."""

from __future__ import annotations

import pytest

from asgi_session import SessionCorrupt
from tests.inside import MAX_TIME, changed, decoded, encoded, is_committing
from tests.manager.kit import World, soon


@pytest.mark.parametrize("how", ["conflict", "refresh"])
async def test_another_sessions_record(how: str) -> None:
    """An answer that is another session's record is SessionCorrupt, and its connection is dropped."""
    world = World()
    token, other = await world.new(), await world.new(secret="theirs")
    session = await world.load(token)
    wrong = await world.memory.load(other[:22], deadline=soon())
    assert wrong is not None
    await world.memory.delete(token[:22], deadline=soon())
    await world.memory.create(token[:22], wrong.data, wrong.expires_at, deadline=soon())
    session["mine"] = 1
    with pytest.raises(SessionCorrupt):
        await (session.commit() if how == "conflict" else session.refresh())
    assert world.store.distrusted == [token[:22]]
    assert "secret" not in session
    stored = await world.memory.load(token[:22], deadline=soon())
    assert stored is not None
    assert stored.data == wrong.data, "it stays as it is"


async def test_unreadable_bytes_in_a_conflict() -> None:
    """Promise 10: a conflict with bytes that cannot be read fails the commit, and they stay."""
    world = World()
    token = await world.new()
    session = await world.load(token)
    await world.memory.delete(token[:22], deadline=soon())
    await world.memory.create(token[:22], b"x" * 40, world.clock() + 1000, deadline=soon())
    session["mine"] = 1
    with pytest.raises(SessionCorrupt, match=token[:22]):
        await session.commit()
    assert not is_committing(session)
    stored = await world.memory.load(token[:22], deadline=soon())
    assert stored is not None
    assert stored.data == b"x" * 40


@pytest.mark.parametrize(
    "change",
    [{"version": 2**64 - 1}, {"created": MAX_TIME + 1}, {"deadline": MAX_TIME + 1}],
)
async def test_numbers_out_of_range_are_corrupt(change: dict[str, int]) -> None:
    """Promise 10: a record whose numbers nothing can work with is corrupt, not a crash later on."""
    world = World()
    token = await world.new()
    record = await world.record(token)
    assert record is not None
    with pytest.raises(SessionCorrupt, match="out of range"):
        decoded(encoded(changed(record, **change)))

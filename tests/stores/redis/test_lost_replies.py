"""What is known, and said, about a command whose reply was lost."""

from __future__ import annotations

import pytest

from asgi_session.errors import StoreUnavailable
from asgi_session.store import Conflict, Saved
from asgi_session.stores.redis import RedisStore
from tests.servers import LossyProxy, ServerProcess, named, saves
from tests.stores.redis.load import in_an_hour, record, save_surely, soon, version

KEY = "k" * 22


@pytest.fixture(params=["valkey", "redis62"])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    """One that compares by itself, and one that needs the script."""
    found: ServerProcess = request.getfixturevalue(request.param)
    return found


async def test_a_load_is_repeated(server: ServerProcess) -> None:
    """Reading twice is the same as once."""
    async with LossyProxy(server) as proxy:
        store = RedisStore.from_url(proxy.url)
        data = record()
        await store.create(KEY, data, in_an_hour(), deadline=soon())
        proxy.cut_after(named("get"))
        proxy.cut_before(named("get"), nth=2)
        found = await store.load(KEY, deadline=soon())
        assert found is not None
        assert found.data == data
        await store.close()


@pytest.mark.parametrize("cut", ["cut_after", "cut_before"])
async def test_a_write_is_not_repeated(server: ServerProcess, cut: str) -> None:
    """Promise 7: written and unanswered, a write may have been executed: the store says so at once."""
    async with LossyProxy(server) as proxy:
        store = RedisStore.from_url(proxy.url)
        first, second = record("1"), record("2")
        await store.create(KEY, first, in_an_hour(), deadline=soon())
        await store.save(KEY, first, in_an_hour(), expect=version(first), deadline=soon())
        lost = getattr(proxy, cut)(saves)
        with pytest.raises(StoreUnavailable) as caught:
            await store.save(KEY, second, in_an_hour(), expect=version(first), deadline=soon())
        assert caught.value.executed is None
        assert lost.is_set()
        again = await store.save(KEY, second, in_an_hour(), expect=version(first), deadline=soon())
        if cut == "cut_after":
            assert isinstance(again, Conflict)
            assert again.current.data == second, "it had been executed"
        else:
            assert again == Saved(second[:16])
        for verb in ("create", "touch", "delete"):
            getattr(proxy, cut)(named({"create": "set", "touch": "evalsha", "delete": "del"}[verb]))
            with pytest.raises(StoreUnavailable) as caught:
                if verb == "create":
                    await store.create(KEY, first, in_an_hour(), deadline=soon())
                elif verb == "touch":
                    await store.touch(KEY, in_an_hour(), expect=version(second), deadline=soon())
                else:
                    await store.delete(KEY, deadline=soon())
            assert caught.value.executed is None, verb
        await store.close()


async def test_sending_the_same_bytes_again_is_safe(server: ServerProcess) -> None:
    """Promise 7: what the manager does after an unknown outcome applies the save once."""
    async with LossyProxy(server) as proxy:
        store = RedisStore.from_url(proxy.url)
        data = record("0")
        await store.create(KEY, data, in_an_hour(), deadline=soon())
        for number in range(1, 8):
            following = record(str(number))
            getattr(proxy, "cut_after" if number % 2 else "cut_before")(saves)
            assert await save_surely(store, KEY, following, version(data), soon()) == Saved(following[:16])
            data = following
        await store.close()


async def test_a_held_reply_times_out_and_keeps_the_connection(server: ServerProcess) -> None:
    """A save whose reply is late is of unknown outcome; the late reply is nobody else's."""
    async with LossyProxy(server) as proxy:
        store = RedisStore.from_url(proxy.url, timeout=0.3)
        first, second = record("1"), record("2")
        await store.create(KEY, first, in_an_hour(), deadline=soon())
        hold = proxy.hold(saves)
        with pytest.raises(StoreUnavailable) as caught:
            await store.save(KEY, second, in_an_hour(), expect=version(first), deadline=soon())
        assert caught.value.executed is None
        assert hold.reached.is_set()
        connections = proxy.connections
        hold.release()
        found = await store.load(KEY, deadline=soon())
        assert found is not None
        assert found.data in (first, second)
        assert proxy.connections == connections
        await store.close()

"""Verbs cancelled at each of their awaits, one run for each: on a connection in use, and on a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from asgi_session.store import Saved, Store, Stored
from tests.stores.every.kinds import Kind, over
from tests.stores.every.site import IN_AN_HOUR, Site, new_data, new_key, soon
from tests.stores.every.stepping import Cancelled

LIMIT = 200
"""More suspensions than any verb has."""

Verb = Callable[[Store, str, Stored, bytes], Coroutine[Any, Any, Any]]

VERBS: dict[str, Verb] = {
    "load": lambda store, key, old, new: store.load(key, deadline=soon()),
    "create": lambda store, key, old, new: store.create(key, new, IN_AN_HOUR, deadline=soon()),
    "save": lambda store, key, old, new: store.save(key, new, IN_AN_HOUR, expect=old, deadline=soon()),
    "touch": lambda store, key, old, new: store.touch(key, IN_AN_HOUR + 5, expect=old, deadline=soon()),
    "delete": lambda store, key, old, new: store.delete(key, expect=old, deadline=soon()),
}


async def written(store: Store, key: str) -> Stored:
    """Create a record and load it."""
    assert isinstance(await store.create(key, new_data(), IN_AN_HOUR, deadline=soon()), Saved)
    stored = await store.load(key, deadline=soon())
    assert stored is not None
    return stored


async def check_works(store: Store, key: str) -> None:
    """Write the record anew, whatever is there, and read it. What was cancelled may still be on its way."""
    data = new_data()
    async with asyncio.timeout(10):
        while True:
            stored = await store.load(key, deadline=soon())
            if stored is None:
                answer = await store.create(key, data, IN_AN_HOUR, deadline=soon())
            else:
                answer = await store.save(key, data, IN_AN_HOUR, expect=stored, deadline=soon())
            if isinstance(answer, Saved):
                break
    found = await store.load(key, deadline=soon())
    assert found is not None
    assert found.data == data


async def check_cancelled(store: Store, name: str, nth: int, *, late: bool) -> bool:
    """Carry out a verb, cancelled at that suspension; whether it has as many."""
    key = new_key()
    before = Stored(b"", b"", 0) if name == "create" else await written(store, key)
    await store.load(key, deadline=soon())
    data = new_data()
    stepped = Cancelled(VERBS[name](store, key, before, data), nth, late=late)
    assert await stepped.run() is stepped.reached, "it is cancelled, and says nothing else"
    found = await store.load(key, deadline=soon())
    if name in ("create", "delete") and found is None:
        pass
    else:
        assert found is not None
        assert found.data in ({"create": (data,), "save": (before.data, data)}.get(name, (before.data,)))
        assert found.expires_at in (IN_AN_HOUR, IN_AN_HOUR + 5 * (name == "touch"))
    await check_works(store, key)
    return stepped.reached


@over()
@pytest.mark.parametrize("late", [False, True], ids=["while it waits", "as it is done"])
async def test_at_every_await(kind: Kind, site: Site, late: bool) -> None:
    """Cancelled anywhere, a verb was carried out or was not, and the next ones work."""
    store = site.store()
    for name in VERBS:
        for nth in range(LIMIT):
            if not await check_cancelled(store, name, nth, late=late):
                break
        else:
            raise AssertionError(f"{name} does not end")


@over()
async def test_while_it_connects(kind: Kind, site: Site) -> None:
    """Cancelled while it makes the store's first connection, a verb leaves a store that makes another."""
    key = new_key()
    first = site.store()
    for nth in range(LIMIT):
        store = site.store()
        stepped = Cancelled(store.load(key, deadline=soon()), nth, late=bool(nth % 2))
        assert await stepped.run() is stepped.reached
        await check_works(store, key)
        await store.close()
        if not stepped.reached:
            break
    if kind.shared is not None:
        await check_works(first, key)

"""Round trips of each verb, counted by a proxy: ``python -m tests.stores.every.trips`` prints the table.

They are counted on a connection that is in use already, after each verb was carried out once: connecting,
signing in and preparing statements cost more, once. "Touched" means that another process has changed the
expiry since the version was loaded; the load that a conflict is answered with is part of the save.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from asgi_session.store import GONE, TAKEN, Conflict, Saved, Store, Stored
from tests.servers import TcpProxy
from tests.stores.every.kinds import ALL, CASES, Kind
from tests.stores.every.site import IN_AN_HOUR, new_data, new_key, soon


async def measure(proxy: TcpProxy, store: Store, other: Store) -> dict[str, int]:
    """Return the round trips of each case.

    Args:
        proxy: between `store` and its server.
        store: whose verbs are counted, one at a time.
        other: the same records, as another process has them.
    """
    found: dict[str, int] = {}

    async def count(case: str, verb: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        before = proxy.trips
        answer = await verb()
        found[case] = proxy.trips - before
        return answer

    key, first, second = new_key(), new_data(), new_data()
    assert await count("load, missing", lambda: store.load(key, deadline=soon())) is None
    created = await count("create", lambda: store.create(key, first, IN_AN_HOUR, deadline=soon()))
    assert isinstance(created, Saved)
    taken = await count("create, taken", lambda: store.create(key, second, IN_AN_HOUR, deadline=soon()))
    assert taken is TAKEN
    stored = await count("load", lambda: store.load(key, deadline=soon()))
    assert stored is not None
    assert stored.data == first
    touched = await count("touch", lambda: store.touch(key, IN_AN_HOUR + 1, expect=stored, deadline=soon()))
    assert touched is True
    known = await loaded(store, key)
    saved = await count("save", lambda: store.save(key, second, IN_AN_HOUR, expect=known, deadline=soon()))
    assert isinstance(saved, Saved)
    known = await loaded(store, key)
    assert await other.touch(key, IN_AN_HOUR + 1, expect=known, deadline=soon())
    saved = await count(
        "save, touched", lambda: store.save(key, first, IN_AN_HOUR, expect=known, deadline=soon())
    )
    assert isinstance(saved, Saved)
    known = await loaded(store, key)
    assert isinstance(await other.save(key, new_data(), IN_AN_HOUR, expect=known, deadline=soon()), Saved)
    late = await count(
        "save, conflict", lambda: store.save(key, new_data(), IN_AN_HOUR, expect=known, deadline=soon())
    )
    assert isinstance(late, Conflict)
    known = late.current
    assert await other.delete(key, deadline=soon())
    gone = await count(
        "save, gone", lambda: store.save(key, new_data(), IN_AN_HOUR, expect=known, deadline=soon())
    )
    assert gone is GONE
    assert isinstance(await store.create(key, first, IN_AN_HOUR, deadline=soon()), Saved)
    assert await count("delete", lambda: store.delete(key, deadline=soon()))
    return found


async def loaded(store: Store, key: str) -> Stored:
    """Load what must be there."""
    stored = await store.load(key, deadline=soon())
    assert stored is not None
    return stored


def table(kinds: Iterable[Kind] = ALL) -> str:
    """Return the expected round trips as a Markdown table."""
    rows: list[Sequence[object]] = [("store", *CASES), ("---", *("---:" for _ in CASES))]
    for kind in kinds:
        if kind.trips is not None:
            title = f"{kind.title} ({kind.emulator})" if kind.emulator else kind.title
            rows.append((title, *(kind.trips[case] for case in CASES)))
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


if __name__ == "__main__":
    print(table())

"""Replies and requests lost at every round trip of every write, the client's own repeats on and off."""

from __future__ import annotations

from typing import Any

import pytest

from asgi_session import Session, SessionManager
from asgi_session.errors import SessionConflict, StoreUnavailable
from asgi_session.merging import counter
from asgi_session.store import Saved, Store, Stored
from tests.inside import credential, new_session
from tests.servers import TcpProxy
from tests.stores.every.kinds import Kind, on_the_wire, over
from tests.stores.every.site import IN_AN_HOUR, Site, new_data, new_key, soon

TRIPS = 20
"""More round trips than any write has, with connecting again and its repeats."""


class Write:
    """A write of one record, and whether it is seen in what is stored.

    Attributes:
        done: what it answers when it was carried out.
    """

    def __init__(self, name: str, old: Stored | None) -> None:
        self.name = name
        self.old = old
        self.new = new_data()
        self.done: Any = Saved if name in ("create", "save") else True

    async def run(self, store: Store, key: str) -> Any:
        match self.name, self.old:
            case "create", _:
                return await store.create(key, self.new, IN_AN_HOUR, deadline=soon())
            case "save", Stored() as old:
                return await store.save(key, self.new, IN_AN_HOUR, expect=old, deadline=soon())
            case "touch", Stored() as old:
                return await store.touch(key, IN_AN_HOUR + 5, expect=old, deadline=soon())
            case "delete", _:
                return await store.delete(key, deadline=soon())
            case _:
                return await store.delete(key, expect=self.old, deadline=soon())

    def is_seen(self, found: Stored | None) -> bool:
        """Whether it was carried out, by what lies there now: nothing but the old or the new record may."""
        if self.name == "create":
            assert found is None or found.data == self.new
            return found is not None
        if self.name.startswith("delete"):
            assert found is None or found == self.old
            return found is None
        assert found is not None and self.old is not None
        if self.name == "touch":
            assert found.data == self.old.data
            return found.expires_at == IN_AN_HOUR + 5
        assert found.data in (self.old.data, self.new)
        return found.data == self.new


@over(on_the_wire)
@pytest.mark.parametrize("lost", ["reply", "request"])
async def test_writes(kind: Kind, site: Site, proxy: TcpProxy, lost: str) -> None:
    """Promise 7: carried out and said so, or not known: never called done, or not done, when it is not so."""
    near = site.store()
    for options in kind.repeats.values():
        for name in ("create", "save", "touch", "delete", "delete of a version"):
            for nth in range(1, TRIPS):
                store = site.store(port=proxy.port, **options)
                key, old = new_key(), None
                if name != "create":
                    await store.create(key, new_data(), IN_AN_HOUR, deadline=soon())
                old = await store.load(key, deadline=soon())  # what it has to know, it knows
                write = Write(name, old)
                cut = proxy.cut_after(nth=nth) if lost == "reply" else proxy.cut_before(nth=nth)
                answer: Any
                try:
                    answer = await write.run(store, key)
                except StoreUnavailable as error:
                    answer = error
                proxy.cut_no_more()
                seen = write.is_seen(await near.load(key, deadline=soon()))
                told = f"{name}, {lost} of trip {nth}, {options}: {answer!r}, and it was done: {seen}"
                if isinstance(answer, StoreUnavailable):
                    assert cut.done.is_set(), told
                    assert answer.executed is None or (answer.executed is False and not seen), told
                else:
                    assert isinstance(answer, Saved) if write.done is Saved else answer is True, told
                    assert seen, told
                await near.load(key, deadline=soon())
                await store.load(key, deadline=soon())  # all is well
                await store.close()
                site.made.remove(store)
                if not cut.done.is_set():
                    break
            else:
                raise AssertionError(f"{name} has more than {TRIPS} round trips")


def is_unsure(error: SessionConflict | StoreUnavailable) -> bool:
    """Tell whether a commit may have been carried out; a conflict must say so, for nothing else is one."""
    return error.executed is not False if isinstance(error, StoreUnavailable) else error.outcome_unknown


@over(on_the_wire)
async def test_commits(kind: Kind, site: Site, proxy: TcpProxy) -> None:
    """Promise 7: a counter is counted up once per commit that says so, and at most once by one that can't."""
    near = SessionManager(site.store(), merge={"n": counter})
    for options in kind.repeats.values():
        far = SessionManager(site.store(port=proxy.port, **options), merge={"n": counter}, deadline=5)
        session = await new_session(near).load()
        session["n"] = 0
        await session.commit()
        token = credential(session)
        await (await request(far, token)).refresh()  # its touch is behind it
        await far.drain()
        sure = unsure = 0
        for turn in range(6):
            session = await request(far, token)
            if turn % 2:  # somebody else was faster: a conflict, which is folded and saved again
                other = await request(near, token)
                other["other"] = turn
                await other.commit()
            session["n"] += 1
            cuts = [proxy.cut_after(nth=1 + turn // 4), proxy.cut_before(nth=2 + turn % 3)]
            try:
                await session.commit()
                sure += 1
            except (SessionConflict, StoreUnavailable) as error:
                unsure += is_unsure(error)
            assert cuts[0].done.is_set() or turn >= 4
            proxy.cut_no_more()
        found = (await request(near, token))["n"]
        assert sure <= found <= sure + unsure, (sure, unsure)
        assert sure > 3, "most find out"
        for manager in (near, far):
            await manager.drain()


async def request(manager: SessionManager, token: str) -> Session:
    return await new_session(manager, token).load()

"""The two ways of a save, by SET ... IFEQ and by the script, and how they get along with each other."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import hiredis
import pytest
from msgspec.structs import replace

from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Saved, Stored
from asgi_session.stores.redis import RedisStore, commands, conditional
from asgi_session.stores.redis.commands import AGAIN, Abilities
from asgi_session.stores.redis.conditional import LARGE, Way
from tests.servers import Cluster, LossyProxy, ServerProcess, named, slot_of, start_valkey
from tests.stores.redis.load import in_an_hour, record, soon, version
from tests.stores.redis.scripted import scripted

KEY = "k" * 22
NAME = f"asgi_session:{{{KEY}}}"


@dataclass
class Wire:
    """A store, and what it has sent."""

    store: RedisStore
    proxy: LossyProxy
    names: dict[bytes, str] = field(
        default_factory=lambda: {commands.SAVE.sha: "save", commands.TOUCH.sha: "touch"}
    )

    def sent(self) -> list[str]:
        """Return what was sent since the last time, by name; a SET that compares is "compare"."""
        told: list[str] = []
        for command in self.proxy.commands:
            name = command[0].decode().lower()
            if name in ("hello", "client", "ping", "info", "time"):
                continue
            if name == "set" and b"IFEQ" in command:
                name = "compare"
            told.append(name)
        self.proxy.commands.clear()
        return told


@contextlib.asynccontextmanager
async def wired(server: ServerProcess, **options: Any) -> AsyncIterator[Wire]:
    async with LossyProxy(server) as proxy:
        wire = Wire(RedisStore.from_url(proxy.url, **options), proxy)
        yield wire
        await wire.store.close()


async def created(store: RedisStore, data: bytes | None = None) -> Stored:
    """Create the record."""
    data = record("first") if data is None else data
    assert await store.create(KEY, data, in_an_hour(), deadline=soon()) is not TAKEN
    return version(data)


async def saved(store: RedisStore, expect: Stored, data: bytes | None = None) -> Stored:
    """Save over the expected version, and find what was saved."""
    data = record("next") if data is None else data
    assert await store.save(KEY, data, in_an_hour(), expect=expect, deadline=soon()) == Saved(data[:16])
    assert await store.load(KEY, deadline=soon()) == version(data)
    return version(data)


@pytest.fixture(params=["valkey", "redis62", "without_lua"])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    """One that knows both ways, one that knows the script alone, and one that knows IFEQ alone."""
    found: ServerProcess = request.getfixturevalue(request.param)
    return found


async def test_a_save_is_one_command_where_the_server_compares(valkey: ServerProcess) -> None:
    """Promise 2: also the first save of a connection; a conflict, or a touch in between, is two."""
    async with wired(valkey) as wire:
        first = await created(wire.store)
        valkey.command("SCRIPT", "LOAD", commands.SAVE._text)
        wire.sent()
        second = await saved(wire.store, first)
        assert wire.sent() == ["compare", "get"]
        third = await saved(wire.store, second)
        assert wire.sent() == ["compare", "get"]
        lost = await wire.store.save(KEY, record(), in_an_hour(), expect=first, deadline=soon())
        assert lost == Conflict(third)
        assert wire.sent() == ["compare", "evalsha"]
        await saved(wire.store, replace(third, expires_at=third.expires_at - 7))
        assert wire.sent() == ["compare", "evalsha", "get"]
        assert await wire.store.delete(KEY, deadline=soon())
        wire.sent()
        gone = await wire.store.save(KEY, record(), in_an_hour(), expect=third, deadline=soon())
        assert gone is GONE
        assert wire.sent() == ["compare", "evalsha"]


async def test_a_server_that_does_not_compare_is_tried_once(redis62: ServerProcess) -> None:
    """Promise 2: the first save of a connection finds out, at the cost of one command; later ones know."""
    async with wired(redis62) as wire:
        first = await created(wire.store)
        redis62.command("SCRIPT", "LOAD", commands.SAVE._text)
        wire.sent()
        second = await saved(wire.store, first)
        assert wire.sent() == ["compare", "evalsha", "get"]
        third = await saved(wire.store, second)
        assert wire.sent() == ["evalsha", "get"]
        lost = await wire.store.save(KEY, record(), in_an_hour(), expect=first, deadline=soon())
        assert lost == Conflict(third)
        assert wire.sent() == ["evalsha"]
        await wire.proxy.drop_connections()
        assert await wire.store.load(KEY, deadline=soon()) == third
        wire.sent()
        await saved(wire.store, third)
        assert wire.sent() == ["compare", "evalsha", "get"], "the next connection may have met an upgrade"


async def test_a_script_that_the_server_has_forgotten(redis62: ServerProcess) -> None:
    """A server that does not know the script is sent it at once."""
    async with wired(redis62) as wire:
        first = await created(wire.store)
        second = await saved(wire.store, first)
        redis62.command("SCRIPT", "FLUSH")
        wire.sent()
        await saved(wire.store, second)
        assert wire.sent() == ["evalsha", "eval", "get"]


async def test_one_command_for_the_other_verbs(server: ServerProcess) -> None:
    """Promise 2: a load, a create and a touch are one command each."""
    async with wired(server) as wire:
        first = await created(wire.store)
        for _ in range(2):  # the first time brings the scripts, or shows that there are none
            wire.sent()
            assert await wire.store.load(KEY, deadline=soon()) is not None
            assert await wire.store.touch(KEY, in_an_hour(), expect=first, deadline=soon())
            assert await wire.store.create(KEY, first.data, in_an_hour(), deadline=soon()) is TAKEN
        assert wire.sent() in (["get", "evalsha", "set"], ["get", "compare", "set"])


async def test_without_scripts_a_nil_is_looked_at(without_lua: ServerProcess) -> None:
    """A touch in between costs a look and another try; a conflict or a missing record the look."""
    async with wired(without_lua) as wire:
        first = await created(wire.store)
        second = await saved(wire.store, first)
        wire.sent()
        lost = await wire.store.save(KEY, record(), in_an_hour(), expect=first, deadline=soon())
        assert lost == Conflict(second)
        assert wire.sent() == ["compare", "evalsha", "get"], "only the first one tries the script"
        lost = await wire.store.save(KEY, record(), in_an_hour(), expect=first, deadline=soon())
        assert lost == Conflict(second)
        assert wire.sent() == ["compare", "get"]
        third = await saved(wire.store, replace(second, expires_at=second.expires_at - 1))
        assert wire.sent() == ["compare", "get", "compare", "get"]
        for wrong, right in ((first, False), (replace(third, expires_at=1), True)):
            assert await wire.store.touch(KEY, in_an_hour(), expect=wrong, deadline=soon()) is right
        wire.sent()
        assert not await wire.store.delete(KEY, expect=first, deadline=soon())
        assert wire.sent() == ["delifeq", "get"]
        assert await wire.store.delete(KEY, expect=replace(third, expires_at=1), deadline=soon())
        assert wire.sent() == ["delifeq", "get", "delifeq"]
        assert await wire.store.save(KEY, record(), in_an_hour(), expect=third, deadline=soon()) is GONE
        assert not await wire.store.touch(KEY, in_an_hour(), expect=third, deadline=soon())
        assert not await wire.store.delete(KEY, expect=third, deadline=soon())
        assert without_lua.command("DBSIZE") == 0


async def test_without_scripts_and_delifeq() -> None:
    """One version is then deleted by a SET that ends in the past."""
    hidden = [each for name in ("EVAL", "EVALSHA", "DELIFEQ") for each in ("--rename-command", name, "")]
    server = start_valkey(*hidden)
    try:
        async with wired(server) as wire:
            await wire.store.open()
            first = await created(wire.store)
            second = await saved(wire.store, first)
            assert not await wire.store.delete(KEY, expect=first, deadline=soon())
            assert await wire.store.load(KEY, deadline=soon()) == second
            assert await wire.store.delete(KEY, expect=second, deadline=soon())
            assert server.command("DBSIZE") == 0
    finally:
        server.stop()


@pytest.mark.parametrize(("old", "new"), [(0, LARGE), (LARGE, 0), (LARGE + 1, 0), (0, LARGE + 1)])
async def test_large_records_go_by_the_script(valkey: ServerProcess, old: int, new: int) -> None:
    """Above 16 KB, before or after the save; and the two ways follow one another on one record."""
    async with wired(valkey) as wire:
        # So that the connection knows both.
        known = await saved(wire.store, await created(wire.store))
        await wire.store.save(KEY, record(), in_an_hour(), expect=version(record()), deadline=soon())
        first = await saved(wire.store, known, os.urandom(max(old, 16)))
        wire.sent()
        second = await saved(wire.store, first, os.urandom(max(new, 16)))
        assert wire.sent() == ["evalsha" if max(old, new) > LARGE else "compare", "get"]
        await saved(wire.store, second)


async def test_large_records_without_scripts(without_lua: ServerProcess) -> None:
    """There is only one way, whatever the size."""
    async with wired(without_lua) as wire:
        first = await created(wire.store, os.urandom(3 * LARGE))
        for size in (LARGE, 2 * LARGE, 100):
            first = await saved(wire.store, first, os.urandom(size))


async def test_a_touch_between_load_and_save(server: ServerProcess) -> None:
    """It is no conflict: the save is done on the record as the touch has left it."""
    async with wired(server) as wire:
        current = await created(wire.store)
        for _ in range(3):
            loaded = await wire.store.load(KEY, deadline=soon())
            assert loaded == current
            assert await wire.store.touch(KEY, in_an_hour() + 5, expect=loaded, deadline=soon())
            current = await saved(wire.store, loaded)
            assert not await wire.store.touch(KEY, in_an_hour(), expect=loaded, deadline=soon())


async def test_both_ways_meet_on_one_key(valkey: ServerProcess) -> None:
    """Promise 4: of processes that save by one and by the other, some without Lua, none undoes a save."""
    stores = [RedisStore.from_url(valkey.url) for _ in range(3)]
    data = record(b"0")
    assert await stores[0].create(KEY, data, in_an_hour(), deadline=soon()) is not TAKEN

    async def count(store: RedisStore, ability: str, value: bool) -> None:
        current = await store.load(KEY, deadline=soon())
        connection: Any = store._loops.backends[asyncio.get_running_loop()].ready(KEY)
        for _ in range(60):
            while True:
                setattr(connection.abilities, ability, value)
                assert current is not None
                data = record(b"%d" % (int(current.data[16:]) + 1))
                result = await store.save(KEY, data, in_an_hour(), expect=current, deadline=soon())
                if isinstance(result, Saved):
                    current = version(data)
                    break
                assert isinstance(result, Conflict)
                current = result.current
            await store.touch(KEY, in_an_hour() + 3, expect=current, deadline=soon())

    ways = (("compares", True), ("compares", False), ("scripts", False))
    await asyncio.gather(*(count(store, *way) for store, way in zip(stores, ways, strict=True)))
    found = await stores[0].load(KEY, deadline=soon())
    assert found is not None
    assert int(found.data[16:]) == 180
    for store in stores:
        await store.close()


async def test_an_expired_record_is_gone_either_way(server: ServerProcess) -> None:
    """Promise 5: a version whose time has passed is not saved over, whatever the caller knows."""
    async with wired(server) as wire:
        first = await created(wire.store)
        soon_over = int((await asyncio.to_thread(server.command, "TIME"))[0]) * 1000 - 1
        assert await wire.store.touch(KEY, soon_over, expect=first, deadline=soon())
        for expires_at in (soon_over, first.expires_at):
            expect = replace(first, expires_at=expires_at)
            gone = await wire.store.save(KEY, record(), in_an_hour(), expect=expect, deadline=soon())
            assert gone is GONE
        assert server.command("DBSIZE") == 0


@pytest.mark.parametrize("cut", ["cut_after", "cut_before"])
async def test_a_lost_reply_then_the_same_bytes(server: ServerProcess, cut: str) -> None:
    """Promise 7: a save of unknown outcome is not repeated; sent again it meets itself, or is done."""
    async with wired(server) as wire:
        first = await saved(wire.store, await created(wire.store))
        following = record("following")
        lost = getattr(wire.proxy, cut)(named("set", "evalsha"))
        with pytest.raises(StoreUnavailable) as caught:
            await wire.store.save(KEY, following, in_an_hour(), expect=first, deadline=soon())
        assert caught.value.executed is None
        assert lost.is_set()
        again = await wire.store.save(KEY, following, in_an_hour(), expect=first, deadline=soon())
        if cut == "cut_after":
            assert again == Conflict(version(following))
        else:
            assert again == Saved(following[:16])


async def test_a_lost_settlement_is_of_unknown_outcome(valkey: ServerProcess) -> None:
    """Promise 7: the script that settles a nil may have been carried out."""
    async with wired(valkey) as wire:
        first = await saved(wire.store, await created(wire.store))
        wire.proxy.cut_after(named("evalsha", "eval"))
        with pytest.raises(StoreUnavailable) as caught:
            stale = replace(first, expires_at=1)
            await wire.store.save(KEY, record("x"), in_an_hour(), expect=stale, deadline=soon())
        assert caught.value.executed is None


async def test_a_lost_look_is_repeated(without_lua: ServerProcess) -> None:
    """Promise 13: to look is to read, and has written nothing."""
    async with wired(without_lua) as wire:
        first = await saved(wire.store, await created(wire.store))
        wire.proxy.cut_after(named("get"))
        stale = replace(first, expires_at=1)
        assert await wire.store.save(KEY, record(), in_an_hour(), expect=stale, deadline=soon()) != GONE
        wire.proxy.hold(named("get"))
        with pytest.raises(StoreUnavailable) as caught:
            await wire.store.save(KEY, record(), in_an_hour(), expect=first, deadline=soon(0.3))
        assert caught.value.executed is False


async def test_what_is_no_record(server: ServerProcess) -> None:
    """WRONGTYPE is a refusal and no sign that the server does not compare."""
    async with wired(server) as wire:
        server.command("LPUSH", NAME, "x")
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="WRONGTYPE") as caught:
                await wire.store.save(KEY, record(), in_an_hour(), expect=version(record()), deadline=soon())
            assert caught.value.executed is False
        server.command("DEL", NAME)
        await saved(wire.store, await created(wire.store))


@pytest.fixture
def full() -> Iterator[ServerProcess]:
    hidden = [each for name in ("EVAL", "EVALSHA") for each in ("--rename-command", name, "")]
    server = start_valkey("--maxmemory", "100mb", "--maxmemory-policy", "noeviction", *hidden)
    yield server
    server.stop()


async def test_a_full_server_without_scripts(full: ServerProcess) -> None:
    """It refuses to write, says that it is full, and deletes one version all the same."""
    async with wired(full) as wire:
        first = await saved(wire.store, await created(wire.store))
        full.command("CONFIG", "SET", "maxmemory", "1")
        for write in (
            wire.store.save(KEY, record(), in_an_hour(), expect=first, deadline=soon()),
            wire.store.touch(KEY, in_an_hour(), expect=first, deadline=soon()),
        ):
            with pytest.raises(StoreUnavailable, match="OOM") as caught:
                await write
            assert (caught.value.executed, caught.value.full) == (False, True)
        assert await wire.store.delete(KEY, expect=first, deadline=soon())


async def test_a_cancelled_first_save(server: ServerProcess) -> None:
    """It leaves the next one to find out."""
    async with wired(server) as wire:
        first = await created(wire.store)
        hold = wire.proxy.hold(named("set"))
        saving = asyncio.create_task(
            wire.store.save(KEY, record(), in_an_hour(), expect=first, deadline=soon())
        )
        await hold.reached.wait()
        saving.cancel()
        hold.release()
        await asyncio.gather(saving, return_exceptions=True)
        current = await wire.store.load(KEY, deadline=soon())
        assert current is not None
        await saved(wire.store, current)


async def test_a_server_that_knows_neither_way() -> None:
    """A save is refused, and open says what to do."""

    def answer(number: int, command: tuple[bytes, ...]) -> bytes:
        if command[0] in (b"EVAL", b"EVALSHA", b"DELIFEQ", b"INFO", b"TIME"):
            return b"-ERR unknown command '%b'\r\n" % command[0]
        if b"IFEQ" in command:
            return b"-ERR syntax error\r\n"
        return {b"GET": b"$-1\r\n", b"SET": b"+OK\r\n"}.get(command[0], b":0\r\n")

    async with scripted(answer) as server:
        store = RedisStore.from_url(server.url)
        with pytest.raises(StoreUnavailable, match=r"syntax error|unknown command") as caught:
            await store.save(KEY, record(), in_an_hour(), expect=version(record()), deadline=soon())
        assert caught.value.executed is False
        with pytest.raises(ConfigurationError, match=r"neither Lua scripts nor SET \.\.\. IFEQ"):
            await store.open()
        await store.close()


async def test_open_on_a_server_without_scripts(without_lua: ServerProcess) -> None:
    """It tries the ways that there are, leaves nothing behind, and names the rights that are missing."""
    store = RedisStore.from_url(without_lua.url)
    await store.open()
    assert without_lua.command("DBSIZE") == 0
    await store.close()
    rights = (
        "on >hunter2 ~asgi_session:* &asgi_session:wake:* -@all +get +set +del +eval +evalsha +ping +info"
    )
    for extra, missing in (("", "DELIFEQ"), ("+delifeq -set", "SET")):
        without_lua.command("ACL", "SETUSER", "someone", "reset", *rights.split(), *extra.split())
        store = RedisStore.from_url(f"redis://someone:hunter2@{without_lua.host}:{without_lua.port}")
        with pytest.raises(
            ConfigurationError, match=rf"does not allow the store's user {missing}\. .*\+del \+delifeq \+ping"
        ):
            await store.open()
        await store.close()


async def test_wake_ups_without_scripts_that_are_not_allowed(
    without_lua: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """The save is done all the same, and the right that is missing is said once."""
    rights = "on >hunter2 ~asgi_session:* -@all +get +set +del +eval +evalsha +ping +delifeq +info +time"
    without_lua.command("ACL", "SETUSER", "someone", "reset", *rights.split())
    store = RedisStore.from_url(f"redis://someone:hunter2@{without_lua.host}:{without_lua.port}")
    current = await created(store)
    for _ in range(2):
        data = record()
        result = await store.save_and_wake(
            KEY, data, in_an_hour(), expect=current, wake=["a" * 16, "b" * 16], deadline=soon()
        )
        assert result == Saved(data[:16])
        current = version(data)
    (said,) = [each.getMessage() for each in caplog.records if "wake-ups" in each.getMessage()]
    assert "+publish" in said
    await store.close()


async def test_a_cluster_whose_nodes_differ(cluster: Cluster) -> None:
    """A node that compares and one that has forgotten how serve their own keys, each in its way."""
    store = RedisStore.from_url(cluster.url)
    keys: list[str] = []
    for primary in cluster.primaries:
        ranges = cluster.myself(primary).slots
        wanted = {slot for each in ranges for slot in each}
        keys.append(next(key for n in range(10**6) if slot_of(key := f"{n:022d}") in wanted))
    for key in keys:
        assert await store.create(key, record(key), in_an_hour(), deadline=soon()) is not TAKEN
    backend: Any = store._loops.backends[asyncio.get_running_loop()]
    backend.ready(keys[0]).abilities.compares = False
    for primary in cluster.primaries:
        primary.reset_stats()
    for key in keys:
        for _ in range(2):
            current = await store.load(key, deadline=soon())
            assert current is not None
            result = await store.save(key, record(key), in_an_hour(), expect=current, deadline=soon())
            assert isinstance(result, Saved)
    by_script = [primary.commandstats().get("evalsha", 0) for primary in cluster.primaries]
    assert by_script == [2, 0, 0]
    await store.close()


# what a reply means, without a server


def a_save() -> conditional.Conditional:
    return conditional.save(KEY, b"name", record(), 5, version(record()))


def error(text: str) -> hiredis.ReplyError:
    return hiredis.ReplyError(text)


@pytest.mark.parametrize(
    "text",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "MOVED 7 h:1",
        "NOPERM this user has no permissions to run the 'set' command",
        "ERR syntax error, but another one",
    ],
)
def test_other_errors_tell_nothing_of_the_ways(text: str) -> None:
    """Only "ERR syntax error" says that the server does not compare."""
    able, save = Abilities(), a_save()
    assert b"IFEQ" in save.packed(able)
    assert str(save.read(able, error(text))) == text
    assert able.compares is None
    assert b"IFEQ" in save.packed(able)


def test_what_is_known_belongs_to_the_connection() -> None:
    """A save that goes on elsewhere begins there with what is known there."""
    old, new, save = Abilities(), Abilities(), a_save()
    assert b"IFEQ" in save.packed(old)
    assert save.read(old, error("ERR syntax error")) is AGAIN
    assert b"EVALSHA" in save.packed(old)
    assert b"IFEQ" in save.packed(new)
    assert (old.compares, new.compares) == (False, None)
    old.scripts = False
    assert conditional.known_way(old, b"", version(b"")) is None
    assert conditional.known_way(new, record(), version(record(b"x" * LARGE))) is Way.SCRIPT


async def test_closing_waits_for_a_save_that_met_a_touch(valkey: ServerProcess) -> None:
    """It has been answered with a nil, and is yet to be settled by the script."""
    async with wired(valkey) as wire:
        first = await created(wire.store)
        expect = await saved(wire.store, first)  # the connection's first save: by now it knows the way
        assert await wire.store.touch(KEY, in_an_hour() + 5, expect=expect, deadline=soon())
        wire.sent()
        held = wire.proxy.hold(lambda command: b"IFEQ" in command)
        data = record("last")
        saving = asyncio.create_task(wire.store.save(KEY, data, in_an_hour(), expect=expect, deadline=soon()))
        await held.reached.wait()
        closing = asyncio.create_task(wire.store.close())
        await asyncio.sleep(0)
        held.released.set()
        assert await saving == Saved(data[:16])
        await closing
        assert wire.sent()[:2] == ["compare", "evalsha"]

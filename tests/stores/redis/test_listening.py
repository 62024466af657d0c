"""Wake-ups on real servers: lost connections, refused rights, closed loops."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from asgi_session.errors import StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Saved, Stored, WakesUp
from asgi_session.stores.redis import RedisStore
from asgi_session.stores.redis import listening as module
from asgi_session.stores.redis.listening import Listening
from tests.servers import Cluster, LossyProxy, SentinelSetup, ServerProcess, named
from tests.stores.redis.load import in_an_hour, record, soon, version
from tests.stores.redis.scripted import scripted
from tests.stores.redis.test_cluster import keys_of
from tests.stores.redis.test_loops import Run, wait_for_clients
from tests.stores.redis.test_loops import run as kinds_of_loop

run = kinds_of_loop
KEY = "k" * 22
LOST = None


class Ear:
    """A listener, and what it has heard."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self.heard: list[str | None] = []
        self._came = asyncio.Event()

    def __call__(self, key: str | None) -> None:
        self.heard.append(key)
        self._came.set()

    async def until(self, what: Callable[[], bool], timeout: float = 20) -> None:
        async with asyncio.timeout(timeout):
            while not what():
                self._came.clear()
                await self._came.wait()

    async def lost(self, times: int = 1) -> None:
        await self.until(lambda: self.heard.count(LOST) >= times)


async def listening(store: RedisStore, seconds: float = 10) -> tuple[Ear, Callable[[], None]]:
    ear = Ear()
    return ear, await store.listen(ear.name, ear, deadline=soon(seconds))


async def wake(store: RedisStore, *ears: Ear, key: str | None = None, size: int = 100) -> Stored:
    """Wake the ears up and wait until they have heard of it."""
    key = key or secrets.token_urlsafe(16)
    former = await store.load(key, deadline=soon())
    if former is None:
        assert await store.create(key, record(), in_an_hour(), deadline=soon()) is not TAKEN
        former = await store.load(key, deadline=soon())
        assert former is not None
    data, expires_at = record(b"x" * (size - 16)), in_an_hour()
    names = [ear.name for ear in ears]
    before = [len(ear.heard) for ear in ears]
    saved = await store.save_and_wake(key, data, expires_at, expect=former, wake=names, deadline=soon())
    assert saved == Saved(data[:16])
    for ear, start in zip(ears, before, strict=True):
        await ear.until(lambda ear=ear, start=start: key in ear.heard[start:])  # type: ignore[misc]
    return Stored(data, data[:16], expires_at)


def subscribers(server: ServerProcess) -> list[str]:
    """Return the ids of the connections that have subscribed to something."""
    listed = server.command("CLIENT", "LIST", "TYPE", "pubsub").decode().splitlines()
    return [line.split()[0] for line in listed]


async def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(check):
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


@pytest.fixture
async def store(fresh_valkey: ServerProcess) -> AsyncIterator[RedisStore]:
    store = RedisStore.from_url(fresh_valkey.url)
    yield store
    await store.close()


def listening_of(store: RedisStore) -> Listening:
    return store._listenings.backends[asyncio.get_running_loop()]


# what is sent


async def test_the_capability_is_claimed(store: RedisStore) -> None:
    """The manager asks for it by the protocol."""
    assert isinstance(store, WakesUp)


async def test_a_wake_up_is_the_key_and_nothing_else(fresh_valkey: ServerProcess, store: RedisStore) -> None:
    """Promise 16: who may read the channels, but not the keys, learns nothing of a session."""
    ear, _ = await listening(store)
    async with Redis.from_url(fresh_valkey.url) as client, client.pubsub() as spy:
        await spy.subscribe(f"asgi_session:wake:{ear.name}")
        assert (await spy.get_message(timeout=5))["type"] == "subscribe"
        for size in (16, 100, 10_000):
            await wake(store, ear, key=KEY, size=size)
            assert (await spy.get_message(timeout=5))["data"] == KEY.encode()
    assert ear.heard == [KEY] * 3


async def test_many_listeners_are_one_connection(fresh_valkey: ServerProcess, store: RedisStore) -> None:
    """However many listen in a loop; nobody listening, none is left. The commands' is not affected."""
    both = [await listening(store) for _ in range(5)]
    await wake(store, *(ear for ear, _ in both))
    assert len(subscribers(fresh_valkey)) == 1
    for _, end in both:
        end()
    await eventually(lambda: subscribers(fresh_valkey) == [])
    assert await store.load(KEY, deadline=soon()) is None
    ear, _ = await listening(store)
    await wake(store, ear)
    assert all(LOST not in each.heard for each, _ in both)


async def test_prefixes_are_apart(fresh_valkey: ServerProcess, store: RedisStore) -> None:
    """The same listener's name under another prefix is another listener."""
    other = RedisStore.from_url(fresh_valkey.url, prefix="other")
    here, there = Ear(), Ear()
    there.name = here.name
    await store.listen(here.name, here, deadline=soon())
    await other.listen(there.name, there, deadline=soon())
    await wake(store, here, key="1" * 22)
    await wake(other, there, key="2" * 22)
    assert (here.heard, there.heard) == (["1" * 22], ["2" * 22])
    await other.close()


async def test_a_script_that_the_server_does_not_know(fresh_valkey: ServerProcess, store: RedisStore) -> None:
    """It is sent, with the wake-ups, and they come once."""
    ear, _ = await listening(store)
    await wake(store, ear)
    fresh_valkey.command("SCRIPT", "FLUSH")
    await wake(store, ear)
    assert len(ear.heard) == 2


@pytest.mark.parametrize("cut", ["cut_after", "cut_before"])
async def test_a_lost_reply(valkey: ServerProcess, cut: str) -> None:
    """As in a save nothing is repeated; what was executed has woken up."""
    async with LossyProxy(valkey) as proxy:
        store = RedisStore.from_url(proxy.url)
        direct = RedisStore.from_url(valkey.url)
        ear, _ = await listening(direct)
        await wake(store, ear, key=KEY)
        former = await store.load(KEY, deadline=soon())
        assert former is not None
        data = record()
        getattr(proxy, cut)(named("evalsha"))
        with pytest.raises(StoreUnavailable) as caught:
            await store.save_and_wake(
                KEY, data, in_an_hour(), expect=former, wake=[ear.name], deadline=soon()
            )
        assert caught.value.executed is None
        done = await direct.load(KEY, deadline=soon())
        assert done is not None
        assert (done.data == data) is (cut == "cut_after")
        await wake(direct, ear, key="2" * 22)
        assert ear.heard == [KEY, *([KEY] if cut == "cut_after" else []), "2" * 22]
        await store.close()
        await direct.close()


# what comes


async def test_a_listener_that_raises(store: RedisStore, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the other listeners hear, and it hears the next one."""
    ear, deaf = Ear(), Ear()

    def heard(key: str | None) -> None:
        deaf(key)
        raise IndexError("no good")

    await store.listen(deaf.name, heard, deadline=soon())
    await store.listen(ear.name, ear, deadline=soon())
    for _ in range(2):
        await wake(store, deaf, ear)
    assert len(caplog.records) == 2
    assert "no good" in caplog.text


async def test_messages_that_are_no_wake_ups(
    fresh_valkey: ServerProcess, store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else's messages are ignored, and logged once however many they are."""
    ear, _ = await listening(store)
    junk = [b"", b"x", b"k" * 21, b"\xff" * 22, b"k" * 23, b"k" * 45, b"k k" * 30, KEY.encode() + b"\0" * 99]
    for message in junk:
        assert fresh_valkey.command("PUBLISH", f"asgi_session:wake:{ear.name}", message) == 1
    await wake(store, ear, key=KEY)
    assert ear.heard == [KEY]
    assert len(caplog.records) == 1
    assert "is not a wake-up" in caplog.text


async def test_one_name_twice(store: RedisStore) -> None:
    """Two that listen by one name, even the same function, both hear, and end one by one."""
    ear, first = await listening(store)
    second = await store.listen(ear.name, ear, deadline=soon())
    await wake(store, ear)
    await ear.until(lambda: len(ear.heard) == 2)
    first()
    first()
    await wake(store, ear)
    assert len(ear.heard) == 3
    second()


# connections that are lost


async def test_a_killed_connection(fresh_valkey: ServerProcess, store: RedisStore) -> None:
    """A new one subscribes to everything, and only then all listeners are told that something may be lost."""
    ears = [(await listening(store))[0] for _ in range(3)]
    for turn in range(1, 4):
        assert fresh_valkey.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        for ear in ears:
            await ear.lost(turn)
        await wake(store, *ears)
        assert [ear.heard.count(LOST) for ear in ears] == [turn] * 3


async def test_a_restarted_server(fresh_valkey: ServerProcess, store: RedisStore) -> None:
    """While it is away nobody is told anything and nobody new can listen; then all goes on."""
    ear, _ = await listening(store)
    await wake(store, ear)
    fresh_valkey.kill()
    with pytest.raises(StoreUnavailable) as caught:
        await listening(store, 0.1)
    assert caught.value.executed is False
    assert LOST not in ear.heard
    late = asyncio.create_task(listening(store))
    await asyncio.to_thread(fresh_valkey.restart)
    other, _ = await late
    await ear.lost()
    await wake(store, ear, other)


async def test_a_server_that_is_silent(fresh_valkey: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing would ever come is found out by asking, and replaced."""
    monkeypatch.setattr(module, "_BEAT", 0.05)
    store = RedisStore.from_url(fresh_valkey.url, timeout=0.1, connect_timeout=0.2)
    ear, _ = await listening(store)
    (former,) = subscribers(fresh_valkey)
    own = listening_of(store)
    fresh_valkey.freeze()
    await eventually(lambda: own._node.connection is None)
    fresh_valkey.thaw()
    await ear.lost()
    await wake(store, ear)
    assert former not in subscribers(fresh_valkey)
    await store.close()


async def test_connections_are_replaced_before_they_are_old(fresh_valkey: ServerProcess) -> None:
    """The new one subscribes first: no wake-up is lost, and nobody is told that one may be."""
    store = RedisStore.from_url(fresh_valkey.url, max_connection_age=0.05)
    ear, _ = await listening(store)
    seen: set[str] = set()
    while len(seen) < 5:
        await wake(store, ear)
        seen.update(await asyncio.to_thread(subscribers, fresh_valkey))
    assert LOST not in ear.heard
    await store.close()
    await asyncio.to_thread(wait_for_clients, fresh_valkey, 0)


class SlowOnce(LossyProxy):
    """Holds back the next chunk of replies of any connection for a moment, once told to."""

    def __init__(self, server: ServerProcess) -> None:
        self.reads = 0  # of `delay`: once to see whether, once to see for how long
        self.took = asyncio.Event()
        super().__init__(server)

    @property  # type: ignore[override]
    def delay(self) -> float:
        if not self.reads:
            return 0.0
        self.reads -= 1
        self.took.set()
        return 0.2

    @delay.setter
    def delay(self, seconds: float) -> None:
        pass


async def test_what_is_on_its_way_to_the_old_connection_is_heard(valkey: ServerProcess) -> None:
    """A connection that is replaced is read until all has come that was published before."""
    async with SlowOnce(valkey) as proxy:
        store, other = RedisStore.from_url(proxy.url), RedisStore.from_url(valkey.url)
        ear, _ = await listening(store)
        node = listening_of(store)._node
        former = node.connection
        first = record()
        assert await other.create(KEY, first, in_an_hour(), deadline=soon()) is not TAKEN
        proxy.reads = 2
        await other.save_and_wake(
            KEY, record(), in_an_hour(), expect=version(first), wake=[ear.name], deadline=soon()
        )
        await proxy.took.wait()
        node._renew()
        await eventually(lambda: node.connection is not former)
        assert ear.heard == []
        await ear.until(lambda: ear.heard == [KEY])
        await eventually(lambda: len(subscribers(valkey)) == 1)
        await store.close()
        await other.close()


async def test_who_begins_to_listen_while_a_connection_is_replaced(valkey: ServerProcess) -> None:
    """The new connection subscribes for them, too."""
    async with LossyProxy(valkey) as proxy:
        store = RedisStore.from_url(proxy.url)
        ear, _ = await listening(store)
        node = listening_of(store)._node
        hold = proxy.hold(named("ping"))
        node._renew()
        await hold.reached.wait()
        task = asyncio.create_task(listening(store))
        hold.release()
        other, _ = await task
        await eventually(lambda: node._dialing is None)
        await wake(store, ear, other)
        assert LOST not in ear.heard
        await store.close()


# servers that are not there, or refuse


async def test_no_server(fresh_valkey: ServerProcess) -> None:
    """By the deadline, neither answered nor refused; nothing goes on in the background."""
    fresh_valkey.freeze()
    frozen = RedisStore.from_url(fresh_valkey.url)
    nowhere = RedisStore.from_url("redis://127.0.0.1:1")
    nobody = RedisStore.from_url("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    for store in (frozen, nowhere, nobody):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="listen: ") as caught:
            await listening(store, 0.3)
        assert time.monotonic() - began < 0.6
        assert caught.value.executed is False
        assert listening_of(store)._restoring is None
        assert listening_of(store)._listeners == {}
        await store.close()


@pytest.fixture
def user(fresh_valkey: ServerProcess) -> str:
    """A user with the rights for sessions and none for wake-ups: its URL."""
    fresh_valkey.command(
        *("ACL", "SETUSER", "sessions", "on", ">pw", "resetchannels", "~asgi_session:*", "+info"),
        *("+get", "+set", "+eval", "+evalsha", "+getrange", "+ping"),
    )
    return f"redis://sessions:pw@{fresh_valkey.host}:{fresh_valkey.port}"


@pytest.mark.parametrize(
    "rights", [(), ("+subscribe",), ("+subscribe", "&other:*"), ("&asgi_session:wake:*",)]
)
async def test_listening_is_not_allowed(
    fresh_valkey: ServerProcess, user: str, rights: tuple[str, ...]
) -> None:
    """It fails at once, says which rights are missing, and is not tried again."""
    fresh_valkey.command("ACL", "SETUSER", "sessions", *rights)
    store = RedisStore.from_url(user)
    began = time.monotonic()
    with pytest.raises(
        StoreUnavailable, match=r"NOPERM.*\+subscribe \+publish &asgi_session:wake:\*"
    ) as caught:
        await listening(store)
    assert time.monotonic() - began < 2
    assert caught.value.executed is False
    assert listening_of(store)._restoring is None
    await asyncio.to_thread(wait_for_clients, fresh_valkey, 0)
    await store.close()


async def test_publishing_is_not_allowed(
    fresh_valkey: ServerProcess, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The save is done all the same, and a warning, given once, names the right."""
    store = RedisStore.from_url(user)
    data = record()
    assert await store.create(KEY, data, in_an_hour(), deadline=soon()) is not TAKEN
    for _ in range(3):
        following = record()
        saved = await store.save_and_wake(
            KEY, following, in_an_hour(), expect=version(data), wake=["a" * 16, "b" * 16], deadline=soon()
        )
        assert saved == Saved(following[:16])
        data = following
    found = await store.load(KEY, deadline=soon())
    assert found is not None
    assert found.data == data
    (warning,) = [each for each in caplog.records if each.name == "asgi_session"]
    assert "+publish +subscribe &asgi_session:wake:*" in warning.getMessage()
    await store.close()


async def test_the_rights_are_taken_away_for_a_while(
    fresh_valkey: ServerProcess, user: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who was allowed to listen is told once in the log, and listens again when it is allowed again."""
    monkeypatch.setattr(module, "_LONGEST_IF_REFUSED", 0.05)
    allowed = ("+subscribe", "+publish", "&asgi_session:wake:*")
    fresh_valkey.command("ACL", "SETUSER", "sessions", *allowed)
    store = RedisStore.from_url(user)
    ear, _ = await listening(store)
    fresh_valkey.command("ACL", "SETUSER", "sessions", "-subscribe")
    fresh_valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
    denied = int(fresh_valkey.info("stats")["acl_access_denied_cmd"])
    await eventually(lambda: int(fresh_valkey.info("stats")["acl_access_denied_cmd"]) > denied + 15)
    (warning,) = [each for each in caplog.records if each.name == "asgi_session"]
    assert "no longer be received" in warning.getMessage()
    assert LOST not in ear.heard
    fresh_valkey.command("ACL", "SETUSER", "sessions", *allowed)
    await ear.lost()
    await wake(store, ear)
    await store.close()


async def test_a_server_that_does_not_know_subscribe() -> None:
    """Any other refusal ends it, too, with the server's words."""
    async with scripted(lambda *_: b"-ERR unknown command 'SUBSCRIBE'\r\n") as server:
        store = RedisStore.from_url(server.url)
        with pytest.raises(StoreUnavailable, match="unknown command"):
            await listening(store)
        assert server.connections == 1
        await store.close()


async def test_a_server_that_is_busy_first() -> None:
    """What passes is waited for."""
    replies = iter([b"-LOADING\r\n", b"-BUSY\r\n"])

    def answer(number: int, command: tuple[bytes, ...]) -> bytes:
        return next(replies, b"") if command[0] == b"SUBSCRIBE" else b"_\r\n"

    async with scripted(answer) as server:
        store = RedisStore.from_url(server.url)
        await listening(store)
        assert server.connections == 3
        await store.close()


# ends


@pytest.mark.parametrize("where", ["hello", "ping"])
async def test_closing_while_it_connects(valkey: ServerProcess, where: str) -> None:
    """Whoever waits is told, and no connection is left."""
    async with LossyProxy(valkey) as proxy:
        store = RedisStore.from_url(proxy.url)
        hold = proxy.hold(named(where))
        task = asyncio.create_task(listening(store))
        await hold.reached.wait()
        await store.close()
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(task, 2)
        hold.release()
        ear, _ = await listening(store)
        await wake(store, ear)
        await store.close()


async def test_giving_up_while_it_connects(valkey: ServerProcess) -> None:
    """A cancelled listen is forgotten: what it was to hear is not subscribed to."""
    async with LossyProxy(valkey) as proxy:
        store = RedisStore.from_url(proxy.url)
        hold = proxy.hold(named("hello"))
        task = asyncio.create_task(listening(store))
        await hold.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        hold.release()
        own = listening_of(store)
        await eventually(lambda: own._node.empty)
        assert not any(command[0] == b"SUBSCRIBE" for command in proxy.commands)
        await store.close()


async def test_close_while_it_is_connecting_again(fresh_valkey: ServerProcess, store: RedisStore) -> None:
    """Also then everything ends with the store."""
    ear, end = await listening(store)
    own = listening_of(store)
    fresh_valkey.kill()
    await eventually(lambda: own._restoring is not None)
    await store.close()
    assert own._restoring is None
    assert {task for task in asyncio.all_tasks() if "asgi-session" in task.get_name()} == set()
    end()
    assert ear.heard == []


async def test_nobody_listens_any_more_while_it_is_connecting_again(
    fresh_valkey: ServerProcess, store: RedisStore
) -> None:
    """Then it is not connected again."""
    _, end = await listening(store)
    own = listening_of(store)
    fresh_valkey.kill()
    await eventually(lambda: own._restoring is not None)
    end()
    await eventually(lambda: own._restoring is None)
    assert own._node.connection is None


def test_loops_that_end_without_close(fresh_valkey: ServerProcess, run: Run) -> None:
    """The connection ends with the loop."""
    store = RedisStore.from_url(fresh_valkey.url)

    async def main() -> None:
        ear, _ = await listening(store)
        await wake(store, ear)

    for _ in range(2):
        run(main())
    wait_for_clients(fresh_valkey, 0)
    assert store._listenings.backends == {}


def test_loops_that_are_just_closed(fresh_valkey: ServerProcess) -> None:
    """Without any tidying up: the next loop listens, ending late does no harm, the sockets are freed."""
    store = RedisStore.from_url(fresh_valkey.url)
    ends: list[Callable[[], None]] = []

    async def main(store: RedisStore) -> None:
        ear, end = await listening(store)
        await wake(store, ear)
        ends.append(end)

    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main(store))
        loop.close()
        ends.pop()()
        gc.collect()
    del store
    gc.collect()
    wait_for_clients(fresh_valkey, 0)


def test_a_store_dropped_while_its_loop_runs(fresh_valkey: ServerProcess, run: Run) -> None:
    """If what listens does not hold the store, its listening ends when the store is collected."""

    async def main() -> None:
        await listening(RedisStore.from_url(fresh_valkey.url))
        gc.collect()
        await eventually(lambda: subscribers(fresh_valkey) == [])

    run(main())
    wait_for_clients(fresh_valkey, 0)


def test_nothing_warns_at_the_end_of_a_process() -> None:
    """Ended or just closed, connected or connecting again: under -W error there is silence."""
    script = """
        import asyncio, gc, logging, uvloop
        from asgi_session.stores.redis import RedisStore
        from tests.servers import start_valkey
        from tests.stores.redis.test_listening import listening, listening_of, wake

        logging.basicConfig()
        logging.getLogger("asyncio").addFilter(lambda each: "took" not in each.getMessage())

        async def hear(url):
            store = RedisStore.from_url(url)
            ear, _ = await listening(store)
            await wake(store, ear)
            return store

        async def lose(url):
            store = RedisStore.from_url(url)
            await listening(store)
            server.kill()
            while listening_of(store)._restoring is None:
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            server.restart()
            return store

        server = start_valkey()
        for use in (hear, lose):
            asyncio.run(use(server.url), debug=True)
            uvloop.run(use(server.url))
            loop = asyncio.new_event_loop()
            store = loop.run_until_complete(use(server.url))
            loop.close()
            del store
            gc.collect()
        server.stop()
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_forked_child_listens_for_itself(fresh_valkey: ServerProcess) -> None:
    """The parent's connection is not the child's, and is not closed by it."""
    store = RedisStore.from_url(fresh_valkey.url)
    loop = asyncio.new_event_loop()

    async def hear() -> None:
        own, _ = await listening(store)
        await wake(store, own)

    try:
        ear, _ = loop.run_until_complete(listening(store))
        (mine,) = subscribers(fresh_valkey)
        pid = os.fork()
        if pid == 0:
            # The child: nothing of pytest's may run here.
            code = 1
            try:
                asyncio.events._set_running_loop(None)
                asyncio.run(hear())
                code = 0 if store._listenings.backends == {} else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert subscribers(fresh_valkey) == [mine]
        loop.run_until_complete(wake(store, ear))
        assert LOST not in ear.heard
        loop.run_until_complete(store.close())
    finally:
        loop.close()


# clusters, sentinels


async def test_a_cluster(cluster: Cluster) -> None:
    """Wherever the connection is and wherever the key: what one node publishes all deliver, once."""
    store, other = RedisStore.from_url(cluster.url), RedisStore.from_url(cluster.url)
    ear, _ = await listening(store)
    assert sum(len(subscribers(node)) for node in cluster.nodes) == 1
    keys = [keys[0] for keys in keys_of(cluster, 1).values()]
    for key in keys:
        await wake(other, ear, key=key)
    assert ear.heard == keys
    await store.close()
    await other.close()


async def test_nodes_of_a_cluster_are_killed(fresh_cluster: Cluster) -> None:
    """The node of the connection is killed: another takes over, and keys of other nodes are heard of."""
    store = RedisStore.from_url(fresh_cluster.url)
    ear, _ = await listening(store)
    (node,) = [each for each in fresh_cluster.nodes if subscribers(each)]
    keys = {owner: keys[0] for owner, keys in keys_of(fresh_cluster, 1).items() if owner is not node}
    for each in fresh_cluster.nodes:
        each.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
    node.kill()
    await ear.lost()
    for key in keys.values():
        await wake(store, ear, key=key)
    await store.close()


async def test_a_node_that_leaves_the_cluster() -> None:
    """It answers still, but hears of nothing any more: the connection goes to one that is left."""
    ports: list[int] = []

    def slots(*_: object) -> bytes:
        return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % ports[0]

    def answer(number: int, command: tuple[bytes, ...]) -> bytes:
        if command[0] == b"SUBSCRIBE":
            return b""
        return slots() if command[0] == b"CLUSTER" else b"_\r\n"

    async with scripted(answer) as first, scripted(answer) as second:
        ports[:] = [first.port, second.port]
        store = RedisStore.from_url(first.url.replace("redis:", "redis+cluster:"))
        ear, _ = await listening(store)
        assert any(command[0] == b"SUBSCRIBE" for command in first.commands)
        ports.reverse()
        backend = store._loops.backends[asyncio.get_running_loop()]
        await backend._map.learn()  # type: ignore[attr-defined]
        await ear.lost()
        assert any(command[0] == b"SUBSCRIBE" for command in second.commands)
        await store.close()


async def test_a_primary_is_lost(fresh_sentinel: SentinelSetup) -> None:
    """The new primary is listened to, as it is written to."""
    store = RedisStore.from_url(fresh_sentinel.url)
    ear, _ = await listening(store)
    await wake(store, ear)
    new = fresh_sentinel.replica
    fresh_sentinel.primary.kill()
    await asyncio.to_thread(fresh_sentinel.wait_primary, new)
    await ear.lost()
    await wake(store, ear)
    connection = listening_of(store)._node.connection
    assert connection is not None
    assert connection.where.endswith(f":{new.port}")
    await store.close()


async def test_conflicts_and_missing_records(store: RedisStore) -> None:
    """They answer as in a save, and wake nobody up."""
    ear, _ = await listening(store)
    stored = await wake(store, ear, key=KEY)
    refused = await store.save_and_wake(
        KEY, record(), in_an_hour(), expect=version(b"x" * 16), wake=[ear.name], deadline=soon()
    )
    assert refused == Conflict(stored)
    gone = await store.save_and_wake(
        "2" * 22, record(), in_an_hour(), expect=version(b"x" * 16), wake=[ear.name], deadline=soon()
    )
    assert gone is GONE
    await wake(store, ear, key="3" * 22)
    assert ear.heard == [KEY, "3" * 22]

"""`BlobStore` on a dict: with every reply lost once, and with a client that repeats by itself."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import GONE, TAKEN, Conflict, Saved, Store, Stored
from asgi_session.stores._shared import verbs
from asgi_session.stores.blobs import BlobStore, Trouble
from asgi_session.testing import ManualClock
from tests.stores.test_conformance import ManualTime


class Dict:
    """A server: values with a version each."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, int]] = {}
        self.versions = itertools.count()
        self.calls: list[str] = []
        self.repeats = 0
        """How many of the next writes are carried out twice, with the second answer alone returned."""

    def write(self, name: str, key: str, blob: bytes, version: int | None) -> int | None:
        answer = self._write(name, key, blob, version)
        if self.repeats:
            self.repeats -= 1
            answer = self._write(name, key, blob, version)
        return answer

    def _write(self, name: str, key: str, blob: bytes, version: int | None) -> int | None:
        self.calls.append(name)
        current = self.values.get(key)
        if (None if current is None else current[1]) != version:
            return None
        made = next(self.versions)
        self.values[key] = (blob, made)
        return made

    def remove(self, key: str, version: int) -> bool:
        self.calls.append("remove")
        if key not in self.values or self.values[key][1] != version:
            return False
        del self.values[key]
        if self.repeats:
            self.repeats -= 1
            return False
        return True


class OnDict(BlobStore[Dict, int]):
    """Each step gives way to others, as a network does."""

    def __init__(self, server: Dict, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.server = server

    async def connect(self) -> Dict:
        await asyncio.sleep(0)
        return self.server

    async def disconnect(self, client: Dict) -> None:
        pass

    def explain(self, error: Exception) -> Trouble | None:
        return Trouble(str(error)) if isinstance(error, OSError) else None

    async def get(self, client: Dict, key: str) -> tuple[bytes, int] | None:
        await asyncio.sleep(0)
        client.calls.append("get")
        return client.values.get(key)

    async def insert(self, client: Dict, key: str, blob: bytes, expires_at: int) -> int | None:
        await asyncio.sleep(0)
        return client.write("insert", key, blob, None)

    async def replace(self, client: Dict, key: str, blob: bytes, expires_at: int, version: int) -> int | None:
        await asyncio.sleep(0)
        return client.write("replace", key, blob, version)

    async def remove(self, client: Dict, key: str, version: int) -> bool:
        await asyncio.sleep(0)
        return client.remove(key, version)


class Repeating(OnDict):
    removal_may_repeat = True


class TestBlobStore(ManualTime):
    @pytest.fixture
    async def store(self) -> AsyncIterator[OnDict]:
        self.clock = ManualClock()
        self.server = Dict()
        store = OnDict(self.server, self.clock)
        yield store
        await store.close()

    def another(self, store: Store) -> OnDict:
        return OnDict(self.server, self.clock)


class TestBlobStoreWithRepeats(TestBlobStore):
    @pytest.fixture
    async def store(self) -> AsyncIterator[OnDict]:
        self.clock = ManualClock()
        self.server = Dict()
        store = Repeating(self.server, self.clock)
        yield store
        await store.close()


KEY = "a" * 22
OLD, NEW = b"0" * 16 + b"old", b"1" * 16 + b"new"


def soon() -> float:
    return monotonic() + 5


@pytest.mark.parametrize("known", [True, False], ids=["seen", "not seen"])
async def test_what_the_client_repeats_counts_once(known: bool) -> None:
    """A write that the client has carried out twice answers as if once, whichever verb it was."""
    clock, server = ManualClock(), Dict()
    far = clock() + 1000

    def process() -> Repeating:
        return Repeating(server, clock)

    one = process()
    server.repeats = 1
    assert isinstance(await one.create(KEY, OLD, far, deadline=soon()), Saved)
    version = await one.load(KEY, deadline=soon())
    assert version is not None
    store = one if known else process()
    server.repeats = 1
    assert isinstance(await store.save(KEY, NEW, far, expect=version, deadline=soon()), Saved)
    version = await one.load(KEY, deadline=soon())
    assert version is not None
    store = one if known else process()
    server.repeats = 1
    assert await store.touch(KEY, far + 1, expect=version, deadline=soon()) is True
    server.repeats = 1
    store = one if known else process()
    assert await store.delete(KEY, deadline=soon()) is True
    assert await store.load(KEY, deadline=soon()) is None
    assert server.values == {}
    assert await store.delete(KEY, deadline=soon()) is False


async def test_each_verb_takes_the_trips_it_must() -> None:
    """One for what this process has seen; one more to look where it has not, or something else is there."""
    clock, server = ManualClock(), Dict()
    far = clock() + 1000
    one, other = OnDict(server, clock), OnDict(server, clock)
    await one.create(KEY, OLD, far, deadline=soon())
    version = await other.load(KEY, deadline=soon())
    assert version is not None
    assert server.calls == ["insert", "get"]
    server.calls.clear()
    assert await one.touch(KEY, far + 1, expect=version, deadline=soon())
    assert isinstance(await one.save(KEY, NEW, far, expect=version, deadline=soon()), Saved)
    assert server.calls == ["replace", "replace"]
    server.calls.clear()
    late = await other.save(KEY, b"2" * 20, far, expect=version, deadline=soon())
    assert isinstance(late, Conflict)
    assert server.calls == ["replace", "get"]
    server.calls.clear()
    assert await other.create(KEY, b"2" * 20, far, deadline=soon()) is TAKEN
    assert server.calls == ["insert", "get"]
    server.calls.clear()
    assert await one.delete(KEY, expect=late.current, deadline=soon())
    assert server.calls == ["remove"]
    server.calls.clear()
    assert await other.save(KEY, b"2" * 20, far, expect=late.current, deadline=soon()) is GONE
    assert server.calls == ["replace", "get"]


async def test_an_error_says_whether_anything_was_sent() -> None:
    """Reading changes nothing, so a verb that fails while it looks was not executed."""
    clock, server = ManualClock(), Dict()

    class Failing(OnDict):
        async def get(self, client: Dict, key: str) -> tuple[bytes, int] | None:
            raise OSError("away")

        async def insert(self, client: Dict, key: str, blob: bytes, expires_at: int) -> int | None:
            raise OSError("away")

    store = Failing(server, clock)
    strange = await _version(OnDict(Dict(), clock), clock)
    with pytest.raises(StoreUnavailable, match="away") as raised:
        await store.save(KEY, NEW, clock() + 1, expect=strange, deadline=soon())
    assert raised.value.executed is False
    with pytest.raises(StoreUnavailable, match="away") as raised:
        await store.create(KEY, NEW, clock() + 1, deadline=soon())
    assert raised.value.executed is None


async def _version(store: OnDict, clock: ManualClock):  # type: ignore[no-untyped-def]
    await store.create(KEY, OLD, clock() + 1000, deadline=soon())
    return await store.load(KEY, deadline=soon())


async def test_waiting_for_ones_turn_is_not_executing() -> None:
    """Of more verbs than may run at once those that are still waiting at the deadline were not executed."""
    clock, server = ManualClock(), Dict()

    class Slow(OnDict):
        async def insert(self, client: Dict, key: str, blob: bytes, expires_at: int) -> int | None:
            await asyncio.Event().wait()
            return None

    store = Slow(server, clock)
    results = await asyncio.gather(
        *(store.create(f"{n:022}", NEW, clock() + 1, deadline=monotonic() + 0.05) for n in range(60)),
        return_exceptions=True,
    )
    executed = [result.executed for result in results if isinstance(result, StoreUnavailable)]
    assert executed == [None] * 50 + [False] * 10


@pytest.mark.parametrize("options", [{"at_once": 0}, {"at_once": True}, {"clock": 5}])
def test_options_are_checked(options: dict[str, object]) -> None:
    """What cannot work is refused by name."""

    class Plain(OnDict):
        def __init__(self) -> None:
            BlobStore.__init__(self, **options)  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Plain()


async def test_a_client_that_nobody_waits_for_any_more(caplog: pytest.LogCaptureFixture) -> None:
    """It fails in silence when all who waited have given up; the next verb makes another one."""
    clock, server = ManualClock(), Dict()
    failed = asyncio.Event()

    class Failing(OnDict):
        tries = 0

        async def connect(self) -> Dict:
            self.tries += 1
            if self.tries > 1:
                return self.server
            await failed.wait()
            raise OSError("away")

    store = Failing(server, clock)
    with pytest.raises(StoreUnavailable) as raised:
        await store.load(KEY, deadline=monotonic() + 0.01)
    assert raised.value.executed is False
    failed.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await store.load(KEY, deadline=soon()) is None
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_client_that_cannot_be_made() -> None:
    """All who wait for it learn why, and nothing was executed."""
    clock, server = ManualClock(), Dict()

    class Failing(OnDict):
        async def connect(self) -> Dict:
            raise OSError("away")

    store = Failing(server, clock)
    creates = [store.create(f"{n:022}", NEW, clock() + 1, deadline=soon()) for n in range(3)]
    results = await asyncio.gather(*creates, return_exceptions=True)
    assert [getattr(result, "executed", None) for result in results] == [False] * 3
    assert all("away" in str(result) for result in results)


async def test_a_client_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it was not executed, and the next verb has another one made."""
    clock, server = ManualClock(), Dict()
    monkeypatch.setattr(verbs, "CONNECTING", 0.05)

    class Hanging(OnDict):
        tries = 0

        async def connect(self) -> Dict:
            self.tries += 1
            if self.tries == 1:
                await asyncio.Event().wait()
            return self.server

    store = Hanging(server, clock)
    with pytest.raises(StoreUnavailable, match="no connection within") as raised:
        await store.create(KEY, NEW, clock() + 1, deadline=soon())
    assert raised.value.executed is False
    assert isinstance(await store.create(KEY, NEW, clock() + 1, deadline=soon()), Saved)
    await store.close()


async def test_a_timeout_of_the_clients_own_is_told_as_it_is() -> None:
    """Only the limit of ours is called so."""
    clock = ManualClock()

    class Impatient(OnDict):
        async def connect(self) -> Dict:
            raise TimeoutError("its own")

    with pytest.raises(StoreUnavailable, match="its own"):
        await Impatient(Dict(), clock).load(KEY, deadline=soon())


async def test_opening_makes_the_client() -> None:
    """So a wrong address shows when the app starts."""
    clock = ManualClock()

    class Refused(OnDict):
        async def connect(self) -> Dict:
            raise OSError("connection refused")

    with pytest.raises(StoreUnavailable, match="connection refused"):
        await Refused(Dict(), clock).open()


@pytest.mark.parametrize("verb", ["create", "save", "touch"])
async def test_a_refusal_is_believed_only_after_looking(verb: str) -> None:
    """The client has repeated a write, and then nobody can be asked whose bytes are there: it is unknown."""
    clock, server = ManualClock(), Dict()
    far = clock() + 1000

    class Blind(Repeating):
        blind = False

        async def get(self, client: Dict, key: str) -> tuple[bytes, int] | None:
            if self.blind:
                raise OSError("away")
            return await super().get(client, key)

    store = Blind(server, clock)
    version = Stored(OLD, OLD[:16], far)
    if verb != "create":
        await store.create(KEY, OLD, far, deadline=soon())
    server.repeats, store.blind = 1, True
    asked = {
        "create": lambda: store.create(KEY, NEW, far, deadline=soon()),
        "save": lambda: store.save(KEY, NEW, far, expect=version, deadline=soon()),
        "touch": lambda: store.touch(KEY, far + 1, expect=version, deadline=soon()),
    }
    with pytest.raises(StoreUnavailable, match="away") as raised:
        await asked[verb]()
    assert raised.value.executed is None, "it was carried out"


async def test_a_record_that_is_buried_has_ended() -> None:
    """Where the tomb cannot be removed, the delete has been carried out nevertheless."""
    clock, server = ManualClock(), Dict()

    class Keeping(Repeating):
        async def remove(self, client: Dict, key: str, version: int) -> bool:
            raise OSError("no right to")

    store = Keeping(server, clock)
    await store.create(KEY, OLD, clock() + 1000, deadline=soon())
    assert await store.delete(KEY, deadline=soon()) is True
    assert await store.load(KEY, deadline=soon()) is None
    assert isinstance(await store.create(KEY, NEW, clock() + 1000, deadline=soon()), Saved)


async def test_a_mistake_in_removing_a_tomb_is_not_hidden() -> None:
    """Only what the service has caused is passed over."""
    clock, server = ManualClock(), Dict()

    class Mistaken(Repeating):
        async def remove(self, client: Dict, key: str, version: int) -> bool:
            raise LookupError("a mistake")

    store = Mistaken(server, clock)
    await store.create(KEY, OLD, clock() + 1000, deadline=soon())
    with pytest.raises(LookupError):
        await store.delete(KEY, deadline=soon())


async def test_what_is_no_record_is_replaced() -> None:
    """Something too short to hold an expiry, which nobody here has written, is as good as expired."""
    clock, server = ManualClock(), Dict()
    store = OnDict(server, clock)
    server.values[KEY] = (b"abc", next(server.versions))
    assert await store.load(KEY, deadline=soon()) is None
    assert await store.delete(KEY, deadline=soon()) is False
    assert isinstance(await store.create(KEY, NEW, clock() + 1000, deadline=soon()), Saved)
    assert server.calls == ["get", "get", "insert", "get", "replace"]


async def test_closing_goes_on_when_who_waits_for_it_gives_up() -> None:
    """A close that is cancelled, say by a time limit for the shutdown, leaves no client open for ever."""
    clock, server = ManualClock(), Dict()
    answers, ended = asyncio.Event(), asyncio.Event()

    class Slow(OnDict):
        async def get(self, client: Dict, key: str) -> tuple[bytes, int] | None:
            await answers.wait()
            return None

        async def disconnect(self, client: Dict) -> None:
            ended.set()

    store = Slow(server, clock)
    loading = asyncio.create_task(store.load(KEY, deadline=soon()))
    while store._clients._held.backends == {}:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not ended.is_set()
    answers.set()
    assert await loading is None
    await asyncio.wait_for(ended.wait(), 5)


async def test_a_server_that_puts_a_write_off_is_asked_no_longer_than_the_record_lives() -> None:
    """Others have found by then that there is none, so a late try would bring it back."""
    clock, server = ManualClock(), Dict()
    seen: list[float] = []

    class Refused(OnDict):
        async def replace(
            self, client: Dict, key: str, blob: bytes, expires_at: int, version: int
        ) -> int | None:
            seen.append(verbs.deadline_here() - monotonic())
            return await super().replace(client, key, blob, expires_at, version)

    store = Refused(server, clock)
    await store.create(KEY, OLD, clock() + 400, deadline=soon())
    version = await store.load(KEY, deadline=soon())
    assert version is not None
    assert await store.touch(KEY, clock() + 900, expect=version, deadline=soon())
    assert isinstance(await store.save(KEY, NEW, clock() + 10**6, expect=version, deadline=soon()), Saved)
    version = await store.load(KEY, deadline=soon())
    assert version is not None
    assert isinstance(await store.save(KEY, OLD, clock() + 10, expect=version, deadline=soon()), Saved)
    assert [round(seconds, 1) for seconds in seen] == [0.4, 0.9, 5.0]

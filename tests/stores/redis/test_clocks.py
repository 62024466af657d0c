"""This machine's clock is compared with the store's, where that is free."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asgi_session.stores.redis import RedisStore
from asgi_session.stores.redis import clocks as module
from tests.servers import FakeredisServer, LossyProxy, ServerProcess
from tests.stores.redis.load import soon
from tests.stores.redis.test_access import lock, quoted

KEY = "k" * 22


async def connect(store: RedisStore) -> None:
    """Connect, and have everything that was sent on connecting answered."""
    for _ in range(3):
        await store.load(KEY, deadline=soon())


@pytest.fixture
def shifted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make this machine's clock fast, by so many seconds."""

    def shift(seconds: float) -> None:
        real = module.time
        monkeypatch.setattr(module, "time", lambda: real() + seconds)

    return shift


@pytest.mark.parametrize(("seconds", "says"), [(12.0, "12.0 s ahead of"), (-3.0, "3.0 s behind")])
async def test_a_difference_is_warned_of(
    valkey: ServerProcess, shifted: Any, caplog: pytest.LogCaptureFixture, seconds: float, says: str
) -> None:
    """Above one second, once, with the server, the difference and the remedy; not at every connection."""
    shifted(seconds)
    store = RedisStore.from_url(valkey.url)
    await connect(store)
    await store.close()
    await connect(store)
    await store.close()
    (warning,) = [each for each in caplog.records if each.name == "asgi_session"]
    assert warning.levelname == "WARNING"
    assert f"{says} that of {valkey.host}:{valkey.port}" in warning.getMessage()
    assert "NTP" in warning.getMessage()


@pytest.mark.parametrize("seconds", [0.0, 0.9, -0.9])
async def test_a_small_difference_is_not(
    valkey: ServerProcess, shifted: Any, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    """Nobody is bothered with what changes nothing."""
    shifted(seconds)
    store = RedisStore.from_url(valkey.url)
    await connect(store)
    await store.close()
    assert caplog.records == []


def test_a_slow_answer_is_no_difference(caplog: pytest.LogCaptureFixture) -> None:
    """Half of the time that the answer took may be on either way, and is not held against anybody."""
    check = module.ClockCheck()
    check._compare([b"1000", b"0"], 1000.0, 1006.0, "h:1")
    check._compare([b"1000", b"0"], 1000.0, 1000.5, "h:1")
    assert caplog.records == []
    check._compare([b"1000", b"0"], 1004.0, 1006.0, "h:1")
    assert "5.0 s ahead of that of h:1" in caplog.text


async def test_again_once_an_hour(
    valkey: ServerProcess, shifted: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that drifts while the connection lasts is noticed, too, and mentioned once an hour."""
    monkeypatch.setattr(module, "_AGAIN", 0.05)
    store = RedisStore.from_url(valkey.url)
    await connect(store)
    assert caplog.records == []
    shifted(60.0)
    end = soon(5)
    while len(caplog.records) < 2:
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.01)
    await store.close()


async def test_without_the_right(
    fresh_valkey: ServerProcess, shifted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that does not allow TIME is not asked again, and nothing is said."""
    shifted(60.0)
    lock(fresh_valkey).command("ACL", "SETUSER", "sessions", "-time")
    async with LossyProxy(fresh_valkey) as proxy:
        store = RedisStore.from_url(proxy.url.replace("://", f"://sessions:{quoted()}@"))
        for _ in range(3):
            await connect(store)
            await store.close()
        assert [command for command in proxy.commands if command[0] == b"TIME"] == [(b"TIME",)]
    assert caplog.records == []


async def test_not_on_a_connection_that_listens(valkey: ServerProcess) -> None:
    """There an array is a message, and the answer would be taken for one."""
    async with LossyProxy(valkey) as proxy:
        store = RedisStore.from_url(proxy.url)
        end = await store.listen("a" * 16, lambda key: None, deadline=soon())
        assert [command for command in proxy.commands if command[0] == b"TIME"] == []
        end()
        await store.close()


@pytest.mark.parametrize("reply", [None, 5, b"1", [b"1"], [b"x", b"1"], [5, 5], [None, None], {}])
def test_an_answer_that_makes_no_sense(reply: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is ignored."""
    module.ClockCheck()._compare(reply, 0.0, 0.0, "h:1")
    assert caplog.records == []


async def test_fakeredis(fakeredis_server: FakeredisServer, caplog: pytest.LogCaptureFixture) -> None:
    """A server that may or may not know TIME is served."""
    store = RedisStore.from_url(fakeredis_server.url)
    await connect(store)
    await store.close()
    assert caplog.records == []

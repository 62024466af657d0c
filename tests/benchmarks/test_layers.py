"""Every layer of the benchmarks does what it is measured for, on a real server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from benchmarks.client import Browser
from benchmarks.layers import BY_THE_WAY, LAYERS, framework, layer, like_for_like
from benchmarks.questions.store_cost import HANDSHAKE
from benchmarks.sessions import session_of_size
from benchmarks.worker import Bed
from tests.servers import ServerProcess

BARE = [name for name in LAYERS if name == layer(name).BARE]
EMPTY, MEMORY = BY_THE_WAY
SESSIONS = [name for name in (*LAYERS, MEMORY) if name not in BARE]


@contextlib.asynccontextmanager
async def bed_of(name: str, request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    fixture = {"redis": "valkey", "cluster": "cluster", None: None}[layer(name).STORE]
    bed = Bed(name, request.getfixturevalue(fixture).url if fixture else "")
    try:
        yield bed
    finally:
        await bed.close()


async def answer(bed: Bed, browser: Browser, action: str, query: bytes = b"") -> str:
    await browser.request(await bed.app(action), query)
    return browser.body.decode()


@pytest.mark.parametrize("name", [*BARE, EMPTY])
async def test_a_bare_app_answers(name: str, request: pytest.FixtureRequest) -> None:
    async with bed_of(name, request) as bed:
        browser = Browser()
        assert await answer(bed, browser, "untouched") == "ok"
        assert browser.headers == []


@pytest.mark.parametrize("name", SESSIONS)
async def test_a_layer_serves_every_action(name: str, request: pytest.FixtureRequest) -> None:
    async with bed_of(name, request) as bed:
        browser = Browser()
        assert await answer(bed, browser, "new", b"size=700") == "ok"
        assert browser.headers, "no cookie was set"
        assert await answer(bed, browser, "untouched") == "ok"
        assert await answer(bed, browser, "read") == "4711"
        for _ in range(2):
            assert await answer(bed, browser, "write") == "ok"
        assert await answer(bed, browser, "set", b"key=mine") == "ok"
        keys = json.loads(await answer(bed, browser, "keys"))
        assert sorted(keys) == sorted([*session_of_size(700), "mine"])

        other = Browser()
        assert await answer(bed, other, "new", b"size=100") == "ok"
        assert other.headers != browser.headers
        assert await answer(bed, other, "read") == "4711"

        kept = Browser()
        kept.headers = browser.headers
        assert await answer(bed, browser, "destroy") == "bye"
        assert await answer(bed, browser, "read") == "None"
        assert await answer(bed, other, "read") == "4711"
        if name != "signed_cookie":  # which cannot be revoked
            assert await answer(bed, kept, "read") == "None"


@pytest.mark.parametrize("name", SESSIONS)
async def test_a_stranger_has_no_session(name: str, request: pytest.FixtureRequest) -> None:
    async with bed_of(name, request) as bed:
        assert await answer(bed, Browser(), "read") == "None"
        assert json.loads(await answer(bed, Browser(), "keys")) == []


@pytest.mark.parametrize("name", [name for name in SESSIONS if layer(name).STORE == "redis"])
async def test_a_session_lasts_and_its_cookie_is_secure(name: str, valkey: ServerProcess) -> None:
    bed = Bed(name, valkey.url)
    seen: list[bytes] = []

    class Curious(Browser):
        def _take(self, set_cookie: bytes) -> None:
            seen.append(set_cookie.lower())
            super()._take(set_cookie)

    browser = Curious()
    await answer(bed, browser, "new", b"size=700")
    await answer(bed, browser, "read")
    await bed.close()
    assert b"secure" in seen[0] and b"httponly" in seen[0] and b"samesite=lax" in seen[0]
    left = [valkey.command("TTL", key) for key in valkey.command("KEYS", "*")]
    days = 24 * 3600
    if name == "fastapi_redis_sdk":  # its two clocks, and an index whose fields expire
        (data,) = valkey.command("KEYS", "*:session:*")
        (idle,) = valkey.command("HTTL", data, "FIELDS", "1", "d")
        assert 14 * days - 60 < idle <= 14 * days
        assert 90 * days - 60 < valkey.command("TTL", data) <= 90 * days
    else:
        assert len(left) == 1
        assert 14 * days - 60 < left[0] <= 14 * days


SENT = {
    ("asgi_session_redis", "untouched"): [],
    ("asgi_session_redis", "read"): ["get"],
    ("asgi_session_redis", "write"): ["get", "set"],
    ("starsessions", "untouched"): [],
    ("starsessions", "read"): ["get", "set"],
    ("starsessions", "write"): ["get", "set"],
    ("fastapi_redis_sdk", "untouched"): ["hgetex", "ttl"],
    ("fastapi_redis_sdk", "read"): ["hgetex", "ttl"],
    ("fastapi_redis_sdk", "write"): ["hgetex", "ttl", "hsetex", "hsetex"],
    ("litestar_sessions", "untouched"): ["get", "set"],
    ("litestar_sessions", "read"): ["get", "set"],
    ("litestar_sessions", "write"): ["get", "set"],
}


@pytest.mark.parametrize(("name", "action"), SENT)
async def test_what_a_layer_sends_is_what_its_text_says(
    name: str, action: str, valkey: ServerProcess
) -> None:
    """The results page says what each layer's requests do in the store; every command of a rival is named."""
    bed = Bed(name, valkey.url)
    browser = Browser()
    for each in ("new", "read", "write", action):  # the first visit may confirm the session, the first script
        await answer(bed, browser, each, b"size=700")
    with valkey.monitor() as seen:
        await answer(bed, browser, action)
    await bed.close()
    sent = [command.name for command in seen if command.source != "lua" and command.name not in HANDSHAKE]
    assert sent == SENT[name, action]
    if not name.startswith("asgi_session"):
        said = (layer(name).__doc__ or "").split("\n\n")[0]
        assert all(f"``{command.upper()}``" in said for command in sent)


@pytest.mark.parametrize("name", [name for name in SESSIONS if layer(name).STORE == "redis"])
async def test_the_apps_of_a_process_share_one_connection(name: str, valkey: ServerProcess) -> None:
    """As the parts of a site do; each of them would otherwise have a pool of its own."""
    before = int(valkey.info("clients")["connected_clients"])
    bed = Bed(name, valkey.url)
    browser = Browser()
    for action in ("new", "untouched", "read", "write"):
        await answer(bed, browser, action, b"size=700")
    assert int(valkey.info("clients")["connected_clients"]) - before <= 1
    await bed.close()


def test_layers_are_compared_within_a_framework() -> None:
    """A difference between two layers must not be their frameworks'."""
    assert {framework(name) for name in LAYERS} == {"Starlette", "FastAPI", "Litestar"}
    assert [one.TITLE for one in like_for_like("asgi_session_fastapi", "fastapi_redis_sdk")] == [
        "asgi-session, redis, FastAPI",
        "fastapi-redis-sdk",
    ]
    with pytest.raises(
        ValueError, match="asgi_session_redis runs on Starlette, fastapi_redis_sdk on FastAPI"
    ):
        like_for_like("asgi_session_redis", "fastapi_redis_sdk")

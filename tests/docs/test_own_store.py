"""The page on a store of one's own: its code, against a real server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from asgi_session.errors import StoreUnavailable
from asgi_session.store import Saved
from tests.docs.pages import ROOT, python
from tests.servers import NatsServer, start_nats

PAGE = ROOT / "docs/own-store.md"

SHOWN: dict[str, Any] = {"__name__": "own_store"}
for block in python(PAGE):
    exec(compile("\n" * (block.line - 1) + block.text, str(PAGE), "exec"), SHOWN)


class TestThePage(SHOWN["TestNatsStore"]):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def address(self, nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(SHOWN, "URL", nats.url)


def test_it_is_as_short_as_it_says() -> None:
    """Four short methods, and what surrounds them."""
    (code,) = [block.text for block in python(PAGE) if "class NatsStore" in block.text]
    store = code[code.index("class NatsStore") :].splitlines()
    assert len([line for line in store if line.strip()]) < 50


async def test_a_server_that_is_away_and_comes_back() -> None:
    """While it is killed, verbs end by their deadlines; afterwards the next one is carried out."""
    server = start_nats()
    store = SHOWN["NatsStore"](server.url)
    try:
        data, far = b"0" * 16 + b"data", 2**42
        assert isinstance(await store.create("k" * 22, data, far, deadline=time.monotonic() + 5), Saved)
        server.kill()
        with pytest.raises(StoreUnavailable):
            await store.load("k" * 22, deadline=time.monotonic() + 0.3)
        never = SHOWN["NatsStore"](server.url)
        with pytest.raises(StoreUnavailable) as raised:
            await never.create("n" * 22, data, far, deadline=time.monotonic() + 0.3)
        assert raised.value.executed is False
        await asyncio.to_thread(server.restart)
        for each in (store, never):
            found = await each.load("k" * 22, deadline=time.monotonic() + 5)
            assert found is not None
            assert found.data == data
            await each.close()
    finally:
        server.stop()

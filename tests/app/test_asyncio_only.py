"""Under trio, or in no loop at all, an error says what to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio

from asgi_session import ConfigurationError, SessionManager, SessionMiddleware
from tests.app.kit import answer


async def app(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan"])
def test_under_trio(kind: str) -> None:
    """The first request, or the start, says that it is asyncio; the app is not called."""
    middleware = SessionMiddleware(app, store="memory://")

    async def nothing(*_: Any) -> Any:
        raise AssertionError("nothing is sent")

    async def run() -> None:
        await middleware({"type": kind, "headers": []}, nothing, nothing)

    with pytest.raises(ConfigurationError, match="asyncio"):
        trio.run(run)


def test_a_manager_under_trio() -> None:
    """The same for one that is used by itself."""

    async def run() -> None:
        async with SessionManager("memory://") as manager:
            await manager.drain()

    with pytest.raises(ConfigurationError, match="hypercorn"):
        trio.run(run)
    asyncio.run(run())

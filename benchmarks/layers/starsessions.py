"""starsessions on Redis, as its README sets it up. A request that uses its session loads it
(``GET``), stores all of it again (``SET``) and sends the cookie again, whether or not anything changed.
The last request to be answered overwrites what the others have stored.

https://github.com/alex-oleshkevich/starsessions#readme: ``lifetime=3600 * 24 * 14``, a
``RedisStore(connection=...)`` whose client is closed when the app ends ("The recommended solution is
to pass a Redis instance"), and ``load_session`` in the handler: "For performance reasons, the session
is not autoloaded by default". A session ends when it is empty. The cookie is Secure by default;
sessions are not rolling by default.

What differs from that: the size of the connection pool, see `benchmarks.layers.CONNECTIONS`.

Once loaded, a session is stored again in every response, whether it was changed or not.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starsessions import SessionMiddleware, load_session
from starsessions.stores.redis import RedisStore

from benchmarks.actions import Action
from benchmarks.layers import CONNECTIONS
from benchmarks.layers.starlette_app import starlette_app

TITLE: Final = "starsessions"
STORE: Final = "redis"
BARE: Final = "bare"


_client: Final = functools.cache(Redis.from_url)  # one for all apps of a process, as a site has it


async def _load(request: Request) -> Any:
    await load_session(request)
    return request.session


def build(action: Action, store_url: str) -> Starlette:
    """Return the app."""
    client = _client(store_url, max_connections=CONNECTIONS)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    middleware = Middleware(SessionMiddleware, store=RedisStore(connection=client), lifetime=3600 * 24 * 14)
    return starlette_app(action, [middleware], _load, lifespan=lifespan)

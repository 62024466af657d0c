"""fastapi-redis-sdk's sessions, as its sessions guide sets them up. Every request with a cookie loads
its session and renews its idle timeout (``HGETEX``, ``TTL``), used or not. A write stores the whole
session (``HSETEX``) and renews its entry in an index of the user's sessions (another ``HSETEX``), a
feature that the other layers lack. The last request to be answered overwrites the others.

https://redis.github.io/fastapi-redis-sdk/latest/guide/sessions/:
``FastAPIRedis(app).sessions()``, ``redis_lifespan``, and ``SessionDep`` in the handlers. The URL is
given as in its README ("For programmatic configuration"). Logging out is ``session.clear()``: "often
all you need". The cookie is Secure by default.

What differs from the defaults:

* The timeouts: 14 days idle instead of 30 minutes as for all layers, 90 days in all instead of 8 hours
  as for ours. They change what the store is told, not how much work it is.
* The apps of a process share the state that ``redis_lifespan`` makes, and so one connection pool as a
  site has it; else ``FastAPIRedis(app).lifespan()`` would do.
* The size of the connection pool, see `benchmarks.layers.CONNECTIONS`.

It needs the hash commands of Redis 7.4, or those of Redis 8 and Valkey 9, which it prefers (here it
finds them). It loads in every request that carries a cookie, before the handler; storing a new
``user_id`` rotates the session and enters it in an index of the user's sessions, which every later
write renews: features that the other layers do not have, and that cannot be turned off without
departing from the guide.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

from fastapi import FastAPI
from redis_fastapi import FastAPIRedis, SessionDep, get_settings, redis_lifespan

from benchmarks.actions import Action
from benchmarks.layers import CONNECTIONS
from benchmarks.layers.fastapi_app import fastapi_app

TITLE: Final = "fastapi-redis-sdk"
STORE: Final = "redis"
BARE: Final = "fastapi_bare"


_started: dict[str, Any] = {}
"""The state of the app that was started first, by store URL; it is to be the last that ends."""


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = get_settings().url
    if url in _started:
        app.state = _started[url]
        yield
        return
    async with redis_lifespan(app):
        _started[url] = app.state
        try:
            yield
        finally:
            del _started[url]


def build(action: Action, store_url: str) -> FastAPI:
    """Return the app."""
    settings = get_settings()  # one for the process; the lifespan reads it
    settings.url = store_url
    settings.max_connections = CONNECTIONS
    app = fastapi_app(action, SessionDep, lambda session: session.clear(), lifespan=_lifespan)
    FastAPIRedis(app).sessions(idle_ttl=timedelta(days=14), absolute_ttl=timedelta(days=90))
    return app

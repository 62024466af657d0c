"""fastapi-redis-sdk's sessions, as its sessions guide sets them up.

https://redis.github.io/fastapi-redis-sdk/latest/guide/sessions/:
``FastAPIRedis(app).lifespan().sessions()``, and ``SessionDep`` in the handlers. The URL is given as in
its README ("For programmatic configuration"). Logging out is ``session.clear()``: "often all you
need". The cookie is Secure by default.

What differs from the defaults:

* The timeouts: 14 days idle instead of 30 minutes as for all layers, 90 days in all instead of 8 hours
  as for ours. They change what the store is told, not how much work it is.
* The size of the connection pool, see `benchmarks.layers.CONNECTIONS`.

It needs the hash commands of Redis 7.4, or those of Redis 8 and Valkey 9, which it prefers (here it
finds them). It loads in every request that carries a cookie, before the handler; storing a new
``user_id`` rotates the session and enters it in an index of the user's sessions, which every later
write renews: features that the other layers do not have, and that cannot be turned off without
departing from the guide.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from fastapi import FastAPI
from redis_fastapi import FastAPIRedis, SessionDep, get_settings

from benchmarks.actions import Action
from benchmarks.layers import CONNECTIONS
from benchmarks.layers.fastapi_app import fastapi_app

TITLE: Final = "fastapi-redis-sdk"
STORE: Final = "redis"
BARE: Final = "fastapi_bare"


def build(action: Action, store_url: str) -> FastAPI:
    """Return the app."""
    settings = get_settings()  # one for the process; the lifespan reads it
    settings.url = store_url
    settings.max_connections = CONNECTIONS
    app = fastapi_app(action, SessionDep, lambda session: session.clear())
    FastAPIRedis(app).lifespan().sessions(idle_ttl=timedelta(days=14), absolute_ttl=timedelta(days=90))
    return app

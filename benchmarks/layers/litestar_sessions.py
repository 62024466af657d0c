"""Litestar's server-side sessions on its `RedisStore`, as its documentation sets them up. Every request
loads the session (``GET``) and stores it again (``SET``), used or not. The last request to be answered
overwrites the others.

https://docs.litestar.dev/2/usage/middleware/builtin-middleware.html#server-side-sessions and
https://docs.litestar.dev/2/usage/stores.html#using-the-registry-to-configure-integrations:
``stores={"sessions": RedisStore.with_client(...)}`` and ``ServerSideSessionConfig().middleware``; a
session ends with ``request.clear_session()``. A session lasts 14 days by default; ``renew_on_access``
is left off, as it is by default.

What differs from the defaults: the cookie is Secure, and the size of the connection pool, see
`benchmarks.layers.CONNECTIONS`.

The middleware loads before the handler and stores after it in every request, whether the session
was used or changed or not.
"""

from __future__ import annotations

import functools
from typing import Final

from litestar import Litestar
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.redis import RedisStore

from benchmarks.actions import Action
from benchmarks.layers import CONNECTIONS
from benchmarks.layers.litestar_app import litestar_app

TITLE: Final = "Litestar sessions"
STORE: Final = "redis"
BARE: Final = "litestar_bare"


_store: Final = functools.cache(RedisStore.with_client)  # one for all apps of a process, as a site has it


def build(action: Action, store_url: str) -> Litestar:
    """Return the app."""
    store = _store(f"{store_url}?max_connections={CONNECTIONS}")
    return litestar_app(action, [ServerSideSessionConfig(secure=True).middleware], {"sessions": store})

"""A warning when the server may throw sessions away to make room."""

from __future__ import annotations

import asyncio
import logging
import re
from time import monotonic
from typing import Any, Final

import hiredis

from asgi_session.stores.redis.connection import Connection
from asgi_session.stores.redis.replies import is_denied

_log = logging.getLogger("asgi_session")

_INFO: Final = b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n"
_POLICY: Final = re.compile(rb"^maxmemory_policy:((?:allkeys|volatile)-\S+)", re.MULTILINE)


class EvictionCheck:
    """Looks once per store, also where INFO is forbidden, which is then said. Nobody waits for it."""

    __slots__ = ("_done",)

    def __init__(self) -> None:
        self._done = False

    def start(self, connection: Connection) -> None:
        """Ask on a new connection, unless that was done before."""
        if self._done:
            return
        self._done = True

        def read(future: asyncio.Future[Any]) -> None:
            reply = None if future.cancelled() else future.result()
            # RESP3's verbatim string comes as text where a decoder is set, else as bytes.
            if isinstance(reply, hiredis.ReplyError) and is_denied(reply):
                _log.warning(
                    "%s does not allow the store's user INFO, so its maxmemory-policy cannot be checked: "
                    "give it the right +info, and make sure that the policy is noeviction",
                    connection.where,
                )
            found = _POLICY.search(reply) if isinstance(reply, bytes) else None
            if found is not None:
                _log.warning(
                    "%s has maxmemory-policy %s: when its memory is full it ends sessions at random; "
                    "use noeviction for a server that holds sessions",
                    connection.where,
                    found[1].decode(),
                )

        connection.request(_INFO, monotonic() + 5.0).add_done_callback(read)

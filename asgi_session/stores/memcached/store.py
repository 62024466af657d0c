"""`MemcachedStore`: what `Blobs` needs, in Memcached's meta commands."""

from __future__ import annotations

import logging
import re
import ssl
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any, Final, Self, Unpack

from asgi_session._options import duration
from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import Report
from asgi_session.stores._shared.addresses import show
from asgi_session.stores._shared.per_loop import PerLoop
from asgi_session.stores._shared.reporting import Reporter
from asgi_session.stores.blobs import Blobs
from asgi_session.stores.memcached import protocol, url
from asgi_session.stores.memcached.arguments import (
    MemcachedOptions,
    check_addresses,
    no_such_options,
    read_context,
    read_credentials,
    read_prefix,
    read_servers,
)
from asgi_session.stores.memcached.asking import Asking, Verbs, Version
from asgi_session.stores.memcached.connection import Connection
from asgi_session.stores.memcached.protocol import Reply
from asgi_session.stores.memcached.servers import Servers
from asgi_session.stores.memcached.target import Target

_log = logging.getLogger("asgi_session")

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


class MemcachedStore(Blobs[Asking, Version]):
    """Sessions on Memcached 1.6.13 or later: one server, or several that share the keys.

    Memcached keeps nothing: a server that restarts is empty, and one that is full throws sessions away.
    Their users are signed out. Sessions that have ended do not come back by it.

    Args:
        servers: each as ``host:port``. Every process must name them in the same way: the names decide
            which server has a key.
        user: of the server's file of passwords (``-Y``).
        password: the same; may be wrapped in Starlette's `Secret` or pydantic's `SecretStr`.
        ssl_context: for TLS; None: without.
        prefix: keys are ``prefix:key``; ``asgi_session``. ASCII letters, digits and ``_ . : -``.
        timeout: `timedelta` or seconds that one try of a command may take; 1. A `load` is then tried again,
            another verb raises `StoreUnavailable` with ``executed=None``. Less than the deadlines the
            store is called with, or a frozen server uses them up.
        connect_timeout: `timedelta` or seconds for connecting, TLS and login together; 2.
        max_connection_age: `timedelta` or seconds after which a connection is replaced, the new one
            first; 6 hours.
        clock: tells the time in milliseconds; the system's.

    Raises:
        ConfigurationError: from the constructors, for anything that cannot work.

    Servers are first contacted by `open` or the first verb. Errors of the verbs are `StoreUnavailable` and
    nothing else.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        user: str | None = None,
        password: str | Wrapped | None = None,
        ssl_context: ssl.SSLContext | None = None,
        prefix: str | None = None,
        timeout: timedelta | float = 1.0,
        connect_timeout: timedelta | float = 2.0,
        max_connection_age: timedelta | float = 6 * 3600.0,
        clock: Clock = system_clock,
    ) -> None:
        servers, password = hidden(servers), hidden(password)  # a URL is refused, and may hold a password
        places = with_revealed(read_servers, servers)
        check_addresses(places.addresses)
        credentials = places.credentials
        if credentials is None:
            credentials = with_revealed(read_credentials, user, password)
        else:
            with_revealed(read_credentials, hidden(credentials.user), hidden(credentials.password))
        self._target = Target(
            places.addresses,
            credentials,
            places.tls or read_context(ssl_context),
            read_prefix(prefix, places.prefix),
            duration("timeout", timeout),
            duration("connect_timeout", connect_timeout),
            duration("max_connection_age", max_connection_age),
        )
        self._prefix = f"{self._target.prefix}:".encode()
        self._reporter = Reporter()
        self._loops = PerLoop(_maker(self._target, self._reporter))
        super().__init__(Verbs(self._loops), clock)

    @classmethod
    def from_url(cls, store_url: str | Wrapped, **options: Unpack[MemcachedOptions]) -> Self:
        """Make a store from a URL; `options` are those of the class.

        * ``memcached://[user:password@]host[:port][,host[:port]...][/prefix]``
        * ``memcacheds://...`` with TLS, and in the query ``ca_file=/path`` for a CA of your own

        The URL may be wrapped in Starlette's `Secret` or pydantic's `SecretStr`.

        Raises:
            ConfigurationError: the URL or an option is wrong.
        """
        store_url = hidden(store_url)
        strange = [name for name in options if name not in MemcachedOptions.__annotations__]
        if strange:
            options = {}  # error trackers record the local variables, and one may be a password
            raise no_such_options(strange)
        context = read_context(options.pop("ssl_context", None))
        places: Any = with_revealed(url.parse, store_url, context)
        return cls(places, **options)

    def __repr__(self) -> str:
        target: Target | None = getattr(self, "_target", None)
        if target is None:  # shown in a traceback of its own constructor
            return "<MemcachedStore>"
        return f"<MemcachedStore {', '.join(map(show, target.addresses))}>"

    async def open(self) -> None:
        """Connect to every server, and check what it can do. Leaves nothing behind.

        Raises:
            ConfigurationError: what never heals by itself: no Memcached, one that is too old or runs
                without CAS, a password that is wrong or missing, a certificate that is not trusted.
            StoreUnavailable: a server is away, and still was after twice the connect timeout.
        """
        failure = await self._servers().connect(monotonic() + 2 * self._target.connect_timeout)
        if failure is None:
            return
        if failure.final:
            raise ConfigurationError(failure.why)
        raise StoreUnavailable(f"open: {failure.why}", executed=False)

    def report_to(self, tell: Callable[[Report], None]) -> Callable[[], None]:
        """Call `tell` when a server is lost, back or reconnected; returns a function that ends it."""
        return self._reporter.report_to(tell)

    def distrust(self, key: str) -> None:
        """Drop the connection that answers for `key`, at once; at most one per server in 10 seconds."""
        self._servers().owner(key).distrust()

    # What `Blobs` needs.

    async def get(self, client: Asking, key: str) -> tuple[bytes, Version] | None:
        """Read."""
        connection, reply = await client.look(key, protocol.get(self._name(key)))
        if reply.value is None:
            return None
        return reply.value, Version(connection.number, reply.token)

    async def insert(self, client: Asking, key: str, blob: bytes, expires_at: int) -> Version | None:
        """Write where there is nothing."""
        name = self._name(key)
        request = protocol.insert(name, blob, expires_at, self._now())
        return _made(*await client.write(key, name, blob, request, None))

    async def replace(
        self, client: Asking, key: str, blob: bytes, expires_at: int, version: Version
    ) -> Version | None:
        """Write where that version is."""
        name = self._name(key)
        request = protocol.replace(name, blob, expires_at, self._now(), version.token)
        return _made(*await client.write(key, name, blob, request, version.connection))

    async def remove(self, client: Asking, key: str, version: Version) -> bool:
        """Remove that version."""
        name = self._name(key)
        request = protocol.remove(name, version.token)
        _, reply = await client.write(key, name, b"", request, version.connection)
        return reply is not None and reply.words[0] == b"HD"

    def _name(self, key: str) -> bytes:
        if _KEY.fullmatch(key) is None:
            raise ValueError("a key has 22 characters of the URL-safe base64 alphabet")
        return self._prefix + key.encode()

    def _servers(self) -> Servers:
        return self._loops.backends.get(get_running_loop()) or self._loops.enter()


def _made(connection: Connection, reply: Reply | None) -> Version | None:
    """Return the version that a write has made, None where it has not."""
    if reply is None or reply.words[0] != b"HD":
        return None
    return Version(connection.number, reply.token)


def _maker(target: Target, reporter: Reporter) -> Callable[[], Servers]:
    told = False

    def tell(connection: Connection) -> None:
        nonlocal told
        if connection.evicts and not told:
            told = True
            _log.warning(
                "%s throws sessions away when its memory is full, and the list of a user's sessions perhaps "
                "before them: run it with -M, which refuses writes then",
                connection.where,
            )

    return lambda: Servers(target, reporter, tell)

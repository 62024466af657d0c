"""`RedisStore`: the five verbs, and wake-ups."""

from __future__ import annotations

import logging
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, Unpack

from hiredis import ReplyError

from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.store import TAG_SIZE, CreateResult, Heard, Report, Saved, SaveResult, Stored
from asgi_session.stores._shared.addresses import Address, show
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores._shared.per_loop import PerLoop
from asgi_session.stores._shared.reporting import Reporter
from asgi_session.stores.redis import commands, conditional, url
from asgi_session.stores.redis.arguments import (
    RedisOptions,
    check_files,
    no_such_options,
    read_options,
    read_prefix,
    read_remap,
)
from asgi_session.stores.redis.backend import Backend
from asgi_session.stores.redis.checking import Check, Names
from asgi_session.stores.redis.clients import describe
from asgi_session.stores.redis.clocks import ClockCheck
from asgi_session.stores.redis.cluster import Cluster
from asgi_session.stores.redis.commands import Command
from asgi_session.stores.redis.conditional import Way
from asgi_session.stores.redis.connection import Connection
from asgi_session.stores.redis.dial import dial
from asgi_session.stores.redis.eviction import EvictionCheck
from asgi_session.stores.redis.listening import Listening
from asgi_session.stores.redis.node import Dial, Node
from asgi_session.stores.redis.replies import is_denied
from asgi_session.stores.redis.sentinel import Sentinels
from asgi_session.stores.redis.single import Single
from asgi_session.stores.redis.slot_map import SlotMap
from asgi_session.stores.redis.target import AddressRemap, Options, Target

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster, Sentinel


_log = logging.getLogger("asgi_session")


class RedisStore:
    """Sessions on Redis 6.2 or later, Valkey, ElastiCache or MemoryDB: one server, Sentinel or cluster.

    Args:
        client: a `redis.asyncio` `Redis` (also one from `Sentinel.master_for`), `RedisCluster` or
            `Sentinel`. Its connection settings are used; the object is neither used nor closed.
        service_name: the service's name, with a `Sentinel` object.
        prefix: keys are ``prefix:{key}``; ``asgi_session``. Without braces.
        timeout: `timedelta` or seconds that one try of a command may take; 1. A `load` is then tried
            again, another verb raises `StoreUnavailable` with ``executed=None``. Less than the
            deadlines the store is called with, or a frozen server uses them up.
        connect_timeout: `timedelta` or seconds for connecting, TLS and login together; 2.
        max_connection_age: `timedelta` or seconds after which a connection is replaced, the new one
            first; 6 hours. Shorter than credentials live (IAM ends connections after 12 hours).
        address_remap: turns the (host, port) that a cluster or a sentinel announces into the one to
            connect to.
        tls_server_name: the name to verify in certificates, where nodes are announced by IP address.

    Raises:
        ConfigurationError: from the constructors, for anything that cannot work.

    Servers are first contacted by `open` or the first verb. Errors of the verbs are
    `StoreUnavailable` and nothing else.

    """

    def __init__(
        self,
        client: Redis | RedisCluster | Sentinel,
        *,
        service_name: str | None = None,
        prefix: str = "asgi_session",
        timeout: timedelta | float = 1.0,
        connect_timeout: timedelta | float = 2.0,
        max_connection_age: timedelta | float = 6 * 3600.0,
        address_remap: AddressRemap | None = None,
        tls_server_name: str | None = None,
    ) -> None:
        client = hidden(client)  # a URL is refused, and may hold a password
        target = with_revealed(_target, client, service_name)
        self._prefix = read_prefix(prefix)
        for dialect in filter(None, (target.dialect, target.sentinel_dialect)):
            check_files(dialect)
        self._target = replace(target, address_remap=read_remap(address_remap) or target.address_remap)
        options = read_options(timeout, connect_timeout, max_connection_age, tls_server_name)
        self._options = options
        self._reporter = Reporter()
        self._loops = PerLoop(_backend_maker(self._target, options, self._reporter))
        self._channels = self._prefix.removesuffix(b"{") + b"wake:"
        self._listenings = PerLoop(_listening_maker(self._loops, self._channels, options))
        self._silence_told = False

    @classmethod
    def from_url(cls, store_url: str | Wrapped, **options: Unpack[RedisOptions]) -> Self:
        """Make a store from a URL; `options` are those of the class but for `service_name`.

        * ``redis://[user:password@]host[:port][/db]``, ``rediss://`` with TLS
        * ``unix:///path/to.sock[?db=0]``
        * ``redis+cluster://host:6379,host:6379``, ``rediss+cluster://``
        * ``redis+sentinel://host:26379,host:26379/service[?db=0]``, ``rediss+sentinel://``; user and
          password are the servers', ``sentinel_username`` and ``sentinel_password`` in the query the
          sentinels'

        The URL may be wrapped in Starlette's `Secret` or pydantic's `SecretStr`.

        More in the query: ``client_name`` and redis-py's ``ssl_...`` options.

        Raises:
            ConfigurationError: the URL or an option is wrong.

        """
        store_url = hidden(store_url)
        strange = [name for name in options if name not in RedisOptions.__annotations__]
        if strange:
            options = {}  # error trackers record the local variables, and one may be a password
            raise no_such_options(strange)
        target: Any = with_revealed(url.parse, store_url)  # the constructor takes one, nobody else has any
        return cls(target, **options)

    def __repr__(self) -> str:
        target: Target | None = getattr(self, "_target", None)
        if target is None:  # shown in a traceback of its own constructor
            return "<RedisStore>"
        return f"<RedisStore {target.mode} {', '.join(map(show, target.addresses))}>"

    async def open(self) -> None:
        """Connect, and check kind, role and rights: `checking` says how. Leaves nothing behind.

        Raises:
            ConfigurationError: what never heals by itself: another kind of server, a password that is
                wrong or missing, TLS on one side only, rights that are missing.
            StoreUnavailable: a server is away, loading, full or a replica, and still was after twice
                the connect timeout.

        """
        check = Check(self._target, self._options, Names(self._prefix, self._channels), self._tell_silence)
        failure = await check.run(self._backend(), monotonic() + 2 * self._options.connect_timeout)
        if failure is None:
            return
        if failure.final:
            raise ConfigurationError(failure.why)
        raise StoreUnavailable(f"open: {failure.why}", executed=False, full=failure.full)

    async def close(self) -> None:
        """Wait for the verbs on their way, no longer than `timeout`; then close the connections.

        The next verb reconnects.
        """
        await self._listenings.leave()
        await self._loops.leave()

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        """Read the record."""
        backend = self._loops.backends.get(get_running_loop()) or self._loops.enter()
        data = commands.get(self._prefix + key.encode() + b"}")
        future = backend.submit(key, data, deadline)
        if future is not None:
            value: Any = await future
            if value is None:
                return None
            if type(value) is bytes:
                return commands.stored(value)
            if type(value) is Failure:
                late = monotonic() >= deadline
                backend.failed(key, value.why, last=late)
                if late:
                    raise StoreUnavailable(f"load: {value.why}", executed=value.executed)
        # Not connected, or not answered: from here on with all patience.
        value = await backend.execute(Command("load", key, data, repeatable=True), deadline)
        return None if value is None else commands.stored(value)

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        """Write a record where there is none."""
        command = commands.create(key, self._name(key), data, expires_at)
        return commands.created(await self._backend().execute(command, deadline), data)

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        """Replace that version of the record."""
        backend = self._loops.backends.get(get_running_loop()) or self._loops.enter()
        name = self._name(key)
        reply: Any = None
        connection = backend.ready(key)
        way = None if connection is None else conditional.known_way(connection.abilities, data, expect)
        if connection is not None and way is not None:
            limit = min(monotonic() + self._options.timeout, deadline)
            if way is Way.COMPARE:
                reply = await connection.request(
                    commands.compare_and_set(name, data, expires_at, expect), limit
                )
                if reply == b"OK":
                    return Saved(data[:TAG_SIZE])
            else:
                by_script = commands.save_by_script(name, data, expires_at, expect.tag)
                reply = await connection.request(by_script, limit)
                if reply is None or type(reply) is int or type(reply) is bytes:
                    return commands.saved(reply, data)
            if type(reply) is Failure and reply.executed is None:
                backend.failed(key, reply.why, last=True)
                raise StoreUnavailable(f"save: {reply.why}", executed=None)
        # Not connected, or nothing was written yet: from here on with patience.
        command = conditional.save(key, name, data, expires_at, expect)
        if connection is not None and way is not None and type(reply) is not Failure:
            command.read_as(way, connection.abilities, reply)
        return commands.saved(await backend.execute(command, deadline), data)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        """Change the expiry of that version of the record."""
        command = conditional.touch(key, self._name(key), expires_at, expect)
        return bool(await self._backend().execute(command, deadline))

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        """Remove the record, with `expect` only that version. Works on a full server, too."""
        name = self._name(key)
        command = commands.delete(key, name) if expect is None else conditional.delete(key, name, expect)
        return bool(await self._backend().execute(command, deadline))

    async def save_and_wake(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, wake: Sequence[str], deadline: float
    ) -> SaveResult:
        """Replace that version of the record, and publish its key to the listeners."""
        channels = [self._channels + listener.encode() for listener in wake]
        command = conditional.save(key, self._name(key), data, expires_at, expect, channels)
        reply = await self._backend().execute(command, deadline)
        if reply == conditional.SAVED_UNTOLD:
            await self._publish(key, channels, deadline)
        elif reply == commands.SAVED_IN_SILENCE:
            self._tell_silence()
        return commands.saved(reply, data)

    async def listen(self, listener: str, heard: Heard, *, deadline: float) -> Callable[[], None]:
        """Subscribe, on a connection that all listeners of this event loop share."""
        listening = self._listenings.backends.get(get_running_loop()) or self._listenings.enter()
        return await listening.listen(listener, heard, deadline)

    def report_to(self, tell: Callable[[Report], None]) -> Callable[[], None]:
        """Call `tell` when a server is lost, back or reconnected; returns a function that ends it."""
        return self._reporter.report_to(tell)

    def distrust(self, key: str) -> None:
        """Drop the connection that answers for `key`, at once; at most one per server in 10 seconds."""
        backend = self._loops.backends.get(get_running_loop())
        if backend is not None:
            backend.distrust(key)

    async def _publish(self, key: str, channels: Sequence[bytes], deadline: float) -> None:
        """Wake up listeners where no script does it. A wake-up may get lost: the save stays done."""
        backend = self._backend()
        told = [backend.submit(key, commands.publish(each, key), deadline) for each in channels]
        for future in told:
            reply: Any = None if future is None else await future
            if isinstance(reply, ReplyError) and is_denied(reply):
                self._tell_silence()

    def _tell_silence(self) -> None:
        if not self._silence_told:
            self._silence_told = True
            _log.warning(
                "the Redis user may not send and hear wake-ups, so processes poll for locks; "
                "give it the rights +publish +subscribe &%s*",
                self._channels.decode(),
            )

    def _name(self, key: str) -> bytes:
        return self._prefix + key.encode() + b"}"

    def _backend(self) -> Backend:
        return self._loops.backends.get(get_running_loop()) or self._loops.enter()


def _target(client: Any, service_name: str | None) -> Target:
    return client if isinstance(client, Target) else describe(client, service_name)


def _listening_maker(loops: PerLoop[Backend], channels: bytes, options: Options) -> Callable[[], Listening]:
    def make() -> Listening:
        backend = loops.backends.get(get_running_loop()) or loops.enter()
        return Listening(backend.dial, channels, options)

    return make


def _backend_maker(target: Target, options: Options, reporter: Reporter) -> Callable[[], Backend]:
    eviction, clocks = EvictionCheck(), ClockCheck()

    def checked(make: Dial) -> Dial:
        async def connect(on_close: Callable[[Connection], None]) -> Connection | Failure:
            result = await make(on_close)
            if isinstance(result, Connection):
                eviction.start(result)
            return result

        return connect

    def to(address: Address) -> Node:
        def connect(on_close: Callable[[Connection], None]) -> Any:
            return dial(target.dialect, address, options, on_close)

        return Node(address, checked(connect), options.max_age, reporter, clocks.start)

    def make() -> Backend:
        if target.mode == "cluster":
            return Cluster(SlotMap(target, options.timeout, to, reporter), options.timeout)
        if target.mode == "sentinel":
            sentinels = Sentinels(target, options)
            primary = (f"primary of {target.service}", 0)
            node = Node(primary, checked(sentinels.dial), options.max_age, reporter, clocks.start)
            return Single(node, target, options.timeout)
        return Single(to(target.addresses[0]), target, options.timeout)

    return make

"""A verb on its way: which server it asks, until when, and whether it may have been carried out."""

from __future__ import annotations

from asyncio import get_running_loop
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self

from asgi_session._backoff import pause
from asgi_session.errors import StoreUnavailable
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores._shared.health import Health
from asgi_session.stores._shared.node import Node
from asgi_session.stores._shared.per_loop import PerLoop
from asgi_session.stores.memcached.connection import Connection
from asgi_session.stores.memcached.protocol import DONE, FOUND, Reply
from asgi_session.stores.memcached.servers import Servers


class Version(NamedTuple):
    """What tells two values of a key apart: a token, and the connection on which it was learned."""

    connection: int
    token: bytes


class Verbs:
    """Begins verbs, for `Blobs`."""

    __slots__ = ("_loops",)

    def __init__(self, loops: PerLoop[Servers]) -> None:
        self._loops = loops

    def verb(self, name: str, deadline: float) -> Asking:
        """Begin a verb: use it with ``async with``."""
        servers = self._loops.backends.get(get_running_loop()) or self._loops.enter()
        return Asking(name, deadline, servers)

    async def close(self) -> None:
        """Wait for this event loop's verbs, then close its connections."""
        await self._loops.leave()


class Asking:
    """A verb on its way, which asks servers until there is an answer or its deadline has come.

    No timer of its own: the connection watches the deadlines of all that is asked on it.

    Attributes:
        executed: what is known of the last write: None when it may have been carried out.
    """

    __slots__ = ("_began", "_deadline", "_name", "_node", "_probed", "_servers", "executed")

    def __init__(self, name: str, deadline: float, servers: Servers) -> None:
        self._name = name
        self._deadline = deadline
        self._servers = servers
        self._began = 0.0
        self._node: Node[Connection] | None = None
        self._probed: Health | None = None
        self.executed: bool | None = False

    async def __aenter__(self) -> Self:
        self._began = monotonic()
        if self._began >= self._deadline:
            raise StoreUnavailable(f"{self._name}: there was no time left for it", executed=False)
        self._servers.under_way.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._servers.under_way.__exit__()
        if self._probed is not None:
            self._probed.probe = None
        if kind is StoreUnavailable and self._node is not None:
            self._node.health.count()

    async def client(self) -> Asking:
        """Return what `Blobs` hands on: the verb is its own client."""
        return self

    def sending(self) -> None:
        """Take note that a write is sent: `ask` finds out what becomes of it."""

    def refused(self) -> None:
        """Take note that it was not carried out."""

    async def look(self, key: str, request: bytes) -> tuple[Connection, Reply]:
        """Ask what can be asked again."""
        connection, reply = await self._ask(key, request, None, looks=True)
        assert reply is not None, "it depends on no connection"
        return connection, reply

    async def write(
        self, key: str, name: bytes, value: bytes, request: bytes, on: int | None
    ) -> tuple[Connection, Reply | None]:
        """Ask for what must not be done twice.

        Args:
            key: the record's.
            name: its name in the server.
            value: what is to be written there; empty for a removal.
            request: what to send.
            on: the number of the connection that this is for; None: any.

        Returns:
            The connection, and the reply; None where the connection is another one now.
        """
        return await self._ask(key, request, on, looks=False, size=len(name) + len(value) if value else 0)

    async def _ask(
        self, key: str, request: bytes, on: int | None, *, looks: bool, size: int = 0
    ) -> tuple[Connection, Reply | None]:
        node = self._node = self._servers.owner(key)
        tries = 0
        while True:
            connection = node.ready or await self._reach(node)
            if isinstance(connection, Failure):
                failure = connection
            else:
                if on is not None and connection.number != on:
                    return connection, None
                if size > connection.largest:
                    self._too_large(connection, size)
                limit = min(self._deadline, monotonic() + self._servers.timeout)
                reply: Any = await connection.request(request, limit)
                if type(reply) is Reply:
                    if node.ready is None:
                        node.answered()
                    if reply.words[0] in (FOUND if looks else DONE):
                        return connection, reply
                    if reply.is_error:
                        self._error(connection, reply, looks=looks)
                    # Another request's. Taken for "there is none" it would sign somebody out.
                    connection.out_of_step()
                    failure = Failure(f"{connection.where}: the replies are out of step", None)
                else:
                    failure = reply
                if not node.closed:
                    node.failing(failure.why)
                if failure.executed is None and not looks:
                    self._unavailable(failure)
            tries += 1
            if failure.final or not await pause(tries, self._deadline):
                self._unavailable(failure._replace(executed=False))

    async def _reach(self, node: Node[Connection]) -> Connection | Failure:
        """Return the connection to a server that is doubted, or not connected."""
        health = node.health
        health.expect(self._deadline - self._began + self._servers.timeout)
        refusal = health.refuses(self, self._began)
        if refusal is not None:
            return refusal
        if health.probe is self:
            self._probed = health
        connection = await node.connect(self._deadline)
        if not isinstance(connection, Failure):
            return connection
        if node.closed:
            return connection._replace(final=True)
        if not connection.final:
            node.failing(connection.why)
        return connection

    def _too_large(self, connection: Connection, size: int) -> NoReturn:
        # Not left to the server: it would remove the value that there is.
        raise StoreUnavailable(
            f"{self._name}: the record has {size} bytes, more than {connection.where} takes "
            f"({connection.item_size}, with what it adds itself): raise its -I, or lower the manager's "
            "max_size",
            executed=False,
            full=True,
        )

    def _error(self, connection: Connection, reply: Reply, *, looks: bool) -> NoReturn:
        if reply.is_garbled:
            connection.out_of_step()
        full = reply.is_full
        executed = False if looks or full or reply.is_garbled else None
        raise StoreUnavailable(
            f"{self._name}: {connection.where} answered: {reply.text}", executed=executed, full=full
        )

    def _unavailable(self, failure: Failure) -> NoReturn:
        raise StoreUnavailable(f"{self._name}: {failure.why}", executed=failure.executed)

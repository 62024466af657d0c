"""A verb of a store that asks its service through a client library: its deadline, its errors, its end.

The client belongs to an event loop. It is made by the first verb that needs it and closed with the loop,
or by `close`, which waits for the verbs on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar, Token
from time import monotonic
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar

from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.stores._shared.per_loop import PerLoop
from asgi_session.stores._shared.under_way import UnderWay

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)


class OnItsWay(Protocol[C_co]):
    """What a verb needs that is carried out in some steps: see `Verb`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def client(self) -> C_co:
        """Return the client."""
        ...

    def sending(self) -> None:
        """Take note that from now on the service may carry it out."""
        ...

    def refused(self) -> None:
        """Take note that the service has certainly not carried out what was sent."""
        ...


class Begins(Protocol[C_co]):
    """Begins verbs: `Clients`, or what a store has that speaks to its servers itself."""

    def verb(self, name: str, deadline: float) -> OnItsWay[C_co]:
        """Begin a verb: use it with ``async with``."""
        ...

    async def close(self) -> None:
        """Wait for this event loop's verbs, then close what it holds."""
        ...


_until: Final[ContextVar[float]] = ContextVar("until", default=math.inf)


def deadline_here() -> float:
    """Return by when the verb that this task carries out must have answered, as `time.monotonic`."""
    return _until.get()


@contextlib.contextmanager
def no_later_than(instant: float) -> Generator[None]:
    """Have `deadline_here` return this instant of `time.monotonic`, if it comes before the verb's own."""
    outer = _until.set(min(_until.get(), instant))
    try:
        yield
    finally:
        _until.reset(outer)


CONNECTING: Final = 10.0
"""Seconds that making a client may take. Some clients would try for ever, and verbs wait for the one try."""


class Trouble(NamedTuple):
    """What a client's error means.

    Attributes:
        why: for people; without secrets.
        executed: False when the service certainly did not carry the verb out; None when the verb knows.
        full: True when the service has no room left.
    """

    why: str
    executed: bool | None = None
    full: bool = False


class Clients(Generic[C]):
    """A store's clients, one per event loop.

    Args:
        make: makes and returns a client. It is cancelled if that takes more than 10 seconds.
        end: closes one, in its event loop.
        explain: says what an error means; None for one that is no trouble of the service but a mistake.
        at_once: how many verbs may use a client at once; the others wait, and waiting is not executing.
        patience: seconds that `close` waits for verbs on their way.
        abandon: frees a client whose event loop was closed under it.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[C]],
        end: Callable[[C], Awaitable[None]],
        explain: Callable[[Exception], Trouble | None],
        *,
        at_once: int,
        patience: float = 5.0,
        abandon: Callable[[C], None] | None = None,
    ) -> None:
        self.explain = explain
        self._held: PerLoop[HeldClient[C]] = PerLoop(
            lambda: HeldClient(make, end, abandon, at_once=at_once, patience=patience)
        )

    def verb(self, name: str, deadline: float) -> Verb[C]:
        """Begin a verb: use it with ``async with``."""
        held = self._held.backends.get(asyncio.get_running_loop()) or self._held.enter()
        return Verb(name, deadline, held, self.explain)

    async def close(self) -> None:
        """Wait for this event loop's verbs, then close its client."""
        await self._held.leave()


class HeldClient(Generic[C]):
    """One event loop's client, made when it is needed, once for all who wait for it."""

    __slots__ = ("_abandon", "_client", "_end", "_make", "_making", "_patience", "slots", "under_way")

    def __init__(
        self,
        make: Callable[[], Awaitable[C]],
        end: Callable[[C], Awaitable[None]],
        abandon: Callable[[C], None] | None,
        *,
        at_once: int,
        patience: float,
    ) -> None:
        self._make = make
        self._end = end
        self._abandon = abandon
        self._patience = patience
        self._client: C | None = None
        self._making: asyncio.Task[C] | None = None
        self.under_way = UnderWay()
        self.slots = asyncio.Semaphore(at_once)

    async def get(self) -> C:
        """Return the client. Whoever is cancelled meanwhile leaves the making to the others."""
        if self._client is not None:
            return self._client
        if self._making is None:
            self._making = asyncio.create_task(self._made())
            self._making.add_done_callback(_notice)
        return await asyncio.shield(self._making)

    async def _made(self) -> C:
        made: C | None = None
        limit = asyncio.timeout(CONNECTING)
        try:
            async with limit:
                made = await self._make()
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._making = None
        if made is None:
            raise StoreUnavailable(f"no connection within {CONNECTING:.0f} s", executed=False)
        self._client = made
        return made

    async def close(self) -> None:
        """Wait for the verbs on their way, then close the client."""
        await self.under_way.over(_nothing, self._patience)
        if self._making is not None:
            await asyncio.wait([self._making])
        client, self._client = self._client, None
        if client is not None:
            await self._end(client)

    def abandon(self) -> None:
        """Free the client of an event loop that was closed without `close`."""
        client, self._client = self._client, None
        if client is not None and self._abandon is not None:
            self._abandon(client)


def _notice(making: asyncio.Task[Any]) -> None:
    """Look at what became of it, or asyncio logs an error that nobody has waited for."""
    if not making.cancelled():
        making.exception()


async def _nothing() -> None:
    """Wait for nothing: what is on the wire is part of a verb."""


class Verb(Generic[C]):
    """A verb on its way.

    ::

        async with self._clients.verb("touch", deadline) as verb:
            client = await verb.client()
            verb.sending()
            ...

    Attributes:
        executed: False until it is being sent; None from then on.

    Raises:
        StoreUnavailable: on leaving, for a deadline that is over and for errors that `explain` knows.
    """

    __slots__ = ("_deadline", "_explain", "_has_slot", "_held", "_name", "_outer", "_timeout", "executed")

    def __init__(
        self,
        name: str,
        deadline: float,
        held: HeldClient[C],
        explain: Callable[[Exception], Trouble | None],
    ) -> None:
        self._name = name
        self._deadline = deadline
        self._held = held
        self._explain = explain
        self._timeout: asyncio.Timeout | None = None
        self._outer: Token[float] | None = None
        self._has_slot = False
        self.executed: bool | None = False

    async def client(self, *, slot: bool = True) -> C:
        """Return the client, once it is this verb's turn; without a `slot` at once."""
        client = await self._held.get()
        if slot:
            await self._held.slots.acquire()
            self._has_slot = True
        return client

    @property
    def slots(self) -> asyncio.Semaphore:
        """Return what counts the verbs that use the client, for who has several of them share a turn."""
        return self._held.slots

    def sending(self) -> None:
        """Take note that from now on the service may carry it out."""
        self.executed = None

    def refused(self) -> None:
        """Take note that the service has certainly not carried out what was sent."""
        self.executed = False

    async def __aenter__(self) -> Self:
        left = self._deadline - monotonic()
        if left <= 0:
            raise StoreUnavailable(f"{self._name}: there was no time left for it", executed=False)
        self._held.under_way.__enter__()
        timeout = asyncio.timeout(left)
        await timeout.__aenter__()
        self._timeout = timeout
        self._outer = _until.set(self._deadline)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._outer is not None
        _until.reset(self._outer)
        if self._has_slot:
            self._held.slots.release()
        self._held.under_way.__exit__()
        assert self._timeout is not None
        late = False
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            late = True
        if late:
            raise StoreUnavailable(f"{self._name}: no answer in time", executed=self.executed) from None
        if isinstance(error, Exception) and not isinstance(error, (StoreUnavailable, ConfigurationError)):
            trouble = self._explain(error)
            if trouble is not None:
                executed = False if trouble.executed is False else self.executed
                # Not `from error`: a client's error may hold a whole request, with its credentials.
                raise StoreUnavailable(
                    f"{self._name}: {trouble.why}", executed=executed, full=trouble.full
                ) from None


def kind_and_text(error: BaseException, *, longest: int = 200) -> str:
    """Name an error's class and what it says, in no more than so many characters."""
    text = " ".join(str(error).split())
    text = text if len(text) <= longest else f"{text[:longest]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

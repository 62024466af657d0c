"""The tests over the table notice stores that do not deserve to pass."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from asgi_session.errors import StoreUnavailable
from asgi_session.store import CreateResult, Saved, SaveResult, Store, Stored
from asgi_session.stores import store_from_url
from tests.servers import ServerProcess, TcpProxy
from tests.stores.every import kinds
from tests.stores.every.site import Site
from tests.stores.every.test_cancellation import test_at_every_await as check_cancellation
from tests.stores.every.test_lost_replies import test_writes as check_writes
from tests.stores.every.test_trips import test_round_trips as check_trips


class PassesOn:
    """Passes every verb on to a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.open = store.open
        self.close = store.close

    async def load(self, key: str, *, deadline: float) -> Stored | None:
        return await self.store.load(key, deadline=deadline)

    async def create(self, key: str, data: bytes, expires_at: int, *, deadline: float) -> CreateResult:
        return await self.store.create(key, data, expires_at, deadline=deadline)

    async def save(
        self, key: str, data: bytes, expires_at: int, *, expect: Stored, deadline: float
    ) -> SaveResult:
        return await self.store.save(key, data, expires_at, expect=expect, deadline=deadline)

    async def touch(self, key: str, expires_at: int, *, expect: Stored, deadline: float) -> bool:
        return await self.store.touch(key, expires_at, expect=expect, deadline=deadline)

    async def delete(self, key: str, *, expect: Stored | None = None, deadline: float) -> bool:
        return await self.store.delete(key, expect=expect, deadline=deadline)


class SaysNotExecuted(PassesOn):
    """Says of a save without an answer that it was not carried out."""

    async def save(self, *given: Any, **options: Any) -> SaveResult:
        try:
            return await super().save(*given, **options)
        except StoreUnavailable as error:
            raise StoreUnavailable(str(error), executed=False) from None


class SaysSaved(PassesOn):
    """Says of a save without an answer that it was carried out."""

    async def save(self, key: str, data: bytes, *given: Any, **options: Any) -> SaveResult:
        try:
            return await super().save(key, data, *given, **options)
        except StoreUnavailable:
            return Saved(data[:16])


class RepeatsCreates(PassesOn):
    """Repeats a create without an answer, and does not recognise its own bytes."""

    async def create(self, *given: Any, **options: Any) -> CreateResult:
        try:
            return await super().create(*given, **options)
        except StoreUnavailable:
            return await super().create(*given, **options)


class RepeatsDeletes(PassesOn):
    """Repeats a delete without an answer, and takes its own for another's."""

    async def delete(self, *given: Any, **options: Any) -> bool:
        try:
            return await super().delete(*given, **options)
        except StoreUnavailable:
            return await super().delete(*given, **options)


class HidesCancellation(PassesOn):
    """Answers a cancellation with an error of its own."""

    async def save(self, *given: Any, **options: Any) -> SaveResult:
        try:
            return await super().save(*given, **options)
        except asyncio.CancelledError:
            raise StoreUnavailable("cancelled", executed=None) from None


class LooksFirst(PassesOn):
    """Loads before it saves."""

    async def save(self, key: str, *given: Any, deadline: float, **options: Any) -> SaveResult:
        await super().load(key, deadline=deadline)
        return await super().save(key, *given, deadline=deadline, **options)


@pytest.fixture
async def flawed(valkey: ServerProcess) -> AsyncIterator[Callable[[type[PassesOn]], Site]]:
    """A site whose stores have the flaw."""
    sites: list[Site] = []

    def site(flaw: type[PassesOn]) -> Site:
        def make(url: str, **options: Any) -> Store:
            return flaw(store_from_url(url, **options))

        sites.append(Site(dataclasses.replace(kinds.named("redis"), make=make), valkey))
        return sites[-1]

    yield site
    for each in sites:
        await each.close()


@pytest.mark.parametrize(
    ("flaw", "lost"),
    [
        (SaysNotExecuted, "reply"),
        (SaysSaved, "request"),
        (RepeatsCreates, "reply"),
        (RepeatsDeletes, "reply"),
    ],
)
async def test_lies_about_what_was_lost(
    flawed: Callable[[type[PassesOn]], Site], valkey: ServerProcess, flaw: type[PassesOn], lost: str
) -> None:
    """Whatever a store says that is not so, of a reply or a request that was lost."""
    site = flawed(flaw)
    with TcpProxy(valkey.port) as proxy, pytest.raises(AssertionError, match="it was done"):
        await check_writes(site.kind, site, proxy, lost)


async def test_a_cancellation_that_is_hidden(flawed: Callable[[type[PassesOn]], Site]) -> None:
    """A cancelled verb that raises something else."""
    site = flawed(HidesCancellation)
    with pytest.raises(StoreUnavailable, match="cancelled"):
        await check_cancellation(site.kind, site, False)


async def test_a_round_trip_too_many(flawed: Callable[[type[PassesOn]], Site], valkey: ServerProcess) -> None:
    """A save that costs a load as well."""
    site = flawed(LooksFirst)
    with TcpProxy(valkey.port) as proxy, pytest.raises(AssertionError):
        await check_trips(site.kind, site, proxy)

"""`SimpleDBStore`: records as items of an Amazon SimpleDB domain.

A value in SimpleDB is text of at most 1,024 bytes, and an item has at most 256 of them. So a record is
base64 in chunks, beside two values: its version, which is what every write compares, and its expiry.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, Self, TypedDict, Unpack

from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.stores._shared.aws import AwsService, code, refusal
from asgi_session.stores._shared.aws_setup import set_up
from asgi_session.stores._shared.aws_urls import read_url
from asgi_session.stores._shared.verbs import Trouble, deadline_here
from asgi_session.stores.blobs import EXPIRY_SIZE, BlobStore

_VERSION, _EXPIRES = "v", "x"
_CHUNK: Final = 1024
_CHUNKS: Final = 254
LARGEST: Final = _CHUNKS * _CHUNK // 4 * 3
"""Bytes of a blob, which is a record and 8 bytes more."""

_DOMAIN: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_NUMBER: Final = re.compile(r"[0-9]{1,3}")
_PADDED: Final = re.compile(r"[0-9]{19}")
_OTHER: Final = frozenset({"ConditionalCheckFailed", "AttributeDoesNotExist"})
_FULL: Final = frozenset(
    {"NumberDomainBytesExceeded", "NumberDomainAttributesExceeded", "NumberItemAttributesExceeded"}
)
_RIGHTS: Final = "sdb:GetAttributes, PutAttributes, DeleteAttributes and Select on the domain"
_AT_ONCE: Final = 16
"""Items that a purge removes at once."""


class SimpleDBOptions(TypedDict, total=False):
    """The options of `SimpleDBStore.from_url`: those of `SimpleDBStore`."""

    region: str | None
    endpoint_url: str | None
    session: Any
    connections: int
    timeout: timedelta | float
    connect_timeout: timedelta | float
    clock: Clock


class SimpleDBStore(BlobStore[Any, str]):
    """Sessions in a domain of Amazon SimpleDB, read consistently.

    AWS no longer opens SimpleDB to new accounts, and this class was never run against AWS itself: only
    against a stand-in of what its documentation says.

    A record may have 195,064 bytes. A larger one is refused as a store is that is full.

    Whether a record's time has passed is judged by the clock of this process. Keep the clocks of your
    servers within a second or so of each other. SimpleDB removes nothing by itself: call `purge`.

    Args:
        domain: its name.
        region: for example ``eu-west-1``; None: what the SDK finds (AWS_REGION, a profile).
        endpoint_url: another address than AWS's.
        session: an `aiobotocore.session.AioSession`, for credentials other than those the SDK finds.
        connections: how many an event loop opens at most; 50. Verbs above that wait.
        timeout: `timedelta` or seconds without a byte of the reply, for one try; 2.
        connect_timeout: `timedelta` or seconds; 2.
        clock: tells the time in milliseconds; the system's.

    Raises:
        ConfigurationError: aiobotocore is not installed, or an argument cannot work.
    """

    _patience: float = 4.0
    """Seconds that `open` may take."""

    def __init__(
        self,
        domain: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        session: Any = None,
        connections: int = 50,
        timeout: timedelta | float = 2.0,
        connect_timeout: timedelta | float = 2.0,
        clock: Clock = system_clock,
    ) -> None:
        if not isinstance(domain, str) or not _DOMAIN.fullmatch(domain):
            raise ConfigurationError(
                f"domain={domain!r}: give the domain's name (3 to 255 of A-Z a-z 0-9 _ . -)"
            )
        self._domain = domain
        self._service = AwsService(
            "sdb",
            store="SimpleDBStore",
            extra="simpledb",
            region=region,
            endpoint_url=endpoint_url,
            session=session,
            connections=connections,
            connect_timeout=connect_timeout,
            timeout=timeout,
            config={},
        )
        super().__init__(at_once=connections, clock=clock)

    @classmethod
    def from_url(cls, store_url: str | Wrapped, **options: Unpack[SimpleDBOptions]) -> Self:
        """Make a store from ``simpledb://DOMAIN?region=REGION&endpoint_url=URL``; the query may be absent.

        `options` are those of the class. Credentials are the SDK's business: a role, AWS_ACCESS_KEY_ID.

        Raises:
            ConfigurationError: the URL or an option is wrong.
        """
        given = hidden((store_url, options))  # either may hold a secret that is in the wrong place
        del store_url, options
        domain, _, of_class = with_revealed(
            read_url,
            given,
            SimpleDBOptions,
            store="SimpleDBStore",
            example="simpledb://sessions?region=eu-west-1",
            path_of="domain",
        )
        return cls(domain, **of_class)

    def __repr__(self) -> str:
        return f"<SimpleDBStore {getattr(self, '_domain', '?')}>"

    # The set-up.

    async def open(self) -> None:
        """Check that the domain is there and lets us read. Whether we may write is found out by writing.

        Raises:
            ConfigurationError: what never heals by itself: no such domain, no rights, no credentials.
            StoreUnavailable: SimpleDB is away.
        """
        await self._set_up("open", self._patience, lambda client: self.get(client, "-" * 22))

    async def create_domain(self) -> None:
        """Make the domain, unless it is there already; takes 10 seconds or more on AWS.

        Raises:
            ConfigurationError: no right to (sdb:CreateDomain), or no credentials.
            StoreUnavailable: SimpleDB is away.
        """
        await self._set_up(
            "create_domain", 60.0, lambda client: client.create_domain(DomainName=self._domain)
        )

    async def purge(self, *, limit: int = 1000, deadline: float) -> int:
        """Remove up to `limit` expired records, and return how many; fewer: none is left.

        One request finds up to 2,500 of them, and each is removed by one more.

        Raises:
            StoreUnavailable: it was not through by the deadline, or SimpleDB is away.
        """
        removed = 0
        while removed < limit:
            async with self._clients.verb("purge", deadline) as verb:
                found = await self._expired(await verb.client(), min(limit - removed, 2500))
            for at in range(0, len(found), _AT_ONCE):
                results = await asyncio.gather(
                    *(self._purge_one(*each, deadline) for each in found[at : at + _AT_ONCE]),
                    return_exceptions=True,
                )
                for result in results:
                    if isinstance(result, BaseException):
                        raise result
                    removed += result
            if not found:
                break
        return removed

    async def _expired(self, client: Any, most: int) -> list[tuple[str, str]]:
        """Return the names and the expiries, as they are written, of records whose time has passed."""
        before = _padded(self._now())
        query = f"select {_EXPIRES} from `{self._domain}` where {_EXPIRES} <= '{before}' limit {most}"  # noqa: S608
        more: dict[str, Any] = {}
        while True:

            def ask(more: dict[str, Any] = more) -> Any:
                return client.select(SelectExpression=query, ConsistentRead=True, **more)

            page = await self._patiently(ask, repeatable=True)
            if page.get("Items") or "NextToken" not in page:
                return [(item["Name"], item["Attributes"][0]["Value"]) for item in page.get("Items", ())]
            more = {"NextToken": page["NextToken"]}  # a page may be empty and yet not the last

    async def _purge_one(self, name: str, expires: str, deadline: float) -> bool:
        async with self._clients.verb("purge", deadline) as verb:
            client = await verb.client()
            verb.sending()
            # A touch, or a create in its place, changes the expiry: then it stays.
            return await self._delete(client, name, _EXPIRES, expires)

    async def _set_up(self, name: str, seconds: float, work: Callable[[Any], Awaitable[object]]) -> None:
        await set_up(self._clients, name, seconds, work, self.explain, self._refusal)

    def _refusal(self, found: str, why: str) -> ConfigurationError | None:
        """Return the error that says what to do, if what was answered never heals by itself."""
        if found == "NoSuchDomain":
            return ConfigurationError(
                f"SimpleDB has no domain {self._domain!r}: make it with `await store.create_domain()`, "
                f"or correct the name or the region ({why})"
            )
        return refusal("SimpleDB", found, rights=_RIGHTS, why=why)

    # What BlobStore asks for.

    async def connect(self) -> Any:
        """Make a client."""
        return await self._service.connect()

    async def disconnect(self, client: Any) -> None:
        """Close a client."""
        await self._service.disconnect(client)

    def explain(self, error: Exception) -> Trouble | None:
        """Say what an error means."""
        trouble = self._service.explain(error)
        if trouble is not None and code(error) in _FULL:
            return trouble._replace(full=True)
        if trouble is not None and code(error) == "RequestTimeout":  # in the database, with status 408
            return trouble._replace(executed=None)
        return trouble

    async def get(self, client: Any, key: str) -> tuple[bytes, str] | None:
        """GetAttributes, consistently."""
        found = await self._patiently(
            lambda: client.get_attributes(DomainName=self._domain, ItemName=key, ConsistentRead=True),
            repeatable=True,
        )
        values = {each["Name"]: each["Value"] for each in found.get("Attributes", ())}
        version: str | None = values.get(_VERSION)
        if version is None:
            return None
        return _decoded(values, version), version

    async def insert(self, client: Any, key: str, blob: bytes, expires_at: int) -> str | None:
        """PutAttributes, if there is no version."""
        return await self._put(client, key, blob, expires_at, {"Name": _VERSION, "Exists": False}, 0)

    async def replace(self, client: Any, key: str, blob: bytes, expires_at: int, version: str) -> str | None:
        """PutAttributes, if that version is there."""
        expected = {"Name": _VERSION, "Value": version, "Exists": True}
        return await self._put(client, key, blob, expires_at, expected, _count(version))

    async def remove(self, client: Any, key: str, version: str) -> bool:
        """DeleteAttributes, all of them, if that version is there."""
        return await self._delete(client, key, _VERSION, version)

    # How.

    async def _put(
        self, client: Any, key: str, blob: bytes, expires_at: int, expected: dict[str, Any], were: int
    ) -> str | None:
        if len(blob) > LARGEST:
            raise StoreUnavailable(
                f"a record of {len(blob) - 8:,} bytes does not fit into an item of SimpleDB, which takes "
                f"{LARGEST - 8:,}: lower max_size",
                executed=False,
                full=True,
            )
        text = base64.b64encode(blob).decode()
        chunks = [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)]
        version = f"{os.urandom(12).hex()}.{len(chunks)}"
        values = {_VERSION: version, _EXPIRES: _padded(expires_at)}
        values |= {_chunk(number): each for number, each in enumerate(chunks)}
        # What a longer version leaves behind cannot be removed in the same step. It is overwritten: nothing
        # of the old data stays, and the names are those that a long record uses, so 256 always suffice.
        values |= {_chunk(number): "-" for number in range(len(chunks), were)}
        attributes = [{"Name": name, "Value": value, "Replace": True} for name, value in values.items()]
        done = await self._if_expected(
            lambda: client.put_attributes(
                DomainName=self._domain, ItemName=key, Attributes=attributes, Expected=expected
            )
        )
        return version if done else None

    async def _delete(self, client: Any, key: str, name: str, value: str) -> bool:
        return await self._if_expected(
            lambda: client.delete_attributes(
                DomainName=self._domain,
                ItemName=key,
                Expected={"Name": name, "Value": value, "Exists": True},
            )
        )

    async def _if_expected(self, ask: Callable[[], Awaitable[Any]]) -> bool:
        """Carry out a write; whether what it expected was there."""
        try:
            await self._patiently(ask, repeatable=False)
        except Exception as error:
            if code(error) not in _OTHER:
                raise
            return False
        return True

    async def _patiently(self, ask: Callable[[], Awaitable[Any]], *, repeatable: bool) -> Any:
        async def answer() -> Any:
            try:
                found = await ask()
            except KeyError:  # the SDK's, over an answer that lacks something
                found = {}
            if "RequestId" not in found.get("ResponseMetadata", ()):
                raise OSError("an answer without a request's id: it is not from SimpleDB")
            return found

        return await self._service.patiently(answer, deadline_here(), repeatable=repeatable)


def _chunk(number: int) -> str:
    return f"{number:03}"


def _count(version: str) -> int:
    """Return how many chunks that version has; as many as there can be, if it is none of ours."""
    count = version.partition(".")[2]
    return int(count) if _NUMBER.fullmatch(count) else _CHUNKS


def _decoded(values: dict[str, str], version: str) -> bytes:
    """Return the blob that an item holds; of a damaged one the expiry alone, so that it is unreadable."""
    try:
        text = "".join(values[_chunk(number)] for number in range(_count(version)))
        return base64.b64decode(text, validate=True)
    except (KeyError, ValueError):
        expires = values.get(_EXPIRES, "")
        return (int(expires) if _PADDED.fullmatch(expires) else 0).to_bytes(EXPIRY_SIZE, "big")


def _padded(ms: int) -> str:
    """Return a time as text that sorts as it does."""
    return f"{max(0, min(ms, 2**63 - 1)):019}"

"""`S3Store`: records as objects in a bucket of Amazon S3, written only if the expected one is there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, Final, Self, TypedDict, Unpack

from asgi_session._options import fraction
from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.clock import Clock, system_clock
from asgi_session.errors import ConfigurationError
from asgi_session.stores._shared.aws import AwsService, status
from asgi_session.stores._shared.aws_setup import set_up
from asgi_session.stores._shared.aws_urls import read_url
from asgi_session.stores._shared.extras import need
from asgi_session.stores._shared.verbs import Trouble
from asgi_session.stores.blobs import EXPIRY_SIZE, BlobStore
from asgi_session.stores.s3.bucket import Bucket
from asgi_session.stores.s3.checking import check, refusal

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PART: Final = r"(?!\.\.?(?:/|$))[A-Za-z0-9!_.*'()-]+"  # some servers go up a folder at ".."
_PREFIX: Final = re.compile(f"{_PART}(/{_PART})*")
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{22}")

_AT_ONCE: Final = 16
"""Objects that a purge looks into at once."""

_NOT_TRIED: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})


class S3Options(TypedDict, total=False):
    """The options of `S3Store.from_url`: those of `S3Store`."""

    prefix: str
    region: str | None
    endpoint_url: str | None
    session: Any
    connections: int
    timeout: timedelta | float
    connect_timeout: timedelta | float
    touch_fraction: float
    clock: Clock


class S3Store(BlobStore[Any, str]):
    """Sessions in a bucket of Amazon S3, or of a server that keeps S3's conditions.

    A record is an object, and its version is the object's ETag. An ETag may be the content's MD5. Then
    equal contents have equal ETags, which is harmless: an object begins with the record's expiry and 16
    bytes that never repeat, so equal contents are the same version of the same record, and replacing one
    is replacing the other. Nor can anybody prepare two contents with one MD5: they would have to know
    those 16 random bytes of both before they are drawn. Any other ETag (with KMS keys, in directory
    buckets) is new at each write.

    Whether a record's time has passed is judged by the clock of this process. Keep the clocks of your
    servers within a second or so of each other. S3 removes nothing by itself: give the bucket a lifecycle
    rule, or call `purge`.

    Args:
        bucket: its name, or the ARN of an access point.
        prefix: objects are named ``prefix/KEY``; without one ``KEY``.
        region: for example ``eu-central-1``; None: what the SDK finds (AWS_REGION, a profile).
        endpoint_url: another address than AWS's: a VPC endpoint's, another server's.
        session: an `aiobotocore.session.AioSession`, for credentials other than those the SDK finds.
        connections: how many an event loop opens at most; 50. Verbs above that wait.
        timeout: `timedelta` or seconds without a byte of the reply, for one try; 2.
        connect_timeout: `timedelta` or seconds; 2.
        touch_fraction: of a session's idle timeout: how much a touch must gain; 0.25, at most 0.5. A touch
            is a PUT of the whole record. Sessions may expire from idleness so much too early.
        clock: tells the time in milliseconds; the system's.

    Raises:
        ConfigurationError: aiobotocore is not installed, or an argument cannot work.
    """

    _patience: float = 4.0
    """Seconds that `open` and `create_bucket` may take."""

    removal_may_repeat: ClassVar[bool] = True  # aiohttp repeats what met a connection that had been dropped

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        region: str | None = None,
        endpoint_url: str | None = None,
        session: Any = None,
        connections: int = 50,
        timeout: timedelta | float = 2.0,
        connect_timeout: timedelta | float = 2.0,
        touch_fraction: float = 0.25,
        clock: Clock = system_clock,
    ) -> None:
        if not isinstance(bucket, str) or not (_BUCKET.fullmatch(bucket) or bucket.startswith("arn:")):
            raise ConfigurationError(
                f"bucket={bucket!r}: give the bucket's name (3 to 63 of a-z 0-9 . -) or an access point's ARN"
            )
        if not isinstance(prefix, str) or (prefix and not _PREFIX.fullmatch(prefix)) or len(prefix) > 900:
            raise ConfigurationError(
                f"prefix={prefix!r}: give up to 900 of A-Z a-z 0-9 ! _ . * ' ( ) -, parts divided by single "
                "slashes, without one at the beginning or end, and none of them . or .."
            )
        self.touch_fraction = fraction("touch_fraction", touch_fraction)
        self._purged_to = ""
        service = AwsService(
            "s3",
            store="S3Store",
            extra="s3",
            region=region,
            endpoint_url=endpoint_url,
            session=session,
            connections=connections,
            connect_timeout=connect_timeout,
            timeout=timeout,
            config={
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                "s3": {"addressing_style": "auto" if endpoint_url is None else "path"},
            },
            prepare=_without_expect,
        )
        self._service = service
        self._bucket = Bucket(service, bucket, f"{prefix}/" if prefix else "")
        super().__init__(at_once=connections, clock=clock)

    @classmethod
    def from_url(cls, store_url: str | Wrapped, **options: Unpack[S3Options]) -> Self:
        """Make a store from ``s3://BUCKET/PREFIX?region=REGION&endpoint_url=URL``.

        The prefix and the query may be absent. `options` are those of the class. Credentials are the
        SDK's business: a role, AWS_ACCESS_KEY_ID.

        Raises:
            ConfigurationError: the URL or an option is wrong.
        """
        given = hidden((store_url, options))  # either may hold a secret that is in the wrong place
        del store_url, options
        bucket, prefix, of_class = with_revealed(
            read_url, given, S3Options, store="S3Store", example="s3://bucket/sessions?region=eu-central-1"
        )
        of_class.setdefault("prefix", prefix)
        return cls(bucket, **of_class)

    def __repr__(self) -> str:
        bucket: Bucket | None = getattr(self, "_bucket", None)
        return "<S3Store>" if bucket is None else f"<S3Store {bucket.name}/{bucket.before}>"

    # The set-up.

    async def open(self) -> None:
        """Check that the bucket is there, lets us in and keeps conditions, with an object that is removed.

        Raises:
            ConfigurationError: what never heals by itself: no such bucket, no rights, no credentials, a
                server that ignores ``If-Match`` or ``If-None-Match``.
            StoreUnavailable: S3 is away.
        """
        await self._set_up("open", lambda client: check(self._bucket, client))

    async def create_bucket(self) -> None:
        """Make the bucket, unless it is there already.

        Raises:
            ConfigurationError: no right to (s3:CreateBucket), no credentials, or somebody else's name.
            StoreUnavailable: S3 is away.
        """
        await self._set_up("create_bucket", self._bucket.create)

    async def purge(self, *, limit: int = 1000, deadline: float) -> int:
        """Remove up to `limit` expired records, and return how many; fewer: none is left.

        It lists the objects, 1,000 per request, and reads the first 8 bytes of each. A lifecycle rule of the
        bucket's does it for nothing.

        Raises:
            StoreUnavailable: it was not through by the deadline, or S3 is away. The next purge of this
                object goes on where this one was.
        """
        removed = 0
        while removed < limit:
            async with self._clients.verb("purge", deadline) as verb:
                page = await self._bucket.list(await verb.client(), after=self._purged_to)
            found = [each for each in page.objects if _KEY.fullmatch(each[0])]
            while found and removed < limit:
                count = min(_AT_ONCE, limit - removed)
                some, found = found[:count], found[count:]
                results = await asyncio.gather(
                    *(self._purge_one(key, etag, deadline) for key, etag in some), return_exceptions=True
                )
                for result in results:
                    if isinstance(result, BaseException):
                        raise result
                    removed += result
                self._purged_to = some[-1][0]
            if not found:
                self._purged_to = page.last
                if not page.last:
                    break
        return removed

    async def _purge_one(self, key: str, etag: str, deadline: float) -> bool:
        """Remove an object of that ETag if the record in it has expired."""
        async with self._clients.verb("purge", deadline) as verb:
            client = await verb.client()
            expiry = await self._bucket.beginning(client, key, etag, EXPIRY_SIZE)
            if expiry is None or int.from_bytes(expiry, "big") > self._now():
                return False
            verb.sending()
            return await self.remove(client, key, etag)

    async def _set_up(self, name: str, work: Callable[[Any], Awaitable[None]]) -> None:
        await set_up(self._clients, name, self._patience, work, self.explain, partial(refusal, self._bucket))

    # What BlobStore asks for.

    async def connect(self) -> Any:
        """Make a client."""
        return await self._service.connect()

    async def disconnect(self, client: Any) -> None:
        """Close a client."""
        await self._service.disconnect(client)

    def explain(self, error: Exception) -> Trouble | None:
        """Say what an error means. What aiohttp sends again by itself may fail before or after that.

        It may have sent a write over a connection that was then dropped, and have met with a refusal, or
        not been able to connect, only the second time.
        """
        trouble = self._service.explain(error)
        if trouble is not None and not (400 <= status(error) < 500 and status(error) != 409):
            return Trouble(trouble.why, False if type(error).__name__ in _NOT_TRIED else None, trouble.full)
        return trouble

    async def get(self, client: Any, key: str) -> tuple[bytes, str] | None:
        """GET; S3 reads what was written last."""
        return await self._bucket.get(client, key)

    async def insert(self, client: Any, key: str, blob: bytes, expires_at: int) -> str | None:
        """PUT with ``If-None-Match: *``."""
        return await self._bucket.put(client, key, blob, IfNoneMatch="*")

    async def replace(self, client: Any, key: str, blob: bytes, expires_at: int, version: str) -> str | None:
        """PUT with ``If-Match``."""
        return await self._bucket.put(client, key, blob, IfMatch=version)

    async def remove(self, client: Any, key: str, version: str) -> bool:
        """DELETE with ``If-Match``."""
        return await self._bucket.delete(client, key, IfMatch=version)


def _without_expect(client: Any) -> None:
    # ``Expect: 100-continue`` would cost each PUT a round trip, to save sending a record that is refused.
    handlers = need("botocore.handlers", store="S3Store", extra="s3")
    client.meta.events.unregister("before-call.s3", handlers.add_expect_header)

"""The requests to a bucket: conditional ones, with S3's answers told apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from asgi_session.stores._shared.aws import AwsService, code, status
from asgi_session.stores._shared.verbs import deadline_here

T = TypeVar("T")


class Page(NamedTuple):
    """Objects as S3 lists them: names without the prefix, and ETags. `last` is empty on the last page."""

    objects: list[tuple[str, str]]
    last: str


class Bucket:
    """A bucket, or the part of it whose objects' names begin alike.

    Each request is repeated, until the deadline of the verb that makes it, where that can do no harm: all
    that only read, and writes that S3 has put off.

    Args:
        service: makes the clients.
        name: the bucket's.
        before: what the objects' names begin with; they are given and returned without it.
    """

    def __init__(self, service: AwsService, name: str, before: str) -> None:
        self.service = service
        self.name = name
        self.before = before

    async def get(self, client: Any, name: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and its ETag."""

        async def ask() -> tuple[bytes, str]:
            answer = await client.get_object(Bucket=self.name, Key=self.before + name)
            async with answer["Body"] as body:
                return bytes(await body.read()), _etag(answer)

        return await self._or_none(ask, repeatable=True, looks=True)

    async def beginning(self, client: Any, name: str, etag: str, size: int) -> bytes | None:
        """Return the first bytes of an object; None if its ETag is another, or it has not so many."""

        async def ask() -> bytes:
            answer = await client.get_object(
                Bucket=self.name, Key=self.before + name, IfMatch=etag, Range=f"bytes=0-{size - 1}"
            )
            async with answer["Body"] as body:
                return bytes(await body.read())

        found = await self._or_none(ask, repeatable=True, looks=True)
        return found if found is not None and len(found) == size else None

    async def put(self, client: Any, name: str, blob: bytes, **condition: str) -> str | None:
        """Write an object and return its ETag; None, and nothing written, if the condition is not met."""

        async def ask() -> str:
            answer = await client.put_object(Bucket=self.name, Key=self.before + name, Body=blob, **condition)
            return _etag(answer)

        return await self._or_none(ask, repeatable=False)

    async def delete(self, client: Any, name: str, **condition: str) -> bool:
        """Remove an object; whether the condition was met."""

        async def ask() -> bool:
            await client.delete_object(Bucket=self.name, Key=self.before + name, **condition)
            return True

        return await self._or_none(ask, repeatable=not condition) is True

    async def list(self, client: Any, after: str = "", most: int = 1000) -> Page:
        """Return objects that come after that name, in the order of their names."""

        async def ask() -> Any:
            return await client.list_objects_v2(
                Bucket=self.name, Prefix=self.before, StartAfter=after and self.before + after, MaxKeys=most
            )

        found = await self.service.patiently(ask, deadline_here(), repeatable=True)
        objects = [
            (each["Key"].removeprefix(self.before), each["ETag"]) for each in found.get("Contents", ())
        ]
        return Page(objects, objects[-1][0] if found.get("IsTruncated") else "")

    async def create(self, client: Any) -> None:
        """Make the bucket, unless we have it already."""
        region = client.meta.region_name
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            await client.create_bucket(Bucket=self.name, **place)
        except Exception as error:
            if code(error) != "BucketAlreadyOwnedByYou":
                raise

    async def _or_none(
        self, ask: Callable[[], Awaitable[T]], *, repeatable: bool, looks: bool = False
    ) -> T | None:
        """Ask; None where S3 says that another object than the expected one is there, or none.

        Which of the two it says differs between servers, so 404 and 412 mean the same. A missing bucket
        is neither. Who `looks` believes only S3 itself that there is no object: a proxy or a gateway that
        has lost its way answers 404 to everything, and nobody must be signed out by that.
        """
        try:
            return await self.service.patiently(ask, deadline_here(), repeatable=repeatable)
        except Exception as error:
            answered = status(error)
            if looks:
                absent = answered in (412, 416) or (answered == 404 and code(error) == "NoSuchKey")
            else:
                absent = answered in (404, 412) and code(error) != "NoSuchBucket"
            if absent:
                return None
            raise


def _etag(answer: Any) -> str:
    etag = answer.get("ETag")
    if not etag:
        raise OSError("an answer without an ETag: it is not from S3")
    return str(etag)

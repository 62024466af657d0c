"""The check of the set-up: does the bucket let us in, and does its server keep conditions?"""

from __future__ import annotations

import secrets
from typing import Any, Final

from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.stores._shared import aws
from asgi_session.stores.s3.bucket import Bucket

_NEVER: Final = '"00000000000000000000000000000000"'
"""An ETag that no object has."""

_ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_RIGHTS: Final = (
    "s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject on its objects"
)


async def check(bucket: Bucket, client: Any) -> None:
    """Try out every right and condition, on an object that is removed again."""
    await bucket.list(client, most=1)  # without that right, S3 answers 403 in place of 404
    probe = f"probe-{secrets.token_urlsafe(12)}"
    etag = await bucket.put(client, probe, b"", IfNoneMatch="*")
    try:
        if etag is None:
            raise StoreUnavailable("open: a new object was reported to exist", executed=False)
        if await bucket.put(client, probe, b"1", IfNoneMatch="*") is not None:
            raise _ignores(bucket, "If-None-Match with PUT")
        if await bucket.put(client, probe, b"2", IfMatch=_NEVER) is not None:
            raise _ignores(bucket, "If-Match with PUT")
        if await bucket.delete(client, probe, IfMatch=_NEVER) or await bucket.get(client, probe) is None:
            raise _ignores(bucket, "If-Match with DELETE")
    finally:
        await bucket.delete(client, probe)


def _ignores(bucket: Bucket, header: str) -> ConfigurationError:
    return ConfigurationError(
        f"the server {bucket.service.where} ignores {header}: a session that has ended could come back, and "
        "a change get lost. It cannot keep sessions"
    )


def refusal(bucket: Bucket, found: str, why: str) -> ConfigurationError | None:
    """Return the error that says what to do, if what S3 or the SDK has answered never heals by itself."""
    if found == "NoSuchBucket":
        return ConfigurationError(
            f"S3 has no bucket {bucket.name!r}: make it with `await store.create_bucket()`, or correct the "
            f"name or the region ({why})"
        )
    if found in _ELSEWHERE:
        return ConfigurationError(f"the bucket {bucket.name!r} is in another region: correct it ({why})")
    if found in ("BucketAlreadyExists", "InvalidBucketName"):
        return ConfigurationError(f"bucket={bucket.name!r}: choose another name ({why})")
    return aws.refusal("S3", found, rights=_RIGHTS, why=why)

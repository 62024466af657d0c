"""Sessions in a bucket of Amazon S3."""

from asgi_session.stores.s3.store import S3Store

__all__ = ["S3Store"]

"""URLs of AWS's services, and the options that are given with them."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from asgi_session.errors import ConfigurationError
from asgi_session.stores import DynamoDBStore, S3Store, SimpleDBStore

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("store", "url", "options"),
    [
        (S3Store, f"s3://key:{SECRET}@bucket", {}),
        (S3Store, "s3://bucket?region=eu-west-1", {"secret": SECRET}),
        (DynamoDBStore, f"dynamodb://key:{SECRET}@table", {}),
        (DynamoDBStore, "dynamodb://table?region=eu-west-1", {"secret": SECRET}),
        (SimpleDBStore, f"simpledb://key:{SECRET}@domain", {}),
        (SimpleDBStore, "simpledb://domain?region=eu-west-1", {"secret": SECRET}),
    ],
)
def test_no_secret_in_a_traceback(store: Any, url: str, options: dict[str, str]) -> None:
    """A key that is in the wrong place is not among the local variables that error trackers record."""
    with pytest.raises(ConfigurationError) as raised:
        store.from_url(url, **options)
    frames = traceback.TracebackException.from_exception(raised.value, capture_locals=True).format()
    assert SECRET not in "".join(each for each in frames if "test_aws_urls.py" not in each)

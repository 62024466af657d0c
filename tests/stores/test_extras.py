"""What a store needs besides this package: imported when it is made, named when it is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from asgi_session.errors import ConfigurationError
from asgi_session.stores._shared.extras import need

MADE = {
    "dynamodb://sessions?region=eu-central-1": ("aiobotocore", "dynamodb"),
    "s3://sessions?region=eu-central-1": ("aiobotocore", "s3"),
    "simpledb://sessions?region=eu-west-1": ("aiobotocore", "simpledb"),
}
"""Of each URL the package without which the store cannot be made, and the extra that brings it."""


@pytest.mark.parametrize("url", MADE)
def test_a_missing_extra_is_one_error_with_the_command(url: str) -> None:
    """Neither a traceback of imports nor a surprise at the first request."""
    package, extra = MADE[url]
    code = f"""
import sys
sys.modules[{package!r}] = None
from asgi_session import SessionManager
from asgi_session.errors import ConfigurationError
try:
    SessionManager({url!r})
except ConfigurationError as error:
    print(error, error.__cause__, error.__context__, sep="|")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    message, *before = done.stdout.strip().split("|")
    assert f"pip install 'asgi-session[{extra}]'" in message, done.stderr
    assert package in message
    assert before == ["None", "None"]


def test_a_package_that_is_there_but_lacks_its_own() -> None:
    """The error names what is missing, not what is there."""
    with pytest.raises(ConfigurationError, match=r"needs the package nowhere.*\[shop\]"):
        need("nowhere.at.all", store="ShopStore", extra="shop")

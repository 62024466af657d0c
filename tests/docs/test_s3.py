"""The pages on S3 and SimpleDB, executed against stand-ins, and held against what the stores do."""

from __future__ import annotations

import json
from datetime import timedelta
from inspect import signature
from pathlib import Path

import pytest
from aiobotocore.session import get_session

from asgi_session import SessionManager
from asgi_session.stores import S3Store, SimpleDBStore
from tests.docs.pages import ROOT, blocks, python, table
from tests.docs.test_examples import run
from tests.servers import Moto, SimpleDB
from tests.stores import test_s3, test_simpledb

S3, SDB = ROOT / "docs/s3.md", ROOT / "docs/simpledb.md"


async def executed(page: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    names: dict[str, object] = {"__name__": page.stem}
    for block in python(page):
        await run(page, block, names, "")
    return names


async def test_the_page_on_s3_runs(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python makes the bucket and purges it, and the check at startup finds nothing to complain of."""
    names = await executed(S3, moto.url, monkeypatch)
    store = names["store"]
    assert isinstance(store, S3Store)
    assert names["removed"] == 0
    await store.open()
    await store.close()


async def test_the_page_on_simpledb_runs(simpledb: SimpleDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python makes the domain and purges it, and the check at startup finds nothing to complain of."""
    names = await executed(SDB, simpledb.url, monkeypatch)
    store = names["store"]
    assert isinstance(store, SimpleDBStore)
    assert names["removed"] == 0
    await store.open()
    await store.close()


async def test_the_lifecycle_rule(moto: Moto) -> None:
    """A server takes it, and it leaves a session alone for the longest that one can last by default."""
    (rule,) = (block.text for block in blocks(S3) if block.file == "lifecycle.json")
    async with get_session().create_client("s3", region_name="us-east-1", endpoint_url=moto.url) as client:
        await client.create_bucket(Bucket="with-a-lifecycle")
        await client.put_bucket_lifecycle_configuration(
            Bucket="with-a-lifecycle", LifecycleConfiguration=json.loads(rule)
        )
    longest: timedelta = signature(SessionManager).parameters["absolute_timeout"].default
    assert json.loads(rule)["Rules"][0]["Expiration"] == {"Days": longest.days + 1}


@pytest.mark.parametrize(
    ("page", "requests"), [(S3, test_s3.REQUESTS), (SDB, test_simpledb.REQUESTS)], ids=["s3", "simpledb"]
)
def test_requests_of_each_verb(page: Path, requests: dict[str, list[str]]) -> None:
    """The page's table has what the stores' tests count on the wire."""
    shown = {row[0]: (row[1].split(", "), int(row[2])) for row in table(page, "verb")}
    assert shown == {verb: (names, len(names)) for verb, names in requests.items()}


@pytest.mark.parametrize(("page", "store"), [(S3, S3Store), (SDB, SimpleDBStore)], ids=["s3", "simpledb"])
def test_arguments(page: Path, store: type) -> None:
    """The page's table has every argument of the class."""
    shown = [row[0].strip("`") for row in table(page, "argument")]
    assert sorted(shown) == sorted(signature(store).parameters)


def test_policies() -> None:
    """They are JSON, and name the actions that the stores' errors ask for."""
    policies = [
        json.loads(block.text)
        for page in (S3, SDB)
        for block in blocks(page)
        if block.language == "json" and block.file is None
    ]
    actions = [
        action for policy in policies for one in policy["Statement"] for action in _several(one["Action"])
    ]
    assert actions == [
        *("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"),
        *("sdb:GetAttributes", "sdb:PutAttributes", "sdb:DeleteAttributes", "sdb:Select"),
    ]


def _several(action: str | list[str]) -> list[str]:
    return [action] if isinstance(action, str) else action

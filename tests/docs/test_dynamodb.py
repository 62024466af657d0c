"""The page on DynamoDB, executed against a stand-in."""

from __future__ import annotations

import json
from inspect import signature

import pytest

from asgi_session.stores import DynamoDBStore
from tests.docs.pages import ROOT, blocks, python, table
from tests.docs.test_examples import run
from tests.servers import Moto

PAGE = ROOT / "docs/dynamodb.md"


async def test_the_page_runs(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python makes the table, and the check at startup finds nothing to complain of."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    names: dict[str, object] = {"__name__": PAGE.stem}
    for block in python(PAGE):
        await run(PAGE, block, names, "")
    store = names["store"]
    assert isinstance(store, DynamoDBStore)
    await store.open()
    await store.close()


def test_arguments() -> None:
    """The page's table has every argument of the class."""
    shown = [row[0].strip("`") for row in table(PAGE, "argument")]
    assert sorted(shown) == sorted(signature(DynamoDBStore).parameters)


def test_the_policy_names_what_the_verbs_need() -> None:
    """The rights on the page are those of the error that asks for them."""
    (policy,) = (json.loads(block.text) for block in blocks(PAGE) if block.language == "json")
    assert policy["Statement"][0]["Action"] == [
        f"dynamodb:{action}" for action in ("GetItem", "PutItem", "UpdateItem", "DeleteItem")
    ]

"""The page on Memcached, executed against a server, and its table held against what the wire shows."""

from __future__ import annotations

import inspect

import pytest

from asgi_session import SessionManager
from asgi_session.stores import MemcachedStore
from asgi_session.stores.memcached.arguments import MemcachedOptions
from tests.docs.pages import ROOT, python, table
from tests.docs.test_examples import run
from tests.servers import MemcachedProcess
from tests.servers.memcached import MISSING
from tests.stores.memcached.trips import TRIPS

PAGE = ROOT / "docs/memcached.md"


async def shown(server: MemcachedProcess) -> dict[str, object]:
    names: dict[str, object] = {"__name__": PAGE.stem}
    for block in python(PAGE):
        text = block.text.replace("localhost:11211", f"{server.host}:{server.port}")
        await run(PAGE, block._replace(text=text), names, "")
        for found in (names.get("store"), getattr(names.get("manager"), "store", None)):
            if isinstance(found, MemcachedStore) and f":{server.port}" in repr(found):
                await found.open()
                await found.close()
    return names


if not MISSING:

    async def test_the_page_runs(memcached: MemcachedProcess) -> None:
        """Its Python runs from top to bottom, and what names a server at hand can be opened."""
        names = await shown(memcached)
        assert isinstance(names["manager"], SessionManager)
        assert isinstance(names["store"], MemcachedStore)


def test_its_options() -> None:
    """The table has every option of a URL's store, and the real defaults where there are any."""
    options = {row[0].strip("`"): row[1].strip("`") for row in table(PAGE, "argument")}
    assert options.keys() == set(MemcachedOptions.__annotations__)
    real = inspect.signature(MemcachedStore).parameters
    for name, unit in (("timeout", 1), ("connect_timeout", 1), ("max_connection_age", 3600)):
        assert float(options[name].split()[0]) * unit == real[name].default


@pytest.mark.parametrize("row", table(PAGE, "verb"), ids=lambda row: row[0])
def test_its_round_trips(row: list[str]) -> None:
    """They are those that are counted on the wire."""
    verb, known, unknown = row
    assert TRIPS[verb] == (int(known), int(unknown))

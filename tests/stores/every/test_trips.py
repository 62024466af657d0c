"""What each verb costs on the wire."""

from __future__ import annotations

from tests.docs.pages import ROOT
from tests.servers import TcpProxy
from tests.stores.every.kinds import Kind, on_the_wire, over
from tests.stores.every.site import Site
from tests.stores.every.trips import measure, table


@over(on_the_wire)
async def test_round_trips(kind: Kind, site: Site, proxy: TcpProxy) -> None:
    """On a connection in use each verb costs as many round trips as the table says, every time."""
    store, other = site.store(port=proxy.port), site.store()
    await measure(proxy, store, other)  # connects, prepares
    assert await measure(proxy, store, other) == kind.trips
    assert await measure(proxy, store, other) == kind.trips


def test_the_documentation_has_the_table() -> None:
    """The page on the stores shows what `python -m tests.stores.every.trips` prints."""
    assert table() in (ROOT / "docs" / "stores.md").read_text()

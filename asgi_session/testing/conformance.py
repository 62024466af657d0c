"""The store contract as tests, for every store to pass, ours and other people's."""

from __future__ import annotations

from asgi_session.testing._suite.expiry import ExpiryTests
from asgi_session.testing._suite.locks import LockTests
from asgi_session.testing._suite.loops import LoopTests
from asgi_session.testing._suite.races import RaceTests
from asgi_session.testing._suite.service import ServiceTests
from asgi_session.testing._suite.verbs import VerbTests
from asgi_session.testing._suite.wakeups import WakeUpTests


class StoreConformance(VerbTests, ExpiryTests, RaceTests, ServiceTests, LockTests, LoopTests, WakeUpTests):
    """Inherit from this class in a test module and give it a fixture named `store`.

    ::

        class TestMyStore(StoreConformance):
            @pytest.fixture
            async def store(self):
                store = MyStore(...)
                yield store
                await store.close()

    The tests are ``async def`` on asyncio: they need pytest-asyncio in its auto mode (else mark the
    class with ``@pytest.mark.asyncio``) or anyio's plugin (``@pytest.mark.anyio``, asyncio backend). A
    record they write has a key of its own, so that they can share a server and leave it unemptied.

    Overridable, where a store needs it:

    * `now()`: the time the store goes by, in ms: its server's, where that judges expiry. Default: this
      machine's clock.
    * `pass_time(until_ms)`: an async method that lets it pass. Default: wait until `slack_ms` after
      it. With a `ManualClock`, set it.
    * `another(store)`: another store object, with the same records; the suite closes it. Default: the
      store itself.
    * `holding(store, key, data, expires_at)`: an async context manager that holds a record in the server,
      as a transaction of somebody else's does, so that the store's verbs on it wait there. It gives an
      async function that returns once a verb waits. On leaving, the record has `data` and `expires_at`,
      or with None as data it is deleted. Without it nothing is claimed for verbs that wait. Default:
      None, for servers where nothing waits.
    * `repeating(store)`: an async context manager that gives a store with the same records. The first
      write through it is carried out, but its reply is lost, and the store's client sends it again by
      itself. Each write gets a new one. Without it nothing is claimed for such clients. Default: None,
      for stores whose clients never repeat a write.
    * `timeout` (5 s): what each verb is given. `short_ms` (50): the life of records that expire in a
      test. `slack_ms` (20): by how much the store's clock may be behind. `largest` (66,000): the size
      in bytes of the largest record tried. `steps` (500): how many random verbs, three times over;
      fewer for a stand-in that takes milliseconds for each. Below 100 it also shortens, in proportion,
      other tests that go on for many rounds.

    The suite never asks which store it runs on.
    """

"""Servers as fixtures. They start when first asked for; one that cannot start fails the test.

Shared servers are emptied before each test that asks for them. A test that kills, freezes or reshards
asks for a `fresh_...` one, which is its own.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.servers import (
    Cluster,
    FakeredisServer,
    MemcachedProcess,
    Ministack,
    Moto,
    NatsServer,
    SeaweedFS,
    SentinelSetup,
    ServerProcess,
    SimpleDB,
    start_cluster,
    start_fakeredis,
    start_memcached,
    start_ministack,
    start_moto,
    start_nats,
    start_redis62,
    start_seaweedfs,
    start_sentinel,
    start_simpledb,
    start_valkey,
)
from tests.servers.aws import ACCESS_KEY, SECRET_KEY
from tests.servers.sql import MariaDB, PostgreSQL, start_mariadb, start_postgresql

# How long an example takes says more of the machine than of the library: "linear" is tested by counting.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")

# The modules and tests of a whole run stay. To look through them again and again was a fifth of the time of
# the tests that run every order of some steps.
_YOUNG, _OLDER, _OLDEST = gc.get_threshold()
gc.set_threshold(_YOUNG, _OLDER, 10 * _OLDEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI a skipped test is a failed one: nothing there may pass by not having run."""
    report = yield
    if os.environ.get("CI") and report.skipped:  # type: ignore[attr-defined]
        report.outcome = "failed"  # type: ignore[attr-defined]
        report.longrepr = f"skipped in CI: {report.longrepr}"  # type: ignore[attr-defined]
    return report  # type: ignore[return-value]


_TOLD = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line for the end of the run: what tests have counted is told there, also when all is well."""
    return request.config.stash.setdefault(_TOLD, []).append


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of several processes that run tests, each hands over what it has to tell."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["told"] = session.config.stash.get(_TOLD, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process that ran tests has told; one that crashed has told nothing."""
    told = getattr(node, "workeroutput", {}).get("told", [])
    node.config.stash.setdefault(_TOLD, []).extend(told)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(_TOLD, []):
        terminalreporter.section("the lock and transactions, counted")
        for line in lines:
            terminalreporter.line(line)


MEASURED = (
    *("unit", "manager", "app"),
    *(
        "stores/test_memory.py",
        "stores/test_faults.py",
        "stores/test_blobs.py",
        "stores/moving/test_moving.py",
    ),
)
"""Where coverage is measured: the tests in one process that show what the core promises."""

DEAR = "test_interleavings"
"""Hundreds of orders of the same steps: to measure them costs half as much again, and shows nothing new."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure coverage where that is cheap; no test runs twice for it."""
    here = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(here).as_posix()
        if not place.startswith(MEASURED) or item.path.name.startswith(DEAR):
            item.add_marker("no_cover")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """PostgreSQL 18, shared: every test uses keys, or a table, of its own."""
    server = start_postgresql()
    yield server
    server.stop()


@pytest.fixture
def fresh_postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL of the test's own, to kill."""
    server = start_postgresql()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """MariaDB, shared: every test uses keys, or a table, of its own."""
    server = start_mariadb()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[ServerProcess]:
    server = start_valkey()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_redis62() -> Iterator[ServerProcess]:
    server = start_redis62()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_fakeredis() -> Iterator[FakeredisServer]:
    server = start_fakeredis()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """NATS with JetStream."""
    server = start_nats()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    cluster = start_cluster()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def shared_sentinel() -> Iterator[SentinelSetup]:
    setup = start_sentinel()
    yield setup
    setup.stop()


@pytest.fixture
def valkey(shared_valkey: ServerProcess) -> ServerProcess:
    """Valkey 9, empty."""
    shared_valkey.flush()
    return shared_valkey


@pytest.fixture
def redis62(shared_redis62: ServerProcess) -> ServerProcess:
    """Redis 6.2, empty."""
    shared_redis62.flush()
    return shared_redis62


@pytest.fixture
def fakeredis_server(shared_fakeredis: FakeredisServer) -> FakeredisServer:
    """fakeredis's TCP server, empty."""
    shared_fakeredis.flush()
    return shared_fakeredis


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """Three primaries with a replica each, empty."""
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture
def sentinel(shared_sentinel: SentinelSetup) -> SentinelSetup:
    """A primary, a replica and three Sentinels, empty."""
    shared_sentinel.flush()
    return shared_sentinel


@pytest.fixture(scope="session")
def shared_without_lua() -> Iterator[ServerProcess]:
    hidden = [each for name in ("EVAL", "EVALSHA") for each in ("--rename-command", name, "")]
    server = start_valkey(*hidden)
    yield server
    server.stop()


@pytest.fixture
def without_lua(shared_without_lua: ServerProcess) -> ServerProcess:
    """Valkey 9 that does not know EVAL and EVALSHA, emptied."""
    shared_without_lua.flush()
    return shared_without_lua


@pytest.fixture
def fresh_valkey() -> Iterator[ServerProcess]:
    """A Valkey of the test's own, to kill or freeze."""
    server = start_valkey()
    yield server
    server.stop()


@pytest.fixture
def fresh_cluster() -> Iterator[Cluster]:
    """A cluster of the test's own, to break."""
    cluster = start_cluster()
    yield cluster
    cluster.stop()


@pytest.fixture
def fresh_sentinel() -> Iterator[SentinelSetup]:
    """A Sentinel set-up of the test's own, to break."""
    setup = start_sentinel()
    yield setup
    setup.stop()


@pytest.fixture(scope="session")
def shared_memcached() -> Iterator[MemcachedProcess]:
    server = start_memcached()
    yield server
    server.stop()


@pytest.fixture
def memcached(shared_memcached: MemcachedProcess) -> MemcachedProcess:
    """Memcached, empty."""
    shared_memcached.flush()
    return shared_memcached


@pytest.fixture
def fresh_memcached() -> Iterator[MemcachedProcess]:
    """A Memcached of the test's own, to kill or freeze."""
    server = start_memcached()
    yield server
    server.stop()


@pytest.fixture
def aws_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials as the SDK finds them, and none of this machine's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(scope="session")
def shared_moto() -> Iterator[Moto]:
    server = start_moto()
    yield server
    server.stop()


@pytest.fixture
def moto(shared_moto: Moto, aws_keys: None) -> Moto:
    """moto, with what earlier tests have left in it."""
    return shared_moto


@pytest.fixture(scope="session")
def shared_ministack() -> Iterator[Ministack]:
    server = start_ministack()
    yield server
    server.stop()


@pytest.fixture
def ministack(shared_ministack: Ministack, aws_keys: None) -> Ministack:
    """ministack, with what earlier tests have left in it."""
    return shared_ministack


@pytest.fixture(scope="session")
def shared_seaweedfs() -> Iterator[SeaweedFS]:
    server = start_seaweedfs()
    yield server
    server.stop()


@pytest.fixture
def seaweedfs(shared_seaweedfs: SeaweedFS, aws_keys: None) -> SeaweedFS:
    """SeaweedFS, with what earlier tests have left in it."""
    return shared_seaweedfs


@pytest.fixture
def fresh_seaweedfs(aws_keys: None) -> Iterator[SeaweedFS]:
    """A SeaweedFS of the test's own, to kill or freeze."""
    server = start_seaweedfs()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_simpledb() -> Iterator[SimpleDB]:
    server = start_simpledb()
    yield server
    server.stop()


@pytest.fixture
def simpledb(shared_simpledb: SimpleDB, aws_keys: None) -> SimpleDB:
    """The stand-in for SimpleDB, empty."""
    shared_simpledb.flush()
    return shared_simpledb

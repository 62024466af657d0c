"""A primary, a replica and three Sentinels."""

from __future__ import annotations

from tests.servers.process import ServerProcess, launch_valkey, valkey_binary
from tests.servers.server import wait_until

NAME = "mymaster"


class SentinelSetup:
    """What watches and what is watched; `primary` and `replica` follow failovers."""

    name = NAME

    def __init__(self, data: list[ServerProcess], sentinels: list[ServerProcess]) -> None:
        self.data = data
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        """`redis+sentinel://` with every Sentinel, and the name of the primary as the path."""
        return "redis+sentinel://" + ",".join(f"{s.host}:{s.port}" for s in self.sentinels) + f"/{NAME}"

    @property
    def primary(self) -> ServerProcess:
        """Return the server that the majority of the Sentinels calls the primary."""
        ports = [self._told_by(sentinel) for sentinel in self.sentinels if sentinel.alive]
        return next(s for s in self.data if s.port == max(ports, key=ports.count))

    @property
    def replica(self) -> ServerProcess:
        return next(server for server in self.data if server is not self.primary)

    def _told_by(self, sentinel: ServerProcess) -> int:
        return int(sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    def failover(self) -> None:
        """Order a failover and wait until every Sentinel names the new primary, which takes writes."""
        new = self.replica
        self.sentinels[0].command("SENTINEL", "FAILOVER", NAME)
        self.wait_primary(new)

    def wait_primary(self, server: ServerProcess, *, timeout: float = 30) -> None:
        """Wait until every live Sentinel names `server` and it says the same of itself."""
        live = [sentinel for sentinel in self.sentinels if sentinel.alive]
        wait_until(
            f"{server} is primary",
            lambda: (
                all(self._told_by(s) == server.port for s in live) and server.command("ROLE")[0] == b"master"
            ),
            timeout=timeout,
        )

    def wait_ok(self, *, timeout: float = 30) -> None:
        """Wait until the Sentinels know each other and the replica, and the replica is in step."""

        def ok() -> bool:
            known = [s.info("sentinel")["master0"] for s in self.sentinels if s.alive]
            return (
                all("status=ok,address" in k and "slaves=1,sentinels=3" in k for k in known)
                and self.replica.info("replication").get("master_link_status") == "up"
            )

        wait_until("Sentinel is ok", ok, timeout=timeout, every=0.03)

    def flush(self) -> None:
        self.primary.flush()

    def stop(self) -> None:
        for server in [*self.sentinels, *self.data]:
            server.stop()


def start_sentinel(*, down_after_ms: int = 500) -> SentinelSetup:
    """Start a primary, its replica and three Sentinels with a quorum of two, and wait until all is well."""
    primary = launch_valkey("--repl-diskless-sync-delay", "0")
    replica = launch_valkey(
        "--repl-diskless-sync-delay", "0", "--replicaof", f"{primary.host} {primary.port}"
    )
    conf = "\n".join(
        (
            f"sentinel monitor {NAME} {primary.host} {primary.port} 2",
            f"sentinel down-after-milliseconds {NAME} {down_after_ms}",
            f"sentinel failover-timeout {NAME} 1000",
        )
    )
    started = [primary, replica]
    try:
        primary.wait_ready()
        replica.wait_ready()
        wait_until(
            "the replica is in step", lambda: replica.info("replication")["master_link_status"] == "up"
        )
        started += [ServerProcess(valkey_binary(), [], sentinel_conf=conf) for _ in range(3)]
        for server in started[2:]:
            server.wait_ready()
        setup = SentinelSetup(started[:2], started[2:])
        setup.wait_ok()
    except BaseException:
        for server in started:
            server.stop()
        raise
    return setup

"""Real servers for the tests: on loopback, on free ports, without persistence, dead when we are."""

from tests.servers.cluster import Cluster, slot_of, start_cluster
from tests.servers.process import (
    FakeredisServer,
    Server,
    ServerProcess,
    start_fakeredis,
    start_redis62,
    start_valkey,
    wait_until,
)
from tests.servers.proxy import Hold, LossyProxy, named
from tests.servers.sentinel import SentinelSetup, start_sentinel

__all__ = [
    "Cluster",
    "FakeredisServer",
    "Hold",
    "LossyProxy",
    "SentinelSetup",
    "Server",
    "ServerProcess",
    "named",
    "slot_of",
    "start_cluster",
    "start_fakeredis",
    "start_redis62",
    "start_sentinel",
    "start_valkey",
    "wait_until",
]

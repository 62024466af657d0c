"""Real servers for the tests: on loopback, on free ports, without persistence, dead when we are."""

from tests.servers.aws import (
    AwsServer,
    Ministack,
    Moto,
    SeaweedFS,
    start_ministack,
    start_moto,
    start_seaweedfs,
)
from tests.servers.cluster import Cluster, slot_of, start_cluster
from tests.servers.fake import FakeredisServer, start_fakeredis
from tests.servers.http_proxy import HttpProxy, method
from tests.servers.memcached import MemcachedProcess, MemcachedProxy, start_memcached
from tests.servers.nats import NatsServer, start_nats
from tests.servers.process import ServerProcess, start_redis62, start_valkey
from tests.servers.proxy import Hold, LossyProxy, named, saves
from tests.servers.sentinel import SentinelSetup, start_sentinel
from tests.servers.server import Server, wait_until
from tests.servers.simpledb import SimpleDB, start_simpledb
from tests.servers.tcp_proxy import Cut, HeldReplies, TcpProxy

__all__ = [
    "AwsServer",
    "Cluster",
    "Cut",
    "FakeredisServer",
    "HeldReplies",
    "Hold",
    "HttpProxy",
    "LossyProxy",
    "MemcachedProcess",
    "MemcachedProxy",
    "Ministack",
    "Moto",
    "NatsServer",
    "SeaweedFS",
    "SentinelSetup",
    "Server",
    "ServerProcess",
    "SimpleDB",
    "TcpProxy",
    "method",
    "named",
    "saves",
    "slot_of",
    "start_cluster",
    "start_fakeredis",
    "start_memcached",
    "start_ministack",
    "start_moto",
    "start_nats",
    "start_redis62",
    "start_seaweedfs",
    "start_sentinel",
    "start_simpledb",
    "start_valkey",
    "wait_until",
]

"""Real servers for the tests: on loopback, on free ports, without persistence, dead when we are."""

from tests.servers.cluster import Cluster, slot_of, start_cluster
from tests.servers.fake import FakeredisServer, start_fakeredis
from tests.servers.memcached import MemcachedProcess, MemcachedProxy, start_memcached
from tests.servers.moto import MotoServer, start_moto
from tests.servers.process import ServerProcess, start_redis62, start_valkey
from tests.servers.proxy import Hold, LossyProxy, named, saves
from tests.servers.sentinel import SentinelSetup, start_sentinel
from tests.servers.server import Server, wait_until
from tests.servers.tcp_proxy import Cut, HeldReplies, TcpProxy

__all__ = [
    "Cluster",
    "Cut",
    "FakeredisServer",
    "HeldReplies",
    "Hold",
    "LossyProxy",
    "MemcachedProcess",
    "MemcachedProxy",
    "MotoServer",
    "SentinelSetup",
    "Server",
    "ServerProcess",
    "TcpProxy",
    "named",
    "saves",
    "slot_of",
    "start_cluster",
    "start_fakeredis",
    "start_memcached",
    "start_moto",
    "start_redis62",
    "start_sentinel",
    "start_valkey",
    "wait_until",
]

"""A site of a given size: requests, commands, bytes, and what servers it takes. And the month's bill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.costs import units
from benchmarks.costs.figures import MIX, Figures
from benchmarks.costs.prices import POSTGRESQL_NODES, PRICES, VALKEY_NODES, Node

HOURS: Final = 730
"""Of a month, as AWS counts."""
SECONDS: Final = 86_400
GIB: Final = 2**30

USABLE: Final = 0.75
"""Of a node's memory: AWS reserves the rest by default."""
ROOM: Final = 1.25
"""Plan for so many times the memory that the sessions take."""
BUSY: Final = 0.5
"""How much of its one core a Valkey primary uses at the peak."""
STATEMENTS: Final = 2_000
"""Statements per second and vCPU of PostgreSQL. Assumed, not measured."""
ROW: Final = 96
"""Bytes of a row in PostgreSQL beside the record: header, key, tag, expiry."""
FILL: Final = 0.6
"""Of a table's pages: a fillfactor that leaves room for new versions of a row."""
ROW_INDEXES: Final = 60
"""Bytes of a row in the table's indexes."""
MEMCACHED_ITEM: Final = 100
"""Bytes of an item in Memcached beside the record: header, key, what its slab leaves unused. Estimated."""
SIMPLEDB_DOMAIN: Final = 10 * GIB
TOUCH_FRACTION: Final = 20
"""A session is touched at most once per idle timeout divided by this."""


@dataclass(frozen=True)
class Site:
    """So many sessions, and what they do. Change the defaults to yours.

    Attributes:
        sessions: that the store holds.
        requests: of each, per day, of the mix.
        touches: of each, per day.
        days: how long a session lasts; each is created once.
        ended: the share of them that ends by a logout.
        peak: how many times the average rate the busiest minutes have.
    """

    sessions: float
    requests: float = 20
    touches: float = 1
    days: float = 14
    ended: float = 0.5
    peak: float = 4

    def per_day(self) -> dict[str, float]:
        """Return how many requests of each kind come in a day, and touches."""
        counts = {kind: self.sessions * self.requests * share for kind, share in MIX.items()}
        begun = self.sessions / self.days
        return {
            **counts,
            "new": begun,
            "destroy": begun * self.ended,
            "touch": self.sessions * self.touches,
        }

    def requests_per_second(self) -> float:
        """Return the rate at the peak, of all requests."""
        return self.peak * sum(count for kind, count in self.per_day().items() if kind != "touch") / SECONDS

    def commands_per_second(self) -> float:
        """Return the rate at the peak, of the verbs that the store carries out."""
        day = self.per_day().items()
        return self.peak * sum(count * sum(units.VERBS[kind].values()) for kind, count in day) / SECONDS

    def writes_per_second(self) -> float:
        """Return the rate at the peak, of the verbs that write."""
        day = self.per_day()
        return self.peak * sum(day[kind] for kind in ("write", "new", "destroy", "touch")) / SECONDS

    def bytes_per_second(self, figures: Figures) -> float:
        """Return the bytes on a Valkey's wire at the peak, both ways."""
        moved = {**figures.kind_bytes, "touch": figures.verb_bytes["touch"]}
        return self.peak * sum(count * moved[kind] for kind, count in self.per_day().items()) / SECONDS

    def cores(self, figures: Figures) -> tuple[float, float]:
        """Return the cores of Valkey that the peak keeps busy: if processes send together, if one by one."""
        low, high = figures.cpu
        per_command = 1 / sum(share * sum(units.VERBS[kind].values()) for kind, share in MIX.items())
        rate = self.commands_per_second() * per_command
        return rate * low / 1e6 * figures.full, rate * high / 1e6 * figures.full


@dataclass(frozen=True)
class Fleet:
    """Nodes of one kind.

    Attributes:
        node: the kind.
        shards: how many primaries.
        copies: of each shard, the primary included.
    """

    node: Node
    shards: int
    copies: int = 2

    @property
    def monthly(self) -> float:
        """Dollars a month."""
        return self.shards * self.copies * self.node.price.usd * HOURS

    def __str__(self) -> str:
        return f"{self.shards * self.copies} {self.node.name}"


def valkey_fleet(site: Site, figures: Figures, nodes: Sequence[Node] = VALKEY_NODES) -> Fleet:
    """Return nodes that hold the sessions and carry the peak, each shard with a replica.

    Those of the fewest shards, as long as they cost no more than half as much again as the cheapest.
    """
    memory = site.sessions * figures.memory * ROOM
    cores = site.cores(figures)[1]
    fleets = [
        Fleet(
            node,
            max(
                1,
                math.ceil(memory / (node.memory * GIB * USABLE)),
                math.ceil(cores / (min(node.vcpus, 1) * BUSY)),
            ),
        )
        for node in nodes
    ]
    most = 1.5 * min(fleet.monthly for fleet in fleets)
    return min(
        (fleet for fleet in fleets if fleet.monthly <= most),
        key=lambda fleet: (fleet.shards, fleet.monthly),
    )


def row_size(record: int) -> float:
    """Return the bytes that a record takes in PostgreSQL."""
    return (record + ROW) / FILL + ROW_INDEXES


def postgresql_fleet(site: Site, figures: Figures) -> Fleet | None:
    """Return the smallest instance that keeps the table in memory, with a standby; None if there is none."""
    memory = site.sessions * row_size(figures.record)
    for node in POSTGRESQL_NODES:
        enough = node.vcpus * STATEMENTS >= site.commands_per_second()
        if enough and node.memory * GIB * USABLE >= memory:
            return Fleet(node, 1)
    return None


def requests_bill(site: Site, costs: units.Costs) -> float:
    """Return the month's dollars for requests, on a service that is paid per use."""
    day = sum(count * units.of_request(kind, costs) for kind, count in site.per_day().items())
    return day * HOURS / 24


def stored_bill(name: str, site: Site, figures: Figures) -> float | None:
    """Return the month's dollars for what is stored; None where it does not fit."""
    record = figures.record

    def gb(size: float) -> float:
        return site.sessions * size / GIB

    if name == "ElastiCache Serverless for Valkey":
        return max(0.1, gb(figures.memory)) * PRICES["valkey_gb"].usd * HOURS
    if name == "ElastiCache Serverless for Memcached":
        size = record + units.BLOB_HEAD + MEMCACHED_ITEM
        return max(1.0, gb(size)) * PRICES["memcached_gb"].usd * HOURS
    if name == "DynamoDB on demand":
        return gb(units.item_size(record) + units.ITEM_OVERHEAD) * PRICES["dynamodb_gb"].usd
    if name == "S3 Standard":
        return gb(record + units.BLOB_HEAD) * PRICES["s3_gb"].usd
    values = units.base64_size(units.BLOB_HEAD + record) + 2 * units.TAG
    if site.sessions * (values + units.KEY) > SIMPLEDB_DOMAIN:
        return None
    charged = values + units.KEY + units.INDEX_ENTRY * (1 + units.attributes(record))
    return gb(charged) * PRICES["simpledb_gb"].usd


def bills(site: Site, figures: Figures) -> Mapping[str, tuple[float, str] | None]:
    """Return the month's dollars of each service and what they are for; None where it does not fit."""
    found: dict[str, tuple[float, str] | None] = {}
    fleet = valkey_fleet(site, figures)
    found["ElastiCache for Valkey, nodes"] = fleet.monthly, str(fleet)
    database = postgresql_fleet(site, figures)
    if database is None:
        found["RDS for PostgreSQL, Multi-AZ"] = None
    else:
        stored = max(20.0, site.sessions * row_size(figures.record) / GIB)
        disks = database.copies * stored * PRICES["rds_gb"].usd
        found["RDS for PostgreSQL, Multi-AZ"] = database.monthly + disks, str(database)
    for name, verbs in units.PER_USE.items():
        stored_for = stored_bill(name, site, figures)
        if stored_for is None:
            found[name] = None
        else:
            requests = requests_bill(site, verbs(figures))
            found[name] = requests + stored_for, f"{100 * stored_for / (requests + stored_for):.0f} % storage"
    return found


def touch_rate(idle_seconds: float, in_use: float) -> float:
    """Return the touches per second of so many sessions that are in use all the time."""
    return in_use * TOUCH_FRACTION / idle_seconds

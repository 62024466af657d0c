"""List prices of AWS in us-east-1, each with its date and with how it was checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Price:
    """What AWS asks for.

    Attributes:
        what: the service and its unit.
        usd: per unit.
        per: the unit, and how many of them.
        as_of: the day or month of the price; empty when it could not be checked.
        checked: how: against what.
        page: where AWS shows today's.
    """

    what: str
    usd: float
    per: str
    as_of: str
    checked: str
    page: str


_LIST: Final = "AWS's Price List API, as others have published it"
_ARTICLE: Final = "an article that quotes AWS"
_NOT: Final = "not checked: the last price that we know"

_DYNAMODB: Final = "https://aws.amazon.com/dynamodb/pricing/on-demand/"
_S3: Final = "https://aws.amazon.com/s3/pricing/"
_ELASTICACHE: Final = "https://aws.amazon.com/elasticache/pricing/"
_RDS: Final = "https://aws.amazon.com/rds/postgresql/pricing/"
_SIMPLEDB: Final = "https://aws.amazon.com/simpledb/pricing/"

PRICES: Final = {
    "wru": Price("DynamoDB on-demand, write request units", 0.625, "million", "2026-07-31", _LIST, _DYNAMODB),
    "rru": Price("DynamoDB on-demand, read request units", 0.125, "million", "2026-07-31", _LIST, _DYNAMODB),
    "dynamodb_gb": Price("DynamoDB storage", 0.25, "GB and month", "2026-07-31", _LIST, _DYNAMODB),
    "put": Price("S3 Standard, PUT", 5.0, "million", "2026-09-28", _LIST, _S3),
    "get": Price("S3 Standard, GET", 0.4, "million", "2026-09-28", _LIST, _S3),
    "s3_gb": Price("S3 Standard, storage up to 50 TB", 0.023, "GB and month", "2026-09-28", _LIST, _S3),
    "valkey_ecpu": Price(
        "ElastiCache Serverless for Valkey, ECPU", 0.0023, "million", "2026-06", _ARTICLE, _ELASTICACHE
    ),
    "valkey_gb": Price(
        "ElastiCache Serverless for Valkey, data", 0.084, "GB and hour", "2026-06", _ARTICLE, _ELASTICACHE
    ),
    "memcached_ecpu": Price(
        "ElastiCache Serverless for Memcached, ECPU", 0.0034, "million", "2026-06", _ARTICLE, _ELASTICACHE
    ),
    "memcached_gb": Price(
        "ElastiCache Serverless for Memcached, data", 0.125, "GB and hour", "2026-06", _ARTICLE, _ELASTICACHE
    ),
    "rds_gb": Price("RDS gp3 storage, one zone", 0.115, "GB and month", "2026-06", _ARTICLE, _RDS),
    "simpledb_hour": Price("SimpleDB, machine hours", 0.14, "hour", "", _NOT, _SIMPLEDB),
    "simpledb_gb": Price("SimpleDB, storage", 0.25, "GB and month", "", _NOT, _SIMPLEDB),
}


@dataclass(frozen=True)
class Node:
    """A kind of server that is paid by the hour.

    Attributes:
        name: AWS's.
        memory: GiB.
        vcpus: how many, of the full speed that it may use all the time.
        price: of one, per hour.
    """

    name: str
    memory: float
    vcpus: float
    price: Price


def _valkey(name: str, memory: float, vcpus: float, usd: float) -> Node:
    price = Price(f"ElastiCache for Valkey, {name}", usd, "node and hour", "2026-10-02", _LIST, _ELASTICACHE)
    return Node(name, memory, vcpus, price)


def _postgresql(name: str, memory: float, vcpus: float, usd: float) -> Node:
    price = Price(f"RDS for PostgreSQL, {name}, one zone", usd, "hour", "2026", _ARTICLE, _RDS)
    return Node(name, memory, vcpus, price)


# A burstable node earns a part of its two vCPUs; that part is what it may use all the time.
# Larger ones exist. A shard that big takes long to copy when a replica is replaced.
VALKEY_NODES: Final = (
    _valkey("cache.t4g.micro", 0.5, 0.2, 0.0128),
    _valkey("cache.t4g.small", 1.37, 0.4, 0.0256),
    _valkey("cache.t4g.medium", 3.09, 0.4, 0.052),
    _valkey("cache.r7g.large", 13.07, 2, 0.1752),
    _valkey("cache.r7g.xlarge", 26.32, 4, 0.3496),
    _valkey("cache.r7g.2xlarge", 52.82, 8, 0.6984),
)
POSTGRESQL_NODES: Final = (
    _postgresql("db.t4g.medium", 4, 0.4, 0.065),
    _postgresql("db.r8g.large", 16, 2, 0.239),
    _postgresql("db.r8g.xlarge", 32, 4, 0.478),
    # AWS prices this family in proportion; these three are computed from the one above.
    _postgresql("db.r8g.2xlarge", 64, 8, 2 * 0.478),
    _postgresql("db.r8g.4xlarge", 128, 16, 4 * 0.478),
    _postgresql("db.r8g.8xlarge", 256, 32, 8 * 0.478),
)

UNKNOWN: Final = ("MemoryDB, nodes", "MemoryDB, data written")
"""What AWS charges for and we have found no dated price of."""

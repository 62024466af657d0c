"""What one verb costs on each service that is paid per use, in its own units and in dollars.

A request's verbs are the library's and the same on every store: a read loads; a write loads and saves; a new
session is created; a logout loads and saves the record of the ending. A touch follows at most once per 5 %
of the idle timeout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.costs.figures import MIX, Figures
from benchmarks.costs.prices import PRICES

KB: Final = 1024
MILLION: Final = 1e6

VERBS: Final[Mapping[str, Mapping[str, int]]] = {
    "untouched": {},
    "read": {"load": 1},
    "write": {"load": 1, "save": 1},
    "new": {"create": 1},
    "destroy": {"load": 1, "end": 1},
    "touch": {"touch": 1},
    "lost race": {"race": 1},
}
"""The verbs of each kind of request. A lost race is what a write costs more when another request has saved
in between: a save in vain, and where its answer lacks the newest record a load. The save that follows is not
counted, for it saves both requests' changes and may well be the only one that is left to do."""

NAMES: Final = 5
"""Bytes of the names of an item's attributes in DynamoDB: k, d, v, x, t."""
INDEX_ENTRY: Final = 45
"""Bytes that SimpleDB charges for each item, attribute name and value."""
BLOB_HEAD: Final = 8
"""Bytes of the expiry, before the record, in a store that keeps blobs."""
KEY: Final = 22
TAG: Final = 16
ITEM_OVERHEAD: Final = 100
"""Bytes that DynamoDB charges for each item's place in its index."""

Costs = Mapping[str, float]
"""Dollars of a verb, by verb."""


def number_size(value: int) -> int:
    """Return the bytes that a positive number takes in DynamoDB: one for two digits, and one more."""
    return math.ceil(len(str(value).rstrip("0") or "0") / 2) + 1


def item_size(record: int) -> int:
    """Return the bytes of a record's item in DynamoDB: names, key, record, tag, expiry in ms and in s."""
    return NAMES + KEY + record + TAG + number_size(1_795_000_000_001) + number_size(1_795_000_001)


def write_units(size: int) -> int:
    """Return the write request units of an item: one for each KB begun, also where the condition fails."""
    return max(1, math.ceil(size / KB))


def read_units(size: int) -> int:
    """Return the read request units of a strongly consistent read: one for each 4 KB begun; at least one."""
    return max(1, math.ceil(size / (4 * KB)))


def processing_units(moved: float) -> float:
    """Return the ECPUs of a command that moves so many bytes: one for each KB, at least one."""
    return max(1.0, moved / KB)


def base64_size(size: int) -> int:
    """Return how long so many bytes are in base64."""
    return 4 * math.ceil(size / 3)


def attributes(record: int) -> int:
    """Return the attributes of a record's item in SimpleDB: chunks of 1,024 bytes, version and number."""
    return math.ceil(base64_size(BLOB_HEAD + record) / KB) + 2


def put_hours(count: int) -> float:
    """Return the box usage of a PutAttributes with so many attributes, as SimpleDB reported it in 2008."""
    return 0.0000219907 + 0.0000000002 * count**3


def get_hours(count: int) -> float:
    """Return the box usage of a GetAttributes that returns so many attributes."""
    return 0.0000093202 + 0.0000000020 * count**2


def dynamodb(figures: Figures) -> Costs:
    """Return the cost of each verb on DynamoDB, on demand. Each write is one conditional request."""
    size = item_size(figures.record)
    write = write_units(size) * PRICES["wru"].usd / MILLION
    load = read_units(size) * PRICES["rru"].usd / MILLION
    # The larger of the item before and after counts, so a touch and an ending cost as much as a save.
    # A condition that failed returns the newest item, and costs nothing beyond the write.
    return {"load": load, "create": write, "save": write, "touch": write, "end": write, "race": write}


def s3(figures: Figures) -> Costs:
    """Return the cost of each verb on S3 Standard: requests, whatever their size."""
    put, get = PRICES["put"].usd / MILLION, PRICES["get"].usd / MILLION
    return {"load": get, "create": put, "save": put, "touch": put, "end": put, "race": put + get}


def serverless_valkey(figures: Figures) -> Costs:
    """Return the cost of each verb on ElastiCache Serverless for Valkey."""
    ecpu = PRICES["valkey_ecpu"].usd / MILLION
    costs = {verb: processing_units(moved) * ecpu for verb, moved in figures.verb_bytes.items()}
    return {**costs, "race": costs["save"] + costs["load"]}


def serverless_memcached(figures: Figures) -> Costs:
    """Return the cost of each verb on ElastiCache Serverless for Memcached.

    A save sends the new record with a number, not the old record as well.
    """
    ecpu = PRICES["memcached_ecpu"].usd / MILLION
    one = processing_units(figures.record + BLOB_HEAD + 80) * ecpu
    return {"load": one, "create": one, "save": one, "touch": one, "end": ecpu, "race": 2 * one}


def simpledb(figures: Figures) -> Costs:
    """Return the cost of each verb on SimpleDB."""
    hour, count = PRICES["simpledb_hour"].usd, attributes(figures.record)
    put, get = put_hours(count) * hour, get_hours(count) * hour
    return {"load": get, "create": put, "save": put, "touch": put, "end": put, "race": put + get}


PER_USE: Final[Mapping[str, Callable[[Figures], Costs]]] = {
    "ElastiCache Serverless for Valkey": serverless_valkey,
    "ElastiCache Serverless for Memcached": serverless_memcached,
    "DynamoDB on demand": dynamodb,
    "S3 Standard": s3,
    "SimpleDB": simpledb,
}


def of_request(kind: str, costs: Costs) -> float:
    """Return the dollars of one request."""
    return sum(count * costs[verb] for verb, count in VERBS[kind].items())


def of_mix(costs: Costs) -> float:
    """Return the dollars of one request of the mix, on average."""
    return sum(share * of_request(kind, costs) for kind, share in MIX.items())

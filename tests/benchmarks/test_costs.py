"""What stores cost: the formulas on cases computed by hand, and the pages that show them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.costs import figures, load, pages, shown, units
from benchmarks.costs.figures import Figures
from benchmarks.costs.load import Site
from benchmarks.costs.prices import PRICES, VALKEY_NODES
from benchmarks.questions import store_cost
from tests.inside import touch_fraction

ROOT = Path(__file__).parents[2]


@pytest.fixture
def measured() -> Figures:
    return Figures(
        date="2026-01-01",
        payload=700,
        record=800,
        memory=1000.0,
        memory_by_size={700: 1000.0},
        verb_bytes={"load": 512, "create": 1024, "save": 2048, "end": 1024, "touch": 100},
        kind_bytes={"untouched": 0, "read": 512, "write": 2560, "new": 1024, "destroy": 1536},
        kind_commands={"untouched": 0, "read": 1, "write": 2, "new": 1, "destroy": 2},
        cpu=(1.0, 10.0),
        waits={0: 0.1},
        full=2.0,
    )


@pytest.mark.parametrize("name", pages.BLOCKS)
def test_the_pages_show_what_is_computed(name: str) -> None:
    """``python -m benchmarks.costs --write`` would change nothing."""
    assert pages.page(name, figures.read()) == (ROOT / "docs" / name).read_text()


def test_the_command_prints_every_table() -> None:
    """Without an option it writes nothing."""
    command = [sys.executable, "-m", "benchmarks.costs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for name, blocks in pages.BLOCKS.items():
        for block, make in blocks.items():
            assert f"{name}, {block}:\n\n{make(figures.read())}" in done.stdout


def test_a_page_without_a_place_is_an_error() -> None:
    """A table that nobody would see is not dropped in silence."""
    assert pages.fill("a <!-- costs: x --> b <!-- end of x --> c", {"x": r"\1"}) == (
        "a <!-- costs: x -->\n\n\\1\n\n<!-- end of x --> c"
    )
    with pytest.raises(ValueError, match="0 places for 'y'"):
        pages.fill("a", {"y": "b"})


def test_what_is_taken_from_elsewhere_is_as_it_is_there() -> None:
    """The mix is the benchmark's, the touches are the library's, the verbs are those that were counted."""
    assert {kind: round(100 * share) for kind, share in figures.MIX.items()} == store_cost.MIX
    assert touch_fraction() == load.TOUCH_FRACTION
    for kind, commands in figures.read().kind_commands.items():
        # Saves of one session at the same time share one.
        assert sum(units.VERBS[kind].values()) == pytest.approx(commands, abs=0.05)


@pytest.mark.parametrize(
    ("reply", "size"), [(b"$820\r\n%b\r\n", 820), (b"$99\r\n%b\r\n", 99), (b"$10000\r\n%b\r\n", 10_000)]
)
def test_the_size_of_a_record_follows_from_the_reply(reply: bytes, size: int) -> None:
    """A GET's reply has the value's length, and two ends of line."""
    assert figures.payload_of(len(reply % (b"x" * size)) + 0.2) == size


def test_units_of_dynamodb() -> None:
    """By AWS's rules: 1 KB for a write, 4 KB for a consistent read, begun ones count whole."""
    assert [units.write_units(size) for size in (0, 1, 1024, 1025, 65_536)] == [1, 1, 1, 2, 64]
    assert [units.read_units(size) for size in (0, 4096, 4097, 65_536)] == [1, 1, 2, 16]
    # 13 digits take 8 bytes, 10 take 6; names 5, key 22, tag 16.
    assert units.number_size(1_795_000_000_001) == 8
    assert units.number_size(100) == 2
    assert units.item_size(800) == 5 + 22 + 800 + 16 + 8 + 6


def test_units_of_the_others() -> None:
    """An ECPU per KB and at least one; SimpleDB's attributes and box usage as they were reported."""
    assert [units.processing_units(moved) for moved in (10, 1024, 3277)] == pytest.approx([1, 1, 3.2], 1e-3)
    # 8 + 800 bytes are 1,080 in base64, which is two chunks; with the version and their number four.
    assert units.attributes(800) == 4
    assert units.put_hours(1) == pytest.approx(0.0000219909)
    assert units.put_hours(2) == pytest.approx(0.0000219923)
    assert units.get_hours(1) == pytest.approx(0.0000093222)


def test_the_mix_by_hand(measured: Figures) -> None:
    """0.4 loads and 0.1 saves for each request, in each service's units."""
    million = {name: units.of_mix(verbs(measured)) * 1e6 for name, verbs in units.PER_USE.items()}
    assert million["DynamoDB on demand"] == pytest.approx(0.4 * 0.125 + 0.1 * 0.625)
    assert million["S3 Standard"] == pytest.approx(0.4 * 0.4 + 0.1 * 5)
    assert million["ElastiCache Serverless for Valkey"] == pytest.approx((0.4 * 1 + 0.1 * 2) * 0.0023)
    assert million["ElastiCache Serverless for Memcached"] == pytest.approx(0.5 * 0.0034)
    assert million["SimpleDB"] == pytest.approx((0.4 * 9.3522 + 0.1 * 22.0035) * 0.14)


def test_a_condition_that_fails_is_paid(measured: Figures) -> None:
    """On DynamoDB like the write that it was to be, on S3 with the load that follows."""
    assert units.of_request("lost race", units.dynamodb(measured)) == PRICES["wru"].usd / 1e6
    assert units.of_request("lost race", units.s3(measured)) == pytest.approx(5.4e-6)


def test_a_larger_record_costs_more_units(measured: Figures) -> None:
    """The step from 1 to 2 WRU comes with the item, not with the session."""
    sizes = (1024 - 57, 1024 - 56)
    costs = [units.dynamodb(replace(measured, record=size))["save"] for size in sizes]
    assert costs[1] == 2 * costs[0]


def test_a_site_by_hand(measured: Figures) -> None:
    """86,400 sessions with ten requests a day each are ten requests per second."""
    site = Site(86_400, requests=10, touches=1, days=10, ended=0.5, peak=2)
    assert site.requests_per_second() == pytest.approx(2 * (10 + 0.1 + 0.05))
    # 3 reads, 1 write, 0.1 new, 0.05 destroyed, 1 touch: 3 + 2 + 0.1 + 0.1 + 1 commands.
    assert site.commands_per_second() == pytest.approx(2 * 6.2)
    assert site.writes_per_second() == pytest.approx(2 * (1 + 0.1 + 0.05 + 1))
    moved = 3 * 512 + 2560 + 0.1 * 1024 + 0.05 * 1536 + 100
    assert site.bytes_per_second(measured) == pytest.approx(2 * moved)
    # The mix has half a command a request: 12.4 commands are 24.8 such requests.
    assert site.cores(measured) == pytest.approx((24.8 * 1e-6 * 2, 24.8 * 10e-6 * 2))


def test_nodes_are_chosen_by_memory_and_by_cpu(measured: Figures) -> None:
    """As few shards as do not cost half as much again as the cheapest."""
    small, large = VALKEY_NODES[0], VALKEY_NODES[3]
    few = load.valkey_fleet(Site(1000), measured)
    assert (few.node, few.shards) == (small, 1)
    assert few.monthly == pytest.approx(2 * 0.0128 * 730)
    # 100 GB and a quarter, on nodes of 0.75 * 13.07 GiB.
    many = load.valkey_fleet(Site(1e8), measured, [large])
    assert many.shards == 12
    busy = load.valkey_fleet(Site(1e8), replace(measured, cpu=(1.0, 1000.0)), [large])
    assert busy.shards > 100


def test_a_months_bill_by_hand(measured: Figures) -> None:
    """Requests, touches, new sessions and logouts, and what is stored."""
    site = Site(1000, requests=10, touches=1, days=10, ended=0.5)
    reads, writes, new, ended, touches = 3000, 1000, 100, 50, 1000
    wru = writes + new + ended + touches
    dynamodb = 730 / 24 * ((reads + writes + ended) * 0.125 + wru * 0.625) / 1e6
    assert load.requests_bill(site, units.dynamodb(measured)) == pytest.approx(dynamodb)
    stored = load.stored_bill("DynamoDB on demand", site, measured)
    assert stored == pytest.approx(1000 * (857 + 100) / 2**30 * 0.25)
    found = load.bills(site, measured)["DynamoDB on demand"]
    assert found is not None
    assert found[0] == pytest.approx(dynamodb + stored)


def test_least_amounts_and_what_does_not_fit(measured: Figures) -> None:
    """Serverless caches have a minimum, a SimpleDB domain 10 GB, and an instance its memory."""
    one = Site(1)
    assert load.stored_bill("ElastiCache Serverless for Valkey", one, measured) == pytest.approx(
        0.1 * 0.084 * 730
    )
    assert load.stored_bill("ElastiCache Serverless for Memcached", one, measured) == pytest.approx(
        0.125 * 730
    )
    bills = load.bills(Site(1e9), measured)
    assert bills["SimpleDB"] is None
    assert bills["RDS for PostgreSQL, Multi-AZ"] is None
    assert bills["S3 Standard"] is not None


def test_every_price_has_a_date_or_says_that_it_has_none() -> None:
    """Nobody takes an unchecked price for a checked one."""
    for price in (*PRICES.values(), *(node.price for node in VALKEY_NODES)):
        assert price.as_of.startswith("2026") != price.checked.startswith("not checked")
        assert price.page.startswith("https://aws.amazon.com/")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "$0"), (0.0013, "$0.0013"), (0.1125, "$0.113"), (5.4, "$5.40"), (99.5, "$100"), (5617, "$5,620")],
)
def test_dollars(value: float, text: str) -> None:
    """Three digits, whatever the size."""
    assert shown.money(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0051, "0.0051"), (9.31, "9.3"), (515.9, "520"), (93_088, "93,000")]
)
def test_figures(value: float, text: str) -> None:
    """Two digits, since the inputs are estimates."""
    assert shown.figure(value) == text

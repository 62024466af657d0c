"""The computed tables, as Markdown, and their places in the documentation's pages.

A page holds each between ``<!-- costs: NAME -->`` and ``<!-- end of NAME -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks.costs import load, units
from benchmarks.costs.figures import MIX, Figures
from benchmarks.costs.load import Site
from benchmarks.costs.prices import POSTGRESQL_NODES, PRICES, UNKNOWN, VALKEY_NODES, Price
from benchmarks.costs.shown import cores, figure, money, power, table

DOCS: Final = Path(__file__).parents[2] / "docs"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
SIZES: Final = (1e4, 1e6, 1e8)
STEPS: Final = (1e4, 1e5, 1e6, 1e7, 1e8)
IDLE: Final[Mapping[str, int]] = {
    "30 minutes": 1_800,
    "2 hours": 7_200,
    "1 day": 86_400,
    "14 days, the default": 14 * 86_400,
}
KINDS: Final = ("untouched", "read", "write", "new", "destroy", "touch", "lost race")


def prices(figures: Figures) -> str:
    """Return the list of prices, each with its date."""
    every: list[Price] = [*PRICES.values()]
    every += [node.price for node in (*VALKEY_NODES, *POSTGRESQL_NODES)]
    lines = ["| what | US dollars | as of | checked against |", "|---|---:|---|---|"]
    for price in every:
        what = f"[{price.what}]({price.page})"
        lines.append(f"| {what} | {price.usd:g} per {price.per} | {price.as_of or '?'} | {price.checked} |")
    lines += [f"| {what} | no price found | | |" for what in UNKNOWN]
    return "\n".join(lines)


def million(figures: Figures) -> str:
    """Return what a million requests cost on each service that is paid per use."""
    rows = []
    for name, verbs in units.PER_USE.items():
        costs = verbs(figures)
        each = [units.of_request(kind, costs) * 1e6 for kind in KINDS]
        rows.append([name, f"**{money(units.of_mix(costs) * 1e6)}**", *map(money, each)])
    return table(["US dollars per million", "the mix", *KINDS], rows)


def worked(figures: Figures) -> str:
    """Return the sums behind the column of the mix, written out."""
    loads = sum(share * units.VERBS[kind].get("load", 0) for kind, share in MIX.items())
    saves = sum(share * units.VERBS[kind].get("save", 0) for kind, share in MIX.items())
    item, record = units.item_size(figures.record), figures.record
    count = units.attributes(record)
    usd = {name: f"${price.usd:g}" for name, price in PRICES.items()}
    moved = [units.processing_units(figures.verb_bytes[verb]) for verb in ("load", "save")]
    total = {name: money(units.of_mix(verbs(figures)) * 1e6) for name, verbs in units.PER_USE.items()}
    hours = [units.get_hours(count) * 1e6, units.put_hours(count) * 1e6]
    most = units.KB - item + figures.payload

    def both(one: str, other: str) -> str:
        return f"{loads:g} {TIMES} {one} + {saves:g} {TIMES} {other}"

    lines = [
        f"A million requests of the mix are {loads:g} million loads and {saves:g} million saves. The record "
        f"of a session of {figures.payload} B has {record} B.",
        "",
        f"- DynamoDB: the item has {record} + {item - record} = {item} B. A load is "
        f"{units.read_units(item)} RRU (one per 4 KB begun, strongly consistent), a save is "
        f"{units.write_units(item)} WRU (one per KB begun; a session of more than {most} B takes another). "
        f"{both(usd['rru'], usd['wru'])} = {total['DynamoDB on demand']}.",
        f"- S3: a load is a GET, a save a PUT. {both(usd['get'], usd['put'])} = {total['S3 Standard']}.",
        f"- ElastiCache Serverless for Valkey: a command is one ECPU per KB that it moves, at least one: a "
        f"load {moved[0]:.2g}, a save {moved[1]:.3g}, since it sends the old record, too. "
        f"({both(f'{moved[0]:.2g}', f'{moved[1]:.3g}')}) {TIMES} {usd['valkey_ecpu']} = "
        f"{total['ElastiCache Serverless for Valkey']}.",
        f"- SimpleDB: box usage as it was reported in 2008, with {count} attributes: {hours[0]:.2f} hours "
        f"for a million loads, {hours[1]:.2f} for a million saves. "
        f"({both(f'{hours[0]:.2f}', f'{hours[1]:.2f}')}) {TIMES} {usd['simpledb_hour']} = "
        f"{total['SimpleDB']}.",
    ]
    return "\n".join(lines)


def months(figures: Figures) -> str:
    """Return the month's bill of each service for three sizes of a site."""
    bills = [load.bills(Site(sessions), figures) for sessions in SIZES]
    rows = []
    for name in bills[0]:
        cells = []
        for bill in bills:
            found = bill[name]
            cells.append("does not fit" if found is None else f"{money(found[0])} ({found[1]})")
        rows.append([name, *cells])
    rates = ", ".join(f"{figure(Site(sessions).requests_per_second())}" for sessions in SIZES)
    note = f"Requests per second at the peak: {rates}."
    return table(["US dollars a month", *map(power, SIZES)], rows) + f"\n\n{note}"


def growth(figures: Figures) -> str:
    """Return a site's load on Valkey and the nodes that carry it, for each power of ten."""
    columns = [
        "sessions",
        "requests/s",
        "commands/s",
        "of them writes",
        "MB/s",
        "cores busy",
        "memory, GB",
        "nodes, with a replica each",
        "a month",
    ]
    rows = []
    for sessions in STEPS:
        site = Site(sessions)
        low, high = site.cores(figures)
        fleet = load.valkey_fleet(site, figures)
        rows.append(
            [
                power(sessions),
                figure(site.requests_per_second()),
                figure(site.commands_per_second()),
                figure(site.writes_per_second()),
                figure(site.bytes_per_second(figures) / 1e6),
                cores(high) if high < 0.01 else f"{cores(low)} to {cores(high)}",
                figure(sessions * figures.memory / 1e9),
                str(fleet),
                money(fleet.monthly),
            ]
        )
    return table(columns, rows)


def inputs(figures: Figures) -> str:
    """Return what the arithmetic starts from."""
    site = Site(1)
    day = site.per_day()
    low, high = figures.cpu
    mixed = sum(share * figures.kind_bytes[kind] for kind, share in MIX.items())
    commands = sum(share * sum(units.VERBS[kind].values()) for kind, share in MIX.items())
    assumed = table(
        ["assumed of each session", "value"],
        [
            ["requests a day", f"{site.requests:g}"],
            ["of them", ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in MIX.items())],
            ["touches a day", f"{site.touches:g}"],
            ["days until it ends; it is created once", f"{site.days:g}"],
            ["share of them that log out", f"{100 * site.ended:.0f} %"],
            ["rate at the peak, times the average", f"{site.peak:g}"],
        ],
    )
    measured = table(
        [f"measured on Valkey, {figures.date}, sessions of {figures.payload} B", "value"],
        [
            ["commands of a request of the mix", f"{commands:g}"],
            ["bytes of a request of the mix, both ways", f"{mixed:.0f}"],
            ["memory of a session in the store", f"{figures.memory:.0f} B"],
            ["store CPU of a request of the mix, 64 at a time from each process", f"{low:.2f} µs"],
            ["the same, one at a time", f"{high:.1f} µs"],
            ["a command with 10<sup>6</sup> sessions, against 10<sup>4</sup>", f"{figures.full:.1f} times"],
        ],
    )
    total = sum(count for kind, count in day.items() if kind != "touch")
    sums = (
        f"So a session makes {total:.2f} requests a day, and "
        f"{site.commands_per_second() / site.peak * load.SECONDS:.2f} commands. One core carries between "
        f"{figure(1e6 / high / figures.full)} and {figure(1e6 / low / figures.full)} requests of the mix per "
        f"second once the store is full."
    )
    return f"{assumed}\n\n{measured}\n\n{sums}"


def touches(figures: Figures) -> str:
    """Return the touches per second by idle timeout."""
    rows = []
    for name, seconds in IDLE.items():
        every = seconds / load.TOUCH_FRACTION
        unit = f"{every:.0f} s" if every < 120 else f"{every / 60:.0f} min"
        if every >= 7_200:
            unit = f"{every / 3600:.1f} h"
        rows.append(
            [name, unit, figure(load.touch_rate(seconds, 1e5)), figure(load.touch_rate(seconds, 1e6))]
        )
    return table(
        [
            "`idle_timeout`",
            "at most one touch per",
            "touches/s, 10<sup>5</sup> in use",
            "10<sup>6</sup> in use",
        ],
        rows,
    )


def sizes(figures: Figures) -> str:
    """Return what a session of a given size takes, and costs on what is paid by size."""
    head = figures.record - figures.payload
    rows = []
    for payload, memory in sorted(figures.memory_by_size.items()):
        record = payload + head
        item = units.item_size(record)
        rows.append(
            [
                f"{payload:,} B",
                f"{memory:,.0f} B",
                figure(memory * 1e8 / 1e9),
                str(units.write_units(item)),
                str(units.read_units(item)),
                f"{units.attributes(record)} of 256",
            ]
        )
    return table(
        [
            "session",
            "in Valkey",
            "GB for 10<sup>8</sup>",
            "WRU of a save",
            "RRU of a load",
            "attributes in SimpleDB",
        ],
        rows,
    )


def waits(figures: Figures) -> str:
    """Return how long a write waits for a Valkey that is farther and farther away."""
    rows = [[f"{delay} ms", f"{wait:.2g} ms"] for delay, wait in sorted(figures.waits.items())]
    made = table(["round trip added between app and store", "a write (p99 of the mix)"], rows)
    return f"{made}\n\nMeasured on {figures.date}, on one machine, with 4,000 requests per second."


BLOCKS: Final[Mapping[str, Mapping[str, Callable[[Figures], str]]]] = {
    "which-store.md": {
        "waits": waits,
        "million": million,
        "worked": worked,
        "months": months,
        "prices": prices,
    },
    "growing.md": {"inputs": inputs, "growth": growth, "touches": touches, "sizes": sizes},
}


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """Put blocks into a page.

    Raises:
        ValueError: the page lacks a block's place.
    """
    for name, block in blocks.items():
        begin, end = f"<!-- costs: {name} -->", f"<!-- end of {name} -->"
        place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        filled = f"{begin}\n\n{block}\n\n{end}"
        if (places := len(place.findall(text))) != 1:
            raise ValueError(f"the page has {places} places for {name!r}: {begin} ... {end}")
        found = place.search(text)
        assert found is not None
        text = text[: found.start()] + filled + text[found.end() :]
    return text


def page(name: str, figures: Figures, docs: Path = DOCS) -> str:
    """Return a page with its blocks as they are to be."""
    blocks = {block: make(figures) for block, make in BLOCKS[name].items()}
    return fill((docs / name).read_text(encoding="utf-8"), blocks)

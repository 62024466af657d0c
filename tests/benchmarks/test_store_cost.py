"""What store cost is computed with: the mix of requests, and differences of a server's counters."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.questions.store_cost import BROWSERS, sequence
from benchmarks.store_meter import Reading, reading, spent, together


def test_the_mix_has_its_proportions_in_an_order_that_stays() -> None:
    """60, 30 and 10 of a hundred, spread over all browsers, and the same again for the next layer."""
    plan = sequence("mix", 6000)
    assert Counter(action for action, _ in plan) == {"untouched": 3600, "read": 1800, "write": 600}
    assert {browser for _, browser in plan} == set(range(BROWSERS))
    assert {action for action, _ in plan[:100]} == {"untouched", "read", "write"}
    assert plan == sequence("mix", 6000)


def test_one_kind_alone() -> None:
    assert Counter(action for action, _ in sequence("write", 300)) == {"write": 300}


def test_a_reading_leaves_out_what_replicas_get() -> None:
    info = {
        "used_cpu_user": "1.25",
        "used_cpu_sys": "0.5",
        "total_net_input_bytes": "1000",
        "total_net_output_bytes": "5000",
        "total_net_repl_input_bytes": "0",
        "total_net_repl_output_bytes": "3000",
    }
    assert reading(info, 7.0) == Reading(7.0, 1.75, 1000, 2000)


def test_nobody_pays_for_the_reading_or_for_an_idle_server() -> None:
    before = Reading(10.0, 1.0, 100, 200)
    after = Reading(12.5, 1.75, 1134, 4200)
    own = Reading(0.5, 0.125, 34, 2000)
    assert spent(before, after, own, idle=0.0625) == pytest.approx(Reading(2.0, 0.5, 1000, 2000))


def test_servers_add_up() -> None:
    """All but the time, of which several servers have no more than one."""
    assert together([Reading(1.0, 2.0, 3, 4), Reading(1.5, 3.0, 4, 5)]) == Reading(1.5, 5.0, 7, 9)

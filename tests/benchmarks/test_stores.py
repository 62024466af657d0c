"""The question of what a verb costs on every store."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.bench import Bench
from benchmarks.process_cpu import cpu_seconds
from benchmarks.questions import stores
from tests.stores.every.kinds import named


def test_every_kind_is_measured() -> None:
    """Each verb of each, one at a time and many; what has a process of its own has its CPU time, too."""
    with Bench(quick=True, say=lambda what, part: None) as bench:
        rows = stores.measure(bench)
    assert {(row["store"], row["verb"], row["concurrency"]) for row in rows} == {
        (kind.name, verb, at_a_time)
        for kind in stores.MEASURED
        for verb in stores.VERBS
        for at_a_time in (1, stores.AT_A_TIME)
    }
    assert named("simpledb") not in stores.MEASURED
    assert all(row["ms"] > 0 for row in rows)
    assert "server_cpu" in next(row for row in rows if row["store"] == "redis")
    assert all(len(line) == len(table.columns) for table in stores.tables(rows) for line in table.rows)
    assert list(stores.plots(rows)) == ["stores"]


def test_rows_are_shown_whatever_was_measured() -> None:
    """Nothing is taken for granted of a run that was cut short."""
    assert stores.tables([]) == []
    assert stores.plots([]) == {}
    row = {"store": "s3", "title": "S3", "emulator": "moto", "verb": "load", "concurrency": 1}
    one = [row | {"ms": 1.0, "per_second": 1.0, "client_cpu": 1.0}]
    assert len(stores.tables(one)) == 1
    assert stores.targets(one) == []


def test_the_cpu_time_of_a_process_counts_those_below_it() -> None:
    """What a child of a child spends is counted, while it runs and after it was waited for."""
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    run = f"subprocess.run([sys.executable, '-c', {burn!r}])"
    code = f"import subprocess, sys\n{run}\nprint(flush=True)\ninput()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 0.3 <= cpu_seconds(process.pid) < 3.0
        before = cpu_seconds(os.getpid())
        assert before >= cpu_seconds(process.pid)
        process.communicate(b"\n")
    assert time.process_time() > 0

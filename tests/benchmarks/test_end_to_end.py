"""Load over HTTP reaches every worker, with a session in every request."""

from __future__ import annotations

import pytest

from benchmarks.load import generate, plan
from benchmarks.questions import end_to_end
from benchmarks.questions.end_to_end import CONSTANT, places
from benchmarks.served import Served


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ([], 1, (None, [None])),
        ([3], 2, (None, [None, None])),
        ([0, 1], 1, ({0}, [{1}])),
        ([0, 1], 2, ({0, 1}, [{0, 1}, {0, 1}])),
        ([0, 1, 2], 2, ({0}, [{1}, {2}])),
        ([0, 1, 2, 3], 2, ({3}, [{1}, {2}])),
        ([4, 5, 6, 7], 1, ({6}, [{5}])),
    ],
)
def test_each_worker_has_a_core_where_there_are_enough(
    cores: list[int], workers: int, expected: object
) -> None:
    assert places(cores, workers) == expected


def test_every_client_has_its_own_session() -> None:
    told = plan([(8001, "id=a"), (8002, "id=b")], "read", 1.5)
    assert told["options"]["vus"] == 2
    assert told["options"]["duration"] == "1500ms"
    assert told["feeders"]["client"]["rows"] == [
        {"port": "8001", "cookie": "id=a"},
        {"port": "8002", "cookie": "id=b"},
    ]
    [step] = told["flows"]["default"]
    assert "cookie" in step["request"]["headers"]
    assert "cookie" not in plan([(8001, "")], "read", 1.0)["flows"]["default"][0]["request"]["headers"]


def test_real_load_on_real_servers() -> None:
    """Two uvicorn processes, a session each; both work, and what is not there is an error."""
    with Served("asgi_session_memory", "") as one, Served("asgi_session_memory", "") as other:
        clients = [(server.port, server.cookie(700)) for server in (one, other)]
        assert len({cookie for _, cookie in clients}) == 2
        before = [one.cpu(), other.cpu()]
        figures = generate(clients, "write", 0.5, None)
        assert figures["requests"] > 10
        assert 0 < figures["p50"] <= figures["p99"]
        assert one.cpu() > before[0]
        assert other.cpu() > before[1]
        with pytest.raises(RuntimeError, match="requests failed"):
            generate(clients, "no-such-action", 0.2, None)
    with Served(CONSTANT, "") as constant:
        assert generate([(constant.port, "")], "untouched", 0.2, None)["requests"] > 10
        assert constant.cpu() > 0


def test_tables_and_plots_of_what_was_measured() -> None:
    figures = {"rate": 1000.0, "cpu": 50.0, "p50": 1.5, "p99": 3.0}
    rows = [
        {"layer": CONSTANT, "action": "untouched", "workers": 1, **figures, "rate": 60000.0},
        {"layer": "bare", "action": "untouched", "workers": 1, **figures},
        {"layer": "starsessions", "action": "untouched", "workers": 1, **figures},
        {"layer": "starsessions", "action": "read", "workers": 1, **figures},
        {"layer": "starsessions", "action": "read", "workers": 2, **figures},
    ]
    tables = end_to_end.tables(rows)
    assert [table.title.split(":")[0] for table in tables] == ["One worker"] * 3 + ["2 workers"] * 3
    assert tables[0].columns == ["layer", "untouched", "read"]
    assert tables[0].rows == [
        ["a constant answer", "60,000", ""],
        ["bare Starlette app", "1,000", ""],
        ["starsessions", "1,000", "1,000"],
    ]
    assert tables[2].rows[2] == ["starsessions", "1.50 / 3.00", "1.50 / 3.00"]
    assert list(end_to_end.plots(rows)) == ["end-to-end-rate", "end-to-end-cpu"]
    assert end_to_end.targets(rows) == []

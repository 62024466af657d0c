"""Pauses between two tries."""

from __future__ import annotations

from asgi_session._backoff import delay, jittered


def test_delays_grow_to_a_limit() -> None:
    """Jitter stays between half and all of the delay."""
    assert all(0.005 <= delay(0, first=0.01, longest=0.25) <= 0.01 for _ in range(50))
    assert all(0.125 <= delay(1000, first=0.01, longest=0.25) <= 0.25 for _ in range(50))


def test_the_least_can_be_nothing() -> None:
    """Or any other part; and no two are alike, or those who have met would meet again."""
    drawn = [jittered(8.0, 0.0) for _ in range(200)]
    assert min(drawn) < 4 < max(drawn) <= 8
    assert len(set(drawn)) > 100
    assert all(6.0 <= delay(3, first=1.0, longest=100.0, least=0.75) <= 8.0 for _ in range(50))

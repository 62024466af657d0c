"""Loads that wake-ups cause: at most so many at once and a second, and none forgotten that matters."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inside import HINTS_IN_FLIGHT, HINTS_PER_SECOND, Hints


class Looks:
    """What `Hints` has had looked at; each look waits for the test to end it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
        self.now = 100.0
        self.looked: list[str] = []
        self.open: list[tuple[str, asyncio.Future[bool]]] = []
        self.hints = Hints(self._look, lambda: self.now, monkeypatch)

    async def _look(self, key: str) -> bool:
        self.looked.append(key)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.open.append((key, answer))
        return await answer

    async def run(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)

    async def end(self, *, news: bool) -> None:
        """End every look that goes on."""
        for _, answer in self.open:
            answer.set_result(news)
        self.open.clear()
        await self.run()

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.hints.time_has_come()
        await self.run()


async def test_a_flood_of_hints_is_few_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 16: ten thousand that are for nothing cause as many loads as the budget, whatever they name."""
    looks = Looks(monkeypatch)
    for number in range(10_000):
        looks.hints.take(f"key {number}", needed=False)
        await looks.run()
        await looks.end(news=False)
    assert len(looks.looked) == HINTS_PER_SECOND
    looks.now += 0.5
    for number in range(10_000):
        looks.hints.take(f"key {number}", needed=False)
        await looks.run()
        await looks.end(news=False)
    assert len(looks.looked) == HINTS_PER_SECOND + HINTS_PER_SECOND // 2


async def test_a_flood_for_one_key_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a session that somebody here waits for: each look is followed by one at most."""
    looks = Looks(monkeypatch)
    for _ in range(10_000):
        looks.hints.take("key", needed=True)
        await looks.run()
        await looks.end(news=False)
    assert len(looks.looked) == HINTS_PER_SECOND
    await looks.pass_time(0.01)
    assert len(looks.looked) == HINTS_PER_SECOND + 1, "the last one was not forgotten"
    looks.hints.close()


async def test_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not needed is dropped then; what is needed follows when one is done, in order."""
    looks = Looks(monkeypatch)
    for number in range(HINTS_IN_FLIGHT):
        assert looks.hints.take(f"{number}", needed=False)
    await looks.run()
    assert not looks.hints.take("dropped", needed=False)
    assert not looks.hints.take("first", needed=True)
    assert not looks.hints.take("second", needed=True)
    await looks.run()
    assert len(looks.looked) == HINTS_IN_FLIGHT
    await looks.end(news=True)
    assert looks.looked[HINTS_IN_FLIGHT:] == ["first", "second"]
    await looks.end(news=True)


async def test_news_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy lock is handed over thousands of times a second: hints that are true are not held back."""
    looks = Looks(monkeypatch)
    for _ in range(50 * HINTS_PER_SECOND):
        assert looks.hints.take("key", needed=True)
        await looks.run()
        await looks.end(news=True)
    assert len(looks.looked) == 50 * HINTS_PER_SECOND


async def test_a_hint_while_its_key_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be about something later: the key is looked at once more."""
    looks = Looks(monkeypatch)
    looks.hints.take("key", needed=True)
    await looks.run()
    for _ in range(5):
        looks.hints.take("key", needed=True)
    await looks.end(news=True)
    assert looks.looked == ["key", "key"]
    await looks.end(news=True)
    assert looks.looked == ["key", "key"]
    assert looks.hints.tasks == 0


async def test_strangers_do_not_come_before_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the budget used up, what is needed waits; a flood takes nothing of what grows back."""
    looks = Looks(monkeypatch)
    looks.hints.leave(0.0)
    assert not looks.hints.take("needed", needed=True)
    for _ in range(100):
        looks.now += 0.001
        looks.hints.take("stranger", needed=False)
        await looks.run()
    await looks.pass_time(0.0)
    assert looks.looked == ["needed"]
    await looks.end(news=True)


async def test_a_needed_hint_starts_what_waits_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order of arrival, as soon as there is room."""
    looks = Looks(monkeypatch)
    looks.hints.leave(0.0)
    looks.hints.take("first", needed=True)
    looks.now += 0.05
    assert looks.hints.take("second", needed=True)
    await looks.run()
    assert looks.looked == ["first", "second"]
    await looks.end(news=True)


async def test_closing_ends_what_runs() -> None:
    """A shutdown waits for no load that a message has caused."""
    looks = Looks()
    for number in range(20):
        looks.hints.take(f"{number}", needed=True)
    await looks.run()
    looks.hints.close()
    await looks.run()
    assert looks.hints.tasks == 0


Step = st.one_of(
    st.tuples(st.just("take"), st.sampled_from("abcdefghijkl"), st.booleans()),
    st.tuples(st.just("end"), st.just(""), st.booleans()),
    st.tuples(st.just("time"), st.just(""), st.booleans()),
)


@given(st.lists(Step, max_size=200))
def test_no_needed_hint_is_forgotten(steps: list[tuple[str, str, bool]]) -> None:
    """Whatever comes in whatever order: each is followed by a look that began after it."""

    async def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            looks = Looks(patch)
            looks.hints.leave(3.0)
            due: dict[str, int] = {}
            for what, key, flag in steps:
                if what == "take":
                    looks.hints.take(key, needed=flag)
                    if flag:
                        due[key] = len(looks.looked)
                elif what == "end":
                    await looks.end(news=flag)
                else:
                    await looks.pass_time(0.015 if flag else 0.001)
                assert len(looks.open) <= HINTS_IN_FLIGHT
            for _ in range(len(steps) + 5):
                await looks.end(news=False)
                await looks.pass_time(0.02)
            await looks.end(news=False)
            for key, before in due.items():
                assert key in looks.looked[before:], (key, looks.looked, before)
            looks.hints.close()

    asyncio.run(run())


async def test_closing_forgets_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waited for the budget to grow is looked at no more."""
    looks = Looks(monkeypatch)
    looks.hints.leave(0.0)
    looks.hints.take("waits", needed=True)
    looks.hints.close()
    await looks.pass_time(1.0)
    assert looks.looked == []

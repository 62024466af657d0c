"""The demo, started as `make demo` starts it, with every button pressed."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.servers import wait_until

ROOT = Path(__file__).parents[2]
COOKIE = "asgi_session_demo"
OTHER_COOKIE = "starlette_demo"
TWENTY = {f"key {number}" for number in range(1, 21)}


class Demo:
    """A running demo."""

    def __init__(self, *store: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "examples/demo", *store], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", said)):
            line = self.process.stdout.readline()
            assert line, f"the demo ended without an address: {said}"
            said += line
        self.url = found[0]

    def family(self) -> set[int]:
        """Return the process ids of the workers and the store's server."""
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        rows = [tuple(map(int, line.split())) for line in table.stdout.splitlines()]
        return {pid for pid, parent in rows if parent == self.process.pid}

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@pytest.fixture
def demo(request: pytest.FixtureRequest) -> Iterator[Demo]:
    """A demo, on the store that the test names."""
    running = Demo(*([request.param] if hasattr(request, "param") else []))
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGTERM)
    assert running.process.stdout is not None
    running.process.stdout.close()


def commands(response: httpx.Response) -> dict[str, int]:
    """Return which store commands the worker sent while it answered."""

    def counts(text: str) -> dict[str, int]:
        return {verb: int(times) for verb, times in (pair.split("=") for pair in text.split(","))}

    after, before = counts(response.headers["x-store-after"]), counts(response.headers["x-store-before"])
    return {verb: after[verb] - before[verb] for verb in after if after[verb] > before[verb]}


def lifetime(response: httpx.Response) -> timedelta:
    """Return how long after its creation the session would expire."""
    shown = response.json()
    return datetime.fromisoformat(shown["expires_at"]) - datetime.fromisoformat(shown["created_at"])


async def test_every_button(demo: Demo) -> None:
    """Twenty parallel writes all stay, a session outlives its worker, and each request costs what it says."""
    async with httpx.AsyncClient(base_url=demo.url, timeout=20) as browser:
        page = await browser.get("/")
        assert "Twenty parallel writes" in page.text and "Starlette's signed cookie" in page.text
        assert commands(page) == {}
        assert commands(await browser.get("/api/session")) == {}

        assert commands(await browser.post("/api/count")) == {"create": 1}
        # The first visit confirms the session. No response waits for that touch, so until it is applied
        # the other worker may send one as well. Until somebody signs in, a session lasts for a day.
        assert commands(await browser.get("/api/session")) == {"load": 1, "touch": 1}
        for _ in range(50):
            seen = await browser.get("/api/session")
            if commands(seen) == {"load": 1} and lifetime(seen) > timedelta(hours=2):
                break
        assert commands(seen) == {"load": 1}
        assert lifetime(seen) > timedelta(hours=2)
        assert commands(await browser.post("/api/count")) == {"load": 1, "save": 1}

        written = await asyncio.gather(*(browser.post(f"/api/keys/{n}") for n in range(1, 21)))
        assert {response.status_code for response in written} == {204}
        assert len({response.headers["x-worker"] for response in written}) == 2
        before = (await browser.get("/api/session")).json()
        assert TWENTY | {"count"} == before["data"].keys()

        ended = await browser.post("/api/end-worker")
        assert ended.status_code == 204
        assert (await browser.get("/api/session")).json() == before
        letter = ended.headers["x-worker"].split()[0]
        for _ in range(200):
            answer = await browser.get("/api/session")
            assert answer.json() == before
            if answer.headers["x-worker"].split()[0] == letter:
                break
        assert answer.headers["x-worker"] != ended.headers["x-worker"]
        assert answer.headers["x-worker"].split()[0] == letter

        assert (await browser.delete("/api/keys")).status_code == 204
        assert (await browser.get("/api/session")).json()["data"] == {"count": 2}

        credentials = [browser.cookies[COOKIE]]
        assert (await browser.post("/api/login?name=Ada")).status_code == 204
        credentials.append(browser.cookies[COOKIE])
        signed_in = (await browser.get("/api/session")).json()
        assert signed_in["id"] != before["id"]
        assert signed_in["data"] == {"count": 2, "user": "Ada"}
        assert commands(await browser.post("/api/rotate")) == {"load": 1, "save": 1}
        credentials.append(browser.cookies[COOKIE])
        assert len(set(credentials)) == 3
        session = (await browser.get("/api/session")).json()
        assert (session["id"], session["data"]) == (signed_in["id"], signed_in["data"])
        shown = {
            (await browser.get("/api/session", headers={"cookie": f"{COOKIE}={one}"})).headers["x-credential"]
            for one in credentials
        }
        assert len(shown) == 3, "the page shows that the cookie is another"

        for retired in credentials[:2]:
            async with httpx.AsyncClient(base_url=demo.url, cookies={COOKIE: retired}) as thief:
                assert (await thief.get("/api/session")).json()["data"] == {}

        assert (await browser.post("/api/logout")).status_code == 204
        assert COOKIE not in browser.cookies
        async with httpx.AsyncClient(base_url=demo.url, cookies={COOKIE: credentials[-1]}) as thief:
            assert (await thief.get("/api/session")).json()["data"] == {}


async def test_two_browsers_and_their_devices(demo: Demo) -> None:
    """Either browser lists both and signs out the other, whose next request is nobody's, on either worker."""
    agents = ("Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", "Mozilla/5.0 (iPhone) Safari/605.1", "-")
    one, other, bobs = (
        httpx.AsyncClient(base_url=demo.url, timeout=20, headers={"user-agent": agent}) for agent in agents
    )
    async with one, other, bobs:
        assert (await one.get("/api/devices")).status_code == 401
        assert (await one.post("/api/login?name= ")).status_code == 422
        for browser, name in ((one, "Ada"), (other, "%20Ada"), (bobs, "Bob")):
            assert (await browser.post(f"/api/login?name={name}")).status_code == 204

        async def listed(browser: httpx.AsyncClient) -> dict[str, tuple[str, bool]]:
            """Return description and mark of each device, the same from both workers."""
            answers: dict[str, dict[str, tuple[str, bool]]] = {}
            while len(answers) < 2:
                answer = await browser.get("/api/devices")
                answers[answer.headers["x-worker"]] = {
                    info["id"]: (info["description"], info["current"]) for info in answer.json()
                }
            first, second = answers.values()
            assert first == second
            return first

        async def id_of(browser: httpx.AsyncClient) -> str:
            return str((await browser.get("/api/session")).json()["id"])

        first, second, third = [await id_of(browser) for browser in (one, other, bobs)]
        firefox, safari = "Firefox on Linux, 127.0.0.1", "Safari on iPhone, 127.0.0.1"
        assert await listed(one) == {first: (firefox, True), second: (safari, False)}
        assert await listed(other) == {first: (firefox, False), second: (safari, True)}
        assert await listed(bobs) == {third: ("Another client, 127.0.0.1", True)}

        for target in (first, second, "nonsense"):  # Bob cannot end Ada's
            assert (await bobs.post(f"/api/devices/{target}/sign-out")).status_code == 404
        assert (await one.post(f"/api/devices/{second}/sign-out")).status_code == 204
        for _ in range(10):  # whichever worker answers
            assert (await other.get("/api/session")).json()["data"] == {}
        assert list(await listed(one)) == [first]

        await other.post("/api/login?name=Ada")
        assert (await other.post("/api/sign-out-others")).json() == 1
        assert (await one.get("/api/devices")).status_code == 401
        assert list(await listed(other)) == [await id_of(other)]
        assert list(await listed(bobs)) == [third]


def merges(responses: list[httpx.Response]) -> dict[str, int]:
    """Return how many writes were merged and how many of them saved again, as the page adds them up."""
    found = {"merged": 0, "again": 0}
    for worker in {response.headers["x-worker"] for response in responses}:
        mine = [response.headers for response in responses if response.headers["x-worker"] == worker]
        for name in found:
            befores, afters = (
                [
                    int(dict(pair.split("=") for pair in headers[f"x-merges-{when}"].split(","))[name])
                    for headers in mine
                ]
                for when in ("before", "after")
            )
            found[name] += max(afters) - min(befores)
    return found


async def test_the_same_twenty_writes_on_a_signed_cookie(demo: Demo) -> None:
    """Both panels begin alike; of the signed cookie's writes the last answer's alone is left, of ours all."""
    async with httpx.AsyncClient(base_url=demo.url, timeout=20) as browser:
        for path in ("/api", "/cookie"):
            assert (await browser.post(f"{path}/count")).status_code == 204
        assert {COOKIE, OTHER_COOKIE} == set(browser.cookies)
        assert (await browser.get("/cookie/session")).json() == {"count": 1}

        async def twenty(path: str) -> list[httpx.Response]:
            written = await asyncio.gather(*(browser.post(f"{path}/keys/{n}") for n in range(1, 21)))
            assert {response.status_code for response in written} == {204}
            assert len({response.headers["x-worker"] for response in written}) == 2
            return written

        for _ in range(5):  # the workers' writes meet; on a machine with much else to do perhaps not at once
            met = merges(await twenty("/api"))
            assert met["again"] <= met["merged"] <= 20
            assert (await browser.get("/api/session")).json()["data"].keys() == TWENTY | {"count"}
            if met["again"]:
                break
        assert met["again"] > 0

        written = await twenty("/cookie")
        assert [commands(response) for response in written] == [{}] * 20
        assert merges(written) == {"merged": 0, "again": 0}
        left = (await browser.get("/cookie/session")).json().keys() - {"count"}
        assert left < TWENTY and len(left) == 1

        # Either worker reads the cookie, and so does the one that takes the place of a killed worker.
        await browser.post("/api/end-worker")
        for _ in range(10):
            assert (await browser.get("/cookie/session")).json().keys() == {"count"} | left
        assert (await browser.delete("/cookie/keys")).status_code == 204
        assert (await browser.get("/cookie/session")).json() == {"count": 1}


async def test_no_merge_is_reported_where_there_was_none(demo: Demo) -> None:
    """One write after another meets nobody: the page then says nothing of merging."""
    async with httpx.AsyncClient(base_url=demo.url, timeout=20) as browser:
        await browser.post("/api/count")
        written = [await browser.post(f"/api/keys/{n}") for n in range(1, 6)]
        assert merges(written) == {"merged": 0, "again": 0}


def test_the_page_speaks_of_merges_only_after_one() -> None:
    """The two sentences stand behind conditions on the counts; the red button is red in any state."""
    page = (ROOT / "examples" / "demo" / "page.html").read_text()
    assert page.count("merged with") == 2
    assert re.search(r"if \(again\) return `[^`]*merged with it and saved again\.`;", page)
    assert re.search(r"return merged \? `[^`]*merged with writes[^`]*` : \"\";", page)
    assert "button.hard, button.hard:hover:not(:disabled) { color: var(--bad)" in page
    buttons = set(re.findall(r'data-do="(\w+)"', page))
    assert buttons == set(re.findall(r"^  async (\w+)\(\) \{", page, re.M))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_cleanly(demo: Demo, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end the supervisor with status 0, and the workers and the Valkey with it."""
    assert httpx.get(demo.url).status_code == 200
    wait_until("two workers and a Valkey run", lambda: len(demo.family()) == 3)
    family = demo.family()
    assert demo.end(number) == 0
    running = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True)
    assert not family & set(map(int, running.stdout.split()))
    with pytest.raises(httpx.ConnectError):
        httpx.get(demo.url)


def test_two_at_once(demo: Demo) -> None:
    """A second demo takes the next free port instead of sharing the first one's."""
    second = Demo()
    try:
        assert second.url != demo.url
        assert httpx.get(second.url).status_code == 200
    finally:
        assert second.end(signal.SIGTERM) == 0
        assert second.process.stdout is not None
        second.process.stdout.close()


OTHERS = [
    name
    for name, program in {
        "sqlite": "",
        "postgresql": "",
        "mariadb": "mariadbd",
        "memcached": "memcached",
        "dynamodb": "",
    }.items()
    if not program or os.environ.get("CI") or shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
]
"""The other stores that `make demo STORE=...` knows; what only Debian has is left out where it is not."""


@pytest.mark.parametrize("demo", OTHERS, indirect=True)
async def test_on_another_store(demo: Demo) -> None:
    """Both workers share the sessions, none of twenty writes is lost, and it ends with its server."""
    async with httpx.AsyncClient(base_url=demo.url, timeout=20) as browser:
        assert commands(await browser.post("/api/count")) == {"create": 1}
        written = await asyncio.gather(*(browser.post(f"/api/keys/{n}") for n in range(1, 21)))
        assert {response.status_code for response in written} == {204}
        assert len({response.headers["x-worker"] for response in written}) == 2
        assert (await browser.get("/api/session")).json()["data"].keys() == TWENTY | {"count"}
    family = demo.family()
    assert demo.end(signal.SIGTERM) == 0
    running = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True)
    assert not family & set(map(int, running.stdout.split()))


def refused(store: str) -> str:
    """Return what the demo says of a store that it cannot use."""
    command = [sys.executable, "examples/demo", store]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_stores_that_it_does_not_have() -> None:
    """An unknown one, and one that two processes cannot share, are a line each that names the known ones;
    for each of these the Makefile can install what it needs, and says so."""
    line = refused("mongodb")
    assert line.count("\n") == 1
    known = line.removeprefix("There is no STORE=mongodb. Known are ").removesuffix(".\n").split(", ")
    assert {"redis", "sqlite"} <= set(known)
    for name in ("memory", "simpledb"):
        assert refused(name).startswith(f"STORE={name} is not for the demo: ")
        assert refused(name).endswith(f"Known are {', '.join(known)}.\n")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert {name for name in groups if name.startswith("demo-")} == {f"demo-{name}" for name in known[1:]}
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in known:
        assert re.search(rf"\b{name}\b", helped), name

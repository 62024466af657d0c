"""A proxy in front of an HTTP server that loses, holds and makes up answers exactly where a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

from tests.servers.relay import Proxy
from tests.servers.server import HOST


class HasPort(Protocol):
    """A server on this machine."""

    @property
    def port(self) -> int: ...


class Request(NamedTuple):
    """A request as it came; the headers' names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Match: TypeAlias = Callable[[Request], bool]


def method(*names: str) -> Match:
    """Match requests by method: ``method("PUT", "DELETE")``."""
    return lambda request: request.method in names


@dataclass(eq=False)
class Rule:
    """What becomes of the next requests that match.

    Attributes:
        times: how many; None: all.
        reached: set when the first has come to where it is held, or its answer has been lost.
        released: for those that are held: set it to let them go.
    """

    match: Match
    times: int | None
    answer: bytes | None = None
    loses: bool = False
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def applies(self, request: Request) -> bool:
        if self.times == 0 or not self.match(request):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class HttpProxy(Proxy):
    """Use as ``async with HttpProxy(server) as proxy``, with `proxy.url` in place of the server's.

    Attributes:
        requests: all that have come, in order.
    """

    def __init__(self, server: HasPort) -> None:
        super().__init__(server.port)
        self.requests: list[Request] = []
        self._rules: list[Rule] = []

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def methods(self) -> list[str]:
        """The methods of the requests so far."""
        return [request.method for request in self.requests]

    def lose_answer(self, match: Match, *, times: int | None = 1) -> Rule:
        """Pass matching requests on, then drop the connection in place of the answer."""
        return self._add(Rule(match, times, loses=True))

    def answer(
        self, match: Match, status: int, body: str, *, times: int | None = 1, headers: str = ""
    ) -> Rule:
        """Answer matching requests without passing them on."""
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nContent-Type: text/xml\r\n{headers}\r\n"
        )
        return self._add(Rule(match, times, answer=(head + body).encode()))

    def hold(self, match: Match, *, times: int | None = None) -> Rule:
        """Pass matching requests on, and hold the answers until `released` is set."""
        return self._add(Rule(match, times))

    def heal(self) -> None:
        """Let everything through from now on, and what is held, too."""
        for rule in self._rules:
            rule.released.set()
        self._rules.clear()

    def _add(self, rule: Rule) -> Rule:
        self._rules.append(rule)
        return rule

    async def pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        while await self._one(reader, writer, up_reader, up_writer):
            pass

    async def _one(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up: asyncio.StreamWriter,
    ) -> bool:
        """Serve one request; whether the connection lives."""
        head, body = await _message(reader)
        first, headers = _parsed(head)
        name, path, _ = first.split(" ")
        if headers.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await _body(reader, headers)
        request = Request(name, path, headers, body)
        self.requests.append(request)
        rule = next((rule for rule in self._rules if rule.applies(request)), None)
        if rule is not None and rule.answer is not None:
            writer.write(rule.answer)
            await writer.drain()
            return True
        up.write(head + body)
        await up.drain()
        answer = b"".join(await _message(up_reader, to=name))
        if rule is not None:
            rule.reached.set()
            if rule.loses:
                return False
            await rule.released.wait()
        writer.write(answer)
        await writer.drain()
        return True


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read a request, as a server does."""
    head, body = await _message(reader)
    first, headers = _parsed(head)
    name, path, _ = first.split(" ")
    return Request(name, path, headers, body)


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    split = (line.partition(":") for line in lines if line)
    return first, {name.lower(): value.strip() for name, _, value in split}


async def _message(reader: asyncio.StreamReader, *, to: str | None = None) -> tuple[bytes, bytes]:
    """Read a request, or the answer `to` a method."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, headers = _parsed(head)
    empty = headers.get("expect") is not None
    if to is not None:
        status = first.split(" ")[1]
        if status == "100":
            return await _message(reader, to=to)
        empty = to == "HEAD" or status in ("204", "304")
    return head, b"" if empty else await _body(reader, headers)


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        chunk = await reader.readexactly(int(line.partition(b";")[0], 16) + 2)
        body += line + chunk
        if chunk == b"\r\n":
            return body

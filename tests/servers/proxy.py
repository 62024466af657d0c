"""A TCP proxy in front of one server that loses, holds and delays replies exactly where a test says."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tests.servers.relay import Proxy, until_one_ends
from tests.servers.server import HOST

Command = tuple[bytes, ...]
Match = Callable[[Command], bool]


class HasAddress(Protocol):
    """A server."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


def named(*names: str) -> Match:
    """Match commands by name: ``named("evalsha", "eval")``."""
    wanted = {name.upper().encode() for name in names}
    return lambda command: command[0].upper() in wanted


def saves(command: Command) -> bool:
    """Match what changes a record that is there: a script, or SET ... IFEQ."""
    name = command[0].upper()
    return name in (b"EVALSHA", b"EVAL") or (name == b"SET" and b"IFEQ" in command)


def frame_end(buffer: bytes | bytearray, start: int) -> int | None:
    """Return where the RESP2 or RESP3 value that begins at `start` ends; None when it is not complete."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, end = buffer[start : start + 1], line_end + 2
    if kind in b"$=!":
        size = int(buffer[start + 1 : line_end])
        end += size + 2 if size >= 0 else 0
        return end if end <= len(buffer) else None
    if kind in b"*~>%|":
        for _ in range(max(int(buffer[start + 1 : line_end]), 0) * (2 if kind in b"%|" else 1)):
            after = frame_end(buffer, end)
            if after is None:
                return None
            end = after
    return end


def _frames(buffer: bytearray) -> Iterator[bytes]:
    """Take the complete values out of the buffer."""
    while buffer and (end := frame_end(buffer, 0)) is not None:
        frame = bytes(buffer[:end])
        del buffer[:end]
        yield frame


def _parse_request(frame: bytes) -> Command:
    """Read an array of bulk strings."""
    args: list[bytes] = []
    at = frame.index(b"\r\n") + 2
    while at < len(frame):
        line_end = frame.index(b"\r\n", at)
        size = int(frame[at + 1 : line_end])
        args.append(frame[line_end + 2 : line_end + 2 + size])
        at = line_end + size + 4
    return tuple(args)


@dataclass(eq=False)
class Hold:
    """Replies that wait. `reached` is set when the first of them has come from the server."""

    match: Match
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let the replies go, those held and those to come."""
        self.released.set()


@dataclass(eq=False)
class _Cut:
    match: Match
    nth: int
    before: bool
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def applies(self, command: Command) -> bool:
        if self.done.is_set() or not self.match(command):
            return False
        self.nth -= 1
        return self.nth == 0


class LossyProxy(Proxy):
    """Use as ``async with LossyProxy(server) as proxy``, with `proxy.url` in place of the server's.

    Attributes:
        commands: every command that clients sent, in order of arrival.
        client_writes: how many chunks came from clients; commands written in one go are one chunk.
        delay: seconds that each chunk of replies is late; 0.
    """

    def __init__(self, server: HasAddress) -> None:
        super().__init__(server.port, host=server.host)
        self.commands: list[Command] = []
        self.client_writes = 0
        self.delay = 0.0
        self._cuts: list[_Cut] = []
        self._holds: list[Hold] = []

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def requests_in(self, buffer: bytearray) -> Iterator[tuple[bytes, Command]]:
        """Take the complete requests out of the buffer. Another protocol's proxy overrides this."""
        for frame in _frames(buffer):
            yield frame, _parse_request(frame)

    def replies_in(self, buffer: bytearray) -> Iterator[bytes]:
        """Take the complete replies out of the buffer. Likewise."""
        return _frames(buffer)

    def cut_after(self, match: Match, *, nth: int = 1) -> asyncio.Event:
        """Swallow the reply to the nth command that matches from now on and drop its connection: the
        server has executed it, the client can't know. The event is set once that has happened."""
        return self._add(_Cut(match, nth, before=False))

    def cut_before(self, match: Match, *, nth: int = 1) -> asyncio.Event:
        """Drop the connection instead of passing on the nth command that matches from now on."""
        return self._add(_Cut(match, nth, before=True))

    def cut_no_more(self) -> None:
        """Let everything through from now on."""
        self._cuts.clear()

    def _add(self, cut: _Cut) -> asyncio.Event:
        self._cuts.append(cut)
        return cut.done

    def hold(self, match: Match = lambda command: True) -> Hold:
        """Hold the replies to matching commands, and with them what follows on their connection."""
        self._holds.append(hold := Hold(match))
        return hold

    async def pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        sent: deque[Command] = deque()
        await until_one_ends(
            asyncio.ensure_future(self._requests(reader, up_writer, sent)),
            asyncio.ensure_future(self._replies(up_reader, writer, sent)),
        )

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: deque[Command]
    ) -> None:
        buffer = bytearray()
        while chunk := await reader.read(2**20):
            self.client_writes += 1
            buffer += chunk
            out: list[bytes] = []
            cut: _Cut | None = None
            for frame, command in self.requests_in(buffer):
                self.commands.append(command)
                if cut := next((c for c in self._cuts if c.before and c.applies(command)), None):
                    break
                out.append(frame)
                if not command[0].upper().endswith(b"SUBSCRIBE"):  # answered by pushes
                    sent.append(command)
            writer.writelines(out)
            await writer.drain()
            if cut:
                cut.done.set()
                return

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: deque[Command]
    ) -> None:
        buffer = bytearray()
        while chunk := await reader.read(2**20):
            if self.delay:
                await asyncio.sleep(self.delay)
            buffer += chunk
            for frame in self.replies_in(buffer):
                if frame[:1] not in b">|" and sent:
                    command = sent.popleft()
                    for cut in self._cuts:
                        if not cut.before and cut.applies(command):
                            cut.done.set()
                            return
                    for hold in self._holds:
                        if hold.match(command):
                            hold.reached.set()
                            await hold.released.wait()
                writer.write(frame)
            await writer.drain()

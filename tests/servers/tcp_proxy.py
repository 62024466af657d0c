"""A TCP proxy that knows no protocol: it counts round trips, and loses, holds and refuses what a test says.

It runs in a thread of its own, so that it works as well for a client that blocks its event loop. What it
has counted may be read as soon as the client has its answer: a reply is counted before it is passed on.

A *round trip* begins with the first bytes that a client sends after a reply (or at all), and ends with the
first bytes that come back. A request in several pieces is one; a server that speaks first begins none.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.servers.relay import Relay, until_one_ends
from tests.servers.server import HOST

T = TypeVar("T")
_PIECE = 2**18


class Cut:
    """A connection that is to be cut, or to fall silent. `done` is set once that has happened."""

    def __init__(self, nth: int, *, before: bool, silent: bool = False) -> None:
        self.done = threading.Event()
        self.before = before
        self.silent = silent
        self._nth = nth

    def comes_with_this_trip(self) -> bool:
        """Count a round trip that begins; whether it is the one to cut."""
        self._nth -= 1
        return self._nth == 0


class HeldReplies:
    """Replies that wait. `reached` is set when the first of them has come from the server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reached = threading.Event()
        self._loop = loop
        self.released = asyncio.Event()

    def release(self) -> None:
        """Let them go, and those to come."""
        self._loop.call_soon_threadsafe(self.released.set)


class TcpProxy(Relay):
    """Stands before the server on a port, inside a ``with`` block.

    Attributes:
        trips: round trips so far.
        sent: bytes from clients.
        received: bytes from the server.
    """

    def __init__(self, server_port: int, *, host: str = HOST) -> None:
        super().__init__(server_port, host=host)
        self.trips = 0
        self.sent = 0
        self.received = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._cuts: list[Cut] = []
        self._hold: HeldReplies | None = None
        self._flows = asyncio.Event()
        self._flows.set()

    def __enter__(self) -> TcpProxy:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # What a test may ask for.

    def accept(self) -> None:
        """Listen, on the same port as before."""
        self._in_the_thread(self.listen())

    def refuse(self) -> None:
        """Stop listening, so that connecting is refused, and drop the connections there are."""
        self._in_the_thread(self.shut())

    def drop_connections(self) -> None:
        """Drop the connections there are; new ones are welcome."""
        self._in_the_thread(self.drop())

    def freeze(self) -> None:
        """Pass nothing on, in neither direction; connections stay open, and new ones can be made."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def thaw(self) -> None:
        """Pass on what has waited, and what comes."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def cut_after(self, *, nth: int = 1) -> Cut:
        """Swallow the reply of the nth round trip from now on and drop its connection: the server has
        executed what was asked, the client can't know."""
        return self._add(Cut(nth, before=False))

    def cut_before(self, *, nth: int = 1) -> Cut:
        """Drop the connection instead of passing on what begins the nth round trip from now on."""
        return self._add(Cut(nth, before=True))

    def silence(self, *, nth: int = 1) -> Cut:
        """Swallow the reply of the nth round trip from now on, and all that would follow on its connection,
        which stays open: the server behind it has vanished. Other connections are as ever."""
        return self._add(Cut(nth, before=False, silent=True))

    def cut_no_more(self) -> None:
        """Let everything through from now on."""
        self._in_the_thread(self._forget_cuts())

    def hold_replies(self) -> HeldReplies:
        """Hold all replies from now on."""
        held = HeldReplies(self._loop)
        self._in_the_thread(self._set_hold(held))
        return held

    # How.

    def _in_the_thread(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _add(self, cut: Cut) -> Cut:
        self._in_the_thread(self._add_cut(cut))
        return cut

    async def _add_cut(self, cut: Cut) -> None:
        self._cuts.append(cut)

    async def _forget_cuts(self) -> None:
        self._cuts.clear()

    async def _set_hold(self, held: HeldReplies) -> None:
        self._hold = held

    async def pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        between = _Between()
        await until_one_ends(
            asyncio.ensure_future(self._requests(reader, up_writer, between)),
            asyncio.ensure_future(self._replies(up_reader, writer, between)),
        )

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, between: _Between
    ) -> None:
        while piece := await reader.read(_PIECE):
            await self._flows.wait()
            self.sent += len(piece)
            if not between.asked:
                between.asked = True
                cut = next((cut for cut in list(self._cuts) if cut.comes_with_this_trip()), None)
                if cut is not None:
                    self._cuts.remove(cut)
                    if cut.before:
                        cut.done.set()
                        return
                    between.cut = cut
            writer.write(piece)
            await writer.drain()

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, between: _Between
    ) -> None:
        while piece := await reader.read(_PIECE):
            await self._flows.wait()
            self.received += len(piece)
            if between.asked:
                between.asked = False
                self.trips += 1
                if between.cut is not None:
                    between.cut.done.set()
                    if between.cut.silent:
                        await asyncio.Event().wait()
                    return
            if self._hold is not None:
                self._hold.reached.set()
                await self._hold.released.wait()
            writer.write(piece)
            await writer.drain()


class _Between:
    """What is known of a connection: whether a request waits for its reply, and whether it will get it."""

    def __init__(self) -> None:
        self.asked = False
        self.cut: Cut | None = None

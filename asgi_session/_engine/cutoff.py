"""The cut-off: no session that was created before it is good any more, whoever's it is.

It is one record per namespace, which every process looks at when it is opened and then every few seconds, for
as long as it loads sessions. So no request pays for it.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from msgspec.structs import replace

from asgi_session._data import index as indexes
from asgi_session._data.record import Record
from asgi_session._engine.indexing import Indexes
from asgi_session._engine.loops import Loops
from asgi_session._policy import Policy

_EVERY: Final = 5.0
"""Seconds between two looks."""
_FIRST: Final = 10.0
"""Seconds from the first use to the first look of a process that nobody opens."""


class Cutoff:
    """The cut-off of one manager, as this process knows it.

    Attributes:
        at: sessions created up to then have ended; ms, 0: none has.
        due: when to look next, as `time.monotonic`.
    """

    __slots__ = ("_indexes", "_is_first", "_loops", "_name", "_policy", "at", "due")

    def __init__(self, policy: Policy, loops: Loops, indexes_: Indexes) -> None:
        self._policy = policy
        self._loops = loops
        self._indexes = indexes_
        self._name = policy.tokens.index("revoke_all", "")
        self._is_first = True
        self.at = 0
        self.due = 0.0

    def look_in_a_task(self) -> None:
        """Look in a task, since it is time to. Nobody waits for it, and its failure is an event."""
        now = monotonic()
        if not self.due:  # the first use, of a process that nobody has opened
            self.due = now + _FIRST
        else:
            self.due = now + _EVERY
            self._loops.current().tasks.spawn(self._look())

    async def look(self) -> None:
        """Look now.

        Raises:
            StoreUnavailable, SessionCorrupt.
        """
        self.due = monotonic() + _EVERY
        version = await self._indexes.load(self._name, self._policy.wait_until())
        if version is None:
            return
        self.at = max(self.at, indexes.cutoff_of(version.record))
        sealer = self._policy.sealer
        if self._is_first and sealer is not None and not sealer.is_current(version.stored.data):
            # It stays for ever, and is hardly ever saved: it would still be sealed with an old key when that
            # is dropped, or not at all, and nobody could read it any more. Once for each process: while keys
            # are being changed, some seal with the one and some with the other.
            await self._indexes.change(
                self._name, lambda record, _: replace(record), self._policy.wait_until()
            )
        self._is_first = False

    async def _look(self) -> None:
        try:
            await self.look()
        except Exception as error:
            self._policy.emit("failed", None, error=error)

    async def raise_to_now(self) -> None:
        """Let no session be good any more that exists now.

        Raises:
            StoreUnavailable, SessionCorrupt.
        """
        at = self._policy.clock()

        def cut(record: Record, _: int) -> Record:
            return indexes.cut_off(record, at)

        await self._indexes.change(self._name, cut, self._policy.wait_until())
        self.at = max(self.at, at)

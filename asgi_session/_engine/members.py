"""The sessions of an index: find those that live, and end them from outside their own requests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from asgi_session._backoff import Backoff
from asgi_session._data import index as indexes
from asgi_session._data.identity import claims
from asgi_session._data.index import Entry
from asgi_session._data.record import Record, Version
from asgi_session._engine.cutoff import Cutoff
from asgi_session._engine.indexing import Indexes
from asgi_session._engine.loops import Loops
from asgi_session._engine.reading import Reader
from asgi_session._policy import Policy
from asgi_session.errors import SessionCorrupt, StoreUnavailable

_AT_ONCE: Final = 100
"""Sessions that are looked up, or ended, in one go."""


class Members:
    """The sessions in the indexes of one manager.

    An entry without a record is not simply removed: its session may be about to be created. A reader marks it
    as suspect, *looks again*, and removes what it has marked itself and nobody has cleared.
    """

    __slots__ = ("_cutoff", "_indexes", "_loops", "_policy", "_reader")

    def __init__(
        self, policy: Policy, reader: Reader, loops: Loops, indexes_: Indexes, cutoff: Cutoff
    ) -> None:
        self._cutoff = cutoff
        self._policy = policy
        self._reader = reader
        self._loops = loops
        self._indexes = indexes_

    async def load(self, session_id: str, deadline: float) -> Version | None:
        """Load the record of a session; None when there is none, or it has ended."""
        policy = self._policy
        key = policy.tokens.key(session_id)
        stored = await policy.store.load(key, deadline=deadline)
        if stored is None or stored.expires_at <= policy.clock():
            return None
        version = self._reader.version(key, stored, session_id)
        record = version.record
        over = record.ended or record.is_index or record.created <= self._cutoff.at
        return None if over else version

    async def members(self, name: bytes, deadline: float) -> list[tuple[Entry, Version]]:
        """Return the sessions of an index that live, the oldest first; remove what does not from it."""
        version = await self._indexes.load(name, deadline)
        if version is None:
            return []
        entries = indexes.entries_of(version.record)
        found, unreadable = await self._load_all(name, [one.id for one in entries], deadline)
        doomed = [one.id for one in entries if one.doomed]
        if doomed:
            with suppress(SessionCorrupt):  # reported; it stays doomed
                await self.end_all(name, doomed, deadline)
        begun = self._policy.clock() - round(self._policy.deadline * 1000)
        there = found.keys() | unreadable
        dead = [one.id for one in entries if not one.doomed and one.id not in there and one.created < begun]
        if dead:
            await self.remove_dead(name, dead, deadline)
        return [(one, found[one.id]) for one in entries if one.id in found and not one.doomed]

    async def _load_all(
        self, name: bytes, ids: Sequence[str], deadline: float
    ) -> tuple[dict[str, Version], set[str]]:
        """Load the records of `ids`: those that belong to the index, and the ids of those nobody can read.

        One that cannot be read must not hide the others; nor is it dead, since another process may read it.
        """
        found: dict[str, Version] = {}
        unreadable: set[str] = set()
        for start in range(0, len(ids), _AT_ONCE):
            chunk = ids[start : start + _AT_ONCE]
            versions = await asyncio.gather(*(self._load_or_tell(one, deadline) for one in chunk))
            for session_id, version in zip(chunk, versions, strict=True):
                if isinstance(version, SessionCorrupt):
                    unreadable.add(session_id)
                elif version is not None and claims(version.record, name):
                    found[session_id] = version
        return found, unreadable

    async def _load_or_tell(self, session_id: str, deadline: float) -> Version | SessionCorrupt | None:
        try:
            return await self.load(session_id, deadline)
        except SessionCorrupt as error:  # reported
            return error

    async def remove_dead(self, name: bytes, dead: Sequence[str], deadline: float) -> None:
        """Remove entries for which no record was found that belongs to the index, if there is none still."""
        by = os.urandom(indexes.SUSPICION_SIZE)
        await self._indexes.change(name, lambda record, now: indexes.suspect(record, dead, by, now), deadline)
        alive, unreadable = await self._load_all(name, dead, deadline)
        sure = [one for one in dead if one not in alive and one not in unreadable]
        await self._indexes.change(name, lambda record, now: indexes.settle(record, sure, by, now), deadline)

    # ---------------------------------------------------------------- ending

    async def end_all(self, name: bytes, ids: Sequence[str], deadline: float) -> int:
        """End the sessions of `ids` that belong to an index, and remove their entries that are doomed.

        Raises:
            StoreUnavailable: of one at least it is not known that it has ended; its entry stays.
            SessionCorrupt: a record cannot be read, and who can may still serve it; its entry stays.
        """
        done: list[str] = []
        ended, failed = 0, None
        for start in range(0, len(ids), _AT_ONCE):
            chunk = ids[start : start + _AT_ONCE]
            results = await asyncio.gather(
                *(self.end(name, one, deadline) for one in chunk), return_exceptions=True
            )
            for session_id, result in zip(chunk, results, strict=True):
                if isinstance(result, BaseException):
                    failed = failed or result
                else:
                    done.append(session_id)
                    ended += result
        if done:
            await self.forget(name, done, deadline)
        if failed is not None:
            raise failed
        return ended

    async def forget(self, name: bytes, ids: Collection[str], deadline: float) -> None:
        """Remove the entries of sessions that were doomed, and have ended."""
        step = partial(_remove_doomed, ids)
        await self._indexes.change(name, step, deadline)

    async def end(self, name: bytes, session_id: str, deadline: float) -> bool:
        """End a session if it belongs to an index; whether it did, and lived.

        Raises:
            StoreUnavailable, SessionCorrupt.
        """
        version = await self.load(session_id, deadline)
        return (
            version is not None and claims(version.record, name) and await self.delete(session_id, deadline)
        )

    async def delete(self, session_id: str, deadline: float) -> bool:
        """End a session, whoever's it is; whether there was one. A lost reply counts as one."""
        policy = self._policy
        key = policy.tokens.key(session_id)
        backoff, reply_lost = Backoff(), False
        while True:
            try:
                deleted = await policy.store.delete(key, deadline=deadline)
            except StoreUnavailable as error:
                # Deleting twice is the same as once, so a lost reply is no reason to give up.
                if error.executed is False or time.monotonic() >= deadline:
                    raise
                reply_lost = True
                await backoff.pause(deadline)
            else:
                if deleted or reply_lost:
                    policy.emit("revoked", session_id)
                    self._loops.current().locks.look_again(key)
                return deleted or reply_lost

    async def revoke(self, name: bytes, keep: str | None, deadline: float) -> int:
        """End all sessions of an index but `keep`; return how many lived.

        A session that was acknowledged before this was called does not survive its return.
        """
        doomed: list[str] = []
        not_before = self._policy.clock()

        def doom(record: Record, now: int) -> Record:
            made = indexes.doom(record, keep, not_before, now)
            doomed[:] = [one.id for one in indexes.entries_of(made) if one.doomed]
            return made

        await self._indexes.change(name, doom, deadline)
        return await self.end_all(name, doomed, deadline) if doomed else 0


def _remove_doomed(ids: Collection[str], record: Record, now: int) -> Record:
    return indexes.remove_doomed(record, ids, now)

"""Indexes in the store: load one, and change one by a function of its newest version."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from asgi_session._backoff import Backoff
from asgi_session._data import index as indexes
from asgi_session._data import record as records
from asgi_session._data.expiry import USED, expires_at
from asgi_session._data.record import Record, Version
from asgi_session._data.token import index_key
from asgi_session._engine.loops import Loops
from asgi_session._engine.reading import Reader
from asgi_session._engine.save_request import LeftOut, SaveRequest
from asgi_session._policy import Policy
from asgi_session.errors import SessionConflict, SessionCorrupt, StoreUnavailable
from asgi_session.store import TAG_SIZE, TAKEN, Stored

Step: TypeAlias = Callable[[Record, int], Record]
"""Makes the next version of an index, at a time (ms). Done twice it must come to the same as done once."""


class Indexes:
    """The indexes of one manager, each by the 16 bytes that name it.

    A change goes the way of a session's saves: what this process changes at once leaves in one save, a
    version of others is met by doing it again on that, and while an outcome is unknown the same bytes are
    sent again.
    """

    __slots__ = ("_loops", "_policy", "_reader")

    def __init__(self, policy: Policy, reader: Reader, loops: Loops) -> None:
        self._policy = policy
        self._reader = reader
        self._loops = loops

    async def load(self, name: bytes, deadline: float) -> Version | None:
        """Load an index; None when there is none.

        Raises:
            StoreUnavailable, SessionCorrupt.
        """
        version = await self._load(name, deadline)
        if version is None or version.stored.expires_at <= self._policy.clock():
            return None
        return version

    async def _load(self, name: bytes, deadline: float) -> Version | None:
        """Load an index that may have expired, by this machine's clock."""
        key = index_key(name)
        stored = await self._policy.store.load(key, deadline=deadline)
        if stored is None:
            return None
        version = self._reader.version(key, stored, None)
        if not version.record.is_index:
            raise self._reader.corrupt(SessionCorrupt("the record is a session's"), None)
        return version

    async def change(
        self,
        name: bytes,
        step: Step,
        deadline: float,
        *,
        seen: Callable[[Record], bool] | None = None,
        uncertain: bool = False,
    ) -> None:
        """Load an index, and save what `step` makes of it; when that is nothing, save nothing.

        Args:
            name: of the index.
            step: is done again where nobody can tell whether it was done.
            deadline: as `time.monotonic`.
            seen: whether a version has what the step does. Give it if the step must not be done again once it
                was done and undone: an id that was doomed and removed must not come in a second time, since
                whoever has doomed it may be about to remove it once more.
            uncertain: the step may have been done before.

        Raises:
            StoreUnavailable: also when it may have been done, and is not seen. SessionCorrupt.
        """
        key, backoff = index_key(name), Backoff()
        done: bool | None
        while True:
            try:
                # One that has expired is there all the same for a store whose clock is behind.
                version = await self._load(name, deadline)
                if version is not None and uncertain and seen is not None and not seen(version.record):
                    raise StoreUnavailable("nobody can tell whether the index of the sessions was saved")
                if version is None:
                    done = await self._create(key, step, deadline)
                elif step(version.record, self._policy.clock()) is version.record:
                    return
                else:
                    request = SaveRequest(
                        {}, rewrite=step, base=version, deadline=deadline, use=USED, then=SaveRequest.end
                    )
                    await self._loops.current().saves.save(key, request)
                    done = not isinstance(request.result, LeftOut)  # else it has expired meanwhile
            except SessionConflict as error:  # nobody can tell whether it was done: then it is done again
                if not error.outcome_unknown:
                    raise
                done = None
            if done:
                return
            uncertain = uncertain or done is None
            if time.monotonic() >= deadline:
                raise StoreUnavailable("the index of the user's sessions was not saved in time")
            await backoff.pause(deadline)

    async def _create(self, key: str, step: Step, deadline: float) -> bool | None:
        """Save the first version of an index, if there is anything in it; whether that was done, if known."""
        policy, now = self._policy, self._policy.clock()
        blank = indexes.empty(now, policy.tokens.check(key))
        record = step(blank, now)
        if record is blank:
            return True
        record = records.next_version(record, now)
        data = records.encode(record)
        if policy.sealer is not None:
            data = policy.sealer.seal(data, key)
        expires = expires_at(now, record.idle, record.deadline)
        stored = Stored(data, data[:TAG_SIZE], expires)
        try:
            answer = await policy.store.create(key, stored.data, expires, deadline=deadline)
        except StoreUnavailable as error:
            if error.executed is False or time.monotonic() >= deadline:
                raise
            return None
        return answer is not TAKEN

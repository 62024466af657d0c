"""The record of a session's lock, as this process knows it: looked at, and changed.

What the record says decides, never a wake-up (`lock_hints`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from time import monotonic

import msgspec

from asgi_session._data import lease as leases
from asgi_session._data.expiry import NOT_USED
from asgi_session._data.lease import Step
from asgi_session._data.record import Version
from asgi_session._engine.lock_state import LockState
from asgi_session._engine.reading import Reader
from asgi_session._engine.save_request import LeftOut, SavedAs, SaveRequest
from asgi_session._engine.saving import SaveQueues
from asgi_session._engine.tasks import Tasks
from asgi_session._policy import Policy
from asgi_session.store import Stored


class LockParts(msgspec.Struct, frozen=True):
    """What the locks of one event loop have in common.

    Attributes:
        policy: the store, and how things are to be done.
        tasks: of the loop; their name is the one under which it holds locks.
        reader: reads versions.
        saves: the loop's.
        listens: tells whether wake-ups are heard, and has them heard from then on.
        hint: has the record of a key loaded because of a wake-up; whether that begins now.
        closed: called with a lock for which nobody is here any more.
    """

    policy: Policy
    tasks: Tasks
    reader: Reader
    saves: SaveQueues
    listens: Callable[[], bool]
    hint: Callable[[str], bool]
    closed: Callable[[LockRecord], None]


class LockRecord:
    """The lock of one session in the store; what becomes of news is for the classes above to say.

    Attributes:
        key: of the record in the store.
        id: the session's; None while nobody is here who has the session, only its key.
        latest: the newest version of the record that was seen here; None: none yet.
        state: what is known of the lock.
    """

    def __init__(self, parts: LockParts, key: str, session_id: str | None) -> None:
        self.policy = parts.policy
        self.tasks = parts.tasks
        self.key = key
        self.id = session_id
        self.latest: Version | None = None
        self.state = LockState(parts.tasks.name)
        self._parts = parts
        self._busy = False  # with the store, and goes on when that is done
        self._missed = False  # a wake-up, perhaps, while it was busy
        self._polls = 0
        self._use = NOT_USED
        self._timer: asyncio.TimerHandle | None = None

    # ---------------------------------------------------------------- what becomes of news

    def go_on(self) -> None:
        """Do what is next, as the newest version of the record says."""
        raise NotImplementedError

    def _gone(self) -> None:
        """Tell whoever waits that the record is gone."""
        raise NotImplementedError

    def _give_up(self, error: Exception) -> None:
        """Tell whoever waits that the store has failed; a lease that is left behind ends by itself."""
        raise NotImplementedError

    def _closing(self) -> None:
        """Tell whoever waits that the event loop is closing."""
        raise NotImplementedError

    def learn(self, version: Version) -> None:
        """Take notice of a version, if it is newer than what is known."""
        if self.latest is None or version.record.version > self.latest.record.version:
            self._note(version)
            self.go_on()

    def _learn(self, newest: Version | None, before: Version | None) -> None:
        """Take notice of what the store has answered, and go on."""
        if newest is None:
            self._gone()
            return
        self._note_unless_older(newest, before)
        self.state.answered()
        missed, self._missed = self._missed, False
        if not (missed and self._parts.hint(self.key)):
            self.go_on()

    def _note_unless_older(self, newest: Version, before: Version | None) -> None:
        """Take notice of what the store has answered, unless a wake-up has brought a newer version.

        A version that is lower than `before`, the latest when the store was asked, is no older: a
        failover has lost that one.
        """
        latest = self.latest
        if latest is None or latest is before or newest.record.version > latest.record.version:
            self._note(newest)

    def _note(self, version: Version) -> None:
        """Take notice of a newer version of the record."""
        if self.state.note(leases.read(version.record), monotonic()):
            self._polls = 0
        self.latest = version

    # ---------------------------------------------------------------- in the store

    def _look(self) -> None:
        """Load the record, in a task."""
        self._be_busy()
        self.tasks.spawn(self._load())

    def _be_busy(self) -> None:
        self._busy = True
        self._set_timer(None)

    def _done(self) -> None:
        """Be done with the store."""
        self._busy = False

    async def _load(self) -> None:
        """Load the record, take notice of it, and go on."""
        before, deadline = self.latest, monotonic() + self.policy.deadline
        try:
            newest = self._read(await self.policy.store.load(self.key, deadline=deadline))
        except Exception as error:
            self._done()
            if self.state.is_granted:  # a wake-up has told so meanwhile
                self.go_on()
            else:
                self._give_up(error)
        except BaseException:
            self._closing()
            raise
        else:
            self._done()
            self._learn(newest, before)

    def _read(self, stored: Stored | None) -> Version | None:
        if stored is None:
            return None
        version = self._parts.reader.version(self.key, stored, self.id)
        leases.read(
            version.record
        )  # SessionCorrupt here, where it is met, and not where the lock is looked at
        return version

    def _change(
        self, step: Step, then: Callable[[Exception | None, Version | None, Version], None]
    ) -> Coroutine[None, None, None]:
        """Change the lock; `then` is called with the error, the newest version, and the one before.

        That happens whoever awaits what is returned, and whether or not anybody does so to the end.
        """
        before = self.latest
        assert before is not None, "there is something to change"
        self._be_busy()

        def changed(request: SaveRequest) -> None:
            result = request.result
            newest = result.version if isinstance(result, SavedAs | LeftOut) else None
            then(request.error, newest, before)
            request.end()

        request = SaveRequest(
            {},
            step=step,
            then=changed,
            base=before,
            id=self.id,
            use=self._use,
            deadline=monotonic() + self.policy.deadline,
        )
        return self._send(request)

    async def _send(self, request: SaveRequest) -> None:
        with contextlib.suppress(Exception):  # it is told to `then`
            await self._parts.saves.save(self.key, request)

    def _set_timer(self, delay: float | None, then: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay is not None and then is not None:
            self._timer = asyncio.get_running_loop().call_later(max(delay, 0.0), then)

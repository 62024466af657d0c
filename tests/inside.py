"""What tests may ask of the library's inside: the only file of the tests that knows the core's own names.

What can be seen from outside (events, the store's content, what a session shows) is looked at there. The
rest is asked here, in the tests' words, so that the core may be laid out anew without touching a test. The
unit tests of pure modules import those directly.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cryptography.hazmat.primitives.ciphers import aead
from msgspec.structs import replace

from asgi_session import Session, SessionManager, _backoff, _failures
from asgi_session._data import codec, token
from asgi_session._data import index as indexes
from asgi_session._data import lease as leases
from asgi_session._data import record as records
from asgi_session._data.expiry import ENDED_FOR, TOUCH_FRACTION
from asgi_session._data.index import Entry
from asgi_session._data.lease import MAX_SKEW, Lease
from asgi_session._data.record import MAX_TIME, NOBODY, Record
from asgi_session._data.sealing import Sealer
from asgi_session._engine import (
    batch,
    committing,
    creating,
    cutoff,
    loading,
    lock_hints,
    lock_inside,
    lock_queue,
    lock_wakeups,
    moving_in,
    settling,
)
from asgi_session._engine.engine import Engine
from asgi_session._engine.loading import MAX_CANDIDATES
from asgi_session._engine.save_queue import SaveQueue
from asgi_session._policy import Policy
from asgi_session._session.contents import UNDECODED
from asgi_session._web.cookie import Cookie
from asgi_session._web.middleware import ManagerOptions
from asgi_session.store import Saved, Store
from asgi_session.stores.memory import MemoryStore
from asgi_session.stores.redis import RedisStore
from asgi_session.testing import FaultStore

if TYPE_CHECKING:
    import pytest

__all__ = [
    # values
    "ENDED_FOR", "MAX_CANDIDATES", "MAX_SKEW", "MAX_TIME", "NOBODY", "COOKIE_NAME", "Lease", "Record",
    "changed", "decoded", "record_in", "encoded", "lease_in", "with_lease", "with_spoilt_lease",
    "record_format", "fresh_token", "fresh_id", "as_token", "reads_token", "key_of",
    # a session
    "new_session", "status_of", "owed_by", "has_token", "credential", "record_of", "manager_of", "is_sealed",
    "seal", "use_up", "is_committing", "holds_lock", "replaced_values", "changes_of", "forget_change",
    "has_connection", "is_placeholder", "introduce", "stop_looking_clock", "forget_fixation_warning",
    # an index
    "entries_in_index", "index_key_of",
    # a manager
    "commit", "tasks_of", "state_of", "saves_under_way", "commits_queued", "failures_of", "serve_from",
    "report_to",
    # its locks
    "process_name", "listen", "is_listening", "wake_up", "looks_under_way", "look_again", "locks_in_use",
    "waiters_for", "is_busy_with", "is_granted", "end_turn",
    # seals
    "Sealed", "seal_everything", "break_seal",
    # stores
    "rewrite", "keys_in", "around_verbs", "fail_no_more", "password_of",
    # the edge
    "http_status", "manager_options", "refuse_to_parse_cookies",
    # chance, time and what is noted on the way
    "shortest_pauses", "no_pauses", "renew_early", "note_folds", "note_checks", "note_verifiers",
    "note_failures", "failure_log_goes_by", "forget_told", "pause_after_tries",
    # moving in
    "everybody_is_impatient", "forget_claims", "pause_of_who_waits",
    # wake-ups' budget
    "Hints", "HINTS_IN_FLIGHT", "HINTS_PER_SECOND",
]  # fmt: skip

T = TypeVar("T")
_COOKIE: Final = Cookie()
COOKIE_NAME: Final = _COOKIE.name
HINTS_IN_FLIGHT: Final = lock_hints.IN_FLIGHT
HINTS_PER_SECOND: Final = lock_hints.PER_SECOND


# ---------------------------------------------------------------- values


def changed(value: Any, **fields: Any) -> Any:
    """Return a record or a lease with other fields."""
    return replace(value, **fields)


def decoded(data: bytes) -> Record:
    """Return the record that the store's bytes stand for."""
    return records.decode(data if _sealed is None else _sealed.plain.get(data, data))


def record_in(manager: SessionManager, key: str, data: bytes) -> Record:
    """Return the record that a manager reads in what the store has under a key."""
    sealer = _policy(manager).sealer
    return records.decode(data) if sealer is None else sealer.decode(data, key)


def encoded(record: Record) -> bytes:
    """Return the store's bytes of a record."""
    return records.encode(record)


def lease_in(record: Record) -> Lease | None:
    """Return the lock that a record has."""
    return leases.read(record)


def with_lease(record: Record, lease: Lease | None) -> Record:
    """Return a record with this lock, or with none."""
    return leases.write(record, lease)


def with_spoilt_lease(record: Record) -> Record:
    """Return a record whose lock nobody can read."""
    return replace(record, parts={records.LOCK: b"spoilt"})


def record_format() -> str:
    """Return the code's specification of the record."""
    return records.__doc__ or ""


def _policy(manager: SessionManager) -> Policy:
    return manager._policy


def fresh_token(manager: SessionManager) -> str:
    """Return a cookie's value that is well formed, and of no session."""
    return _policy(manager).tokens.write(token.new_token())


def fresh_id() -> str:
    """Return the id of no session."""
    return token.new_token().selector


def as_token(manager: SessionManager, seed: str) -> str:
    """Return how a manager writes the token whose halves are `seed`, twice 22 characters."""
    return _policy(manager).tokens.write(token.Token(seed[:22], seed[22:]))


def reads_token(manager: SessionManager, text: str) -> bool:
    """Tell whether a manager takes this for a token."""
    return _policy(manager).tokens.read(text) is not None


def key_of(manager: SessionManager, session_id: str) -> str:
    """Return the store's key of a session."""
    return _policy(manager).tokens.key(session_id)


# ---------------------------------------------------------------- a session


def new_session(manager: SessionManager, *cookies: str, name: str = COOKIE_NAME) -> Session:
    """Return the session of a new request that carries these cookies, in one header."""
    line = "; ".join(f"{name}={cookie}" for cookie in cookies).encode()
    return Session(manager._engine, _COOKIE, [(b"cookie", line)] if cookies else [])


def status_of(session: Session) -> str:
    """Return "unloaded", "blank", "new", "live", "detached", "anonymous" or "ended"."""
    return session._status


def owed_by(session: Session) -> str:
    """Return which Set-Cookie the response must carry: "nothing", "cookie" or "deletion"."""
    return session._owed


def has_token(session: Session) -> bool:
    """Tell whether a session has a credential."""
    return session._token is not None


def credential(session: Session) -> str:
    """Return the cookie's value for a session that has a record."""
    assert session._token is not None
    return _engine(session).policy.tokens.write(session._token)


def record_of(session: Session) -> Record | None:
    """Return the record that a session was loaded from or last committed to."""
    return session._version.record if session._version is not None else None


def _engine(session: Session) -> Engine:
    assert isinstance(session._engine, Engine)
    return session._engine


def manager_of(session: Session) -> SessionManager:
    """Return a manager with the engine of the session's own."""
    manager = SessionManager.__new__(SessionManager)
    manager._engine = _engine(session)
    manager._policy = manager._engine.policy
    return manager


def is_sealed(session: Session) -> bool:
    """Tell whether the response's headers have left."""
    return session._sealed


def seal(session: Session) -> None:
    """Have the response's headers leave."""
    session._seal()


def use_up(session: Session, seconds: float) -> None:
    """Have so many seconds of the request's deadline used up."""
    session._waited = seconds


def is_committing(session: Session) -> bool:
    """Tell whether a commit of a session is on its way."""
    return session._commit is not None


def holds_lock(session: Session) -> bool:
    """Tell whether a session is in a block of its lock, as far as it knows."""
    return session._hold is not None


def replaced_values(session: Session) -> int:
    """Return how many values are kept that a refresh has replaced."""
    return len(session._replaced)


def changes_of(session: Session, max_size: int) -> dict[str, bytes | None]:
    """Return what a commit would save, checked as a commit does."""
    return session._changes(max_size)


def forget_change(session: Session, key: str) -> None:
    """Have a key that was changed taken for unchanged."""
    session._watched.pop(key, None)


def has_connection(session: Session) -> bool:
    """Tell whether a session still knows its request."""
    return session._connection is not None


def is_placeholder(value: object) -> bool:
    """Tell whether this is what stands for a value that nobody has looked at yet."""
    return value is UNDECODED


# ---------------------------------------------------------------- a manager


def commit(
    manager: SessionManager, session: Session, *, explicit: bool = False, only_destroy: bool = False
) -> Coroutine[Any, Any, None]:
    """Commit as the middleware does when a response starts; `explicit`: as `Session.commit` does.

    Args:
        manager: commits.
        session: of the request.
        explicit: whether what cannot be saved is an error.
        only_destroy: whether the request has failed, so that nothing but an ending is saved.
    """
    return manager._engine.commit(session, explicit=explicit, only_destroy=only_destroy)


def state_of(manager: SessionManager) -> object:
    """Return what a manager keeps for the running event loop, made if need be."""
    return manager._engine.loops.current()


def tasks_of(manager: SessionManager) -> list[asyncio.Task[None]]:
    """Return the tasks that a manager has in this event loop."""
    return list(manager._engine.loops.current().tasks.running)


def saves_under_way(manager: SessionManager) -> int:
    """Return of how many sessions something is being saved."""
    return len(manager._engine.loops.current().saves._queues)


def commits_queued(manager: SessionManager, token: str) -> int:
    """Return how many commits wait while one save of that session is on its way."""
    queue = manager._engine.loops.current().saves._queues.get(token[:22])
    return len(queue.waiting) if isinstance(queue, SaveQueue) else 0


def failures_of(manager: SessionManager) -> _failures.Failures:
    """Return what notes failures for the log."""
    return _policy(manager).failures


def serve_from(manager: SessionManager, wrap: Callable[[Store], T]) -> T:
    """Put another store around a manager's; return that."""
    store = wrap(manager.store)
    _policy(manager).store = store  # type: ignore[assignment]
    return store


def go_by(manager: SessionManager, clock: Callable[[], int]) -> None:
    """Have a manager tell the time by another clock; ms."""
    _policy(manager).clock = clock


def report_to(manager: SessionManager, on_event: Callable[..., None]) -> None:
    """Have a manager tell its events to somebody else."""
    _policy(manager).on_event = on_event


# ---------------------------------------------------------------- its locks


def _locks(manager: SessionManager) -> lock_wakeups.LockQueues:
    return manager._engine.loops.current().locks


def _queue(manager: SessionManager, token: str) -> lock_queue.LockQueue | None:
    return _locks(manager)._queues.get(token[:22])


def process_name(manager: SessionManager) -> bytes:
    """Return the name under which a manager holds locks in this event loop."""
    return manager._engine.loops.current().tasks.name


def listen(manager: SessionManager) -> None:
    """Have a manager begin to listen for wake-ups."""
    _locks(manager).listens()


def is_listening(manager: SessionManager) -> bool:
    """Tell whether a manager hears wake-ups."""
    return _locks(manager)._stop is not None


def wake_up(manager: SessionManager, key: str) -> None:
    """Have a wake-up arrive."""
    _locks(manager)._heard(key)


def looks_under_way(manager: SessionManager) -> int:
    """Return how many loads go on that wake-ups have caused."""
    return len(_locks(manager).hints._tasks)


def look_again(manager: SessionManager, token: str) -> None:
    """Have those who wait for a session's lock look at the record."""
    _locks(manager).look_again(token[:22])


def locks_in_use(manager: SessionManager) -> int:
    """Return of how many sessions somebody here holds the lock or waits for it."""
    return len(_locks(manager)._queues)


def waiters_for(manager: SessionManager, token: str) -> int:
    """Return how many wait here for a session's lock."""
    queue = _queue(manager, token)
    return len(queue.waiters) if queue is not None else 0


def is_busy_with(manager: SessionManager, token: str) -> bool:
    """Tell whether a lock's queue waits for the store."""
    queue = _queue(manager, token)
    return queue is not None and queue._busy


def is_granted(manager: SessionManager, token: str) -> bool:
    """Tell whether the lock was granted to this manager, for somebody who is not in yet."""
    queue = _queue(manager, token)
    return queue is not None and queue.state.is_granted


def end_turn(manager: SessionManager, token: str) -> None:
    """Have as many let in here in a row as may be while another process waits."""
    queue = _queue(manager, token)
    assert queue is not None
    queue.state.turn = leases.TURNS


# ---------------------------------------------------------------- seals


class Sealed:
    """What was sealed, since every manager that is made seals its records.

    Attributes:
        plain: what the store has for each record, and what that was before it was sealed.
        cipher_keys: the keys that were derived.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plain: dict[bytes, bytes] = {}
        self.cipher_keys: set[bytes] = set()
        self._by_key: dict[str, Sealer] = {}
        self._nonces: dict[tuple[bytes, bytes], bytes] = {}
        self._twice: list[bytes] = []
        self._have_managers_seal(monkeypatch)
        self._note_what_is_sealed(monkeypatch)
        self._note_nonces(monkeypatch)

    def again(self, key: str, data: bytes) -> bytes:
        """Seal a record that a test has made, as a manager would."""
        return self._by_key[key].seal(data, key)

    def check(self) -> None:
        """Fail if a nonce has served for two texts; GCM's key would be known then."""
        assert not self._twice

    def _have_managers_seal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Policy.__init__

        def init(policy: Policy, store: Any, *, encryption_key: Any, **options: Any) -> None:
            real(
                policy,
                store,
                encryption_key=encryption_key or "the key of all the tests, 32 bytes",
                **options,
            )

        monkeypatch.setattr(Policy, "__init__", init)

    def _note_what_is_sealed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Sealer.seal

        def seal(sealer: Sealer, data: bytes, key: str) -> bytes:
            made = real(sealer, data, key)
            self.plain[made] = data
            self._by_key[key] = sealer
            return made

        monkeypatch.setattr(Sealer, "seal", seal)

    def _note_nonces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nonces, twice, keys, real = self._nonces, self._twice, self.cipher_keys, aead.AESGCM

        class Noted:
            def __init__(self, key: bytes) -> None:
                self._key = key
                keys.add(key)
                self.decrypt = real(key).decrypt

            def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
                made = real(self._key).encrypt(nonce, data, associated)
                if nonces.setdefault((self._key, nonce), made) != made:
                    twice.append(nonce)
                return made

        monkeypatch.setattr(aead, "AESGCM", Noted)


_sealed: Sealed | None = None


def seal_everything(monkeypatch: pytest.MonkeyPatch) -> Sealed:
    """Have every manager that is made seal its records, and what is asked here know of it."""
    made = Sealed(monkeypatch)
    monkeypatch.setitem(globals(), "_sealed", made)
    return made


# ---------------------------------------------------------------- stores


async def rewrite(store: Store, key: str, change: Callable[[Record], Record] | bytes, now: int = 0) -> None:
    """Change a stored record as another process would have, or put other bytes there.

    Args:
        store: has the record.
        key: of the record.
        change: makes the new record of the next version; or bytes, which are stored as they are.
        now: the time, for the version's nonce.
    """
    deadline = time.monotonic() + 30
    stored = await store.load(key, deadline=deadline)
    assert stored is not None
    if isinstance(change, bytes):
        data = change
    else:
        data = encoded(change(records.next_version(decoded(stored.data), now)))
        if _sealed is not None:
            data = _sealed.again(key, data)
    answer = await store.save(key, data, stored.expires_at, expect=stored, deadline=deadline)
    assert isinstance(answer, Saved)


def forget_fixation_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process warn once more of a sign-in that keeps its session's id."""
    monkeypatch.setattr("asgi_session._policy._warned", [])


def stop_looking_clock(monkeypatch: pytest.MonkeyPatch, now: Callable[[], float]) -> None:
    """Have processes look for the end of all sessions by the clock `now`, seconds."""
    for module in (cutoff, loading):
        monkeypatch.setattr(module, "monotonic", now)


def introduce(session: Session, began: int, connection: object = None) -> None:
    """Tell a session of its request, as the middleware does: when it began (ms), and its connection."""
    session._tell(connection, began)


def index_key_of(manager: SessionManager, user: str, name: str = "identity") -> str:
    """Return the store's key of the index of a user's sessions, or of those in which a key has a value."""
    return token.index_key(_policy(manager).tokens.index(name, user))


async def entries_in_index(manager: SessionManager, user: str, name: str = "identity") -> list[Entry]:
    """Return what is in an index, the oldest first."""
    key = index_key_of(manager, user, name)
    stored = await manager.store.load(key, deadline=time.monotonic() + 30)
    return [] if stored is None else indexes.entries_of(record_in(manager, key, stored.data))


async def break_seal(store: Store, key: str) -> None:
    """Change the last bit of a stored record."""
    stored = await store.load(key, deadline=time.monotonic() + 30)
    assert stored is not None
    await rewrite(store, key, stored.data[:-1] + bytes([stored.data[-1] ^ 1]))


def keys_in(memory: MemoryStore) -> list[str]:
    """Return the keys of everything that is stored, expired or not."""
    return list(memory._records)


def around_verbs(
    store: FaultStore, wrap: Callable[[Any, Callable[[], Awaitable[Any]], Callable[..., Any]], Awaitable[Any]]
) -> None:
    """Have each verb run by ``await wrap(call, verb, run)``, where ``run(call, verb)`` is as before."""
    run = store._run

    async def wrapped(call: Any, verb: Callable[[], Awaitable[Any]]) -> Any:
        return await wrap(call, verb, run)

    store._run = wrapped  # type: ignore[method-assign]


def fail_no_more(store: FaultStore) -> None:
    """Take back the failures that are still to come; what is paused stays paused."""
    store._failures.clear()


def password_of(store: RedisStore) -> object:
    """Return the password with which a store signs in."""
    return store._target.dialect.settings["password"]


# ---------------------------------------------------------------- the edge


def http_status(error: Exception) -> int:
    """Return the status of the response that an error of the library becomes."""
    return _failures.status_of(error)


def touch_fraction() -> int:
    """Return which part of its idle timeout has to pass before a session is touched again."""
    return round(1 / TOUCH_FRACTION)


def manager_options() -> set[str]:
    """Return the options that the middleware takes for its manager."""
    return set(ManagerOptions.__annotations__)


def refuse_to_parse_cookies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it be an error to look at a request's cookies."""

    def read(self: Cookie, headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
        raise AssertionError("the cookie was parsed")

    monkeypatch.setattr(Cookie, "read", read)


# ---------------------------------------------------------------- chance, time and what is noted on the way


def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every jittered pause, of whatever length, end at once."""
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)


def shortest_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each pause before a retry take its least: one turn of the event loop."""
    monkeypatch.setattr(_backoff, "random", SimpleNamespace(uniform=lambda low, high: low))


def renew_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have locks renewed, and looked at again, after milliseconds."""
    monkeypatch.setattr(lock_inside, "_FIRST_RENEWAL", 0.005)
    monkeypatch.setattr(lock_queue, "_LOOK_AGAIN", 0.01)


def note_folds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets, for each fold, how many commits were in it."""
    folded: list[int] = []
    fold = batch.fold  # type: ignore[attr-defined]

    def noted(base: Any, changes: Sequence[Any], *rest: Any) -> Any:
        folded.append(len(changes))
        return fold(base, changes, *rest)

    monkeypatch.setattr(batch, "fold", noted)
    return folded


def note_checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the key of every value that is walked to see whether it can be read back."""
    keys: list[str] = []
    check = codec.check

    def noted(value: Any, key: str, encoded: bytes) -> None:
        keys.append(key)
        check(value, key, encoded)

    monkeypatch.setattr(codec, "check", noted)
    return keys


def note_verifiers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the secret half of every token that is drawn."""
    verifiers: list[str] = []
    new = token.new_token

    def noted(selector: str | None = None) -> token.Token:
        drawn = new(selector)
        verifiers.append(drawn.verifier)
        return drawn

    for module in (committing, creating, token):
        monkeypatch.setattr(module, "new_token", noted)
    return verifiers


def note_failures(monkeypatch: pytest.MonkeyPatch, note: Callable[[Exception], None]) -> None:
    """Have failures noted instead of logged."""

    def log(self: _failures.Failures, error: Exception, what: str = "") -> None:
        note(error)

    monkeypatch.setattr(_failures.Failures, "log", log)


def failure_log_goes_by(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    """Have the log of failures go by another clock, in seconds."""
    monkeypatch.setattr(_failures, "monotonic", clock)


def forget_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no lost change of any key told in the log yet."""
    monkeypatch.setattr(settling, "_told_of", set())


async def pause_after_tries(tries: int, deadline: float) -> None:
    """Pause as before the next try, after so many."""
    backoff = _backoff.Backoff()
    backoff._tries = tries
    await backoff.pause(deadline)


# ---------------------------------------------------------------- wake-ups' budget


class Hints:
    """The loads that wake-ups cause, by a clock of the test's own.

    Args:
        look: loads the record of a key; whether there was anything new.
        clock: in seconds.
        monkeypatch: has them go by `clock`; None: they go by the true time, and only begin with `clock`.
    """

    def __init__(
        self,
        look: Callable[[str], Awaitable[bool]],
        clock: Callable[[], float],
        monkeypatch: pytest.MonkeyPatch | None,
    ) -> None:
        self._hints = lock_hints.Hints(look)
        self._hints._since = clock()
        if monkeypatch is not None:
            monkeypatch.setattr(lock_hints, "monotonic", clock)
        self.take = self._hints.take
        self.close = self._hints.close

    def leave(self, budget: float) -> None:
        """Have only so many loads left that may be for nothing."""
        self._hints._left = budget

    def time_has_come(self) -> None:
        """Have the timer be due that waits for the budget to grow."""
        self._hints._time_has_come()

    @property
    def tasks(self) -> int:
        """How many loads go on."""
        return len(self._hints._tasks)


# ---------------------------------------------------------------- moving in


def everybody_is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever finds another's claim open take it over at once."""
    monkeypatch.setattr(moving_in._Watch, "is_abandoned", lambda *_: True)


def forget_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each old cookie that comes lead to a claim that nobody else comes to."""
    monkeypatch.setattr(token.Tokens, "claim", lambda *_: random.randbytes(16))


def pause_of_who_waits(
    monkeypatch: pytest.MonkeyPatch, pause: Callable[[int, float], Awaitable[bool]]
) -> None:
    """Have whoever waits for another's claim pause like this: given how often it has, and its deadline."""
    monkeypatch.setattr(moving_in, "pause", pause)

"""The policy: every option, checked, in one object, with the store, the tokens and the clock.

Whatever in the engine needs to know how things are to be done is given this, and nothing that does them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from inspect import iscoroutinefunction
from typing import Any, Final, Literal, Protocol, TypeAlias

from asgi_session import stores
from asgi_session._data.expiry import TOUCH_FRACTION
from asgi_session._data.identity import LOOKS_LIKE_ONE, Identity, IdentityKey
from asgi_session._data.rules import Rule, Rules, is_rule
from asgi_session._data.sealing import Sealer, Unsealed
from asgi_session._data.token import Tokens
from asgi_session._failures import Failures
from asgi_session._options import choice, fraction, milliseconds
from asgi_session._secret import Wrapped, hidden, revealed, with_revealed
from asgi_session.clock import Clock
from asgi_session.errors import ConfigurationError
from asgi_session.store import Store, TouchesRarely

logger: Final = logging.getLogger("asgi_session")

OnEvent = Callable[..., None]
"""Called as ``on_event(name, session_id, *, connection, **info)``; it must return quickly and not raise."""

Describe: TypeAlias = Callable[[Any], str | None]
"""Says in a few words who a connection comes from, say its IP address and browser."""

MAX_DESCRIPTION: Final = 256
"""Bytes."""
_warned: Final[list[bool]] = []

Key: TypeAlias = str | bytes | Wrapped

_MIN_ROTATE_EVERY: Final = 60_000  # a response may be on its way for as long


class HasConnection(Protocol):
    """What knows the connection of the request that it belongs to; None when that is over."""

    @property
    def _connection(self) -> object: ...


class Policy:
    """What `SessionManager` was told, checked; its text says what each option means.

    Attributes:
        store: where the records are.
        owns_store: whether it was made here, from a URL.
        tokens: writes, reads and digests tokens.
        clock: ms since the Unix epoch.
        idle: idle timeout, ms.
        absolute: absolute timeout, ms.
        unconfirmed: idle timeout until the cookie has come back once, ms.
        deadline: for everything that one request may wait on the store, seconds.
        max_size: of a record, bytes.
        rotate_every: how old a credential may become, ms; 0: any age.
        rules: what becomes of a key that two have changed.
        sealer: seals and opens records; None where they are not sealed.
        overhead: bytes that a seal adds to a record.
        failures: the log of what requests fail with.
        identity: the keys that say who is signed in; None: nobody asks.
        indexes: further keys by which sessions are found.
        has_indexes: whether there is an identity, or a further index.
        may_warn: whether there is something to warn of: a sign-in in a session that keeps its credential.
        forget_at_login: keys that do not go along when somebody signs in.
        max_sessions: of one user.
        evicts: whether one more ends the oldest; else it is refused.
        anonymous_idle: idle timeout while nobody is signed in, ms.
        describe: says in a few words who a connection comes from.
        touch_fraction: of the idle timeout, which a touch must gain; the store's wish, or 5 %.
    """

    __slots__ = (
        "absolute", "anonymous_idle", "clock", "deadline", "describe", "evicts", "failures",
        "forget_at_login", "has_indexes", "identity", "idle", "indexes", "max_sessions", "max_size",
        "may_warn", "on_corrupt", "on_event", "on_replay", "on_unavailable", "overhead", "owns_store",
        "refuses", "rotate_every", "rules", "save_on_error", "sealer", "store", "tokens", "touch_fraction",
        "unconfirmed",
    )  # fmt: skip

    def __init__(
        self,
        store: Store | str | Wrapped,
        *,
        secret_key: Key | Sequence[Key] | None,
        encryption_key: Key | Sequence[Key] | None,
        unsealed: Unsealed,
        idle_timeout: float | timedelta,
        absolute_timeout: float | timedelta,
        unconfirmed_timeout: float | timedelta,
        max_size: int,
        deadline: float | timedelta,
        namespace: str,
        on_unavailable: Literal["fail", "anonymous"],
        on_corrupt: Literal["raise", "new"],
        on_replay: Literal["report", "end"],
        rotate_every: float | timedelta | None,
        save_on_error: bool,
        merge: Mapping[str, Rule] | None,
        on_conflict: Literal["mine", "raise"],
        check: Literal["warn", "refuse"],
        identity: IdentityKey | Sequence[IdentityKey] | None,
        forget_at_login: Sequence[str],
        max_sessions_per_user: int,
        on_max_sessions: Literal["evict", "refuse"],
        index: Sequence[str],
        describe: Describe | None,
        anonymous_idle_timeout: float | timedelta,
        on_event: OnEvent | None,
        clock: Clock,
    ) -> None:
        store, secret_key, encryption_key = hidden(store), hidden(secret_key), hidden(encryption_key)
        self.idle: int = milliseconds("idle_timeout", idle_timeout)
        self.absolute: int = milliseconds("absolute_timeout", absolute_timeout)
        self.unconfirmed: int = min(milliseconds("unconfirmed_timeout", unconfirmed_timeout), self.idle)
        self.deadline: float = milliseconds("deadline", deadline) / 1000
        if self.idle > self.absolute:
            raise ConfigurationError(
                f"idle_timeout={idle_timeout!r} is longer than absolute_timeout={absolute_timeout!r}: no "
                "session could ever expire by being idle. Lower idle_timeout or raise absolute_timeout"
            )
        self.rotate_every: int = 0 if rotate_every is None else milliseconds("rotate_every", rotate_every)
        if rotate_every is not None and not _MIN_ROTATE_EVERY <= self.rotate_every <= self.absolute:
            raise ConfigurationError(
                f"rotate_every={rotate_every!r}: give at least a minute and at most absolute_timeout"
                f"={absolute_timeout!r}, or None"
            )
        if not isinstance(max_size, int) or max_size < 256:
            raise ConfigurationError(f"max_size={max_size!r}: give bytes, at least 256")
        if not isinstance(namespace, str) or not namespace or "\0" in namespace:
            raise ConfigurationError(f"namespace={namespace!r}: give a name that is not empty")
        if not _encodable(namespace):
            raise ConfigurationError(f"namespace={namespace!r} cannot be encoded as UTF-8: give another name")
        if not callable(clock):
            raise ConfigurationError(f"clock={clock!r}: give a function that returns milliseconds")
        choice("on_unavailable", on_unavailable, ("fail", "anonymous"))
        choice("on_corrupt", on_corrupt, ("raise", "new"))
        choice("on_replay", on_replay, ("report", "end"))
        choice("on_conflict", on_conflict, ("mine", "raise"))
        choice("check", check, ("warn", "refuse"))
        choice("unsealed", unsealed, ("refuse", "accept", "write"))
        if unsealed != "refuse" and encryption_key is None:
            raise ConfigurationError(
                f"unsealed={unsealed!r} needs encryption_key: without one, no record is sealed anyway"
            )
        if on_event is not None and (not callable(on_event) or iscoroutinefunction(on_event)):
            raise ConfigurationError(
                f"on_event={on_event!r}: give a function (a plain `def`) that is called as on_event(name, "
                "session_id, connection=..., ...). To await something, put the event into a queue"
            )
        self.identity: Identity | None = None if identity is None else Identity(identity)
        self.indexes: dict[str, Identity] = {name: Identity(name, "index") for name in _names("index", index)}
        self.has_indexes: bool = self.identity is not None or bool(self.indexes)
        self.may_warn: bool = self.identity is None
        self.forget_at_login: frozenset[str] = frozenset(_names("forget_at_login", forget_at_login))
        if isinstance(max_sessions_per_user, bool) or not (
            isinstance(max_sessions_per_user, int) and 1 <= max_sessions_per_user <= 1000
        ):
            raise ConfigurationError(
                f"max_sessions_per_user={max_sessions_per_user!r}: give a number from 1 to 1000"
            )
        self.max_sessions: int = max_sessions_per_user
        choice("on_max_sessions", on_max_sessions, ("evict", "refuse"))
        self.evicts: bool = on_max_sessions == "evict"
        self.anonymous_idle: int = min(
            milliseconds("anonymous_idle_timeout", anonymous_idle_timeout), self.idle
        )
        if describe is not None and (not callable(describe) or iscoroutinefunction(describe)):
            raise ConfigurationError(
                f"describe={describe!r}: give a function (a plain `def`) of the connection that returns text"
            )
        self.describe: Describe | None = describe
        self.max_size: int = max_size
        self.rules: Rules = Rules(_rules(merge), on_conflict)
        for key in (self.identity, *self.indexes.values()):
            if key is not None and key.roots is not None and not key.roots.isdisjoint(self.rules.by_key):
                name = sorted(key.roots.intersection(self.rules.by_key))[0]
                raise ConfigurationError(
                    f"merge[{name!r}]: a key that says who is signed in, or by which sessions are found, "
                    "cannot have a merge rule: who it is then would be what neither request has said"
                )
        self.on_unavailable: Literal["fail", "anonymous"] = on_unavailable
        self.on_corrupt: Literal["raise", "new"] = on_corrupt
        self.on_replay: Literal["report", "end"] = on_replay
        self.save_on_error: bool = save_on_error
        self.refuses: bool = check == "refuse"
        self.clock: Clock = clock
        self.tokens: Tokens = with_revealed(_tokens, namespace, secret_key)
        self.sealer: Sealer | None = with_revealed(_sealer, namespace, encryption_key, unsealed)
        self.overhead: int = 0 if self.sealer is None else self.sealer.overhead
        self.on_event: OnEvent | None = on_event
        self.failures: Failures = Failures()
        self.owns_store: bool = isinstance(revealed(store), str)
        self.store: Store = with_revealed(stores.store_from_url if self.owns_store else _checked, store)
        self.touch_fraction: float = TOUCH_FRACTION
        if isinstance(self.store, TouchesRarely):
            self.touch_fraction = fraction(
                f"{type(self.store).__name__}.touch_fraction", self.store.touch_fraction
            )

    def wait_until(self) -> float:
        """Return by when something that begins now must have an answer, as `time.monotonic`."""
        return time.monotonic() + self.deadline

    def description_of(self, session: HasConnection) -> bytes:
        """Return what `describe` says of the session's request; empty when nobody asks, or it fails."""
        connection = _connection_of(session)
        if self.describe is None or connection is None:
            return b""
        try:
            return shortened(self.describe(connection))
        except Exception:
            logger.exception("describe failed")
            return b""

    def warn_of_fixation(self, session_id: str | None, changes: Iterable[str], mark: object) -> None:
        """Warn, once per process, of what looks like a sign-in that keeps the session's credential."""
        if session_id is not None and mark is None:
            found = LOOKS_LIKE_ONE.intersection(changes)
            self.may_warn = False
            if not _warned:
                _warned.append(True)
                key = sorted(found)[0]
                logger.warning(
                    "session[%r] was set in a session that keeps its id. If that signs somebody in, whoever "
                    "planted the session's cookie is signed in, too (session fixation). Name the key that "
                    "says who is signed in: identity=%r; or call session.rotate() when it is set. This is "
                    "logged once per process",
                    key,
                    key,
                )

    def emit(
        self, name: str, session_id: str | None, session: HasConnection | None = None, /, **info: Any
    ) -> None:
        """Tell `on_event`; what it raises is logged and goes no further.

        Args:
            name: of the event.
            session_id: public.
            session: of the request it happened in, if it was one.
            **info: what there is to know.
        """
        if self.on_event is not None:
            try:
                self.on_event(name, session_id, connection=_connection_of(session), **info)
            except (Exception, asyncio.CancelledError):  # the latter: from a future that it looks at
                logger.exception("on_event failed for %r", name)


def _connection_of(session: HasConnection | None) -> object:
    return session._connection if session is not None else None


def shortened(description: object) -> bytes:
    """Return a description as it is stored: at most 256 bytes of UTF-8."""
    if description is None:
        return b""
    if not isinstance(description, str):
        raise TypeError(f"describe must return text, not {type(description).__qualname__}")
    raw = description.encode(errors="replace")[:MAX_DESCRIPTION]
    return raw.decode(errors="ignore").encode()


def _names(option: str, names: Sequence[str]) -> Sequence[str]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ConfigurationError(f"{option}={names!r}: give a tuple of session keys, such as ({names!r},)")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{option}: session keys are str that are not empty, not {name!r}")
    return names


def _rules(merge: Mapping[str, Rule] | None) -> dict[str, Rule]:
    if merge is None:
        return {}
    if not isinstance(merge, Mapping):
        raise ConfigurationError(f"merge={merge!r}: give a dict of session keys and rules")
    for key, rule in merge.items():
        if not isinstance(key, str):
            raise ConfigurationError(f"merge: session keys are str, not {type(key).__qualname__}: {key!r}")
        if not is_rule(rule):
            raise ConfigurationError(
                f"merge[{key!r}]={rule!r}: give a plain function rule(base, mine, theirs) of the values. One "
                "that is made by a call, such as by_key(), has to be called"
            )
    return dict(merge)


def _tokens(namespace: str, secret_key: Any) -> Tokens:
    return Tokens(namespace, () if secret_key is None else _keys("secret_key", "signs", secret_key))


def _sealer(namespace: str, encryption_key: Any, unsealed: Unsealed) -> Sealer | None:
    if encryption_key is None:
        return None
    return Sealer(namespace, _keys("encryption_key", "seals", encryption_key), unsealed)


def _keys(option: str, does: str, given: Any) -> Sequence[str | bytes]:
    several = isinstance(given, Sequence) and not isinstance(given, (str, bytes))
    keys = [revealed(key) for key in (given if several else [given])]
    if not keys or not all(isinstance(key, (str, bytes)) for key in keys):
        raise ConfigurationError(
            f"{option}: give text or bytes, plain or in a Secret or SecretStr, a list of them (the first "
            f"{does}), or None"
        )
    if not all(_encodable(key) for key in keys):
        raise ConfigurationError(f"{option} cannot be encoded as UTF-8: give other text, or bytes")
    return keys


def _encodable(text: str | bytes) -> bool:
    try:
        if isinstance(text, str):
            text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(store: Any) -> Store:
    missing = [
        name
        for name in ("load", "create", "save", "touch", "delete", "open", "close")
        if not callable(getattr(store, name, None))
    ]
    if isinstance(store, bytes):
        raise ConfigurationError("store=...: a URL must be text (str), not bytes")
    if isinstance(store, type):
        raise ConfigurationError(f"store={store.__name__} is a class: make one, {store.__name__}(...)")
    if missing:
        raise ConfigurationError(
            # Its repr may hold a password.
            f"store=... got a {type(store).__name__}, which is no store: it lacks {', '.join(missing)}. "
            "Give a URL such as "
            "'redis://localhost:6379', or a Store such as RedisStore(client) or MemoryStore()"
        )
    return store  # type: ignore[no-any-return]

"""What `RedisStore.open` tries out: the kind of server, its role, and every right that will be needed.

HELLO tells kind and role, and needs no right. Rights are tried out by using them, on a connection and a
key of its own, and nothing stays behind. What never heals by itself is a `Failure` that is `final`.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import os
from binascii import crc_hqx
from collections.abc import Callable
from time import monotonic, time
from typing import Any, Final, NamedTuple

import hiredis

from asgi_session._backoff import pause
from asgi_session.store import Stored
from asgi_session.stores._shared.connection import Failure
from asgi_session.stores.redis import commands
from asgi_session.stores.redis.backend import Backend
from asgi_session.stores.redis.commands import pack
from asgi_session.stores.redis.connection import PING, Connection
from asgi_session.stores.redis.diagnosis import diagnose, hello
from asgi_session.stores.redis.node import Node
from asgi_session.stores.redis.replies import ReplyKind, is_denied, is_full, is_syntax_error, is_unknown, kind
from asgi_session.stores.redis.target import Options, Target, advice

_LIFE: Final = 60_000
"""How long the key of a check lives, ms, if it cannot be deleted."""

_PROBES: Final = 16
"""Keys that are looked for to tell whether a node of a cluster has all the slots."""

_NEEDED: Final = "+get +set +del +eval +evalsha +getrange +setrange +pexpireat +ping"
_NEEDED_WITHOUT_LUA: Final = "+get +set +del +delifeq +ping"
_NEITHER: Final = (
    "knows neither Lua scripts nor SET ... IFEQ, so nothing can be compared and set: load the Lua module, or "
    "use Valkey 8.1 or later"
)
_PRIMARY: Final = "sessions need the primary; give its address, or the Sentinels'"


class Names(NamedTuple):
    """What the names of the store's keys and channels begin with."""

    key: bytes
    channel: bytes


class _Kind(enum.Enum):
    """What a refusal of a step says."""

    NEEDED = "the store cannot work"
    SCRIPT = "unknown: the server has no Lua"
    COMPARES = "a syntax error: the server does not know IFEQ"
    WAKES = "forbidden: nobody is woken up"
    OPTIONAL = "unknown: there is another way"


class _Step(NamedTuple):
    """Something that the store's user must be allowed to do."""

    what: str
    data: bytes
    kind: _Kind = _Kind.NEEDED


class _Trial(NamedTuple):
    """A key that only this check knows, its name on the server, a channel, and a record."""

    key: str
    name: bytes
    channel: bytes
    first: Stored


class _Outcome(NamedTuple):
    """What the steps have shown."""

    denied: tuple[str, ...] = ()
    silent: bool = False
    no_scripts: bool = False
    failure: Failure | None = None


def _ignore(connection: Connection) -> None:
    pass


class Check:
    """Checks the servers of one store.

    Args:
        target: where they are.
        options: the store's.
        names: the store's.
        muted: called when everything is allowed but wake-ups.
    """

    __slots__ = ("_muted", "_names", "_options", "_target")

    def __init__(self, target: Target, options: Options, names: Names, muted: Callable[[], None]) -> None:
        self._target = target
        self._options = options
        self._names = names
        self._muted = muted

    async def run(self, backend: Backend, deadline: float) -> Failure | None:
        """Connect and check; a failure that may heal is met by further tries until the deadline."""
        tries = 0
        while True:
            failure = await self._try(backend, deadline)
            if failure is None or failure.final:
                return failure
            if tries == 0 and (found := await diagnose(self._target, self._options)) is not None:
                return found
            tries += 1
            if not await pause(tries, deadline):
                return failure

    async def _try(self, backend: Backend, deadline: float) -> Failure | None:
        nodes = await backend.connect(deadline)
        if isinstance(nodes, Failure):
            return nodes
        found = await asyncio.gather(*(self._try_out(node, slots) for node, slots in nodes))
        failures = [each for each in found if each is not None]
        return max(failures, key=lambda each: each.final, default=None)

    async def _try_out(self, node: Node, slots: frozenset[int]) -> Failure | None:
        connection = await node.dial(_ignore)
        if isinstance(connection, Failure):
            return connection
        try:
            return await self._role(connection) or await self._rights(connection, slots)
        finally:
            connection.close()

    async def _role(self, connection: Connection) -> Failure | None:
        told = await hello(connection, monotonic() + self._options.timeout)
        if told.mode == "sentinel":
            return self._wrong(connection, "a Sentinel", "sentinel")
        if told.mode == "cluster" and self._target.mode == "single" and await self._is_part(connection):
            return self._wrong(connection, "a node of a cluster", "cluster")
        if told.role in ("replica", "slave"):
            return Failure(f"{connection.where} is a replica: {_PRIMARY}", False)
        return None

    def _wrong(self, connection: Connection, what: str, mode: str) -> Failure:
        return Failure(f"{connection.where} is {what}: {advice(self._target, mode)}", False, final=True)

    async def _is_part(self, connection: Connection) -> bool:
        """Whether a node of a cluster has not all the slots; one that has can do without the others."""
        limit = monotonic() + self._options.timeout
        keys = [self._names.key + os.urandom(8).hex().encode() + b"}" for _ in range(_PROBES)]
        replies = await asyncio.gather(*(connection.request(commands.get(key), limit) for key in keys))
        return any(isinstance(each, hiredis.ReplyError) and kind(each) is ReplyKind.MOVED for each in replies)

    # rights

    async def _rights(self, connection: Connection, slots: frozenset[int]) -> Failure | None:
        trial = self._trial(slots)
        needed = _NEEDED
        outcome = await self._try_steps(connection, [*self._steps(trial), *self._by_script(trial)])
        if outcome.no_scripts:
            needed = _NEEDED_WITHOUT_LUA
            outcome = await self._try_steps(connection, [*self._steps(trial), *self._by_comparing(trial)])
        if outcome.failure is not None:
            return outcome.failure
        if outcome.denied:
            what = ", ".join(dict.fromkeys(outcome.denied))
            return Failure(
                f"{connection.where} does not allow the store's user {what}. Give it all that it needs: "
                f"ACL SETUSER <user> {self._all_rights(needed)}",
                False,
                final=True,
            )
        if outcome.silent or not await self._may_listen(connection):
            self._muted()
        return None

    def _all_rights(self, needed: str) -> str:
        cluster = " +cluster|slots +asking" if self._target.mode == "cluster" else ""
        pattern, channels = (each.decode() for each in (self._names.key[:-1], self._names.channel))
        return f"~{pattern}* {needed}{cluster}, and for locks &{channels}* +publish +subscribe"

    def _trial(self, slots: frozenset[int]) -> _Trial:
        key = _key(slots)
        return _Trial(
            key,
            self._names.key + key.encode() + b"}",
            self._names.channel + os.urandom(8).hex().encode(),
            Stored(data := os.urandom(16), data, round(time() * 1000) + _LIFE),
        )

    async def _try_steps(self, connection: Connection, steps: list[_Step]) -> _Outcome:
        limit = monotonic() + self._options.timeout
        replies: list[Any] = await asyncio.gather(*(connection.request(each.data, limit) for each in steps))
        denied: list[str] = []
        silent = False
        for step, reply in zip(steps, replies, strict=True):
            if isinstance(reply, Failure):
                return _Outcome(failure=reply)
            if step.kind is _Kind.SCRIPT and is_unknown(reply):
                return _Outcome(no_scripts=True)
            if step.kind is _Kind.COMPARES and is_syntax_error(reply):
                return _Outcome(failure=Failure(f"{connection.where} {_NEITHER}", False, final=True))
            if isinstance(reply, hiredis.ReplyError):
                if is_denied(reply):
                    if step.kind is _Kind.WAKES:
                        silent = True
                    else:
                        denied.append(step.what)
                elif step.kind is not _Kind.OPTIONAL or not is_unknown(reply):
                    failure = self._failure(connection.where, reply)
                    if failure is not None:
                        return _Outcome(failure=failure)
            silent = silent or reply == commands.SAVED_IN_SILENCE
        return _Outcome(tuple(denied), silent)

    def _steps(self, trial: _Trial) -> list[_Step]:
        """Return what the store sends to every server, and what leaves nothing behind."""
        key, name, _, first = trial
        steps = [
            _Step("GET", commands.get(name)),
            _Step("SET", commands.create(key, name, first.data, first.expires_at).data),
            _Step("PING", PING),
        ]
        if self._target.mode == "cluster":
            steps.append(_Step("ASKING", commands.ASKING))
        return steps

    def _by_script(self, trial: _Trial) -> list[_Step]:
        """Return what the store sends to a server with Lua."""
        _, name, channel, first = trial
        head, at = commands.header(first.expires_at), commands.instant(first.expires_at)
        value = head + first.data
        steps: list[_Step] = []
        # An empty tag never matches. So it is the second of each two that does something.
        for what, script, by_name, by_text in (
            ("to save", commands.SAVE, (b"", value, at), (first.tag, value, at, channel)),
            ("to touch", commands.TOUCH, (b"", head, at), (first.tag, head, at)),
            ("to delete", commands.DELETE, (b"",), (first.tag,)),
        ):
            steps.append(_Step("EVALSHA", script.by_name(name, *by_name), _Kind.SCRIPT))
            steps.append(_Step(f"EVAL {what}", script.by_text(name, *by_text), _Kind.SCRIPT))
        return [*steps, _Step("DEL", commands.pack(b"DEL", name))]

    def _by_comparing(self, trial: _Trial) -> list[_Step]:
        """Return what the store sends to a server without Lua."""
        key, name, channel, first = trial
        compared = commands.compare_and_set(name, first.data, first.expires_at, first)
        return [
            _Step("SET", compared, _Kind.COMPARES),
            _Step("PUBLISH", commands.publish(channel, key), _Kind.WAKES),
            _Step("DELIFEQ", commands.delete_if(name, first), _Kind.OPTIONAL),
            _Step("DEL", commands.pack(b"DEL", name)),
        ]

    def _failure(self, where: str, reply: hiredis.ReplyError) -> Failure | None:
        """Return why a server that answers so cannot be used now; None for what is no reason."""
        if is_full(reply):
            return Failure(f"{where} is full ({reply}): give it more memory", False, full=True)
        answered = Failure(f"{where} answered: {reply}", False)
        match kind(reply):
            case ReplyKind.NOSCRIPT:
                return None
            case ReplyKind.RECONNECT:
                return answered._replace(why=f"{answered.why} ({_PRIMARY})")
            case ReplyKind.REFUSED:
                return answered._replace(final="unknown command" in str(reply))
            case _:
                return answered

    async def _may_listen(self, connection: Connection) -> bool:
        channel = self._names.channel + os.urandom(8).hex().encode()
        limit = monotonic() + self._options.timeout
        # An error is a reply, and comes before the PING's. Success is a push.
        reply = await connection.request(pack(b"SUBSCRIBE", channel) + PING, limit)
        return not isinstance(reply, hiredis.ReplyError)


def _key(slots: frozenset[int]) -> str:
    """Return a key in one of `slots` that is no record's: those have 22 characters."""
    nonce = os.urandom(8).hex()
    keys = (f"check-{nonce}-{number}" for number in itertools.count())
    return next(key for key in keys if not slots or crc_hqx(key.encode(), 0) & 16383 in slots)

"""Writes on the condition that a version is there, in whichever way the server knows. No I/O.

* *compare*: ``SET key new IFEQ old`` (Valkey 8.1, Redis 8.4) compares all bytes, the expiry in front of the
  data included. So a nil leaves three possibilities: another version, none, or a touch in between.
* *script*: a Lua script compares the tag alone, which a touch leaves as it is. It settles a nil, and is
  the way of servers that don't know IFEQ.
* *look*: a server without Lua is asked for the value, and the comparison repeated with that one if its
  tag is the expected one.

Each command that is sent is a compare-and-set of its own, and only follows one that certainly did nothing.
So what is known of the server may change between two of them, and so may the server.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from asgi_session.store import Stored
from asgi_session.stores.redis.commands import (
    AGAIN,
    DELETE,
    SAVE,
    TOUCH,
    Abilities,
    Command,
    Script,
    compare_and_set,
    delete_if,
    get,
    header,
    instant,
    stored,
)
from asgi_session.stores.redis.replies import is_syntax_error, is_unknown, wants_script

LARGE: Final = 16 * 1024
"""Bytes of data, old or new, above which a save goes by the script: IFEQ sends both over the wire.

Measured, microseconds of the server and of the client per save, script against IFEQ: 662 B 5.3 / 3.4
against 1.8 / 2.8; 16 KB 16.7 / 7.8 against 9.3 / 9.2; 64 KB 50 / 25 against 34 / 40.
"""

SAVED_UNTOLD: Final = 3
"""The answer to a save that was carried out in a way that wakes up nobody."""


class Way(enum.Enum):
    """How a write is tried; see the module's text."""

    COMPARE = "compare"
    SCRIPT = "script"
    LOOK = "look"


Native: TypeAlias = Callable[[Stored, Abilities], bytes]
"""Packs a write that is to take place if exactly this version is there, its expiry included."""


class Conditional(Command):
    """A write on a condition, until it is settled.

    Args:
        verb: the contract's, for messages.
        key: the record's.
        name: the key's name on the server.
        expect: the version to be written over.
        script: does it by Lua.
        arguments: the script's.
        native: packs it for a server that compares by itself.
        prefers_script: whether a server that knows both ways is to take the script.
        done: the answer to a comparison that was met.
        tells: whether the answer to one that was not is the version that is there; else it is 0.
    """

    __slots__ = (
        "_arguments",
        "_done",
        "_expect",
        "_name",
        "_native",
        "_prefers_script",
        "_script",
        "_send_text",
        "_tells",
        "_unmet",
        "_way",
    )

    def __init__(
        self,
        verb: str,
        key: str,
        name: bytes,
        expect: Stored,
        script: Script,
        arguments: tuple[bytes, ...],
        native: Native,
        *,
        prefers_script: bool = True,
        done: int = 1,
        tells: bool = False,
    ) -> None:
        super().__init__(verb, key)
        self._name = name
        self._expect = expect
        self._script = script
        self._arguments = arguments
        self._native = native
        self._prefers_script = prefers_script
        self._done = done
        self._tells = tells
        self._send_text = False  # the server does not know the script by its digest
        self._unmet = False  # a comparison has met other bytes: a touch may have been in between
        self._way = Way.SCRIPT

    @property
    def looks(self) -> bool:
        """Whether what was sent last was only to look."""
        return self._way is Way.LOOK

    def packed(self, able: Abilities) -> bytes:
        """Return what to send next."""
        self._way = way = self._choose(able)
        if way is Way.LOOK:
            return get(self._name)
        if way is Way.COMPARE:
            return self._native(self._expect, able)
        call = self._script.by_text if self._send_text else self._script.by_name
        return call(self._name, *self._arguments)

    def _choose(self, able: Abilities) -> Way:
        if not able.scripts:
            return Way.LOOK if self._unmet else Way.COMPARE
        if self._unmet or self._prefers_script or able.compares is False:
            return Way.SCRIPT
        return Way.COMPARE

    def read(self, able: Abilities, reply: Any) -> Any:
        """Return 1 or more when it was done, else what is there; or AGAIN; or an error."""
        return self.read_as(self._way, able, reply)

    def read_as(self, way: Way, able: Abilities, reply: Any) -> Any:
        """Read a reply to what was sent in that way."""
        if way is Way.COMPARE:
            return self._compared(able, reply)
        if way is Way.LOOK:
            return self._seen(reply)
        if wants_script(reply):
            self._send_text = True
            return AGAIN
        if is_unknown(reply):
            able.scripts = False
            return reply if able.compares is False else AGAIN
        return reply

    def _compared(self, able: Abilities, reply: Any) -> Any:
        if reply in (b"OK", 1):
            able.compares = True
            return self._done
        if reply in (None, 0):
            able.compares = self._unmet = True
            return AGAIN
        if is_syntax_error(reply):
            able.compares = False
            return AGAIN if able.scripts else reply
        if is_unknown(reply) and able.deletes:
            able.deletes = False
            return AGAIN
        return reply

    def _seen(self, reply: Any) -> Any:
        if reply is None:
            return None if self._tells else 0
        if type(reply) is not bytes:
            return reply
        found = stored(reply)
        if found.tag != self._expect.tag or not found.tag:
            return reply if self._tells else 0
        self._expect, self._unmet = found, False
        return AGAIN


def save(
    key: str, name: bytes, data: bytes, expires_at: int, expect: Stored, channels: Iterable[bytes] = ()
) -> Conditional:
    """Make `save`, and with channels `save_and_wake`."""
    told = tuple(channels)

    def native(old: Stored, able: Abilities) -> bytes:
        return compare_and_set(name, data, expires_at, old)

    return Conditional(
        "save",
        key,
        name,
        expect,
        SAVE,
        (expect.tag, header(expires_at) + data, instant(expires_at), *told),
        native,
        prefers_script=bool(told) or is_large(data, expect),
        done=SAVED_UNTOLD if told else 1,
        tells=True,
    )


def known_way(able: Abilities, data: bytes, expect: Stored) -> Way | None:
    """Return how a save is to be tried on a connection; None while that has yet to be found out."""
    if not able.scripts:
        return Way.COMPARE if able.compares else None
    if able.compares is False or is_large(data, expect):
        return Way.SCRIPT
    return Way.COMPARE if able.compares else None


def is_large(data: bytes, expect: Stored) -> bool:
    """Tell whether a save had better go by the script."""
    return len(data) > LARGE or len(expect.data) > LARGE


def touch(key: str, name: bytes, expires_at: int, expect: Stored) -> Conditional:
    """Make `touch`."""

    def native(old: Stored, able: Abilities) -> bytes:
        return compare_and_set(name, old.data, expires_at, old)

    return Conditional(
        "touch", key, name, expect, TOUCH, (expect.tag, header(expires_at), instant(expires_at)), native
    )


def delete(key: str, name: bytes, expect: Stored) -> Conditional:
    """Make `delete` of one version."""

    def native(old: Stored, able: Abilities) -> bytes:
        if able.deletes:
            return delete_if(name, old)
        # What ends in the past is removed; but a full server refuses it.
        return compare_and_set(name, b"", 1, old)

    return Conditional("delete", key, name, expect, DELETE, (expect.tag,), native)

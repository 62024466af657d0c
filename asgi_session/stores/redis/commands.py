"""The five verbs as Redis commands, and what the server's answers mean. No I/O."""

from __future__ import annotations

import enum
import hashlib
import re
import struct
from typing import Any, Final

import hiredis

from asgi_session.store import GONE, TAG_SIZE, TAKEN, Conflict, CreateResult, Saved, SaveResult, Stored

EXPIRY_SIZE: Final = 8
"""Bytes in front of the data: `expires_at`, big-endian."""

ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"

_HEAD: Final = struct.Struct(f">q{TAG_SIZE}s")
_unpack = _HEAD.unpack_from  # once per load


def pack(*parts: bytes) -> bytes:
    """Return a command as RESP."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub asks for a 1-tuple
    return packed


class Script:
    """A Lua script with one key."""

    __slots__ = ("_text", "sha")

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self.sha = hashlib.sha1(self._text, usedforsecurity=False).hexdigest().encode()

    def by_name(self, *arguments: bytes) -> bytes:
        """Pack a call by the script's digest."""
        return pack(b"EVALSHA", self.sha, b"1", *arguments)

    def by_text(self, *arguments: bytes) -> bytes:
        """Pack a call that sends the script itself."""
        return pack(b"EVAL", self._text, b"1", *arguments)


SAVED_IN_SILENCE: Final = 2
"""The answer to a save that was carried out, but the server refused a wake-up."""

# An empty tag never matches: GETRANGE answers it for a missing key too. The arguments after the third
# are channels to wake up. That comes last and by pcall, for an error would make what was executed look
# as if it was not.
SAVE: Final = Script(f"""\
local tag = redis.call('GETRANGE', KEYS[1], 8, 23)
if tag == ARGV[1] and tag ~= '' then
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
  if #ARGV == 3 then return 1 end
  local done, message = 1, string.sub(KEYS[1], -23, -2)
  for i = 4, #ARGV do
    if type(redis.pcall('PUBLISH', ARGV[i], message)) ~= 'number' then done = {SAVED_IN_SILENCE} end
  end
  return done
end
return redis.call('GET', KEYS[1])
""")

TOUCH: Final = Script("""\
local tag = redis.call('GETRANGE', KEYS[1], 8, 23)
if tag ~= ARGV[1] or tag == '' then return 0 end
redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
return redis.call('PEXPIREAT', KEYS[1], ARGV[3])
""")


# DEL is carried out by a server that is full, while all that the other scripts write is not.
DELETE: Final = Script("""\
local tag = redis.call('GETRANGE', KEYS[1], 8, 23)
if tag ~= ARGV[1] or tag == '' then return 0 end
return redis.call('DEL', KEYS[1])
""")


class Again(enum.Enum):
    """The type of `AGAIN`."""

    AGAIN = "again"


AGAIN: Final = Again.AGAIN
"""A reply has been read, and the verb needs one more command."""


STEPS: Final = 6
"""Commands of one verb that follow one another at once; after that with a pause."""


class Abilities:
    """What a server can do, as far as one connection has found out.

    It belongs to the connection and not to the server: during an upgrade the next connection to the same
    address may meet another version, and a cluster's nodes need not have the same one.

    Attributes:
        compares: whether it knows ``SET ... IFEQ``; None while no save has tried.
        scripts: whether it knows EVALSHA. Lua is a module of Valkey 9.1, and may be absent.
        deletes: whether it knows DELIFEQ.
    """

    __slots__ = ("compares", "deletes", "scripts")

    def __init__(self) -> None:
        self.compares: bool | None = None
        self.scripts = True
        self.deletes = True


class Command:
    """A command for one key."""

    __slots__ = ("data", "key", "repeatable", "verb")

    def __init__(self, verb: str, key: str, data: bytes = b"", *, repeatable: bool = False) -> None:
        self.verb = verb
        self.key = key
        self.data = data
        self.repeatable = repeatable

    @property
    def looks(self) -> bool:
        """Whether what was sent last has written nothing, whatever became of it."""
        return False

    def packed(self, able: Abilities) -> bytes:
        """Return what to send next to a server that can do so much."""
        return self.data

    def read(self, able: Abilities, reply: Any) -> Any:
        """Read a server's reply to what was packed last; AGAIN when more is to be sent."""
        return reply


def header(expires_at: int) -> bytes:
    """Return what stands in front of the data."""
    return expires_at.to_bytes(EXPIRY_SIZE, "big", signed=True)


def instant(expires_at: int) -> bytes:
    """Return an expiry as an argument of PXAT or PEXPIREAT."""
    # Instants long past are valid to Redis, zero and less are not.
    return b"%d" % max(expires_at, 1)


# The frequent ones are put together by hand: hiredis takes four times as long.


def get(name: bytes) -> bytes:
    """Pack `load`."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name)


def compare_and_set(name: bytes, data: bytes, expires_at: int, old: Stored) -> bytes:
    """Pack `save` for a server that compares by itself: with the bytes of the whole value."""
    at = b"%d" % expires_at if expires_at > 0 else b"1"
    return _COMPARE_AND_SET % (
        len(name), name,
        EXPIRY_SIZE + len(data), expires_at.to_bytes(EXPIRY_SIZE, "big", signed=True), data,
        EXPIRY_SIZE + len(old.data), old.expires_at.to_bytes(EXPIRY_SIZE, "big", signed=True), old.data,
        len(at), at,
    )  # fmt: skip


_COMPARE_AND_SET: Final = (
    b"*7\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b%b\r\n$4\r\nIFEQ\r\n$%d\r\n%b%b\r\n$4\r\nPXAT\r\n$%d\r\n%b\r\n"
)


def save_by_script(name: bytes, data: bytes, expires_at: int, tag: bytes) -> bytes:
    """Pack `save` for a server that knows the script."""
    at = b"%d" % expires_at if expires_at > 0 else b"1"
    return _SAVE_BY_SCRIPT % (
        len(name), name, len(tag), tag,
        EXPIRY_SIZE + len(data), expires_at.to_bytes(EXPIRY_SIZE, "big", signed=True), data,
        len(at), at,
    )  # fmt: skip


_SAVE_BY_SCRIPT: Final = (
    b"*7\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n" % SAVE.sha
    + b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b%b\r\n$%d\r\n%b\r\n"
)


def delete_if(name: bytes, old: Stored) -> bytes:
    """Pack `delete` for a server that compares by itself: Valkey 9."""
    return pack(b"DELIFEQ", name, header(old.expires_at) + old.data)


def create(key: str, name: bytes, data: bytes, expires_at: int) -> Command:
    """Pack `create`."""
    value = header(expires_at) + data
    packed = pack(b"SET", name, value, b"NX", b"PXAT", instant(expires_at))
    return Command("create", key, packed)


def delete(key: str, name: bytes) -> Command:
    """Pack `delete` of whatever version is there."""
    return Command("delete", key, pack(b"DEL", name))


def publish(channel: bytes, key: str) -> bytes:
    """Pack a wake-up: what the script sends by itself."""
    return pack(b"PUBLISH", channel, key.encode())


def stored(value: bytes) -> Stored:
    """Split a value. One too short to be a record is handed on all the same, to be found corrupt."""
    if len(value) >= _HEAD.size:
        expires_at, tag = _unpack(value)
        return Stored(value[EXPIRY_SIZE:], tag, expires_at)
    expires_at = int.from_bytes(value[:EXPIRY_SIZE], "big", signed=True)
    return Stored(value[EXPIRY_SIZE:], value[EXPIRY_SIZE:], expires_at)


def created(reply: Any, data: bytes) -> CreateResult:
    """Read the answer to `create`."""
    return TAKEN if reply is None else Saved(data[:TAG_SIZE])


def saved(reply: Any, data: bytes) -> SaveResult:
    """Read the answer to `save`."""
    if reply is None:
        return GONE
    if type(reply) is bytes:
        return Conflict(stored(reply))
    return Saved(data[:TAG_SIZE])


_WAKE_UP: Final = re.compile(rb"[\w-]{22}")


def wake_up(message: bytes) -> str | None:
    """Return the key that the script has published; None for anything else."""
    return message.decode() if _WAKE_UP.fullmatch(message) else None

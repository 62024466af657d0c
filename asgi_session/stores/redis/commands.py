"""The five verbs as Redis commands, and what the server's answers mean. No I/O."""

from __future__ import annotations

import enum
import hashlib
import re
import struct
from collections.abc import Iterable
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

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


SAVED_IN_SILENCE: Final = 2
"""The answer to a save that was carried out, but the server refused a wake-up."""

# An empty tag never matches: GETRANGE answers it for a missing key too. The arguments after the third
# are channels to wake up. That comes last and by pcall, for an error would make what was executed look
# as if it was not.
_SAVE: Final = Script(f"""\
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

_TOUCH: Final = Script("""\
local tag = redis.call('GETRANGE', KEYS[1], 8, 23)
if tag ~= ARGV[1] or tag == '' then return 0 end
redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
return redis.call('PEXPIREAT', KEYS[1], ARGV[3])
""")


# DEL is carried out by a server that is full, while all that the other scripts write is not.
_DELETE: Final = Script("""\
local tag = redis.call('GETRANGE', KEYS[1], 8, 23)
if tag ~= ARGV[1] or tag == '' then return 0 end
return redis.call('DEL', KEYS[1])
""")


class Command:
    """A packed command for one key."""

    __slots__ = ("_script", "_tail", "data", "key", "repeatable", "verb")

    def __init__(
        self,
        verb: str,
        key: str,
        data: bytes,
        *,
        repeatable: bool = False,
        script: Script | None = None,
        tail: tuple[bytes, ...] = (),
    ) -> None:
        self.verb = verb
        self.key = key
        self.data = data
        self.repeatable = repeatable
        self._script = script
        self._tail = tail

    def with_script_text(self) -> None:
        """Send the script itself from now on: the server does not know it."""
        if self._script is not None:
            self.data = pack(b"EVAL", self._script.text, b"1", *self._tail)


def _run(verb: str, key: str, script: Script, *tail: bytes) -> Command:
    data = pack(b"EVALSHA", script.sha, b"1", *tail)
    return Command(verb, key, data, script=script, tail=tail)


def _header(expires_at: int) -> bytes:
    return expires_at.to_bytes(EXPIRY_SIZE, "big", signed=True)


def _instant(expires_at: int) -> bytes:
    # Instants long past are valid to Redis, zero and less are not.
    return b"%d" % max(expires_at, 1)


# The two frequent ones are put together by hand: hiredis takes four times as long.


def get(name: bytes) -> bytes:
    """Pack `load`."""
    return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name)


def try_save(name: bytes, data: bytes, expires_at: int, expect: bytes) -> bytes:
    """Pack the first try of `save`, for a server that knows the script."""
    instant = b"%d" % expires_at if expires_at > 0 else b"1"
    return _TRY_SAVE % (
        len(name), name, len(expect), expect,
        EXPIRY_SIZE + len(data), expires_at.to_bytes(EXPIRY_SIZE, "big", signed=True), data,
        len(instant), instant,
    )  # fmt: skip


_TRY_SAVE: Final = (
    b"*7\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n" % _SAVE.sha
    + b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b%b\r\n$%d\r\n%b\r\n"
)


def create(key: str, name: bytes, data: bytes, expires_at: int) -> Command:
    """Pack `create`."""
    value = _header(expires_at) + data
    packed = pack(b"SET", name, value, b"NX", b"PXAT", _instant(expires_at))
    return Command("create", key, packed)


def save(
    key: str, name: bytes, data: bytes, expires_at: int, expect: bytes, channels: Iterable[bytes] = ()
) -> Command:
    """Pack `save`, and with channels `save_and_wake`."""
    value = _header(expires_at) + data
    return _run("save", key, _SAVE, name, expect, value, _instant(expires_at), *channels)


def touch(key: str, name: bytes, expires_at: int, expect: bytes) -> Command:
    """Pack `touch`."""
    return _run("touch", key, _TOUCH, name, expect, _header(expires_at), _instant(expires_at))


def delete(key: str, name: bytes, expect: bytes | None = None) -> Command:
    """Pack `delete`."""
    if expect is None:
        return Command("delete", key, pack(b"DEL", name))
    return _run("delete", key, _DELETE, name, expect)


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


class ReplyKind(enum.Enum):
    """What to do about an error reply. In every case the command was not executed."""

    RETRY = "wait, then try again"
    RECONNECT = "try again on a new connection"
    MOVED = "another node has the slot"
    ASK = "another node has the key, this once"
    NOSCRIPT = "send the script"
    REFUSED = "give up"


_REPLY_KINDS: Final = {
    "LOADING": ReplyKind.RETRY,
    "TRYAGAIN": ReplyKind.RETRY,
    "CLUSTERDOWN": ReplyKind.RETRY,
    "MASTERDOWN": ReplyKind.RETRY,
    "NOREPLICAS": ReplyKind.RETRY,
    "BUSY": ReplyKind.RETRY,
    "READONLY": ReplyKind.RECONNECT,
    "UNBLOCKED": ReplyKind.RECONNECT,
    "NOAUTH": ReplyKind.RECONNECT,
    "MOVED": ReplyKind.MOVED,
    "ASK": ReplyKind.ASK,
    "NOSCRIPT": ReplyKind.NOSCRIPT,
}

# Redis 6.2 wraps what a script's commands answered:
# "ERR Error running script (call to f_...): @user_script:3: -READONLY You can't write ..."
_IN_SCRIPT: Final = re.compile(r"@user_script:\s?\d+: -?([A-Z]+) ")


_DENIED: Final = re.compile(r"NOPERM |ACL failure in script|The user executing the script can't run")
_OOM: Final = re.compile(r"OOM |ERR .*@user_script:\s?\d+: -OOM ")


_DOWN: Final = ("LOADING", "CLUSTERDOWN", "MASTERDOWN", "BUSY ", "ERR max number of clients")


def is_down(error: hiredis.ReplyError) -> bool:
    """Tell whether the server serves nobody at the moment."""
    return str(error).startswith(_DOWN)


_USER: Final = re.compile(r"\bUser \S+ has\b")


def nameless(error: hiredis.ReplyError) -> str:
    """Return an error's text without the name of the user."""
    return _USER.sub("the user has", str(error))


def is_denied(error: hiredis.ReplyError) -> bool:
    """Tell whether the user has no right to do this, be it in a script."""
    return _DENIED.search(str(error)) is not None


def is_full(error: hiredis.ReplyError) -> bool:
    """Tell whether the server has no memory for what was to be written."""
    return _OOM.match(str(error)) is not None


def wants_script(reply: Any) -> bool:
    """Tell whether the server does not know the script that it was to run."""
    return isinstance(reply, hiredis.ReplyError) and kind(reply) is ReplyKind.NOSCRIPT


def kind(error: hiredis.ReplyError) -> ReplyKind:
    """Tell what an error reply asks for."""
    text = str(error)
    code = text.split(" ", 1)[0]
    if code == "ERR":
        if text.startswith("ERR max number of clients"):
            return ReplyKind.RETRY
        wrapped = _IN_SCRIPT.search(text)
        if wrapped is not None:
            code = wrapped[1]
    return _REPLY_KINDS.get(code, ReplyKind.REFUSED)

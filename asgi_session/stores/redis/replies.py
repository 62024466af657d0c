"""What a server's error replies mean. No I/O."""

from __future__ import annotations

import enum
import re
from typing import Any, Final

import hiredis


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


_UNKNOWN: Final = re.compile(r"ERR unknown command", re.IGNORECASE)


def is_unknown(reply: Any) -> bool:
    """Tell whether the server does not know the command at all."""
    return isinstance(reply, hiredis.ReplyError) and _UNKNOWN.match(str(reply)) is not None


def is_syntax_error(reply: Any) -> bool:
    """Tell whether the server does not know an option of the command, which certainly did not execute."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).lower() == "err syntax error"


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

"""What the measured requests do with their session. Every layer serves each of them in an app of its own.

One app per action, with a single route, so that routing costs all of them the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.sessions import USUAL, session_of_size


class Request(Protocol):
    """What the actions need of a framework's request."""

    @property
    def query_params(self) -> Mapping[str, str]: ...


Act = Callable[[MutableMapping[str, Any], Request], Awaitable[str]]


@dataclass(frozen=True)
class Action:
    """One kind of request.

    Attributes:
        name: of the action.
        act: what it does with the loaded session, given the request; its result is the response's
            text. None: the session is not touched.
        ends: after that the session is ended, in the way that the layer recommends for a logout.
    """

    name: str
    act: Act | None = None
    ends: bool = False


async def _read(session: MutableMapping[str, Any], request: Any) -> str:
    return str(session.get("user_id"))


async def _write(session: MutableMapping[str, Any], request: Any) -> str:
    session["count"] = session["count"] + 1
    return "ok"


async def _new(session: MutableMapping[str, Any], request: Any) -> str:
    """Sign up: a session of a given size, for a user of its own."""
    wanted = request.query_params
    session.update(session_of_size(int(wanted.get("size", USUAL))))
    session["user_id"] = int(wanted.get("user", 4711))
    return "ok"


async def _set(session: MutableMapping[str, Any], request: Any) -> str:
    session[request.query_params["key"]] = 1
    return "ok"


async def _slow(session: MutableMapping[str, Any], request: Any) -> str:
    """Read, work for a while, then write: the request that a logout overtakes."""
    seen = session.get("user_id")
    await asyncio.wait_for(GATE.wait(), 30)
    session["last_page"] = f"/account/{seen}"
    return "ok"


async def _keys(session: MutableMapping[str, Any], request: Any) -> str:
    return json.dumps(list(session))


async def _end(session: MutableMapping[str, Any], request: Any) -> str:
    return "bye"


GATE = asyncio.Event()
"""Holds up `slow` until it is set."""

ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action("untouched"),
        Action("read", _read),
        Action("write", _write),
        Action("new", _new),
        Action("set", _set),
        Action("slow", _slow),
        Action("keys", _keys),
        Action("destroy", _end, ends=True),
    )
}

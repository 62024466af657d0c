"""A WebSocket. Its acceptance, or a denial in its place, is what carries headers."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any

from starlette.types import Message, Receive

from asgi_session._failures import close_code, status_of
from asgi_session._web.decision import DISCONNECTED
from asgi_session._web.exchange import Exchange, Header, discard, plain
from asgi_session.errors import SessionError


class WebSocketExchange(Exchange):
    """A WebSocket. Its acceptance, or a denial in its place, is what carries headers."""

    __slots__ = ("_closed", "_receive")

    carries_cookies = False
    greeted = True
    cached = False

    def guard(self, receive: Receive) -> Receive:
        """Return what the app receives with."""
        self._closed = False
        self._receive = receive
        return self._receive_unless_failed

    async def _receive_unless_failed(self) -> Message:
        """Receive what the client sends; its leaving once the handshake was refused here."""
        return (
            {"type": "websocket.disconnect", "code": 1006}
            if self.failed
            else await self._receive_unless_gone()
        )

    def send_on(self, message: Message) -> Coroutine[Any, Any, None]:
        """Send what the app sends, and commit first where the handshake is answered."""
        if self.failed:
            return discard(self.scope, message)
        kind = message["type"]
        if kind == "websocket.close":
            self._closed = True
        if self.status == 0:
            if kind == "websocket.close":
                self.status = 403  # what the server makes of it; it takes no headers
                self.session._seal()
            elif kind in ("websocket.accept", "websocket.http.response.start"):
                self.status = message.get("status", 101)
                return self.start(message)
        return self._forward(message) if self._covered is None else self._forward_with_headers(message)

    async def _receive_unless_gone(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._closed = True
        return message

    async def refuse(self, error: Exception, *, after_handler: bool) -> None:
        """Refuse the handshake."""
        self.session._seal()
        self.refused(error)
        code = status_of(error)
        await self.answer(code, HTTPStatus(code).phrase.encode(), close_code(error))

    async def answer(self, status: int, body: bytes, code: int, extra: Sequence[Header] = ()) -> None:
        """Deny the handshake, with a status where the server can send one."""
        if "websocket.http.response" in self.scope.get("extensions", {}):
            await self.send(
                {
                    "type": "websocket.http.response.start",
                    "status": status,
                    "headers": [*self.headers.add(self.session, self.scope, plain(body)), *extra],
                }
            )
            await self.send({"type": "websocket.http.response.body", "body": body})
        else:
            await self.send({"type": "websocket.close", "code": code})

    async def end_with(self, error: Exception) -> bool:
        """Close with the code that tells about an error of the session; others are the server's to tell."""
        if self.status != 101 or self._closed or not isinstance(error, SessionError):
            return False
        self._closed = True
        with contextlib.suppress(*DISCONNECTED):
            await self.send({"type": "websocket.close", "code": close_code(error)})
        if status_of(error) == 500:
            return False
        self.policy.failures.log(error)
        self.refused(error)
        return True

"""One request, or one WebSocket, on its way through the middleware: when to commit, what to answer.

The session is committed when the response's start (or the WebSocket's acceptance) passes, before it
is sent on; what is changed after that, when the app is done. If that first commit fails, the client
is answered here and the app's own messages are swallowed: an exception raised inside `send` would
reach the app as "response already started".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Final

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from asgi_session.cookie import keep_out_of_caches, vary_on_cookie
from asgi_session.errors import (
    LockLost,
    LockTimeout,
    SessionConflict,
    SessionError,
    SessionGone,
    StoreUnavailable,
)
from asgi_session.session import Owed, Session

if TYPE_CHECKING:
    from asgi_session.middleware import SessionMiddleware

logger: Final = logging.getLogger("asgi_session")

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 section 9.2.1
_DISCONNECTED: Final = (ClientDisconnect, WebSocketDisconnect, OSError)
"""What an app raises when its client has left."""
# A name of its own, since looking a member up on its enum takes 0.1 µs on Python 3.11.
_NOTHING: Final = Owed.NOTHING


class Exchange:
    """What a request and a WebSocket have in common. An object, since closures would cost more.

    Attributes:
        status: of the response (or the handshake's answer) that has started; 0 before.
        failed: whether the client was answered here, in the app's place.
    """

    __slots__ = ("failed", "middleware", "scope", "send", "session", "status")

    carries_cookies: ClassVar = True  # in every answer that `refuse` gives
    greeted: ClassVar = False  # the server wants a message taken before it takes an answer

    def __init__(self, middleware: SessionMiddleware, scope: Scope, send: Send, session: Session) -> None:
        self.middleware = middleware
        self.scope = scope
        self.send = send
        self.session = session
        self.status = 0
        self.failed = False

    async def refuse(self, code: int, *, after_handler: bool) -> None:
        """Answer the client with `code` in the app's place."""
        raise NotImplementedError

    async def _forward(self, message: Message) -> None:
        # A coroutine, whatever the server's `send` returns: apps make tasks of it.
        await self.send(message)

    def send_on(self, message: Message) -> Coroutine[Any, Any, None]:
        """Send what the app sends, and commit first where a response starts."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Commit what the app has left to commit when it was done."""
        if not self.failed:
            await self._commit_late(broken=self.status == 0 or self.status >= 500)

    def finish_cancelled(self) -> None:
        """Do so in a task: a streaming response's client has left, or the server stops."""
        if self.session._accessed:
            self.middleware.manager._loops.current().spawn(self.finish())

    async def autoload(self, receive: Receive) -> bool:
        """Load the session before the app runs; False when the client was told that this failed."""
        try:
            await self.middleware.manager._load(self.session)
        except SessionError as error:
            log(error)
            if self.greeted:
                await receive()
            await self.refuse(status_of(error), after_handler=False)
            return False
        return True

    async def start(self, message: Message) -> None:
        """Commit if there is something to commit, then send the start of the response, or refuse."""
        session, manager = self.session, self.middleware.manager
        if session._accessed:
            try:
                if not session._unchanged():
                    only_destroy = self.status >= 500 and not manager.save_on_error
                    await manager._commit(session, explicit=False, only_destroy=only_destroy)
                message = {**message, "headers": self.add_headers([*message.get("headers", ())])}
            except Exception as error:
                self.failed = True
                log(error)
                await self.refuse(status_of(error), after_handler=True)
                return
        session._sealed = True
        await self.send(message)

    async def after_error(self, error: Exception) -> bool:
        """Do what is left to do after the app has raised; whether the error ends here."""
        disconnected = isinstance(error, _DISCONNECTED)
        if self.failed:  # it was told so, see discard(); or leaves a block whose lock is lost
            return disconnected or status_of(error) != 500
        if self.status:  # the headers have left
            await self._commit_late(broken=self.status >= 500 or not disconnected)
            return False
        manager = self.middleware.manager
        try:
            await manager._commit(self.session, explicit=False, only_destroy=not manager.save_on_error)
        except Exception:
            logger.exception("the session of a failed request was not committed")
        code = status_of(error)
        if code != 500:
            log(error)
            await self.refuse(code, after_handler=True)
            return True
        if self.carries_cookies and self.session._owed is not _NOTHING:
            # Somebody further out would answer without the cookie, and the client would be left with a
            # credential that is no longer good.
            await self.refuse(500, after_handler=True)
        return False

    async def _commit_late(self, *, broken: bool) -> None:
        """Commit what is left when no headers can follow any more; a failure can only be logged.

        Args:
            broken: the request has failed: only a destroy() is carried out, unless save_on_error.
        """
        session, manager = self.session, self.middleware.manager
        session._sealed = True
        try:
            await manager._commit(session, explicit=False, only_destroy=broken and not manager.save_on_error)
        except Exception:
            logger.exception("a session that was changed after the response had started was not saved")

    def add_headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Add to a response's headers what the session calls for."""
        session, middleware = self.session, self.middleware
        if session._accessed:
            vary_on_cookie(headers)
        owed = session._owed
        if owed is _NOTHING:
            return headers
        session._owed = _NOTHING
        if owed is Owed.DELETION:
            value = middleware.cookie.delete()
        elif session._token is not None and session._base is not None:
            left = (session._base.record.deadline - middleware.manager.clock()) // 1000
            value = middleware.cookie.write(middleware.manager.tokens.write(session._token), max(left, 0))
        else:  # somebody else has ended what this request had created or rotated
            return headers
        headers.append((b"set-cookie", value))
        keep_out_of_caches(headers)
        middleware.warn_if_insecure(self.scope)
        return headers


class HttpExchange(Exchange):
    """A request and its response."""

    __slots__ = ()

    def send_on(self, message: Message) -> Coroutine[Any, Any, None]:
        """Send what the app sends, and commit first where the response starts.

        Returns a coroutine without being one itself: that is one less on the way of a commit.
        """
        if self.failed:
            return discard(self.scope, message)
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return self.start(message)
        return self._forward(message)

    async def refuse(self, code: int, *, after_handler: bool) -> None:
        """Answer with a plain text."""
        self.session._sealed = True
        body = HTTPStatus(code).phrase.encode()
        headers = self.add_headers(plain(body))
        if code == 503 and (not after_handler or self.scope["method"] in _SAFE_METHODS):
            # After a handler has run, a client that repeats by itself could run it twice.
            headers.append((b"retry-after", b"1"))
        await self.send({"type": "http.response.start", "status": code, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


class WebSocketExchange(Exchange):
    """A WebSocket. Its acceptance, or a denial in its place, is what carries headers."""

    __slots__ = ("_receive",)

    carries_cookies = False
    greeted = True

    def guard(self, receive: Receive) -> Receive:
        """Return what the app receives with."""
        self._receive = receive
        return self._receive_unless_failed

    async def _receive_unless_failed(self) -> Message:
        """Receive what the client sends; its leaving once the handshake was refused here."""
        return {"type": "websocket.disconnect", "code": 1006} if self.failed else await self._receive()

    def send_on(self, message: Message) -> Coroutine[Any, Any, None]:
        """Send what the app sends, and commit first where the handshake is answered."""
        if self.failed:
            return discard(self.scope, message)
        if self.status == 0:
            kind, session = message["type"], self.session
            if kind == "websocket.close":
                self.status = 403  # what the server makes of it; it takes no headers
                session._sealed = True
            elif kind in ("websocket.accept", "websocket.http.response.start"):
                self.status = message.get("status", 101)
                return self.start(message)
        return self._forward(message)

    async def refuse(self, code: int, *, after_handler: bool) -> None:
        """Refuse the handshake, with a status where the server can send one."""
        self.session._sealed = True
        if "websocket.http.response" in self.scope.get("extensions", {}):
            body = HTTPStatus(code).phrase.encode()
            headers = self.add_headers(plain(body))
            await self.send({"type": "websocket.http.response.start", "status": code, "headers": headers})
            await self.send({"type": "websocket.http.response.body", "body": body})
        else:
            await self.send({"type": "websocket.close", "code": 1013 if code == 503 else 1011})


def status_of(error: Exception) -> int:
    """Return the status of the response that tells a client about `error`."""
    if isinstance(error, (StoreUnavailable, LockTimeout)):
        return 503
    if isinstance(error, (SessionConflict, SessionGone, LockLost)):
        return 409
    return 500


def log(error: Exception) -> None:
    """Log what a client is told about; with a traceback only what the app's developer can mend."""
    if status_of(error) == 500:
        logger.error("a session failed: %s", error, exc_info=error)
    else:
        logger.warning("a session failed: %s: %s", type(error).__name__, error)


def plain(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of a plain text."""
    return [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]


async def discard(scope: Scope, message: Message) -> None:
    """Take a message of an app in whose place the middleware has answered already.

    What servers do whose client has left, so that a stream ends: with an OSError where the ASGI
    version has that (for a WebSocket always), else `receive` tells.
    """
    await asyncio.sleep(0)  # a stream that itself never waits must not hold up the event loop
    endless = message.get("more_body", False)
    if message["type"] == "websocket.send" or (endless and _asgi_version(scope) >= (2, 4)):
        raise OSError("the response was given up, since its session could not be saved")


def _asgi_version(scope: Scope) -> tuple[int, ...]:
    return tuple(map(int, scope.get("asgi", {}).get("spec_version", "2.0").split(".")))

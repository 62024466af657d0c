"""One request, or one WebSocket, on its way through the middleware: when to commit, what to answer.

The session is committed when the response's start (or the WebSocket's acceptance) passes, before it
is sent on; what is changed after that, when the app is done. If that first commit fails, the client
is answered here and the app's own messages are swallowed: an exception raised inside `send` would
reach the app as "response already started".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, ClassVar, Final

import starlette
from starlette.types import Message, Receive, Scope, Send

from asgi_session._engine.engine import Engine
from asgi_session._failures import close_code, status_of
from asgi_session._session.session import Session
from asgi_session._web.decision import DISCONNECTED, commits_data
from asgi_session._web.headers import SessionHeaders
from asgi_session.errors import REFUSED, SessionError

logger: Final = logging.getLogger("asgi_session")

_STARLETTE_PUTS_DICTS: Final = starlette.__version__.startswith("0.")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 section 9.2.1


class Exchange:
    """What a request and a WebSocket have in common. An object, since closures would cost more.

    Attributes:
        status: of the response (or the handshake's answer) that has started; 0 before.
        failed: whether the client was answered here, in the app's place.
    """

    __slots__ = (
        "_outgoing", "engine", "failed", "headers", "policy", "scope", "send", "session", "status",
    )  # fmt: skip

    _outgoing: Message
    carries_cookies: ClassVar = True  # in every answer that `refuse` gives
    greeted: ClassVar = False  # the server wants a message taken before it takes an answer

    def __init__(
        self, engine: Engine, headers: SessionHeaders, scope: Scope, send: Send, session: Session
    ) -> None:
        self.engine = engine
        self.policy = engine.policy
        self.headers = headers
        self.scope = scope
        self.send = send
        self.session = session
        self.status = 0
        self.failed = False

    async def refuse(self, error: Exception, *, after_handler: bool) -> None:
        """Answer the client in the app's place: with the status that tells about `error`."""
        raise NotImplementedError

    def refused(self, error: Exception) -> None:
        """Tell a test client, which raises it in the test, of an error that was answered with 5xx."""
        if status_of(error) >= 500 and REFUSED in self.scope:
            self.scope[REFUSED].append(error)

    async def _forward(self, message: Message) -> None:
        # A coroutine, whatever the server's `send` returns: apps make tasks of it.
        await self.send(message)

    def send_on(self, message: Message) -> Coroutine[Any, Any, None]:
        """Send what the app sends, and commit first where a response starts."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Commit what the app has left to commit when it was done."""
        if not self.failed:
            error = await self._commit_late(None)
            if error is not None:
                await self.end_with(error)

    async def end_with(self, error: Exception) -> bool:
        """Tell the client of an error that came too late for a status, if that can be; whether it was."""
        return False

    async def wait_for_touch(self) -> None:
        """Wait for the touch that this request has caused, if it is still on its way.

        The response has long left, so no client waits. But where a process is frozen as soon as the call
        ends (AWS Lambda), a touch that is on its way then never arrives, and sessions that are only read
        expire.
        """
        await self.session._touch_ended(self.policy.deadline)

    def finish_cancelled(self) -> None:
        """Do so in a task: a streaming response's client has left, or the server stops."""
        if self.session._accessed:
            self.engine.loops.current().tasks.spawn(self.finish())

    async def autoload(self, receive: Receive) -> bool:
        """Load the session before the app runs; False when the client was told that this failed."""
        try:
            await self.engine.load(self.session)
        except SessionError as error:
            self.policy.failures.log(error)
            if self.greeted:
                await receive()
            await self.refuse(error, after_handler=False)
            return False
        return True

    async def start(self, message: Message) -> None:
        """Commit if there is something to commit, then send the start of the response, or refuse."""
        session = self.session
        # No local variable: error trackers record those, and it may come to hold a Set-Cookie.
        self._outgoing = message
        del message
        try:
            if self.scope.get("session") is not session:
                self._refuse_replacement()
            if session._accessed:
                if not session._unchanged():
                    await self._commit(None)
                headers = self.headers.add(session, self.scope, [*self._outgoing.get("headers", ())])
                self._outgoing = {**self._outgoing, "headers": headers}
                del headers
        except Exception as error:
            self.failed = True
            self.policy.failures.log(error)
            await self.refuse(error, after_handler=True)
            return
        session._seal()
        if session._confirmed and self.policy.failures.outage:
            self.policy.failures.succeeded()
        await self.send(self._outgoing)

    def _refuse_replacement(self) -> None:
        """Refuse data that the app has put in the session's place, where nothing would save it.

        Another session middleware further in may put its own object there: it saves that.
        """
        found = self.scope.get("session")
        if type(found) is dict and self._may_be_starlettes():
            return
        if type(found).__module__ not in ("builtins", "collections", "types") and hasattr(
            found, "__getitem__"
        ):
            return
        raise SessionError(
            f"scope['session'] was replaced by a {type(found).__name__}, which nothing saves. To end the "
            "session call session.destroy(), to change it session.clear() and session.update(...). "
            "(Litestar's clear_session() and set_session() are for Litestar's own session middleware.)"
        )

    def _may_be_starlettes(self) -> bool:
        # Its SessionMiddleware put a plain dict there until 1.0.
        return _STARLETTE_PUTS_DICTS and not self.session._accessed

    async def after_error(self, error: Exception) -> bool:
        """Do what is left to do after the app has raised; whether the error ends here."""
        if self.failed:  # it was told so, see discard(); or leaves a block whose lock is lost
            return isinstance(error, DISCONNECTED) or status_of(error) != 500
        if self.status:  # the headers have left
            await self._commit_late(error)
            return await self.end_with(error)
        try:
            await self._commit(error)
        except Exception as problem:
            self.policy.failures.log(problem, "the session of a failed request was not committed")
        if status_of(error) != 500:
            self.policy.failures.log(error)
            await self.refuse(error, after_handler=True)
            return True
        if self.carries_cookies and self.session._owed != "nothing":
            # Somebody further out would answer without the cookie, and the client would be left with a
            # credential that is no longer good.
            await self.refuse(error, after_handler=True)
        return False

    def _commit(self, error: Exception | None) -> Coroutine[Any, Any, None]:
        """Commit what is to be committed of a request that has got this far, or has raised `error`."""
        data = commits_data(self.status, error, save_on_error=self.policy.save_on_error)
        return self.engine.commit(self.session, explicit=False, only_destroy=not data)

    async def _commit_late(self, error: Exception | None) -> Exception | None:
        """Commit what is left when no headers can follow any more; log, and return, why that failed."""
        self.session._seal()
        try:
            if self.scope.get("session") is not self.session:
                self._refuse_replacement()
            await self._commit(error)
        except Exception as problem:
            self.policy.failures.log(
                problem, "a session that was changed after the response had started was not saved"
            )
            return problem
        return None


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

    async def refuse(self, error: Exception, *, after_handler: bool) -> None:
        """Answer with a plain text."""
        self.session._seal()
        self.refused(error)
        code = status_of(error)
        body = HTTPStatus(code).phrase.encode()
        extra = []
        if code == 503 and (not after_handler or self.scope["method"] in _SAFE_METHODS):
            # After a handler has run, a client that repeats by itself could run it twice.
            extra.append((b"retry-after", b"1"))
        await self.send(
            {
                "type": "http.response.start",
                "status": code,
                "headers": [*self.headers.add(self.session, self.scope, plain(body)), *extra],
            }
        )
        await self.send({"type": "http.response.body", "body": body})


class WebSocketExchange(Exchange):
    """A WebSocket. Its acceptance, or a denial in its place, is what carries headers."""

    __slots__ = ("_closed", "_receive")

    carries_cookies = False
    greeted = True

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
        return self._forward(message)

    async def _receive_unless_gone(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._closed = True
        return message

    async def refuse(self, error: Exception, *, after_handler: bool) -> None:
        """Refuse the handshake, with a status where the server can send one."""
        self.session._seal()
        self.refused(error)
        if "websocket.http.response" in self.scope.get("extensions", {}):
            code = status_of(error)
            body = HTTPStatus(code).phrase.encode()
            await self.send(
                {
                    "type": "websocket.http.response.start",
                    "status": code,
                    "headers": self.headers.add(self.session, self.scope, plain(body)),
                }
            )
            await self.send({"type": "websocket.http.response.body", "body": body})
        else:
            await self.send({"type": "websocket.close", "code": close_code(error)})

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
        del scope, message  # error trackers record the local variables, and it holds the request's cookies
        raise OSError("the response was abandoned because its session could not be saved")


def _asgi_version(scope: Scope) -> tuple[int, ...]:
    return tuple(map(int, scope.get("asgi", {}).get("spec_version", "2.0").split(".")))

"""One request, or one WebSocket, on its way through the middleware: when to commit, what to answer.

The session is committed when the response's start (or the WebSocket's acceptance) passes, before it
is sent on; what is changed after that, when the app is done. If that first commit fails, the client
is answered here and the app's own messages are swallowed: an exception raised inside `send` would
reach the app as "response already started".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from types import CoroutineType
from typing import Any, ClassVar, Final, TypeAlias

import starlette
from starlette.types import Message, Receive, Scope, Send

from asgi_session._engine.engine import Engine
from asgi_session._failures import status_of
from asgi_session._session.session import Session
from asgi_session._web.decision import DISCONNECTED, commits_data
from asgi_session._web.headers import SessionHeaders
from asgi_session.errors import REFUSED, SessionError

_STARLETTE_PUTS_DICTS: Final = starlette.__version__.startswith("0.")


Header: TypeAlias = tuple[bytes, bytes]

FORBIDDEN: Final = (
    b"Forbidden: another site has sent this request with this site's session cookie. If that site is yours, "
    b"add its origin to trusted_origins"
)
_LONGEST_ORIGIN: Final = 300  # bytes of one that an event shows


class HeadersLeftHidden(list[Header]):
    """A request's headers without our cookie, left in the scope when the app has raised an error.

    The scope is one dict for all from the server to the handler. Frameworks rely on that: what stands
    outside reads the route, the user and the session that were put into it inside. So the middleware cannot
    give the app a copy, as the ASGI specification would have it. It puts another list into that dict, and
    never touches the server's own. When the app returns, the headers are as they came again.

    When the app has raised, they stay hidden. Error trackers then record the local variables of every
    function that the error has passed, and each of the app's has this dict. The whole headers remain here
    for one who tries again with the same scope; `repr` and iterating show none of them.
    """

    __slots__ = ("whole",)

    def __init__(self, rest: Iterable[Header], whole: Any) -> None:
        super().__init__(rest)
        self.whole = whole


class Exchange:
    """What a request and a WebSocket have in common. An object, since closures would cost more.

    Attributes:
        status: of the response (or the handshake's answer) that has started; 0 before.
        failed: whether the client was answered here, in the app's place.
        whole: the request's headers as they came, while the app sees them without our cookie; else None.
    """

    __slots__ = (
        "_covered", "_outgoing", "engine", "failed", "headers", "policy", "scope", "send", "session",
        "status", "whole",
    )  # fmt: skip

    _outgoing: Message
    carries_cookies: ClassVar = True  # in every answer that `refuse` gives
    greeted: ClassVar = False  # the server wants a message taken before it takes an answer
    cached: ClassVar = True  # something further out may keep the answer for others

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
        self.whole: Any = None
        # The headers that the app sees, if the scope has to have the whole ones whenever it sends.
        self._covered: Any = None

    async def refuse(self, error: Exception, *, after_handler: bool) -> None:
        """Answer the client in the app's place: with the status that tells about `error`."""
        raise NotImplementedError

    async def answer(self, status: int, body: bytes, code: int, extra: Sequence[Header] = ()) -> None:
        """Answer the client in the app's place.

        Args:
            status: of the response.
            body: plain text.
            code: that closes a WebSocket, where the server can send no response.
            extra: further headers.
        """
        raise NotImplementedError

    async def forbid(self, receive: Receive, reason: str) -> None:
        """Answer a request that another site has caused, before the app hears of it.

        Args:
            receive: the server's.
            reason: see `Origins.refuses`.
        """
        if self.greeted:
            await receive()
        self.policy.emit(
            "cross_site",
            None,
            self.session,
            origin=self._origin(),
            path=self.scope["path"],
            reason=reason,
        )
        await self.answer(403, FORBIDDEN, 1008)

    def _origin(self) -> str | None:
        """Return what the request says of where it comes from, as an event may show it."""
        for name, value in self.scope["headers"]:
            if name == b"origin":
                text: str = value[:_LONGEST_ORIGIN].decode("ascii", "backslashreplace")
                return text
        return None

    def leave_hidden(self) -> None:
        """Keep our cookie out of the scope although the app is done: it has raised an error."""
        self.scope["headers"] = HeadersLeftHidden(self.scope["headers"], self.whole)
        self.whole = None

    def refused(self, error: Exception) -> None:
        """Tell a test client, which raises it in the test, of an error that was answered with 5xx."""
        if status_of(error) >= 500 and REFUSED in self.scope:
            self.scope[REFUSED].append(error)

    def _forward(self, message: Message) -> Coroutine[Any, Any, None]:
        """Send a message on. A coroutine, whatever the server's `send` returns: apps make tasks of it."""
        sent: Any = self.send(message)
        return sent if type(sent) is CoroutineType else _until(sent)

    async def _forward_with_headers(self, message: Message) -> None:
        """Send a message on while the scope shows the whole headers."""
        self.scope["headers"] = self.whole
        try:
            await self.send(message)
        finally:
            self.scope["headers"] = self._covered

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
        """Commit what is left in a task: a streaming response's client has left, or the server stops."""
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
                    if session._due is not None:
                        await self._commit_rotating()
                    else:
                        await self._commit(None)
                headers = self.headers.add(session, self.scope, [*self._outgoing.get("headers", ())])
                self._outgoing = {**self._outgoing, "headers": headers}
                del headers
                if self.whole is not None and self.cached:
                    # A cache further out that honours Vary: Cookie may look at the headers only now, or with
                    # the body. Without the cookie it would keep this user's page for visitors without one.
                    self._covered, self.scope["headers"] = self.scope["headers"], self.whole
        except Exception as error:
            self.failed = True
            self.policy.failures.log(error)
            await self.refuse(error, after_handler=True)
            return
        session._seal()
        if session._confirmed and self.policy.failures.outage:
            self.policy.failures.succeeded()
        try:
            await self.send(self._outgoing)
        finally:
            if self._covered is not None:
                self.scope["headers"] = self._covered

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

    async def _commit_rotating(self) -> None:
        """Commit, and give the session the new credential that is due.

        No request fails for that, if there was nothing else to commit.
        """
        commits = commits_data(self.status, None, save_on_error=self.policy.save_on_error)
        self.session._begin_rotation(commits=commits)
        try:
            await self._commit(None)
        except SessionError:
            if not self.session._did_nothing_but_rotate():
                raise

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


async def _until(sent: Awaitable[None]) -> None:
    await sent


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

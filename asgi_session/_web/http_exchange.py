"""A request and its response."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Message

from asgi_session._failures import close_code, status_of
from asgi_session._web.exchange import Exchange, Header, discard, plain

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 section 9.2.1


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
            session = self.session
            if session._accessed or self.scope.get("session") is not session:
                return self.start(message)
            session._seal()  # nobody has used it: there is nothing to commit, and nothing to add
        return self._forward(message) if self._covered is None else self._forward_with_headers(message)

    async def refuse(self, error: Exception, *, after_handler: bool) -> None:
        """Answer with a plain text."""
        self.session._seal()
        self.refused(error)
        code = status_of(error)
        # After a handler has run, a client that repeats by itself could run it twice.
        again = code == 503 and (not after_handler or self.scope["method"] in _SAFE_METHODS)
        body = HTTPStatus(code).phrase.encode()
        await self.answer(code, body, close_code(error), [(b"retry-after", b"1")] if again else [])

    async def answer(self, status: int, body: bytes, code: int, extra: Sequence[Header] = ()) -> None:
        """Answer with a plain text."""
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*self.headers.add(self.session, self.scope, plain(body)), *extra],
            }
        )
        await self.send({"type": "http.response.body", "body": body})

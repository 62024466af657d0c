"""What a response's headers get because of the session; and what is said, once, of how they are sent."""

from __future__ import annotations

import logging
from typing import Final

from starlette.types import Scope

from asgi_session._data.lifetime import is_persistent
from asgi_session._policy import Policy
from asgi_session._session.session import Session
from asgi_session._session.versioned import Owed
from asgi_session._web.cookie import Cookie, keep_out_of_caches, keep_private, vary_on_cookie
from asgi_session.migrating import StarletteCookie

logger: Final = logging.getLogger("asgi_session")


class SessionHeaders:
    """Adds the headers that sessions call for, in the responses of one middleware.

    Attributes:
        cookie: its name and attributes.
    """

    __slots__ = ("_old", "_policy", "_warned_of_caches", "_warned_of_http", "cookie")

    def __init__(self, cookie: Cookie, policy: Policy, old: StarletteCookie | None = None) -> None:
        self.cookie = cookie
        self._old = old if old is not None and old.is_another_than(cookie) else None
        self._policy = policy
        self._warned_of_http = self._warned_of_caches = False

    def add(
        self, session: Session, scope: Scope, headers: list[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """Return a response's headers with what the session calls for."""
        if session._accessed:
            vary_on_cookie(headers)
        owed = session._take_owed()
        if owed == "nothing":
            if session._confirmed and session._opened:
                keep_private(headers)
            return headers
        if keep_out_of_caches(headers):
            self._warn_of_caches()
        if self.cookie.secure and scope.get("scheme") in ("http", "ws"):
            self._warn_of_http()
        headers.append((b"set-cookie", self._set_cookie(session, owed)))
        if self._old is not None and self._old.is_in(scope["headers"]):
            headers.append((b"set-cookie", self._old.cookie.delete()))
        return headers

    def _set_cookie(self, session: Session, owed: Owed) -> bytes:
        if owed == "deletion":
            return self.cookie.delete()
        token, version = session._token, session._version
        assert token is not None, "a cookie is owed"
        assert version is not None, "a cookie is owed"
        left = version.record.deadline - self._policy.clock()
        # Rounded up: a cookie that goes before its session would sign the user out.
        seconds = max(-(-left // 1000), 0)
        return self.cookie.write(self._policy.tokens.write(token), seconds, is_persistent(version.record))

    def _warn_of_http(self) -> None:
        if not self._warned_of_http:
            self._warned_of_http = True
            logger.warning(
                "a Secure session cookie was set over plain http. Browsers drop it, except on localhost. "
                "Serve https, trust the proxy's X-Forwarded-Proto, or, for development, set https_only=False"
            )

    def _warn_of_caches(self) -> None:
        if not self._warned_of_caches:
            self._warned_of_caches = True
            logger.warning(
                "a response that sets the session cookie had headers that allow shared caches to store it. "
                "They were replaced by Cache-Control: private, no-store. Send such headers only on responses "
                "that do not start, rotate or end a session"
            )

"""Moving in from other libraries without logging anybody out: ``SessionMiddleware(migrate_from=...)``."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from asgi_session._data.claim import Old
from asgi_session._options import milliseconds
from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session._web.cookie import Cookie, SameSite
from asgi_session.clock import system_clock
from asgi_session.errors import ConfigurationError

if TYPE_CHECKING:
    from itsdangerous import TimestampSigner

__all__ = ["StarletteCookie"]

_TWO_WEEKS: Final = 14 * 86400


class StarletteCookie:
    """The signed cookie of Starlette's `SessionMiddleware`, for `migrate_from` of this library's.

    A request that brings no session of ours, and a good old cookie, goes on in a session that has the old
    cookie's data. Whoever brings the same cookie, at the same time or later, goes on in the same session,
    until that ends; after that the cookie is worth nothing.

    Give the options as you gave them to Starlette's. Takes the package ``itsdangerous``, as that does.

    Args:
        secret_key: text, or wrapped in Starlette's `Secret` or pydantic's `SecretStr`.
        session_cookie: the cookie's name; default ``session``.
        max_age: how long a cookie is good from when it was issued. Whole seconds; default 14 days. None: as
            long as `until` says.
        path: the cookie's path, by which browsers know the cookie that is to be deleted; default ``/``.
        same_site: ``"lax"`` (default), ``"strict"`` or ``"none"``.
        https_only: the cookie's Secure; default False.
        domain: the cookie's domain; default None.
        partitioned: the cookie's Partitioned; default False.
        until: the moment from which no old cookie is looked at any more, a datetime with a time zone.
            Whoever gets hold of the old key can forge old cookies until then. Default: `max_age` after the
            start of this process, so each start puts it off. Needed with ``max_age=None``.

    Raises:
        ConfigurationError: an option that makes no sense, or itsdangerous is not installed.
    """

    __slots__ = ("_mac", "_max_age", "_signer", "_until", "cookie")

    def __init__(
        self,
        secret_key: str | Wrapped,
        session_cookie: str = "session",
        max_age: int | None = _TWO_WEEKS,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool = False,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        until: datetime | None = None,
    ) -> None:
        secret_key = hidden(secret_key)
        self.cookie: Cookie = Cookie(
            name=session_cookie,
            path=path,
            same_site=same_site,
            https_only=https_only,
            domain=domain,
            partitioned=partitioned,
        )
        self._max_age: int | None = None if max_age is None else milliseconds("max_age", max_age)
        if until is None:
            if self._max_age is None:
                raise ConfigurationError(
                    "StarletteCookie(max_age=None) needs until=, a datetime with a time zone: such cookies "
                    "are good for ever, and somebody has to say when no more are taken"
                )
            self._until: int = system_clock() + self._max_age
        elif not isinstance(until, datetime) or until.utcoffset() is None:
            raise ConfigurationError(f"until={until!r}: give a datetime with a time zone")
        else:
            self._until = (until - _EPOCH) // timedelta(milliseconds=1)
        self._signer: TimestampSigner = with_revealed(_signer, secret_key)
        self._mac: Callable[[bytes], bytes] = with_revealed(_mac, secret_key)

    def read(self, headers: Iterable[tuple[bytes, bytes]], now: int) -> Old | None:
        """Return what a request's old cookie says; None when it has none that is good at `now` (ms).

        Of several the last counts, as for Starlette.
        """
        if now >= self._until:
            return None
        found = self.cookie.read(headers)
        return self._opened(found[-1].encode("latin-1"), now) if found else None

    def _opened(self, value: bytes, now: int) -> Old | None:
        try:
            payload, issued = self._signer.unsign(value, return_timestamp=True)
            data: Any = json.loads(b64decode(payload))
        except (ValueError, RecursionError, _bad_signature()):
            return None
        if not isinstance(data, dict) or not data:
            return None
        since = (issued - _EPOCH) // timedelta(milliseconds=1)
        until = self._until
        if self._max_age is not None:
            # Starlette compares whole seconds: a cookie is good through the last of them.
            if not 0 <= (now - since) // 1000 * 1000 <= self._max_age:
                return None
            until = since + self._max_age + 1000
        # The signature itself can be written in several ways: what it signs cannot.
        return Old(data, value.rpartition(b".")[0], until, self._mac)

    def is_in(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Tell whether a request carries such a cookie, good or not."""
        return bool(self.cookie.read(headers))

    def is_another_than(self, cookie: Cookie) -> bool:
        """Tell whether browsers keep the two beside each other."""
        own = self.cookie
        return (own.name, own.path, own.domain, own.partitioned) != (
            cookie.name,
            cookie.path,
            cookie.domain,
            cookie.partitioned,
        )


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _signer(secret_key: Any) -> TimestampSigner:
    if not isinstance(secret_key, str) or not secret_key:
        raise ConfigurationError(
            "StarletteCookie(secret_key=...): give the text that Starlette's SessionMiddleware had, plain or "
            "in a Secret or SecretStr"
        )
    try:
        secret_key.encode()
    except UnicodeEncodeError:
        raise ConfigurationError("StarletteCookie(secret_key=...) cannot be encoded as UTF-8") from None
    try:
        from itsdangerous import TimestampSigner
    except ImportError:
        raise ConfigurationError(
            "migrate_from=StarletteCookie(...) needs the package itsdangerous, as Starlette's own "
            "SessionMiddleware does: pip install itsdangerous"
        ) from None
    return TimestampSigner(secret_key)


def _mac(secret_key: str) -> Callable[[bytes], bytes]:
    state = hmac.new(secret_key.encode(), b"asgi-session moving in\0", sha256)

    def mac(message: bytes) -> bytes:
        copy = state.copy()
        copy.update(message)
        return copy.digest()

    return mac


def _bad_signature() -> type[Exception]:
    from itsdangerous import BadSignature

    return BadSignature

"""The cookie: reading it out of a request's headers, writing Set-Cookie; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from asgi_session._data.claim import OldCookies
from asgi_session._options import choice
from asgi_session.errors import ConfigurationError

SameSite: TypeAlias = Literal["lax", "strict", "none"]

MAX_AGE_LIMIT: Final = 400 * 86400
"""Seconds; browsers cut longer ones (RFC 6265bis section 5.5)."""

# RFC 6265 section 4.1.1, and RFC 9110 section 5.6.2 for the token.
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ATTRIBUTE: Final = re.compile(r"[\x20-\x3a\x3c-\x7e]+")
# A leading dot is allowed: browsers ignore it (RFC 6265 section 5.2.3).
_HOST: Final = re.compile(r"\.?[\w\-]+(\.[\w\-]+)*", re.ASCII)


class Cookie:
    """The session cookie's name and attributes.

    Args:
        name: default ``__Host-session`` where the attributes allow it, so that neither a subdomain
            nor plain http can plant one (RFC 6265bis section 4.1.3.2); else ``__Secure-session`` with
            https_only, so that plain http cannot (OWASP ASVS 5.0, 3.3.1); else ``session``.
        path: default ``/``.
        same_site: ``"lax"`` (default), ``"strict"`` or ``"none"``.
        https_only: adds Secure; default True.
        domain: a host name, without scheme and port; default None: this host only.
        partitioned: adds Partitioned (CHIPS); needs https_only.
        persistent: sends Max-Age, so that the cookie outlives the browser; default True.

    Raises:
        ConfigurationError: not of the type or form above, or browsers would refuse this combination;
            says what to change.
    """

    __slots__ = (
        "_attributes",
        "_prefix",
        "domain",
        "name",
        "old",
        "partitioned",
        "path",
        "persistent",
        "secure",
    )

    def __init__(
        self,
        *,
        name: str | None = None,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool = True,
        domain: str | None = None,
        partitioned: bool = False,
        persistent: bool = True,
    ) -> None:
        for option, value in (
            ("https_only", https_only),
            ("partitioned", partitioned),
            ("persistent", persistent),
        ):
            if not isinstance(value, bool):  # "false" from the environment would count as true
                raise ConfigurationError(f"{option}={value!r}: must be True or False, not text")
        if name is None:
            prefix = ("__Host-" if path == "/" and domain is None else "__Secure-") if https_only else ""
            name = f"{prefix}session"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"session_cookie={name!r} is not a valid cookie name: use letters, digits, - and _"
            )
        if not isinstance(path, str) or not path.startswith("/") or not _ATTRIBUTE.fullmatch(path):
            raise ConfigurationError(f"path={path!r}: give a path that begins with / and has no ;")
        if domain is not None and not (isinstance(domain, str) and _HOST.fullmatch(domain)):
            raise ConfigurationError(
                f"domain={domain!r}: give a host name such as 'example.org', without scheme and port, or None"
            )
        if isinstance(same_site, str):
            same_site = same_site.lower()  # type: ignore[assignment]
        choice("same_site", same_site, ("lax", "strict", "none"))
        if same_site == "none" and not https_only:
            raise ConfigurationError(
                "same_site='none' without https_only: browsers refuse the cookie. Set https_only=True, or "
                "same_site='lax'"
            )
        if partitioned and not https_only:
            raise ConfigurationError("partitioned=True needs https_only=True: browsers refuse the cookie")
        if name.lower().startswith("__host-") and not (https_only and path == "/" and domain is None):
            raise ConfigurationError(
                f"session_cookie={name!r}: browsers accept a name that begins with __Host- only with "
                "https_only=True, path='/' and no domain. Change those, or the name"
            )
        if name.lower().startswith("__secure-") and not https_only:
            raise ConfigurationError(
                f"session_cookie={name!r}: a name that begins with __Secure- needs https_only=True"
            )
        self.name: str = name
        self.path: str = path
        self.domain: str | None = domain
        self.persistent: bool = persistent
        self.secure: bool = https_only
        self.partitioned: bool = partitioned
        self.old: OldCookies | None = None
        self._prefix = f"{name}=".encode()
        self._attributes = "".join(
            (
                f"; Path={path}",
                f"; Domain={domain}" if domain is not None else "",
                "; HttpOnly",
                "; Secure" if https_only else "",
                f"; SameSite={same_site.capitalize()}",
                "; Partitioned" if partitioned else "",
            )
        ).encode()

    def read(self, headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
        """Return the values of all our cookies in a request's headers, in their order."""
        values: list[str] = []
        prefix = self._prefix
        for header, line in headers:
            if header == b"cookie":
                for pair in line.split(b";"):
                    pair = pair.strip(b" \t")
                    if pair.startswith(prefix):
                        values.append(pair[len(prefix) :].strip(b'"').decode("latin-1"))
        return values

    def without(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]] | None:
        """Return a request's headers without our cookies; None if there are none.

        What `read` would find is gone. Everything else stays in its order, byte for byte; a header that
        has nothing left is dropped.
        """
        rest: list[tuple[bytes, bytes]] | None = None
        at = 0
        for header, line in headers:
            if header == b"cookie":
                # Every request comes here: a slice is faster than `startswith`, and a number, here the
                # semicolon, is looked for faster than bytes.
                prefix = self._prefix
                if line[: len(prefix)] == prefix and 0x3B not in line:
                    if rest is None:
                        rest = [*headers]
                    del rest[at]
                    continue
                left = self._other_cookies(line)
                if left is not line:
                    if rest is None:
                        rest = [*headers]
                    if not left:
                        del rest[at]
                        continue
                    rest[at] = (header, left)
            at += 1
        return rest

    def _other_cookies(self, line: bytes) -> bytes:
        """Return what a Cookie header has besides our cookies; the same object if it has none of ours."""
        prefix = self._prefix
        before, found, behind = line.partition(prefix)
        if not found:
            return line
        if behind.find(prefix) < 0 and (not before or before[-2:] == b"; "):
            # One, separated from the others as browsers do it.
            after = behind.partition(b";")[2]
            kept = before[:-2]
            left = (kept + b";" + after if after else kept) if before else after.lstrip(b" \t")
        else:
            pairs = line.split(b";")
            others = [pair for pair in pairs if not pair.strip(b" \t").startswith(prefix)]
            if len(others) == len(pairs):
                return line
            left = b";".join(others)
        return left if left.strip(b" \t;") else b""

    def write(self, value: str, max_age: int, persistent: bool | None = None) -> bytes:
        """Return the Set-Cookie header's value; `max_age` in seconds.

        `persistent` takes the place of the option for one session.
        """
        persistent = self.persistent if persistent is None else persistent
        age = b"; Max-Age=%d" % min(max_age, MAX_AGE_LIMIT) if persistent else b""
        return self._prefix + value.encode() + age + self._attributes

    def delete(self) -> bytes:
        """Return the Set-Cookie value that removes the cookie; it repeats every attribute."""
        # Domain and path must be the ones it was set with, or the browser keeps it (RFC 6265
        # section 5.3 step 11).
        return self._prefix + b"; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT" + self._attributes


def vary_on_cookie(headers: list[tuple[bytes, bytes]]) -> None:
    """Add Cookie to the response's Vary, in place."""
    for index, (name, value) in enumerate(headers):
        if len(name) == 4 and name.lower() == b"vary":
            names = {part.strip().lower() for part in value.split(b",")}
            if b"*" not in names and b"cookie" not in names:
                headers[index] = (name, value + b", Cookie")
            return
    headers.append((b"vary", b"Cookie"))


def keep_out_of_caches(headers: list[tuple[bytes, bytes]]) -> bool:
    """Have no shared cache store a response that sets our cookie, in place; whether the app wanted it to.

    ``private, no-store`` takes the place of a Cache-Control that has neither of the two for the whole
    response (``private="x-name"`` is about that field alone: RFC 9111 section 5.2.2.7). Fields that are
    meant for particular caches go, since they beat Cache-Control (RFC 9213 section 2.2).
    """
    asked = [value for name, value in headers if name.lower() == b"cache-control"]
    directives = {each.strip().lower() for value in asked for each in _unquoted(value).split(b",")}
    targeted = [name for name, _ in headers if _is_targeted(name)]
    if targeted:
        headers[:] = [(name, value) for name, value in headers if not _is_targeted(name)]
    if directives.isdisjoint((b"private", b"no-store")):
        headers[:] = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
        headers.append((b"cache-control", b"private, no-store"))
        return bool(asked or targeted)
    return bool(targeted)


def keep_private(headers: list[tuple[bytes, bytes]]) -> None:
    """Add ``Cache-Control: private`` to a response made for one user, in place.

    Not where the app says anything about caching itself. Vary alone does not do, since not every
    content delivery network honours it (RFC 9111 section 5.2.2.7).
    """
    for name, _ in headers:
        # By length first: this is every response, and its usual headers have others.
        if len(name) in _LENGTHS and (name.lower() in (b"cache-control", b"expires") or _is_targeted(name)):
            return
    headers.append(_PRIVATE)


_TARGETED: Final = (b"surrogate-control", b"edge-control", b"x-accel-expires")
_LENGTHS: Final = frozenset({len(b"expires"), len(b"cache-control"), *range(15, 100)})
_PRIVATE: Final = (b"cache-control", b"private")


def _is_targeted(name: bytes) -> bool:
    """Tell whether a header is for particular caches: ``CDN-Cache-Control`` and its relatives."""
    name = name.lower()
    return name.endswith(b"-cache-control") or name in _TARGETED


def _unquoted(value: bytes) -> bytes:
    """Return a header's value without the contents of its quoted strings."""
    return _QUOTED.sub(b'""', value)


_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?')

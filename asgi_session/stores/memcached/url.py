"""URLs to places.

A password with a / # ? or @ that is not percent-encoded may end up in any part of a URL. So no message
repeats a host, port, path or value.
"""

from __future__ import annotations

import re
import ssl
from typing import Final, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from asgi_session.errors import ConfigurationError
from asgi_session.stores._shared.addresses import Address
from asgi_session.stores.memcached.target import Credentials, Places

PORT: Final = 11211

_PLAIN: Final = "memcached"
_TLS: Final = "memcacheds"
_CA: Final = "ca_file"

_URL: Final = re.compile(r"([A-Za-z+]+://)([^/?#]*)(.*)", re.DOTALL)
_ENCODE: Final = "percent-encode / # ? @ : [ ] , in user and password (a / is %2F)"


def parse(url: str, context: ssl.SSLContext | None = None) -> Places:
    """Turn a store URL into places.

    Args:
        url: ``memcached://`` or ``memcacheds://``.
        context: for TLS, in place of one that verifies by the system's certificates.

    Raises:
        ConfigurationError: it names what is wrong, never a password.
    """
    parts = _split(url)
    if "#" in url:
        _wrong(parts, f"it has a #: {_ENCODE}")
    if "@" in parts.path or "@" in parts.query:
        _wrong(parts, f"it has an @ after the host: {_ENCODE}")
    login, at, hosts = parts.netloc.rpartition("@")
    return Places(
        tuple(_address(parts, each) for each in hosts.split(",")),
        _credentials(parts, login) if at else None,
        _context(parts, context),
        _prefix(parts),
    )


def address(text: str) -> Address | None:
    """Read ``host`` or ``host:port``; None for what is neither."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.netloc != text or "@" in text or not text.isprintable() or " " in text:
        return None
    return unquote(host), PORT if port is None else port


def _split(url: str) -> SplitResult:
    """Split as urlsplit does, other than that several hosts may stand where one is in brackets."""
    if not isinstance(url, str):
        raise ConfigurationError(f"the store URL must be text (str), not {type(url).__name__}")
    found = _URL.fullmatch(url)
    try:
        url.encode()
        parts = None if found is None else urlsplit(found[1] + found[3])._replace(netloc=found[2])
    except ValueError:
        parts = None
    if parts is None:
        raise ConfigurationError(f"the store URL cannot be read: {_ENCODE}")
    if parts.scheme not in (_PLAIN, _TLS):
        raise ConfigurationError(f"unknown scheme in the store URL; known are {_PLAIN}:// and {_TLS}://")
    return parts


def _wrong(parts: SplitResult, what: str) -> NoReturn:
    raise ConfigurationError(f"{parts.scheme}:// URL: {what}")


def _address(parts: SplitResult, text: str) -> Address:
    found = address(text)
    if found is None:
        _wrong(
            parts, f"host and port cannot be read; give host:port, as in {parts.scheme}://localhost:{PORT}; "
            f"several with commas; and {_ENCODE}"
        )  # fmt: skip
    return found


def _credentials(parts: SplitResult, login: str) -> Credentials:
    user, colon, password = login.partition(":")
    if not (user and colon and password) or ":" in password:
        _wrong(parts, f"give user and password, as in {parts.scheme}://user:password@host; and {_ENCODE}")
    return Credentials(unquote(user), unquote(password))


def _context(parts: SplitResult, context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in query if name != _CA]
    if unknown:
        # Not named: it may be part of a password.
        _wrong(parts, f"unknown query parameter; the only one is {_CA}, with {_TLS}://; and {_ENCODE}")
    if parts.scheme == _PLAIN:
        if query or context is not None:
            _wrong(parts, f"{_CA if query else 'ssl_context'} needs TLS: use {_TLS}://")
        return None
    if context is not None:
        if query:
            _wrong(parts, f"give either {_CA} or ssl_context")
        return context
    try:
        return ssl.create_default_context(cafile=query.get(_CA))
    except (OSError, ValueError):
        _wrong(
            parts, f"{_CA}: there is no such file of certificates, or it must not be read; correct its path"
        )


def _prefix(parts: SplitResult) -> str | None:
    path = parts.path.removeprefix("/")
    return unquote(path) if path else None

"""Did another site have the browser send this request? A decision on its headers; no I/O.

Browsers say so themselves: in Sec-Fetch-Site over https and on localhost, and in Origin with every
request that can change something. No page can set or remove the two. The rules, first that fits:

=====================================================  ==================================
request                                                answer
=====================================================  ==================================
GET, HEAD, OPTIONS, but no WebSocket                   passes
two Origin, Sec-Fetch-Site or Host that disagree       refused
Origin is trusted (scheme, host and port)              passes
Sec-Fetch-Site: same-origin or none                    passes
Sec-Fetch-Site: anything else                          refused
neither Sec-Fetch-Site nor Origin                      passes: no browser; a WebSocket, by option, does not
Origin: null                                           refused
Origin has the host and port of Host                   passes
anything else                                          refused
=====================================================  ==================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Final, Literal, NamedTuple, TypeAlias

from asgi_session.errors import ConfigurationError

Reason: TypeAlias = Literal["ambiguous", "sec-fetch-site", "no origin", "null origin", "origin"]
"""Why a request is refused: headers that disagree, or the header that decided it."""

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS: Final = {"http": 80, "https": 443}
_SCHEME: Final = r"(?P<scheme>[a-z][a-z0-9+.\-]*)"
# A name or an IPv4 address, or an IPv6 address in brackets; browsers write other names in Punycode.
_HOST: Final = r"(?P<host>[a-z0-9_.\-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
_AUTHORITY: Final = re.compile(_HOST, re.IGNORECASE | re.ASCII)
_ORIGIN: Final = re.compile(f"{_SCHEME}://{_HOST}", re.IGNORECASE | re.ASCII)


class Origin(NamedTuple):
    """A scheme, a host and a port, in one spelling.

    Attributes:
        scheme: in lower case.
        host: in lower case.
        port: the scheme's own, where none is given; None where the scheme has none.
    """

    scheme: str
    host: str
    port: int | None


def parse_origin(text: str) -> Origin | None:
    """Return what an Origin header says; None where it is no origin, as ``null`` is none."""
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme = found["scheme"].lower()
    return _origin(scheme, found["host"], found["port"])


def parse_host(text: str, scheme: str) -> Origin | None:
    """Return what a Host header says, with the scheme that is to be compared; None where it is no host.

    A server behind a proxy does not know the scheme that the browser sees, and a Host without a port means
    that scheme's own. So the scheme is the one that the Origin header names.
    """
    found = _AUTHORITY.fullmatch(text)
    return None if found is None else _origin(scheme, found["host"], found["port"])


def _origin(scheme: str, host: str, port: str | None) -> Origin | None:
    host = host.lower()
    if host.startswith("["):
        try:
            host = f"[{IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return None
    number = _PORTS.get(scheme) if port is None else int(port)
    return None if number is not None and number > 65535 else Origin(scheme, host, number)


class Origins:
    """Decides which requests are refused, since another site has caused them.

    Args:
        trusted: origins whose requests pass, each as ``scheme://host[:port]``.
        websocket_needs_origin: whether a WebSocket is refused that has neither header.

    Raises:
        ConfigurationError: an origin that is none.
    """

    __slots__ = ("_trusted", "_websocket_needs_origin")

    def __init__(self, trusted: Iterable[str], *, websocket_needs_origin: bool) -> None:
        self._trusted = frozenset(_trusted(each) for each in trusted)
        self._websocket_needs_origin = websocket_needs_origin

    @classmethod
    def of(
        cls, trusted_origins: Iterable[str], websocket_needs_origin: bool, *, checked: bool
    ) -> Origins | None:
        """Return what the middleware's options ask for; None unless `checked`.

        Raises:
            ConfigurationError: options that are wrong, or have no effect without `checked`.
        """
        if not isinstance(websocket_needs_origin, bool):
            raise ConfigurationError(
                f"websocket_needs_origin={websocket_needs_origin!r}: must be True or False"
            )
        if isinstance(trusted_origins, (str, bytes)) or not isinstance(trusted_origins, Iterable):
            raise ConfigurationError(
                f"trusted_origins={trusted_origins!r}: give a list of origins, such as "
                "['https://app.example.com']"
            )
        trusted = list(trusted_origins)
        if not checked:
            if trusted or websocket_needs_origin:
                name = "trusted_origins" if trusted else "websocket_needs_origin"
                raise ConfigurationError(f"{name} has no effect without same_origin: add same_origin=True")
            return None
        return cls(trusted, websocket_needs_origin=websocket_needs_origin)

    def refuses(self, method: str | None, headers: Iterable[tuple[bytes, bytes]]) -> Reason | None:
        """Return why a request is refused; None if it passes.

        Args:
            method: of the request; None for a WebSocket.
            headers: of the request.
        """
        if method in _SAFE:
            return None
        origin = site = host = None
        for name, value in headers:
            if name == b"origin":
                if origin is not None and origin != value:
                    return "ambiguous"
                origin = value
            elif name == b"sec-fetch-site":
                if site is not None and site != value:
                    return "ambiguous"
                site = value
            elif name == b"host":
                if host is not None and host != value:
                    return "ambiguous"
                host = value
        # Where Sec-Fetch-Site decides alone, as it mostly does, nothing is parsed.
        named = None
        if origin is not None and (self._trusted or site is None):
            named = parse_origin(origin.decode("latin-1"))
        if named is not None and named in self._trusted:
            return None
        if site is not None:
            return None if site == b"same-origin" or site == b"none" else "sec-fetch-site"
        if origin is None:
            return "no origin" if method is None and self._websocket_needs_origin else None
        if origin == b"null":
            return "null origin"
        if named is None or host is None:
            return "origin"
        return None if parse_host(host.decode("latin-1"), named.scheme) == named else "origin"


def _trusted(text: object) -> Origin:
    """Return an origin that is trusted.

    Raises:
        ConfigurationError: it is none; says what is wrong with it.
    """
    if not isinstance(text, str):
        raise ConfigurationError(
            f"trusted_origins: {text!r} is a {type(text).__name__}; give text, such as "
            "'https://app.example.com'"
        )
    origin = parse_origin(text)
    if origin is not None:
        return origin
    scheme, found, rest = text.partition("://")
    if text == "null":
        why = "sandboxed frames and local files of anybody have the origin 'null'"
    elif "*" in text:
        why = "wildcards are not supported; list every origin"
    elif not found:
        why = f"give the scheme, too, such as 'https://{text}'"
    elif not rest.isascii():
        why = "write the host as browsers send it, in Punycode (xn--...)"
    elif "@" in rest:
        why = "leave out the user"
    elif set("/?#") & set(rest):
        host = re.split("[/?#]", rest)[0]
        why = f"an origin has no path; give '{scheme}://{host}'"
    else:
        why = "give scheme://host or scheme://host:port"
    raise ConfigurationError(f"trusted_origins: {text!r} is not an origin: {why}")

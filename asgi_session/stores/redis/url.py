"""URLs to targets. Splits off what redis-py's parser does not know, and refuses what it would ignore.

A password with a / # ? or @ that is not percent-encoded may end up in any part of a URL. So no message
repeats a host, port, path, fragment or value.
"""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url

from asgi_session.errors import ConfigurationError
from asgi_session.stores._shared.addresses import Address
from asgi_session.stores.redis.schemes import SCHEMES, variant
from asgi_session.stores.redis.target import Dialect, Target

_COMMON: Final = frozenset({"username", "password", "client_name"})
_TLS: Final = frozenset(
    {
        "ssl_keyfile",
        "ssl_certfile",
        "ssl_cert_reqs",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_check_hostname",
        "ssl_min_version",
        "ssl_ciphers",
        "ssl_password",
        "ssl_include_verify_flags",
        "ssl_exclude_verify_flags",
    }
)
_SENTINEL: Final = frozenset({"sentinel_username", "sentinel_password"})
_ELSEWHERE: Final = {
    "socket_timeout": "pass timeout= to RedisStore.from_url instead",
    "timeout": "pass timeout= to RedisStore.from_url instead",
    "socket_connect_timeout": "pass connect_timeout= to RedisStore.from_url instead",
    "max_connections": "all requests of an event loop share one connection per server",
    "decode_responses": "the store reads bytes",
    "protocol": "the store always speaks RESP3",
}

_SEVERAL: Final = re.compile(r"([^:/?#]+://)([^/?#]*,[^/?#]*)(.*)", re.DOTALL)
_SCHEME: Final = re.compile(r"[a-z][a-z+]*")
_PARAMETER: Final = re.compile(r"[a-z_]+")
_ENCODE: Final = "percent-encode / # ? @ [ ] in user and password (a / is %2F)"


def parse(url: str) -> Target:
    """Turn a store URL into a target.

    Raises:
        ConfigurationError: it names what is wrong, never a password.

    """
    if not isinstance(url, str):
        raise ConfigurationError(f"the store URL must be text (str), not {type(url).__name__}")
    try:
        url.encode()
        parts = _split(url)
    except ValueError:
        raise ConfigurationError(f"the store URL cannot be read: {_ENCODE}") from None
    if parts.scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        named = f" {parts.scheme!r}" if "://" in url and _SCHEME.fullmatch(parts.scheme) else ""
        raise ConfigurationError(f"unknown scheme{named} in the store URL; known are {known}")
    if "#" in url:
        _wrong(parts, f"it has a #: {_ENCODE}")
    if parts.netloc and "@" in parts.path:
        _wrong(parts, f"it has an @ after the host: {_ENCODE}")
    base, mode = SCHEMES[parts.scheme]
    _check_query(parts, tls=base == "rediss", mode=mode)
    if base == "unix":
        return _unix(parts)
    addresses = _addresses(parts, 26379 if mode == "sentinel" else 6379)
    if mode == "cluster":
        if _database(parts, parts.path) != 0:
            _wrong(parts, "the store uses only database 0 of a cluster: leave the database out")
        return Target("cluster", addresses, _dialect(parts, base), scheme=parts.scheme)
    if mode == "sentinel":
        service = unquote(parts.path.strip("/"))
        if not service or "/" in service:
            _wrong(parts, f"name the service, as in {parts.scheme}://host:26379/mymaster?db=0")
        dialect = _dialect(parts, base, db=_database(parts))
        sentinels = _sentinel_dialect(parts, dialect)
        return Target("sentinel", addresses, dialect, service, sentinels, scheme=parts.scheme)
    if len(addresses) > 1:
        tls = base == "rediss"
        cluster, sentinel = (variant(parts.scheme, mode=each, tls=tls) for each in ("cluster", "sentinel"))
        _wrong(parts, f"one host only; several belong to {cluster}:// or {sentinel}://")
    dialect = _dialect(parts, base, db=_database(parts, parts.path))
    return Target("single", addresses, dialect, scheme=parts.scheme)


def _split(url: str) -> SplitResult:
    """Split as urlsplit does, other than that several hosts may stand where one is in brackets.

    Python refuses such a netloc since its security releases of 2025 (gh-105704).
    """
    several = _SEVERAL.fullmatch(url)
    if several is None:
        return urlsplit(url)
    scheme, hosts, rest = several.groups()
    return urlsplit(scheme + rest)._replace(netloc=hosts)


def _wrong(parts: SplitResult, what: str) -> NoReturn:
    raise ConfigurationError(f"{parts.scheme}:// URL: {what}")


def _query(parts: SplitResult) -> dict[str, str]:
    return dict(parse_qsl(parts.query, keep_blank_values=True))


def _check_query(parts: SplitResult, *, tls: bool, mode: str) -> None:
    known = _COMMON | (_TLS if tls else frozenset()) | (_SENTINEL if mode == "sentinel" else frozenset())
    known |= {"db"}
    for name in _query(parts):
        if name in known:
            continue
        if name in _ELSEWHERE:
            _wrong(parts, f"query parameter {name!r}: {_ELSEWHERE[name]}")
        if name in _TLS:
            secure = variant(parts.scheme, mode=mode, tls=True)
            _wrong(parts, f"query parameter {name!r} needs TLS: use {secure}://")
        # One that is part of a password is none of ours to name.
        named = f" {name!r}" if _PARAMETER.fullmatch(name) and "@" not in parts.query else ""
        hint = "" if named else f"; {_ENCODE}"
        _wrong(parts, f"unknown query parameter{named}; known are {', '.join(sorted(known))}{hint}")


def _addresses(parts: SplitResult, default_port: int) -> tuple[Address, ...]:
    hosts = parts.netloc.rpartition("@")[2]
    found: list[Address] = []
    for each in hosts.split(","):
        try:
            host = urlsplit(f"//{each}")
            name, port = host.hostname, host.port
        except ValueError:
            _wrong(parts, f"host and port cannot be read; give host:port, port 0 to 65535, and {_ENCODE}")
        if not name:
            _wrong(parts, f"the host is missing, as in {parts.scheme}://localhost:{default_port}")
        found.append((unquote(name), default_port if port is None else port))
    return tuple(found)


def _database(parts: SplitResult, path: str = "") -> int:
    text = path.strip("/") or _query(parts).get("db", "0")
    if not (text.isascii() and text.isdigit()):
        _wrong(parts, f"the database must be a number; and {_ENCODE}")
    return int(text)


def _settings(parts: SplitResult, base: str, host: str) -> dict[str, Any]:
    """Let redis-py read user, password and query; the host list and the path are not its business."""
    query = {name: value for name, value in _query(parts).items() if name not in _SENTINEL and name != "db"}
    user, at, _ = parts.netloc.rpartition("@")
    plain = SplitResult(base, f"{user}{at}{host}", parts.path if base == "unix" else "", urlencode(query), "")
    try:
        return dict(parse_url(plain.geturl()))
    except ValueError as error:
        unusable = [name for name in query if f"'{name}'" in str(error)]
        _wrong(parts, f"unusable value of query parameter {', '.join(unusable)}" if unusable else _ENCODE)


def _dialect(parts: SplitResult, base: str, *, db: int = 0) -> Dialect:
    settings = _settings(parts, base, "h")
    settings.pop("connection_class", None)
    settings.pop("host", None)
    settings["db"] = db
    return Dialect(SSLConnection if base == "rediss" else Connection, settings)


def _sentinel_dialect(parts: SplitResult, primary: Dialect) -> Dialect:
    settings = {name: value for name, value in primary.settings.items() if name.startswith("ssl_")}
    query = _query(parts)
    for name in ("username", "password"):
        if f"sentinel_{name}" in query:
            settings[name] = query[f"sentinel_{name}"]
    return Dialect(primary.connection_class, settings)


def _unix(parts: SplitResult) -> Target:
    host = parts.netloc.rpartition("@")[2]
    if host:
        _wrong(parts, "no host here but a path with three slashes, as in unix:///run/redis.sock")
    path = unquote(parts.path)
    if not path.strip("/"):
        _wrong(parts, "the socket's path is missing, as in unix:///run/redis.sock?db=0")
    settings = _settings(parts, "unix", "")
    settings.pop("connection_class", None)
    settings.pop("path", None)
    settings["db"] = _database(parts)
    return Target("single", ((path, 0),), Dialect(UnixDomainSocketConnection, settings))

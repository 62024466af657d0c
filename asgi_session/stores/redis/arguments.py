"""The arguments of `RedisStore`, checked when they are given."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from os import R_OK, PathLike, access
from typing import Any, Final, TypedDict

from asgi_session._options import duration, unknown
from asgi_session.errors import ConfigurationError
from asgi_session.stores.redis.target import AddressRemap, Dialect, Options


class RedisOptions(TypedDict, total=False):
    """The options of `RedisStore.from_url`: those of `RedisStore`."""

    prefix: str
    timeout: timedelta | float
    connect_timeout: timedelta | float
    max_connection_age: timedelta | float
    address_remap: AddressRemap | None
    tls_server_name: str | None


_ELSEWHERE: Final = {
    "socket_timeout": "timeout",
    "socket_connect_timeout": "connect_timeout",
    "key_prefix": "prefix",
    "db": "the URL: redis://host/1",
    "password": "the URL: redis://user:password@host",
    "username": "the URL: redis://user:password@host",
    "service_name": "the URL: redis+sentinel://host:26379/mymaster",
}


def no_such_options(names: Iterable[str]) -> ConfigurationError:
    """Return the error for options that do not exist, naming the ones that were meant."""
    return unknown("RedisStore.from_url", names, RedisOptions.__annotations__, _ELSEWHERE, "use")


def read_options(
    timeout: Any, connect_timeout: Any, max_connection_age: Any, tls_server_name: Any
) -> Options:
    """Check and convert."""
    if tls_server_name is not None:
        text("tls_server_name", tls_server_name)
    return Options(
        timeout=duration("timeout", timeout),
        connect_timeout=duration("connect_timeout", connect_timeout),
        max_age=duration("max_connection_age", max_connection_age),
        tls_server_name=tls_server_name,
    )


def read_prefix(prefix: Any) -> bytes:
    """Return what a key's name begins with."""
    text("prefix", prefix)
    if "{" in prefix or "}" in prefix:
        raise ConfigurationError("prefix must not contain braces: they would decide the cluster slot")
    return f"{prefix}:{{".encode()


def read_remap(remap: Any) -> AddressRemap | None:
    """Check that it is a function or None."""
    if remap is not None and not callable(remap):
        raise ConfigurationError(
            f"address_remap={remap!r}: give a function of (host, port) that returns both"
        )
    return remap  # type: ignore[no-any-return]


def check_files(dialect: Dialect) -> None:
    """Refuse settings that name a file of certificates that cannot be read."""
    for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"):
        if not _readable(dialect.settings.get(name)):
            # Without the path: a password that is not percent-encoded may have ended up in it.
            raise ConfigurationError(
                f"{name}: there is no such file, or it must not be read; correct its path"
            )


def _readable(path: Any) -> bool:
    return not isinstance(path, (str, PathLike)) or access(path, R_OK)


def text(name: str, value: Any) -> None:
    """Refuse what is no text, or text that no server could be sent."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{name}={value!r}: give text (str)")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name}={value!r} cannot be encoded as UTF-8: give other text") from None

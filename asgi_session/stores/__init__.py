"""The stores. Each knows the contract and its own service, neither the core nor another store."""

from __future__ import annotations

import re
from inspect import signature
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from asgi_session._options import unknown
from asgi_session._secret import Wrapped, hidden, with_revealed
from asgi_session.errors import ConfigurationError

if TYPE_CHECKING:
    from asgi_session.store import Store
    from asgi_session.stores.memory import MemoryStore
    from asgi_session.stores.redis import RedisStore

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z+]{0,19}://")


def store_from_url(url: str | Wrapped, **options: Any) -> Store:
    """Make the store that a URL names.

    Args:
        url: ``memory://``, ``redis://host:port/db``, ``redis+cluster://host:port,host:port``,
            ``redis+sentinel://host:port,host:port/service``, each also as ``rediss...`` with TLS, and
            as ``valkey...`` or ``valkeys...``; or ``unix:///path/to.sock``. May be wrapped in Starlette's
            `Secret` or pydantic's `SecretStr`.
        **options: of the store's class.

    Raises:
        ConfigurationError: no such scheme, or the URL is wrong; says what to change.
    """
    url = hidden(url)
    given = hidden([options])  # an option that does not exist may be a password
    del options
    return with_revealed(_store_from_url, url, given)


def _store_from_url(url: Any, given: list[dict[str, Any]]) -> Store:
    (options,) = given
    if not isinstance(url, str):
        raise ConfigurationError(f"the store URL must be text (str), not {type(url).__name__}")
    scheme = url.partition(":")[0].lower()
    if scheme == "memory":
        from asgi_session.stores.memory import MemoryStore

        _refuse_parts_of_memory_url(url)
        own = signature(MemoryStore).parameters
        strange = [name for name in options if name not in own]
        if strange:
            raise unknown("MemoryStore", strange, list(own))
        return MemoryStore(**options)
    from asgi_session.stores.redis.schemes import SCHEMES

    if scheme in SCHEMES:
        from asgi_session.stores.redis import RedisStore

        return RedisStore.from_url(url, **options)
    known = ", ".join(f"{name}://" for name in ("memory", *SCHEMES))
    # What is no scheme may be a password.
    begin = f" that begin with {scheme!r}" if _SCHEME.match(url) else " of this form"
    raise ConfigurationError(f"no store has URLs{begin}. Known are {known}")


def _refuse_parts_of_memory_url(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError("memory:// takes nothing after it") from None
    if parts.netloc or parts.path.strip("/") or parse_qs(parts.query):
        raise ConfigurationError("memory:// takes no host, path or query; for options use MemoryStore(...)")


def __getattr__(name: str) -> Any:
    # Not imported above: `import asgi_session` must not import redis.
    if name == "MemoryStore":
        from asgi_session.stores.memory import MemoryStore

        return MemoryStore
    if name == "RedisStore":
        from asgi_session.stores.redis import RedisStore

        return RedisStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["MemoryStore", "RedisStore", "store_from_url"]

"""URLs of AWS's services, and the options that are given with them."""

from __future__ import annotations

import contextlib
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from asgi_session._options import unknown
from asgi_session._secret import revealed
from asgi_session.errors import ConfigurationError

_IN_A_URL: Final = frozenset({"region", "endpoint_url"})
"""The query parameters that there are."""


def read_url(
    given: tuple[Any, dict[str, Any]], known: type[Any], *, store: str, example: str, path_of: str = ""
) -> tuple[str, str, dict[str, Any]]:
    """Read what a store's `from_url` was given.

    Args:
        given: the URL, perhaps wrapped, and the options.
        known: the options that there are.
        store: the class, for errors.
        example: a URL that is right; it begins with the scheme.
        path_of: what the URL names, where no path may follow it.

    Returns:
        The name, the path without slashes around it, and the options of both.

    Raises:
        ConfigurationError: it names what is wrong, and repeats neither a credential nor a value.
    """
    url, options = given
    strange = [name for name in options if name not in known.__annotations__]
    if strange:
        raise unknown(f"{store}.from_url", strange, known.__annotations__)
    scheme = example.partition(":")[0]
    name, path, query = _parse(revealed(url), scheme, example)
    if path and path_of:
        raise ConfigurationError(f"{scheme}:// takes no path after the {path_of}'s name")
    return name, path, {**query, **options}


def _parse(url: Any, scheme: str, example: str) -> tuple[str, str, dict[str, str]]:
    """Read ``scheme://NAME/path?region=...&endpoint_url=...``."""
    if not isinstance(url, str):
        raise ConfigurationError(f"the store URL must be text (str), not {type(url).__name__}")
    parts: SplitResult | None = None
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
    if parts is None or parts.scheme != scheme:
        raise ConfigurationError(f"the store URL cannot be read: write it as in {example}")
    if "@" in parts.netloc or parts.fragment:
        raise ConfigurationError(
            f"{scheme}:// takes no user or password: the SDK finds credentials (a role, AWS_ACCESS_KEY_ID), "
            f"or give session=. Write it as in {example}"
        )
    if not parts.netloc:
        raise ConfigurationError(f"{scheme}:// lacks a name: write it as in {example}")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    strange = sorted(name for name in query if name not in _IN_A_URL)
    if strange:
        raise ConfigurationError(
            f"{scheme}:// URL: unknown query parameter {', '.join(map(repr, strange))}; "
            f"known are {', '.join(sorted(_IN_A_URL))}"
        )
    return unquote(parts.netloc), unquote(parts.path).strip("/"), query

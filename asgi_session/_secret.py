"""Secrets: what may be given in place of text, and how they are kept out of tracebacks.

Error trackers and `traceback.TracebackException(capture_locals=True)` record the local variables of
every function that an error passes through. So a function that is given a secret hides it at once,
reveals it only to functions that return, and raises an error of those without the way it came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

from starlette.datastructures import Secret

from asgi_session.errors import ConfigurationError

T = TypeVar("T")


@runtime_checkable
class HasSecretValue(Protocol):
    """A wrapper such as pydantic's `SecretStr` and `SecretBytes`."""

    def get_secret_value(self) -> str | bytes:
        """Return what is wrapped."""
        ...


Wrapped: TypeAlias = Secret | HasSecretValue
"""Text that its wrapper does not show: Starlette's `Secret`, or anything with `get_secret_value()`."""


class Hidden:
    """A value that neither `repr` nor iterating shows."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "<hidden>"


_TEXT: Final = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


def hidden(value: Any) -> Any:
    """Return text, or several texts, hidden; anything else as it is: it shows what it wants to."""
    return Hidden(value) if isinstance(value, _TEXT) else value


def revealed(value: Any) -> Any:
    """Return what is hidden, or in one of the wrappers that users give; anything else as it is."""
    if isinstance(value, Hidden):
        value = value._value
    if value is None or isinstance(value, _TEXT):
        return value  # most often; to ask a protocol takes Python 3.11 far longer
    if isinstance(value, Secret):
        return str(value)
    if isinstance(value, HasSecretValue) and not isinstance(value, type):
        try:
            return value.get_secret_value()
        except Exception as error:  # a vault that is away; its text may hold anything
            kind, problem = type(value).__name__, type(error).__name__
        raise ConfigurationError(f"get_secret_value() of a {kind} failed: {problem}")
    return value


def with_revealed(function: Callable[..., T], *values: Any, **options: Any) -> T:
    """Call a function with revealed values.

    Raises:
        ConfigurationError: as the function does, but without its frames, which show the values.
    """
    try:
        return function(*map(revealed, values), **options)
    except ConfigurationError as error:
        problem = error
    problem.__traceback__ = problem.__context__ = problem.__cause__ = None
    raise problem

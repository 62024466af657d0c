"""The errors: the tree that their module documents."""

from __future__ import annotations

import pickle
import re

import pytest

from asgi_session import errors

ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__
]


def test_the_tree_is_the_documented_one() -> None:
    """Each error stands in the docstring, below SessionError, and nothing else does."""
    assert errors.__doc__ is not None
    documented = re.findall(r"^ +(?:[├└]── )?([A-Z]\w+)", errors.__doc__, re.MULTILINE)
    assert documented[0] == "SessionError"
    assert set(documented) == {error.__name__ for error in ERRORS}
    assert len(documented) == len(ERRORS)


@pytest.mark.parametrize("error", ERRORS)
def test_none_is_an_os_error(error: type[Exception]) -> None:
    """Starlette would take an OSError raised while sending for a client that has left."""
    assert issubclass(error, errors.SessionError)
    assert not issubclass(error, OSError)
    assert error.__doc__


def test_familiar_bases() -> None:
    """Three can also be caught as what Python would have raised."""
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.SessionNotLoaded, RuntimeError)
    assert issubclass(errors.SessionSerializationError, TypeError)


def test_attributes() -> None:
    """What a handler may want to know is an attribute, with the cautious value as the default."""
    assert errors.SessionConflict("x").outcome_unknown is False
    assert errors.SessionConflict("x", outcome_unknown=True).outcome_unknown is True
    large = errors.SessionTooLarge("x", size=2, max_size=1)
    assert (large.size, large.max_size, str(large)) == (2, 1, "x")
    assert errors.SessionSerializationError("x").key is None
    assert errors.SessionSerializationError("x", key="k").key == "k"
    assert errors.StoreUnavailable("x").executed is None
    assert errors.StoreUnavailable("x", executed=False).executed is False


def test_errors_travel_between_processes() -> None:
    """An error raised in a worker process arrives there as it was, where its arguments allow."""
    for error in (
        errors.StoreUnavailable("x", executed=False),
        errors.SessionConflict("x", outcome_unknown=True),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))

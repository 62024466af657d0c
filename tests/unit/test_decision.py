"""What of a request is committed: the whole table, by the moments at which an exchange asks."""

from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from asgi_session._web.decision import DISCONNECTED, commits_data
from asgi_session.errors import LockTimeout, SessionConflict, SessionGone, StoreUnavailable

NONE, ACCEPTED, CLOSED_UNACCEPTED = 0, 101, 403
"""Statuses that no app has chosen: nothing has started; a WebSocket's acceptance, and its refusal."""

SUCCESSES = [100, ACCEPTED, 200, 204, 302, 400, CLOSED_UNACCEPTED, 404, 422, 499]
FAILURES = [500, 501, 503, 599]
APP_ERRORS = [
    Exception("boom"), ValueError("boom"), HTTPException(404), RuntimeError("boom"),
    StoreUnavailable("down"), LockTimeout("late"), SessionConflict("twice"), SessionGone("gone"),
]  # fmt: skip
DISCONNECTIONS = [
    ClientDisconnect(), WebSocketDisconnect(1001), OSError("gone"), ConnectionResetError(), BrokenPipeError(),
]  # fmt: skip


def kind(error: Exception | None) -> str:
    return type(error).__name__


class TestAResponseStarts:
    """`Exchange.start`: the app has chosen a status, and no error is known."""

    @pytest.mark.parametrize("status", SUCCESSES)
    def test_that_is_no_failure(self, status: int) -> None:
        """Below 500 the changes are saved: the client's mistakes are no failure of the app."""
        assert commits_data(status, None, save_on_error=False)

    @pytest.mark.parametrize("status", FAILURES)
    def test_that_tells_of_a_failure(self, status: int) -> None:
        """From 500 on nothing is saved, for the changes may be half of what was meant."""
        assert not commits_data(status, None, save_on_error=False)


class TestAnAppReturns:
    """`Exchange.finish`: the app is done, and what it changed after the headers is looked at."""

    @pytest.mark.parametrize("status", SUCCESSES)
    def test_after_a_response(self, status: int) -> None:
        """A background task's changes are saved, and a WebSocket's, accepted or closed unaccepted."""
        assert commits_data(status, None, save_on_error=False)

    @pytest.mark.parametrize("status", [NONE, *FAILURES])
    def test_after_a_failure_or_without_a_response(self, status: int) -> None:
        """A call that ended without a response has failed; so has one that was cancelled before it."""
        assert not commits_data(status, None, save_on_error=False)


class TestAnAppRaises:
    """`Exchange.after_error`: before a response has started, or after its headers have left."""

    @pytest.mark.parametrize("error", [*APP_ERRORS, *DISCONNECTIONS], ids=kind)
    def test_before_a_response(self, error: Exception) -> None:
        """Nothing is saved, whatever was raised: nobody was told that anything was done."""
        assert not commits_data(NONE, error, save_on_error=False)

    @pytest.mark.parametrize("error", APP_ERRORS, ids=kind)
    @pytest.mark.parametrize("status", [*SUCCESSES, *FAILURES])
    def test_after_the_headers(self, status: int, error: Exception) -> None:
        """Nothing is saved of what a background task or an open WebSocket had changed when it failed."""
        assert not commits_data(status, error, save_on_error=False)

    @pytest.mark.parametrize("error", DISCONNECTIONS, ids=kind)
    @pytest.mark.parametrize("status", SUCCESSES)
    def test_because_its_client_has_left(self, status: int, error: Exception) -> None:
        """That a response or a WebSocket was cut short is no failure of the app: its changes are saved."""
        assert commits_data(status, error, save_on_error=False)

    @pytest.mark.parametrize("error", DISCONNECTIONS, ids=kind)
    @pytest.mark.parametrize("status", FAILURES)
    def test_because_the_client_of_a_failed_request_has_left(self, status: int, error: Exception) -> None:
        """It has failed all the same."""
        assert not commits_data(status, error, save_on_error=False)


@pytest.mark.parametrize("error", [None, *APP_ERRORS, *DISCONNECTIONS], ids=kind)
@pytest.mark.parametrize("status", [NONE, *SUCCESSES, *FAILURES])
def test_save_on_error_saves_at_every_moment(status: int, error: Exception | None) -> None:
    """The option means what it says, with or without a response, and whatever was raised."""
    assert commits_data(status, error, save_on_error=True)


def test_no_error_of_the_library_is_taken_for_a_client_that_has_left() -> None:
    """None of them derives from what an app raises when its client is gone."""
    for error in APP_ERRORS:
        assert not isinstance(error, DISCONNECTED)

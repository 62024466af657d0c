"""What of a request is committed: one decision, for each of the moments at which it is taken."""

from __future__ import annotations

from typing import Final

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

DISCONNECTED: Final = (ClientDisconnect, WebSocketDisconnect, OSError)
"""What an app raises when its client has left."""


def commits_data(status: int, error: Exception | None, *, save_on_error: bool) -> bool:
    """Whether what was changed is saved. If not, only a `destroy` is carried out.

    A request that has failed saves nothing, for its changes may be half of what was meant. It has failed
    when its response says so, when it has ended without any, and when it raised an error. That its client
    left while the response was on its way is no failure of the request.

    Args:
        status: of the response that has started (101 for a WebSocket that was accepted); 0: none has.
        error: that the app has raised.
        save_on_error: the manager's option: save all the same.
    """
    if save_on_error:
        return True
    return 0 < status < 500 and (error is None or isinstance(error, DISCONNECTED))

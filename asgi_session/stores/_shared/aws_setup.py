"""What is done once for a table, a bucket or a domain: making it, checking it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeAlias

from asgi_session.errors import ConfigurationError, StoreUnavailable
from asgi_session.stores._shared.aws import code
from asgi_session.stores._shared.verbs import Begins, Trouble

Refusal: TypeAlias = Callable[[str, str], ConfigurationError | None]
"""Says what to change, by an error's code and its text; None for what may heal by itself."""


async def set_up(
    clients: Begins[Any],
    name: str,
    seconds: float,
    work: Callable[[Any], Awaitable[object]],
    explain: Callable[[Exception], Trouble | None],
    refusal: Refusal,
) -> None:
    """Do what is no verb of the contract.

    Args:
        clients: whose client to use.
        name: of what is done, for errors.
        seconds: that it may take.
        work: does it with a client.
        explain: says what an error means.
        refusal: says what to change.

    Raises:
        ConfigurationError: what never heals by itself.
        StoreUnavailable: the service is away.
    """
    async with clients.verb(name, monotonic() + seconds) as verb:
        client = await verb.client()
        try:
            await work(client)
        except Exception as error:
            trouble = explain(error)
            if trouble is None:
                raise
            why, found = trouble.why, code(error) or type(error).__name__
        else:
            return
        # Not in the except block: an SDK's error may hold a request, with its credentials.
        raise refusal(found, why) or StoreUnavailable(f"{name}: {why}", executed=False)

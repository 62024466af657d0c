"""``python -m asgi_session purge URL``: removes expired sessions from a store that keeps them until told."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from time import monotonic
from typing import Any, Final

from asgi_session.errors import SessionError, StoreUnavailable
from asgi_session.store import Purges, Store
from asgi_session.stores import store_from_url

VARIABLE: Final = "SESSION_STORE"

_PATIENCE: Final = 30.0
"""Seconds that one batch may take."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m asgi_session")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    purge = commands.add_parser(
        "purge",
        help="remove expired sessions",
        description="Remove the sessions that have expired. Run it once a day or more often. It may be run "
        "on several machines at once, and interrupted.",
    )
    purge.add_argument(
        "url",
        nargs="?",
        help=f"the store's URL. Without it, the environment variable {VARIABLE}: other users of this machine "
        "see the arguments of a command, and a password in them",
    )
    purge.add_argument("--table", help="the table's name, where it is not the store's default")
    purge.add_argument(
        "--batch", type=_count, default=1000, metavar="N", help="how many to remove at once (1000)"
    )
    purge.add_argument(
        "--seconds", type=_seconds, default=3600.0, metavar="S", help="stop after so many seconds (3600)"
    )
    given = parser.parse_args(arguments)
    url = given.url or os.environ.get(VARIABLE)
    if not url:
        purge.error(f"give the store's URL, or set the environment variable {VARIABLE}")
    options = {} if given.table is None else {"table": given.table}
    try:
        removed, done = asyncio.run(_purge(url, options, given.batch, given.seconds))
    except SessionError as error:
        return _failed(str(error).partition("\n")[0])
    except KeyboardInterrupt:
        return _failed("interrupted; what was removed stays removed")
    rest = "" if done else f"; stopped after {given.seconds:g} s, and there are more"
    sys.stdout.write(f"removed {removed} expired session{'' if removed == 1 else 's'}{rest}\n")
    return 0


async def _purge(url: str, options: dict[str, Any], batch: int, seconds: float) -> tuple[int, bool]:
    """Remove batch after batch; return how many records that were, and whether none is left."""
    store: Store = store_from_url(url, **options)
    end = monotonic() + seconds  # importing a store's client takes a while
    removed = 0
    try:
        if not isinstance(store, Purges):
            raise _NothingToPurge(store)
        while True:
            count = await store.purge(limit=batch, deadline=min(end, monotonic() + _PATIENCE))
            removed += count
            if count < batch or monotonic() >= end:
                return removed, count < batch
    except StoreUnavailable:
        if removed and monotonic() >= end:
            return removed, False
        raise
    finally:
        await store.close()


class _NothingToPurge(SessionError):
    def __init__(self, store: Store) -> None:
        super().__init__(
            f"a {type(store).__name__} drops expired sessions by itself: there is nothing to purge"
        )


def _failed(why: str) -> int:
    sys.stderr.write(f"python -m asgi_session: {why}\n")
    return 1


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError("give a whole number from 1 to 1000000")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1e9:
        raise argparse.ArgumentTypeError("give more than zero")
    return number


if __name__ == "__main__":
    sys.exit(main())

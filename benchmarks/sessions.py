"""The sessions that are measured: a web shop's, of any size."""

from __future__ import annotations

import functools
from typing import Any

import msgpack

USUAL = 700
"""Bytes, as msgpack, of the session that the targets speak of."""

_SMALL: dict[str, Any] = {
    "user_id": 4711,
    "csrf": "8f14e45fceea167a5a36dedd4bea2543",
    "count": 0,
}
_PERSON: dict[str, Any] = {
    "email": "someone.with.a.name@example.org",
    "roles": ["editor", "reviewer", "billing"],
    "locale": "de-CH",
    "last_seen": "2026-11-23T12:00:00+00:00",
}


@functools.cache
def session_of_size(size: int) -> dict[str, Any]:
    """Return a session whose msgpack has about `size` bytes (at least 60); the same one each time.

    A small one has three keys. A larger one has a person's details and a cart of articles, and beyond
    1 KB the pages seen last, each under a key of its own.
    """
    session = dict(_SMALL)
    if size < 300:
        return _filled(session, "token", size)
    session.update(_PERSON)
    cart: list[dict[str, Any]] = []
    session["cart"] = cart
    while len(cart) < 8 and _weight(session) + 70 <= size:
        n = len(cart)
        cart.append({"sku": f"SKU-{n:05}", "quantity": n + 1, "price": 1990 + n, "name": "A thing to buy"})
    page = 0
    while _weight(session) + 1100 <= size:
        articles = [{"sku": f"SKU-{page:03}{n:02}", "shown": 1_795_000_000 + n} for n in range(36)]
        session[f"page:{page}"] = articles
        page += 1
    return _filled(session, "note", size)


def _filled(session: dict[str, Any], key: str, size: int) -> dict[str, Any]:
    """Fill what is missing up to `size` with text."""
    missing = size - _weight({**session, key: ""})
    if missing > 0:
        session[key] = "x" * missing
    return session


def _weight(session: dict[str, Any]) -> int:
    return len(msgpack.packb(session))

"""Whether a token opens a record: the decision, without I/O."""

from __future__ import annotations

from hmac import compare_digest
from typing import Final, Literal, TypeAlias

from asgi_session._data import record as records
from asgi_session._data import rotation
from asgi_session._data.record import ROTATION, Record
from asgi_session._data.token import Token, Tokens

Fit: TypeAlias = rotation.Fit | Literal["retired", "another's"]
"""How a token fits the record that its selector names; see `rotation` for most of it.

``retired``: the record was rotated or ended a moment ago, and this may be its old token. ``another's``: the
store has answered with the record of another selector.
"""

OPENING: Final = ("opens", "is new", "parallel", "reply lost", "in grace")


def fit_of(record: Record, token: Token, expires_at: int, now: int, tokens: Tokens) -> Fit:
    """Tell how `token` fits `record`; times in ms.

    Digests are compared in constant time.
    """
    digest = tokens.digest(token)
    opens = compare_digest(record.digest, digest)
    # A digest that matches shows already that this is the selector's record.
    if not opens and not compare_digest(record.check, tokens.check(tokens.key(token.selector))):
        return "another's"
    if expires_at <= now or record.deadline <= now:
        return "unknown"
    if ROTATION in record.parts:
        found = rotation.fit(record, digest, now)
        if found != "unknown":
            return found
    elif opens:
        return "opens"
    return "retired" if records.moved_until(record) > now else "unknown"

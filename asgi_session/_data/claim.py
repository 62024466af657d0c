"""Moving in: what another library's signed cookie says, and the claim that settles where it goes on. No I/O.

An old cookie is its own data: it can be copied, and parallel requests all carry it. A *claim* is the one
record that all who bring the same old cookie look at. Its key is made of what that cookie's signature signs,
so no other way of writing the signature leads to another claim.

It is in one of two states:

- *open*: somebody is creating the session, under an id of their own, or has died over it;
- *settled*: the session is this one, for ever. Whoever brings the old cookie gets that session's credential,
  which is made from the old cookie, the id, a salt in the claim, and the secret of the old cookies: neither
  the store nor a copy of the cookie is enough to make it. Where that session has ended, the old cookie is
  worth nothing any more.

Entries of an open claim: by whom (8 bytes; nothing: it was given up). Of a settled one: id, and salt (16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from asgi_session._data import codec
from asgi_session._data import record as records
from asgi_session._data.record import CLAIM, Record
from asgi_session._data.token import Token, derived_token

BY_SIZE: Final = 8
SALT_SIZE: Final = 16
_FOR_EVER: Final = (1 << 48) - 1  # a claim has no idle timeout
_BY: Final = "by"
_ID: Final = "id"
_SALT: Final = "salt"


class Old:
    """An old cookie that is good: right signature, not expired. Shows nothing of itself.

    Attributes:
        signed: what its signature signs.
        until: how long it can be good at most, ms.
    """

    __slots__ = ("_data", "_mac", "signed", "until")

    def __init__(
        self, data: dict[str, Any], signed: bytes, until: int, mac: Callable[[bytes], bytes]
    ) -> None:
        self._data = data
        self._mac = mac
        self.signed = signed
        self.until = until

    def entries(self) -> dict[str, bytes]:
        """Return its values, encoded.

        Raises:
            SessionSerializationError: one cannot be stored.
        """
        entries: dict[str, bytes] = {}
        for key, value in self._data.items():
            entries[key] = codec.encode(value, key)
            codec.check(value, key, entries[key])
        return entries

    def token(self, session_id: str, salt: bytes) -> Token:
        """Return the credential, for whoever brings this cookie, of the session of that id."""
        return derived_token(session_id, self._mac(session_id.encode() + salt + self.signed))


class OldCookies(Protocol):
    """Finds the cookie of another library, which a session goes on from."""

    def read(self, headers: Iterable[tuple[bytes, bytes]], now: int) -> Old | None:
        """Return what it says, if it is good at `now` (ms)."""
        ...


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What a claim says.

    Attributes:
        by: whose it is while it is open; nothing: nobody's.
        session_id: of the session that it is settled on; empty: it is open.
        salt: of that session's credential.
    """

    by: bytes
    session_id: str
    salt: bytes


def claim_of(record: Record) -> Claim:
    """Return what a claim's record says."""
    found = record.entries
    return Claim(found.get(_BY, b""), found.get(_ID, b"").decode(), found.get(_SALT, b""))


def opened(by: bytes, now: int, until: int, check: bytes) -> Record:
    """Return a new claim, that is kept until then; `check` is that of its key; ms."""
    return records.new_record(
        now=now, idle=_FOR_EVER, absolute=max(until - now, 1), digest=CLAIM, check=check, entries={_BY: by}
    )


def reopened(record: Record, by: bytes, now: int) -> Record:
    """Return an open claim as somebody else takes it over; nothing: as it is given up."""
    return replace(records.next_version(record, now, {_BY: by} if by else {}), created=now)


def settled(record: Record, session_id: str, salt: bytes, now: int) -> Record:
    """Return an open claim settled on a session."""
    return records.next_version(record, now, {_ID: session_id.encode(), _SALT: salt})

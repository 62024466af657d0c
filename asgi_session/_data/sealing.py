"""Sealing: a record's contents encrypted, and all of the record authenticated, by a key that the store lacks.

A sealed record has the header of any record, in the clear, so that stores can compare tags. Only its format
says that it is sealed (`SEALED`). The rest differs:

=====  ==================================================================
bytes  what
=====  ==================================================================
4      key id: which of the manager's keys
...    optional parts and data, encrypted by AES-256-GCM
16     GCM's tag
=====  ==================================================================

The parts are encrypted because they say who is signed in, and from where. The cipher's key is HKDF-SHA256
(RFC 5869) of the manager's key, with kind, namespace and store key as its info: each session has one of its
own. The associated data is everything up to the key id, then kind, namespace and store key. So nothing of a
record can be changed, left out, or put under another key, into another namespace, kind or version.

The nonce is bytes 4 to 16 of the record: the low half of its version, and the 8 random bytes that each
version draws. A version is sealed once, when it is known to be what is sent, and what is sent again is the
sealed bytes. Sealing one version twice with different data would give its key away to whoever sees both.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from asgi_session._data import record as records
from asgi_session._data.record import FORMAT, SEALED, Record
from asgi_session.errors import ConfigurationError, SessionCorrupt

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Unsealed: TypeAlias = Literal["refuse", "accept", "write"]
"""What becomes of unsealed records: see `SessionManager`."""

OVERHEAD: Final = 20
"""By how many bytes a sealed record is longer: key id and GCM's tag."""
_ID_SIZE: Final = 4
_GCM_TAG: Final = 16
_MIN_KEY_BYTES: Final = 32
_CIPHERS: Final = 256
"""How many sessions' ciphers are kept: a save mostly follows a load, and to make one is half the work."""

_SALT: Final = b"asgi-session sealed record"
_LAST_OF_SESSIONS: Final = frozenset("AQgw")  # the last character of a session's key; see `token`
_SEALED: Final = bytes((SEALED,))
_PLAIN: Final = bytes((FORMAT,))


class Sealer:
    """Seals and opens the records of one namespace.

    Args:
        namespace: of the records.
        keys: the first seals, each opens what was sealed with it. Each at least 32 bytes, which are not
            stretched: random ones, no pass phrase.
        unsealed: what becomes of records that are not sealed.

    Raises:
        ConfigurationError: a key that will not do, or the extra ``encryption`` is not installed.
    """

    __slots__ = ("_aead", "_contexts", "_first", "_invalid", "_keys", "_unsealed", "overhead")

    def __init__(self, namespace: str, keys: Sequence[str | bytes], unsealed: Unsealed = "refuse") -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise ConfigurationError(
                "encryption_key needs the package cryptography: pip install 'asgi-session[encryption]'"
            ) from None
        self._invalid: type[Exception] = InvalidTag
        self._unsealed: Unsealed = unsealed
        self.overhead: int = 0 if unsealed == "write" else OVERHEAD
        name = namespace.encode() + b"\0"
        self._contexts: tuple[bytes, bytes] = (b"session\0" + name, b"index\0" + name)
        self._keys: dict[bytes, hmac.HMAC] = {}
        of_id = self._keys

        @lru_cache(maxsize=_CIPHERS)
        def aead(key_id: bytes, context: bytes) -> AESGCM:
            # Made by a call, so that no local variable of a function that raises holds the key.
            return AESGCM(_expanded(of_id[key_id], context))

        self._aead: Callable[[bytes, bytes], AESGCM] = aead
        for key in keys:
            expands = _extracted(key)
            key_id = _expanded(expands, b"key id")[:_ID_SIZE]
            if key_id in self._keys:
                raise ConfigurationError(
                    f"encryption_key: two keys have the id {key_id.hex()}. Give each key once; if they are "
                    "two different ones, draw another in the place of the newer one"
                )
            self._keys[key_id] = expands
        self._first: bytes = next(iter(self._keys))

    def seal(self, data: bytes, key: str) -> bytes:
        """Return the bytes that the store gets for a record.

        At most once for each version of a record: see the module.

        Args:
            data: what `record.encode` made.
            key: the store's.
        """
        if self._unsealed == "write":
            return data
        start = records.parts_start(data)
        context = self._context(key)
        clear = b"".join((data[:16], _SEALED, data[17:start], self._first))
        return clear + self._aead(self._first, context).encrypt(data[4:16], data[start:], clear + context)

    def is_current(self, data: bytes) -> bool:
        """Tell whether a record that `decode` has read is sealed, or not, as `seal` would do it now."""
        if self._unsealed == "write":
            return data[16] == FORMAT
        start = records.parts_start(data)
        return data[16] == SEALED and data[start : start + _ID_SIZE] == self._first

    def decode(self, data: bytes, key: str) -> Record:
        """Read what the store has under `key`.

        Raises:
            SessionCorrupt: it is no record; or it is one that was not sealed for this key by who has one of
                our keys, and then `by_seal` is set.
        """
        form = data[16] if len(data) > 16 else FORMAT
        if form != SEALED:
            if form == FORMAT and self._unsealed == "refuse":
                raise SessionCorrupt(
                    "the record is not sealed, and this manager has an encryption_key. If that is new: "
                    "unsealed='accept' reads such records as well",
                    by_seal=True,
                )
            return records.decode(data)
        return records.decode(self._opened(data, key))

    def _opened(self, data: bytes, key: str) -> bytes:
        """Return the plain bytes of a sealed record."""
        try:
            start = records.parts_start(data)
        except IndexError:
            start = len(data)
        end = start + _ID_SIZE
        if len(data) < end + _GCM_TAG:
            raise SessionCorrupt("the sealed record cannot be read: it is incomplete", by_seal=True)
        key_id = data[start:end]
        if key_id not in self._keys:
            ours = ", ".join(each.hex() for each in self._keys)
            raise SessionCorrupt(
                f"the record is sealed with the encryption key whose id is {key_id.hex()}, and this manager "
                f"has only {ours}. Add that key to encryption_key: it opens wherever it stands in the list",
                by_seal=True,
            )
        context = self._context(key)
        try:
            body = self._aead(key_id, context).decrypt(data[4:16], data[end:], data[:end] + context)
        except self._invalid:
            raise SessionCorrupt(
                f"the seal of the record is broken (key {key_id.hex()}): the record was changed, or belongs "
                "to another session or namespace",
                by_seal=True,
            ) from None
        return b"".join((data[:16], _PLAIN, data[17:start], body))

    def _context(self, key: str) -> bytes:
        """Return what a record is bound to apart from its own bytes: kind, namespace and store key."""
        return self._contexts[key[-1] not in _LAST_OF_SESSIONS] + key.encode()


def is_unsealed(data: bytes) -> bool:
    """Tell whether what a store has is a record that is not sealed."""
    return len(data) > 16 and data[16] == FORMAT


def _extracted(key: str | bytes) -> hmac.HMAC:
    """Return what expands a key: HKDF's first step, in the state that its second one begins with."""
    raw = key.encode() if isinstance(key, str) else key
    if len(raw) < _MIN_KEY_BYTES:
        raise ConfigurationError(
            f"encryption_key has {len(raw)} bytes; use at least {_MIN_KEY_BYTES} random ones, for instance "
            "from: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return hmac.new(hmac.digest(_SALT, raw, "sha256"), digestmod="sha256")


def _expanded(expands: hmac.HMAC, info: bytes) -> bytes:
    """Return 32 bytes: HKDF's second step, of which one round is enough."""
    state = expands.copy()
    state.update(info + b"\1")
    return state.digest()

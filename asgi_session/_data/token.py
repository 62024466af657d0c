"""The token: a public selector, a secret verifier and, with keys, a signature.

The cookie's value is ``selector + verifier [+ "." + signature]``; each part is 128 bits as 22
characters of URL-safe base64. The *selector* names the record: it is the session's public id, and the
store's key is derived from it. The *verifier* proves that the client was given the session. The store
holds only a digest of both, so its contents, its keys and its logs are no credentials (the split-token
scheme; OWASP Session Management Cheat Sheet, "Session ID Properties", asks for at least 64 bits of
entropy: the verifier alone has 128).
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from collections.abc import Sequence
from hmac import compare_digest
from typing import Any, Final

import msgspec

from asgi_session.errors import ConfigurationError

DIGEST_SIZE: Final = 16
CHECK_SIZE: Final = 4
PART_LENGTH: Final = 22
DEFAULT_NAMESPACE: Final = "default"
_MIN_KEY_BYTES: Final = 16

# 22 characters carry 132 bits; the last one may only hold the two that are part of the 128.
_PART: Final = rf"[A-Za-z0-9_-]{{{PART_LENGTH - 1}}}[AQgw]"
_TOKEN: Final = re.compile(rf"({_PART})({_PART})(?:\.({_PART}))?", re.ASCII)
_SELECTOR: Final = re.compile(_PART, re.ASCII)


class Token(msgspec.Struct, frozen=True, gc=False):
    """A session's credential: the public `selector` and the secret `verifier`.

    No tuple, though it looks like one: error trackers that record local variables walk through tuples.
    """

    selector: str
    verifier: str

    def __repr__(self) -> str:
        return f"Token(selector={self.selector!r}, verifier=<secret>)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("selector", self.selector)]


def new_token(selector: str | None = None) -> Token:
    """Draw a new token; with `selector` only the verifier is new."""
    # Drawn at the moment of use: bytes kept in stock would be the same in both halves of a fork.
    random = os.urandom(32)
    return Token(selector or _text(random[:16]), _text(random[16:]))


def derived_token(selector: str, raw: bytes) -> Token:
    """Return the token of a selector whose verifier is the first 16 of these bytes."""
    return Token(selector, _text(raw[:16]))


def is_selector(text: str) -> bool:
    """Tell whether `text` has the form of a selector (a session's public id)."""
    return _SELECTOR.fullmatch(text) is not None


class Tokens:
    """Writes, reads and digests the tokens of one namespace.

    Args:
        namespace: part of every key, digest and signature: the sessions of another namespace (staging,
            production) are simply not there.
        secret_keys: with keys, tokens are signed with the first and accepted with any, so that a
            forged cookie costs the store nothing. Each at least 16 bytes (NIST SP 800-107 section
            5.3.4 asks for 112 bits).
    """

    __slots__ = ("_check", "_claim", "_digest", "_index", "_key", "_signers")

    def __init__(self, namespace: str, secret_keys: Sequence[str | bytes] = ()) -> None:
        name = namespace.encode()
        self._digest = hashlib.blake2b(name + b"\0", digest_size=DIGEST_SIZE, person=b"asgi-ses digest")
        # The default namespace's keys are the ids themselves, so that its records can be found by id.
        self._key = (
            None
            if namespace == DEFAULT_NAMESPACE
            else hashlib.blake2b(name + b"\0", digest_size=16, person=b"asgi-ses key")
        )
        # Not keyed by a secret key: a rotation of those would hide every entry made before it.
        self._index = hashlib.blake2b(name + b"\0", digest_size=DIGEST_SIZE, person=b"asgi-ses index")
        self._claim = hashlib.blake2b(name + b"\0", digest_size=DIGEST_SIZE, person=b"asgi-ses claim")
        self._check = hashlib.blake2b(digest_size=CHECK_SIZE, person=b"asgi-ses check")
        # Keyed BLAKE2b is a MAC by itself (RFC 7693 section 2.9). Keys of any length are hashed to
        # one that fits.
        self._signers = [
            hashlib.blake2b(
                name + b"\0",
                digest_size=16,
                key=hashlib.blake2b(_key_bytes(key)).digest(),
                person=b"asgi-ses sign",
            )
            for key in secret_keys
        ]

    def write(self, token: Token) -> str:
        """Return the cookie's value for `token`."""
        text = token.selector + token.verifier
        if self._signers:
            return f"{text}.{self._sign(0, text)}"
        return text

    def read(self, text: str) -> Token | None:
        """Return the token in a cookie's value; None when it has not the form or not our signature."""
        match = _TOKEN.fullmatch(text)
        if match is None:
            return None
        selector, verifier, signature = match.groups()
        if self._signers:
            if signature is None:
                return None
            signed = selector + verifier
            if not any(
                compare_digest(signature, self._sign(index, signed)) for index in range(len(self._signers))
            ):
                return None
        return Token(selector, verifier)

    def digest(self, token: Token) -> bytes:
        """Return the 16 bytes that the record holds in place of the verifier."""
        state = self._digest.copy()
        state.update((token.selector + token.verifier).encode())
        return state.digest()

    def key(self, selector: str) -> str:
        """Return the store's key for `selector`: 22 characters of which no other namespace has one."""
        if self._key is None:
            return selector
        state = self._key.copy()
        state.update(selector.encode())
        return _text(state.digest())

    def index(self, name: str, value: str) -> bytes:
        """Return the 16 bytes that name the index of the sessions in which `name` has this value."""
        state = self._index.copy()
        state.update(len(name.encode()).to_bytes(4, "big") + name.encode())
        state.update(value.encode(errors="surrogatepass"))
        return state.digest()

    def claim(self, signed: bytes) -> bytes:
        """Return the 16 bytes that name the claim of an old cookie, by what its signature signs."""
        state = self._claim.copy()
        state.update(signed)
        return state.digest()

    def check(self, key: str) -> bytes:
        """Return the 4 bytes by which a record shows that it belongs to the store's `key`."""
        state = self._check.copy()
        state.update(key.encode())
        return state.digest()

    def _sign(self, index: int, text: str) -> str:
        state = self._signers[index].copy()
        state.update(text.encode())
        return _text(state.digest())


def index_key(raw: bytes) -> str:
    """Return the store's key of an index or a claim: 22 characters that are no session's, in any namespace.

    The last of a session's holds two bits, in characters that have zeros behind them; this one has a one.
    """
    text = _text(raw)
    return text[:-1] + _OF_ANOTHER_KIND[text[-1]]


def _text(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False)[:PART_LENGTH].translate(_URL_SAFE).decode()


_OF_ANOTHER_KIND: Final = {"A": "B", "Q": "R", "g": "h", "w": "x"}
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def _key_bytes(key: str | bytes) -> bytes:
    raw = key.encode() if isinstance(key, str) else key
    if len(raw) < _MIN_KEY_BYTES:
        raise ConfigurationError(
            f"secret_key has {len(raw)} bytes; use at least {_MIN_KEY_BYTES} random ones, for instance "
            "from: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return raw

"""The token: round trip, signatures, namespaces, and everything that is none."""

from __future__ import annotations

import base64
import os
import string
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_session._data.token import CHECK_SIZE, DIGEST_SIZE, Token, Tokens, is_selector, new_token
from asgi_session.errors import ConfigurationError

KEY, OTHER = "k" * 32, b"o" * 16
ALPHABET = string.ascii_letters + string.digits + "-_"


def part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


parts = st.binary(min_size=16, max_size=16).map(part)
tokens = st.builds(Token, parts, parts)


@given(tokens, st.sampled_from([(), (KEY,), (KEY, OTHER)]))
def test_round_trip(token: Token, keys: tuple[str | bytes, ...]) -> None:
    """What was written is read again, with and without keys."""
    namespace = Tokens("n", keys)
    text = namespace.write(token)
    assert namespace.read(text) == token
    assert text.isascii()
    assert len(text) == (67 if keys else 44)


def test_new_tokens_are_drawn_from_the_system_at_the_moment_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts are 128 random bits each, drawn when asked; a given selector stays."""
    drawn: list[int] = []

    def urandom(size: int) -> bytes:
        drawn.append(size)
        return bytes(range(size))

    monkeypatch.setattr(os, "urandom", urandom)
    token = new_token()
    assert drawn == [32]
    assert token == Token(part(bytes(range(16))), part(bytes(range(16, 32))))
    assert new_token("S" * 21 + "A") == Token("S" * 21 + "A", token.verifier)


def test_new_tokens_differ() -> None:
    """No two tokens share a selector or a verifier, and a rotation keeps only the selector."""
    drawn = [new_token() for _ in range(100)]
    assert len({text for token in drawn for text in (token.selector, token.verifier)}) == 200
    again = new_token(drawn[0].selector)
    assert again.selector == drawn[0].selector
    assert again.verifier != drawn[0].verifier


@given(tokens)
def test_the_last_key_is_as_good_as_the_first_but_does_not_sign(token: Token) -> None:
    """A key that has moved back in the list still verifies; new cookies carry the first one's."""
    old, both, new = Tokens("n", [OTHER]), Tokens("n", [KEY, OTHER]), Tokens("n", [KEY])
    assert both.read(old.write(token)) == token
    assert both.write(token) == new.write(token) != old.write(token)
    assert new.read(old.write(token)) is None
    assert old.read(both.write(token)) is None


@given(tokens)
def test_keys_refuse_what_is_not_signed(token: Token) -> None:
    """Promise 1: with keys set a token without a signature is none; without keys one is not needed."""
    plain, signed = Tokens("n"), Tokens("n", [KEY])
    assert signed.read(plain.write(token)) is None
    assert plain.read(signed.write(token)) == token


@given(tokens)
def test_namespaces_share_nothing(token: Token) -> None:
    """Promise 17: signature, digest, key and check of one namespace are worth nothing in another."""
    namespaces = [Tokens(name, [KEY]) for name in ("staging", "production", "default")]
    for one, other in permutations(namespaces, 2):
        assert other.read(one.write(token)) is None
        assert one.digest(token) != other.digest(token)
        mine, theirs = one.key(token.selector), other.key(token.selector)
        assert mine != theirs
        assert one.check(mine) != other.check(theirs)
        assert is_selector(mine), "a store's key has the form of an id"
        assert (len(one.digest(token)), len(one.check(mine))) == (DIGEST_SIZE, CHECK_SIZE)


@given(tokens)
def test_in_the_default_namespace_the_key_is_the_id(token: Token) -> None:
    """So that a record can be found by the id that a log shows."""
    assert Tokens("default").key(token.selector) == token.selector
    assert Tokens("n").key(token.selector) == Tokens("n").key(token.selector) != token.selector


def test_a_namespace_does_not_run_into_the_token() -> None:
    """Namespace and token are told apart: no text moves from one into the other."""
    token = new_token()
    selector, verifier = token.selector, token.verifier
    longer = Token(selector[1:] + verifier[0], verifier[1:])
    assert Tokens("n" + selector[0]).digest(longer) != Tokens("n").digest(Token(selector, verifier))


@given(tokens, tokens)
def test_the_digest_covers_both_parts(one: Token, other: Token) -> None:
    """Promise 9: the digest is over selector and verifier, and shows neither."""
    namespace = Tokens("n")
    assert (namespace.digest(one) == namespace.digest(other)) == (one == other)
    assert one.verifier.encode() not in namespace.digest(one)


@given(tokens, st.integers(0, 66), st.sampled_from([*ALPHABET, ".", "=", " "]))
def test_one_changed_character_is_a_forgery(token: Token, place: int, character: str) -> None:
    """Every character of a signed token is covered by its signature."""
    namespace = Tokens("n", [KEY])
    text = namespace.write(token)
    forged = text[:place] + character + text[place + 1 :]
    assert namespace.read(forged) == (token if forged == text else None)


GOOD = "a" * 21 + "A" + "b" * 21 + "Q"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        GOOD[:-1],
        GOOD[1:],
        GOOD + "A",
        GOOD + ".",
        GOOD + "." + "c" * 21,
        GOOD + "." + "c" * 21 + "A.",
        GOOD + "." + "c" * 21 + "A" + "\n",
        GOOD + "\n",
        "\n" + GOOD,
        GOOD + " ",
        " " + GOOD,
        GOOD + "\0",
        GOOD + "=",
        GOOD.replace("b", "+"),
        GOOD.replace("b", "/"),
        GOOD.replace("b", "ä"),
        GOOD.replace("b", "\N{FULLWIDTH LATIN SMALL LETTER B}"),
        GOOD.replace("b", "\N{ARABIC-INDIC DIGIT ONE}"),
        GOOD.replace("b", "\ud800"),
        '"' + GOOD + '"',
        "A" * 100_000,
        GOOD * 10_000,
        (GOOD + ".") * 10_000,
        "ä" * 100_000,
    ],
)
def test_malformed_is_none(text: str) -> None:
    """Huge, short, long, foreign: None, and never an error."""
    assert Tokens("n").read(GOOD) is not None
    assert Tokens("n").read(text) is None
    assert Tokens("n", [KEY]).read(text) is None


@pytest.mark.parametrize("last", sorted(set(ALPHABET) - set("AQgw")))
def test_a_part_has_one_spelling(last: str) -> None:
    """The last character of a part may not hold bits beyond the 128: no record has two names."""
    tokens = Tokens("n")
    assert tokens.read("a" * 21 + last + "b" * 21 + "Q") is None
    assert tokens.read("a" * 21 + "A" + "b" * 21 + last) is None
    assert tokens.read(GOOD + "." + "c" * 21 + last) is None
    assert not is_selector("a" * 21 + last)


@given(st.text() | st.text(ALPHABET + ".", min_size=40, max_size=70))
def test_any_text_is_a_token_or_none(text: str) -> None:
    """Reading never raises, and reads only what would be written so."""
    token = Tokens("n").read(text)
    assert token is None or text[:44] == token.selector + token.verifier
    assert Tokens("n", [KEY]).read(text) is None


@given(parts)
def test_selectors_are_recognized(selector: str) -> None:
    """A session's id is told from a cookie's value, which is twice as long."""
    assert is_selector(selector)
    assert not is_selector(selector + selector)
    assert not is_selector(selector + "\n")
    assert not is_selector(selector[1:])


def test_repr_shows_no_secret() -> None:
    """Promise 9: neither a token nor its collection shows a secret where it is printed."""
    token = new_token()
    for text in (repr(token), str(token), f"{token}", repr([token])):
        assert token.selector in text
        assert token.verifier not in text
    assert KEY not in repr(Tokens("n", [KEY]))


@pytest.mark.parametrize("key", ["", "short", b"x" * 15, "ä" * 7])
def test_short_keys_are_refused(key: str | bytes) -> None:
    """A key below 16 bytes is refused, with the way to make a good one, and is not shown."""
    with pytest.raises(ConfigurationError, match="token_urlsafe") as caught:
        Tokens("n", [KEY, key])
    assert not key or str(key) not in str(caught.value)


def test_keys_are_bytes_or_text_of_any_length() -> None:
    """Text is its UTF-8 bytes, and keys longer than BLAKE2b's count in full."""
    token = new_token()
    assert Tokens("n", ["ä" * 8]).write(token) == Tokens("n", ["ä".encode() * 8]).write(token)
    long = b"x" * 1000
    assert Tokens("n", [long + b"1"]).read(Tokens("n", [long + b"2"]).write(token)) is None


def test_a_token_shows_its_public_half_only() -> None:
    """Nor can it be walked through, as error trackers do with tuples."""
    token = new_token()
    assert token.verifier not in repr(token) + str(token) + repr([token]) + repr(token.__rich_repr__())
    with pytest.raises(TypeError):
        iter(token)  # type: ignore[call-overload]

"""Whether a token opens a record: every case."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data.change import Change, Kind, Mark
from asgi_session._data.fold import fold
from asgi_session._data.record import GRACE, MOVED, NOBODY, Record
from asgi_session._data.rules import Rules
from asgi_session._data.token import Token, Tokens, new_token
from asgi_session._data.token_check import Fit, fit_of

NOW = 1_790_000_000_000
LATER = NOW + 10_000
TOKENS = Tokens("n")
TOKEN = new_token()
OLD = new_token(TOKEN.selector)
WRONG = new_token(TOKEN.selector)
STRANGER = new_token()


def made(deadline: int = LATER, digest: bytes = TOKENS.digest(TOKEN), **parts: bytes) -> Record:
    record = records.new_record(
        now=NOW,
        idle=1000,
        absolute=deadline - NOW,
        digest=digest,
        check=TOKENS.check(TOKENS.key(TOKEN.selector)),
        entries={},
    )
    return replace(
        record, parts={{"grace": GRACE, "moved": MOVED}[name]: part for name, part in parts.items()}
    )


def grace(until: int, token: Token = OLD) -> bytes:
    return TOKENS.digest(token) + records.until(until)


PLAIN = made()
GRACED = made(grace=grace(NOW + 15), moved=records.until(NOW + 75))
MOVED_ONLY = made(moved=records.until(NOW + 60))
ENDED = made(deadline=NOW + 60, digest=NOBODY, moved=records.until(NOW + 60))


@pytest.mark.parametrize(
    ("record", "token", "expires_at", "now", "fit"),
    [
        pytest.param(PLAIN, TOKEN, LATER, NOW, "opens", id="right"),
        pytest.param(PLAIN, WRONG, LATER, NOW, "unknown", id="wrong verifier"),
        pytest.param(PLAIN, STRANGER, LATER, NOW, "another's", id="another selector"),
        pytest.param(PLAIN, Token(STRANGER.selector, TOKEN.verifier), LATER, NOW, "another's", id="mixed"),
        pytest.param(PLAIN, TOKEN, NOW + 1, NOW, "opens", id="a millisecond before it expires"),
        pytest.param(PLAIN, TOKEN, NOW, NOW, "unknown", id="expired"),
        pytest.param(PLAIN, TOKEN, LATER + 99, LATER - 1, "opens", id="a millisecond before the deadline"),
        pytest.param(PLAIN, TOKEN, LATER + 99, LATER, "unknown", id="past the deadline"),
        pytest.param(PLAIN, STRANGER, NOW, NOW, "another's", id="another's, expired"),
        pytest.param(GRACED, TOKEN, LATER, NOW, "opens", id="new token in the grace"),
        pytest.param(GRACED, OLD, LATER, NOW + 14, "opens in grace", id="old token in the grace"),
        pytest.param(GRACED, OLD, LATER, NOW + 15, "retired", id="old token after the grace"),
        pytest.param(GRACED, OLD, LATER, NOW + 74, "retired", id="old token at the end of the window"),
        pytest.param(GRACED, OLD, LATER, NOW + 75, "unknown", id="old token after the window"),
        pytest.param(GRACED, WRONG, LATER, NOW + 14, "retired", id="wrong verifier in the grace"),
        pytest.param(GRACED, OLD, NOW + 5, NOW + 5, "unknown", id="old token, expired"),
        pytest.param(MOVED_ONLY, OLD, LATER, NOW + 59, "retired", id="rotated away"),
        pytest.param(MOVED_ONLY, OLD, LATER, NOW + 60, "unknown", id="rotated away a minute ago"),
        pytest.param(MOVED_ONLY, TOKEN, LATER, NOW + 59, "opens", id="rotated to"),
        pytest.param(ENDED, TOKEN, NOW + 60, NOW + 59, "retired", id="ended"),
        pytest.param(ENDED, TOKEN, NOW + 60, NOW + 60, "unknown", id="ended a minute ago"),
    ],
)
def test_fit(record: Record, token: Token, expires_at: int, now: int, fit: Fit) -> None:
    """Promise 8: a token opens its own living record, in the grace the last one too, else nothing."""
    assert fit_of(record, token, expires_at, now, TOKENS) == fit


def test_another_namespace() -> None:
    """Promise 17: its keys are others, so a record of it that comes as an answer is a wrong answer."""
    assert fit_of(PLAIN, TOKEN, LATER, NOW, Tokens("production")) == "another's"


@pytest.mark.parametrize("kind", Kind)
def test_fit_after_a_mark(kind: Kind) -> None:
    """Promise 8: after each kind of mark exactly the tokens that should open the record do."""
    new = new_token(TOKEN.selector)
    change = Change({"a": b"1"}, PLAIN.epoch, Mark(kind, 15), PLAIN.digest, TOKENS.digest(new))
    after = fold(PLAIN, [change], Rules(), 10_000, NOW).record
    old = "opens in grace" if kind is Kind.ROTATE_WITH_GRACE else "retired"
    assert fit_of(after, TOKEN, LATER, NOW, TOKENS) == old
    assert fit_of(after, TOKEN, LATER, NOW + 15, TOKENS) == "retired"
    opens = "retired" if kind in (Kind.CLEAR, Kind.DESTROY, Kind.SIGN_IN) else "opens"
    assert fit_of(after, new, LATER, NOW, TOKENS) == opens

"""Whether a token opens a record: every case."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data import rotation
from asgi_session._data.change import Change, Kind, Mark
from asgi_session._data.fold import fold
from asgi_session._data.record import MOVED, NOBODY, Record
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


def made(deadline: int = LATER, digest: bytes = TOKENS.digest(TOKEN), moved: int = 0) -> Record:
    record = records.new_record(
        now=NOW,
        idle=1000,
        absolute=deadline - NOW,
        digest=digest,
        check=TOKENS.check(TOKENS.key(TOKEN.selector)),
        entries={},
    )
    return replace(record, parts={MOVED: records.until(moved)}) if moved else record


def rotated(token: Token) -> Record:
    """Return PLAIN's record, after a rotation with a grace of 15 ms from OLD to `token`."""
    before = made(digest=TOKENS.digest(OLD))
    after = rotation.issued(before, before.digest, TOKENS.digest(token), 15, 0, NOW)
    assert after is not None
    return after


PLAIN = made()
GRACED = rotated(TOKEN)
SEEN = rotation.seen(GRACED, TOKENS.digest(TOKEN), NOW)
MOVED_ONLY = made(moved=NOW + 60)
ENDED = made(deadline=NOW + 60, digest=NOBODY, moved=NOW + 60)


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
        pytest.param(GRACED, TOKEN, LATER, NOW, "is new", id="new token, for the first time"),
        pytest.param(GRACED, OLD, LATER, NOW + 9_999, "parallel", id="old token, new one not seen"),
        pytest.param(GRACED, WRONG, LATER, NOW + 14, "unknown", id="wrong verifier after a rotation"),
        pytest.param(GRACED, OLD, NOW + 5, NOW + 5, "unknown", id="old token, expired"),
        pytest.param(SEEN, TOKEN, LATER, NOW, "opens", id="new token, seen"),
        pytest.param(SEEN, OLD, LATER, NOW + 14, "in grace", id="old token in the grace"),
        pytest.param(SEEN, OLD, LATER, NOW + 15, "replayed", id="old token after the grace"),
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
    graced = kind is Kind.ROTATE_WITH_GRACE
    assert fit_of(after, TOKEN, LATER, NOW, TOKENS) == ("parallel" if graced else "retired")
    ends = kind in (Kind.CLEAR, Kind.DESTROY, Kind.SIGN_IN)
    opens = "retired" if ends else "is new" if graced else "opens"
    assert fit_of(after, new, LATER, NOW, TOKENS) == opens

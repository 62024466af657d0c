"""Whether a token opens a record: every case."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from asgi_session._data import record as records
from asgi_session._data.fold import Intent, Kind, Mark, Policy, fold
from asgi_session._data.record import GRACE, MOVED, NOBODY, Record
from asgi_session._data.token import Token, Tokens, new_token
from asgi_session._data.token_check import Fit, judge

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
        pytest.param(PLAIN, TOKEN, LATER, NOW, Fit.OPENS, id="right"),
        pytest.param(PLAIN, WRONG, LATER, NOW, Fit.UNKNOWN, id="wrong verifier"),
        pytest.param(PLAIN, STRANGER, LATER, NOW, Fit.ANOTHERS, id="another selector"),
        pytest.param(PLAIN, Token(STRANGER.selector, TOKEN.verifier), LATER, NOW, Fit.ANOTHERS, id="mixed"),
        pytest.param(PLAIN, TOKEN, NOW + 1, NOW, Fit.OPENS, id="a millisecond before it expires"),
        pytest.param(PLAIN, TOKEN, NOW, NOW, Fit.UNKNOWN, id="expired"),
        pytest.param(PLAIN, TOKEN, LATER + 99, LATER - 1, Fit.OPENS, id="a millisecond before the deadline"),
        pytest.param(PLAIN, TOKEN, LATER + 99, LATER, Fit.UNKNOWN, id="past the deadline"),
        pytest.param(PLAIN, STRANGER, NOW, NOW, Fit.ANOTHERS, id="another's, expired"),
        pytest.param(GRACED, TOKEN, LATER, NOW, Fit.OPENS, id="new token in the grace"),
        pytest.param(GRACED, OLD, LATER, NOW + 14, Fit.OPENS_IN_GRACE, id="old token in the grace"),
        pytest.param(GRACED, OLD, LATER, NOW + 15, Fit.RETIRED, id="old token after the grace"),
        pytest.param(GRACED, OLD, LATER, NOW + 74, Fit.RETIRED, id="old token at the end of the window"),
        pytest.param(GRACED, OLD, LATER, NOW + 75, Fit.UNKNOWN, id="old token after the window"),
        pytest.param(GRACED, WRONG, LATER, NOW + 14, Fit.RETIRED, id="wrong verifier in the grace"),
        pytest.param(GRACED, OLD, NOW + 5, NOW + 5, Fit.UNKNOWN, id="old token, expired"),
        pytest.param(MOVED_ONLY, OLD, LATER, NOW + 59, Fit.RETIRED, id="rotated away"),
        pytest.param(MOVED_ONLY, OLD, LATER, NOW + 60, Fit.UNKNOWN, id="rotated away a minute ago"),
        pytest.param(MOVED_ONLY, TOKEN, LATER, NOW + 59, Fit.OPENS, id="rotated to"),
        pytest.param(ENDED, TOKEN, NOW + 60, NOW + 59, Fit.RETIRED, id="ended"),
        pytest.param(ENDED, TOKEN, NOW + 60, NOW + 60, Fit.UNKNOWN, id="ended a minute ago"),
    ],
)
def test_judge(record: Record, token: Token, expires_at: int, now: int, fit: Fit) -> None:
    """Promise 8: a token opens its own living record, in the grace the last one too, else nothing."""
    assert judge(record, token, expires_at, now, TOKENS) is fit


def test_another_namespace() -> None:
    """Promise 17: its keys are others, so a record of it that comes as an answer is a wrong answer."""
    assert judge(PLAIN, TOKEN, LATER, NOW, Tokens("production")) is Fit.ANOTHERS


@pytest.mark.parametrize("kind", Kind)
def test_judge_after_a_mark(kind: Kind) -> None:
    """Promise 8: after each kind of mark exactly the tokens that should open the record do."""
    new = new_token(TOKEN.selector)
    intent = Intent({"a": b"1"}, PLAIN.epoch, Mark(kind, 15), PLAIN.digest, TOKENS.digest(new))
    after = fold(PLAIN, [intent], Policy(1000, 10_000, 10_000), NOW).record
    old = Fit.OPENS_IN_GRACE if kind is Kind.ROTATE_WITH_GRACE else Fit.RETIRED
    assert judge(after, TOKEN, LATER, NOW, TOKENS) is old
    assert judge(after, TOKEN, LATER, NOW + 15, TOKENS) is Fit.RETIRED
    opens = Fit.RETIRED if kind is Kind.DESTROY else Fit.OPENS
    assert judge(after, new, LATER, NOW, TOKENS) is opens

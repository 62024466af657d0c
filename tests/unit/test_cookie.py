"""The cookie: what is read from requests, and what is written into responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_session._web.cookie import MAX_AGE_LIMIT, Cookie, keep_out_of_caches, keep_private, vary_on_cookie
from asgi_session.errors import ConfigurationError


def read(*lines: bytes, name: str = "session") -> list[str]:
    return Cookie(name=name).read([(b"cookie", line) for line in lines])


@pytest.mark.parametrize(
    ("lines", "values"),
    [
        ([], []),
        ([b""], []),
        ([b"session=a"], ["a"]),
        ([b"session="], [""]),
        ([b"session"], []),
        ([b"other=1; session=a; more=2"], ["a"]),
        ([b"session=a; session=b"], ["a", "b"]),
        ([b"session=a", b"x=y", b"session=b"], ["a", "b"]),
        ([b"xsession=a; session2=b; session-=c; x-session=d"], []),
        ([b"xsession=a; session=b"], ["b"]),
        ([b"x=session=a"], []),
        ([b"SESSION=a; Session=b"], []),
        ([b'session="a"'], ["a"]),
        ([b"  session=a  ;\tsession=b\t"], ["a", "b"]),
        ([b"session=a;session=b;;; ;"], ["a", "b"]),
        ([b"session=a=b"], ["a=b"]),
        ([b"session=\xe4\xff"], ["\xe4\xff"]),
        ([b"\xff\xfe=1; session=a"], ["a"]),
        ([b"session=" + b"a" * 100_000], ["a" * 100_000]),
        ([b"x=" + b"y" * 100_000 + b"; session=a"], ["a"]),
    ],
)
def test_reading(lines: list[bytes], values: list[str]) -> None:
    """All cookies of exactly our name are read, in their order, whatever stands around them."""
    assert read(*lines) == values


def test_reading_looks_at_cookie_headers_only() -> None:
    """A header of another name never passes for a cookie."""
    assert Cookie(name="session").read([(b"x-cookie", b"session=a"), (b"set-cookie", b"session=b")]) == []


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_reading_never_raises(lines: list[bytes]) -> None:
    """Any bytes are read or passed over."""
    assert all(isinstance(value, str) for value in read(*lines))


@given(st.lists(st.text("ab=_-.", max_size=5), max_size=4))
def test_reading_finds_every_one(values: list[str]) -> None:
    """What several cookies of our name hold arrives complete and in order."""
    line = b"; ".join(b"session=" + value.encode() for value in values)
    assert read(line) == values


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ([], None),
        ([b""], None),
        ([b"other=1; more=2"], None),
        ([b"xsession=a; session2=b; session-=c; x=session=a"], None),
        ([b"SESSION=a"], None),
        ([b"session"], None),
        ([b"session=a"], []),
        ([b'session="a"'], []),
        ([b" session=a"], []),
        ([b"session=a; session=b"], []),
        ([b"session=a;session=b;;; ;"], []),
        ([b"; ; session=a"], []),
        ([b"session=a; x=1"], [b"x=1"]),
        ([b"session=a;x=1"], [b"x=1"]),
        ([b"x=1; session=a"], [b"x=1"]),
        ([b"x=1;session=a"], [b"x=1"]),
        ([b"x=1;\tsession=a;y=2"], [b"x=1;y=2"]),
        ([b"x=1; session=a; y=2"], [b"x=1; y=2"]),
        ([b"x=1; session=a; y=2; session=b; z=3"], [b"x=1; y=2; z=3"]),
        ([b"xsession=a; session=b; session2=c"], [b"xsession=a; session2=c"]),
        ([b"x=session=1; session=b"], [b"x=session=1"]),
        ([b"x=1; session=session=2; y=3"], [b"x=1; y=3"]),
        ([b"\xff=\xfe; session=a"], [b"\xff=\xfe"]),
        ([b"x=1", b"session=a", b"y=2"], [b"x=1", b"y=2"]),
        ([b"session=a", b"session=b; x=1", b"session=c"], [b"x=1"]),
    ],
)
def test_taking_ours_out(lines: list[bytes], left: list[bytes] | None) -> None:
    """What is ours is gone, headers with nothing left are dropped, the others are as they were."""
    before = [(b"host", b"h"), *[(b"cookie", line) for line in lines], (b"x-cookie", b"session=a")]
    kept = list(before)
    found = Cookie(name="session").without(before)
    if left is None:
        assert found is None
    else:
        assert found == [(b"host", b"h"), *[(b"cookie", line) for line in left], (b"x-cookie", b"session=a")]
    assert before == kept, "the server's own list is never changed"


def pairs(lines: Iterable[bytes]) -> list[bytes]:
    """Return the cookies in some headers that have any bytes, without what stands around them."""
    found = [pair.strip(b" \t") for line in lines for pair in line.split(b";")]
    return [pair for pair in found if pair]


PIECES = st.sampled_from(
    [b"session=", b"session", b"=", b";", b"; ", b" ", b"\t", b'"', b"a", b"xsession=", b"\xff", b"Session="]
)
LINES = st.lists(st.lists(PIECES, max_size=12).map(b"".join) | st.binary(max_size=30), max_size=4)


@given(LINES, st.booleans())
def test_what_is_left_has_none_of_ours_and_all_of_the_others(lines: list[bytes], as_list: bool) -> None:
    """Whatever comes: our own reader finds nothing in the rest, and every other cookie is there, in order."""
    cookie = Cookie(name="session")
    headers = [(b"cookie", line) for line in lines]
    found = cookie.without(headers if as_list else tuple(headers))
    assert (found is None) == (cookie.read(headers) == [])
    if found is not None:
        assert cookie.read(found) == []
        others = [pair for pair in pairs(lines) if not pair.startswith(b"session=")]
        assert pairs(line for _, line in found) == others
        assert all(line.strip(b" \t;") for _, line in found if line not in lines)


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        ({}, "__Host-session=V; Max-Age=60; Path=/; HttpOnly; Secure; SameSite=Lax"),
        ({"persistent": False}, "__Host-session=V; Path=/; HttpOnly; Secure; SameSite=Lax"),
        ({"https_only": False}, "session=V; Max-Age=60; Path=/; HttpOnly; SameSite=Lax"),
        ({"path": "/app"}, "__Secure-session=V; Max-Age=60; Path=/app; HttpOnly; Secure; SameSite=Lax"),
        (
            {"domain": "example.org"},
            "__Secure-session=V; Max-Age=60; Path=/; Domain=example.org; HttpOnly; Secure; SameSite=Lax",
        ),
        (
            {"domain": ".my-shop.example.org"},
            "__Secure-session=V; Max-Age=60; Path=/; Domain=.my-shop.example.org; HttpOnly; Secure;"
            " SameSite=Lax",
        ),
        ({"name": "sid"}, "sid=V; Max-Age=60; Path=/; HttpOnly; Secure; SameSite=Lax"),
        (
            {"same_site": "none", "partitioned": True},
            "__Host-session=V; Max-Age=60; Path=/; HttpOnly; Secure; SameSite=None; Partitioned",
        ),
        ({"same_site": "Strict"}, "__Host-session=V; Max-Age=60; Path=/; HttpOnly; Secure; SameSite=Strict"),
        (
            {"name": "__Secure-s", "domain": "example.org"},
            "__Secure-s=V; Max-Age=60; Path=/; Domain=example.org; HttpOnly; Secure; SameSite=Lax",
        ),
    ],
)
def test_writing(options: dict[str, Any], attributes: str) -> None:
    """Set-Cookie carries exactly these attributes; deleting it repeats every one of them."""
    cookie = Cookie(**options)
    assert cookie.write("V", 60).decode() == attributes
    name, _, rest = attributes.partition("=V")
    expected = f"{name}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT{rest.replace('; Max-Age=60', '')}"
    assert cookie.delete().decode() == expected


def test_what_is_written_is_read() -> None:
    """A browser that sends back name and value is understood."""
    cookie = Cookie()
    pair = cookie.write("abc.def", 60).split(b";")[0]
    assert cookie.read([(b"cookie", pair)]) == ["abc.def"]


def test_max_age_is_capped() -> None:
    """Max-Age never exceeds the 400 days that browsers keep."""
    assert b"; Max-Age=34560000;" in Cookie().write("V", 10**9)
    assert MAX_AGE_LIMIT == 34_560_000


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"name": ""}, "letters"),
        ({"name": "a b"}, "letters"),
        ({"name": "a=b"}, "letters"),
        ({"name": "a;b"}, "letters"),
        ({"name": "sess\n"}, "letters"),
        ({"name": "sitzüng"}, "letters"),
        ({"name": 5}, "letters"),
        ({"path": ""}, "begins with /"),
        ({"path": "app"}, "begins with /"),
        ({"path": "/a;b"}, "has no ;"),
        ({"path": "/a\nSet-Cookie: x=y"}, "begins with /"),
        ({"path": None}, "begins with /"),
        ({"domain": ""}, "example.org"),
        ({"domain": "a;b"}, "example.org"),
        ({"domain": "a\r\n"}, "example.org"),
        ({"domain": 5}, "example.org"),
        ({"domain": "https://example.org"}, "without scheme"),
        ({"domain": "example.org:8000"}, "and port"),
        ({"domain": "example.org/app"}, "example.org"),
        ({"domain": "example .org"}, "example.org"),
        ({"domain": "example.org "}, "example.org"),
        ({"domain": "exämple.org"}, "example.org"),
        ({"https_only": "false"}, "https_only='false': must be True or False"),
        ({"https_only": 0}, "https_only=0: must be True or False"),
        ({"https_only": None}, "https_only=None: must be True or False"),
        ({"partitioned": "true"}, "partitioned='true': must be True or False"),
        ({"persistent": "0"}, "persistent='0': must be True or False"),
        ({"same_site": "sometimes"}, "'lax', 'strict', 'none'"),
        ({"same_site": None}, "'lax', 'strict', 'none'"),
        ({"same_site": "none", "https_only": False}, "Set https_only=True, or same_site='lax'"),
        ({"partitioned": True, "https_only": False}, "needs https_only=True"),
        ({"name": "__Host-s", "https_only": False}, "https_only=True, path='/' and no domain"),
        ({"name": "__Host-s", "path": "/app"}, "path='/'"),
        ({"name": "__host-s", "domain": "example.org"}, "no domain"),
        ({"name": "__Secure-s", "https_only": False}, "needs https_only=True"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], advice: str) -> None:
    """What browsers would refuse is refused when the app is built, and the error says what to change."""
    with pytest.raises(ConfigurationError) as caught:
        Cookie(**options)
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [(b"vary", b"Cookie")]),
        ([(b"x", b"y")], [(b"x", b"y"), (b"vary", b"Cookie")]),
        ([(b"vary", b"Accept")], [(b"vary", b"Accept, Cookie")]),
        ([(b"Vary", b"accept-encoding, COOKIE")], [(b"Vary", b"accept-encoding, COOKIE")]),
        ([(b"vary", b"*")], [(b"vary", b"*")]),
        ([(b"vary", b"Cookie2")], [(b"vary", b"Cookie2, Cookie")]),
    ],
)
def test_vary(before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]]) -> None:
    """Vary names Cookie once, whatever the app has set."""
    vary_on_cookie(before)
    assert before == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"cache-control": "private, no-store"}),
        ({"Cache-Control": "private"}, {"Cache-Control": "private"}),
        ({"Cache-Control": "max-age=5, Private"}, {"Cache-Control": "max-age=5, Private"}),
        ({"Cache-Control": "no-store"}, {"Cache-Control": "no-store"}),
        ({"X": "y", "Expires": "0"}, {"X": "y", "Expires": "0", "cache-control": "private, no-store"}),
    ],
)
def test_cookies_and_caches(before: dict[str, str], after: dict[str, str]) -> None:
    """A response with a cookie is kept out of shared caches; what keeps it out already stays."""
    headers = encoded(before)
    assert not keep_out_of_caches(headers)
    assert headers == encoded(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"Cache-Control": "public"}, {}),
        ({"cache-control": "s-maxage=60"}, {}),
        ({"Cache-Control": "no-cache"}, {}),
        ({"Cache-Control": 'private="set-cookie", max-age=9'}, {}),
        ({"Cache-Control": 'no-cache="x, private, y"'}, {}),
        ({"Cache-Control": 'ext="unfinished, private'}, {}),
        ({"CDN-Cache-Control": "max-age=60"}, {}),
        ({"Surrogate-Control": "max-age=60", "Vary": "*"}, {"Vary": "*"}),
        ({"Cloudflare-CDN-Cache-Control": "public", "X-Accel-Expires": "60"}, {}),
        ({"Cache-Control": "no-store", "Edge-Control": "x"}, {"Cache-Control": "no-store"}),
    ],
)
def test_cookies_that_the_app_lets_caches_store(before: dict[str, str], after: dict[str, str]) -> None:
    """What would let a shared cache store the cookie is replaced, and told."""
    headers = encoded(before)
    assert keep_out_of_caches(headers)
    if not any(name.lower() == "cache-control" for name in after):
        after = after | {"cache-control": "private, no-store"}
    assert headers == encoded(after)


@pytest.mark.parametrize(
    ("before", "added"),
    [
        ({}, True),
        ({"Vary": "Cookie"}, True),
        ({"Cache-Control": "public"}, False),
        ({"expires": "0"}, False),
        ({"Netlify-CDN-Cache-Control": "public"}, False),
    ],
)
def test_responses_made_for_one_user(before: dict[str, str], added: bool) -> None:
    """Private where the app says nothing about caching."""
    headers = encoded(before)
    keep_private(headers)
    assert headers == encoded(before | ({"cache-control": "private"} if added else {}))


def encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]

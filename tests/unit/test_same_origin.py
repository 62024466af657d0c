"""Which requests another site has caused: the table of rules, and whatever headers a client can send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asgi_session._web.same_origin import Origin, Origins, parse_host, parse_origin
from asgi_session.errors import ConfigurationError

HOST = (b"host", b"example.org")
OWN = (b"origin", b"https://example.org")
OTHER = (b"origin", b"https://evil.example")
TRUSTED = (b"origin", b"https://app.example.com")
NULL = (b"origin", b"null")


def site(value: bytes) -> tuple[bytes, bytes]:
    return (b"sec-fetch-site", value)


def origins(*, websocket_needs_origin: bool = False) -> Origins:
    return Origins(["https://app.example.com"], websocket_needs_origin=websocket_needs_origin)


def refuses(*headers: tuple[bytes, bytes], method: str | None = "POST", needs: bool = False) -> str | None:
    return origins(websocket_needs_origin=needs).refuses(method, headers)


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("headers", [[HOST, OTHER, site(b"cross-site")], [NULL], [OWN, OTHER], []])
def test_what_changes_nothing_passes(method: str, headers: Any) -> None:
    """Rule 1: GET, HEAD and OPTIONS, wherever they come from."""
    assert refuses(*headers, method=method) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY", "get", "", None])
def test_everything_else_is_looked_at(method: str | None) -> None:
    """Rule 1: other methods, those that nobody knows, and WebSockets are checked."""
    assert refuses(HOST, OTHER, site(b"cross-site"), method=method) == "sec-fetch-site"
    assert refuses(HOST, OTHER, method=method) == "origin"


@pytest.mark.parametrize(
    "headers",
    [
        [HOST, OWN, OTHER],
        [HOST, OTHER, OWN],
        [HOST, TRUSTED, OTHER],
        [HOST, OWN, (b"origin", b"HTTPS://example.org")],
        [HOST, OWN, (b"host", b"evil.example")],
        [HOST, site(b"same-origin"), site(b"cross-site")],
        [HOST, site(b"cross-site"), site(b"same-origin")],
    ],
)
def test_headers_that_disagree(headers: Any) -> None:
    """Rule 2: whoever reads the other one would decide differently."""
    assert refuses(*headers) == "ambiguous"


def test_headers_that_agree() -> None:
    """Rule 2: the same header twice says no more than once."""
    assert refuses(HOST, HOST, OWN, OWN) is None
    assert refuses(HOST, site(b"same-origin"), site(b"same-origin")) is None
    assert refuses(HOST, OTHER, OTHER) == "origin"


@pytest.mark.parametrize("value", [b"cross-site", b"same-site", b"same-origin", b"none", b"what"])
def test_a_trusted_origin_passes(value: bytes) -> None:
    """Rule 3: whatever Sec-Fetch-Site and Host say."""
    assert refuses(HOST, TRUSTED, site(value)) is None
    assert refuses(TRUSTED) is None


@pytest.mark.parametrize(
    ("value", "trusted"),
    [
        (b"https://app.example.com:443", True),
        (b"HTTPS://APP.EXAMPLE.COM", True),
        (b"http://app.example.com", False),
        (b"https://app.example.com:8443", False),
        (b"https://app.example.com.", False),
        (b"https://xapp.example.com", False),
        (b"https://app.example.com.evil.example", False),
        (b"https://app.example.com/", False),
        (b"https://app.example.com@evil.example", False),
        (b"https://evil.example#https://app.example.com", False),
        (b" https://app.example.com", False),
        (b"https://app.example.com\n", False),
    ],
)
def test_what_is_trusted_is_compared_whole(value: bytes, trusted: bool) -> None:
    """Rule 3: scheme, host and port; default ports are known."""
    assert refuses(HOST, (b"origin", value)) == (None if trusted else "origin")


@pytest.mark.parametrize("value", [b"same-origin", b"none"])
@pytest.mark.parametrize("others", [[], [OTHER], [NULL], [HOST, OWN]])
def test_the_browser_says_that_it_is_ours(value: bytes, others: Any) -> None:
    """Rule 4: Sec-Fetch-Site is what the browser has worked out, so it goes before Origin."""
    assert refuses(site(value), *others) is None


@pytest.mark.parametrize(
    "value",
    [b"cross-site", b"same-site", b"", b"Same-Origin", b"NONE", b"none, none", b"\xff", b"x" * 100_000],
)
@pytest.mark.parametrize("others", [[], [HOST, OWN], [NULL]])
def test_anything_else_that_it_says(value: bytes, others: Any) -> None:
    """Rule 5: sibling subdomains included, and what is no value at all."""
    assert refuses(site(value), *others) == "sec-fetch-site"


def test_no_browser() -> None:
    """Rule 6: without either header it was no browser, so no victim's browser; a WebSocket by option."""
    for headers in ([], [HOST]):
        assert refuses(*headers) is None
        assert refuses(*headers, method=None) is None
        assert refuses(*headers, needs=True) is None
        assert refuses(*headers, method=None, needs=True) == "no origin"
    assert refuses(site(b"same-origin"), method=None, needs=True) is None
    assert refuses(HOST, OWN, method=None, needs=True) is None


def test_the_origin_null() -> None:
    """Rule 7: a sandboxed frame, a local file, a redirect from elsewhere."""
    assert refuses(HOST, NULL) == "null origin"
    assert refuses(HOST, NULL, method=None) == "null origin"
    assert refuses((b"host", b"null"), NULL) == "null origin"


@pytest.mark.parametrize(
    ("origin", "host", "passes"),
    [
        ("https://example.org", "example.org", True),
        ("http://example.org", "example.org", True),
        ("https://example.org", "EXAMPLE.ORG", True),
        ("https://example.org", "example.org:443", True),
        ("http://example.org", "example.org:80", True),
        ("http://localhost:8000", "localhost:8000", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]:8000", "[0:0:0::1]:8000", True),
        ("https://[2001:DB8::1]", "[2001:db8::1]", True),
        ("https://example.org:8443", "example.org", False),
        ("https://example.org", "example.org:8443", False),
        ("http://example.org", "example.org:443", False),
        ("https://example.org", "www.example.org", False),
        ("https://www.example.org", "example.org", False),
        ("http://[::1]:8000", "[::2]:8000", False),
        ("http://[::1]", "::1", False),
        ("https://example.org", "example.org.", False),
        ("https://example.org", "", False),
        ("https://example.org", "example.org:", False),
        ("https://example.org:99999", "example.org:99999", False),
        ("https://user@example.org", "example.org", False),
        ("https://example.org/", "example.org", False),
        ("https://b\xfccher.example", "b\xfccher.example", False),
        ("example.org", "example.org", False),
        ("", "", False),
        ("", "example.org", False),
        ("https://", "", False),
        ("https://example.org, https://example.org", "example.org", False),
    ],
)
def test_origin_against_host(origin: str, host: str, passes: bool) -> None:
    """Rules 8 and 9: host and port, with the default port of the scheme that Origin names."""
    headers = [(b"host", host.encode("latin-1")), (b"origin", origin.encode("latin-1"))]
    assert refuses(*headers) == (None if passes else "origin")


def test_no_host() -> None:
    """Rule 9: HTTP/1.0 has no Host, so an Origin can't be compared with anything."""
    assert refuses(OWN) == "origin"


def test_other_headers_count_for_nothing() -> None:
    """A proxy's X-Forwarded-Host may have been sent by the client, Referer may be missing or forged."""
    forwarded = [(b"x-forwarded-host", b"evil.example"), (b"forwarded", b"host=evil.example")]
    assert refuses(HOST, OTHER, *forwarded, (b"referer", b"https://example.org/")) == "origin"


# ---------------------------------------------------------------- whatever comes

NAMES = st.sampled_from([b"origin", b"host", b"sec-fetch-site", b"cookie"])
ODD = [
    b"null",
    b"none",
    b"same-origin",
    b"https://example.org",
    b"example.org",
    b"[::1]",
    b"[",
    b"https://[:]:1",
    b"",
]
VALUES = st.binary(max_size=40) | st.sampled_from(ODD)
METHODS = st.sampled_from(["GET", "POST", "DELETE", None])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), METHODS, st.booleans())
def test_deciding_never_raises(headers: Any, method: str | None, needs: bool) -> None:
    """Any bytes in any number of headers get an answer, the same one in every order of equal headers."""
    answer = refuses(*headers, method=method, needs=needs)
    assert answer in (None, "ambiguous", "sec-fetch-site", "no origin", "null origin", "origin")
    assert answer is None or method != "GET"
    assert refuses(*headers, *headers, method=method, needs=needs) == answer


@given(st.text(max_size=60))
def test_parsing_never_raises(text: str) -> None:
    """Any text is an origin or none, and what is read out of it means the same when it is read again."""
    for found in (parse_origin(text), parse_host(text, "https")):
        if found is not None:
            port = "" if found.port is None else f":{found.port}"
            assert parse_origin(f"{found.scheme}://{found.host}{port}") == found


LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
PORT = st.none() | st.integers(1, 65535)
SCHEME = st.sampled_from(["http", "https"])


def authority(host: str, port: int | None) -> str:
    return host if port is None else f"{host}:{port}"


@given(SCHEME, NAME, PORT, NAME, PORT, METHODS.filter(lambda method: method != "GET"))
def test_a_cross_origin_request_never_passes(
    scheme: str, host: str, port: int | None, other: str, other_port: int | None, method: str | None
) -> None:
    """A page of another host or port is refused, with and without Sec-Fetch-Site; one's own passes."""
    default = {"http": 80, "https": 443}[scheme]
    own = (b"host", authority(host, port).encode())
    theirs = (b"origin", f"{scheme}://{authority(other, other_port)}".encode())
    mine = (b"origin", f"{scheme}://{authority(host, port)}".encode())
    assert refuses(own, mine, method=method) is None
    assume((host, port or default) != (other, other_port or default))
    assume(other != "app.example.com")
    assert refuses(own, theirs, method=method) == "origin"
    for value in (b"cross-site", b"same-site"):
        assert refuses(own, theirs, site(value), method=method) == "sec-fetch-site"


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example.com", Origin("https", "app.example.com", 443)),
        ("HTTPS://App.Example.com:443", Origin("https", "app.example.com", 443)),
        ("http://localhost:3000", Origin("http", "localhost", 3000)),
        ("http://[0:0::1]:3000", Origin("http", "[::1]", 3000)),
        ("capacitor://localhost", Origin("capacitor", "localhost", None)),
        ("chrome-extension://abcdefghijklmnop", Origin("chrome-extension", "abcdefghijklmnop", None)),
    ],
)
def test_what_can_be_trusted(text: str, origin: Origin) -> None:
    """Origins of sites, of apps in a web view, and of browser extensions."""
    assert parse_origin(text) == origin
    assert Origins([text], websocket_needs_origin=False).refuses("POST", [(b"origin", text.encode())]) is None


@pytest.mark.parametrize(
    ("trusted", "says"),
    [
        ("https://app.example.com", r"give a list of origins, such as \['https://app.example.com'\]"),
        (b"https://app.example.com", "give a list"),
        (7, "give a list"),
        (["app.example.com"], "give the scheme, too, such as 'https://app.example.com'"),
        (["https://app.example.com/"], "no path; give 'https://app.example.com'"),
        (["https://app.example.com/login?x=1"], "no path; give 'https://app.example.com'"),
        (["https://*.example.com"], "wildcards are not supported"),
        (["*"], "wildcards are not supported"),
        (["null"], "sandboxed frames"),
        (["https://user@app.example.com"], "leave out the user"),
        (["https://b\xfccher.example"], "Punycode"),
        (["https://app.example.com:port"], "scheme://host:port"),
        (["https://app.example.com:70000"], "scheme://host:port"),
        (["https://[::g]"], "scheme://host:port"),
        ([""], "give the scheme"),
        ([b"https://app.example.com"], "is a bytes; give text"),
        ([None], "is a NoneType; give text"),
    ],
)
def test_what_can_not_be_trusted(trusted: Any, says: str) -> None:
    """Each mistake is refused when the app is built, with what to write instead."""
    with pytest.raises(ConfigurationError, match=says):
        Origins.of(trusted, False, checked=True)


def test_options_that_have_no_effect() -> None:
    """What needs same_origin is refused without it, rather than ignored."""
    assert Origins.of([], False, checked=False) is None
    for trusted, needs in ((["https://app.example.com"], False), ([], True)):
        with pytest.raises(ConfigurationError, match="add same_origin=True"):
            Origins.of(trusted, needs, checked=False)
    with pytest.raises(ConfigurationError, match="True or False"):
        Origins.of([], "yes", checked=True)  # type: ignore[arg-type]

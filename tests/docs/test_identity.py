"""The pages on signing in, devices, recent sign-ins and back-channel logout do what they say."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

import asgi_session
from asgi_session import SessionManager, StoreUnavailable
from asgi_session.clock import system_clock
from asgi_session.fastapi import SessionDep
from asgi_session.stores.memory import MemoryStore
from asgi_session.testing import ManualClock, SessionClient
from tests.app.provider import CLIENT_ID, make_provider, sign
from tests.docs.pages import ROOT, python
from tests.docs.test_examples import run

ISSUER = "https://accounts.example.com"
LOGOUT = "http://schemas.openid.net/event/backchannel-logout"


async def names_of(page: str) -> dict[str, Any]:
    """Return the names that a page defines."""
    path = ROOT / "docs" / page
    names: dict[str, Any] = {"__name__": path.stem}
    for block in python(path):
        await run(path, block, names, "")
    return names


# ---------------------------------------------------------------- docs/sign-in.md


@pytest.fixture
async def sign_in_page() -> dict[str, Any]:
    return await names_of("sign-in.md")


def log_in(client: SessionClient, name: str = "ada", password: str = "tea") -> int:
    return client.post("/login", data={"name": name, "password": password}).status_code


def test_signing_in_and_out(sign_in_page: dict[str, Any]) -> None:
    """Promise 8: a new credential; the cart stays, the CSRF token goes; a copy of the old cookie is dead."""
    client, attacker = SessionClient(sign_in_page["app"]), SessionClient(sign_in_page["app"])
    assert (client.get("/me").status_code, client.get("/me").json()) == (401, {"detail": "sign_in_required"})
    with client.session() as session:
        session.update(cart=1, csrf="planted")
    attacker.cookies.update(client.cookies)
    assert log_in(client, password="wrong") == 401
    assert log_in(client) == 200
    assert client.get("/me").json() == "ada"
    assert attacker.get("/me").status_code == 401
    with client.session() as session:
        assert session == {"cart": 1, "user_id": 7}
    assert client.post("/logout").status_code == 204
    assert client.get("/me").status_code == 401


def test_another_user_in_the_same_browser(sign_in_page: dict[str, Any]) -> None:
    """Nothing of the one user's session is left in the other's."""
    client = SessionClient(sign_in_page["app"])
    log_in(client)
    with client.session() as session:
        session["private"] = "ada's"
    assert log_in(client, "bob", "milk") == 200
    with client.session() as session:
        assert session == {"user_id": 8}


def test_changing_the_password(sign_in_page: dict[str, Any]) -> None:
    """The others are signed out, a copy of this cookie too, and this browser stays signed in."""
    laptop, phone, thief = (SessionClient(sign_in_page["app"]) for _ in range(3))
    assert (log_in(laptop), log_in(phone)) == (200, 200)
    thief.cookies.update(laptop.cookies)
    assert thief.get("/me").json() == "ada"
    assert laptop.post("/password", data={"old": "wrong", "new": "milk"}).status_code == 403
    assert laptop.post("/password", data={"old": "tea", "new": "milk"}).status_code == 204
    assert [client.get("/me").status_code for client in (laptop, phone, thief)] == [200, 401, 401]
    assert (log_in(phone), log_in(phone, password="milk")) == (401, 200)


def test_resetting_the_password(sign_in_page: dict[str, Any]) -> None:
    """Who has reset it is signed in, and everybody else is not."""
    laptop, phone = SessionClient(sign_in_page["app"]), SessionClient(sign_in_page["app"])
    log_in(laptop)
    assert phone.post("/reset/7", data={"new": "milk"}).status_code == 204
    assert [client.get("/me").status_code for client in (laptop, phone)] == [401, 200]


def test_the_other_order_is_refused(sign_in_page: dict[str, Any]) -> None:
    """A request that revokes first, and then signs in, is refused, as the page says."""
    app, manager = sign_in_page["app"], sign_in_page["manager"]

    @app.post("/wrong-order")
    async def wrong_order(session: SessionDep) -> None:
        began = system_clock()
        while system_clock() <= began:  # "began before" is counted in milliseconds
            await asyncio.sleep(0)
        await manager.revoke_user(7)
        session["user_id"] = 7

    client = SessionClient(app)
    assert client.post("/wrong-order").status_code == 409
    assert client.get("/me").status_code == 401


def test_a_user_who_is_deleted(sign_in_page: dict[str, Any]) -> None:
    """All of their sessions end."""
    client = SessionClient(sign_in_page["app"])
    log_in(client, "bob", "milk")
    assert client.delete("/users/8").json() == 1
    assert client.get("/me").status_code == 401


def test_in_starlette(sign_in_page: dict[str, Any]) -> None:
    """`request.user` is the user, of the same session; others get 403."""
    client = SessionClient(sign_in_page["app"])
    starlette = SessionClient(sign_in_page["starlette_app"])
    assert starlette.get("/").status_code == 403
    log_in(client)
    starlette.cookies.update(client.cookies)
    assert starlette.get("/").json() == "ada"


# ---------------------------------------------------------------- docs/devices.md


@pytest.fixture
async def devices_page() -> dict[str, Any]:
    return await names_of("devices.md")


def device(page: dict[str, Any], user: int, name: str) -> SessionClient:
    client = SessionClient(page["app"], headers={"user-agent": name})
    assert client.post(f"/login/{user}").status_code == 200
    return client


def ids(client: SessionClient) -> dict[str, str]:
    return {each["what"].split()[-1]: each["id"] for each in client.get("/devices").raise_for_status().json()}


def test_listing_devices(devices_page: dict[str, Any]) -> None:
    """Each session with its description, the oldest sign-in first; the one that asks is marked."""
    assert SessionClient(devices_page["app"]).get("/devices").status_code == 401
    laptop, phone = device(devices_page, 7, "laptop"), device(devices_page, 7, "phone")
    device(devices_page, 8, "strangers")
    for client, marks in ((laptop, [True, False]), (phone, [False, True])):
        found = client.get("/devices").json()
        assert [each["what"] for each in found] == ["testclient laptop", "testclient phone"]
        assert [each["this_one"] for each in found] == marks


def test_signing_out_one_device(devices_page: dict[str, Any]) -> None:
    """One's own is signed out; a stranger's, or what is no id, is not found."""
    laptop, phone = device(devices_page, 7, "laptop"), device(devices_page, 7, "phone")
    stranger = device(devices_page, 8, "strangers")
    for wrong in (ids(stranger)["strangers"], "A" * 22, "nonsense"):
        assert laptop.delete(f"/devices/{wrong}").status_code == 404
    assert laptop.delete(f"/devices/{ids(laptop)['phone']}").status_code == 204
    assert [client.get("/devices").status_code for client in (laptop, phone, stranger)] == [200, 401, 200]
    assert ids(laptop).keys() == {"laptop"}


def test_signing_out_the_others(devices_page: dict[str, Any]) -> None:
    """All but the one that asks, and nobody else's."""
    laptop, phone = device(devices_page, 7, "laptop"), device(devices_page, 7, "phone")
    stranger = device(devices_page, 8, "strangers")
    assert laptop.delete("/devices").json() == 1
    assert [client.get("/devices").status_code for client in (laptop, phone, stranger)] == [200, 401, 200]


# ---------------------------------------------------------------- docs/recent-sign-in.md


@pytest.fixture
async def recent_page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The page's names, and the `clock` that its apps go by."""
    clock = ManualClock()
    manager = SessionManager(MemoryStore(clock=clock), clock=clock, identity="user")

    def of_the_clock(app: Any, *, store: str, identity: str) -> Any:
        assert (store, identity) == ("memory://", "user")
        return original(app, manager=manager)

    original = asgi_session.SessionMiddleware
    monkeypatch.setattr(asgi_session, "SessionMiddleware", of_the_clock)
    return {**await names_of("recent-sign-in.md"), "clock": clock}


def test_a_recent_sign_in(recent_page: dict[str, Any]) -> None:
    """Ten minutes after it a password is asked for again, and that opens the door for ten more."""
    client = SessionClient(recent_page["app"])
    assert client.get("/account/delete").json() == {"detail": "sign_in_required"}
    assert client.post("/again", data={"password": "tea"}).status_code == 403
    assert client.post("/login/ada", data={"password": "wrong"}).status_code == 403
    assert client.post("/login/ada", data={"password": "tea"}).status_code == 200
    assert client.get("/account/delete").is_success
    recent_page["clock"].advance(timedelta(minutes=11))
    client.post("/login/ada", data={"password": "tea"})  # changes nothing, as the page says
    got = client.post("/account/delete")
    assert (got.status_code, got.json()) == (401, {"detail": "recent_sign_in_required"})
    assert got.headers["www-authenticate"] == 'Session error="recent_sign_in_required"'
    assert client.post("/again", data={"password": "wrong"}).status_code == 403
    assert client.post("/again", data={"password": "tea"}).status_code == 204
    assert client.post("/account/delete").json() == "goodbye, ada"


def test_a_page_instead_of_an_error(recent_page: dict[str, Any]) -> None:
    """A browser is led to the login, or to the page that asks for the password alone."""
    client = SessionClient(recent_page["app"], headers={"accept": "text/html"}, follow_redirects=False)
    got = client.get("/account/delete")
    assert (got.status_code, got.headers["location"]) == (303, "/login?next=/account/delete")
    client.post("/login/ada", data={"password": "tea"})
    recent_page["clock"].advance(timedelta(minutes=11))
    assert client.get("/account/delete").headers["location"] == "/again?next=/account/delete"
    assert client.post("/account/delete").status_code == 401


def test_a_recent_sign_in_in_starlette(recent_page: dict[str, Any]) -> None:
    """The helper gives the session, or answers 401 with the reason."""
    client = SessionClient(recent_page["app"])
    starlette = SessionClient(recent_page["starlette_app"])
    assert (starlette.post("/pay").status_code, starlette.post("/pay").text) == (401, "sign_in_required")
    client.post("/login/bob", data={"password": "milk"})
    starlette.cookies.update(client.cookies)
    assert starlette.post("/pay").text == "paid by bob"
    recent_page["clock"].advance(timedelta(minutes=11))
    assert starlette.post("/pay").text == "recent_sign_in_required"


# ---------------------------------------------------------------- docs/back-channel-logout.md


@pytest.fixture
async def logout_page() -> dict[str, Any]:
    """The page's names; its provider is ours."""
    names = await names_of("back-channel-logout.md")
    transport = httpx2.ASGITransport(app=make_provider(ISSUER))
    names["oauth"].accounts.client_kwargs["transport"] = transport
    names["provider"] = transport
    return names


async def sign_in(page: dict[str, Any], user: str) -> tuple[SessionClient, str]:
    """Sign in at the provider; return the browser, and the id of the provider's session."""
    client = SessionClient(page["app"], follow_redirects=False)
    asked = httpx2.URL(client.get("/login").headers["location"]).copy_merge_params({"login_hint": user})
    async with httpx2.AsyncClient(transport=page["provider"]) as at_provider:
        back = (await at_provider.get(asked)).headers["location"]
    assert client.get(back).status_code == 303
    assert client.get("/").json() == user
    with client.session() as session:
        return client, session["oidc_sid"]


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    base: dict[str, Any] = {
        "iss": ISSUER, "aud": CLIENT_ID, "iat": now, "exp": now + 120, "jti": "1", "events": {LOGOUT: {}}
    }  # fmt: skip
    return {key: value for key, value in {**base, **more}.items() if value is not None}


def post(page: dict[str, Any], token: str) -> int:
    """Post a logout token, as the provider does: with no cookie."""
    answer = SessionClient(page["app"]).post("/backchannel-logout", data={"logout_token": token})
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    return answer.status_code


async def test_a_logout_of_one_session(logout_page: dict[str, Any]) -> None:
    """The session with that `sid` ends, whoever else is signed in; twice does no harm."""
    (laptop, sid), (phone, _), (other, _) = [
        await sign_in(logout_page, user) for user in ("ann", "ann", "bob")
    ]
    token = sign(claims(sid=sid, sub="ann"), typ="logout+jwt")
    assert (post(logout_page, token), post(logout_page, token)) == (200, 200)
    assert [client.get("/").json() for client in (laptop, phone, other)] == [None, "ann", "bob"]


async def test_a_logout_of_a_user(logout_page: dict[str, Any]) -> None:
    """Without a `sid` all sessions of the user end."""
    (laptop, _), (phone, _), (other, _) = [await sign_in(logout_page, user) for user in ("ann", "ann", "bob")]
    assert post(logout_page, sign(claims(sub="ann"))) == 200
    assert [client.get("/").json() for client in (laptop, phone, other)] == [None, None, "bob"]


FORGED = {
    "another issuer": claims(sub="ann", iss="https://evil.example.com"),
    "another audience": claims(sub="ann", aud="another-app"),
    "expired": claims(sub="ann", exp=int(time.time()) - 3600),
    "from the future": claims(sub="ann", iat=int(time.time()) + 3600),
    "without a time": claims(sub="ann", iat=None),
    "without an end": claims(sub="ann", exp=None),
    "without an id": claims(sub="ann", jti=None),
    "an ID token": claims(sub="ann", events=None, nonce="n"),
    "with a nonce": claims(sub="ann", nonce="n"),
    "another event": claims(sub="ann", events={"something": {}}),
    "no events": claims(sub="ann", events=[LOGOUT]),
    "nobody": claims(),
    "an empty name": claims(sub=""),
    "no text": claims(sub=["ann"]),
}


@pytest.mark.parametrize("wrong", FORGED)
async def test_tokens_that_are_refused(logout_page: dict[str, Any], wrong: str) -> None:
    """What is signed by the provider, but is no logout token for this app, ends nothing: 400."""
    client, _ = await sign_in(logout_page, "ann")
    assert post(logout_page, sign(FORGED[wrong])) == 400
    assert client.get("/").json() == "ann"


async def test_signatures_that_are_refused(logout_page: dict[str, Any]) -> None:
    """Nobody but the provider can end a session: not with another key, nor with none, nor with a secret."""
    client, _ = await sign_in(logout_page, "ann")
    other = RSAKey.generate_key(2048)
    unsigned = sign(claims(sub="ann")).split(".")
    none = "eyJhbGciOiJub25lIn0." + unsigned[1] + "."
    secret = OctKey.import_key("k" * 32)
    symmetric = jwt.encode({"alg": "HS256", "kid": "1"}, claims(sub="ann"), secret)
    for token in (
        sign(claims(sub="ann"), key=other),
        sign(claims(sub="ann"), key=other, kid="2"),
        ".".join(unsigned[:2]) + ".",
        none,
        symmetric,
        "nonsense",
        "",
    ):
        answer = SessionClient(logout_page["app"]).post("/backchannel-logout", data={"logout_token": token})
        assert answer.status_code in (400, 422)  # FastAPI refuses an empty field itself
    assert client.get("/").json() == "ann"


async def test_the_store_is_away(logout_page: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is told that it did not work."""

    async def away(**where: Any) -> int:
        raise StoreUnavailable("away")

    monkeypatch.setattr(logout_page["manager"], "revoke_where", away)
    assert post(logout_page, sign(claims(sid="1"))) == 400

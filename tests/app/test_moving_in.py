"""Moving in from Starlette's signed cookie: Starlette's own middleware runs first, then this library's."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner
from starlette.datastructures import Secret

from asgi_session import ConfigurationError, Session, SessionMiddleware, StoreUnavailable
from asgi_session.migrating import StarletteCookie
from asgi_session.testing.faults import Verb
from tests.app.kit import World
from tests.app.moving import OLD, SECRET, Jar, Seen, moved, serving, signed
from tests.inside import COOKIE_NAME

DAY = 86400


@pytest.fixture
def world() -> World:
    return World()


def cookie_of(payload: Any, secret: str = SECRET) -> str:
    """Return an old cookie with any payload, signed as Starlette signs."""
    return TimestampSigner(secret).sign(b64encode(json.dumps(payload).encode())).decode()


def says(answer: Any) -> Callable[[Any], Any]:
    """Return a function of the connection that answers always the same."""

    def say(connection: Any) -> Any:
        return answer

    return say


async def found(world: World, jar: Jar, **options: Any) -> dict[str, Any]:
    """Return what a request of the browser finds in its session."""
    seen = Seen()
    manager = options.pop("manager", None) or world.manager()
    await jar.get(moved(manager, seen, **options))
    await manager.drain()
    return seen[0]


# ---------------------------------------------------------------- one browser


async def test_nobody_is_signed_out(world: World) -> None:
    """The data of the old cookie is the new session's; the old cookie goes, the new one opens the session."""
    jar = await signed({"user_id": 7, "cart": [1, {"a": None}]})
    assert await found(world, jar) == {"user_id": 7, "cart": [1, {"a": None}]}
    assert set(jar.cookies) == {COOKIE_NAME}
    assert "Path=/" in jar.set_cookies()[OLD]
    assert await found(world, jar) == {"user_id": 7, "cart": [1, {"a": None}]}
    assert not jar.set_cookies()


async def test_it_costs_five_commands_once(world: World) -> None:
    """Look, claim, create, settle, and the touch that makes it last; afterwards a read is a read."""
    jar = await signed({"user_id": 7})
    manager = world.manager()
    await found(world, jar, manager=manager)
    assert world.calls() == {"load": 1, "create": 2, "save": 1, "touch": 1}
    await found(world, jar, manager=manager)
    assert world.calls() == {"load": 1}
    assert world.names() == ["moved_in", "touched"]


async def test_requests_that_do_not_use_the_session_cost_nothing(world: World) -> None:
    """An old cookie alone causes no store command, and is left alone."""
    jar = await signed({"user_id": 7})
    await jar.get(moved(world.manager(), lambda session: None))
    assert world.calls() == {}
    assert set(jar.cookies) == {OLD}


async def test_a_browser_without_any_cookie_costs_nothing(world: World) -> None:
    """A load without cookies is no store command, as ever."""
    assert await found(world, Jar()) == {}
    assert world.calls() == {}


async def test_a_change_in_the_first_request_is_saved(world: World) -> None:
    """What the first request changes, and what a rotation does, goes on in the same session."""

    async def change(session: Session) -> None:
        await session.load()
        session["cart"] = ["fig"]
        session.rotate()

    jar = await signed({"user_id": 7})
    await jar.get(moved(world.manager(), change))
    assert await found(world, jar) == {"user_id": 7, "cart": ["fig"]}


async def test_a_session_of_ours_goes_first(world: World) -> None:
    """Where our own cookie opens a session, the old one is not looked at."""
    jar = await signed({"user_id": 7})
    old = jar.cookies[OLD]
    manager = world.manager()
    await found(world, jar, manager=manager)
    jar.cookies[OLD] = (await signed({"user_id": 8})).cookies[OLD]
    world.calls()
    assert await found(world, jar, manager=manager) == {"user_id": 7}
    assert world.calls() == {"load": 1}
    assert jar.cookies[OLD] != old


async def test_a_cookie_of_ours_that_opens_nothing_is_no_obstacle(world: World) -> None:
    """An unknown cookie of ours beside a good old one: the old one is gone on from."""
    jar = await signed({"user_id": 7})
    jar.cookies[COOKIE_NAME] = "A" * 44
    assert await found(world, jar) == {"user_id": 7}


async def test_a_response_that_was_lost(world: World) -> None:
    """The next request with the same old cookie gets the same session and the same credential, days later."""
    jar = await signed({"user_id": 7})
    lost = jar.copy()
    await found(world, lost)
    world.clock.advance(9 * DAY)
    assert await found(world, jar) == {"user_id": 7}
    assert jar.new == lost.new


@pytest.mark.parametrize("passive", [False, True])
async def test_it_lasts_as_long_as_a_confirmed_session(world: World, passive: bool) -> None:
    """Its first request makes it last the idle timeout, not `unconfirmed_timeout`, even a passive one."""
    jar = await signed({"user_id": 7})
    seen = Seen()
    manager = world.manager()
    await jar.get(moved(manager, seen, passive=says(passive)))
    await manager.drain()
    session = await manager.get(seen.ids[0] or "")
    assert session is not None
    assert session.expires_at is not None
    assert session.expires_at.timestamp() == pytest.approx(world.clock() / 1000 + 14 * DAY)


async def test_a_failed_request_moves_in_as_well(world: World) -> None:
    """An answer of 500 carries the new cookie, too; and a handler that raises leaves a session to come to."""
    jar = await signed({"user_id": 7})
    lost = jar.copy()
    await lost.get(moved(world.manager(), status=500))
    assert set(lost.cookies) == {COOKIE_NAME}

    async def fail(session: Session) -> None:
        await session.load()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await jar.copy().get(moved(world.manager(), fail))
    assert await found(world, jar) == {"user_id": 7}
    assert jar.new == lost.new


async def test_a_websocket_moves_in_before_it_is_accepted(world: World) -> None:
    """Its acceptance carries the new cookie."""
    jar = await signed({"user_id": 7})
    await jar.get(moved(world.manager()), "websocket")
    assert jar.status == 101
    assert set(jar.cookies) == {COOKIE_NAME}
    assert await found(world, jar) == {"user_id": 7}


async def test_after_the_headers(world: World) -> None:
    """A load after the response has started moves in; the old cookie stays, and leads to the same session."""
    jar = await signed({"user_id": 7})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        session = await scope["session"].load()
        session["late"] = True
        await send({"type": "http.response.body", "body": b""})

    await jar.get(SessionMiddleware(app, world.manager(), migrate_from=StarletteCookie(SECRET)))
    assert set(jar.cookies) == {OLD}
    assert await found(world, jar) == {"user_id": 7, "late": True}


async def test_the_same_name_for_both(world: World) -> None:
    """Over plain http both are called `session`: the new one takes the old one's place."""
    jar = await signed({"user_id": 7})
    assert await found(world, jar, https_only=False, session_cookie=OLD) == {"user_id": 7}
    assert list(jar.set_cookies()) == [OLD]
    assert len(jar.cookies[OLD]) == 44
    assert await found(world, jar, https_only=False, session_cookie=OLD) == {"user_id": 7}


async def test_the_deletion_repeats_the_old_attributes(world: World) -> None:
    """Or browsers would keep the old cookie."""
    jar = await signed({"user_id": 7})
    old = StarletteCookie(
        SECRET, OLD, 14 * DAY, "/", "none", https_only=True, domain="example.org", partitioned=True
    )
    await found(world, jar, old=old)
    deletion = jar.set_cookies()[OLD]
    for attribute in ("Max-Age=0", "Domain=example.org", "Secure", "SameSite=None", "Partitioned"):
        assert attribute in deletion


@pytest.mark.parametrize("options", [{}, {"encryption_key": "k" * 32}, {"secret_key": "s" * 16}])
async def test_a_namespace_a_key_and_seals(world: World, options: dict[str, Any]) -> None:
    """All of it works with signed cookies, sealed records, and in a namespace; two have two sessions."""
    first, second = (world.manager(namespace=name, **options) for name in ("one", "two"))
    jar = await signed({"user_id": 7})
    other = jar.copy()
    assert await found(world, jar, manager=first) == {"user_id": 7}
    assert await found(world, other, manager=second) == {"user_id": 7}
    assert jar.new != other.new
    assert await found(world, jar, manager=first) == {"user_id": 7}
    assert await found(world, jar.copy(), manager=second) == {}


# ---------------------------------------------------------------- copies


async def logs_out(session: Session) -> None:
    await session.load()
    session.clear()


async def logs_out_unloaded(session: Session) -> None:
    session.destroy()


async def test_a_kept_copy_after_a_logout(world: World) -> None:
    """The old cookie that was moved in from is worth nothing once its session has ended."""
    jar = await signed({"user_id": 7})
    kept = jar.copy()
    await found(world, jar)
    await jar.get(moved(world.manager(), logs_out))
    assert jar.cookies == {}
    for days in (0, 1, 12, 2):
        world.clock.advance(days * DAY)
        assert await found(world, kept.copy()) == {}


async def test_a_kept_copy_after_the_end_of_all_sessions(world: World) -> None:
    """Nor once all sessions have ended: who has kept a copy does not get at the session that it led to."""
    jar = await signed({"user_id": 7})
    kept = jar.copy()
    assert await found(world, jar) == {"user_id": 7}
    manager = world.manager()
    await manager.revoke_all()
    assert await found(world, kept.copy(), manager=manager) == {}
    assert await found(world, jar.copy(), manager=manager) == {}


@pytest.mark.parametrize("logout", [logs_out, logs_out_unloaded])
async def test_a_logout_as_the_first_request(world: World, logout: Any) -> None:
    """It ends what it moves in, deletes both cookies, and leaves nothing for a copy."""
    jar = await signed({"user_id": 7})
    kept = jar.copy()
    await jar.get(moved(world.manager(), logout))
    assert jar.cookies == {}
    assert await found(world, kept) == {}


async def test_a_kept_copy_after_a_rotation(world: World) -> None:
    """A new credential is not to be had for the old cookie: not at once, and not later."""

    async def rotate(session: Session) -> None:
        await session.load()
        session.rotate()

    jar = await signed({"user_id": 7})
    kept = jar.copy()
    await found(world, jar)
    await jar.get(moved(world.manager(), rotate))
    assert await found(world, kept.copy()) == {}
    world.clock.advance(3600)
    assert await found(world, kept.copy()) == {}
    assert await found(world, jar) == {"user_id": 7}


async def test_the_signature_written_otherwise_is_no_other_cookie(world: World) -> None:
    """Base64 can be written in several ways: a copy that is changed so leads to the same ended session."""
    jar = await signed({"user_id": 7})
    text = jar.cookies[OLD]
    await jar.get(moved(world.manager(), logs_out))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    variants = [
        text[:-1] + letters[(letters.index(text[-1]) & ~3) + extra] for extra in range(4)
    ]  # the last two bits stand for nothing
    variants += [text + "=", text[:-5] + "!" + text[-5:], f'"{text}"']
    signer, good = TimestampSigner(SECRET), 0
    for variant in variants:
        good += signer.validate(variant.strip('"'))
        assert await found(world, Jar(session=variant)) == {}
    assert good >= 4


# ---------------------------------------------------------------- what is not good


async def test_forged_and_expired_cookies(world: World) -> None:
    """Another key, a changed payload, an expired cookie: an empty session, and no store command."""
    good = (await signed({"user_id": 7})).cookies[OLD]
    payload, stamp, signature = good.split(".")
    other = b64encode(b'{"user_id": 8}').decode()
    for bad in (
        (await signed({"user_id": 7}, "another key")).cookies[OLD],
        f"{other}.{stamp}.{signature}",
        f"{payload}.AAAAAA.{signature}",
        payload,
        "",
        "null",
        "a.b.c",
        "\xff.\xfe",
    ):
        assert await found(world, Jar(session=bad)) == {}
    world.clock.advance(14 * DAY + 2)
    assert await found(world, Jar(session=good)) == {}
    world.clock.advance(-15 * DAY)  # nor one that is issued in the future, as Starlette has it
    assert await found(world, Jar(session=good)) == {}
    assert world.calls() == {}


async def test_a_claim_outlives_its_cookie(world: World) -> None:
    """Through the last second in which the cookie is good, a copy of it finds that its session has ended."""
    jar = await signed({"user_id": 7})
    kept = jar.copy()
    await jar.get(moved(world.manager(), logs_out))
    world.clock.advance(14 * DAY - 1)
    assert await found(world, kept.copy()) == {}
    assert world.calls()["load"] >= 1  # it was good still
    slow = world.manager()
    world.clock.advance(3)
    assert await found(world, kept.copy(), manager=slow) == {}


@pytest.mark.parametrize("payload", [{}, [], ["user_id"], [["user_id", 7]], "text", 7, None, True])
async def test_what_is_no_session(world: World, payload: Any) -> None:
    """A payload that is no dict, or an empty one, is not gone on from, and costs nothing."""
    assert await found(world, Jar(session=cookie_of(payload))) == {}
    assert world.calls() == {}


@pytest.mark.parametrize("raw", [b"\xff\xff", b"{", b'{"a": ' + b"[" * 5000, b"{" + b"1" * 5000])
async def test_what_is_no_json(world: World, raw: bytes) -> None:
    """Nor is a payload that cannot be read, for which Starlette answers 500."""
    text = TimestampSigner(SECRET).sign(b64encode(raw)).decode()
    assert await found(world, Jar(session=text)) == {}
    text = TimestampSigner(SECRET).sign(b"no base64").decode()
    assert await found(world, Jar(session=text)) == {}


@pytest.mark.parametrize("payload", [{"large": "x" * 2000}, {"text": "\ud800"}, {"\ud800": 1}])
async def test_what_cannot_be_stored(world: World, payload: Any) -> None:
    """It is not gone on from, an event says why, and no store command is spent on it."""
    assert await found(world, Jar(session=cookie_of(payload)), manager=world.manager(max_size=1000)) == {}
    assert world.calls() == {}
    (event,) = world.events
    assert event.name == "not_moved_in"
    assert type(event.info["error"]).__name__ in ("SessionTooLarge", "SessionSerializationError")


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=8,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_every_value_comes_over(values: dict[str, Any]) -> None:
    """Whatever Starlette could keep is what the first request finds, and what the second one reads."""

    async def both() -> None:
        world, jar = World(), Jar(session=cookie_of(values))
        expected = json.loads(json.dumps(values))
        assert await found(world, jar) == expected
        assert await found(world, jar) == expected

    asyncio.run(both())


@given(st.binary(max_size=60).filter(lambda raw: b";" not in raw))
def test_any_bytes_as_a_cookie(raw: bytes) -> None:
    """Whatever stands in the cookie: no error, and no session without the signature."""
    assert StarletteCookie(SECRET).read([(b"cookie", b"session=" + raw)], 0) is None
    assert StarletteCookie(SECRET).read([(b"cookie", b"session=" + raw)], 1_800_000_000_000) is None


async def test_of_several_the_last_counts(world: World) -> None:
    """As for Starlette, which knows one cookie of a name."""
    first, last = (await signed({"user_id": 7})).cookies[OLD], (await signed({"user_id": 8})).cookies[OLD]
    jar = Jar(session=f"{first}; session={last}")
    assert await found(world, jar) == {"user_id": 8}


# ---------------------------------------------------------------- until


async def test_until(world: World) -> None:
    """From that moment on no old cookie is looked at, however good."""
    old = StarletteCookie(SECRET, until=datetime.fromtimestamp(world.clock() / 1000, UTC) + timedelta(days=1))
    jar = await signed({"user_id": 7})
    kept = jar.copy()
    assert await found(world, jar, old=old) == {"user_id": 7}
    world.clock.advance(DAY + 1)
    world.calls()
    assert await found(world, kept, old=old) == {}
    assert world.calls() == {}
    assert await found(world, jar, old=old) == {"user_id": 7}


async def test_without_max_age(world: World) -> None:
    """Cookies that last as long as the browser are good until that moment, and their claims, too."""
    until = datetime.fromtimestamp(world.clock() / 1000, UTC) + timedelta(days=60)
    old = StarletteCookie(SECRET, max_age=None, until=until)
    jar = await signed({"user_id": 7})
    kept = jar.copy()
    world.clock.advance(30 * DAY)
    assert await found(world, jar, old=old) == {"user_id": 7}
    await jar.get(moved(world.manager(), logs_out, old=old))
    world.clock.advance(29 * DAY)
    assert await found(world, kept, old=old) == {}


def told(error: Exception) -> str:
    """Return what an error tracker tells of an error: text and local variables, but those of this file."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    while trace.stack and trace.stack[0].filename == __file__:
        trace.stack.pop(0)
    return "".join(trace.format())


async def test_errors_show_neither_cookie_nor_key(world: World) -> None:
    """A store that is away makes an error in whose tracebacks neither the cookies nor the keys stand."""
    jar = await signed({"user_id": 7})
    caught: list[Exception] = []

    async def load(session: Session) -> None:
        try:
            await session.load()
        except StoreUnavailable as error:
            caught.append(error)

    verbs: tuple[Verb, ...] = ("load", "create", "save")
    for verb in verbs:
        world.store.fail(verb)
        await jar.copy().get(moved(world.manager(), load))
        world.clock.advance(60)
    assert len(caught) == 3
    old = jar.cookies[OLD]
    for error in caught:
        text = told(error)
        assert "moving_in" in text
        assert old[:30] not in text
        assert old.rpartition(".")[2] not in text
        assert SECRET not in text


def test_options() -> None:
    """What makes no sense is refused, in a text that shows no key."""
    for wrong in (
        {"secret_key": 7},
        {"secret_key": ""},
        {"secret_key": SECRET + "\ud800"},
        {"until": datetime(2030, 1, 1)},
        {"until": 7},
        {"max_age": None},
        {"max_age": -1},
        {"session_cookie": "a b"},
    ):
        with pytest.raises(ConfigurationError) as caught:
            StarletteCookie(**{"secret_key": SECRET, **wrong})  # type: ignore[arg-type]
        assert SECRET not in told(caught.value)
    assert SECRET not in repr(StarletteCookie(Secret(SECRET)))
    for given_ in (SECRET, StarletteCookie):
        with pytest.raises(ConfigurationError, match="StarletteCookie") as caught:
            SessionMiddleware(serving(), store="memory://", migrate_from=given_)  # type: ignore[arg-type]
        assert SECRET not in told(caught.value)


def test_without_itsdangerous(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the command."""
    monkeypatch.setitem(sys.modules, "itsdangerous", None)
    with pytest.raises(ConfigurationError, match="pip install itsdangerous"):
        StarletteCookie(SECRET)


# ---------------------------------------------------------------- who is signed in


async def test_a_migrated_user_is_in_the_index(world: World) -> None:
    """With `identity` it is one of the user's sessions, has no `authenticated_at`, and can be revoked."""
    manager = world.manager(identity="user_id", describe=says("a browser"))
    jar = await signed({"user_id": 7})
    kept, proved = jar.copy(), []

    async def look(session: Session) -> None:
        await session.load()
        proved.append(session.authenticated_at)

    await jar.get(moved(manager, look))
    await jar.get(moved(manager, look))
    assert proved == [None, None]
    (info,) = [info async for info in manager.sessions_of(7)]
    assert info.description == "a browser"
    assert await manager.revoke_user(7) == 1
    assert await found(world, jar, manager=manager) == {}
    assert await found(world, kept, manager=manager) == {}
    assert [info async for info in manager.sessions_of(7)] == []


async def test_reauthenticated_after_moving_in(world: World) -> None:
    """Who moved in can prove again that it is them, and then has a credential that no copy leads to."""
    manager = world.manager(identity="user_id")
    jar = await signed({"user_id": 7})
    kept, proved = jar.copy(), []

    async def again(session: Session) -> None:
        await session.load()
        await session.reauthenticated()
        proved.append(session.authenticated_at)

    await jar.get(moved(manager, again))
    assert proved != [None]
    assert await found(world, kept, manager=manager) == {}
    assert await found(world, jar, manager=manager) == {"user_id": 7}


async def test_another_cookie_of_a_revoked_user(world: World) -> None:
    """A limit: `revoke_user` cannot know of old cookies that have not come yet."""
    manager = world.manager(identity="user_id")
    one, other = await signed({"user_id": 7, "at": 1}), await signed({"user_id": 7, "at": 2})
    await found(world, one, manager=manager)
    await manager.revoke_user(7)
    assert await found(world, one, manager=manager) == {}
    world.clock.advance(1)
    assert await found(world, other, manager=manager) == {"user_id": 7, "at": 2}


async def test_the_cap(world: World) -> None:
    """Parallel first requests of one browser are one session of its user, and end no more than one other."""
    manager = world.manager(identity="user_id", max_sessions_per_user=2)
    first, second = await signed({"user_id": 7, "at": 1}), await signed({"user_id": 7, "at": 2})
    await found(world, first, manager=manager)
    world.clock.advance(1)
    await found(world, second, manager=manager)
    world.clock.advance(1)
    third = await signed({"user_id": 7, "at": 3})
    jars = [third.copy() for _ in range(6)]
    await asyncio.gather(*(jar.get(moved(manager)) for jar in jars))
    await manager.drain()
    assert len({jar.new for jar in jars}) == 1
    assert await found(world, second, manager=manager) == {"user_id": 7, "at": 2}
    assert await found(world, first, manager=manager) == {}
    assert len([info async for info in manager.sessions_of(7)]) == 2


async def test_the_cap_that_refuses(world: World) -> None:
    """Where the user has as many sessions as allowed, the request goes on without; when one ends, with."""
    manager = world.manager(identity="user_id", max_sessions_per_user=1, on_max_sessions="refuse")
    one, other = await signed({"user_id": 7, "at": 1}), await signed({"user_id": 7, "at": 2})
    await found(world, one, manager=manager)
    assert await found(world, other.copy(), manager=manager) == {}
    assert world.names()[-1] == "not_moved_in"
    await one.get(moved(manager, logs_out))
    await manager.drain()
    assert await found(world, other, manager=manager) == {"user_id": 7, "at": 2}


async def test_a_login_after_moving_in(world: World) -> None:
    """An anonymous old session that signs in gets a new id: whoever planted the old cookie has nothing."""
    manager = world.manager(identity="user_id")
    jar = await signed({"cart": [1]})
    planted = jar.copy()

    async def log_in(session: Session) -> None:
        await session.load()
        session["user_id"] = 7

    await found(world, planted, manager=manager)
    await jar.get(moved(manager, log_in))
    assert await found(world, jar, manager=manager) == {"cart": [1], "user_id": 7}
    assert await found(world, planted, manager=manager) == {}
    again = Jar(session=(await signed({"cart": [1]})).cookies[OLD])
    assert await found(world, again, manager=manager) in ({}, {"cart": [1]})


# ---------------------------------------------------------------- secrets


async def test_what_is_stored_is_no_credential(world: World) -> None:
    """The store holds neither the old cookie, nor its key, nor the new credential."""
    jar = await signed({"user_id": 7})
    text = jar.cookies[OLD]
    await found(world, jar)
    assert jar.new is not None
    dump = b"".join([call.key.encode() + (call.data or b"") for call in world.store.calls])
    for secret in (text, text[:20], text.rpartition(".")[2], SECRET, jar.new, jar.new[22:44]):
        assert secret.encode() not in dump
